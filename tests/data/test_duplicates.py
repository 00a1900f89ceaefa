"""Duplicates: planted ones are found, nothing else is lost, and the first of each is kept."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.data.filters.near_duplicates import RECALL, rows_of_band
from stillhouse.data.grams import words
from stillhouse.data.render import Rendered
from stillhouse.find import find

pytest.importorskip("rensa")
from stillhouse.data.filters.near_duplicates import near_duplicates

LETTERS = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in "nrst"]


class Table:
    """All measurements in memory."""

    def __init__(self, texts: list[str], filter_: Any) -> None:
        self.texts = texts
        self.rows = filter_.measure([Rendered(t) for t in texts])
        self.stays = np.zeros(len(texts), dtype=bool)

    def __len__(self) -> int:
        return len(self.texts)

    def column(self, index: int) -> Any:
        return self.rows[:, index]

    def document(self, row: int) -> Rendered:
        return Rendered(self.texts[row])

    def where(self, row: int) -> str:
        return f"record {row}"


def removed(texts: list[str], name: str = "near_duplicates", **options: Any) -> dict[int, str]:
    filter_ = find("filter", name)(**options)
    return {each.row: each.why for each in filter_.judge(Table(texts, filter_))}


def shingles(text: str, n: int) -> set[tuple[str, ...]]:
    parts = words(text)
    return {tuple(parts[i : i + n]) for i in range(max(len(parts) - n + 1, min(len(parts), 1)))}


def likeness(one: str, other: str, n: int) -> float:
    a, b = shingles(one, n), shingles(other, n)
    return len(a & b) / len(a | b) if a | b else 0.0


def fresh(draw: random.Random, length: int) -> list[str]:
    return [draw.choice(LETTERS) for _ in range(length)]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), threshold=st.sampled_from([0.5, 0.7, 0.8, 0.9, 1.0]), run=st.integers(1, 5))
def test_what_is_removed_is_as_alike_as_was_asked_for_and_what_is_kept_is_not_lost(
    seed: int, threshold: float, run: int
) -> None:
    """No false alarm at all, whatever MinHash says: each removed document is so alike to an earlier one that is kept."""
    draw = random.Random(seed)
    texts: list[str] = []
    for _ in range(40):
        kind = draw.random()
        if texts and kind < 0.5:  # an earlier one with some words changed
            parts = draw.choice(texts).split()
            for _ in range(draw.randint(0, 6)):
                parts[draw.randrange(len(parts))] = draw.choice(LETTERS)
            texts.append(" ".join(parts))
        else:
            texts.append(" ".join(fresh(draw, draw.randint(1, 60))))
    gone = removed(texts, threshold=threshold, run=run)
    for row, why in gone.items():
        like = int(why.rpartition(" ")[2])
        assert like < row and like not in gone
        assert likeness(texts[row], texts[like], run) >= threshold


def test_planted_copies_are_found() -> None:
    """Of pairs well above the threshold all, of pairs at it more than the stated share."""
    draw = random.Random(1)
    originals = [fresh(draw, 100) for _ in range(300)]
    near, at = [], []
    for parts in originals:
        copy = list(parts)
        copy[draw.randrange(5, 95)] = "changed"  # 5 of 96 runs: 91/101 = 0.90
        near.append(" ".join(copy))
        copy = list(parts)
        for place in (20, 60):  # 10 of 96 runs: 86/106 = 0.81
            copy[place + draw.randrange(10)] = "changed"
        at.append(" ".join(copy))
    texts = [" ".join(parts) for parts in originals]
    assert all(0.8 <= likeness(a, b, 5) < 0.82 for a, b in zip(texts, at, strict=True))
    gone = removed(texts + near, threshold=0.8)
    assert list(gone) == list(range(300, 600))
    gone = removed(texts + at, threshold=0.8)
    assert min(gone) >= 300 and len(gone) >= 300 * RECALL - 3


def test_the_first_of_a_chain_is_kept_and_what_is_unlike_it_too() -> None:
    """a ~ b ~ c with a ≁ c: b goes for a, and c stays, since nothing that is kept is like it."""
    parts = fresh(random.Random(2), 100)
    a, b, c = (list(parts) for _ in range(3))
    b[10], c[10], c[50] = "x", "x", "y"
    texts = [" ".join(each) for each in (a, b, c)]
    assert [round(likeness(texts[i], texts[j], 5), 2) for i, j in ((0, 1), (1, 2), (0, 2))] == [0.9, 0.9, 0.81]
    assert list(removed(texts, threshold=0.85)) == [1]
    assert list(removed(texts, threshold=0.8)) == [1, 2]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("permutations", [16, 128, 256])
def test_bands_find_what_is_at_the_threshold(threshold: float, permutations: int) -> None:
    rows = rows_of_band(threshold, permutations)
    bands = permutations // rows
    found = 1 - (1 - threshold**rows) ** bands
    assert found >= RECALL or rows == 1
    wider = rows + 1
    if wider <= permutations and threshold < 1:
        assert 1 - (1 - threshold**wider) ** (permutations // wider) < RECALL or permutations % wider


def test_texts_without_words_are_no_duplicates() -> None:
    assert removed(["...", "!!!", "...", "", "---"], threshold=0.5) == {}


def test_short_texts_are_compared_whole() -> None:
    assert list(removed(["two words", "Two words!", "two other", "words two"], threshold=0.8)) == [1]


def test_signatures_estimate_likeness() -> None:
    """The library does what this filter needs of it: places where two signatures agree are as many as the sets are alike."""
    filter_ = near_duplicates(threshold=0.3, run=1, permutations=1024)  # rows of one: a key for each permutation
    assert rows_of_band(0.3, 1024) <= 4
    draw = random.Random(3)
    base = random.Random(4).sample(LETTERS, 100)
    for shared in (20, 50, 80):
        other = base[:shared] + [f"new{i}" for i in range(100 - shared)]
        draw.shuffle(other)
        keys = filter_.measure([Rendered(" ".join(base)), Rendered(" ".join(other))])
        rows = rows_of_band(0.3, 1024)
        alike = (shared / (200 - shared)) ** rows
        agree = float(np.mean(keys[0] == keys[1]))
        assert agree == pytest.approx(alike, abs=4 * (alike * (1 - alike) / keys.shape[1]) ** 0.5 + 1e-9)


# ---- equal but for spacing, case or punctuation


@given(st.lists(st.text("aB .!\n", max_size=6), max_size=12))
def test_exact_duplicates(texts: list[str]) -> None:
    for ignore, plain in (("punctuation", lambda t: tuple(words(t))), ("spacing", lambda t: tuple(t.split()))):
        seen: set[Any] = set()
        expected = []
        for i, text in enumerate(texts):
            if plain(text) in seen:
                expected.append(i)
            elif plain(text):
                seen.add(plain(text))
        assert list(removed(texts, "exact_duplicates", ignore=ignore)) == expected


def test_code_is_compared_with_its_punctuation_if_asked() -> None:
    texts = ["x = a + b", "x = a - b", "x  =  a + b"]
    assert list(removed(texts, "exact_duplicates")) == [1, 2]
    assert list(removed(texts, "exact_duplicates", ignore="spacing")) == [2]
