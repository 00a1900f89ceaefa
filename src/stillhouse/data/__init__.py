"""What is learned from: read sources → render records → tokenise and shift → arrays on disk → micro-batches.

``prepare`` is the stage; ``readers.py`` reads, ``building.py`` writes the arrays, ``render.py`` is where text becomes inputs and
labels, ``pieces.py`` where these become batches. torch is imported when a corpus is opened, not before: listing and checking recipes stays instant.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import platform
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from stillhouse.data import screening
from stillhouse.data.building import Report, build
from stillhouse.data.corpus import Corpus, open_corpus
from stillhouse.data.readers import Reader, is_held_out, key_of, read, readers_of, rendered_in_turn, share_of
from stillhouse.data.reading import Record
from stillhouse.data.render import PAIR, Rendered, end_token
from stillhouse.data.store import COLUMNS, TRAIN, column
from stillhouse.errors import DataError, fail
from stillhouse.files import atomic_folder, sha256_file, write_json
from stillhouse.find import check_options, find
from stillhouse.recipe import NEUTRAL_DATA_KEYS, Data, Strategy
from stillhouse.vocabulary import fingerprint

__all__ = ["Corpus", "options_of", "prepare", "records", "sample", "writes"]

_FORMAT = 6
"""Version of the arrays on disk."""
_NOBODY = object()
"""In place of a teacher where none is asked."""


def prepare(
    section: Data,
    tokenizer: Any,
    folder: str | os.PathLike[str],
    *,
    teacher: Any = None,
    progress: Report | None = None,
) -> Corpus:
    """Read the sources and make a corpus of them in a folder; or open the one there, if it was made of the same.

    The same means: the recipe's section, the tokenizer's content, the code of the strategies, and the size and time of
    the files that are read. If those files are gone, what was made of them is still used. Documents of equal text are
    kept once. Which side a document is on follows from its text and ``data.seed``, not from the order of the sources; or
    from its source, and then a text that is held out anywhere is not learned from.

    Several processes must not prepare one folder at the same time: let one do it, then the others open it.

    Args:
        section: the recipe's section.
        tokenizer: a fast tokenizer of transformers, the student's.
        folder: the run's data folder; written whole or not at all.
        teacher: the model that writes, for the sources that take one.
        progress: called with what is done and the seconds left, a few times a second at most.

    Raises:
        DataError: a source cannot be read, a record not used, or there is too little to learn from.
        RecipeError: an option of a source or format is wrong.
    """
    folder = Path(folder)
    end = None if section.classes else end_token(tokenizer, section.end_token)
    readers = readers_of(section, teacher, folder)
    made_of = _made_of(section, readers, tokenizer, end)
    facts = _facts_if_same(folder, made_of)
    if facts is None:
        _remove_leftovers(folder)
        filtering = folder.with_name(f".{folder.name}.filtering")
        progress = progress or (lambda *_: None)
        screen = partial(
            screening.screen,
            section,
            filtering,
            made_of=made_of,
            hash_of=lambda where, rendered: share_of(key_of(where, rendered), section.seed),
            teacher=teacher,
            progress=progress,
        )
        with atomic_folder(folder) as building:
            facts = build(section, readers, tokenizer, end, building, progress, screen)
            write_json(building / "manifest.json", {"made_of": made_of, "facts": facts})
        shutil.rmtree(filtering, ignore_errors=True)
    return open_corpus(folder, section, facts)


def sample(
    section: Data,
    tokenizer: Any,
    *,
    teacher: Any = None,
    folder: str | os.PathLike[str] | None = None,
    characters: int = 4 << 20,
) -> list[str]:
    """The first texts to learn from, of all sources in turn, for those who measure on them before the corpus is made.

    Sources for which a teacher must write are left out where there are others; what will be held out always is.

    Args:
        section: the recipe's section.
        tokenizer: whose chat template the texts are rendered with.
        teacher: the model that writes.
        folder: as of ``prepare``; what the teacher writes is kept for it.
        characters: how much text, about, at most.

    Raises:
        DataError: a source cannot be read, a record not used, or there is no text.
    """
    readers = readers_of(section, teacher, folder)
    outside = {
        key_of(where, rendered)
        for where, rendered, _ in rendered_in_turn([r for r in readers if r.side != TRAIN], tokenizer)
    }
    readers = [reader for reader in readers if reader.side == TRAIN]
    ready = [reader for reader in readers if teacher is None or teacher not in reader.given] or readers
    texts: dict[bytes, str] = {}
    characters_read = 0
    for where, rendered, _ in rendered_in_turn(ready, tokenizer):
        key = key_of(where, rendered)
        if rendered.text and key not in outside and not is_held_out(section, key):
            texts[key] = rendered.content.replace(PAIR, " ")
            characters_read += len(rendered.content)
        if characters_read >= characters or len(texts) >= (section.max_documents or len(texts) + 1):
            break
    if not texts:
        raise fail(DataError, "data.sources", "there is no document to learn from")
    return list(texts.values())


def records(section: Data, tokenizer: Any, group: str = "sources") -> Iterator[tuple[int, Record, Rendered]]:
    """The records of a group of sources as they are read, in order; sources for which a teacher must write are left out.

    Args:
        section: the recipe's section.
        tokenizer: whose chat template the texts are rendered with.
        group: ``sources``, ``validation_sources`` or ``test_sources``.

    Yields:
        the number of the source in its group, the record, its text.

    Raises:
        DataError: a source cannot be read, or a record not used.
    """
    sources = getattr(section, group)
    ready = [i for i, each in enumerate(sources) if "teacher" not in _wanted(each, group, i)]
    # as sources to learn from: no side is needed to read them
    alone = section.model_copy(update={"sources": tuple(sources), "validation_sources": (), "test_sources": ()})
    readers = readers_of(alone, _NOBODY, None) if ready else []
    for number in ready:
        for record, _, rendered in read(readers[number], tokenizer):
            yield number, record, rendered


def _wanted(source: Any, group: str, number: int) -> list[str]:
    """What a source is given before its options."""
    return list(inspect.signature(find("source", source.name, f"data.{group}.{number}")).parameters)


def writes(sampler: Strategy) -> bool:
    """Whether a sampler lets the student write: those are told what ends a text.

    Raises:
        RecipeError: there is no such sampler.
    """
    return "ends" in inspect.signature(find("sampler", sampler.name, "data.sampler")).parameters


def options_of(strategy: Strategy, where: str) -> dict[str, Any]:
    """The options of the mixture or of a sampler, defaults filled in.

    Raises:
        RecipeError: there is no such strategy, or an option is wrong.
    """
    function = find(where.removeprefix("data."), strategy.name, where)
    return check_options(function, strategy.options, where)


def _made_of(section: Data, readers: list[Reader], tokenizer: Any, end: int | None) -> dict[str, Any]:
    """All that the arrays depend on, as plain values."""
    code, files = {}, []
    used = [part for r in readers for part in ((r.source, r.source_options), (r.format, r.format_options))]
    for i, strategy in enumerate(section.filters):
        where = f"data.filters.{i}"
        function = find("filter", strategy.name, where)
        used.append((function, check_options(function, strategy.options, where)))
    for function, options in used:
        file = inspect.getsourcefile(function)
        code[f"{function.__module__}:{function.__name__}"] = sha256_file(Path(file)) if file else None
        for path in getattr(function, "inputs", lambda _: None)(options) or []:
            stat = path.stat()
            files.append([str(path), stat.st_size, stat.st_mtime_ns])
    return {
        "format": _FORMAT,
        "section": section.model_dump(mode="json", exclude={"tasks", "mixture", "sampler", *NEUTRAL_DATA_KEYS}),
        "tokenizer": fingerprint(tokenizer),
        "end": end,
        "code": code,
        "python": platform.python_version(),  # of which the standard library's texts are
        "files": hashlib.sha256(json.dumps(files).encode()).hexdigest() if files else None,
    }


def _facts_if_same(folder: Path, made_of: dict[str, Any]) -> dict[str, Any] | None:
    """The facts of what lies in the folder, if it is whole and was made of the same."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        there, facts = manifest["made_of"], manifest["facts"]
        if made_of["files"] is None:  # the originals are gone: what was made of them stays good
            there = {**there, "files": None}
        whole = all(len(column(folder, name)) == facts["lengths"][name] for name in COLUMNS)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return facts if whole and there == made_of else None


def _remove_leftovers(folder: Path) -> None:
    """Delete what killed processes were building (see ``atomic_folder``)."""
    for path in folder.parent.glob(f".{folder.name}.*.tmp"):
        pid = path.name.split(".")[-2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
            shutil.rmtree(path, ignore_errors=True)
