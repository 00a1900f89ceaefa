"""The guide's rules as numbers."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from stillhouse.objective import terms_of
from stillhouse.plan.strategy import expected, preferred, prescribe, stages_of
from stillhouse.recipe import Objective


@pytest.mark.parametrize(
    ("ratio", "low", "high"),
    [(3, 0.95, 0.98), (4, 0.95, 0.98), (5.0, 0.95, 0.98), (10, 0.90, 0.95), (20, 0.90, 0.95), (50, 0.80, 0.90), (100, 0.80, 0.90)],
)  # fmt: skip
def test_the_guides_bands(ratio: float, low: float, high: float):
    band = expected(ratio)
    assert (band.low, band.high) == (low, high)
    assert "guide" in band.source and "not measured here" in band.source


def test_expectations_fall_with_compression_and_never_jump_up():
    bands = [expected(math.exp(i / 50)) for i in range(int(50 * math.log(110)))]
    for a, b in pairwise(bands):
        if b.low is not None:
            assert a.low is not None and b.low <= a.low + 1e-12
        assert b.high <= a.high + 1e-12
    assert expected(1.0).low == expected(1.0).high == 1.0


def test_between_bands_is_said_to_be_interpolated():
    middle = expected(math.sqrt(5 * 10))
    assert middle.low == pytest.approx((0.95 + 0.90) / 2)
    assert middle.high == pytest.approx((0.98 + 0.95) / 2)
    assert "interpolated" in middle.source


def test_beyond_the_guide_nothing_is_promised():
    assert expected(200).low is None
    assert "beyond the guide" in expected(200).source


@pytest.mark.parametrize(("ratio", "name"), [(1.5, "conservative"), (4, "conservative"), (7, "conservative"), (7.1, "moderate"), (10, "moderate"), (20, "moderate"), (31, "moderate"), (32, "aggressive"), (100, "aggressive")])  # fmt: skip
def test_the_nearest_bands_strategy(ratio: float, name: str):
    assert prescribe(ratio).name == name


@pytest.mark.parametrize(("ratio", "low", "high"), [(4, 0.8, 0.9), (12, 0.5, 0.7), (60, 0.5, 0.5)])
def test_alpha_is_in_the_guides_range(ratio: float, low: float, high: float):
    way = prescribe(ratio)
    soft = terms_of(Objective(alpha=way.alpha))[0]
    assert low <= soft.weight(0.0) <= high


def test_features_and_stages_as_the_guide_has_them():
    conservative, moderate, aggressive = prescribe(4), prescribe(12), prescribe(60)
    assert not conservative.features and moderate.features and aggressive.features
    assert (conservative.stages, moderate.stages) == (1, 1)
    assert aggressive.stages >= 2
    assert [p.quantise for p in (conservative, moderate, aggressive)] == [False, False, True]
    for way in (conservative, moderate, aggressive):
        assert {"strategy", "alpha", "soft"} <= set(way.why)


@pytest.mark.parametrize("ratio", [25, 36, 40, 49, 125, 200, 343])
def test_a_stage_is_about_five_to_seven_times_smaller(ratio: float):
    step = ratio ** (1 / stages_of(ratio))
    assert 4.9 < step < 7.3


def test_a_latency_prefers_fewer_layers():
    assert preferred("aggressive", fast=True)[0][0] == "depth"
    assert preferred("aggressive", fast=False)[0][0] == "balanced"
    assert preferred("conservative", fast=False)[0][0] == "depth"
