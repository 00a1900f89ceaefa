"""Mapped weights go back to the system only while they are what is in their file."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from stillhouse import mapped

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mappings are looked up in /proc")


@pytest.fixture
def weights(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "LEAST_BYTES", 1)
    save_file({"w": torch.arange(2**20, dtype=torch.float32)}, tmp_path / "model.safetensors")
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        return file.get_tensor("w")


def file_kB() -> int:
    return int(re.search(r"RssFile:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def test_released_weights_take_no_memory_and_are_the_same(weights):
    total = weights.sum().item()
    before = file_kB()
    assert mapped.release([weights]) >= 4 * 2**20
    assert before - file_kB() > 3 * 1024
    assert weights.sum().item() == total


@pytest.mark.parametrize("place", [5, 2**20 - 1])
def test_a_weight_that_was_changed_is_not_lost(weights, place, monkeypatch):
    """Also where the pages' entries are read in several parts."""
    monkeypatch.setattr(mapped, "_PAGES", 100)
    weights[place] = -1.0
    assert mapped.release([weights]) == 0
    assert weights[place].item() == -1.0


def test_weights_in_plain_memory_are_left_alone(weights):
    own = weights.clone()
    assert mapped.release([own]) == 0
    assert own[7].item() == 7.0


def test_small_models_are_not_looked_for(weights, monkeypatch):
    monkeypatch.setattr(mapped, "LEAST_BYTES", 2**30)
    monkeypatch.setattr(mapped, "_clean", lambda start, stop: pytest.fail("looked"))
    assert mapped.release([weights]) == 0
