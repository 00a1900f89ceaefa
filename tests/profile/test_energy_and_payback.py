"""Energy with its source, the requests that pay distilling back, and the ladder of devices: each by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stillhouse.profile import energy
from stillhouse.profile.energy import Meter, counter
from stillhouse.profile.payback import payback, requests, spent
from stillhouse.profile.tiers import next_down, tier
from stillhouse.profile.timed import Timed


def timed(name: str, prefill: list[float], steps: list[float]) -> Timed:
    return Timed(name, "pytorch", "", prefill=prefill, steps=steps)


def zone(root: Path, number: str, name: str, microjoules: int) -> Path:
    folder = root / f"intel-rapl:{number}"
    folder.mkdir(parents=True)
    (folder / "name").write_text(name + "\n", encoding="ascii")
    (folder / "energy_uj").write_text(f"{microjoules}\n", encoding="ascii")
    (folder / "max_energy_range_uj").write_text("1000000000\n", encoding="ascii")
    return folder / "energy_uj"


def test_packages_are_added_and_a_counter_that_begins_again_is_followed(tmp_path: Path):
    first, second = zone(tmp_path, "0", "package-0", 999_000_000), zone(tmp_path, "1", "package-1", 5_000_000)
    zone(tmp_path, "0:0", "core", 7)  # a part of package-0: not counted twice
    found, why = counter(tmp_path)
    assert found is not None and why == ""
    first.write_text("2000000\n", encoding="ascii")  # 1 J to the end of its range, then 2 J
    second.write_text("9500000\n", encoding="ascii")
    assert found.read() == pytest.approx(3.0 + 4.5)
    assert found.read() == pytest.approx(7.5)


def test_without_a_counter_nothing_is_claimed(tmp_path: Path):
    meter = Meter(None, tmp_path)
    meter.begin()
    meter.end("student")
    told = meter.of(timed("student", [1.0], [0.5]))
    assert told["joules"] is None and "no energy counter" in str(told["source"])


def test_an_assumed_power_is_called_one(tmp_path: Path):
    zone(tmp_path, "0", "package-0", 0)
    meter = Meter(20.0, tmp_path)
    told = meter.of(timed("student", [1.0, 3.0], [0.1, 0.2, 0.3, 0.4]))
    assert told["joules"] == pytest.approx(20 * 0.25) and told["request"] == pytest.approx(20 * (4 + 1) / 2)
    assert str(told["source"]).startswith("estimated: 20 W assumed")
    assert meter.of(timed("classifier", [0.5, 1.5], []))["joules"] == pytest.approx(20.0)


def test_a_measured_power_is_of_the_models_own_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A clock of our own: 10 s of idling take 30 J; the student's turns 8 s and 100 J; the teacher's do not count for it."""
    now = [0.0]
    file = zone(tmp_path, "0", "package-0", 0)

    def work(seconds: float, joules: float) -> None:
        now[0] += seconds
        file.write_text(f"{int(file.read_text()) + int(1e6 * joules)}\n", encoding="ascii")

    monkeypatch.setattr(energy.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(energy.time, "sleep", lambda seconds: work(10.0, 30.0))
    meter = Meter(None, tmp_path)
    for name, seconds, joules in (("teacher", 5.0, 500.0), ("student", 3.0, 40.0), ("student", 5.0, 60.0)):
        meter.begin()
        work(seconds, joules)
        meter.end(name)
    told = meter.of(timed("student", [1.0], [0.5]))
    assert told["watts"] == pytest.approx(100 / 8 - 3.0) and told["joules"] == pytest.approx(0.5 * 9.5)
    assert "measured: RAPL" in str(told["source"]) and "3.0 W of idling" in str(told["source"])


def test_a_counter_for_root_alone_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = zone(tmp_path, "0", "package-0", 0)
    file.unlink()
    assert "root only" in counter(tmp_path)[1]


def test_the_time_of_a_run_is_that_of_what_taught(tmp_path: Path):
    (tmp_path / "stages" / "one").mkdir(parents=True)
    clock = {"load": 1.0, "train student": 100.0, "train control": 60.0, "evaluate": 30.0, "export": 4.0}
    (tmp_path / "seconds.json").write_text(json.dumps(clock), encoding="utf-8")
    (tmp_path / "stages" / "one" / "seconds.json").write_text(json.dumps({"train student": 20.0}), encoding="utf-8")
    assert spent(tmp_path) == 125.0


def test_what_was_spent_over_what_a_request_saves():
    blocks = 10
    teacher = timed("teacher", [1.0] * blocks, [0.1] * 20 * blocks)  # 3 s a request
    student = timed("student", [0.5] * blocks, [0.05] * 20 * blocks)  # 1.5 s
    slow = timed("slow", [2.0] * blocks, [0.1] * 20 * blocks)  # 4 s
    assert requests(student) == pytest.approx([1.5] * blocks)
    fast, never = payback([teacher, student, slow], 300.0)
    assert (fast.requests, fast.low, fast.high) == pytest.approx((200.0, 200.0, 200.0))
    assert never.requests is None and never.high is None and "never" in never.words()
    assert payback([student], 300.0) == [] and payback([teacher, student], 0.0) == []


def test_too_few_blocks_give_no_end():
    (found,) = payback([timed("teacher", [2.0] * 3, []), timed("student", [1.0] * 3, [])], 10.0)
    assert found.requests == 10.0 and found.high is None and "no upper end" in found.words()


def test_tiers_grow_and_say_what_the_next_smaller_takes():
    said = [tier(size) for size in (0.5e6, 150e6, 400e6, 5e9, 20e9, 90e9)]
    assert len(set(said)) == 6
    assert next_down(0.5e6, 0.1e6) == "there is none"
    # 400 MB of which 300 are the file: 100 stay, and a phone's 200 leave 100 for the file
    told = next_down(400e6, 300e6, 100_000_000)
    assert (
        "a phone application: a file of 100 MB, 3.0 times less" in told and "8.0 bits a weight, or 33 million" in told
    )
    assert "take another runtime" in next_down(700e6, 300e6)
