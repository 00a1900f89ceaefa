"""Checkpoints: resumed equals uninterrupted; what is damaged is named and passed over; what stands, stands."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal

import numpy as np
import pytest
import torch
import toy
from rich.console import Console
from safetensors import safe_open
from test_loop import lines, run

from stillhouse import machine
from stillhouse.errors import RunError
from stillhouse.trainer import InterruptedRunError, checkpoint, distributed, loop
from stillhouse.trainer.checkpoint import get_generators, seed_generators, set_generators, verify


class CutError(Exception):
    """Stands for whatever ends a process."""


class Stopping(toy.Pieces):
    """Pieces that end the process at a step."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def step(self, step, **options):
        if step == self.at:
            raise CutError
        return super().step(step, **options)


def cut_at(folder, step, *, section=None, **options):
    with pytest.raises(CutError):
        run(folder, toy.Learner(dropout=0.2), pieces=Stopping(step), section=section, **options)


def resume(folder, *, section=None, first=77, **options):
    """From other first weights and other random generators, which must not matter once there is a checkpoint."""
    torch.manual_seed(12345)
    return run(folder, toy.Learner(dropout=0.2, seed=first), section=section, **options)


@pytest.fixture
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    learner, _ = run(folder, toy.Learner(dropout=0.2))
    return toy.weights(learner), [{k: v for k, v in line.items() if k != "seconds"} for line in lines(folder)]


def numbers(folder):
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines(folder)]


@pytest.mark.parametrize("step", [1, 4, 6, 8, 11])
def test_resumed_is_uninterrupted(tmp_path, whole, step):
    cut_at(tmp_path, step)
    learner, progress = resume(tmp_path, first=77 if step >= 4 else 0)
    assert toy.same(toy.weights(learner), whole[0])
    assert numbers(tmp_path) == whole[1]
    assert learner.student.network.head.weight is learner.student.network.embedding.weight
    assert progress.step == 12


def test_interrupted_often_is_uninterrupted(tmp_path, whole):
    for step in (5, 7, 9, 11):
        cut_at(tmp_path, step)
    assert toy.same(toy.weights(resume(tmp_path)[0]), whole[0])


def test_the_last_two_are_kept_and_hold_no_pickle(tmp_path):
    run(tmp_path)
    folder = tmp_path / "checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == ["choice.json", "step-00000008", "step-00000012"]
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert {p.suffix for p in files} == {".json", ".safetensors"}
    names = []
    for path in (folder / "step-00000012" / "state").glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            names += file.keys()
    assert len(names) == len(set(names))
    assert "model.student.network.embedding.weight" in names  # tied: stored once
    assert "model.student.network.head.weight" not in names
    assert "model.student.network.seen" in names  # a buffer
    assert "optim.student.network.embedding.weight.exp_avg_sq" in names


def newest(folder):
    return sorted((folder / "checkpoints").glob("step-*"))[-1]


def flip(folder, what="state/*.safetensors"):
    path = sorted(newest(folder).glob(what))[0]
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def truncate(folder):
    path = sorted(newest(folder).glob("state/*.safetensors"))[0]
    path.write_bytes(path.read_bytes()[:-10])


def foreign(folder):
    """Whole, but of an older layout."""
    path = newest(folder) / "state.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "schema": 0}))
    reseal(newest(folder))


def reseal(folder):
    (folder / "manifest.json").unlink()
    checkpoint._seal(folder)


def other_tensors(folder):
    path = sorted(newest(folder).glob("state/*.safetensors"))[0]
    from safetensors.torch import save_file

    path.unlink()
    save_file({"model.other": torch.zeros(2)}, path)
    reseal(newest(folder))


def empty(folder):
    path = newest(folder)
    shutil.rmtree(path)
    path.mkdir()


