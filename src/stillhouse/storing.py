"""A store of signals that is filled: who speaks, in which tokens, and how it is written down."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from stillhouse import data, machine, recipe, student
from stillhouse.check import check
from stillhouse.errors import RecipeError, fail
from stillhouse.files import read_json
from stillhouse.find import check_options, find
from stillhouse.models import Model, fingerprint
from stillhouse.progress import timed
from stillhouse.teacher.codec import Codec
from stillhouse.teacher.sources.store import codec_of, weights
from stillhouse.teacher.store import Writer, create, describe
from stillhouse.vocabulary import compare_vocabularies
from stillhouse.vocabulary import fingerprint as tokenizer_fingerprint


@dataclass(frozen=True)
class Filling:
    """A store and the teacher whose signals it takes.

    Args:
        path: the store's folder.
        model: the teacher.
        tokenizer: of the recipe's text.
        codec: the kind of signals.
        device: where the teacher computes.
        arithmetic: what in.
        writer: collects pieces and writes them.
    """

    path: Path
    model: Model
    tokenizer: Any
    codec: Codec
    device: torch.device
    arithmetic: str
    writer: Writer

    @property
    def own(self) -> bool:
        """Whether the text is in the teacher's own tokens."""
        return self.tokenizer is self.model.tokenizer


def open_store(settings: recipe.Recipe, console: Console | None) -> Filling:
    """Load the teacher of a recipe's store, and make the store if it is not there.

    Args:
        settings: a recipe whose teacher is ``{name: store, …}``.
        console: where to show progress.

    Raises:
        RecipeError: the recipe names no store.
        RunError: the folder holds a store of other signals, or cannot be written.
        StillhouseError: teacher or student cannot be had.
    """
    if settings.teacher.name != "store":
        raise fail(
            RecipeError,
            "teacher",
            f"is '{settings.teacher.name}', which names no store to write to",
            "Set teacher to {name: store, path: stores/<name>, model: <the teacher>}.",
        )
    check(settings)
    options = check_options(find("teacher", "store", "teacher"), settings.teacher.options, "teacher")
    path = Path(options.pop("path"))
    options.pop("empty")
    source = options.pop("model")
    machine.set_threads(settings.trainer.threads)
    asked = settings.trainer.device
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if asked == "auto" else asked)
    with timed(console, "Loading the teacher"):
        model = weights(source).to(device)
    tokenizer = tokens_of(settings, source, model, console)
    own = tokenizer is model.tokenizer
    codec = codec_of(model.outcomes if own else len(tokenizer), model, weighted=not own, **options)
    dtype = settings.teacher.dtype
    if dtype == "auto":  # measured once a store: under another load this machine may favour another type
        dtype = read_json(path / "manifest.json", {}).get("arithmetic", dtype)
    choice = machine.choose_dtype(dtype, device)
    model.set_compute_dtype(choice.torch)
    manifest = describe(
        codec.settings(),
        teacher=fingerprint(model.network),
        tokenizer=tokenizer_fingerprint(tokenizer),
        outcomes=codec.outcomes,
        block=settings.data.block,
        arithmetic=choice.dtype,
    )
    create(path, manifest, model.head if codec.form == "dense" else None)
    return Filling(path, model, tokenizer, codec, device, choice.dtype, Writer(path))


def tokens_of(settings: recipe.Recipe, source: str, model: Model, console: Console | None) -> Any:
    """The tokenizer of the recipe's text: the teacher's own, or that of a student which kept some of its tokens.

    Of texts with classes it is always the teacher's: what it says of a whole text holds in any tokens.

    Args:
        settings: the recipe.
        source: the teacher, as the recipe names it.
        model: the teacher.
        console: where to show progress.

    Raises:
        StillhouseError: the student cannot be made.
    """
    if settings.data.classes:
        return model.tokenizer
    shape = student.build(settings.student, weights(source, empty=True), empty=True, classes=settings.data.classes)
    if tokenizer_fingerprint(shape.tokenizer) == tokenizer_fingerprint(model.tokenizer):
        return model.tokenizer

    def sample() -> list[str]:
        return data.sample(settings.data, model.tokenizer, teacher=model, folder=settings.folder / "data")

    # which tokens it keeps follows from the text; the student itself is made again by the run
    with timed(console, "Choosing the student's tokens"):
        made = student.build(settings.student, model, settings.trainer.seed, sample=sample)
    return model.tokenizer if compare_vocabularies(made.tokenizer, model.tokenizer).comparable else made.tokenizer
