"""Signals that a teacher gave earlier: no teacher runs while the student learns."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch

from stillhouse.errors import ModelError, RecipeError, fail
from stillhouse.find import check_options, find
from stillhouse.models import Model, fingerprint
from stillhouse.progress import takes
from stillhouse.recipe import as_teacher
from stillhouse.teacher import Teacher
from stillhouse.teacher.codec import Codec, Hidden, Sampled, TopK, Weighted
from stillhouse.teacher.store import Store, refuse_foreign
from stillhouse.types import Batch, Signal
from stillhouse.vocabulary import fingerprint as tokenizer_fingerprint


class StoredTeacher(Teacher):
    """A teacher whose signals were stored by ``stillhouse label``.

    Args:
        model: the teacher that gave them, from which students are built and with which they are compared.
        codec: the kind of signals.
        store: where they lie; None where only shapes are wanted.

    """

    shows = frozenset()

    def __init__(self, model: Model, codec: Codec, store: Store | None) -> None:
        super().__init__(model)
        self.forms = frozenset({codec.form})
        self.store = store

    @property
    def tokens(self) -> str | None:
        """Fingerprint of the tokenizer that the signals are of; None where only shapes are wanted."""
        return None if self.store is None else str(self.store.manifest["tokenizer"])

    @torch.no_grad()
    def signal(self, batch: Batch, want: frozenset[str] = frozenset()) -> Signal:
        """What was stored of the batch's positions.

        Raises:
            RunError: there is nothing stored of some of them.

        """
        assert self.store is not None, "loaded for its shapes only"
        assert not want, "the check refuses losses on layers that a store does not hold"
        return self.store.signal(batch)

    def placed(self, place: Callable[[Model], Model]) -> Teacher:  # noqa: ARG002
        """The same: no network runs."""
        return self


def _loading(options: dict[str, Any]) -> float | None:
    section = as_teacher(options["model"])
    source = find("teacher", section.name)
    seconds: float | None = getattr(source, "takes", lambda _: None)(section.options)
    return seconds


@takes(_loading)
def store(
    *,
    path: str,
    model: str,
    kind: Literal["topk", "sampled", "hidden"] = "topk",
    k: int = 64,
    bits: int = 8,
    draws: int = 50,
    proposal: float = 1.0,
    precision: Literal["float16", "bfloat16", "float32"] = "float16",
    empty: bool = False,
) -> Teacher:
    """Signals that `stillhouse label` stored: the teacher runs once over the text, then never again while students learn.

    The same recipe makes the store and learns from it. Runs that share teacher, data.block and the options below share it.

    Args:
        path: the store's folder.
        model: the teacher itself, as a recipe names it: a hub id, a folder, a .gguf file, pkg:NAME.
        kind: topk: the likeliest outcomes and the remainder; sampled: an unbiased sample; hidden: the hidden states before
            the head, from which the whole distribution follows.
        k: of topk: outcomes to name.
        bits: of topk: bits of each log-probability, 1 to 8.
        draws: of sampled: draws a position, 1 to 255.
        proposal: of sampled: draw from the teacher's distribution to this power; below 1 more from its tail.
        precision: of hidden: type of each number.
        empty: only the shapes, no weights.

    """
    teacher = weights(model, empty=empty)
    options: dict[str, Any] = {
        "kind": kind,
        "k": k,
        "bits": bits,
        "draws": draws,
        "proposal": proposal,
        "precision": precision,
    }
    codec = codec_of(teacher.outcomes, teacher, **options)
    if empty:
        return StoredTeacher(teacher, codec, None)
    found = Store(path)
    for broken, why in found.dropped.items():
        warnings.warn(f"{broken} {why}; without it, labelling again may be needed", stacklevel=2)
    wanted: dict[str, Any] = {"teacher": fingerprint(teacher.network)}
    if found.manifest["signal"].get("weighted"):  # for a student of other tokens, which the run knows
        codec = codec_of(found.manifest["outcomes"], teacher, weighted=True, **options)
    else:
        wanted |= {"outcomes": teacher.outcomes, "tokenizer": tokenizer_fingerprint(teacher.tokenizer)}
    refuse_foreign(Path(path), found.manifest, wanted | {"signal": codec.settings()})
    return StoredTeacher(teacher, codec, found)


def weights(model: str, *, empty: bool = False) -> Model:
    """The teacher that a store is of.

    Raises:
        ModelError: it cannot be had or used.

    """
    section = as_teacher(model)
    source = find("teacher", section.name, "teacher.model")
    loaded = source(**check_options(source, section.options, "teacher.model") | {"empty": empty})
    if not isinstance(loaded, Model):
        raise fail(ModelError, "teacher.model", f"'{model}' is no model whose signals could be stored")
    return loaded


def codec_of(
    outcomes: int,
    teacher: Model,
    *,
    kind: str,
    k: int,
    bits: int,
    draws: int,
    proposal: float,
    precision: Any,
    weighted: bool = False,
) -> Codec:
    """The codec of a kind of signal, as the recipe asks for it.

    Args:
        outcomes: V of the student that is to learn from them.
        teacher: who gives them.
        kind: and the rest: see ``store``.
        weighted: for a student of other tokens than the teacher's.

    Raises:
        RecipeError: an option is out of its range.

    """
    ranges = {
        "k": (k >= 1, k, "1 or more"),
        "bits": (1 <= bits <= 8, bits, "1 to 8"),
        "draws": (1 <= draws <= 255, draws, "1 to 255"),
        "proposal": (0.0 < proposal <= 1.0, proposal, "above 0, at most 1"),
    }
    for name, (fits, value, possible) in ranges.items():
        if not fits:
            raise fail(RecipeError, f"teacher.{name}", f"is {value}", f"Possible: {possible}.")
    if kind == "hidden":
        if weighted:
            what = "is hidden: states before the teacher's head, which says other tokens than the student's"
            raise fail(RecipeError, "teacher.kind", what, "Take topk or sampled.")
        return Hidden(outcomes, teacher.head.weight_VH.shape[1], precision)
    found: Codec = TopK(outcomes, k, bits) if kind == "topk" else Sampled(outcomes, draws, proposal)
    return Weighted(found) if weighted else found
