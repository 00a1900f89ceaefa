"""Words and runs of words, against the plainest way to write them down."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.data.grams import hashed, inside, mixed, runs, twins, windows, words

TEXTS = st.lists(st.lists(st.sampled_from("abcd"), max_size=12).map(" ".join), max_size=8)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't STOP, now!", ["don", "t", "stop", "now"]),
        ("  a\tb\n\nc ", ["a", "b", "c"]),
        ("ﬁne ＡＢＣ", ["fine", "abc"]),  # NFKC
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("漢字とkana", ["漢", "字", "と", "kana"]),
        ("привет мир", ["привет", "мир"]),
        ("...!?", []),
        ("", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@given(TEXTS, st.integers(1, 6))
def test_runs_are_equal_where_the_words_are(texts: list[str], n: int) -> None:
    """Two runs have one hash exactly if their words are equal; a text of fewer words is one run."""
    found, borders = runs(*hashed(texts), n)
    meant = []
    for text in texts:
        parts = text.split()
        count = len(parts) - n + 1 if len(parts) >= n else min(len(parts), 1)
        meant.append([tuple(parts[i : i + n]) for i in range(count)])
    assert np.diff(borders).tolist() == [len(each) for each in meant]
    flat = [run for each in meant for run in each]
    names: dict[int, tuple[str, ...]] = {}
    for number, run in zip(found.tolist(), flat, strict=True):
        assert names.setdefault(number, run) == run
    assert len(names) == len(set(flat))


@given(TEXTS, st.integers(1, 6))
def test_inside_never_crosses_a_border(texts: list[str], n: int) -> None:
    words_W, borders = hashed(texts)
    first, text = inside(borders, n)
    expected = [(int(borders[d]) + i, d) for d, t in enumerate(texts) for i in range(len(t.split()) - n + 1)]
    assert list(zip(first.tolist(), text.tolist(), strict=True)) == expected
    assert all(len(window) == len(words_W) - size + 1 for size, window in windows(words_W, n) if len(words_W))


@given(st.lists(st.integers(0, 5), max_size=20))
def test_twins(keys: list[int]) -> None:
    expected = [(i, keys.index(k), i - 1 - keys[:i][::-1].index(k)) for i, k in enumerate(keys) if k in keys[:i]]
    found = twins(np.array(keys, dtype=np.uint64))
    assert list(zip(*(each.tolist() for each in found), strict=True)) == expected


def test_hashes_are_the_same_in_every_process() -> None:
    code = "from stillhouse.data.grams import hashed; print(hashed(['the fox', 'é'])[0].tolist())"
    environment = {"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(sys.path)}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert said.stdout.strip() == str(hashed(["the fox", "é"])[0].tolist())


def test_mixed_spreads_neighbours_over_all_bits() -> None:
    bits = np.unpackbits((mixed(np.arange(4096, dtype=np.uint64))).view(np.uint8))
    assert abs(float(bits.mean()) - 0.5) < 0.01
