"""What holds for every layer map, weight and schedule, checked over the listings of their folders."""

from __future__ import annotations

import dataclasses
import inspect
import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from references import EXAMPLES
from shared import make_batch

from stillhouse.find import check_options, find, names
from stillhouse.types import Batch, Output, Signal

KINDS = ("layers", "weight", "schedule")


def options_of(kind: str, name: str) -> dict[str, Any]:
    return check_options(find(kind, name), EXAMPLES.get((kind, name), {}), kind)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in names(kind)])
def test_it_can_be_called_with_example_options(kind: str, name: str):
    needed = [
        p.name
        for p in inspect.signature(find(kind, name)).parameters.values()
        if p.kind is inspect.Parameter.KEYWORD_ONLY and p.default is inspect.Parameter.empty
    ]
    missing = set(needed) - set(EXAMPLES.get((kind, name), {}))
    assert not missing, (
        f"{kind} {name} has options without a default: give examples of {missing} in tests/references.py"
    )


@pytest.mark.parametrize("name", names("layers"))
@pytest.mark.parametrize(("student", "teacher"), [(1, 1), (1, 48), (12, 48), (5, 7), (12, 12), (24, 6), (2, 3)])
def test_maps_name_layers_that_exist_in_the_same_order(name: str, student: int, teacher: int):
    """Pitfall 16: counted from 1 to the last, the embedding is none of them."""
    function = find("layers", name)
    more = {}
    if "similarity_ST" in inspect.signature(function).parameters:
        more["similarity_ST"] = torch.rand(student, teacher, generator=torch.Generator().manual_seed(0))
    pairs = function(student, teacher, **more, **options_of("layers", name))
    assert pairs
    assert all(isinstance(layer, int) for pair in pairs for layer in pair)
    assert all(1 <= s <= student and 1 <= t <= teacher for s, t in pairs)
    for (s, t), (next_s, next_t) in pairwise(pairs):
        assert next_s > s and next_t > t


N, V = 6, 9


def signal_of(form: str, size: float = 3.0) -> Signal:
    logits = size * torch.randn(N, V, generator=torch.Generator().manual_seed(1))
    if form == "dense":
        return Signal(logits_NV=logits)
    if form == "bfloat16":
        return Signal(logits_NV=logits.bfloat16())
    k = int(form.removeprefix("topk").removeprefix("sampled"))
    log_p = torch.log_softmax(logits.double(), -1)
    top = log_p.topk(k)
    if form.startswith("sampled"):
        logp = torch.full((N, k), -math.log(k))
        return Signal(ids_NK=top.indices, logp_NK=logp, rest_N=torch.full((N,), -math.inf), sampled=True)
    rest = torch.log1p(-top.values.exp().sum(-1).clamp(max=1.0)).float()
    filled = torch.cat([top.values, torch.full((N, 1), -math.inf)], -1).float()
    return Signal(ids_NK=torch.cat([top.indices, torch.full((N, 1), -1)], -1), logp_NK=filled, rest_N=rest)


def weigh(name: str, signal: Signal, batch: Batch, start: int = 0, stop: int = N) -> torch.Tensor:
    function = find("weight", name)
    student = torch.randn(N, V, generator=torch.Generator().manual_seed(2))
    given = {
        "student": Output(student[start:stop]),
        "teacher": signal.rows(start, stop),
        "batch": batch.rows(start, stop),
        "counts_V": torch.arange(V),
    }
    wanted = {k: v for k, v in given.items() if k in inspect.signature(function).parameters}
    return function(**wanted, **options_of("weight", name))


@pytest.fixture
def batch() -> Batch:
    return dataclasses.replace(make_batch([2, 1, 3], V), tasks=("a", "b", ""))


@pytest.mark.parametrize("form", ["dense", "bfloat16", "topk1", "topk4", "topk9", "sampled1", "sampled3"])
@pytest.mark.parametrize("size", [3.0, 60.0])
@pytest.mark.parametrize("name", names("weight"))
def test_weights_are_one_finite_number_a_position_of_every_form(name: str, size: float, form: str, batch: Batch):
    value = weigh(name, signal_of(form, size), batch)
    assert value.shape == (N,)
    assert value.dtype == torch.float32
    assert torch.isfinite(value).all() and (value >= 0).all()


@pytest.mark.parametrize("form", ["dense", "topk4"])
@pytest.mark.parametrize("name", names("weight"))
def test_weights_do_not_depend_on_the_chunk(name: str, form: str, batch: Batch):
    signal = signal_of(form)
    parts = [weigh(name, signal, batch, start, start + 2) for start in (0, 2, 4)]
    torch.testing.assert_close(torch.cat(parts), weigh(name, signal, batch))


@pytest.mark.parametrize("name", names("schedule"))
def test_schedules_are_numbers_over_the_whole_run(name: str):
    function, options = find("schedule", name), options_of("schedule", name)
    for progress in (0.0, 0.1, 1 / 3, 0.5, 0.999, 1.0):
        value = function(progress, **options)
        assert isinstance(value, float) and math.isfinite(value)
