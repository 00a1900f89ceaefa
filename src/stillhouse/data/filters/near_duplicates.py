"""Documents that are nearly an earlier one: found by MinHash, and compared before they are removed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain, groupby
from typing import Annotated

import numpy as np
from pydantic import Field

from stillhouse.data.grams import Hashes, hashed, own_words, runs, twins
from stillhouse.data.judging import Filter, Measured, Removed
from stillhouse.data.render import Rendered
from stillhouse.errors import RecipeError, fail

RECALL = 0.99
"""Probability, at least, that two documents which are just as alike as the threshold share a band."""
_SEED = 1
_REMEMBERED = 4096
_STEP = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)


def near_duplicates(
    *,
    threshold: Annotated[float, Field(ge=0.3, le=1.0)] = 0.8,
    run: Annotated[int, Field(ge=1)] = 5,
    permutations: Annotated[int, Field(ge=16, le=1024)] = 128,
) -> Filter:
    """Documents that share most of their runs of words with an earlier one that is kept (Broder 1997).

    Likeness is the Jaccard index: runs that both have over runs that either has. MinHash signatures, cut into bands, find
    pairs that may be alike in time that grows as the number of documents (Leskovec et al., Mining of Massive Datasets,
    chapter 3); each pair is then compared by all its runs. So what is removed is as alike as the threshold says; a pair
    just at the threshold is missed with a probability below 1 %, one that is more alike with less.

    Args:
        threshold: the likeness from which the later document is removed.
        run: words of a run; of a document with fewer words, all of them are one run.
        permutations: length of a signature: a longer one misses less and takes longer.

    Raises:
        RecipeError: rensa, which makes the signatures, is not installed.
    """
    try:
        from rensa import RMinHash
    except ImportError as error:
        way_out = "pip install 'stillhouse[filters]'"
        raise fail(RecipeError, "name", f"near duplicates cannot be found: {error}", way_out) from None
    rows = rows_of_band(threshold, permutations)
    bands = permutations // rows

    def measure(documents: Sequence[Rendered]) -> Hashes:
        runs_R, borders_D1 = runs(*own_words(documents), run)
        signatures = RMinHash.digest_matrix_from_flat_token_hashes(
            runs_R, borders_D1.astype(np.uint64), permutations, _SEED
        )
        numbers = chain.from_iterable(signatures.to_rows())
        values_DP = np.fromiter(numbers, np.uint64, len(documents) * permutations).reshape(-1, permutations)
        keys_DB = np.zeros((len(documents), bands), dtype=np.uint64)
        for row in range(rows):
            keys_DB = (keys_DB + values_DP[:, row : bands * rows : rows]) * _STEP
            keys_DB ^= keys_DB >> np.uint64(32)
        return keys_DB

    def judge(measured: Measured) -> Iterator[Removed]:
        @lru_cache(_REMEMBERED)
        def of(row: int) -> Hashes:
            return np.unique(runs(*hashed([measured.document(row).words]), run)[0])

        taken = np.arange(
            len(measured), dtype=np.int32
        )  # of a removed document the one that it is like; of all others itself
        stays = measured.stays
        for later, earlier in _candidates(measured, bands):
            if stays[later]:
                continue
            for row in dict.fromkeys(taken[earlier].tolist()):
                likeness = jaccard(of(later), of(row))
                if likeness >= threshold:
                    taken[later] = row
                    why = f"{likeness:.0%} of its runs of {run} words are shared with {measured.where(row)}"
                    yield Removed(later, why, like=row)
                    break

    return Filter(measure, judge, compares=True, quick=True)


def rows_of_band(threshold: float, permutations: int) -> int:
    """The largest r with 1 − (1 − tʳ)ᵇ ≥ ``RECALL``, b = permutations / r: as few false pairs as that allows."""
    possible = [r for r in range(1, permutations + 1) if 1.0 - (1.0 - threshold**r) ** (permutations // r) >= RECALL]
    return max(possible, default=1)


def jaccard(one: Hashes, other: Hashes) -> float:
    """What two sets share over what they hold together; 0 for two empty ones."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    together = len(one) + len(other) - shared
    return shared / together if together else 0.0


def _candidates(measured: Measured, bands: int) -> Iterator[tuple[int, list[int]]]:
    """The rows that share a band with earlier ones, ascending, each with those: the first of the band and the one before it."""
    pairs: Hashes = np.zeros(0, dtype=np.uint64)  # two rows in one number: the later above the earlier
    for band in range(bands):
        later, first, before = twins(measured.column(band))
        above = later.astype(np.uint64) << _HALF
        pairs = np.unique(np.concatenate([pairs, above | first.astype(np.uint64), above | before.astype(np.uint64)]))
    found = ((int(pair) >> 32, int(pair) & 0xFFFFFFFF) for pair in pairs)
    for row, group in groupby(found, key=lambda pair: pair[0]):
        yield row, [earlier for _, earlier in group]
