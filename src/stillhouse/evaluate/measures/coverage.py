"""Capabilities: which of them are kept, and which were asked about at all."""

from __future__ import annotations

from stillhouse.evaluate import statistics, wording
from stillhouse.evaluate.answers import Answers
from stillhouse.evaluate.records import Chart, Estimate, Finding, Mark, Point, Series, Verdict
from stillhouse.evaluate.skill import skills
from stillhouse.evaluate.statistics import Together
from stillhouse.evaluate.wording import count, number, plain

_QUESTION = "Which of the teacher's capabilities does the student have?"


def coverage(
    answers: Answers,
    *,
    retention: float = 0.9,
    reasoning: float = 0.8,
    margin: float = 0.03,
    required: tuple[str, ...] = (),
) -> Finding:
    """Which of the teacher's capabilities does the student have?

    Tasks of one capability are taken together as in ``tasks``; every capability must hold, so that a high average cannot hide one
    that is gone. PASS if each passes, FAIL if one fails. Asked about and answerable are told apart: a capability in which the
    teacher shows no skill is not covered.

    Args:
        answers: the table; of teacher and student.
        retention: the share of each that must be kept.
        reasoning: the share that must be kept of reasoning.
        margin: share of the questions by which the teacher must surely be above the floor.
        required: capabilities that must have been asked about.
    """
    thresholds = {"reasoning": reasoning}
    asked = list(dict.fromkeys(task.capability for task in answers.having("teacher", "student") if task.kind != "text"))
    if not asked:
        return wording.not_measured(
            "coverage", _QUESTION, "no task with a right answer was asked of teacher and student"
        )
    found: dict[str, Together] = {}
    sizes: dict[str, int] = {}
    for capability in asked:
        of_it = Answers(tuple(task for task in answers.tasks if task.capability == capability))
        threshold = thresholds.get(capability, retention)
        judged = [one for one in skills(of_it, threshold=threshold, margin=margin) if one.informative]
        if judged:
            found[capability] = statistics.together([one.kept["student"] for one in judged])
            sizes[capability] = sum(one.task.size for one in judged)
    missing = [name for name in (*asked, *required) if name not in found]
    kept, lost = ([name for name, each in found.items() if each.verdict == verdict] for verdict in ("PASS", "FAIL"))
    estimates = [
        Estimate(f"{name}: skill kept", "student", each.value * 100, each.low * 100, each.high * 100, "%", sizes[name])
        for name, each in found.items()
    ]
    whole = len({*asked, *required})
    estimates += [
        Estimate("capabilities kept", "student", len(kept) / whole * 100, None, None, "%", whole),
        Estimate("capabilities that could be judged", "student", len(found) / whole * 100, None, None, "%", whole),
    ]
    if not found:
        sentence = f"The teacher shows no skill in {', '.join(asked)}: nothing can be said of capabilities."
        return Finding("coverage", _QUESTION, "UNINFORMATIVE", sentence, "See the finding on tasks.", tuple(estimates))
    worst = min(found, key=lambda name: found[name].value)
    sentence = (
        f"Of {count(whole, 'capability').replace('capabilitys', 'capabilities')} {len(kept)} are surely kept, {len(lost)} surely not, "
        f"{len(found) - len(kept) - len(lost)} open, {len(set(missing))} not to be judged; the least is kept of {worst}: "
        f"{number(found[worst].value * 100)} % [{number(found[worst].low * 100)}, {number(found[worst].high * 100)}]."
    )
    open_ones = [name for name in found if name not in kept and name not in lost]
    verdict: Verdict = "FAIL" if lost else "INCONCLUSIVE" if open_ones or set(missing) & set(required) else "PASS"
    parts = [
        ("Less than asked for is kept of", lost),
        ("Open", open_ones),
        ("Nothing can be said of", list(dict.fromkeys(missing))),
    ]
    asked_for = f"Asked for: {plain(retention * 100)} % of each, {plain(reasoning * 100)} % of reasoning."
    reason = " ".join([asked_for, *(f"{words}: {', '.join(names)}." for words, names in parts if names)])
    rows = tuple(Point(name, x.value * 100, x.low * 100, x.high * 100, sizes[name]) for name, x in found.items())
    chart = Chart(
        "forest",
        "Skill kept above the floor, by capability",
        "",
        "% of the teacher's",
        (Series("student", rows, "student"),),
        (Mark(retention * 100, "asked for"), Mark(100.0, "teacher")),
    )
    limits = (
        "A capability that no task asks about is not seen here.",
        wording.ITEMS_NOT_TASKS,
        wording.ONE_SIDED,
        wording.ONE_SEED,
    )
    return Finding("coverage", _QUESTION, verdict, sentence, reason, tuple(estimates), (chart,), limits)
