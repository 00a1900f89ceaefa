"""A teacher of classes: what it says does not depend on whose tokens a text is in, so it reads every text in its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch

from stillhouse.errors import ModelError, fail
from stillhouse.models import Model
from stillhouse.teacher import Teacher
from stillhouse.types import Batch, Signal
from stillhouse.vocabulary import compare_vocabularies, pools_first

TEXTS_KEPT = 1 << 17
"""Texts whose tokens are remembered."""

Read = Callable[[str, Any], list[int]]
"""An example's key and a tokenizer → the token ids of its text, as a classifier reads it."""


def of_classes(teacher: Teacher, tokenizer: Any, classes: tuple[str, ...], read: Read) -> Teacher:
    """A teacher as a classifier can listen to it.

    Args:
        teacher: a classifier; of any other model what it has learned may be adapted, but it says nothing of classes.
        tokenizer: the student's.
        classes: of the data, in their order.
        read: how it reads an example.

    Returns:
        itself where its tokens are the student's; one that reads its own; one without signals if it is no classifier.

    Raises:
        ModelError: its classes are others than the data's.

    """
    if not teacher.model.classifies:
        return Silent(teacher.model)
    theirs = teacher.model.classes
    numbered = theirs == tuple(f"LABEL_{i}" for i in range(len(theirs))) or all(name.isdigit() for name in classes)
    same = [name.casefold() for name in theirs] == [name.casefold() for name in classes]
    if len(theirs) != len(classes) or not (same or numbered):
        what = f"has the classes {_some(theirs)}, and the data {_some(classes)}"
        way_out = (
            "Name the data's classes as the teacher does, in its order, or adapt the teacher to them in a first stage."
        )
        raise fail(ModelError, "teacher", what, way_out)
    return teacher if compare_vocabularies(tokenizer, teacher.tokenizer).kind == "same" else Reader(teacher, read)


def _some(names: tuple[str, ...]) -> str:
    more = f" … ({len(names)})" if len(names) > 6 else ""
    return ", ".join(names[:6]) + more


class Silent(Teacher):
    """A model that says nothing of the outcomes that the student learns: only its weights are of use."""

    forms = frozenset()
    shows = frozenset()


class Reader(Teacher):
    """A classifier that reads the texts of a batch in tokens of its own.

    Its hidden states are shown at the one place of each text that carries its class, and are 0 elsewhere.

    Args:
        inner: the classifier.
        read: how it reads an example.

    """

    shows = frozenset({"hidden"})

    def __init__(self, inner: Teacher, read: Read) -> None:
        self.inner, self.model, self.alone, self.forms = inner, inner.model, inner.alone, inner.forms
        self._read = read
        self._ids = lru_cache(maxsize=TEXTS_KEPT)(lambda key: read(key, inner.tokenizer))

    def placed(self, place: Callable[[Model], Model]) -> Teacher:
        """The same with the teacher's networks where training wants them."""
        return Reader(self.inner.placed(place), self._read)

    @torch.no_grad()
    def signal(self, batch: Batch, want: frozenset[str] = frozenset()) -> Signal:
        """What it says of the classes of a batch's texts."""
        theirs = self.translate(batch)
        said = self.inner.signal(theirs, want)
        layers = {}
        for name, states in said.layers.items():
            empty = [each.new_zeros(len(batch.input_ids_P), each.shape[1]) for each in states]
            rows = [each.index_select(0, theirs.select_N) for each in states]
            layers[name] = [e.index_copy(0, batch.select_N, r) for e, r in zip(empty, rows, strict=True)]
        return replace(said, layers=layers)

    def translate(self, batch: Batch) -> Batch:
        """The batch's texts in the teacher's tokens, those that carry a label, in the order of the labels."""
        keys = tuple(batch.keys[d] for d in batch.document_N.tolist())
        texts = [torch.tensor((self._ids(key) if key else None) or [0]) for key in keys]  # no text: an idle process
        borders = [0, *torch.tensor([len(ids) for ids in texts]).cumsum(0).tolist()]
        first = pools_first(self.inner.tokenizer)
        select = borders[:-1] if first else [end - 1 for end in borders[1:]]
        moved = Batch(
            input_ids_P=torch.cat(texts),
            position_ids_P=torch.cat([torch.arange(len(ids)) for ids in texts]),
            borders_D1=tuple(borders),
            select_N=torch.tensor(select),
            labels_N=batch.labels_N,
            weight_N=batch.weight_N,
            document_N=torch.arange(len(texts)),
            keys=keys,
            offsets_D=(0,) * len(texts),
        )
        return moved.to(batch.input_ids_P.device)
