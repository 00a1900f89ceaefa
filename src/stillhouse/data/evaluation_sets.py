"""Texts to be evaluated on, as an index in which what is learned from can be looked up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stillhouse.data.grams import Hashes, Ints, hashed, inside, mixed, windows
from stillhouse.data.reading import files, matching
from stillhouse.errors import Problem
from stillhouse.find import find

KINDS = {
    ".txt": "text",
    ".txt.gz": "text",
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".ndjson": "jsonl",
    ".ndjson.gz": "jsonl",
    ".parquet": "parquet",
}
"""Ending of a file → the source that reads it."""

COMMON = 10
"""A run of words that stands in more evaluation texts than this is a turn of phrase and no sign of any of them."""

_TOGETHER = 4096


def kind_of(path: Path) -> str | None:
    """The source that reads a file; None if there is none for its ending."""
    return next((kind for ending, kind in KINDS.items() if path.name.lower().endswith(ending)), None)


def wrong_files(paths: Sequence[str]) -> list[Problem]:
    """What is wrong with the files named, before any is read."""
    problems = []
    for i, path in enumerate(paths):
        found = matching(path, tuple(KINDS))
        unknown = [file for file in found if kind_of(file) is None]
        if not found:
            problems.append(Problem(f"files.{i}", f"no file matches '{path}'", f"Paths start at {Path.cwd()}."))
        elif unknown:
            what = f"'{unknown[0].name}' is of no kind that can be read"
            problems.append(Problem(f"files.{i}", what, f"Possible endings: {', '.join(KINDS)}."))
    return problems


def texts_of(paths: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Every text in the records of files, at any depth, with the file's name and the number of the record.

    Raises:
        DataError: a file cannot be read.
    """
    for path in paths:
        for file in files(path, tuple(KINDS)):
            kind = kind_of(file)
            assert kind is not None
            for number, record in enumerate(find("source", kind)(path=str(file)), 1):
                for text in _texts_in(record):
                    yield f"{file.name}, record {number}", text


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts_in(inner)


@dataclass(frozen=True)
class Overlap:
    """How near each of D documents comes to an evaluation text.

    Args:
        score_D: shared runs over the runs of the shorter one, of the evaluation text with the highest.
        text_D: number of that text; −1 where nothing is shared.
    """

    score_D: npt.NDArray[np.float32]
    text_D: npt.NDArray[np.int32]


class Index:
    """Runs of words of evaluation texts, with the texts that they stand in.

    Of a text of at least ``run`` words, its runs of so many. Of one with fewer, but at least ``shortest``, all its words as
    one run. Of one with fewer still, and of every other too, that a whole document is nothing else.

    Args:
        texts: each with where it came from.
        run: words of a run.
        shortest: words of the shortest text that is looked for within documents.
    """

    def __init__(self, texts: Iterable[tuple[str, str]], run: int, shortest: int) -> None:
        self.run, self.shortest = run, min(shortest, run)
        self.where: list[str] = []
        keys: dict[int, list[Hashes]] = {}
        owners: dict[int, list[Ints]] = {}
        wholes: list[Hashes] = []
        for part in _parts(texts):
            first = len(self.where)
            self.where += [where for where, _ in part]
            words_W, borders_D1 = hashed([text for _, text in part])
            length_D = np.diff(borders_D1)
            wholes.append(whole_hashes(words_W, borders_D1))
            for n, window in windows(words_W, run):
                if n < self.shortest:
                    continue
                start_R, text_R = inside(borders_D1, n)
                right = length_D[text_R] == n if n < run else np.ones(len(text_R), dtype=bool)
                keys.setdefault(n, []).append(mixed(window[start_R[right]]))
                owners.setdefault(n, []).append(text_R[right] + first)
        every = np.concatenate([np.zeros(0, np.uint64), *wholes])
        self._whole, self._whole_text = np.unique(every, return_index=True)
        self._runs = {n: _Table(np.concatenate(keys[n]), np.concatenate(owners[n])) for n in keys}
        self._count_T = np.zeros(len(self.where), dtype=np.int64)
        for table in self._runs.values():
            self._count_T += np.bincount(table.texts, minlength=len(self.where))

    def overlap(self, documents: Sequence[str]) -> Overlap:
        """Look documents up."""
        words_W, borders_D1 = hashed(documents)
        length_D = np.diff(borders_D1)
        found = Overlap(np.zeros(len(documents), np.float32), np.full(len(documents), -1, np.int32))
        for n, window in windows(words_W, self.run):
            table = self._runs.get(n)
            if table is None:
                continue
            start_R, document_R = inside(borders_D1, n)
            runs_R = mixed(window[start_R])
            document_H, text_H = table.look_up(runs_R, document_R)
            pair_P, shared_P = np.unique(document_H * len(self.where) + text_H, return_counts=True)
            document_P, text_P = np.divmod(pair_P, len(self.where))
            # how many runs of this length the document has: repeated ones count, so the score is never too high
            own_P = np.maximum(length_D[document_P] - n + 1, 1)
            _best(found, document_P, shared_P / np.minimum(self._count_T[text_P], own_P), text_P)
        if len(self._whole):
            own_D = whole_hashes(words_W, borders_D1)
            at_D = np.minimum(np.searchsorted(self._whole, own_D), len(self._whole) - 1)
            rows = np.flatnonzero((self._whole[at_D] == own_D) & (length_D > 0))
            _best(found, rows, np.ones(len(rows)), self._whole_text[at_D[rows]])
        return found


