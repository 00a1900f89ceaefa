"""What a model takes in memory: while it learns and while it answers."""

from __future__ import annotations

from dataclasses import dataclass

from stillhouse.check import Costs
from stillhouse.plan.sizes import Tally

CONTEXT = 2048
"""Tokens of context for which the memory of an answer is told."""

CACHE_BYTES = 2
"""Bytes of a number in the key-value cache: float16, as runtimes keep it."""


@dataclass(frozen=True)
class Serving:
    """Memory of an answer, in bytes; the runtime's own and its buffers not counted.

    Args:
        weights: in the precision asked for.
        per_token: keys and values of a token of context.
        total: weights and ``CONTEXT`` tokens.

    """

    weights: int
    per_token: int
    total: int


@dataclass(frozen=True)
class Training:
    """Memory at the peak of training, in bytes, about.

    Args:
        weights: the student's, float32.
        optimiser: gradients and the two averages of AdamW.
        teacher: its weights, if it computes here.
        rest: activations of a micro-batch, a chunk of logits, the head's gradient.

    """

    weights: int
    optimiser: int
    teacher: int
    rest: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.optimiser + self.teacher + self.rest


def serving(found: Tally, precision: str) -> Serving:
    """Memory of answering with the weights in a precision and a cache of ``CONTEXT`` tokens."""
    per_token = CACHE_BYTES * found.cached
    return Serving(found.file[precision], per_token, found.file[precision] + CONTEXT * per_token)


def training(costs: Costs) -> Training:
    """The parts of what ``stillhouse.check.costs`` says a run will take."""
    weights, teacher = 4 * costs.student_parameters, round(costs.teacher_memory)
    optimiser = 12 * costs.trained_parameters
    return Training(weights, optimiser, teacher, round(costs.memory) - weights - optimiser - teacher)
