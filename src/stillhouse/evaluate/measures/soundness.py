"""Soundness: whether the answers can be judged at all."""

from __future__ import annotations

import math

from stillhouse.evaluate import statistics, wording
from stillhouse.evaluate.answers import Answers
from stillhouse.evaluate.records import Chart, Estimate, Finding, Point, Series, Verdict
from stillhouse.evaluate.skill import constant
from stillhouse.evaluate.wording import plain

_QUESTION = "Can these answers be judged at all?"


def soundness(answers: Answers, *, unread: float = 5.0, cut_off: float = 10.0, truncated: float = 5.0) -> Finding:
    """Can these answers be judged at all?

    Shares of what was written that cannot be read as an answer, that the length cut off, and of contexts whose beginning did not
    fit; models that always give the same answer. Above a limit the verdict is INCONCLUSIVE: what was measured then is the
    format, not the skill.

    Args:
        answers: the table.
        unread: per cent of written answers that may be unreadable.
        cut_off: per cent of written answers that may end by their length.
        truncated: per cent of questions whose context may be cut.
    """
    asked = [task for task in answers.tasks if "student" in task.roles]
    if not asked:
        return wording.not_measured("soundness", _QUESTION, "no task was asked of the student")
    estimates: list[Estimate] = []
    above, told = [], []
    bars: dict[str, list[Point]] = {}
    for task in asked:
        for role in (role for role in ("teacher", "student") if role in task.roles):
            replies, n = task.roles[role], task.size
            shares = {"context cut off": (float(replies.truncated_N.mean()) * 100, truncated)}
            if task.kind == "write":
                unreadable = sum(map(math.isnan, replies.score_N.tolist()))
                shares["not readable as an answer"] = (unreadable / n * 100, unread)
                shares["ended by length"] = (sum(stop == "length" for stop in replies.stop) / n * 100, cut_off)
            for what, (share, limit) in shares.items():
                if task.kind == "write" or share > 0:
                    low, high = (100 * x for x in statistics.wilson(round(share / 100 * n), n))
                    estimates.append(Estimate(f"{task.task}: {what}", role, share, low, high, "%", n))
                    bars.setdefault(what, []).append(Point(f"{task.task}, {role}", share, low, high, n))
                if share > limit:
                    above.append(f"{task.task}, {role}: {what} {wording.number(share)} % (allowed {plain(limit)})")
            if same := constant(task, role):
                told.append(f"{task.task}: {same}")
    verdict: Verdict = "INCONCLUSIVE" if above else "PASS"
    n = sum(task.size for task in asked)
    if above:
        sentence = f"Some answers measure the format more than the skill: {'; '.join(above)}."
        reason = "Raise new_tokens, shorten the contexts, or take the task out."
    else:
        sentence = f"The answers to {n:,} questions can be judged: contexts fit, and what was written can be read."
        reason = "All shares are within their limits."
    if told:
        sentence += f" Always the same answer: {'; '.join(told)}."
    charts = tuple(
        Chart("bars", what.capitalize(), "", "%", (Series(what, tuple(points)),)) for what, points in bars.items()
    )
    limits = ("That an answer can be read does not say that it was read rightly: look at some.",)
    return Finding("soundness", _QUESTION, verdict, sentence, reason, tuple(estimates), charts, limits)
