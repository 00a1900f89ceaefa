"""What the teacher finds likely enough, and not too likely."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from stillhouse.data.judging import Filter, band
from stillhouse.data.render import NO_LOSS, Example, Rendered, tokenise
from stillhouse.errors import DataError, fail
from stillhouse.models import Model
from stillhouse.types import Batch

_TOGETHER = 2048
"""Tokens of a forward pass."""
_CHUNK = 256
"""Positions whose logits exist at one time."""


def perplexity(
    teacher: Any,
    *,
    least: Annotated[float, Field(ge=1.0)] | None = None,
    most: Annotated[float, Field(ge=1.0)] | None = 1000.0,
    tokens: Annotated[int, Field(ge=2)] = 256,
) -> Filter:
    """Documents that the teacher finds too unlikely (noise, broken text) or too likely (loops, what it knows by heart).

    What is measured is exp of the teacher's mean −log probability, in nats, of the tokens that carry loss, its own tokens,
    the end token left out. Where there are none, a document is kept. A band of perplexities was used by Wenzek et al.
    2020 (CCNet) to sort web text.

    Args:
        teacher: a ``Model``, or what has one as its ``model`` (an ensemble: its first).
        least: the lowest that is kept; any if not given.
        most: the highest that is kept; any if not given.
        tokens: of a document that are read: its first ones.

    Raises:
        RecipeError: nothing could be kept.
    """

    def measure(documents: Sequence[Rendered]) -> npt.NDArray[np.float64]:
        model = teacher if isinstance(teacher, Model) else getattr(teacher, "model", None)
        if not isinstance(model, Model) or next(model.parameters()).is_meta or model.classifies or model.bare:
            what = "asks a teacher that is no language model, or whose weights are not here"
            raise fail(DataError, "data.filters, perplexity", what, "Take a folder, a hub id or a GGUF file of one.")
        end = model.tokenizer.eos_token_id
        examples = tokenise(documents, model.tokenizer, 0 if end is None else end)
        found = np.full(len(documents), np.nan)
        # of like length together: what a document is given does not depend on its neighbours, only the time does
        order = sorted(range(len(examples)), key=lambda i: len(examples[i].inputs))
        for rows in _batches(order, [min(len(e.inputs), tokens) for e in examples]):
            for row, value in zip(rows, _mean_nll(model, [_cut(examples[i], tokens) for i in rows]), strict=True):
                found[row] = math.exp(min(value, 700.0))
        return found

    return band(measure, lambda value: f"perplexity {value:,.1f}", least=least, most=most)


def _cut(example: Example, tokens: int) -> Example:
    """The first tokens, without the label of the end token."""
    labels = example.labels.copy()
    labels[-1:] = NO_LOSS
    return Example(example.inputs[:tokens], labels[:tokens], example.bytes[:tokens], example.first_bytes)


def _batches(order: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    found: list[list[int]] = []
    size = _TOGETHER
    for row in order:
        if size + lengths[row] > _TOGETHER:
            found.append([])
            size = 0
        found[-1].append(row)
        size += lengths[row]
    return found


@torch.no_grad()
def _mean_nll(model: Model, examples: Sequence[Example]) -> list[float]:
    """Mean −log probability of the labels of each example, nats; NaN where it has none."""
    lengths = [len(example.inputs) for example in examples]
    labels = torch.from_numpy(np.concatenate([e.labels for e in examples]).astype(np.int64))
    select_N = torch.from_numpy(np.flatnonzero(labels.numpy() != NO_LOSS))
    document_P = torch.repeat_interleave(torch.arange(len(examples)), torch.tensor(lengths))
    if not len(select_N):
        return [math.nan] * len(examples)
    batch = Batch(
        input_ids_P=torch.from_numpy(np.concatenate([e.inputs for e in examples]).astype(np.int64)),
        position_ids_P=torch.cat([torch.arange(n) for n in lengths]),
        borders_D1=tuple(np.concatenate([[0], np.cumsum(lengths)]).tolist()),
        select_N=select_N,
        labels_N=labels[select_N],
        weight_N=torch.ones(len(select_N)),
        document_N=document_P[select_N],
    ).to(model.network.device)
    hidden_NH, _ = model(batch)
    nll_N = torch.cat(
        [
            torch.nn.functional.cross_entropy(
                model.head.logits(hidden_NH[start : start + _CHUNK]).float(),
                batch.labels_N[start : start + _CHUNK],
                reduction="none",
            )
            for start in range(0, len(hidden_NH), _CHUNK)
        ]
    ).double()
    total_D = torch.zeros(len(examples), dtype=torch.float64, device=nll_N.device).index_add(0, batch.document_N, nll_N)
    count_D = torch.bincount(batch.document_N, minlength=len(examples))
    return [float(x) for x in (total_D / count_D)]
