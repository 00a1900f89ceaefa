"""Documents laid back to back as rows of their own, and back: no state of one reaches another."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def lengths_of(borders: tuple[int, ...]) -> list[int]:
    """Tokens of each document.

    Args:
        borders: where documents start and the last ends, ``(0, …, P)``.

    """
    return [stop - start for start, stop in pairwise(borders)]


def to_rows(packed: Tensor, borders: tuple[int, ...]) -> Tensor:
    """Documents [P, …] as rows [D, longest, …], filled up with zeros at the end.

    Args:
        packed: what lies back to back.
        borders: where documents start and the last ends, ``(0, …, P)``.

    """
    lengths = lengths_of(borders)
    if len(set(lengths)) == 1:
        return packed.reshape(len(lengths), lengths[0], *packed.shape[1:])
    return pad_sequence(list(packed.split(lengths)), batch_first=True)  # type: ignore[no-untyped-call]


def to_packed(rows: Tensor, borders: tuple[int, ...]) -> Tensor:
    """The inverse of ``to_rows``: [D, longest, …] without what filled it up, [P, …].

    Args:
        rows: a document each.
        borders: where documents start and the last ends, ``(0, …, P)``.

    """
    lengths = lengths_of(borders)
    if len(set(lengths)) == 1:
        return rows.reshape(-1, *rows.shape[2:])
    return torch.cat([row[:length] for row, length in zip(rows, lengths, strict=True)])
