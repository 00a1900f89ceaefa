"""How diverse text is: how many of its runs of words are new, and how much documents resemble each other.

Both depend on how much text they look at, so texts that are compared are cut to equal samples first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stillhouse.data.grams import hashed, inside, mixed, windows
from stillhouse.data.spool import Spool

DOCUMENTS = 256
"""Of a sample, at most."""
WORDS = 100
"""Of each document of a sample: its first ones."""
LONGEST = 4
"""Words of the longest run that documents are compared by."""
_AT_ONCE = 1 << 20


def compare(spool: Spool, before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """The diversity of all documents and of those that are kept, on equal samples.

    Args:
        spool: all documents.
        before: which there were to learn from, and to hold a share out of.
        after: which of these are kept.

    Returns:
        ``before`` and ``after``, as ``measure`` gives them, and the ``documents`` and ``words`` of each sample.
    """
    count = min(DOCUMENTS, int(after.sum()))
    texts = [
        [spool.document(number).rendered.words for number in _sample(spool.hashes, mask, count)]
        for mask in (before, after)
    ]
    cut = [_cut(hashed(side)) for side in texts]
    most = min((sum(map(len, side)) for side in cut), default=0)
    sides = [_first(side, most) for side in cut]
    return {
        "before": measure(sides[0]),
        "after": measure(sides[1]),
        "documents": count,
        "words": most,
    }


def measure(documents: Sequence[Sequence[int]]) -> dict[str, float | None]:
    """Distinct runs and likeness to each other.

    Args:
        documents: each a list of words, as numbers.

    Returns:
        ``distinct_n``, n = 1 … 3: different runs of n words over all runs of n words, from near 0 to 1 (Li et al. 2016).
        ``self_bleu``: mean over the documents of BLEU-4 with all others as references, from 0 to 1, higher is less diverse
        (Zhu et al. 2018); precisions of runs of two words and more are smoothed by one (Lin and Och 2004).
        None where there is nothing to count.
    """
    counted = [_counts(document) for document in documents]
    found: dict[str, float | None] = {}
    for n in (1, 2, 3):
        total = sum(sum(each[n].values()) for each in counted)
        different = len({run for each in counted for run in each[n]})
        found[f"distinct_{n}"] = round(different / total, 4) if total else None
    scores = _self_bleu(counted, [len(document) for document in documents])
    found["self_bleu"] = round(sum(scores) / len(scores), 4) if scores else None
    return found


def _sample(hashes_D: npt.NDArray[np.uint64], mask_D: npt.NDArray[np.bool_], count: int) -> list[int]:
    """So many rows of a mask: those with the lowest hash, looked for a part at a time."""
    best = np.zeros(0, dtype=np.int64)
    keys = np.zeros(0, dtype=np.uint64)
    for start in range(0, len(mask_D), _AT_ONCE):
        rows = start + np.flatnonzero(mask_D[start : start + _AT_ONCE])
        # not the hash itself: the lowest of these are the held-out documents
        best, keys = np.concatenate([best, rows]), np.concatenate([keys, mixed(np.asarray(hashes_D[rows]))])
        order = np.argsort(keys, kind="stable")[:count]
        best, keys = best[order], keys[order]
    found: list[int] = best.tolist()
    return found


def _cut(words: tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]) -> list[list[int]]:
    """The first words of each document."""
    words_W, borders_D1 = words
    return [
        words_W[a : min(b, a + WORDS)].tolist()
        for a, b in zip(borders_D1[:-1].tolist(), borders_D1[1:].tolist(), strict=True)
    ]


def _first(documents: list[list[int]], most: int) -> list[list[int]]:
    """As many words as another sample has; documents without any left out."""
    found = []
    for document in documents:
        part = document[:most]
        most -= len(part)
        if part:
            found.append(part)
    return found


def _counts(document: Sequence[int]) -> dict[int, dict[int, int]]:
    """Of each length, how often each run of so many words comes."""
    found: dict[int, dict[int, int]] = {n: {} for n in range(1, LONGEST + 1)}
    words_W = np.array(document, dtype=np.uint64)
    for n, window in windows(words_W, LONGEST):
        first_R, _ = inside(np.array([0, len(words_W)]), n)
        runs, counts = np.unique(mixed(window[first_R]), return_counts=True)
        found[n] = dict(zip(runs.tolist(), counts.tolist(), strict=True))
    return found


def _self_bleu(counted: Sequence[dict[int, dict[int, int]]], lengths: Sequence[int]) -> list[float]:
    """BLEU of each document with all others as references."""
    if len(counted) < 2:
        return []
    # of each run: its highest count in a document, that document, and the highest count in any other one
    most: dict[int, dict[int, tuple[int, int, int]]] = {n: {} for n in range(1, LONGEST + 1)}
    for d, each in enumerate(counted):
        for n, runs in each.items():
            for run, count in runs.items():
                first, of, second = most[n].get(run, (0, -1, 0))
                most[n][run] = (count, d, first) if count > first else (first, of, max(second, count))
    scores = []
    for d, each in enumerate(counted):
        logs = []
        for n, runs in each.items():
            total = sum(runs.values())
            if not total:
                continue
            matched = 0
            for run, count in runs.items():
                first, of, second = most[n][run]
                matched += min(count, second if of == d else first)
            smooth = n > 1
            logs.append(math.log((matched + smooth) / (total + smooth)) if matched + smooth else -math.inf)
        nearest = min((abs(other - lengths[d]), other) for o, other in enumerate(lengths) if o != d)[1]
        brevity = min(0.0, 1.0 - nearest / lengths[d])
        scores.append(math.exp(brevity + sum(logs) / len(logs)))
    return scores
