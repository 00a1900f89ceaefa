"""Goals in the words people use."""

from __future__ import annotations

import pytest

from stillhouse.errors import RecipeError
from stillhouse.plan.goal import KINDS, parse


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("10x", "ratio", 10),
        ("10×", "ratio", 10),
        ("2.5 X", "ratio", 2.5),
        ("10 times smaller", "ratio", 10),
        ("20M", "parameters", 20_000_000),
        ("20 M parameters", "parameters", 20_000_000),
        ("1.5B", "parameters", 1_500_000_000),
        ("20,000,000", "parameters", 20_000_000),
        ("20_000_000 params", "parameters", 20_000_000),
        ("300k", "parameters", 300_000),
        ("p50 30 ms per token", "latency", 0.030),
        ("30ms", "latency", 0.030),
        ("0.5 s per token", "latency", 0.5),
        ("30 ms/token", "latency", 0.030),
        ("12 ms a text", "latency", 0.012),
        ("50 tokens/s", "latency", 0.02),
        ("50 tokens per second", "latency", 0.02),
        ("8M tokens", "tokens", 8_000_000),
        ("5000 tokens", "tokens", 5000),
        ("4 h", "time", 14400),
        ("90 minutes", "time", 5400),
        ("30 s", "time", 30),
        ("2 days", "time", 172800),
        ("1.5 hours of training", "time", 5400),
    ],
)
def test_what_is_meant(text: str, kind: str, value: float):
    goal = parse(text)
    assert (goal.kind, goal.text) == (kind, text)
    assert goal.value == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "kind", "value", "precision"),
    [
        ("200 MB", "file", 200e6, "int8"),
        ("200MB int4", "file", 200e6, "int4"),
        ("0.5 GB as f16", "file", 5e8, "f16"),
        ("200 MiB bf16", "file", 200 * 1024 * 1024, "f16"),
        ("500 kB q4_0", "file", 500e3, "int4"),
        ("1 GB of memory", "memory", 1e9, "int8"),
        ("1 GB RAM int4", "memory", 1e9, "int4"),
        ("memory 512 MiB", "memory", 512 * 1024 * 1024, "int8"),
        ("phone", "memory", 2e9, "int8"),
        ("Edge float16", "memory", 512e6, "f16"),
    ],
)
def test_bytes_have_a_precision(text: str, kind: str, value: float, precision: str):
    goal = parse(text)
    assert (goal.kind, goal.precision) == (kind, precision)
    assert goal.value == pytest.approx(value)
    assert precision in str(goal) or any(word in str(goal) for word in ("bf16", "q4_0", "float16"))


@pytest.mark.parametrize(
    ("text", "way_out"),
    [
        ("20m", "'20M' for millions of parameters, '20 min' for minutes"),
        ("10", "'10x'"),
        ("small", "Goals look like"),
        ("", "Goals look like"),
        ("-3x", "Goals look like"),
        ("0x", "more than zero"),
        ("0 MB", "more than zero"),
        ("0 tokens/s", "more than zero"),
        ("200 MB int3", "Precisions: f32, f16, int8, int4"),
        ("phone int2", "Precisions"),
        ("1e999x", "more than zero"),
        ("ten x", "Goals look like"),
        ("10x 20M", "Goals look like"),
    ],
)
def test_what_cannot_be_understood_names_what_can(text: str, way_out: str):
    with pytest.raises(RecipeError) as caught:
        parse(text)
    assert way_out in str(caught.value)
    assert f"'{text}'" in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_the_examples_are_of_their_kind(kind: str):
    assert parse(KINDS[kind]).kind == kind
