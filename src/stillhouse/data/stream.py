"""In what order text is read: tasks in proportion, and of each task the pieces that samplers choose.

The steps are taken in *rounds*. At the beginning of a round each task's pieces are put into the order in which they would be
read: shuffled, those read least often first, unless samplers choose otherwise. The mixture says what share of the tokens each
task has, and the queues are merged by it, so that at every moment each task has had its share to within a piece. The rounds
follow from nothing but seed, shares and what was measured of the student (``measured.py``): a run that is killed goes on with
the same text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from stillhouse.data.choosing import Choose, Floats, Ints, Pool, TaskSize
from stillhouse.data.measured import GAPS, Measured
from stillhouse.data.pieces import Pieces, Plan, drawn
from stillhouse.errors import RunError, fail
from stillhouse.types import Batch

STEPS = 16
"""Of a round, where nothing is measured again and again."""
_ROUNDS_KEPT = 3

Mixture = Callable[[Sequence[TaskSize]], list[float]]
"""Tasks → what share each has; of any sum."""


@dataclass(frozen=True)
class Choice:
    """What one sampler does.

    Args:
        choose: its choice among pieces.
        by: the measure of difficulty that it is told.
        every: steps between two measurements; None for one before the first step.
    """

    choose: Choose
    by: str
    every: int | None = None


@dataclass(frozen=True)
class _State:
    """Where reading stands between two rounds.

    Args:
        seen_n: how often each piece was begun.
        owed_T: tokens by which each task lags behind its share.
        read_T: tokens of each task that were read.
    """

    seen_n: Ints
    owed_T: Floats
    read_T: Floats


@dataclass(frozen=True)
class _Round:
    """The micro-batches of a round, and where reading stands before and after it."""

    plan: Plan
    before: _State
    after: _State


@dataclass
class Stream:
    """Training pieces in the order of a mixture and of samplers; the trainer asks it as it asks pieces.

    Args:
        pieces: the training side of the corpus.
        mixture: what share each task has.
        measured: what was measured of the student; of pieces and mixtures that ask for nothing, empty.
        every: steps between two measurements of the tasks' gaps; None for a mixture that does not ask for them.
        epochs: how often each task's text is read at most, by name; those not named without limit.
        choices: the samplers' choices: the first one from all pieces of a task, each further one from what the one before chose.
    """

    pieces: Pieces
    mixture: Mixture
    measured: Measured
    every: int | None = None
    epochs: dict[str, int] | None = None
    choices: tuple[Choice, ...] = ()

    def __post_init__(self) -> None:
        self._steps = 0
        self._setting = (0, 0, 0)
        self._rounds: dict[int, _Round] = {}
        self._facts: dict[str, float] = {}

    def choosing(self, choose: Choose, by: str, every: int | None = None) -> Stream:
        """The same with one more sampler, which chooses from what those before it chose."""
        return replace(self, choices=(*self.choices, Choice(choose, by, every)))

    @property
    def asked(self) -> list[tuple[str, int | None]]:
        """All that is measured of the student: its name, and the steps between two measurements."""
        gaps: list[tuple[str, int | None]] = [(GAPS, self.every)] if self.every is not None else []
        return [*((choice.by, choice.every) for choice in self.choices), *gaps]

    @property
    def length(self) -> int:
        """Steps of a round; what is measured again is measured when one begins."""
        return math.gcd(*(every or 0 for _, every in self.asked)) or STEPS

    @property
    def most(self) -> float:
        """Tokens that may be read in all, by the limits on epochs; infinite without them."""
        limited = np.isfinite(self._limit_T).all()
        return float((self.tokens_T * self._limit_T).sum()) if limited else math.inf

    @cached_property
    def tokens_T(self) -> Floats:
        """Positions of each task, with loss or without."""
        length_n = self.pieces.parts[1].astype(np.float64)
        return np.asarray(np.bincount(self.pieces.task_of, length_n, len(self.names)), dtype=np.float64)

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks' names; one without a name where there are no tasks."""
        return self.pieces.tasks or ("",)

    def bind(self, student: Any, folder: Path, *, steps: int, world: int) -> None:  # noqa: ARG002 – how many measure is theirs to know
        """Say who is measured, before the first step of a sitting; arguments as those of the trainer's ``Sampled``."""
        self._steps, self._rounds = steps, {}
        self.measured.bind(student, folder)

    def all(self, micro_tokens: int, max_tokens: int | None = None) -> Iterator[Batch]:
        """Each document of the pieces once, in their own order."""
        return (batch for batch, _bytes in self.pieces.all(micro_tokens, max_tokens))

    def step(
        self, step: int, *, tokens_per_step: int, micro_tokens: int, rank: int = 0, world: int = 1, seed: int
    ) -> list[Batch]:
        """The micro-batches of a step; arguments as those of ``Pieces.step``.

        Raises:
            RunError: what the pieces raise; or the limits on epochs leave too little text; or what was measured at an earlier
                step is gone, and the weights have moved on since.
        """
        count = self.pieces.micro_batches(tokens_per_step, micro_tokens, world)
        if self._setting != (count, micro_tokens, seed):
            self._setting, self._rounds = (count, micro_tokens, seed), {}
        assert not self._steps or step < self._steps, "the run has no such step"
        number, within = divmod(step, self.length)
        found = self._round(number, step)
        places = [0, *found.plan.ends.tolist()][within * count : (within + 1) * count + 1]
        self._facts = self._told(step, found, places[-1])
        return [self.pieces.gather([(found.plan, places[j], places[j + 1])]) for j in range(rank, count, world)]

    def facts(self) -> dict[str, float]:
        """After the last step: how often each task's text was read; what a measurement took, if there was one."""
        return dict(self._facts)

    def forget(self, oldest: int) -> None:
        """Nothing: what was measured is kept, so that the control reads the same text."""

    def shares(self, begins: int = 0, step: int = 0) -> Floats:
        """Share of the tokens that each task has in the round that begins at a step; they add up to 1.

        Args:
            begins: the round's first step.
            step: the step that is to be taken with the student's weights of now.
        """
        gap_T = (
            self._value(GAPS, self.every, begins, step).tolist() if self.every is not None else [0.0] * len(self.names)
        )
        first = np.unique(self.pieces.parts[2], return_index=True)[1]
        documents = np.bincount(self.pieces.task_of[first], minlength=len(self.names)).tolist()
        tokens = self.tokens_T.astype(np.int64).tolist()
        sizes = [TaskSize(*each) for each in zip(self.names, tokens, documents, gap_T, strict=True)]
        share_T = np.asarray(self.mixture(sizes), dtype=np.float64)
        return np.asarray(share_T / share_T.sum())

    @property
    def _limit_T(self) -> Floats:
        return np.array([(self.epochs or {}).get(name, math.inf) for name in self.names])

    def _due(self, step: int) -> list[str]:
        """What is measured at a step."""
        return [name for name, every in self.asked if (step % every if every else step) == 0]

    def _value(self, name: str, every: int | None, begins: int, step: int) -> Floats:
        """What was measured last when a round began."""
        due = begins - begins % every if every else 0
        return self.measured.value(name, due, step, self._due(due), self._setting[1])

    def _round(self, number: int, step: int) -> _Round:
        """A round, laid out from the nearest one before it that is known."""
        last = max((known for known in self._rounds if known <= number), default=-1)
        for each in range(last + 1, number + 1):
            if each:
                state = self._rounds[each - 1].after
            else:
                n, T = len(self.pieces.task_of), len(self.names)
                state = _State(np.zeros(n, np.int64), np.zeros(T), np.zeros(T))
            self._rounds[each] = self._laid(each * self.length, state, step)
            for old in sorted(self._rounds)[:-_ROUNDS_KEPT]:
                del self._rounds[old]
        return self._rounds[number]

    def _laid(self, begins: int, state: _State, step: int) -> _Round:
        """Merge the tasks' queues by their shares and cut them into micro-batches."""
        count, micro_tokens, seed = self._setting
        share_T = self.shares(begins, step)
        length_n, block = self.pieces.parts[1], self.pieces.block
        steps = min(self.length, max(self._steps - begins, 1)) if self._steps else self.length
        wanted = steps * count
        room = wanted * micro_tokens + block
        draw_n = (drawn(len(length_n), seed, begins) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        queues, turns = [], []
        for task, share in enumerate(share_T):
            queue = self._queue(task, begins, step, state.seen_n, draw_n, room)
            size = length_n[queue]
            turns.append(
                (np.cumsum(size) - size / 2 - state.owed_T[task]) / share
            )  # when the middle of a piece has its turn
            queues.append(queue)
        order = np.concatenate(queues)[np.argsort(np.concatenate(turns), kind="stable")]
        plan = self.pieces.laid(order[: int(np.searchsorted(np.cumsum(length_n[order]), room)) + 1], micro_tokens)
        if len(plan.ends) < wanted:
            raise fail(
                RunError,
                f"step {step + 1}",
                "the tasks' limits on epochs, with what the samplers choose, leave too little text to go on",
                "Raise data.tasks.<name>.epochs, leave it out for one task, or set trainer.steps lower; in a new run folder.",
            )
        plan = replace(plan, ends=plan.ends[:wanted])
        begun = plan.order[: int(np.searchsorted(plan.borders, plan.ends[-1]))]
        used_T = np.bincount(self.pieces.task_of[begun], weights=length_n[begun], minlength=len(share_T))
        owed_T = np.clip(state.owed_T + share_T * used_T.sum() - used_T, -block, block)
        seen_n = state.seen_n + np.bincount(begun, minlength=len(length_n))
        return _Round(plan, state, _State(seen_n, owed_T, state.read_T + used_T))

    def _queue(self, task: int, begins: int, step: int, seen_n: Ints, draw_n: Floats, room: int) -> Ints:
        """Pieces of a task in the order in which they are read, enough to fill the room, again and again if need be."""
        limit = self._limit_T[task]
        mine = np.flatnonzero((self.pieces.task_of == task) & (seen_n < limit))
        if not len(mine):
            return mine
        progress = begins / max(self._steps, 1)
        if not self.choices:
            mine = mine[Pool(np.zeros(len(mine)), seen_n[mine], draw_n[mine], progress).shuffled()]
        for choice in self.choices:
            score_n = self._value(choice.by, choice.every, begins, step)
            mine = mine[choice.choose(Pool(score_n[mine], seen_n[mine], draw_n[mine], progress))]
        length_n = self.pieces.parts[1]
        passes = math.ceil(room / int(length_n[mine].sum()))
        queue = np.concatenate([mine[seen_n[mine] + i < limit] for i in range(passes)])
        return queue[: int(np.searchsorted(np.cumsum(length_n[queue]), room)) + 1]

    def _told(self, step: int, found: _Round, end: int) -> dict[str, float]:
        """Numbers of a step for its line in the metrics."""
        begun = found.plan.order[: int(np.searchsorted(found.plan.borders, end))]
        used_T = np.bincount(self.pieces.task_of[begun], self.pieces.parts[1][begun], minlength=len(self.names))
        epochs_T = (found.before.read_T + used_T) / self.tokens_T
        told = {f"epochs/{name}": float(epochs_T[task]) for task, name in enumerate(self.names) if name}
        due = self._due(step)
        return told | (self.measured.cost(due, step) if due else {})
