"""Run the models over held-out text and fill the item table. The only part of the evaluation that touches a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from stillhouse.evaluate.part import compare_itself, compare_part
from stillhouse.evaluate.records import Items, Scores
from stillhouse.models import Model
from stillhouse.rows import Compared, compare
from stillhouse.types import Batch, Signal

CHUNK = 256
"""Positions whose logits exist at one time."""


class Speaks(Protocol):
    """A teacher: a model here, several, one behind a server, or what one said before."""

    alone: bool
    forms: frozenset[str]
    same_outcomes: bool

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def model(self) -> Model:
        """Its network, or only its shapes."""
        ...

    @property
    def parameters_count(self) -> int:
        """Parameters of all of it."""
        ...

    @property
    def own(self) -> Speaks:
        """The same as it reads its own tokens."""
        ...

    def signal(self, batch: Batch, want: frozenset[str] = frozenset()) -> Signal:
        """What it says of a batch's positions."""
        ...

    def nll(self, batch: Batch) -> Tensor | None:
        """−log of the probability that it gives the text of each label, where it reads that text as other tokens."""
        ...


@dataclass(frozen=True)
class HeldOut:
    """Held-out text with what the teacher says of it.

    Args:
        batches: the text.
        signals: what the teacher says of each batch's positions; of a model here its hidden states and head, from which its
            distributions follow exactly. None of a teacher that only writes text, or of one that knows other tokens.
        items: the table so far.

    """

    batches: Sequence[Batch]
    signals: Sequence[Signal | None]
    items: Items


@torch.no_grad()
def read(
    batches: Sequence[tuple[Batch, np.ndarray]], counts_V: np.ndarray, teacher: Speaks, tick: Callable[[int], None]
) -> HeldOut:
    """Let the teacher read the text; its own scores and those of the unigram floor are in the table afterwards.

    Args:
        batches: micro-batches, each with the UTF-8 bytes of its labels.
        counts_V: how often each outcome was a label in training.
        teacher: whose distributions all others are compared with.
        tick: called with the number of positions after each batch.

    """
    signals: list[Signal | None] = []
    costs: list[Tensor] = []
    kept = [batch for batch, _ in batches]
    for batch in kept:
        signals.append(teacher.signal(batch) if teacher.forms and teacher.same_outcomes else None)
        own = teacher.nll(batch)
        costs += [] if own is None else [own]
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
        bytes=length if length.any() else None,  # a class is no text
        roles={"floor": floor(counts_V, label)},
        partly=any(signal is not None for signal in signals) and "dense" not in teacher.forms,
    )
    text = HeldOut(kept, signals, items)
    if not teacher.forms:
        return text
    if teacher.same_outcomes:
        text = score(text, "teacher", teacher.model, lambda _: None)
    if not costs:
        return text
    nll = torch.cat(costs).double().cpu().numpy()
    theirs = text.items.roles.get("teacher", Scores(nll))
    return HeldOut(kept, signals, text.items.with_role("teacher", replace(theirs, nll=nll)))


@torch.no_grad()
def score(text: HeldOut, role: str, model: Model, tick: Callable[[int], None]) -> HeldOut:
    """The text with one more role in its table."""
    model.eval()
    parts: list[tuple[Tensor, ...]] = []
    for batch, signal in zip(text.batches, text.signals, strict=True):
        hidden_NH = None if role == "teacher" else model(batch)[0]
        for start in range(0, len(batch.labels_N), CHUNK):
            stop = min(start + CHUNK, len(batch.labels_N))
            logits_NV = None if hidden_NH is None else model.head.logits(hidden_NH[start:stop])
            labels_N = batch.labels_N[start:stop]
            theirs = None if signal is None else signal.rows(start, stop)
            found = _compared(logits_NV, theirs, labels_N, model.outcomes)
            correct_N, agree_N = found.top_N == labels_N, found.top_N == found.teacher_top_N
            parts.append((found.nll_N, found.kl_N, agree_N, found.accept_N, found.conf_N, correct_N, found.top_N))
        tick(len(batch.labels_N))
    columns = [torch.cat(column).double().cpu().numpy() for column in zip(*parts, strict=True)]
    nll, kl, agree, accept, conf, correct, said = columns
    scores = Scores(nll, conf=conf, correct=correct, said=said)
    if all(signal is not None for signal in text.signals):
        scores = Scores(
            nll, np.maximum(kl, 0.0), agree, np.clip(accept, 0.0, 1.0), np.clip(conf, 0.0, 1.0), correct, said
        )
    return HeldOut(text.batches, text.signals, text.items.with_role(role, scores))


def _compared(logits_NV: Tensor | None, teacher: Signal | None, labels_N: Tensor, outcomes: int) -> Compared:
    """A model against the teacher's whole distribution or a part of it; the teacher itself where there are no logits."""
    if teacher is None:
        assert logits_NV is not None
        return compare(logits_NV, logits_NV, labels_N)
    if teacher.dense:
        assert teacher.logits_NV is not None
        return compare(teacher.logits_NV if logits_NV is None else logits_NV, teacher.logits_NV, labels_N)
    if logits_NV is None:
        return compare_itself(teacher, labels_N, outcomes)
    return compare_part(logits_NV, teacher, labels_N)


def floor(counts_V: np.ndarray, label: np.ndarray) -> Scores:
    """What one scores who only knows how often each outcome was a label in training, and says the commonest."""
    commonest = np.full(len(label), counts_V.argmax(), dtype=np.float64)
    return Scores(unigram_nll(counts_V, label), correct=(label == commonest).astype(np.float64), said=commonest)


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
