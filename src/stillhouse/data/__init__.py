"""What is learned from: read sources → render records → tokenise and shift → arrays on disk → micro-batches.

``prepare`` is the stage; ``render.py`` is where text becomes inputs and labels, ``pieces.py`` where these become
batches. torch is imported when a corpus is opened, not before: listing and checking recipes stays instant.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import json
import math
import os
import platform
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stillhouse.data import pace, screening
from stillhouse.data.augment import augmented
from stillhouse.data.reading import Record
from stillhouse.data.render import NO_LOSS, PAIR, UNKNOWN, Example, Rendered, classified, end_token, fit, tokenise
from stillhouse.data.store import COLUMNS, DOCUMENT, TEST, TRAIN, VALIDATION, Column, Seen, below, column, sides
from stillhouse.errors import DataError, Problem, fail
from stillhouse.files import atomic_folder, sha256_file, write_json
from stillhouse.find import check_options, find
from stillhouse.recipe import NEUTRAL_DATA_KEYS, Data, Strategy
from stillhouse.vocabulary import fingerprint

if TYPE_CHECKING:
    from stillhouse.data.pieces import Pieces

Report = Callable[[str, float | None, bool], None]
"""``progress(text, left, at_least)``: what is done; seconds left, None where that is not known; whether it may be more."""

_FORMAT = 5
"""Version of the arrays on disk."""
WRITTEN = "written"
"""Folder beside the corpus's, where sources keep what took long to make."""

_NOBODY = object()
"""In place of a teacher where none is asked."""

_BATCH_DOCUMENTS = 256
_BATCH_CHARACTERS = 1 << 20
_SECONDS_BETWEEN_REPORTS = 0.3


@dataclass(frozen=True)
class Corpus:
    """What is learned from and what is held out.

    Args:
        train: documents to learn from.
        labelled: those of them whose labels are known, which can be learned from without a teacher.
        validation: held-out documents, none of whose texts is in ``train``.
        test: those that are evaluated on, none of whose texts is in ``train`` either: the recipe's, else ``validation``.
        facts: what was read, kept and left out, as plain values.
        text_of: an example's key → its text, whole, as it was tokenised.
    """

    train: Pieces
    labelled: Pieces
    validation: Pieces
    test: Pieces
    facts: dict[str, Any]
    text_of: Callable[[str], str]


@dataclass(frozen=True)
class _Reader:
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


def _turn(reader: _Reader) -> tuple[int, bool]:
    """When a source is read."""
    unknown = "classes" in reader.format_options and reader.format_options.get("label", "") is None
    return -reader.side, unknown


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
    readers = _readers(section, teacher, folder)
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
            hash_of=lambda where, rendered: _share(_key(where, rendered), section.seed),
            teacher=teacher,
            progress=progress,
        )
        with atomic_folder(folder) as building:
            facts = _build(section, readers, tokenizer, end, building, progress, screen)
            write_json(building / "manifest.json", {"made_of": made_of, "facts": facts})
        shutil.rmtree(filtering, ignore_errors=True)
    return _open(folder, section, facts)


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
    readers = _readers(section, teacher, folder)
    outside = {
        _key(where, rendered) for where, rendered, _ in _rendered([r for r in readers if r.side != TRAIN], tokenizer)
    }
    readers = [reader for reader in readers if reader.side == TRAIN]
    ready = [reader for reader in readers if teacher is None or teacher not in reader.given] or readers
    texts: dict[bytes, str] = {}
    read = 0
    for where, rendered, _ in _rendered(ready, tokenizer):
        key = _key(where, rendered)
        if rendered.text and key not in outside and not _held_out(section, key):
            texts[key] = rendered.content.replace(PAIR, " ")
            read += len(rendered.content)
        if read >= characters or len(texts) >= (section.max_documents or len(texts) + 1):
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
    readers = _readers(alone, _NOBODY, None) if ready else []
    for number in ready:
        for record, _, rendered in _read(readers[number], tokenizer):
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


def _readers(section: Data, teacher: Any, folder: str | os.PathLike[str] | None) -> list[_Reader]:
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
        readers.append(_Reader(place, side, read, given, options, form, format_options, task, source.weight, own))
    return readers


