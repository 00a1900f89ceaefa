"""The accuracy of a classifier: every number by its definition, every verdict on made-up answers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from synthetic_tables import value

from stillhouse.evaluate import statistics
from stillhouse.evaluate.measures.accuracy import accuracy
from stillhouse.evaluate.measures.calibration import calibration
from stillhouse.evaluate.measures.fidelity import fidelity
from stillhouse.evaluate.records import Items, Scores


def table(n: int = 900, classes: int = 3, *, seed: int = 0, **rates: float) -> Items:
    """Texts with a class; who is right how often, partly on the same texts. ``floor`` says class 0."""
    rng = np.random.default_rng(seed)
    label = rng.choice(classes, n, p=[0.4, *[0.6 / (classes - 1)] * (classes - 1)])
    common = rng.random(n)
    roles = {}
    for role, rate in rates.items():
        mixed = np.where(rng.random(n) < 0.7, common, rng.random(n))
        right = (mixed < rate).astype(float)
        conf = rng.uniform(0.5, 1.0, n)
        roles[role] = Scores(-np.log(np.where(right > 0, conf, 0.1)), np.abs(right - 1), right, conf, conf, right)
    roles["floor"] = Scores(np.full(n, 1.0), correct=(label == 0).astype(float))
    document = np.arange(n)
    keys = np.array([f"k{i}" for i in document], dtype=object)
    return Items(document, keys, np.zeros(n, dtype=np.int64), label, None, roles)


def test_shares_are_counted():
    items = table(teacher=0.9, student=0.85, control=0.7)
    found = accuracy(items)
    for role in ("teacher", "student", "control", "floor"):
        right, total = 0, 0
        per_class: dict[int, list[float]] = {}
        for label, hit in zip(items.label.tolist(), items.roles[role].correct.tolist(), strict=True):
            right, total = right + hit, total + 1
            per_class.setdefault(label, []).append(hit)
        assert value(found, "accuracy", role) == pytest.approx(100 * right / total)
        balanced = sum(sum(hits) / len(hits) for hits in per_class.values()) / len(per_class)
        assert value(found, "accuracy, mean over classes", role) == pytest.approx(100 * balanced)
    t, s, c = (items.roles[role].correct.mean() for role in ("teacher", "student", "floor"))
    assert value(found, "accuracy kept above the floor", "student") == pytest.approx(100 * (s - c) / (t - c))
    assert value(found, "raw retention, student ÷ teacher", "student") == pytest.approx(100 * s / t)
    pairs = list(zip(items.roles["teacher"].correct.tolist(), items.roles["student"].correct.tolist(), strict=True))
    assert value(found, "texts that only the teacher has right", "student") == pairs.count((1.0, 0.0))
    assert value(found, "texts that only the student has right", "student") == pairs.count((0.0, 1.0))


def test_the_interval_is_that_of_paired_texts():
    items = table(teacher=0.9, student=0.8)
    (raw,) = [e for e in accuracy(items).estimates if e.label.startswith("raw retention")]
    s, t = items.roles["student"].correct, items.roles["teacher"].correct
    kept = [np.delete(s, i).sum() / np.delete(t, i).sum() for i in range(items.size)]  # the jackknife, text by text
    n = items.size
    se = np.sqrt((n - 1) / n * ((np.array(kept) - s.sum() / t.sum()) ** 2).sum())
    half = statistics.t_quantile(0.975, t.sum() - 1) * se  # a text that the teacher has wrong weighs nothing below
    assert (raw.low, raw.high) == pytest.approx((100 * (s.sum() / t.sum() - half), 100 * (s.sum() / t.sum() + half)))


@pytest.mark.parametrize(
    ("rates", "verdict"),
    [
        ({"teacher": 0.92, "student": 0.92}, "PASS"),
        ({"teacher": 0.92, "student": 0.6}, "FAIL"),
        ({"teacher": 0.38, "student": 0.38}, "UNINFORMATIVE"),
        ({"student": 0.8}, "DESCRIPTIVE"),
    ],
)
def test_verdicts(rates: dict[str, float], verdict: str):
    found = accuracy(table(**rates))
    assert found.verdict == verdict
    assert "right" in found.sentence or verdict == "UNINFORMATIVE"


def test_a_few_texts_decide_nothing():
    assert accuracy(table(60, teacher=0.92, student=0.86, seed=3)).verdict == "INCONCLUSIVE"


def test_a_high_floor_makes_the_raw_ratio_flatter():
    """Nine of ten texts of one class: a student that always says it keeps 92 % of the raw accuracy and none of the skill."""
    n = 1000
    label = (np.arange(n) % 10 == 0).astype(np.int64)
    floor = (label == 0).astype(float)
    teacher = np.where(np.arange(n) % 50 == 0, 0.0, 1.0)
    roles = {"teacher": Scores(teacher, correct=teacher), "student": Scores(floor, correct=floor), "floor": Scores(floor, correct=floor)}  # fmt: skip
    items = Items(np.arange(n), np.array([str(i) for i in range(n)], dtype=object), np.zeros(n, dtype=np.int64), label, None, roles)  # fmt: skip
    found = accuracy(items)
    assert value(found, "raw retention, student ÷ teacher", "student") == pytest.approx(100 * 900 / 980)
    assert value(found, "accuracy kept above the floor", "student") == pytest.approx(0.0)
    assert found.verdict == "FAIL"


def test_what_is_missing_is_said():
    items = table(teacher=0.9, student=0.8)
    bare = {**items.roles, "floor": Scores(items.roles["floor"].nll)}
    old = Items(items.document, items.key, items.position, items.label, None, bare)
    assert accuracy(old).verdict == "NOT MEASURED"
    assert "floor" in accuracy(old).reason


def test_everything_right_or_wrong_still_gives_numbers():
    for teacher, student in itertools.product((0.0, 1.1), repeat=2):
        found = accuracy(table(100, teacher=teacher, student=student))
        assert found.verdict in ("PASS", "FAIL", "UNINFORMATIVE", "INCONCLUSIVE")
        found.to_dict()


def test_fidelity_and_calibration_speak_of_classes():
    items = table(teacher=0.9, student=0.8)
    near = fidelity(items)
    told = str(near.to_dict())
    assert "draft" not in told
    assert value(near, "overlap with the teacher", "student") == pytest.approx(
        100 * items.roles["student"].accept.mean()
    )
    assert calibration(items).verdict in ("PASS", "FAIL", "INCONCLUSIVE")
