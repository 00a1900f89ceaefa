"""Objective: what is minimised. Student, terms and their weights as one module with one forward."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from stillhouse import recipe
from stillhouse.find import check_options, find
from stillhouse.models import Model
from stillhouse.objective.chunks import WeightedLoss, chunked
from stillhouse.types import Batch, Loss, Signal

Schedule = Callable[[float], float]
"""Share of the steps taken, 0 to 1 → value."""


@dataclass(frozen=True)
class Term:
    """A part of the loss over a whole run.

    Args:
        name: what its value is logged as.
        loss: the function.
        weight: what it is multiplied by at each moment.
        temperature: of both distributions, where the loss takes one and does not bring its own.
        options: its other options.

    """

    name: str
    loss: Loss
    weight: Schedule
    temperature: Schedule | None
    options: dict[str, Any]

    def at(self, progress: float) -> WeightedLoss:
        """The term as it is at one moment."""
        options = self.options
        if self.temperature is not None:
            options = options | {"temperature": self.temperature(progress)}
        return WeightedLoss(self.name, self.loss, self.weight(progress), options)


def schedule(value: float | recipe.Strategy, where: str) -> Schedule:
    """A number or a schedule strategy as a function of the share of the steps taken."""
    if not isinstance(value, recipe.Strategy):
        return lambda progress: float(value)
    function = find("schedule", value.name, where)
    options = check_options(function, value.options, where)
    return lambda progress: float(function(progress, **options))


def terms_of(section: recipe.Objective, *, teacher: bool = True) -> list[Term]:
    """The terms of a section: soft with weight α, hard with 1 − α, then the others.

    Args:
        section: the recipe's objective.
        teacher: False for the control: only the hard loss, with weight 1.

    Raises:
        RecipeError: a loss or schedule that does not exist, or options it does not take.

    """
    if not teacher:
        return [_term(section.hard, "objective.hard", lambda progress: 1.0, None)]
    alpha_value = section.alpha
    alpha = schedule(
        recipe.ALPHA_PRESETS[alpha_value] if isinstance(alpha_value, str) else alpha_value, "objective.alpha"
    )
    temperature = schedule(section.temperature, "objective.temperature")
    terms = [
        _term(section.soft, "objective.soft", alpha, temperature),
        _term(section.hard, "objective.hard", lambda progress: 1.0 - alpha(progress), temperature),
    ]
    for index, term in enumerate(section.terms):
        where = f"objective.terms.{index}"
        terms.append(_term(term, where, schedule(term.weight, f"{where}.weight"), temperature))
    never = isinstance(alpha_value, float | int) and alpha_value in (0.0, 1.0)
    return [t for t in terms if not (never and t.weight(0.0) == 0.0)]


def _term(strategy: recipe.Strategy, where: str, weight: Schedule, temperature: Schedule | None) -> Term:
    loss = find("loss", strategy.name, where)
    options = check_options(loss, strategy.options, where)
    takes = "temperature" in inspect.signature(loss).parameters and "temperature" not in strategy.options
    if takes:
        options.pop("temperature", None)
    return Term(strategy.name.rpartition(":")[2], loss, weight, temperature if takes else None, options)


class Learner(nn.Module):
    """Student and objective as one module: its forward is what is sharded, differentiated and stepped.

    Args:
        student: who learns.
        section: the recipe's objective.
        steps: of the whole run, for schedules.
        teacher: whether there is one; without, only the hard loss is learned from (the control).

    """

    def __init__(self, student: Model, section: recipe.Objective, steps: int, *, teacher: bool = True) -> None:
        super().__init__()
        self.student = student
        self.terms = terms_of(section, teacher=teacher)
        self.steps = steps
        self.chunk = section.chunk
        self.want: frozenset[str] = frozenset().union(*(getattr(t.loss, "needs", ()) for t in self.terms))

    def forward(
        self, batch: Batch, signal: Signal | None, denominator: float, step: int
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss of one micro-batch.

        Args:
            batch: documents back to back.
            signal: what the teacher says of the positions that count.
            denominator: the step's count of positions over all micro-batches and processes.
            step: optimiser steps taken so far, for schedules.

        Returns:
            Σ of all weighted losses / denominator, differentiable, and each term's unweighted sum over positions by name.

        """
        hidden_NH, _layers = self.student(batch, self.want)
        progress = step / max(self.steps - 1, 1)
        losses = [term.at(min(progress, 1.0)) for term in self.terms]
        total, sums = chunked(losses, hidden_NH, self.student.head, signal, batch, denominator, self.chunk)
        return total, dict(zip([w.name for w in losses], sums.tolist(), strict=True))