class _Table:
    """Runs of one length, each with up to ``COMMON`` texts that it stands in."""

    def __init__(self, keys_R: Hashes, texts_R: Ints) -> None:
        order = np.lexsort((texts_R, keys_R))
        keys_R, texts_R = keys_R[order], texts_R[order]
        new = np.ones(len(keys_R), dtype=bool)
        new[1:] = (keys_R[1:] != keys_R[:-1]) | (texts_R[1:] != texts_R[:-1])
        keys_R, texts_R = keys_R[new], texts_R[new]
        self.keys, start, count = np.unique(keys_R, return_index=True, return_counts=True)
        rare = count <= COMMON
        self.keys, self.start, self.count = self.keys[rare], start[rare], count[rare]
        self._texts = texts_R
        # a bit for the top bits of every key: most words of most documents end here, at one look into memory
        self._shift = np.uint64(64 - max(10, min(27, int(np.ceil(np.log2(len(self.keys) * 8 + 1))))))
        self._maybe = np.zeros(1 << (64 - int(self._shift)), dtype=bool)
        self._maybe[self.keys >> self._shift] = True

    @property
    def texts(self) -> Ints:
        """The text of each pair of a run and a text."""
        return self._texts[_spread(self.start, self.count)]

    def look_up(self, runs_R: Hashes, document_R: Ints) -> tuple[Ints, Ints]:
        """The documents that hold a run and the texts that do, of each run of each document once."""
        likely = self._maybe[runs_R >> self._shift]
        runs_R, document_R = runs_R[likely], document_R[likely]
        at = np.minimum(np.searchsorted(self.keys, runs_R), len(self.keys) - 1)
        hit = self.keys[at] == runs_R if len(self.keys) else np.zeros(len(runs_R), dtype=bool)
        pairs = np.unique(document_R[hit] * max(len(self.keys), 1) + at[hit])
        document_H, run_H = np.divmod(pairs, max(len(self.keys), 1))
        return np.repeat(document_H, self.count[run_H]), self._texts[_spread(self.start[run_H], self.count[run_H])]


def whole_hashes(words_W: Hashes, borders_D1: Ints) -> Hashes:
    """A hash of all words of each text, in their order, [D]."""
    length_D = np.diff(borders_D1)
    place_W = (np.arange(len(words_W)) - np.repeat(borders_D1[:-1], length_D)).astype(np.uint64)
    before = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed(words_W ^ mixed(place_W + np.uint64(1))))])
    found: Hashes = mixed(before[borders_D1[1:]] - before[borders_D1[:-1]] + length_D.astype(np.uint64))
    return found


def _parts(texts: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    part: list[tuple[str, str]] = []
    for each in texts:
        part.append(each)
        if len(part) == _TOGETHER:
            yield part
            part = []
    yield part


def _spread(start: Ints, count: Ints) -> Ints:
    """The numbers start, start + 1, … of so many each, one range after another."""
    total = np.cumsum(count)
    return np.repeat(start - (total - count), count) + np.arange(int(total[-1]) if len(total) else 0)


def _best(found: Overlap, document_P: Ints, score_P: npt.NDArray[np.float64], text_P: Ints) -> None:
    """Keep of each document the text with the highest score; of equal ones the first."""
    order = np.lexsort((text_P, -score_P, document_P))
    document_P, score_P, text_P = document_P[order], score_P[order], text_P[order]
    first = np.ones(len(document_P), dtype=bool)
    first[1:] = document_P[1:] != document_P[:-1]
    better = first & (score_P > found.score_D[document_P])
    rows = document_P[better]
    found.score_D[rows], found.text_D[rows] = score_P[better], text_P[better]
