"""Label: the teacher runs once over a recipe's text, and what it says of it is stored for every run to come."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from stillhouse import data, machine, recipe, student
from stillhouse.check import check
from stillhouse.errors import ModelError, RecipeError, RunError, fail
from stillhouse.find import check_options, find
from stillhouse.models import Model
from stillhouse.progress import bar, timed
from stillhouse.run import tutor_of
from stillhouse.teacher import Teacher
from stillhouse.teacher.codec import Codec
from stillhouse.teacher.sources.store import codec_of, weights
from stillhouse.teacher.store import Piece, Store, Writer, create, describe, fingerprint
from stillhouse.types import Batch
from stillhouse.vocabulary import compare_vocabularies
from stillhouse.vocabulary import fingerprint as tokenizer_fingerprint


def label(settings: recipe.Recipe, *, console: Console | None = None, shard: tuple[int, int] = (1, 1)) -> Path:
    """Store the teacher's signals for all text of a recipe, to learn from and held out, that has none yet.

    Every position is seen with all of its piece (``data.block``) before it, whatever a run's micro-batches make of it. An
    interruption costs one unfinished shard; the same command goes on.

    Args:
        settings: a recipe whose teacher is ``{name: store, …}``.
        console: where to show progress.
        shard: (i, n): only the i-th of n parts, counted from 1. The parts may be labelled at the same time, into one folder.

    Returns:
        the store's folder.

    Raises:
        RecipeError: the recipe names no store, or no such part.
        RunError: the folder holds a store of other signals, or cannot be written.
        StillhouseError: teacher or text cannot be had.

    """
    number, parts = shard
    if not 1 <= number <= parts:
        raise fail(RecipeError, "--shard", f"there is no part {number} of {parts}", "Write --shard 1/4 up to 4/4.")
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
    choice = machine.choose_dtype(settings.teacher.dtype, device)
    model.set_compute_dtype(choice.torch)
    corpus = _prepare(settings, model, tokenizer, console)
    teacher = Teacher(model) if own else speaking(settings, Teacher(model), tokenizer, corpus)
    head = model.head if codec.form == "dense" else None
    manifest = describe(
        codec.settings(),
        teacher=fingerprint(model.network),
        tokenizer=tokenizer_fingerprint(tokenizer),
        outcomes=codec.outcomes,
        block=settings.data.block,
        arithmetic=choice.dtype,
    )
    create(path, manifest, head)
    say = console.print if console else lambda *_, **__: None
    store = Store(path)
    for broken, why in store.dropped.items():
        say(f"{broken.name} {why}: set aside, its text is labelled again", highlight=False, markup=False)
    store.drop_broken()

    def missing() -> Iterator[tuple[Batch, list[bool]]]:
        for side in dict.fromkeys((corpus.train, corpus.validation, corpus.test)):
            for batch, _bytes in side.all(settings.trainer.micro_tokens):
                # whole batches go to one part: what the teacher computes together must not depend on the parts
                if int(batch.keys[0][:12], 16) % parts == number - 1:
                    there = store.covers(batch)
                    if not all(there):
                        yield batch, there

    total = sum(len(batch.input_ids_P) for batch, _there in missing())
    if not total:
        say(f"All of it is labelled: {store.positions:,} positions", highlight=False)
        return path
    writer = Writer(path)
    with bar(console, "Labelling", total, "tokens") as advance:
        for batch, there in missing():
            for piece in pieces_of(batch, teacher, codec, there, device):
                writer.add(piece)
            advance(len(batch.input_ids_P))
        writer.flush()
    done = Store(path)
    size = f"{done.positions:,} positions, {done.bytes / max(done.positions, 1):.0f} bytes each"
    say(f"{path} holds signals of {size}", highlight=False)
    return path


def pieces_of(batch: Batch, teacher: Teacher, codec: Codec, there: list[bool], device: torch.device) -> Iterator[Piece]:
    """The pieces of a batch that are not there yet, with the teacher's signals."""
    signal = teacher.signal(batch.to(device))
    columns = codec.encode(signal, batch)
    inputs = batch.input_ids_P.numpy().astype(np.int32)
    document_N = batch.document_N.numpy()
    for d, (key, offset) in enumerate(zip(batch.keys, batch.offsets_D, strict=True)):
        if there[d]:
            continue
        start, stop = batch.borders_D1[d : d + 2]
        here = document_N == d
        selected = np.zeros(stop - start, np.bool_)
        selected[batch.select_N.numpy()[here] - start] = True
        yield Piece(key, offset, inputs[start:stop], selected, {name: c[here] for name, c in columns.items()})


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
        return data.sample(settings.data, model.tokenizer, teacher=model)

    # which tokens it keeps follows from the text; the student itself is made again by the run
    with timed(console, "Choosing the student's tokens"):
        made = student.build(settings.student, model, settings.trainer.seed, sample=sample)
    return model.tokenizer if compare_vocabularies(made.tokenizer, model.tokenizer).comparable else made.tokenizer


def speaking(settings: recipe.Recipe, teacher: Teacher, tokenizer: Any, corpus: data.Corpus) -> Teacher:
    """The teacher as a student of other tokens hears it.

    Raises:
        ModelError: its signals cannot be stored for this student.
    """
    found = tutor_of(settings, teacher, tokenizer, corpus.text_of)
    if not found.same_outcomes:
        what = f"has other tokens than {teacher.name}: only of some positions does the teacher speak of the same piece of text"
        raise fail(
            ModelError, "student", what, "Take a student with some of its tokens, or let the teacher itself speak."
        )
    return found


def _prepare(settings: recipe.Recipe, model: Model, tokenizer: Any, console: Console | None) -> data.Corpus:
    """The run's corpus, made once also if several parts of it are labelled at the same time."""
    with _alone(settings.folder), timed(console, "Preparing the text") as tell:
        return data.prepare(settings.data, tokenizer, settings.folder / "data", teacher=model, progress=tell)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process prepares the text of this folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".labelling", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise fail(RunError, str(folder), f"cannot be used: {error.strerror}", "Give another folder: run=…") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
