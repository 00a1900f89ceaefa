"""Nearness to the teacher, token by token."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stillhouse.evaluate import statistics, wording
from stillhouse.evaluate.records import Chart, Estimate, Finding, Items, Point, Series
from stillhouse.evaluate.statistics import Interval
from stillhouse.evaluate.wording import estimate, say

_QUESTION = "How closely does the student behave like the teacher?"
_NEEDED = ("kl", "agree", "accept")


def fidelity(items: Items, *, draft: int = 4, seed: int = 0) -> Finding:
    """How closely does the student behave like the teacher?

    KL(teacher ‖ student) as mean, median and 99th percentile; how often both prefer the same token; and the acceptance rate
    α = mean Σ min(p, q) of speculative decoding (Leviathan et al. 2023, arXiv:2211.17192), with
    (1 − α^(γ+1)) / (1 − α) tokens expected per check of γ drafted ones. Descriptive: near is not yet good. Of a teacher that
    names only its likeliest outcomes KL is a lower bound and α an upper one, and the answer says so.

    Args:
        items: the table; the student's kl, agree and accept are needed.
        draft: γ, tokens drafted before the teacher checks them.
        seed: of the bootstrap of median and percentile.
    """
    if not items.has("student", *_NEEDED):
        return wording.not_measured(
            "fidelity", _QUESTION, "the student was not compared with the teacher token by token"
        )
    if items.documents < 2:
        return wording.not_measured("fidelity", _QUESTION, "an interval needs two documents or more")
    n = items.size
    drafts = items.bytes is not None  # a class is no text that could be drafted
    roles = [role for role in ("student", "control", "direct", "before") if items.has(role, *_NEEDED)]
    estimates: list[Estimate] = []
    means: dict[str, dict[str, Interval]] = {}
    tails, lines = [], []
    for role in roles:
        scores = items.roles[role]
        kl_N = scores.column("kl")
        kl = statistics.mean(kl_N, items.document)
        agree = wording.within(statistics.mean(scores.column("agree"), items.document), 0, 1)
        accept = wording.within(statistics.mean(scores.column("accept"), items.document), 0, 1)
        tokens = [_drafted(accept, g) for g in range(1, 9)]
        median, tail = (
            statistics.bootstrap(
                statistics.quantile_statistic(kl_N, items.document, level),
                items.documents,
                seed=seed,
                kind="percentile",
            )
            for level in (0.5, 0.99)
        )
        means[role] = {"kl": kl, "agree": agree, "accept": accept}
        estimates += [
            estimate("KL from the teacher, mean", role, kl, "nats", n),
            estimate("KL from the teacher, median", role, median, "nats", n),
            estimate("KL from the teacher, 99th percentile", role, tail, "nats", n),
            estimate("same first choice as the teacher", role, agree.scaled(100), "%", n),
            estimate("acceptance rate" if drafts else "overlap with the teacher", role, accept.scaled(100), "%", n),
        ]
        if drafts:
            estimates.append(
                estimate(f"tokens per check of {draft} drafted", role, _drafted(accept, draft), "tokens", n)
            )
        levels = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
        quantiles = np.quantile(kl_N, levels, method="inverted_cdf").tolist()
        tails.append(Series(role, tuple(Point(p * 100, q) for p, q in zip(levels, quantiles, strict=True)), role))
        lines.append(Series(role, tuple(Point(g, t.value, t.low, t.high) for g, t in enumerate(tokens, 1)), role))

    of = means["student"]
    least, most = ("at least ", "at most ") if items.partly else ("", "")
    drafted = (
        f"as a draft model it would have {most}{say(of['accept'].scaled(100), '%')} of its tokens accepted; "
        if drafts
        else ""
    )
    second = "accepted as draft" if drafts else "overlap of the probabilities"
    return Finding(
        "fidelity",
        _QUESTION,
        "DESCRIPTIVE",
        f"The student's first choice is the teacher's at {say(of['agree'].scaled(100), '%')} of the positions; {drafted}its mean KL "
        f"from the teacher is {least}{say(of['kl'], 'nats')}.",
        "Nearness to the teacher is described and not judged: a student can be near and wrong, or far and right.",
        tuple(estimates),
        (
            Chart(
                "bars",
                "Agreement with the teacher",
                "",
                "%",
                tuple(
                    Series(
                        role,
                        tuple(
                            Point(label, m[key].value * 100, m[key].low * 100, m[key].high * 100, n)
                            for label, key in (("same first choice", "agree"), (second, "accept"))
                        ),
                        role,
                    )
                    for role, m in means.items()
                ),
            ),
            Chart("line", "KL from the teacher: most positions and the tail", "percentile", "nats", tuple(tails)),
            *(
                (Chart("line", "Tokens per check of the teacher", "tokens drafted", "tokens expected", tuple(lines)),)
                if drafts
                else ()
            ),
        ),
        (
            *(
                ("The teacher named only its likeliest outcomes; where both differ among the others is not seen.",)
                if items.partly
                else ()
            ),
            *(
                (
                    "Measured after the words of the held-out text, not after words the student wrote itself.",
                    "The expected tokens take acceptances as independent of each other.",
                )
                if drafts
                else ()
            ),
            *(
                ("The interval of the 99th percentile is too narrow below 30 documents: a tail is seldom seen.",)
                if items.documents < 30
                else ()
            ),
            *wording.sample_limits(items),
        ),
    )


def _drafted(accept: Interval, draft: int) -> Interval:
    """Expected tokens per check: it grows with α, so the bounds of α give its bounds."""
    value, low, high = (expected_tokens(alpha, draft) for alpha in (accept.value, accept.low, accept.high))
    return replace(accept, value=value, low=low, high=high)


def expected_tokens(alpha: float, draft: int) -> float:
    """(1 − α^(γ+1)) / (1 − α) = 1 + α + … + α^γ: tokens gained per check, the teacher's own included."""
    return float(sum(alpha**k for k in range(draft + 1)))
