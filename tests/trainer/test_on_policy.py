"""A student that learns from its own text: through the loop, stopped anywhere, counted after it has written.

STILLHOUSE_KILL_STRIDE=1 kills at every single file operation.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from writer import Training, make_sampler, make_section, one_run

from stillhouse.errors import RunError

TESTS = Path(__file__).parents[1]


def lines(folder: Path) -> list[dict]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in found]


class Killed(BaseException):
    """Nothing in the loop catches it."""


class Dying:
    """A sampler that dies when asked for a step: before the step is taken, after the last one may have been saved."""

    def __init__(self, at: int) -> None:
        self.inner, self.at = make_sampler(), at

    def bind(self, *arguments, **named):
        self.inner.bind(*arguments, **named)

    def facts(self):
        return self.inner.facts()

    def forget(self, oldest):
        self.inner.forget(oldest)

    def all(self, *arguments):
        return self.inner.all(*arguments)

    def step(self, step, **arguments):
        batches = self.inner.step(step, **arguments)
        if step == self.at:
            raise Killed
        return batches


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, one_run(folder)


@pytest.mark.parametrize("at", range(7))
def test_stopped_in_any_step_the_weights_are_bit_identical(whole, tmp_path, at):
    """Refreshes are at 0, 3, 6 and checkpoints at 2, 4, 6: before, at and after each other."""
    folder, expected = whole
    with pytest.raises(Killed):
        one_run(tmp_path, sampler=Dying(at))
    state = one_run(tmp_path)
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    assert lines(tmp_path) == lines(folder)
    assert any(line["own_share"] > 0 for line in lines(folder))


def test_killed_at_operations_on_files_the_weights_are_bit_identical(tmp_path):
    stride = os.environ.get("STILLHOUSE_KILL_STRIDE", "13")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("writer.py")), str(tmp_path), stride, "5"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    print(facts)
    assert facts["kills"] >= 5 and facts["equal"] == facts["kills"]


def test_text_is_kept_as_long_as_a_checkpoint_needs_it(whole):
    folder, _ = whole
    checkpoints = sorted(int(p.name[5:]) for p in (folder / "checkpoints").glob("step-*"))
    texts = sorted(int(p.stem[5:]) for p in (folder / "on_policy").glob("step-*"))
    assert checkpoints == [6, 7] and texts == [6]


def test_positions_are_counted_after_writing(whole):
    """What a step is divided by is what the student wrote, not what it was asked to replace."""
    folder, _ = whole
    section = make_section()
    batches = make_sampler(share=0.0).step(0, tokens_per_step=96, micro_tokens=48, rank=0, world=1, seed=section.seed)
    plain = sum(len(b.labels_N) for b in batches)
    seen = [line["tokens"] for line in lines(folder)]
    counts = [b - a for a, b in zip([0, *seen], seen, strict=False)]
    for line, count in zip(lines(folder), counts, strict=True):
        own = round(line["own_share"] * count)
        assert (own == 0) == (count == plain)
        assert own == pytest.approx(line["own_share"] * count, abs=1e-6)


def test_no_share_is_the_run_without_a_sampler(tmp_path):
    settings = make_section(steps=3)
    with_none = one_run(tmp_path / "a", settings, make_sampler(share=0.0))
    plain = one_run(tmp_path / "b", settings, Training())
    assert all(torch.equal(plain[name], tensor) for name, tensor in with_none.items())


def test_recomputed_layers_write_the_same_text(tmp_path):
    for name, recompute in (("a", False), ("b", True)):
        one_run(tmp_path / name, make_section(steps=2, gradient_checkpointing=recompute))
    file = "on_policy/step-00000000.safetensors"
    assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_it_writes_in_bfloat16_where_it_computes_in_it(tmp_path):
    one_run(tmp_path, make_section(steps=2, dtype="bfloat16"))
    assert lines(tmp_path)[-1]["step"] == 2


def test_gone_text_stops_a_run_that_needs_it_and_the_way_out_works(whole, tmp_path):
    _, expected = whole
    with pytest.raises(Killed):
        one_run(tmp_path, sampler=Dying(5))
    for path in (tmp_path / "on_policy").iterdir():
        path.unlink()
    with pytest.raises(RunError, match="of steps after 3"):
        one_run(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000004")
    with pytest.raises(RunError, match="of steps after 0"):
        one_run(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000002")
    state = one_run(tmp_path)
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