def _made_of(section: Data, readers: list[_Reader], tokenizer: Any, end: int | None) -> dict[str, Any]:
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


@dataclass(frozen=True)
class _Waiting:
    """A document that is kept if it can be."""

    where: str
    key: bytes
    rendered: Rendered
    side: int
    made: bool = False


class _Builder:
    """Tokenises batches of documents and appends them to the arrays."""

    def __init__(self, section: Data, tokenizer: Any, end: int | None, folder: Path, stack: ExitStack) -> None:
        self.section, self.tokenizer, self.end = section, tokenizer, end
        self.columns = {n: stack.enter_context(Column(folder / f"{n}.npy", d)) for n, d in COLUMNS.items()}
        self.counts = dict.fromkeys(
            (
                "records",
                "empty",
                "duplicates_dropped",
                "augmented",
                "prompts_dropped",
                "without_loss_dropped",
                "responses_truncated",
                "texts_truncated",
            ),
            0,
        )
        self.records_of: Counter[int] = Counter()
        self.seen = Seen()
        self.waiting: list[_Waiting] = []
        self.characters = 0
        self.learned = 0
        self.originals: list[tuple[str, bytes, Rendered]] = []

    @property
    def documents(self) -> int:
        """How many were kept so far."""
        return self.columns["documents"].length

    @property
    def full(self) -> bool:
        """Whether as many are kept of the sources to learn from as the recipe wants."""
        return self.section.max_documents is not None and self.learned >= self.section.max_documents

    def add(self, where: str, rendered: Rendered, side: int) -> None:
        """Take a document, if it is new."""
        self.counts["records"] += 1
        self.records_of[rendered.task] += 1
        if not rendered.text:
            self.counts["empty"] += 1
            return
        key = _key(where, rendered)
        if not self.seen.add(key):
            self.counts["duplicates_dropped"] += 1
            return
        self._take(_Waiting(where, key, rendered, side))

    def augment(self, report: Callable[[], None]) -> None:
        """Make more of the documents to learn from; those that are new are kept."""
        for where, rendered in augmented(self.section.augment, self.originals, self.section.seed):
            key = _key(where, rendered)
            if rendered.text and self.seen.add(key):
                self.counts["augmented"] += 1
                self._take(_Waiting(where, key, rendered, TRAIN, made=True))
            report()
        self.flush()

    def _take(self, document: _Waiting) -> None:
        """Keep a document."""
        rendered = document.rendered
        self.waiting.append(document)
        self.characters += len(rendered.content)
        if len(self.waiting) >= _BATCH_DOCUMENTS or self.characters >= _BATCH_CHARACTERS:
            self.flush()

    def flush(self) -> None:
        """Tokenise and write what waits."""
        block = self.section.block
        rows: list[tuple[Any, ...]] = []
        texts: list[bytes] = []
        written: dict[str, list[Any]] = {"inputs": [], "labels": [], "bytes": []}
        start = self.columns["inputs"].length
        examples = self._tokenised([each.rendered for each in self.waiting])
        for each, example in zip(self.waiting, examples, strict=True):
            where, key, rendered = each.where, each.key, each.rendered
            original = each.side == TRAIN and not each.made
            if original and self.full:
                continue
            if not (example.labels != NO_LOSS).any():
                self.counts["without_loss_dropped"] += 1
                continue
            if rendered.whole:
                fitting, truncated = fit(example, block)
                if fitting is None:
                    if self.section.long_prompts == "error":
                        prompt = int(np.flatnonzero(example.labels != NO_LOSS)[0]) + 1
                        raise fail(
                            DataError,
                            where,
                            f"the prompt has {prompt} tokens, which leaves no room for an answer in a block of {block}",
                            f"Set data.block above {prompt}, or data.long_prompts=drop.",
                        )
                    self.counts["prompts_dropped"] += 1
                    continue
                example = fitting
                self.counts["responses_truncated"] += truncated
            self.counts["texts_truncated"] += example.truncated
            loss = example.labels != NO_LOSS
            for name, parts in written.items():
                parts.append(getattr(example, name))
            texts.append(rendered.content.encode())
            length = len(example.inputs)
            share, truth = _share(key, self.section.seed), rendered.label != UNKNOWN
            counts = (loss.sum(), example.bytes[loss].sum())
            of = rendered.task, rendered.weight
            rows.append((key, share, start, length, *counts, rendered.whole, truth, each.side, *of))
            start += length
            self.learned += original
            if original and self.section.augment and not (truth and _held_out(self.section, key)):
                self.originals.append((where, key, rendered))
        if rows:
            for name, parts in written.items():
                self.columns[name].append(np.concatenate(parts))
            self.columns["documents"].append(np.array(rows, dtype=DOCUMENT))
            ends = self.columns["texts"].length + np.cumsum([len(text) for text in texts], dtype=np.int64)
            self.columns["texts"].append(np.frombuffer(b"".join(texts), dtype=np.uint8))
            self.columns["text_ends"].append(ends)
        self.waiting, self.characters = [], 0

    def _tokenised(self, batch: list[Rendered]) -> list[Example]:
        if not batch:
            return []
        if self.end is None:
            return classified(batch, self.tokenizer, self.section.block)
        return tokenise(batch, self.tokenizer, self.end)


