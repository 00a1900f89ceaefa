"""Confidence in the first choice against how often it is right."""

from __future__ import annotations

from dataclasses import replace

from stillhouse.evaluate import reliability, statistics, wording
from stillhouse.evaluate.records import Chart, Estimate, Finding, Items, Mark, Point, Series, Verdict
from stillhouse.evaluate.reliability import CalibrationError
from stillhouse.evaluate.repair import Repair, repair
from stillhouse.evaluate.statistics import Interval
from stillhouse.evaluate.wording import estimate, number, plain, say

_QUESTION = "Is the student as sure as it should be?"
_ROLES = ("student", "teacher", "control", "before")


def calibration(items: Items, *, largest: float = 5.0, beyond_teacher: float = 3.0, seed: int = 0) -> Finding:
    """Is the student as sure as it should be?

    The signed gap g = mean confidence − accuracy of the first choice, in percentage points (above 0: over-confident), decides.
    PASS if |g| surely is at most ``largest`` and at most ``beyond_teacher`` more than the teacher's; FAIL if one of the two
    surely does not hold. The expected calibration error stands beside its null band and decides nothing.

    Args:
        items: the table; conf and correct of teacher and student are needed.
        largest: pp that |g| may be.
        beyond_teacher: pp by which |g| may exceed the teacher's.
        seed: of the null band.
    """
    for role in ("student", "teacher"):
        if not items.has(role, "conf", "correct"):
            return wording.not_measured("calibration", _QUESTION, f"the {role}'s confidences were not scored")
    if items.documents < 2:
        return wording.not_measured("calibration", _QUESTION, "an interval needs two documents or more")
    n = items.size
    roles = [role for role in _ROLES if items.has(role, "conf", "correct")]
    over = {role: (items.roles[role].column("conf") - items.roles[role].column("correct")) * 100 for role in roles}
    gaps = {role: statistics.mean(over_N, items.document) for role, over_N in over.items()}
    errors: dict[str, CalibrationError | None] = {}
    repairs: dict[str, Repair | None] = {}
    estimates: list[Estimate] = []
    for role in roles:
        conf_N, correct_N = items.roles[role].column("conf"), items.roles[role].column("correct")
        mended = repairs[role] = repair(conf_N, correct_N, items.document)
        error = errors[role] = reliability.calibration_error(conf_N, correct_N, seed=seed)
        line = reliability.cox(conf_N, correct_N, items.document)
        estimates.append(estimate("confidence − accuracy", role, gaps[role], "pp", n))
        if mended:
            estimates.append(Estimate("temperature that would mend it", role, mended.temperature, None, None, "", n))
            estimates.append(
                estimate("confidence − accuracy at that temperature", role, mended.gap.scaled(100), "pp", n)
            )
        if line:
            estimates.append(estimate("calibration intercept", role, line[0], "logits", n))
            estimates.append(estimate("calibration slope", role, line[1], "", n))
        if error:
            null_mean, null_low, null_high = (x * 100 for x in (error.null_mean, error.null_low, error.null_high))
            estimates += [
                Estimate("calibration error", role, error.value * 100, None, None, "pp", n),
                Estimate("calibration error by chance alone", role, null_mean, null_low, null_high, "pp", n),
                Estimate("calibration error above chance", role, error.excess * 100, None, None, "pp", n),
                Estimate("debiased squared calibration error", role, error.debiased_square, None, None, "", n),
                Estimate("p value of perfect calibration", role, error.p, None, None, "", n),
            ]
        estimates.append(
            estimate(
                "Brier score of the first choice", role, reliability.brier(conf_N, correct_N, items.document), "", n
            )
        )
    change = statistics.mean(over["student"] - over["teacher"], items.document)
    estimates.append(estimate("confidence − accuracy, student − teacher", "student", change, "pp", n))

    gap = gaps["student"]
    beyond, beyond_low, beyond_high = statistics.further(over["student"], over["teacher"], items.document)
    low, high = gap.bounds(0.9)
    gap_low, gap_high = max(0.0, gap.low, -gap.high), max(high, -low)  # below: either side may be it, so 2.5 % each
    verdict: Verdict
    if gap_high <= largest and beyond_high <= beyond_teacher:
        verdict, reason = (
            "PASS",
            (
                f"|gap| is at most {number(gap_high)} pp (allowed {plain(largest)}) and exceeds the teacher's by at most "
                f"{number(beyond_high)} pp (allowed {plain(beyond_teacher)})."
            ),
        )
    elif gap_low > largest:
        verdict, reason = "FAIL", f"|gap| is at least {number(gap_low)} pp; allowed are {plain(largest)}."
    elif beyond_low > beyond_teacher:
        verdict, reason = (
            "FAIL",
            (f"|gap| exceeds the teacher's by at least {number(beyond_low)} pp; allowed are {plain(beyond_teacher)}."),
        )
    else:
        verdict = "INCONCLUSIVE"
        open_ones = []
        if not gap_high <= largest:
            open_ones.append(replace(gap, value=largest - abs(gap.value)))
        if not beyond_high <= beyond_teacher:
            open_ones.append(replace(beyond, value=beyond_teacher - beyond.value))
        needed = [statistics.clusters_needed(one) for one in open_ones]
        known = [k for k in needed if k is not None]
        reason = (
            f"|gap| may be up to {number(gap_high)} pp (allowed {plain(largest)}), and up to {number(beyond_high)} pp beyond "
            f"the teacher's (allowed {plain(beyond_teacher)}). "
            + wording.to_decide(max(known) if len(known) == len(needed) else None, items.documents)
        )

    if verdict == "FAIL" and (mended := repairs["student"]) is not None:
        after = mended.gap.scaled(100)
        if abs(after.value) < abs(gap.value):
            told = f"would bring confidence − accuracy to {say(after, 'pp')}"
            reason += f" A temperature of {number(mended.temperature)} {told}."
        else:
            reason += " No temperature of the first choice's odds mends it."

    return Finding(
        "calibration",
        _QUESTION,
        verdict,
        _sentence(gaps, errors["student"]),
        reason,
        tuple(estimates),
        (_diagram(items, roles, errors), _forest(gaps, largest, n)),
        (
            *((f"{n:,} items: below 5,000 a gap of a few points is hard to see.",) if n < 5000 else ()),
            "Of the next token (or class) under teacher-forced text; says nothing of how sure whole answers are.",
            "The null band of the calibration error takes items as independent given their confidences.",
            wording.ONE_SIDED,
            *wording.sample_limits(items),
        ),
    )


