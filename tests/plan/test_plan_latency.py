"""The law of latency: what is fitted must be what was there."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from shared import make_llama
from zoo import make

from stillhouse.plan.latency import CORNERS, Law, Timed, fit, measure
from stillhouse.plan.sizes import Tally, tally

SHAPES = [(2, 1_000_000), (12, 2_000_000), (2, 17_000_000), (12, 52_000_000), (2, 6_000_000), (6, 9_000_000), (12, 13_000_000)]  # fmt: skip


def made(start: float, per_layer: float, per_weight: float, noise: float = 0.0) -> list[Timed]:
    dice = random.Random(0)
    return [
        Timed(layers, used, (start + per_layer * layers + per_weight * used) * (1 + noise * dice.uniform(-1, 1)))
        for layers, used in SHAPES
    ]


@pytest.mark.parametrize(
    ("start", "per_layer", "per_weight"),
    [
        (2e-4, 3e-4, 7e-10),
        (0.0, 3e-4, 7e-10),
        (1e-3, 0.0, 7e-10),
        (1e-3, 1e-4, 0.0),
        (0.0, 0.0, 1e-9),
        (5e-3, 0.0, 0.0),
    ],
)
def test_a_synthetic_law_is_recovered(start: float, per_layer: float, per_weight: float):
    law = fit(made(start, per_layer, per_weight))
    assert law.start == pytest.approx(start, rel=1e-6, abs=1e-10)
    assert law.per_layer == pytest.approx(per_layer, rel=1e-6, abs=1e-10)
    assert law.per_weight == pytest.approx(per_weight, rel=1e-6, abs=1e-17)
    assert law.error < 1e-6


def test_numbers_are_never_negative_and_noise_shows_as_error():
    quiet, loud = fit(made(1e-4, 2e-4, 7e-10, noise=0.02)), fit(made(1e-4, 2e-4, 7e-10, noise=0.4))
    for law in (quiet, loud):
        assert min(law.start, law.per_layer, law.per_weight) >= 0.0
    assert quiet.error < 0.06 < loud.error
    falling = [Timed(layers, used, 1.0 / used) for layers, used in SHAPES]
    assert min(fit(falling).start, fit(falling).per_layer, fit(falling).per_weight) >= 0.0


def test_the_error_is_that_of_models_left_out():
    """One model between the extremes that does not follow is seen, although the whole fit bends towards it."""
    timed = made(1e-4, 2e-4, 7e-10)
    odd = timed[CORNERS + 1]
    timed[CORNERS + 1] = Timed(odd.layers, odd.used, 2 * odd.seconds)
    assert fit(timed).error == pytest.approx(0.5, abs=0.02)


def test_the_law_is_a_sum():
    assert Law(1.0, 2.0, 3.0, 0.0, ()).seconds(Tally(100, 7, 0, {}, 5, 0)) == 1.0 + 2.0 * 5 + 3.0 * 7


def test_more_layers_or_weights_never_take_less():
    law = fit(made(1e-4, 2e-4, 7e-10, noise=0.3))
    sizes = [Tally(10 * n, n, 0, {}, layers, 0) for n, layers in ((10, 1), (20, 1), (20, 4), (10_000_000, 4))]
    assert all(a <= b for a, b in pairwise(law.seconds(size) for size in sizes))


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3", "bert-classifier"])
def test_a_real_measurement_says_something(name: str, tokenizer):
    law = measure(make(name, tokenizer))
    assert len(law.timed) == 7
    assert 0.0 < law.seconds(tally(make(name, tokenizer))) < 1.0
    assert math.isfinite(law.error)


def test_measuring_leaves_the_teacher_alone(tokenizer):
    teacher = make_llama(tokenizer)
    before = {name: parameter.clone() for name, parameter in teacher.named_parameters()}
    config = teacher.config.to_dict()
    measure(teacher)
    assert teacher.config.to_dict() == config
    assert all(parameter.equal(before[name]) for name, parameter in teacher.named_parameters())


def test_the_law_in_words():
    words = str(Law(1e-4, 2e-4, 7e-10, 0.07, tuple(made(0, 1e-4, 1e-9))))
    assert words.startswith("0.10 ms + 0.200 ms a layer + 0.70 ms a million weights")
    assert "7 %" in words