DAMAGE = {
    "flipped": (flip, "is damaged"),
    "best flipped": (lambda f: flip(f, "best/*.safetensors"), "is damaged"),
    "generators flipped": (lambda f: flip(f, "rng-*.safetensors"), "is damaged"),
    "state flipped": (lambda f: flip(f, "state.json"), "is damaged"),
    "truncated": (truncate, "bytes instead of"),
    "no manifest": (lambda f: (newest(f) / "manifest.json").unlink(), "manifest.json is missing"),
    "manifest cut": (lambda f: (newest(f) / "manifest.json").write_text('{"files'), "cannot be read"),
    "manifest a list": (lambda f: (newest(f) / "manifest.json").write_text('{"files": []}'), "cannot be read"),
    "file missing": (lambda f: sorted(newest(f).glob("state/*.safetensors"))[0].unlink(), "is missing"),
    "file added": (
        lambda f: shutil.copy(sorted(newest(f).glob("state/*"))[0], newest(f) / "state/x.safetensors"),
        "not belong",
    ),
    "empty folder": (empty, "manifest.json is missing"),
    "old layout": (foreign, "has layout 0"),
    "other tensors": (other_tensors, "holds no tensor"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, whole, what):
    cut_at(tmp_path, 9)
    damage, words = DAMAGE[what]
    damage(tmp_path)
    console = Console(record=True, width=1000)
    learner, _ = resume(tmp_path, console=console)
    said = console.export_text()
    assert words in said and newest(tmp_path).parent.name in said and "warning" in said
    assert "continuing from step 4" in said
    assert toy.same(toy.weights(learner), whole[0])
    assert numbers(tmp_path) == whole[1]
    assert all(verify(p) is None for p in (tmp_path / "checkpoints").glob("step-*"))


def test_with_none_left_it_starts_anew_and_says_so(tmp_path, whole):
    cut_at(tmp_path, 9)
    for folder in (tmp_path / "checkpoints").glob("step-*"):
        (folder / "manifest.json").unlink()
    console = Console(record=True, width=1000)
    learner, _ = resume(tmp_path, first=0, console=console)
    assert "Starting anew" in console.export_text()
    assert toy.same(toy.weights(learner), whole[0]) and numbers(tmp_path) == whole[1]


def test_another_recipe_is_refused(tmp_path):
    cut_at(tmp_path, 9)
    before = sorted(p for p in tmp_path.rglob("step-*/**/*"))
    with pytest.raises(RunError, match="another recipe") as caught:
        run(tmp_path, fingerprint="g")
    assert "its own folder" in str(caught.value)
    assert sorted(p for p in tmp_path.rglob("step-*/**/*")) == before


def full(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", ["tensors", "inside the writer", "seal", "generators"])
def test_a_full_disk_loses_nothing(tmp_path, whole, monkeypatch, where):
    cut_at(tmp_path, 5)
    with monkeypatch.context() as patch:
        if where == "tensors":
            patch.setattr(checkpoint, "save_tensors", full)
        elif where == "inside the writer":  # where torch.distributed.checkpoint wraps it in an exception of its own
            patch.setattr("torch.distributed.checkpoint.filesystem._write_files_from_queue", full)
        elif where == "seal":
            patch.setattr(checkpoint, "_seal", full)
        else:
            patch.setattr(checkpoint, "get_generators", full)
        with pytest.raises(RunError) as caught:
            resume(tmp_path)
    text = str(caught.value)
    assert "No space left on device" in text and "step-00000004 stands" in text and "run the same command again" in text
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["choice.json", "step-00000004"]
    learner, _ = resume(tmp_path)
    assert toy.same(toy.weights(learner), whole[0]) and numbers(tmp_path) == whole[1]


def test_leftovers_of_a_killed_process_are_removed(tmp_path, whole):
    cut_at(tmp_path, 9)
    for name in (".step-00000012.tmp", ".best.tmp", ".step-00000004.old.tmp"):
        (tmp_path / "checkpoints" / name / "state").mkdir(parents=True)
    (tmp_path / "checkpoints" / ".best.tmp" / "x.safetensors").write_bytes(b"half")
    learner, _ = resume(tmp_path)
    assert not list((tmp_path / "checkpoints").glob(".*"))
    assert toy.same(toy.weights(learner), whole[0])


def test_a_half_written_line_is_dropped(tmp_path, whole):
    cut_at(tmp_path, 9)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    resume(tmp_path)
    assert numbers(tmp_path) == whole[1]


def test_asked_to_stop_it_saves_first(tmp_path, whole):
    class Signalled(toy.Pieces):
        def step(self, step, **options):
            if step == 6:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().step(step, **options)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(InterruptedRunError, match=r"after step 7 of 12\. .*step-00000007 stands") as caught:
        run(tmp_path, toy.Learner(dropout=0.2), pieces=Signalled())
    assert caught.value.exit_code == 130
    assert signal.getsignal(signal.SIGTERM) is before
    assert newest(tmp_path).name == "step-00000007"
    learner, _ = resume(tmp_path)
    assert toy.same(toy.weights(learner), whole[0]) and numbers(tmp_path) == whole[1]


def test_the_best_weights_survive_an_interruption_right_after_them(tmp_path, monkeypatch):
    """The best validation lies between two checkpoints, or before both of those kept."""
    seen = {}
    monkeypatch.setattr(
        toy, "hook", lambda step, metrics, learner: seen.update({step: toy.weights(learner)}), raising=False
    )
    values = {3: 1.0, 6: 5.0, 9: 4.0, 12: 3.0}
    monkeypatch.setattr(loop, "validate", lambda *a: {"loss": values[a[3]]})
    section = toy.section(hooks=("toy:hook",))
    for step in (4, 9, 11):
        cut_at(tmp_path, step, section=section)
    learner, progress = resume(tmp_path, section=section)
    assert progress.best_step == 3 and toy.same(toy.weights(learner), seen[3])


def test_the_dtype_first_chosen_is_kept(tmp_path, monkeypatch):
    section = toy.section(dtype="auto")
    asked = []

    def choose(requested, device):
        asked.append(requested)
        return machine.Choice("float32" if len(asked) == 1 else "bfloat16", f"measured {len(asked)}")

    monkeypatch.setattr(loop, "choose_dtype", choose)
    set_to = []
    monkeypatch.setattr(toy.Student, "set_compute_dtype", lambda self, dtype: set_to.append(dtype), raising=False)
    cut_at(tmp_path, 2, section=section)  # before the first checkpoint
    cut_at(tmp_path, 9, section=section)
    resume(tmp_path, section=section)
    assert asked == ["auto"] and set_to == [torch.float32] * 3
    state = json.loads((newest(tmp_path) / "state.json").read_text())
    assert state["choice"] == {"dtype": "float32", "reason": "measured 1"}
    run(tmp_path / "control", section=section, choice=machine.Choice("bfloat16", "as the student"))
    assert asked == ["auto"] and set_to[-1] == torch.bfloat16


def test_generators_come_back():
    seed_generators(3, 0)
    random.gauss(0, 1)
    np.random.normal()
    states = get_generators(torch.device("cpu"))
    assert all(t.dtype == torch.uint8 for t in states.values())
    draw = lambda: (random.gauss(0, 1), random.random(), np.random.normal(), np.random.rand(), torch.rand(3).tolist())  # noqa: E731
    first = draw()
    assert draw() != first
    set_generators(states)
    assert draw() == first


def test_tensors_of_any_shape_and_layout_come_back(tmp_path):
    tensors = {
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 4),
        "transposed": torch.randn(3, 5).t(),
        "bfloat16": torch.randn(4).bfloat16(),
        "bytes": torch.arange(9, dtype=torch.uint8),
    }
    distributed.save_tensors(tmp_path, tensors)
    filled = {name: torch.zeros_like(t) for name, t in tensors.items()}
    assert not filled["transposed"].is_contiguous()
    distributed.load_tensors(tmp_path, filled)
    assert all(torch.equal(filled[name], t) for name, t in tensors.items())
    assert distributed.stored(tmp_path)["transposed"] == ((5, 3), torch.float32)


def test_big_states_are_cut_into_files(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "FILE_BYTES", 100)
    tensors = {f"t{i}": torch.full((10,), float(i)) for i in range(7)}
    distributed.save_tensors(tmp_path, tensors)
    assert len(list(tmp_path.iterdir())) == 4  # 40 bytes each: two to a file
    filled = {name: torch.zeros(10) for name in tensors}
    distributed.load_tensors(tmp_path, filled)
    assert all(torch.equal(filled[n], t) for n, t in tensors.items())