def _sentence(gaps: dict[str, Interval], error: CalibrationError | None) -> str:
    gap, teacher = gaps["student"], gaps["teacher"]
    if gap.low > 0:
        manner = f"over-confident by {say(gap, 'pp')}"
    elif gap.high < 0:
        manner = f"under-confident by {say(gap.scaled(-1), 'pp')}"
    else:
        manner = f"neither over- nor under-confident as far as can be seen: confidence − accuracy is {say(gap, 'pp')}"
    text = f"The student is {manner} (teacher: {say(teacher, 'pp')})"
    if error:
        text += (
            f"; its calibration error is {number(error.value * 100)} pp where chance alone gives "
            f"{number(error.null_mean * 100)} [{number(error.null_low * 100)}, {number(error.null_high * 100)}]"
        )
    return text + "."


def _diagram(items: Items, roles: list[str], errors: dict[str, CalibrationError | None]) -> Chart:
    series = []
    for role in roles:
        if (error := errors[role]) is not None:
            points = tuple(
                Point(b.confidence, b.accuracy, *statistics.wilson(round(b.accuracy * b.n), b.n), b.n)
                for b in error.bins
            )
            series.append(Series(role, points, role))
    if (student := errors["student"]) is not None:
        band = tuple(Point(b.confidence, None, b.low, b.high, b.n) for b in student.bins)
        series.append(Series("chance alone", band))
    return Chart("reliability", "Confidence and how often it was right", "confidence", "share correct", tuple(series))


def _forest(gaps: dict[str, Interval], largest: float, n: int) -> Chart:
    return Chart(
        "forest",
        "Confidence − accuracy: above 0 is over-confident",
        "",
        "pp",
        tuple(Series(role, (Point(role, g.value, g.low, g.high, n),), role) for role, g in gaps.items()),
        (Mark(-largest, "allowed"), Mark(0.0, "as sure as it should be"), Mark(largest, "allowed")),
    )