def _key(where: str, rendered: Rendered) -> bytes:
    """A hash of all that a document is tokenised from."""
    try:
        return rendered.key
    except UnicodeEncodeError as error:
        what = f"has half of a surrogate pair at character {error.start}, which is no text"
        raise fail(DataError, where, what, "Clean the record, or leave it out.") from None


def _held_out(section: Data, key: bytes) -> bool:
    """Whether a text of the sources to learn from is held out, by its own number, where a share of them is."""
    share = np.array([_share(key, section.seed)], dtype=np.uint64)
    return not section.validation_sources and bool(below(share, section.validation)[0])


def _share(key: bytes, seed: int) -> int:
    """A number of 64 bits that is as good as random."""
    return int.from_bytes(
        hashlib.blake2b(key, digest_size=8, salt=(seed & (1 << 128) - 1).to_bytes(16, "little")).digest()
    )


def _build(
    section: Data,
    readers: list[_Reader],
    tokenizer: Any,
    end: int | None,
    folder: Path,
    progress: Report,
    screen: Callable[..., screening.Screened],
) -> dict[str, Any]:
    began = reported = time.monotonic()
    with ExitStack() as stack:
        builder = _Builder(section, tokenizer, end, folder, stack)
        paces = [reader.pace for reader in readers]

        read = 0

        def report() -> None:
            nonlocal reported
            now = time.monotonic()
            if now - reported >= _SECONDS_BETWEEN_REPORTS:
                reported = now
                documents = read or builder.documents + len(builder.waiting)
                left, at_least = pace.left(paces, documents, section.max_documents)
                progress(_counted(documents, left, now - began), left, at_least or bool(read))

        def told(documents: int) -> None:
            nonlocal read
            read = documents
            report()

        for each in paces:
            each.told = report  # a record may take a minute
        # Of equal texts the first is kept: held out before learned from, labelled before not.
        groups = itertools.groupby(sorted(readers, key=_turn), _turn)
        documents: Iterator[tuple[str, Rendered, int]]
        documents = (each for _, group in groups for each in _rendered(list(group), tokenizer))
        screened = None
        if section.filters:
            screened = screen(documents, told=told)
            read, paces = 0, [pace.Pace()]
            documents = _kept(screened, paces[0])
        for where, rendered, side in documents:
            builder.add(where, rendered, side)
            if side == TRAIN and builder.learned + len(builder.waiting) >= (section.max_documents or sys.maxsize):
                builder.flush()  # some that wait may be dropped: count what is really there
                if builder.full:
                    break
            report()
        builder.flush()
        builder.augment(report)
    progress(_counted(builder.documents, 0.0, time.monotonic() - began), 0.0, False)
    facts: dict[str, Any] = {**builder.counts, **(screened.facts if screened else {})}
    numbers = {name: n for name, n in facts.items() if isinstance(n, int)}
    _refuse_too_little(builder.learned, numbers, held_out=bool(section.validation_sources))
    rows = column(folder, "documents", writable=True)
    if not section.validation_sources:
        _split(rows, section, None if screened is None else screened.moved)
    _refuse_empty_tasks(section.task_names, rows, builder.records_of)
    rows.flush()
    facts |= {
        "documents": len(rows),
        "without_label": int((~rows["truth"]).sum()),
        **_facts_of_sides(rows, section),
        **({"tasks": _task_facts(section.task_names, rows)} if section.task_names else {}),
        "end_token": None if end is None else tokenizer.convert_ids_to_tokens(end),
        "seconds": round(time.monotonic() - began, 3),
        "lengths": {name: c.length for name, c in builder.columns.items()},
    }
    _refuse_short(facts, section.block)
    if screened is not None:
        screened.log_removed(folder / "removed.jsonl")
    return facts


