"""Performance on tasks: what is kept of the teacher's skill above the floor, task by task and together."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stillhouse.evaluate import statistics, wording
from stillhouse.evaluate.answers import Answers
from stillhouse.evaluate.records import Chart, Estimate, Finding, Mark, Point, Series, Verdict
from stillhouse.evaluate.skill import Skill, skills
from stillhouse.evaluate.statistics import Together
from stillhouse.evaluate.wording import count, estimate, plain, with_interval

_QUESTION = "How much of the teacher's skill in tasks does the student keep?"
_ROLES = ("student", "control", "direct", "before")


def tasks(
    answers: Answers, *, retention: float = 0.9, margin: float = 0.03, critical: dict[str, float] | None = None
) -> Finding:
    """How much of the teacher's skill in tasks does the student keep?

    R = Σ (student − floor) / Σ (teacher − floor) over the tasks in which the teacher shows skill; each task counts alike. PASS and
    FAIL by a paired non-inferiority test, questions clustered; a critical task must PASS on its own too. A task in which the
    teacher cannot be told from the floor gives no number.

    Args:
        answers: the table; of teacher and student.
        retention: the share that must be kept of all tasks together.
        margin: share of the questions by which the teacher must surely be above the floor.
        critical: task → share of the teacher's skill that must be kept in it.
    """
    asked = skills(answers, roles=_ROLES, threshold=retention, margin=margin)
    if not asked:
        return wording.not_measured("tasks", _QUESTION, "no task with a right answer was asked of teacher and student")
    judged = [one for one in asked if one.informative]
    estimates = [entry for one in asked for entry in _estimates(one)]
    silent = [f"{one.task.task} ({one.reason})" for one in asked if not one.informative]
    limits = (wording.ITEMS_NOT_TASKS, wording.ONE_SIDED, wording.ONE_SEED)
    if not judged:
        sentence = (
            f"The teacher shows no skill in any of {count(len(asked), 'task')}: there is nothing to compare with."
        )
        return Finding(
            "tasks", _QUESTION, "UNINFORMATIVE", sentence, f"{'; '.join(silent)}.", tuple(estimates), (), limits
        )

    whole = statistics.together([one.kept["student"] for one in judged])
    value, low, high = (x * 100 for x in (whole.value, whole.low, whole.high))
    n = sum(one.task.size for one in judged)
    estimates.insert(0, Estimate("skill kept over all informative tasks", "student", value, low, high, "%", n))
    held = {
        name: skills(Answers(tuple(t for t in answers.tasks if t.task == name)), threshold=share, margin=margin)
        for name, share in (critical or {}).items()
    }
    verdict, reason = _verdict(whole, judged, held, retention, critical or {})
    lost = [one.task.task for one in judged if one.kept["student"].verdict == "FAIL"]
    sentence = (
        f"Over {count(len(judged), 'task')} the student keeps {with_interval(value, low, high, '%')} of the teacher's skill above the "
        f"floor; asked for: {plain(retention * 100)} %."
    )
    if lost:
        sentence += f" It surely keeps less of: {', '.join(lost)}."
    if silent:
        reason += f" Nothing can be said of: {'; '.join(silent)}."
    return Finding(
        "tasks", _QUESTION, verdict, sentence, reason, tuple(estimates), _charts(asked, whole, retention), limits
    )


def _verdict(
    whole: Together,
    judged: Sequence[Skill],
    held: dict[str, list[Skill]],
    retention: float,
    critical: dict[str, float],
) -> tuple[Verdict, str]:
    """Of all together and of each critical task: all must hold."""
    asked = f"{plain(retention * 100)} %"
    failed, undecided = [], []
    for name, found in held.items():
        told = f"{name} (asked for: {plain(critical[name] * 100)} %)"
        if not found or not found[0].informative:
            undecided.append(f"{told}: {found[0].reason if found else 'was not asked'}")
        elif found[0].kept["student"].verdict == "FAIL":
            failed.append(told)
        elif found[0].kept["student"].verdict != "PASS":
            kept = found[0].kept["student"]
            undecided.append(f"{told}: {wording.to_decide(kept.needed, kept.gap.clusters, 'question')}")
    if whole.verdict == "FAIL":
        return "FAIL", f"It keeps less than {asked} ({wording.p_value(whole.p_below)})."
    if failed:
        return "FAIL", f"Too little is kept of critical tasks: {', '.join(failed)}."
    if whole.verdict == "PASS":
        if undecided:
            return (
                "INCONCLUSIVE",
                f"It keeps {asked} or more of all together; critical and open: {'; '.join(undecided)}.",
            )
        return "PASS", f"It keeps {asked} or more ({wording.p_value(whole.p_above)})."
    surely = f"Neither more nor less than {asked} can be shown at the 5 % level."
    more = _more(whole)
    if more is None:
        return (
            "INCONCLUSIVE",
            f"{surely} No practical number of questions would decide it: the student sits at the threshold.",
        )
    n = sum(one.task.size for one in judged)
    return "INCONCLUSIVE", (
        f"{surely} About {math.ceil(more * n):,} questions like these {n:,} would decide it with 80 % power; {n:,} could have decided "
        f"{wording.number(statistics.smallest_decided(whole.surplus) * 100)} pp."
    )


def _more(whole: Together) -> float | None:
    """How many times as many questions would decide it; None beyond a thousand times."""
    if whole.surplus.value == 0.0:
        return None
    times = (statistics.smallest_decided(whole.surplus) / abs(whole.surplus.value)) ** 2
    return max(times, 1.1) if times < 1000 else None


def _estimates(one: Skill) -> list[Estimate]:
    name, n, cluster = one.task.task, one.task.size, one.task.cluster
    found = [Estimate(f"{name}: {one.floor.what}", "floor", one.floor.mean * 100, None, None, "%", n)]
    for role, right_N in one.right.items():
        share = statistics.share(right_N, cluster)
        found.append(estimate(f"{name}: right", role, share.scaled(100), "%", n))
    if not one.informative:
        return found
    teacher_N = one.right["teacher"]
    for role, kept in one.kept.items():
        value, low, high = (x * 100 for x in (kept.value, kept.low, kept.high))
        found.append(Estimate(f"{name}: skill kept above the floor", role, value, low, high, "%", n))
    raw = statistics.ratio(one.right["student"], teacher_N, cluster)
    found.append(estimate(f"{name}: raw ratio, student ÷ teacher", "student", raw.scaled(100), "%", n))
    return found


def _charts(asked: Sequence[Skill], whole: Together, retention: float) -> tuple[Chart, ...]:
    """By capability; a task that says nothing has a row without a number."""
    judged = [one for one in asked if one.informative]
    rows = [Point("all together", whole.value * 100, whole.low * 100, whole.high * 100)]
    places = list(dict.fromkeys(one.task.capability for one in asked))
    for one in sorted(asked, key=lambda one: places.index(one.task.capability)):
        kept, name = one.kept["student"], f"{one.task.capability}: {one.task.task}"
        if one.task.task == one.task.capability:
            name = one.task.task
        if one.informative:
            rows.append(Point(name, kept.value * 100, kept.low * 100, kept.high * 100, one.task.size))
        else:
            rows.append(Point(f"{name} (says nothing)", None, n=one.task.size))
    marks = (Mark(retention * 100, "asked for"), Mark(100.0, "teacher"))
    forest = Chart(
        "forest",
        "Skill kept above the floor, by task",
        "",
        "% of the teacher's",
        (Series("student", tuple(rows), "student"),),
        marks,
    )
    roles = [
        role
        for role in ("before", "control", "direct", "student", "teacher")
        if all(role in one.right for one in judged)
    ]
    floor = Series("floor", (Point("floor", 100 * sum(one.floor.mean for one in judged) / len(judged)),), "floor")
    steps = [
        Series(role, (Point(role, 100 * sum(float(one.right[role].mean()) for one in judged) / len(judged)),), role)
        for role in roles
    ]
    ladder = Chart("bars", "Share right, mean of these tasks", "", "%", (floor, *steps))
    return forest, ladder
