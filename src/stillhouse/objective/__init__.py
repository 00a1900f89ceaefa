"""Objective: what is minimised. Student, terms and their weights as one module with one forward."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse import recipe
from stillhouse.errors import RecipeError, fail
from stillhouse.find import check_options, find
from stillhouse.models import Model
from stillhouse.objective.chunks import Span, Weight, WeightedLoss, chunked
from stillhouse.types import Batch, Head, Loss, Output, Signal

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
        weights: strategies that say how much each position counts.
        layers: for a loss on layers, the map: (student's depth, teacher's depth, similarity) → pairs of layers from 1.
        projection: auto, always or never.

    """

    name: str
    loss: Loss
    weight: Schedule
    temperature: Schedule | None
    options: dict[str, Any]
    weights: tuple[Callable[..., Tensor], ...] = ()
    layers: Callable[..., list[tuple[int, int]]] | None = None
    projection: str = "auto"

    @property
    def want(self) -> frozenset[str]:
        """What it looks at beside logits: hidden, attention."""
        return frozenset(getattr(self.loss, "needs", ())) & {"hidden", "attention"}

    def at(self, progress: float, counts_V: Tensor | None = None, temperature: float | None = None) -> WeightedLoss:
        """The term as it is at one moment.

        Args:
            progress: share of the steps taken.
            counts_V: how often each outcome is a label, for weights that go by it.
            temperature: in place of the term's own, of text that has one.

        """
        options = self.options
        if self.temperature is not None:
            options = options | {"temperature": temperature or self.temperature(progress)}
        weights = tuple(taking(weight, counts_V) for weight in self.weights)
        return WeightedLoss(self.name, self.loss, self.weight(progress), options, weights)


def taking(function: Callable[..., Tensor], counts_V: Tensor | None = None) -> Weight:
    """A weight or a measure of difficulty as a function of output, signal and batch; it is given what it names."""
    takes = inspect.signature(function).parameters

    def count(output: Output, signal: Signal | None, batch: Batch) -> Tensor:
        given = {"student": output, "teacher": signal, "batch": batch, "counts_V": counts_V}
        return function(**{name: value for name, value in given.items() if name in takes})

    return count


def schedule(value: float | recipe.Strategy, where: str) -> Schedule:
    """A number or a schedule strategy as a function of the share of the steps taken."""
    if not isinstance(value, recipe.Strategy):
        return lambda progress: float(value)
    function = find("schedule", value.name, where)
    options = check_options(function, value.options, where)
    function(0.0, **options)  # what it refuses is told now, not at the first step
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
    terms = [t for t in terms if not (never and t.weight(0.0) == 0.0)]
    names = [t.name for t in terms]
    return [
        replace(t, name=f"{t.name}_{names[: i + 1].count(t.name)}") if names.count(t.name) > 1 else t
        for i, t in enumerate(terms)
    ]


def _term(strategy: recipe.Loss, where: str, weight: Schedule, temperature: Schedule | None) -> Term:
    loss = find("loss", strategy.name, where)
    options = check_options(loss, strategy.options, where)
    takes = "temperature" in inspect.signature(loss).parameters and "temperature" not in strategy.options
    if takes:
        options.pop("temperature", None)
    weights = tuple(
        _strategy("weight", each, f"{where}.weights.{index}") for index, each in enumerate(strategy.weights)
    )
    term = Term(strategy.name.rpartition(":")[2], loss, weight, temperature if takes else None, options, weights)
    if not term.want:
        return term
    if not isinstance(strategy, recipe.Term):
        way_out = f"Write it into objective.terms: [{{name: {strategy.name}, weight: 1, layers: uniform}}]."
        raise fail(RecipeError, where, f"'{strategy.name}' is a loss on layers, not on outcomes", way_out)
    if weights:
        raise fail(RecipeError, f"{where}.weights", "weights are for losses on outcomes", "Leave them out here.")
    layers = _strategy("layers", strategy.layers, f"{where}.layers")
    return replace(term, layers=layers, projection=strategy.projection)


def _strategy(kind: str, strategy: recipe.Strategy, where: str) -> Callable[..., Any]:
    """A strategy with its options filled in."""
    function = find(kind, strategy.name, where)
    return partial(function, **check_options(function, strategy.options, where))


@dataclass(frozen=True)
class Shape:
    """What a layer map and a projection must know of a model.

    Args:
        depth: layers.
        width: of the hidden states.

    """

    depth: int
    width: int

    @classmethod
    def of(cls, model: Model) -> Shape:
        """A model's."""
        width = model.config.hidden_size if model.bare else model.head_layer.weight.shape[1]
        return cls(len(model.layers), width)