def _kept(screened: screening.Screened, own: pace.Pace) -> Iterator[tuple[str, Rendered, int]]:
    """What the filters kept; the time left is that of a source of so many documents."""
    with own.turn():
        for number, document in enumerate(screened.documents()):
            own.tell(number / len(screened))
            yield document
    own.finished = True


def _counted(documents: int, left: float | None, seconds: float) -> str:
    """How many documents; and at what rate, where that is all there is to judge the time left by."""
    rate = f", {documents / seconds:,.0f} a second" if left is None and documents >= seconds > 0.0 else ""
    return f"{documents:,} document{'' if documents == 1 else 's'}{rate}"


def _rendered(readers: list[_Reader], tokenizer: Any) -> Iterator[tuple[str, Rendered, int]]:
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


def _render_source(reader: _Reader, tokenizer: Any) -> Iterator[tuple[str, Rendered]]:
    return ((where, rendered) for _, where, rendered in _read(reader, tokenizer))


def _read(reader: _Reader, tokenizer: Any) -> Iterator[tuple[Record, str, Rendered]]:
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
            rendered = replace(rendered, task=reader.task, weight=_weight(record, reader.weight))
        except DataError as error:
            raise DataError(*(Problem(_join(where, p.where), p.what, p.way_out) for p in error.problems)) from None
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


def _refuse_too_little(documents: int, counts: dict[str, int], *, held_out: bool) -> None:
    left_out = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in counts.items() if n and name != "records")
    read = f"{counts['records']} records read{', ' + left_out if left_out else ''}"
    if not documents and counts["without_loss_dropped"]:
        raise fail(
            DataError,
            "data.sources",
            f"no label carries loss: all are masked ({read})",
            "Check that the answers are not empty and that conversations have turns of the role 'assistant'.",
        )
    if not documents:
        raise fail(DataError, "data.sources", f"there is no document to learn from ({read})")
    if documents < 2 and not held_out:
        raise fail(
            DataError,
            "data.sources",
            f"there is one document only, but one must be held out ({read})",
            r'Add text, or cut the file into documents: separator: "\n\n" cuts at empty lines.',
        )


def _refuse_empty_tasks(names: Sequence[str], rows: Any, records: Counter[int]) -> None:
    """Refuse tasks that have nothing to learn from; all of them at once."""
    there = set(np.unique(rows["task"][rows["side"] == TRAIN]).tolist())
    problems = [
        Problem(
            f"data.sources, task '{name}'",
            f"has no document to learn from ({records[task]} records read; others may have the same texts)",
            "See that its sources hold rows and that its format leaves answers with loss, or take the task out.",
        )
        for task, name in enumerate(names)
        if task not in there
    ]
    if problems:
        raise DataError(*problems)


def _task_facts(names: Sequence[str], documents: Any) -> dict[str, Any]:
    """Of each task what there is to learn from, and how much is held out."""
    facts: dict[str, Any] = {}
    for task, name in enumerate(names):
        mine = documents[documents["task"] == task]
        learned = mine[mine["side"] == TRAIN]
        facts[name] = {**_side_facts(learned), "held_out": len(mine) - len(learned)}
    return facts


