"""What the machine is asked, and what is made of the answers."""

from __future__ import annotations

import json
import time

import pytest
import torch

from stillhouse import machine


@pytest.mark.parametrize(
    ("full", "half", "chosen"), [(100.0, 149.0, "float32"), (100.0, 150.0, "bfloat16"), (80.0, 0.1, "float32")]
)
def test_bfloat16_must_be_worth_it(monkeypatch, full, half, chosen):
    monkeypatch.setattr(machine, "measure_gemm", lambda dtype, *a, **k: full if dtype == torch.float32 else half)
    choice = machine.choose_dtype("auto", "cpu")
    assert choice.dtype == chosen and f"{half:,.1f}" in choice.reason
    assert choice.torch == getattr(torch, chosen)


def test_what_is_asked_for_is_not_measured(monkeypatch):
    monkeypatch.setattr(machine, "measure_gemm", lambda *a, **k: pytest.fail("measured"))
    assert machine.choose_dtype("bfloat16", "cpu").dtype == "bfloat16"
    assert machine.choose_dtype("float32", "cpu").dtype == "float32"


def test_measuring_slow_arithmetic_takes_no_longer(monkeypatch):
    """A machine on which each row of a product costs 10 ms: the whole product would take five seconds."""
    rows_seen = []

    def slow(left, right):
        rows_seen.append(len(left))
        until = time.thread_time() + 0.01 * len(left)
        while time.thread_time() < until:
            pass

    monkeypatch.setattr(machine.torch, "mm", slow)
    began = time.thread_time()
    speed = machine.measure_gemm(torch.bfloat16, seconds=0.1)
    assert time.thread_time() - began < 1.0
    assert max(rows_seen) < 64
    assert speed == pytest.approx(2e-9 * 576 * 1536 / 0.01, rel=0.3)


def test_measuring_is_short():
    began = time.thread_time()
    choice = machine.choose_dtype("auto", "cpu")
    assert time.thread_time() - began < 1.0
    assert "GFLOP/s" in choice.reason


def test_describe():
    facts = json.loads(json.dumps(machine.describe()))
    assert facts["torch"] == torch.__version__ and facts["cores"] >= 1 and facts["memory_bytes"] > 2**28


def test_peak_memory_is_in_bytes():
    block = torch.ones(2**24)
    assert machine.peak_rss() > block.numel() * 4


def test_threads(monkeypatch):
    before = torch.get_num_threads()
    try:
        assert machine.set_threads(1) == 1
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        assert machine.set_threads(None) == 1
    finally:
        torch.set_num_threads(before)


def test_a_busy_core_is_not_taken_for_a_slow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program that has the core between two products costs time, and says nothing of this machine's arithmetic."""
    quiet = machine.measure_gemm(torch.float32, "cpu", (64, 64, 64), seconds=0.02)
    multiply = torch.mm

    def interrupted(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        time.sleep(0.005)
        return multiply(left, right)

    monkeypatch.setattr(torch, "mm", interrupted)
    assert machine.measure_gemm(torch.float32, "cpu", (64, 64, 64), seconds=0.002) > quiet / 20
