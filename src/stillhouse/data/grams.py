"""Texts as words and runs of words, as numbers: what duplicates, loops, contamination and diversity are found by.

A word is what is left between spaces and punctuation, in one case and one Unicode form; where a script writes no spaces
(Chinese, Japanese, Thai …) it is a character. A run of n words is a hash of 64 bits, the same in every process: two
different runs are taken for one about once in 2⁶⁴ pairs.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

from stillhouse.data.render import Rendered
from stillhouse.data.store import partitions

Hashes = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W{_UNSPACED}]+")
_STEP = np.uint64(0x9E3779B97F4A7C15)
_SPACES = {i: " " for i in range(128) if not (chr(i).isalnum() or chr(i) == "_")}
_MOST_REMEMBERED = 1 << 18
_TOGETHER = 256


class _Numbers(dict[str, int]):
    """A word → its hash, made when it is first asked for."""

    def __missing__(self, word: str) -> int:
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        number = self[word] = int.from_bytes(digest, "little")
        return number


_remembered = _Numbers()
_last: tuple[Sequence[Rendered], tuple[Hashes, Ints]] | None = None


def words(text: str) -> list[str]:
    """The words of a text, in order."""
    if text.isascii():
        return text.lower().translate(_SPACES).split()  # the same, several times as fast
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def hashed(texts: Sequence[str]) -> tuple[Hashes, Ints]:
    """The words of texts, one text after another.

    Args:
        texts: D of them.

    Returns:
        A hash of each word, [W]; where each text begins among them, and the end, [D + 1].
    """
    if len(_remembered) > _MOST_REMEMBERED:
        _remembered.clear()
    numbers, lengths = [np.zeros(0, dtype=np.uint64)], [0]
    for start in range(0, len(texts), _TOGETHER):  # words are larger than their hashes: few at a time
        said = [words(text) for text in texts[start : start + _TOGETHER]]
        lengths.extend(map(len, said))
        total = sum(lengths[start + 1 :])
        numbers.append(np.fromiter(map(_remembered.__getitem__, chain.from_iterable(said)), np.uint64, total))
    return np.concatenate(numbers), np.cumsum(lengths, dtype=np.int64)


def own_words(documents: Sequence[Rendered]) -> tuple[Hashes, Ints]:
    """As ``hashed``, of documents' own words; filters that look at the same documents one after another share what is found."""
    global _last
    if _last is None or _last[0] is not documents:
        _last = documents, hashed([each.words for each in documents])
    return _last[1]


def windows(words_W: Hashes, longest: int) -> Iterator[tuple[int, Hashes]]:
    """Of each length n from 1 on, what stands for the n words from each word on, [W − n + 1]; ``mixed`` makes a hash of it."""
    window = words_W.copy()
    yield 1, window
    for n in range(2, min(longest, len(words_W)) + 1):
        window = window[:-1] * _STEP + words_W[n - 1 :]
        yield n, window


def mixed(window: Hashes) -> Hashes:
    """Spread what a window stands for over all 64 bits (the finaliser of MurmurHash3)."""
    window = (window ^ (window >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    window = (window ^ (window >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return window ^ (window >> np.uint64(33))


def inside(borders_D1: Ints, n: int) -> tuple[Ints, Ints]:
    """The runs of n words that lie within one text.

    Args:
        borders_D1: where texts begin among the words, and the end.
        n: words of a run.

    Returns:
        The first word of each run, and its text; both [R], ascending.
    """
    count = np.maximum(np.diff(borders_D1) - n + 1, 0)
    text_R = np.repeat(np.arange(len(count)), count)
    before = np.cumsum(count) - count
    return borders_D1[:-1][text_R] + np.arange(len(text_R)) - before[text_R], text_R


def runs(words_W: Hashes, borders_D1: Ints, n: int) -> tuple[Hashes, Ints]:
    """The runs of n words of each text; of a text of fewer words the one run that it is.

    Args:
        words_W: hashes of the words of texts, one text after another.
        borders_D1: where each text begins among them, and the end.
        n: words of a run.

    Returns:
        A hash of each run, [R]; where each text begins among them, and the end, [D + 1].
    """
    length_D = np.diff(borders_D1)
    count_D = np.where(length_D >= n, length_D - n + 1, np.minimum(length_D, 1))
    starts_D1 = np.concatenate([[0], np.cumsum(count_D)])
    runs_R = np.zeros(int(starts_D1[-1]), dtype=np.uint64)
    for size, window in windows(words_W, n):
        if size == n:
            first_R, text_R = inside(borders_D1, n)
            runs_R[starts_D1[text_R] + first_R - borders_D1[text_R]] = mixed(window[first_R])
        else:
            short = np.flatnonzero(length_D == size)
            runs_R[starts_D1[:-1][short]] = mixed(window[borders_D1[:-1][short]])
    return runs_R, starts_D1


def wholes(words_W: Hashes, borders_D1: Ints) -> Hashes:
    """A hash of all words of each text, in their order."""
    length_D = np.diff(borders_D1)
    steps = np.cumprod(np.full(int(length_D.max(initial=0)) + 1, _STEP))
    place_W = np.arange(len(words_W)) - np.repeat(borders_D1[:-1], length_D)
    before_W1 = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(words_W * steps[place_W], dtype=np.uint64)])
    return mixed(before_W1[borders_D1[1:]] - before_W1[borders_D1[:-1]])


def twins(keys_D: Hashes) -> tuple[Ints, Ints, Ints]:
    """The rows whose key an earlier row has, ascending; of each the first row that has it, and the last one before.

    Memory beside that of the keys and of what is found: that of about a million keys.
    """
    found = []
    for rows in partitions(keys_D):
        order = rows[np.argsort(keys_D[rows], kind="stable")]
        ordered = keys_D[order]
        again = np.zeros(len(order), dtype=bool)
        again[1:] = ordered[1:] == ordered[:-1]
        start = np.maximum.accumulate(np.where(again, 0, np.arange(len(order))))
        at = np.flatnonzero(again)
        found.append((order[at], order[start[at]], order[at - 1]))
    later, first, before = (np.concatenate(each) for each in zip(*found, strict=True))
    by_row = np.argsort(later)
    return later[by_row], first[by_row], before[by_row]
