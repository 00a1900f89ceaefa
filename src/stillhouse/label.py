"""Label: the teacher runs once over a recipe's text, and what it says of it is stored for every run to come."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from stillhouse import data, recipe, synthesize
from stillhouse.errors import ModelError, RecipeError, RunError, fail
from stillhouse.progress import bar, timed
from stillhouse.run import tutor_of
from stillhouse.storing import Filling, open_store
from stillhouse.teacher import Teacher
from stillhouse.teacher.store import Store, pieces_of
from stillhouse.types import Batch


def label(settings: recipe.Recipe, *, console: Console | None = None, shard: tuple[int, int] = (1, 1)) -> Path:
    """Store the teacher's signals for all text of a recipe, to learn from and held out, that has none yet.

    Every position is seen with all of its piece (``data.block``) before it, whatever a run's micro-batches make of it. What
    the teacher writes itself is stored while it is written. An interruption costs one unfinished shard; the same command goes on.

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
    filling = open_store(settings, console)
    path, corpus = filling.path, _prepare(settings, filling, console)
    teacher = (
        Teacher(filling.model) if filling.own else speaking(settings, Teacher(filling.model), filling.tokenizer, corpus)
    )
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
    with bar(console, "Labelling", total, "tokens") as advance:
        for batch, there in missing():
            for piece in pieces_of(batch, teacher.signal(batch.to(filling.device)), filling.codec, there):
                filling.writer.add(piece)
            advance(len(batch.input_ids_P))
        filling.writer.flush()
    done = Store(path)
    size = f"{done.positions:,} positions, {done.bytes / max(done.positions, 1):.0f} bytes each"
    say(f"{path} holds signals of {size}", highlight=False)
    return path


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


def _prepare(settings: recipe.Recipe, filling: Filling, console: Console | None) -> data.Corpus:
    """The run's corpus, made once also if several parts of it are labelled at the same time."""
    with _alone(settings.folder):
        synthesize.write(settings, filling.model, filling, console=console)
        with timed(console, "Preparing the text") as tell:
            folder = settings.folder / "data"
            return data.prepare(settings.data, filling.tokenizer, folder, teacher=filling.model, progress=tell)


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
