"""How good a teacher is on the text it is to teach from."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from stillhouse.teacher import Teacher
from stillhouse.types import Batch

CHUNK = 256
"""Positions whose logits exist at one time."""


@dataclass(frozen=True)
class Quality:
    """A teacher on some text.

    Args:
        positions: next tokens, or texts with a class, looked at.
        bits_per_byte: of the true next tokens, by the teacher; of a true class, per text.
        floor_bits_per_byte: the same by the counts of the labels alone, which read no context.
        confidence: mean probability of the teacher's likeliest token; None where it reads other tokens than the student.
        accuracy: how often that token is the true one; likewise.
        classes: whether classes of texts are what it was asked for.

    """

    positions: int
    bits_per_byte: float
    floor_bits_per_byte: float
    confidence: float | None = None
    accuracy: float | None = None
    classes: bool = False

    @property
    def useful(self) -> bool:
        """Whether it knows more of this text than how often each token comes."""
        return self.bits_per_byte < self.floor_bits_per_byte

    def __str__(self) -> str:
        """In a line."""
        unit, one = ("text", "class") if self.classes else ("byte", "token")
        text = f"{self.bits_per_byte:.2f} bits per {unit} ({one} counts alone: {self.floor_bits_per_byte:.2f})"
        if self.confidence is not None and self.accuracy is not None:
            text += f", the likeliest {one} has {self.confidence:.0%} and is right {self.accuracy:.0%} of the time"
        return text


@torch.no_grad()
def quality(teacher: Teacher, batches: Iterable[tuple[Batch, object]], counts_V: Tensor) -> Quality | None:
    """Let a teacher read held-out text before anything is trained.

    Args:
        teacher: with dense signals, else there is nothing to tell.
        batches: each with the UTF-8 bytes of its labels.
        counts_V: how often each token is a label in training.

    Returns:
        what was found; None for a teacher whose signals are truncated.

    """
    if teacher.forms != {"dense"}:
        return None
    floor_V = -((counts_V + 1.0) / (counts_V.sum() + len(counts_V))).log()
    positions, nll, floor, confidence, right, size = 0, 0.0, 0.0, 0.0, 0.0, 0.0
    for batch, bytes_N in batches:
        floor += float(floor_V[batch.labels_N].sum())
        positions += len(batch.labels_N)
        size += float(torch.as_tensor(bytes_N).sum())
        own_N = teacher.nll(batch)
        if own_N is not None:
            nll += float(own_N.sum())
        if not teacher.same_outcomes:
            continue
        signal = teacher.signal(batch)
        for start in range(0, len(batch.labels_N), CHUNK):
            stop = min(start + CHUNK, len(batch.labels_N))
            logits_NV = signal.rows(start, stop).logits_NV
            assert logits_NV is not None
            log_p_NV, labels_N = torch.log_softmax(logits_NV.float(), -1), batch.labels_N[start:stop]
            top_N, first_N = log_p_NV.max(-1)
            if own_N is None:
                nll -= float(log_p_NV.gather(-1, labels_N[:, None]).sum())
            confidence += float(top_N.exp().sum())
            right += float((first_N == labels_N).sum())
    count = max(positions, 1)
    classes = size == 0.0  # a class is no text
    bits = 1.0 / (math.log(2) * (count if classes else size))
    if not teacher.same_outcomes:
        return Quality(positions, nll * bits, floor * bits)
    return Quality(positions, nll * bits, floor * bits, confidence / count, right / count, classes)
