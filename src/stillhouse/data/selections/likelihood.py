"""What the teacher finds likeliest."""

from __future__ import annotations

from collections.abc import Sequence

from stillhouse.errors import DataError, fail
from stillhouse.writing import Answer


def likelihood(prompt: str, answers: Sequence[Answer]) -> list[float | None]:
    """Log-probability that the teacher gives each answer, a token, at temperature 1: what it would rather say.

    It favours what is short of surprises, loops included: filter repetitions behind it.

    Args:
        prompt: what was asked.
        answers: the samples.

    Raises:
        DataError: the teacher does not tell its log-probabilities.
    """
    scores: list[float | None] = []
    for answer in answers:
        if answer.logprob is None:
            what = "the teacher does not tell how likely its answers are"
            raise fail(DataError, "select", what, "Take agreement, or a teacher that gives log-probabilities.")
        scores.append(answer.logprob / answer.tokens)
    return scores
