"""The sources of a recipe, ready to be read: options checked, each with its format, its task and the side its text is for."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stillhouse.data import pace
from stillhouse.data.reading import Record
from stillhouse.data.render import UNKNOWN, Rendered
from stillhouse.data.store import TEST, TRAIN, VALIDATION, below
from stillhouse.errors import DataError, Problem, fail
from stillhouse.find import check_options, find
from stillhouse.recipe import Data

WRITTEN = "written"
"""Folder beside the corpus's, where sources keep what took long to make."""


@dataclass(frozen=True)
class Reader:
    """A source with its format, options checked, and the side that its texts are for."""

    where: str
    side: int
    source: Callable[..., Iterator[Record]]
    given: tuple[Any, ...]
    source_options: dict[str, Any]
    format: Callable[..., Rendered]
    format_options: dict[str, Any]
    task: int
    weight: str
    pace: pace.Pace


def turn(reader: Reader) -> tuple[int, bool]:
    """When a source is read."""
    unknown = "classes" in reader.format_options and reader.format_options.get("label", "") is None
    return -reader.side, unknown


def readers_of(section: Data, teacher: Any, folder: str | os.PathLike[str] | None) -> list[Reader]:
    """The sources of a recipe, their options checked.

    Args:
        section: the recipe's section.
        teacher: the model that writes, for the sources that take one.
        folder: of the corpus; what took long to make is kept beside it.

    Raises:
        RecipeError: an option of a source or format is wrong.
    """
    readers = []
    beside = None if folder is None else Path(folder).parent / WRITTEN
    tasks = [*section.task_names, ""]
    for source, where in section.all_sources:
        read, form = find("source", source.name, where), find("format", source.format.name, f"{where}.format")
        options = check_options(read, source.options, where)
        format_options = check_options(form, source.format.options, f"{where}.format")
        own = pace.Pace()
        possible = {"teacher": teacher, "tell": own.tell, "folder": beside}
        wanted = inspect.signature(read).parameters
        given = tuple(possible[name] for name in wanted if name in possible)
        assert teacher is not None or "teacher" not in wanted, f"{source.name} needs a teacher"
        task = tasks.index(source.task)
        side = {"test_sources": TEST, "validation_sources": VALIDATION}.get(where.split(".")[1], TRAIN)
        place = f"{where} ({source.name})"
        readers.append(Reader(place, side, read, given, options, form, format_options, task, source.weight, own))
    return readers


def rendered_in_turn(readers: list[Reader], tokenizer: Any) -> Iterator[tuple[str, Rendered, int]]:
    """The records of all sources in turn, so that a limit on documents does not starve the later ones."""
    streams = [(_render_source(reader, tokenizer), reader) for reader in readers]
    while streams:
        for stream, reader in list(streams):
            with reader.pace.turn():
                item = next(stream, None)
                if item is None:
                    reader.pace.finished = True
                    streams.remove((stream, reader))
                else:
                    yield *item, reader.side  # within its turn: what is made of the record counts too


def _render_source(reader: Reader, tokenizer: Any) -> Iterator[tuple[str, Rendered]]:
    return ((where, rendered) for _, where, rendered in read(reader, tokenizer))


def read(reader: Reader, tokenizer: Any) -> Iterator[tuple[Record, str, Rendered]]:
    """The records of a source, each with where it stands and its text."""
    records = reader.source(*reader.given, **reader.source_options)
    for number in itertools.count(1):
        try:
            record = next(records, None)
        except DataError as error:
            raise DataError(
                *(Problem(_join(reader.where, p.where), p.what, p.way_out) for p in error.problems)
            ) from None
        if record is None:
            return
        where = f"{reader.where}, record {number}"
        try:
            rendered = reader.format(record, tokenizer, **reader.format_options)
            weight = _weight(record, reader.weight)
        except DataError as error:
            raise DataError(*(Problem(_join(where, p.where), p.what, p.way_out) for p in error.problems)) from None
        if reader.task or weight != 1.0:
            rendered = replace(rendered, task=reader.task, weight=weight)
        if reader.side != TRAIN and rendered.label == UNKNOWN:
            raise fail(DataError, where, "has no class, and is held out to be judged by", "Give such texts a label.")
        yield record, where, rendered


def _weight(record: Record, field: str) -> float:
    """What a record counts in the loss by a field of it; 1 where the source names none.

    Raises:
        DataError: it has no such field, or what stands there is no number above 0.
    """
    if not field:
        return 1.0
    if field not in record:
        raise fail(
            DataError, "", f"has no field '{field}'", "Let the source's weight name a field that all records have."
        )
    value = record[field]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value < math.inf:
        what = f"field '{field}' holds {str(value)[:60]!r}, which is no weight: a number above 0"
        raise fail(DataError, "", what, "Leave out records that are to count nothing.")
    return float(value)


def _join(*places: str) -> str:
    return ", ".join(p for p in places if p)


def key_of(where: str, rendered: Rendered) -> bytes:
    """A hash of all that a document is tokenised from."""
    try:
        return rendered.key
    except UnicodeEncodeError as error:
        what = f"has half of a surrogate pair at character {error.start}, which is no text"
        raise fail(DataError, where, what, "Clean the record, or leave it out.") from None


def is_held_out(section: Data, key: bytes) -> bool:
    """Whether a text of the sources to learn from is held out, by its own number, where a share of them is."""
    share = np.array([share_of(key, section.seed)], dtype=np.uint64)
    return not section.validation_sources and bool(below(share, section.validation)[0])


def share_of(key: bytes, seed: int) -> int:
    """A number of 64 bits that is as good as random."""
    return int.from_bytes(
        hashlib.blake2b(key, digest_size=8, salt=(seed & (1 << 128) - 1).to_bytes(16, "little")).digest()
    )
