"""Many token sequences as few positions: what they begin with in common is read once.

Sequences are sorted and laid into rooms. In a room they are the branches of a tree: a token stands there once for all
sequences that reach it the same way, and sees what lies before it on its own branch and nothing else. The four answers to a
question cost the question once; two sentences that differ in their last word cost little more than one. For a sequence nothing
differs from standing alone: the same tokens at the same positions see the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stillhouse.types import Batch

ROOM = 128
"""Tokens of a room that is not held together by what its sequences share; attention costs a room's square."""


@dataclass(frozen=True)
class Asked:
    """A sequence, some of whose tokens are scored.

    Args:
        tokens: all of it.
        start: place of the first token that is scored; at least 1.
    """

    tokens: tuple[int, ...]
    start: int

    def __post_init__(self) -> None:
        assert 1 <= self.start <= len(self.tokens), "a token is scored after at least one other"


@dataclass(frozen=True)
class Packed:
    """A micro-batch of rooms and what is asked of it.

    Args:
        batch: the tokens; its N positions are those after which something is asked, once each.
        row_M: which of them, for each of the M scored tokens.
        label_M: the scored tokens.
        which: index of each sequence among those packed.
        count: scored tokens of each, in the order of ``which``; they add up to M.
    """

    batch: Batch
    row_M: Tensor
    label_M: Tensor
    which: tuple[int, ...]
    count: tuple[int, ...]


@dataclass
class _Room:
    """A tree in the making.

    Args:
        token: of each node.
        parent: index of the node before it; −1 of a first token.
        depth: its position in its sequences.
        path: the nodes of the sequence put in last.
        asked: for each sequence its index, the nodes after which its scored tokens are asked, and these tokens.
    """

    token: list[int]
    parent: list[int]
    depth: list[int]
    path: list[int]
    asked: list[tuple[int, list[int], tuple[int, ...]]]

    def put(self, index: int, sequence: Asked, shared: int) -> None:
        """Add a sequence whose first ``shared`` tokens are those of the last one. Its last token need not be read."""
        needed = len(sequence.tokens) - 1
        del self.path[min(shared, needed) :]
        for place in range(len(self.path), needed):
            self.token.append(sequence.tokens[place])
            self.parent.append(self.path[-1] if self.path else -1)
            self.depth.append(place)
            self.path.append(len(self.token) - 1)
        self.asked.append((index, self.path[sequence.start - 1 :], sequence.tokens[sequence.start :]))

    def new(self, sequence: Asked, shared: int) -> int:
        """How many tokens ``put`` would add."""
        needed = len(sequence.tokens) - 1
        return needed - min(shared, needed, len(self.path))

    def seen(self) -> Tensor | None:
        """[T, T]: what each node sees; None if that is all before it, where nothing branches."""
        size = len(self.token)
        if self.parent == list(range(-1, size - 1)):
            return None
        seen_TT = torch.zeros(size, size, dtype=torch.bool)
        for node, parent in enumerate(self.parent):
            if parent >= 0:
                seen_TT[node] = seen_TT[parent]
            seen_TT[node, node] = True
        return seen_TT


def pack(sequences: Sequence[Asked], micro_tokens: int, width: int, *, share: bool = True) -> Iterator[Packed]:
    """Lay sequences into micro-batches, every one of them once.

    Args:
        sequences: in any order.
        micro_tokens: tokens of a micro-batch, about; a longer sequence has one to itself.
        width: of the model's hidden states: reading a token costs about 12 · width² multiply-adds a layer, attending from one
            to another 2 · width.
        share: whether the model can read branches; else every sequence stands alone.
    """
    if share:
        order = sorted(range(len(sequences)), key=lambda i: sequences[i].tokens)
    else:  # rows of like length are padded little
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i].tokens))
    rooms: list[_Room] = []
    size = 0
    last: tuple[int, ...] = ()
    for index in order:
        sequence = sequences[index]
        shared = _common(last, sequence.tokens) if share and rooms else 0
        new = rooms[-1].new(sequence, shared) if rooms else 0
        if share and rooms and _joins(rooms[-1], shared, new, micro_tokens, width):
            rooms[-1].put(index, sequence, shared)
            size += new
        else:
            whole = len(sequence.tokens) - 1
            if rooms and size + whole > micro_tokens:
                yield _packed(rooms)
                rooms, size = [], 0
            rooms.append(_Room([], [], [], [], []))
            rooms[-1].put(index, sequence, 0)
            size += whole
        last = sequence.tokens
    if rooms:
        yield _packed(rooms)


def _joins(room: _Room, shared: int, new: int, micro_tokens: int, width: int) -> bool:
    """Whether a sequence costs less in this room: it saves what it shares, and attention is paid for the room's square."""
    size = len(room.token)
    if size + new <= ROOM:
        return True
    return size + new <= micro_tokens and shared * 3 * width > new * (size + new / 2)


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """How many tokens two sequences begin with in common."""
    most = min(len(one), len(other))
    if one[:most] == other[:most]:
        return most
    return next(i for i in range(most) if one[i] != other[i])


def _packed(rooms: Sequence[_Room]) -> Packed:
    borders = [0]
    for room in rooms:
        borders.append(borders[-1] + len(room.token))
    rows: dict[int, int] = {}
    row_M: list[int] = []
    label_M: list[int] = []
    which: list[int] = []
    count: list[int] = []
    document_N: list[int] = []
    for document, room in enumerate(rooms):
        for index, nodes, labels in room.asked:
            for node in nodes:
                place = borders[document] + node
                if place not in rows:
                    rows[place] = len(rows)
                    document_N.append(document)
                row_M.append(rows[place])
            label_M += labels
            which.append(index)
            count.append(len(labels))
    seen = tuple(room.seen() for room in rooms)
    select_N = torch.tensor(list(rows), dtype=torch.int64)
    batch = Batch(
        input_ids_P=torch.tensor([t for room in rooms for t in room.token], dtype=torch.int64),
        position_ids_P=torch.tensor([d for room in rooms for d in room.depth], dtype=torch.int64),
        borders_D1=tuple(borders),
        select_N=select_N,
        labels_N=torch.zeros_like(select_N),
        weight_N=torch.ones(len(rows)),
        document_N=torch.tensor(document_N, dtype=torch.int64),
        keys=("",) * len(rooms),
        seen_D=None if all(s is None for s in seen) else seen,
    )
    return Packed(batch, torch.tensor(row_M), torch.tensor(label_M), tuple(which), tuple(count))
