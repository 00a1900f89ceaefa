"""Diversity, against its formulas written out."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.data.diversity import compare, measure
from stillhouse.data.render import Rendered
from stillhouse.data.spool import Spool
from stillhouse.data.store import TRAIN

TEXTS = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=8), max_size=6)


def runs(document: list[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(document[i : i + n]) for i in range(len(document) - n + 1)]


def bleu(document: list[int], references: list[list[int]]) -> float:
    logs = []
    for n in (1, 2, 3, 4):
        own = Counter(runs(document, n))
        if not own:
            continue
        matched = sum(min(c, max(Counter(runs(r, n))[g] for r in references)) for g, c in own.items())
        total = sum(own.values())
        value = matched / total if n == 1 else (matched + 1) / (total + 1)
        logs.append(math.log(value) if value else -math.inf)
    nearest = min((abs(len(r) - len(document)), len(r)) for r in references)[1]
    return math.exp(min(0.0, 1 - nearest / len(document)) + sum(logs) / len(logs))


@given(TEXTS)
def test_measures(documents: list[list[int]]) -> None:
    found = measure(documents)
    for n in (1, 2, 3):
        every = [run for document in documents for run in runs(document, n)]
        value = found[f"distinct_{n}"]
        assert value == (pytest.approx(len(set(every)) / len(every), abs=1e-4) if every else None)
    if len(documents) < 2:
        assert found["self_bleu"] is None
    else:
        scores = [bleu(d, documents[:i] + documents[i + 1 :]) for i, d in enumerate(documents)]
        assert found["self_bleu"] == pytest.approx(sum(scores) / len(scores), abs=1e-4)


def test_equal_documents_are_not_diverse_and_different_ones_are() -> None:
    same, other = measure([[1, 2, 3, 4, 5]] * 10), measure([[i * 5 + j for j in range(5)] for i in range(10)])
    assert same["self_bleu"] == 1.0 and same["distinct_1"] == 0.1
    assert other["self_bleu"] == 0.0 and other["distinct_1"] == other["distinct_2"] == 1.0


def test_samples_are_of_equal_size(tmp_path: Path) -> None:
    texts = [f"word{i % 10} other{i % 10} third" for i in range(40)] + [f"new{i} fresh{i}" for i in range(10)]
    place = Spool(tmp_path)
    numbers = np.random.default_rng(0).integers(0, 2**63, len(texts))
    place.write(
        ((str(i), Rendered(t), TRAIN, int(n)) for i, (t, n) in enumerate(zip(texts, numbers, strict=True))),
        {"validation": 0.1},
    )
    kept = np.array([i < 10 or i >= 40 for i in range(50)])
    everything = np.ones(50, bool)
    found = compare(Spool(tmp_path), everything, kept)
    assert found["documents"] == 20 and 0 < found["words"] <= 60
    assert found["after"]["distinct_1"] > found["before"]["distinct_1"]
    assert found["after"]["self_bleu"] < found["before"]["self_bleu"]
    same = compare(Spool(tmp_path), everything, everything)
    assert same["before"] == same["after"]
