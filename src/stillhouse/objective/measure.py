"""How difficult text is: measures of difficulty over whole documents, in one reading by student and teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from stillhouse.find import find
from stillhouse.models import Model
from stillhouse.objective import taking
from stillhouse.objective.chunks import chunk_length
from stillhouse.types import Batch, Output, Signal


def wants_teacher(name: str) -> bool:
    """Whether a measure of difficulty asks the teacher."""
    return "teacher" in find("difficulty", name).__annotations__


@torch.no_grad()
def measure(
    signal: Callable[[Batch], Signal] | None,
    student: Model,
    names: Sequence[str],
    batches: Iterator[Batch],
    advance: Callable[[int], None],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Read text and add up measures of difficulty over the positions of each document that carry loss.

    Where the teacher has no word at a position, or speaks of another piece of text there, what is measured with it is 0.

    Args:
        signal: what the teacher says of a batch; None if no measure asks it.
        student: who learns; nothing of it is changed.
        names: of the measures.
        batches: the text.
        advance: called with the tokens of each batch when it is read.

    Returns:
        of the documents of all batches in order the sums [D, names], in nats, and how many positions carry loss [D].
    """
    functions = [find("difficulty", name) for name in names]
    asks = [wants_teacher(name) for name in names]
    length = chunk_length(student.outcomes)
    device = student.head_layer.weight.device
    was = student.training
    student.eval()
    sums, counts = [], []
    for batch in batches:
        batch = batch.to(device)
        hidden_NH = student(batch)[0]
        head = student.head
        said = signal(batch) if signal is not None and any(asks) else None
        sums_DM = torch.zeros(len(batch.keys), len(names), dtype=torch.float64, device=device)
        for start in range(0, len(batch.labels_N), length):
            rows = batch.rows(start, min(start + length, len(batch.labels_N)))
            output = Output(head.logits(hidden_NH[start : start + length]))
            word = None if said is None else said.rows(start, start + length)
            for column, (function, asked) in enumerate(zip(functions, asks, strict=True)):
                value_N = taking(function)(output, word, rows).double()
                if asked and word is not None:
                    for weight_N in (word.weight_N, word.exact_N):
                        value_N = value_N if weight_N is None else value_N * weight_N
                sums_DM[:, column].index_add_(0, rows.document_N, value_N)
        sums.append(sums_DM.cpu().numpy())
        counts.append(torch.bincount(batch.document_N, minlength=len(batch.keys)).cpu().numpy())
        advance(len(batch.input_ids_P))
    student.train(was)
    return np.concatenate(sums), np.concatenate(counts)
