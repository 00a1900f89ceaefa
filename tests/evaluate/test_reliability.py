"""Calibration: what a perfect model scores, what a planted fault scores, and the definitions in loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stillhouse.evaluate import reliability


def perfect(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    conf = rng.beta(4, 2, n)
    return conf, (rng.random(n) < conf).astype(float)


def slow_error(conf: list[float], correct: list[float], bins: int) -> tuple[float, float]:
    """Equal-mass ℓ1 error and debiased ℓ2 error."""
    order = sorted(range(len(conf)), key=lambda i: conf[i])
    n, start, error, square = len(conf), 0, 0.0, 0.0
    for b in range(bins):
        size = n // bins + (1 if b < n % bins else 0)
        part = order[start : start + size]
        start += size
        accuracy = sum(correct[i] for i in part) / size
        claimed = sum(conf[i] for i in part) / size
        error += size / n * abs(accuracy - claimed)
        square += size / n * ((accuracy - claimed) ** 2 - accuracy * (1 - accuracy) / (size - 1))
    return error, square


@pytest.mark.parametrize(("n", "bins"), [(50, 1), (310, 6), (2000, 15)])
def test_error_by_its_definition(n: int, bins: int) -> None:
    conf, correct = perfect(n, n)
    got = reliability.calibration_error(conf, correct, replicates=50)
    assert got is not None
    error, square = slow_error(conf.tolist(), correct.tolist(), bins)
    assert got.value == pytest.approx(error)
    assert got.debiased_square == pytest.approx(square)
    assert got.excess == pytest.approx(got.value - got.null_mean)
    assert len(got.bins) == bins
    assert sum(b.n for b in got.bins) == n


def test_null_is_what_perfect_models_score() -> None:
    """At 300 items a perfect model scores about 0.05, and lies in its own band as often as promised."""
    scores, inside, small = [], 0, 0
    for seed in range(120):
        conf, correct = perfect(300, seed)
        got = reliability.calibration_error(conf, correct, seed=seed, replicates=400)
        assert got is not None
        scores.append(got.value)
        inside += got.null_low <= got.value <= got.null_high
        small += got.p <= 0.05
    assert 0.03 < float(np.mean(scores)) < 0.07
    assert float(np.mean(scores)) == pytest.approx(got.null_mean, rel=0.1)
    assert inside >= 108
    assert small <= 14


def test_null_redraws_each_item_with_its_own_confidence() -> None:
    """One bin of sure and unsure items: SD of the share right is √(p(1−p)/n) of each, not that of their mean ½."""
    conf = np.tile([0.1, 0.9], 49)
    got = reliability.calibration_error(conf, (conf > 0.5).astype(float), replicates=4000)
    assert got is not None
    assert len(got.bins) == 1
    spread = math.sqrt(0.1 * 0.9 / len(conf))
    assert got.null_mean == pytest.approx(spread * math.sqrt(2 / math.pi), rel=0.06)  # mean of |normal|


def test_over_confidence_leaves_the_band() -> None:
    conf, correct = perfect(2000, 1)
    got = reliability.calibration_error(np.clip(conf + 0.1, 0, 1), correct)
    assert got is not None
    assert got.value > got.null_high
    assert got.p < 0.01
    assert got.excess > 0.05
    assert any(not b.low <= b.accuracy <= b.high for b in got.bins)


def test_memory_is_bounded_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    conf, correct = perfect(400, 2)
    whole = reliability.calibration_error(conf, correct, replicates=100)
    monkeypatch.setattr(reliability, "_DRAWS", 500)
    assert reliability.calibration_error(conf, correct, replicates=100) == whole


def test_too_few_items_have_no_error() -> None:
    assert reliability.calibration_error(*perfect(49, 0)) is None


def test_brier_in_a_loop() -> None:
    conf, correct = perfect(200, 3)
    slow = sum((c - y) ** 2 for c, y in zip(conf, correct, strict=True)) / 200
    assert reliability.brier(conf, correct, np.arange(200)).value == pytest.approx(slow)


def test_cox_finds_the_planted_line() -> None:
    rng = np.random.default_rng(4)
    conf = rng.beta(3, 2, 20_000)
    logit = np.log(conf / (1 - conf))
    correct = (rng.random(20_000) < 1 / (1 + np.exp(-(0.3 + 0.7 * logit)))).astype(float)
    line = reliability.cox(conf, correct, np.arange(20_000))
    assert line is not None
    for got, true in zip(line, (0.3, 0.7), strict=True):
        assert got.low < true < got.high
        assert got.high - got.low < 0.2


def test_cox_is_the_maximum_of_the_likelihood() -> None:
    conf, correct = perfect(300, 5)
    line = reliability.cox(conf, correct, np.repeat(np.arange(30), 10))
    assert line is not None

    def likelihood(a: float, b: float) -> float:
        total = 0.0
        for c, y in zip(conf, correct, strict=True):
            p = 1 / (1 + math.exp(-(a + b * math.log(c / (1 - c)))))
            total += math.log(p if y else 1 - p)
        return total

    a, b = line[0].value, line[1].value
    best = likelihood(a, b)
    for da, db in ((0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01)):
        assert likelihood(a + da, b + db) < best


def test_cox_error_by_resampling_documents() -> None:
    rng = np.random.default_rng(6)
    index = np.repeat(np.arange(80), 25)
    conf = rng.beta(4, 2, 2000)
    shift = rng.normal(0, 0.8, 80)[index]  # some documents are easier than they look
    correct = (rng.random(2000) < 1 / (1 + np.exp(-(shift + np.log(conf / (1 - conf)))))).astype(float)
    line = reliability.cox(conf, correct, index)
    assert line is not None
    found = []
    for _ in range(300):
        rows = np.concatenate([np.flatnonzero(index == g) for g in rng.integers(0, 80, 80)])
        again = reliability.cox(conf[rows], correct[rows], np.arange(2000))
        assert again is not None
        found.append([again[0].value, again[1].value])
    spread = np.std(found, axis=0, ddof=1)
    assert line[0].se == pytest.approx(spread[0], rel=0.2)
    assert line[1].se == pytest.approx(spread[1], rel=0.2)


@pytest.mark.parametrize("case", ["all right", "all wrong", "one confidence", "one document", "separated"])
def test_cox_where_there_is_no_line(case: str) -> None:
    conf, correct = perfect(100, 7)
    cluster = np.arange(100)
    if case == "all right":
        correct = np.ones(100)
    elif case == "all wrong":
        correct = np.zeros(100)
    elif case == "one confidence":
        conf = np.full(100, 0.5)
    elif case == "one document":
        cluster = np.zeros(100)
    else:
        correct = (conf > 0.6).astype(float)
    assert reliability.cox(conf, correct, cluster) is None
