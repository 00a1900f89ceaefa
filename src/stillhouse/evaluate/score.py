"""Run the models over held-out text and fill the item table. The only part of the evaluation that touches a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stillhouse.evaluate.records import Items, Scores
from stillhouse.models import Model
from stillhouse.rows import compare
from stillhouse.types import Batch, Head

CHUNK = 256
"""Positions whose logits exist at one time."""


@dataclass(frozen=True)
class HeldOut:
    """Held-out text with what the teacher says of it.

    Args:
        batches: the text.
        hidden: the teacher's hidden states of each batch's positions, from which its distributions follow exactly.
        head: the teacher's.
        items: the table so far.

    """

    batches: Sequence[Batch]
    hidden: Sequence[Tensor]
    head: Head
    items: Items


@torch.no_grad()
def read(
    batches: Sequence[tuple[Batch, np.ndarray]], counts_V: np.ndarray, teacher: Model, tick: Callable[[int], None]
) -> HeldOut:
    """Let the teacher read the text; its own scores and those of the unigram floor are in the table afterwards.

    Args:
        batches: micro-batches, each with the UTF-8 bytes of its labels.
        counts_V: how often each token was a label in training.
        teacher: whose distributions all others are compared with.
        tick: called with the number of positions after each batch.

    """
    teacher.eval()
    hidden, kept = [], [batch for batch, _ in batches]
    for batch in kept:
        hidden.append(teacher(batch)[0])
        tick(len(batch.labels_N))
    keys = np.array([batch.keys[d] for batch in kept for d in batch.document_N.tolist()], dtype=np.object_)
    _, document = np.unique(keys.astype(str), return_inverse=True)
    label = np.concatenate([batch.labels_N.numpy() for batch in kept])
    length = np.concatenate([size for _, size in batches]).astype(np.int64)
    items = Items(
        document=document.astype(np.int64),
        key=keys,
        position=_positions(document),
        label=label,
        bytes=length,
        roles={"floor": Scores(nll=unigram_nll(counts_V, label))},
    )
    text = HeldOut(kept, hidden, teacher.head, items)
    return score(text, "teacher", teacher, lambda _: None)


@torch.no_grad()
def score(text: HeldOut, role: str, model: Model, tick: Callable[[int], None]) -> HeldOut:
    """The text with one more role in its table."""
    model.eval()
    parts: list[tuple[Tensor, ...]] = []
    for batch, teacher_NH in zip(text.batches, text.hidden, strict=True):
        hidden_NH = teacher_NH if role == "teacher" else model(batch)[0]
        for start in range(0, hidden_NH.shape[0], CHUNK):
            rows = slice(start, start + CHUNK)
            found = compare(
                model.head.logits(hidden_NH[rows]), text.head.logits(teacher_NH[rows]), batch.labels_N[rows]
            )
            correct_N, agree_N = found.top_N == batch.labels_N[rows], found.top_N == found.teacher_top_N
            parts.append((found.nll_N, found.kl_N, agree_N, found.accept_N, found.conf_N, correct_N))
        tick(len(batch.labels_N))
    columns = [torch.cat(column).double().cpu().numpy() for column in zip(*parts, strict=True)]
    nll, kl, agree, accept, conf, correct = columns
    scores = Scores(nll, np.maximum(kl, 0.0), agree, np.clip(accept, 0.0, 1.0), np.clip(conf, 0.0, 1.0), correct)
    return HeldOut(text.batches, text.hidden, text.head, text.items.with_role(role, scores))


def unigram_nll(counts_V: np.ndarray, label_N: np.ndarray) -> np.ndarray:
    """−log of each label's share of the training labels, with one added to every count; nats.

    The floor: what is known without reading the context.
    """
    share_V = (counts_V + 1.0) / (counts_V.sum() + len(counts_V))
    return np.asarray(-np.log(share_V[label_N]))


def _positions(document_N: np.ndarray) -> np.ndarray:
    """Each item's place among those of its document, in the order given."""
    seen: dict[int, int] = {}
    places = np.empty(len(document_N), dtype=np.int64)
    for n, document in enumerate(document_N.tolist()):
        places[n] = seen.get(document, 0)
        seen[document] = places[n] + 1
    return places
