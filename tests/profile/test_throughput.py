"""Several texts at once: real processes at the same time, and one process with a real batch."""

from __future__ import annotations

from pathlib import Path

import pytest
from shared import make_llama, make_tokenizer

from stillhouse.profile import throughput
from stillhouse.profile.throughput import batches, processes
from stillhouse.profile.timed import Timed
from stillhouse.runtimes.pytorch import pytorch
from stillhouse.worker import Worker, _Desk


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    make_llama(make_tokenizer()).save(folder)
    return folder


def test_a_batch_is_one_step_for_all_its_texts(student: Path):
    runtime = pytorch(student, 1)
    shapes = []
    runtime.network.register_forward_pre_hook(  # type: ignore[attr-defined]
        lambda _m, _a, given: shapes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    steps = runtime.timed_batch([3, 4, 5], 4, 6)  # type: ignore[attr-defined]
    assert len(steps) == 6 and min(steps) > 0
    assert shapes == [(4, 3)] + [(4, 1)] * 6


def test_a_runtime_that_takes_one_text_says_nothing():
    desk = _Desk()
    desk.runtime = object()  # type: ignore[assignment]
    assert desk.batch([1], 4, 2) == {"steps": None}


def test_processes_work_at_the_same_time(student: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(throughput, "AT_ONCE", (2,))
    monkeypatch.setattr(throughput, "BATCHES", (1, 2))
    row = Timed("student", "pytorch", str(student))
    done: list[int] = []
    (rate,) = processes(row, [3, 4, 5], 8, 1, done.append)
    assert (rate.way, rate.count, len(rate.steps), done) == ("processes", 2, 16, [1])
    first, second = rate.steps[:8], rate.steps[8:]
    assert rate.rate == pytest.approx(8 / sum(first) + 8 / sum(second))
    with Worker("pytorch", student, 1) as worker:
        one, two = batches(row, worker, [3, 4, 5], 8)
    assert (one.count, two.count) == (1, 2) and two.rate == pytest.approx(2 * 8 / sum(two.steps))