class Learner(nn.Module):
    """Student and objective as one module: its forward is what is sharded, differentiated and stepped.

    Args:
        student: who learns.
        section: the recipe's objective.
        steps: of the whole run, for schedules.
        teacher: whether there is one; without, only the hard loss is learned from (the control).
        shape: of the teacher, for losses on layers.
        similarity: [student's layers, teacher's layers], for a layer map that is searched; asked for only then.
        counts_V: how often each outcome is a label in training, [V]; asked for only by weights that go by it.
        tasks: the tasks' names, each with the temperature of its text; None where it has the objective's.

    """

    def __init__(
        self,
        student: Model,
        section: recipe.Objective,
        steps: int,
        *,
        teacher: bool = True,
        shape: Shape | None = None,
        similarity: Callable[[], Tensor] | None = None,
        counts_V: Callable[[], Tensor] | None = None,
        tasks: Mapping[str, float | None] | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.tasks = dict(tasks or {})
        self.terms = terms_of(section, teacher=teacher)
        self.steps = steps
        self.chunk = section.chunk
        self.want: frozenset[str] = frozenset().union(*(term.want for term in self.terms))
        takes = {name for term in self.terms for w in term.weights for name in inspect.signature(w).parameters}
        self.counts_V = counts_V().float() if counts_V is not None and "counts_V" in takes else None
        self.pairs: dict[str, list[tuple[int, int]]] = {}
        projections: dict[str, nn.Module] = {}
        for term in self.terms:
            if term.want:
                assert shape is not None, "a loss on layers needs the teacher's shape"
                self.pairs[term.name] = pairs_of(term, Shape.of(student), shape, similarity)
                if "hidden" in term.want:
                    maps = projections_of(term, Shape.of(student).width, shape.width, len(self.pairs[term.name]))
                    projections |= {term.name: maps} if maps is not None else {}
        self.projections = nn.ModuleDict(projections)

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
            Σ of all weighted losses / denominator, differentiable; and by name each term's sum over positions, before its weight,
            and of each task ``loss/<task>``, the sum of its weighted losses, and ``weight/<task>``, what its positions count.

        """
        progress = min(step / max(self.steps - 1, 1), 1.0)
        self.student.progress = progress
        hidden_NH, layers = self.student(batch, self.want)
        if self.counts_V is not None:
            self.counts_V = self.counts_V.to(hidden_NH.device)
        losses = self._losses(progress)
        known = bool(self.tasks) and bool(batch.tasks)  # a batch of nothing, of an idle process, has no tasks
        group_N = self._task_of(batch) if known else None
        total, sums_GL = chunked(  # of one group [losses]
            losses, hidden_NH, self.student.head, signal, batch, denominator, self.chunk,
            spans=self._spans(batch, progress) if known else (), group_N=group_N, groups=len(self.tasks) if known else 1,
        )  # fmt: skip
        sums_L = sums_GL.sum(0) if known else sums_GL
        sums = dict(zip([w.name for w in losses], sums_L.tolist(), strict=True))
        loss_G = (sums_GL * sums_GL.new_tensor([w.weight for w in losses])).sum(-1)
        for term in self.terms:
            if term.want:
                assert signal is not None
                value_N = self._on_layers(term, layers, signal, batch, progress) * batch.weight_N
                value = value_N.sum()
                total = total + term.weight(progress) * value / denominator
                sums[term.name] = float(value.detach())
                if group_N is not None:
                    loss_G = loss_G.index_add(0, group_N, term.weight(progress) * value_N.detach().double())
        if self.tasks:
            weight_G = loss_G.new_zeros(len(self.tasks))
            if group_N is not None:
                weight_G = weight_G.index_add(0, group_N, batch.weight_N.double())
            of_tasks = loss_G.tolist() if known else [0.0] * len(self.tasks)
            sums |= {f"loss/{name}": value for name, value in zip(self.tasks, of_tasks, strict=True)}
            sums |= {f"weight/{name}": value for name, value in zip(self.tasks, weight_G.tolist(), strict=True)}
        return total, sums

    @property
    def head(self) -> Head:
        """The student's; after ``read`` its weights are whole, also where they are split over processes."""
        return self.student.head

    def read(self, batch: Batch) -> Tensor:
        """The student's hidden states at the positions that carry loss, [N, H]: what stands before its head."""
        return self.student.read(batch)

    def _losses(self, progress: float, temperature: float | None = None) -> list[WeightedLoss]:
        """The losses on outcomes as they are at one moment, with the temperature of a task if it has one."""
        return [term.at(progress, self.counts_V, temperature) for term in self.terms if not term.want]

    def _task_of(self, batch: Batch) -> Tensor:
        """Number of the task that each position belongs to, [N]."""
        numbers = {name: number for number, name in enumerate(self.tasks)}
        return torch.tensor([numbers[task] for task in batch.tasks], device=batch.document_N.device)[batch.document_N]

    def _spans(self, batch: Batch, progress: float) -> list[Span]:
        """Stretches of positions of one temperature; the documents of a task lie together, so there are few."""
        own = {name: temperature for name, temperature in self.tasks.items() if temperature is not None}
        if not own:
            return []
        spans: list[Span] = []
        positions_D = torch.bincount(batch.document_N, minlength=len(batch.tasks)).tolist()
        start = 0
        for temperature, run in itertools.groupby(
            zip(batch.tasks, positions_D, strict=True), key=lambda document: own.get(document[0])
        ):
            stop = start + sum(positions for _, positions in run)
            if stop > start:
                spans.append(Span(start, stop, self._losses(progress, temperature)))
            start = stop
        return spans

    def _on_layers(
        self, term: Term, layers: dict[str, list[Any]], signal: Signal, batch: Batch, progress: float
    ) -> Tensor:
        """A loss on layers at each position, [N]."""
        pairs = self.pairs[term.name]
        ours: dict[str, list[Any]] = {}
        theirs: dict[str, list[Any]] = {}
        if "hidden" in term.want:
            maps: Any = self.projections[term.name] if term.name in self.projections else [lambda x: x] * len(pairs)
            select_N = batch.select_N
            ours["hidden"] = [
                project(layers["hidden"][s - 1].index_select(0, select_N).float())
                for (s, _), project in zip(pairs, maps, strict=True)
            ]
            theirs["hidden"] = [signal.layers["hidden"][t - 1].index_select(0, select_N).float() for _, t in pairs]
        if "attention" in term.want:
            ours["attention"] = [layers["attention"][s - 1] for s, _ in pairs]
            theirs["attention"] = [signal.layers["attention"][t - 1] for _, t in pairs]
        options = term.at(progress).options
        nothing_N0 = batch.weight_N.new_empty(len(batch.weight_N), 0)
        return term.loss(Output(nothing_N0, ours), Signal(layers=theirs), batch, **options)


def pairs_of(
    term: Term, student: Shape, teacher: Shape, similarity: Callable[[], Tensor] | None
) -> list[tuple[int, int]]:
    """Which student layer learns from which teacher layer in a term, counted from 1, embedding excluded.

    Raises:
        RecipeError: the map names a layer that is not there.

    """
    assert term.layers is not None
    takes = inspect.signature(term.layers).parameters
    given = {"similarity_ST": similarity()} if "similarity_ST" in takes and similarity is not None else {}
    pairs = term.layers(student.depth, teacher.depth, **given)
    for s, t in pairs:
        if not (1 <= s <= student.depth and 1 <= t <= teacher.depth):
            what = f"layer {s} of the student cannot learn from layer {t} of the teacher"
            way_out = f"The student has the layers 1 to {student.depth}, the teacher 1 to {teacher.depth}."
            raise fail(RecipeError, f"objective, term '{term.name}'", what, way_out)
    return pairs


def projections_of(term: Term, ours: int, theirs: int, count: int) -> nn.ModuleList | None:
    """A learned linear map for each pair of layers, or None where the widths are equal and none is asked for.

    They belong to the objective: trained and saved with the run, never exported with the student.

    Raises:
        RecipeError: the widths differ and no projection is wanted.

    """
    if term.projection == "never" and ours != theirs:
        what = f"the student's hidden states have {ours} numbers and the teacher's {theirs}"
        raise fail(RecipeError, f"objective, term '{term.name}'", what, "Set projection: auto for a learned map.")
    if term.projection == "never" or (term.projection == "auto" and ours == theirs):
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same start whatever was drawn before, so that a resumed run begins alike
        maps = [nn.Linear(ours, theirs, bias=False) for _ in range(count)]
        for each in maps:
            nn.init.orthogonal_(each.weight)
    return nn.ModuleList(maps)


@torch.no_grad()
def layer_similarity(student: Model, teacher: Callable[[Batch, frozenset[str]], Signal], batch: Batch) -> Tensor:
    """Linear CKA between every layer of the student and every one of the teacher on a sample, [S, T], from 0 to 1.

    Kornblith et al. 2019, arXiv:1905.00414, §3: ‖Yᵀ X‖² / (‖Xᵀ X‖ ‖Yᵀ Y‖) of centred hidden states X, Y.
    """
    want = frozenset({"hidden"})
    was = student.training
    student.eval()
    ours, theirs = student(batch, want)[1]["hidden"], teacher(batch, want).layers["hidden"]
    student.train(was)
    xs, ys = ([x.float() - x.float().mean(0) for x in side] for side in (ours, theirs))
    own_S = [torch.linalg.matrix_norm(x.T @ x) for x in xs]
    own_T = [torch.linalg.matrix_norm(y.T @ y) for y in ys]
    rows = [
        [torch.linalg.matrix_norm(y.T @ x) ** 2 / (own_S[i] * own_T[j]).clamp_min(1e-12) for j, y in enumerate(ys)]
        for i, x in enumerate(xs)
    ]
    return torch.stack([torch.stack(row) for row in rows])
