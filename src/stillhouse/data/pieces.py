"""Documents as micro-batches: for training shuffled and packed without padding, for evaluation in order.

A *piece* is what a forward pass may see of a document at once: the document itself, or at most ``block`` positions of a
plain one. Training puts the pieces of an epoch into a new order, lays all epochs end to end and cuts this stream into
micro-batches. Which micro-batch holds what follows from step and seed alone, so a run resumes from its step number, and
any number of processes share the same micro-batches.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from stillhouse.data.choosing import Ints
from stillhouse.data.render import NO_LOSS, UNKNOWN
from stillhouse.errors import DataError, RunError, fail
from stillhouse.types import Batch

_PLANS_KEPT = 2
_COUNTED_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Plan:
    """Pieces in order, and where they are cut into micro-batches: an epoch, or a part of one.

    Args:
        order: pieces in the order of the epoch.
        borders: where each begins, counted in positions from the epoch's start, and the end of the last.
        ends: where micro-batches end. What follows the last of them is completed by the next epoch.
    """

    order: Ints
    borders: Ints
    ends: Ints


class Pieces:
    """One side of a corpus: training or validation.

    Args:
        inputs: token ids of the whole corpus; int32, mapped from disk.
        labels: the next tokens, −1 where they carry no loss, −2 where only a teacher knows them; int32.
        bytes_: UTF-8 bytes of each label; uint32.
        documents: rows (``store.DOCUMENT``) of this side's documents, in the order of ``all``.
        block: positions of the longest piece.
        weights: what each task's positions count, by the tasks' names in the order of their numbers; none without tasks.
    """

    def __init__(
        self,
        inputs: npt.NDArray[np.int32],
        labels: npt.NDArray[np.int32],
        bytes_: npt.NDArray[np.uint32],
        documents: npt.NDArray[Any],
        block: int,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self._inputs, self._labels, self._bytes = inputs, labels, bytes_
        self._documents = documents
        self._chains: dict[tuple[int, int], list[tuple[int, int]]] = {}
        self._plans: OrderedDict[tuple[int, int, int], Plan] = OrderedDict()
        self.block = block
        self.weights = dict(weights or {})
        self.tasks = tuple(self.weights)

    @property
    def documents(self) -> int:
        """How many documents."""
        return len(self._documents)

    def only(self, wanted: Callable[[str], bool]) -> Pieces:
        """The same with some of its documents.

        Args:
            wanted: a document's key → whether it stays.
        """
        keep = np.array([wanted(key.tobytes().hex()) for key in self._documents["key"]], dtype=np.bool_)
        return Pieces(self._inputs, self._labels, self._bytes, self._documents[keep], self.block, self.weights)

    @cached_property
    def tokens(self) -> int:
        """How many positions, with loss or without: what an epoch computes."""
        return int(self._documents["length"].sum())

    @cached_property
    def loss_positions(self) -> int:
        """How many positions carry loss."""
        return int(self._documents["loss"].sum())

    @cached_property
    def bytes(self) -> int:
        """UTF-8 bytes of all labels that carry loss."""
        return int(self._documents["bytes"].sum())

    @cached_property
    def parts(self) -> tuple[Ints, Ints, Ints, npt.NDArray[np.bool_]]:
        """Of each piece: its start in the arrays, its length, its document, whether it may not be cut."""
        length = self._documents["length"]
        count = -(-length // self.block)
        document = np.repeat(np.arange(len(length)), count)
        number = np.arange(len(document)) - np.repeat(np.cumsum(count) - count, count)
        start = self._documents["start"][document] + number * self.block
        return (
            start,
            np.minimum(length[document] - number * self.block, self.block),
            document,
            self._documents["whole"][document],
        )

    @cached_property
    def task_of(self) -> Ints:
        """Number of each piece's task."""
        return np.asarray(self._documents["task"], dtype=np.int64)[self.parts[2]]

    def step(
        self, step: int, *, tokens_per_step: int, micro_tokens: int, rank: int = 0, world: int = 1, seed: int
    ) -> list[Batch]:
        """The micro-batches that one process sees in a step; nothing but the arguments decides them.

        A step is ``tokens_per_step // micro_tokens`` micro-batches that follow one another in the stream of all epochs.
        A micro-batch has exactly ``micro_tokens`` positions: a plain piece that does not fit is cut, and its rest
        begins the next micro-batch, at position 0. A whole example is not cut but moved there, so the micro-batch
        before is shorter.

        Args:
            step: number of the step, from 0.
            tokens_per_step: positions of a step, over all processes.
            micro_tokens: positions of a micro-batch.
            rank: this process; it sees the micro-batches ``rank, rank + world, …`` of the step.
            world: how many processes there are.
            seed: of the shuffle.

        Raises:
            RunError: the processes cannot share the step evenly, or an example that may not be cut exceeds a
                micro-batch.
        """
        assert step >= 0 and 0 <= rank < world
        count = self.micro_batches(tokens_per_step, micro_tokens, world)
        numbers = range(step * count + rank, (step + 1) * count, world)
        return [self.gather(self._spans(number, micro_tokens, seed)) for number in numbers]

    def micro_batches(self, tokens_per_step: int, micro_tokens: int, world: int) -> int:
        """How many micro-batches a step has, of all processes.

        Raises:
            RunError: as ``step``.
        """
        count = tokens_per_step // micro_tokens
        if count % world:
            raise fail(
                RunError,
                "trainer.tokens_per_step",
                f"a step of {tokens_per_step} tokens has {count} micro-batches of {micro_tokens}, "
                f"which {world} processes cannot share evenly",
                f"Set trainer.tokens_per_step to {max(1, count // world) * world * micro_tokens}.",
            )
        if self._longest_whole > micro_tokens:
            raise fail(
                RunError,
                "trainer.micro_tokens",
                f"is {micro_tokens}, but there is an example of {self._longest_whole} tokens, which may not be cut",
                f"Set trainer.micro_tokens to {self._longest_whole} or more, or data.block to {micro_tokens}.",
            )
        return count

    def all(self, micro_tokens: int, max_tokens: int | None = None) -> Iterator[tuple[Batch, Ints]]:
        """Every document once, with the UTF-8 bytes of its labels.

        Documents come in an order that their hashes decide: the first of them are a random sample, the same one
        whatever the order of the sources was. Pieces are never cut further, so what is measured does not depend on
        ``micro_tokens``.

        Args:
            micro_tokens: positions of a batch at most: as many whole documents as fit. A longer document is spread over
                several batches piece by piece; a batch is larger only if one piece is.
            max_tokens: stop before the first document that would exceed so many positions; if that document alone is
                longer than ``max_tokens``, its first pieces are still taken, as far as they fit (at least one of the
                first document).

        Yields:
            A batch whose D documents are pieces, those of one document under one key; and bytes [N] of its labels.
        """
        start, length, document, _ = self.parts
        first_piece = np.searchsorted(document, np.arange(self.documents + 1))
        rows: list[int] = []
        filled = taken = 0
        for d in range(self.documents):
            pieces = range(first_piece[d], first_piece[d + 1])
            size = int(self._documents["length"][d])
            last = False
            if max_tokens is not None and taken + size > max_tokens:
                last = True
                ends = taken + np.cumsum(length[pieces.start : pieces.stop])
                fitting = int(np.searchsorted(ends, max_tokens, side="right")) if size > max_tokens else 0
                pieces = pieces[: max(fitting, 0 if taken else 1)]
                size = int(length[pieces.start : pieces.stop].sum())
            if rows and filled + size > micro_tokens:
                yield self._gather(start[rows], length[rows], document[rows])
                rows, filled = [], 0
            for p in pieces:
                if rows and filled + length[p] > micro_tokens:
                    yield self._gather(start[rows], length[rows], document[rows])
                    rows, filled = [], 0
                rows.append(p)
                filled += int(length[p])
            taken += size
            if last:
                break
        if rows:
            yield self._gather(start[rows], length[rows], document[rows])

    def of(self, pieces: Ints, micro_tokens: int) -> Iterator[Batch]:
        """Certain pieces in the order given, as many to a batch as fit.

        Args:
            pieces: their numbers; those of one task one after another.
            micro_tokens: positions of a batch at most; a batch is larger only if one piece is.
        """
        start, length, document, _ = self.parts
        first = filled = 0
        for i, size in enumerate(length[pieces].tolist()):
            if i > first and filled + size > micro_tokens:
                rows = pieces[first:i]
                yield self._gather(start[rows], length[rows], document[rows])[0]
                first, filled = i, 0
            filled += size
        rows = pieces[first:]
        if len(rows):
            yield self._gather(start[rows], length[rows], document[rows])[0]

    def label_counts(self, V: int) -> Ints:
        """How often each of V outcomes is a label that carries loss and is known; int64 [V].

        Raises:
            DataError: a label is not below V.
        """
        counts = np.zeros(V, dtype=np.int64)
        order = np.argsort(self._documents["start"], kind="stable")
        starts, lengths = self._documents["start"][order], self._documents["length"][order]
        ends = np.cumsum(lengths)
        i = 0
        while i < len(starts):
            j = max(i + 1, int(np.searchsorted(ends, ends[i] - lengths[i] + _COUNTED_AT_ONCE, side="right")))
            within = np.repeat(starts[i:j] - (ends[i:j] - lengths[i:j]), lengths[i:j])
            labels = self._labels[within + np.arange(ends[i] - lengths[i], ends[j - 1])]
            found = np.bincount(labels[labels >= 0], minlength=V)
            if len(found) > V:
                raise fail(DataError, "data", f"token {len(found) - 1} is outside a vocabulary of {V}")
            counts += found
            i = j
        return counts

    @cached_property
    def _longest_whole(self) -> int:
        lengths = self._documents["length"][self._documents["whole"]]
        return int(lengths.max()) if len(lengths) else 0

    def gather(self, spans: Sequence[tuple[Plan, int, int]]) -> Batch:
        """What lies between two places of a plan, or of several, as one micro-batch.

        Args:
            spans: each a plan, from and to in its positions.
        """
        start, _, document, _ = self.parts
        parts: list[tuple[Ints, Ints, Ints]] = []
        for plan, a, b in spans:
            first = int(np.searchsorted(plan.borders, a, side="right")) - 1
            last = int(np.searchsorted(plan.borders, b, side="left"))
            border = plan.borders[first : last + 1]
            begin, end = np.maximum(border[:-1], a), np.minimum(border[1:], b)
            piece = plan.order[first:last]
            parts.append((start[piece] + begin - border[:-1], end - begin, document[piece]))
        starts, lengths, documents = (np.concatenate(column) for column in zip(*parts, strict=True))
        return self._gather(starts, lengths, documents)[0]

    def laid(self, order: Ints, micro_tokens: int, open_: int = 0) -> Plan:
        """Pieces one after another, cut into micro-batches.

        Args:
            order: the pieces' numbers.
            micro_tokens: positions of a micro-batch.
            open_: positions that the first one has already.
        """
        _, length, _, whole = self.parts
        borders = np.concatenate([[0], np.cumsum(length[order])])
        if self._longest_whole:
            return Plan(order, borders, _ends(borders, whole[order], micro_tokens, open_))
        return Plan(order, borders, np.arange(micro_tokens - open_, borders[-1] + 1, micro_tokens))

    def _gather(self, starts: Ints, lengths: Ints, documents: Ints) -> tuple[Batch, Ints]:
        """Lay runs of positions one after another, those of a task together; the positions' numbers begin at 0 in each."""
        tasks: list[int] = []
        if self.tasks:
            tasks_D = np.asarray(self._documents["task"], dtype=np.int64)[documents]
            order = np.argsort(tasks_D, kind="stable")
            starts, lengths, documents, tasks = starts[order], lengths[order], documents[order], tasks_D[order].tolist()
        runs = [slice(a, a + n) for a, n in zip(starts.tolist(), lengths.tolist(), strict=True)]
        borders = np.concatenate([[0], np.cumsum(lengths)])
        inputs = np.concatenate([self._inputs[run] for run in runs]).astype(np.int64)
        labels = np.concatenate([self._labels[run] for run in runs]).astype(np.int64)
        select = np.flatnonzero(labels != NO_LOSS)
        of = np.repeat(np.arange(len(runs)), lengths)
        bytes_ = np.concatenate([self._bytes[run] for run in runs]).astype(np.int64)[select]
        weight = torch.from_numpy(self._documents["weight"][documents][of[select]])
        if tasks:
            weight = weight * torch.tensor([self.weights[self.tasks[task]] for task in tasks])[of[select]]
        unknown = labels[select] == UNKNOWN
        batch = Batch(
            input_ids_P=torch.from_numpy(inputs),
            position_ids_P=torch.from_numpy(np.arange(len(inputs)) - borders[of]),
            borders_D1=tuple(borders.tolist()),
            select_N=torch.from_numpy(select),
            labels_N=torch.from_numpy(np.where(unknown, 0, labels[select])),
            weight_N=weight,
            document_N=torch.from_numpy(of[select]),
            keys=tuple(self._documents["key"][d].tobytes().hex() for d in documents.tolist()),
            offsets_D=tuple((starts - self._documents["start"][documents]).tolist()),
            tasks=tuple(self.tasks[task] for task in tasks),
            truth_N=torch.from_numpy(1.0 - unknown.astype(np.float32)) if unknown.any() else None,
        )
        return batch, bytes_

    def _spans(self, number: int, micro_tokens: int, seed: int) -> list[tuple[Plan, int, int]]:
        """What a micro-batch holds: (epoch's plan, from, to) in positions of the epoch, for each epoch it touches."""
        chain = self._chains.setdefault((seed, micro_tokens), [(0, 0)])
        while chain[-1][0] <= number:
            done, open_ = chain[-1]
            if not self._longest_whole:
                count, left = divmod(open_ + self.tokens, micro_tokens)
            else:
                ends = self._plan(len(chain) - 1, micro_tokens, seed).ends
                count = len(ends)
                left = self.tokens - int(ends[-1]) if count else open_ + self.tokens
            chain.append((done + count, left))
        # Epoch e holds the ends of micro-batches chain[e] … chain[e + 1] − 1, and the beginning of chain[e + 1].
        first = max(bisect_left(chain, number, key=lambda link: link[0]) - 1, 0)
        last = bisect_right(chain, number, key=lambda link: link[0]) - 1
        spans = []
        for epoch in range(first, last + 1):
            plan = self._plan(epoch, micro_tokens, seed)
            k = number - chain[epoch][0]
            a = int(plan.ends[k - 1]) if k > 0 else 0
            b = int(plan.ends[k]) if k < len(plan.ends) else self.tokens
            spans.append((plan, a, b))
        return spans

    def _plan(self, epoch: int, micro_tokens: int, seed: int) -> Plan:
        key = (seed, micro_tokens, epoch)
        if key in self._plans:
            self._plans.move_to_end(key)
            return self._plans[key]
        order = _shuffled(len(self.parts[0]), seed, epoch)
        self._plans[key] = self.laid(order, micro_tokens, self._chains[seed, micro_tokens][epoch][1])
        while len(self._plans) > _PLANS_KEPT:
            self._plans.popitem(last=False)
        return self._plans[key]


def drawn(n: int, *seeds: int) -> npt.NDArray[np.uint64]:
    """Random numbers. numpy promises the raw numbers of a bit generator for ever, those of ``permutation`` not."""
    sequence = np.random.SeedSequence([seed & 0xFFFF_FFFF_FFFF_FFFF for seed in seeds])
    return np.random.PCG64(sequence).random_raw(n)


def _shuffled(n: int, seed: int, epoch: int) -> Ints:
    """A permutation."""
    return np.argsort(drawn(n, seed, epoch), kind="stable")


def _ends(borders: Ints, whole: npt.NDArray[np.bool_], size: int, open_: int) -> Ints:
    """Where micro-batches of ``size`` end, if whole pieces may not be cut and ``open_`` positions are there already."""
    at: memoryview[int] = memoryview(borders.data).cast("B").cast("q")
    kept = whole.tobytes()
    total, ends, end = at[-1], [], -open_
    while end + size <= total:
        end += size
        piece = bisect_right(at, end) - 1
        if piece < len(kept) and kept[piece]:
            end = at[piece]  # its beginning; end itself if it lies there
        ends.append(end)
    return np.asarray(ends, dtype=np.int64)
