"""How difficult text is: measures of difficulty over whole documents, in one reading by student and teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from stillhouse.find import find
from stillhouse.objective import taking
from stillhouse.objective.chunks import chunk_length
from stillhouse.types import Batch, Head, Output, Signal


class Reader(Protocol):
    """A student as far as it is measured: the model, or the learner, through which alone split weights are gathered."""

    training: bool

    @property
    def head(self) -> Head:
        """What says outcomes of hidden states; asked for after ``read``."""
        ...

    def read(self, batch: Batch) -> torch.Tensor:
        """Hidden states at the positions that carry loss, [N, H]."""
        ...

    def train(self, mode: bool = True) -> object:
        """As of a module."""
        ...


def wants_teacher(name: str) -> bool:
    """Whether a measure of difficulty asks the teacher."""
    return "teacher" in find("difficulty", name).__annotations__


@torch.no_grad()
def measure(
    signal: Callable[[Batch], Signal] | None,
    student: Reader,
    names: Sequence[str],
    batches: Iterator[Batch],
    advance: Callable[[int], None],
    *,
    rank: int = 0,
    world: int = 1,
    summed: Callable[[Sequence[float]], list[float]] = list,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Read text and add up measures of difficulty over the positions of each document that carry loss.

    Where the teacher has no word at a position, or speaks of another piece of text there, what is measured with it is 0. Of
    several processes each reads every so-manyth batch; all of them get the sums of all, which are those of one process.

    Args:
        signal: what the teacher says of a batch; None if no measure asks it.
        student: who learns; nothing of it is changed.
        names: of the measures.
        batches: the text.
        advance: called with the tokens of each batch when it is read.
        rank: which of the processes this is.
        world: how many there are; all of them call this function, with the same batches.
        summed: numbers of this process → their sums over all processes.

    Returns:
        of the documents of all batches in order the sums [D, names], in nats, and how many positions carry loss [D].
    """
    functions = [find("difficulty", name) for name in names]
    asks = [wants_teacher(name) for name in names]
    was = student.training
    student.train(False)

    def read(batch: Batch) -> torch.Tensor:
        """The sums of its documents, [D, names]."""
        hidden_NH = student.read(batch)
        said = signal(batch) if signal is not None and any(asks) else None
        length = chunk_length(student.head.weight_VH.shape[0])
        sums_DM = torch.zeros(len(batch.keys), len(names), dtype=torch.float64, device=hidden_NH.device)
        for start in range(0, len(batch.labels_N), length):
            rows = batch.rows(start, min(start + length, len(batch.labels_N)))
            output = Output(student.head.logits(hidden_NH[start : start + length]))
            word = None if said is None else said.rows(start, start + length)
            for column, (function, asked) in enumerate(zip(functions, asks, strict=True)):
                value_N = taking(function)(output, word, rows).double()
                if asked and word is not None:
                    for weight_N in (word.weight_N, word.exact_N):
                        value_N = value_N if weight_N is None else value_N * weight_N
                sums_DM[:, column].index_add_(0, rows.document_N, value_N)
        return sums_DM.cpu()

    device = student.head.weight_VH.device
    sums, counts, number = [torch.zeros(0, len(names), dtype=torch.float64)], [torch.zeros(0, dtype=torch.int64)], 0
    for number, batch in enumerate(batches, 1):
        mine = (number - 1) % world == rank
        sums.append(read(batch.to(device)) if mine else torch.zeros(len(batch.keys), len(names), dtype=torch.float64))
        counts.append(torch.bincount(batch.document_N, minlength=len(batch.keys)).cpu())
        advance(len(batch.input_ids_P))
    if number % world and rank >= number % world:
        read(batch.to(device))  # gathering weights takes all processes: what the last one says is not counted twice
    student.train(was)
    every_DM = torch.cat(sums)
    total = summed(every_DM.flatten().tolist())
    return np.array(total).reshape(every_DM.shape), torch.cat(counts).numpy()