def _split(rows: Any, section: Data, moved: Any) -> None:
    """Hold out the documents whose number says so; of each task at least one, and never all.

    Args:
        rows: of all documents; those to learn from with known labels are split, in place.
        section: the recipe's.
        moved: numbers of the documents whose side the filters changed, for they have looked at what is held out; None without.

    Raises:
        DataError: a side is empty, or would be but for a document of which others were made.
    """
    mine = np.flatnonzero((rows["side"] == TRAIN) & rows["truth"])
    share = rows["share"][mine]
    if not len(mine):
        raise fail(DataError, "data.sources", "no text has a label, and some must be held out", "Add labelled texts.")
    asked = below(share, section.validation)
    if moved is not None:  # no document changes its side any more
        out = asked ^ np.isin(share, moved)
        if out.all() or not out.any():
            what = "of the documents that the filters kept, those of one side were all dropped for other reasons"
            raise fail(DataError, "data.validation", what, "Raise it, or see the counts of what was dropped.")
    else:
        out = sides(share, rows["task"][mine], section.validation)
    if section.augment and (out != asked).any():
        what = f"is {section.validation:g}, which puts all labelled texts, or all of a task, on one side"
        raise fail(DataError, "data.validation", what, "Change it, or give data.validation_sources.")
    rows["side"][mine[out]] = VALIDATION


def _facts_of_sides(documents: Any, section: Data) -> dict[str, Any]:
    """What is on each side.

    Raises:
        DataError: nothing is.
    """
    found = {}
    for side, name in enumerate(("train", "validation", "test")):
        rows = documents[documents["side"] == side]
        if side == TEST and not section.test_sources:
            continue
        if not len(rows):
            what = f"hold no text that is not held out{' already' if side else ''}"
            raise fail(DataError, f"data.{name}_sources" if side else "data.sources", what, "Give each side its own.")
        found[name] = _side_facts(rows)
    return found


def _side_facts(documents: Any) -> dict[str, Any]:
    return {
        "documents": len(documents),
        "tokens": int(documents["length"].sum()),
        "loss_positions": int(documents["loss"].sum()),
        "bytes": int(documents["bytes"].sum()),
        "mean_document_tokens": round(float(documents["length"].mean()), 1),
    }


def _refuse_short(facts: dict[str, Any], block: int) -> None:
    tokens = facts["train"]["tokens"]
    if tokens < block:
        raise fail(
            DataError,
            "data.sources",
            f"there are only {tokens} tokens to train on, fewer than one block of {block}",
            f"Add text, or set data.block to {tokens} or less." if tokens >= 8 else "Add text.",
        )


def _open(folder: Path, section: Data, facts: dict[str, Any]) -> Corpus:
    from stillhouse.data.pieces import Pieces

    documents = column(folder, "documents")
    weights = {name: section.tasks[name].weight if name in section.tasks else 1.0 for name in section.task_names}
    arrays = (column(folder, "inputs"), column(folder, "labels"), column(folder, "bytes"))

    def pieces(chosen: Any, *, in_turn: bool = False) -> Pieces:
        rows = documents[chosen]
        rows = rows[np.argsort(rows["share"], kind="stable")]
        return Pieces(*arrays, _in_turn(rows) if in_turn else rows, section.block, weights)

    train = pieces(documents["side"] == TRAIN)
    validation, test = (pieces(documents["side"] == side, in_turn=True) for side in (VALIDATION, TEST))
    labelled = train if documents["truth"].all() else pieces((documents["side"] == TRAIN) & documents["truth"])
    return Corpus(train, labelled, validation, test if test.documents else validation, facts, _texts(folder, documents))


def _in_turn(rows: Any) -> Any:
    """The documents so ordered that any beginning holds about as many tokens of each task, as long as they last."""
    before = np.empty(len(rows), dtype=np.int64)
    for task in np.unique(rows["task"]):
        mine = rows["task"] == task
        before[mine] = np.cumsum(rows["length"][mine]) - rows["length"][mine]
    return rows[np.argsort(before, kind="stable")]


def _texts(folder: Path, documents: Any) -> Callable[[str], str]:
    """Look a text up by its document's key."""
    texts, ends = column(folder, "texts"), column(folder, "text_ends")
    rows: dict[str, int] = {}

    def text_of(key: str) -> str:
        if not rows:
            rows.update((each.tobytes().hex(), row) for row, each in enumerate(documents["key"]))
        row = rows[key]
        return texts[int(ends[row - 1]) if row else 0 : int(ends[row])].tobytes().decode()

    return text_of
