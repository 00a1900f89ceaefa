"""What most samples say."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator

from stillhouse.writing import Answer


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    return text


def agreement(
    prompt: str, answers: Sequence[Answer], *, pattern: Annotated[str, AfterValidator(_pattern)] | None = None
) -> list[float | None]:
    r"""The answer that the other samples agree with most (self-consistency, Wang et al. 2022, arXiv:2203.11171, §2).

    Args:
        prompt: what was asked.
        answers: the samples.
        pattern: a regular expression whose last match (its group, if it has one) is what must agree, such as
            ``answer is (-?\d+)``; an answer without one is refused. Without a pattern, the share of words in common counts.
    """
    if pattern is not None:
        said = [_said(pattern, answer.text) for answer in answers]
        times = Counter(said)
        others = max(len(answers) - 1, 1)
        return [None if one is None else (times[one] - 1) / others for one in said]
    bags = [Counter(re.findall(r"\w+", answer.text.lower())) for answer in answers]
    scores: list[float | None] = []
    for mine, bag in enumerate(bags):
        rest = [_overlap(bag, other) for theirs, other in enumerate(bags) if theirs != mine]
        scores.append(sum(rest) / max(len(rest), 1))
    return scores


def _said(pattern: str, text: str) -> str | None:
    matches = list(re.finditer(pattern, text))
    if not matches:
        return None
    last = matches[-1]
    return last.group(1) if last.re.groups else last.group(0)


def _overlap(one: Counter[str], other: Counter[str]) -> float:
    """F-measure of two bags of words."""
    total = one.total() + other.total()
    return 2.0 * (one & other).total() / total if total else 0.0
