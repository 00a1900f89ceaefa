"""Scores that follow from which class was said: by their definitions, text by text; verdicts on made-up answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from synthetic_tables import value

from stillhouse.errors import RecipeError
from stillhouse.evaluate.measures.macro_f1 import macro_f1
from stillhouse.evaluate.measures.mcc import mcc
from stillhouse.evaluate.measures.out_of_scope import out_of_scope
from stillhouse.evaluate.records import Items, Scores

CLASSES = ["a", "b", "c", "oos"]


def table(n: int = 800, classes: int = 4, *, seed: int = 0, **rates: float) -> Items:
    """Who is right how often, and says any class otherwise. ``floor`` says class 0."""
    rng = np.random.default_rng(seed)
    label = rng.choice(classes, n, p=[0.4, *[0.6 / (classes - 1)] * (classes - 1)])
    common = rng.random(n)
    roles = {}
    for role, rate in {**rates, "floor": 0.0}.items():
        right = np.where(rng.random(n) < 0.7, common, rng.random(n)) < rate
        said = np.where(right, label, rng.integers(0, classes, n)) if role != "floor" else np.zeros(n, dtype=np.int64)
        roles[role] = Scores(np.ones(n), correct=(said == label).astype(float), said=said.astype(float))
    keys = np.array([f"k{i}" for i in range(n)], dtype=object)
    return Items(np.arange(n), keys, np.zeros(n, dtype=np.int64), label, None, roles)


def answers(items: Items, role: str) -> list[tuple[int, int]]:
    said = items.roles[role].said
    assert said is not None
    return list(zip(items.label.tolist(), said.astype(int).tolist(), strict=True))


def f1_by_hand(pairs: list[tuple[int, int]]) -> float:
    scores = []
    for c in {c for pair in pairs for c in pair}:
        hits = sum(t == s == c for t, s in pairs)
        said, true = sum(s == c for _, s in pairs), sum(t == c for t, _ in pairs)
        precision, recall = (hits / said if said else 0.0), (hits / true if true else 0.0)
        scores.append(2 * precision * recall / (precision + recall) if hits else 0.0)
    return sum(scores) / len(scores)


def mcc_by_hand(pairs: list[tuple[int, int]]) -> float:
    """The correlation of the two as indicator vectors, summed over classes."""
    classes = sorted({c for pair in pairs for c in pair})
    truth = np.array([[t == c for c in classes] for t, _ in pairs], dtype=float)
    said = np.array([[s == c for c in classes] for _, s in pairs], dtype=float)
    truth, said = truth - truth.mean(0), said - said.mean(0)
    return float((truth * said).sum() / math.sqrt((truth**2).sum() * (said**2).sum()))


def test_macro_f1_and_correlation_are_what_they_are_defined_to_be():
    items = table(teacher=0.85, student=0.7, control=0.6)
    for role in ("teacher", "student", "control", "floor"):
        pairs = answers(items, role)
        assert value(macro_f1(items), "macro-F1", role) == pytest.approx(100 * f1_by_hand(pairs))
        if role != "floor":
            assert value(mcc(items), "Matthews' correlation", role) == pytest.approx(mcc_by_hand(pairs))
    assert value(mcc(items), "Matthews' correlation", "floor") == 0.0


def test_of_two_classes_the_correlation_is_the_usual_one():
    items = table(classes=2, teacher=0.9, student=0.7)
    pairs = answers(items, "student")
    tp, tn, fp, fn = (pairs.count(each) for each in ((1, 1), (0, 0), (0, 1), (1, 0)))
    usual = (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert value(mcc(items), "Matthews' correlation", "student") == pytest.approx(usual)


def test_what_is_kept_is_the_ratio_above_the_floor_and_raw():
    items = table(teacher=0.9, student=0.8)
    t, s, c = (f1_by_hand(answers(items, role)) for role in ("teacher", "student", "floor"))
    found = macro_f1(items)
    assert value(found, "macro-F1 kept above the floor", "student") == pytest.approx(100 * (s - c) / (t - c))
    assert value(found, "raw retention of macro-F1", "student") == pytest.approx(100 * s / t)


def test_the_interval_covers_what_resampled_texts_give():
    """The paired ratio over texts drawn anew, in plain loops."""
    items = table(300, teacher=0.85, student=0.75)
    teacher, student = answers(items, "teacher"), answers(items, "student")
    rng = np.random.default_rng(5)
    ratios = []
    for _ in range(400):
        rows = rng.integers(0, 300, 300).tolist()
        ratios.append(mcc_by_hand([student[i] for i in rows]) / mcc_by_hand([teacher[i] for i in rows]))
    (raw,) = [e for e in mcc(items).estimates if e.label.startswith("raw") and e.role == "student"]
    assert raw.low is not None and raw.high is not None
    assert raw.low == pytest.approx(100 * np.quantile(ratios, 0.025), abs=3.0)
    assert raw.high == pytest.approx(100 * np.quantile(ratios, 0.975), abs=3.0)


@pytest.mark.parametrize(
    ("rates", "verdict"),
    [
        ({"teacher": 0.9, "student": 0.9}, "PASS"),
        ({"teacher": 0.9, "student": 0.5}, "FAIL"),
        ({"teacher": 0.02, "student": 0.02}, "UNINFORMATIVE"),
        ({"student": 0.8}, "DESCRIPTIVE"),
    ],
)
def test_verdicts(rates: dict[str, float], verdict: str):
    assert mcc(table(**rates)).verdict == verdict


def test_a_table_without_what_was_said_is_not_measured():
    items = table(student=0.8)
    bare = {role: Scores(scores.nll, correct=scores.correct) for role, scores in items.roles.items()}
    old = Items(items.document, items.key, items.position, items.label, None, bare)
    assert mcc(old).verdict == macro_f1(old).verdict == "NOT MEASURED"
    assert out_of_scope(old, CLASSES, outside="oos").verdict == "NOT MEASURED"


def test_recall_out_of_scope_is_counted():
    items = table(teacher=0.9, student=0.7)
    found = out_of_scope(items, CLASSES, outside="oos")
    for role in ("teacher", "student"):
        pairs = answers(items, role)
        outside = [s for t, s in pairs if t == 3]
        inside = [t == s for t, s in pairs if t != 3]
        said = [t for t, s in pairs if s == 3]
        assert value(found, "recall out of scope", role) == pytest.approx(100 * outside.count(3) / len(outside))
        assert value(found, "precision out of scope", role) == pytest.approx(100 * said.count(3) / len(said))
        assert value(found, "accuracy within scope", role) == pytest.approx(100 * sum(inside) / len(inside))
    lost = value(found, "recall out of scope lost, teacher − student", "student")
    both = [value(found, "recall out of scope", role) for role in ("teacher", "student")]
    assert lost == pytest.approx(both[0] - both[1])
    assert found.verdict == "DESCRIPTIVE"


def test_a_class_that_is_not_there_is_refused():
    with pytest.raises(RecipeError, match=r"(?s)no class 'oss'.*Did you mean 'oos'"):
        out_of_scope(table(student=0.5), CLASSES, outside="oss")
