"""Two processes on gloo compute what one does, and each can take up what the other left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import toy
import two
from safetensors.torch import load_file
from test_loop import lines

from stillhouse.trainer.distributed import Ranks, layers_of

ALONE = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder in which two processes did all that is asked about below."""
    root = tmp_path_factory.mktemp("two")
    with pytest.raises(two.CutError):
        two.run(root / "cut_on_one", ALONE, two.Stopping(per_step=5))
    script = Path(__file__).with_name("two.py")
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            str(script),
            str(root),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return root


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """The same by this process alone."""
    folder = tmp_path_factory.mktemp("single")
    return two.run(folder, ALONE), folder


def test_gradients_norm_and_loss_are_those_of_one_process(done):
    ours, theirs = two.all_gradients(ALONE), load_file(done / "gradients.safetensors")
    assert ours.keys() == theirs.keys()
    for name, expected in ours.items():
        torch.testing.assert_close(theirs[name], expected, rtol=2e-5, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}")
    # the comparison can fail: an average over processes would be half as large
    assert float(ours["llama 3/norm"]) > 1e-2


def test_what_is_measured_is_what_one_process_measures(done):
    """To the last bit before the first step: each batch is read whole, by one process or another."""
    ours, theirs = two.difficulties(ALONE), load_file(done / "difficulties.safetensors")
    assert ours.keys() == theirs.keys()
    for name, expected in ours.items():
        tolerance = 0.0 if name.startswith("before") else 1e-4
        torch.testing.assert_close(theirs[name], expected, rtol=tolerance, atol=0.0)
    assert float(ours["before 3 sums"].min()) > 0.1


def test_recomputing_layers_changes_nothing():
    ours = two.all_gradients(ALONE)
    for name in [n for n in ours if n.startswith("llama recomputed/")]:
        torch.testing.assert_close(ours[name], ours[name.replace("recomputed", "3")])


def test_training_ends_at_the_same_weights(done, single):
    (learner, progress), folder = single
    theirs = load_file(done / "whole2.safetensors")
    ours = toy.weights(learner)
    # a buffer that counts calls sees fewer micro-batches on each process; it is no parameter
    for name in ours.keys() - {"student.network.seen"}:
        torch.testing.assert_close(theirs[name], ours[name], rtol=1e-3, atol=1e-4)
    told = json.loads((done / "progress.json").read_text())
    assert (told["step"], told["tokens"], told["best_step"]) == (progress.step, progress.tokens, progress.best_step)
    for mine, other in zip(lines(folder), lines(done / "whole2"), strict=True):
        for values, others in ((mine, other), (mine.get("validation", {}), other.get("validation", {}))):
            numbers = {k: v for k, v in values.items() if k not in ("seconds", "validation")}
            assert {k: others[k] for k in numbers} == pytest.approx(numbers, rel=1e-3)


def test_what_two_began_one_ends(done, single):
    assert len(list((done / "cut_on_two/checkpoints/step-00000004").glob("rng-*"))) == 2
    learner, _ = two.run(done / "cut_on_two", ALONE, seed=5)
    ours = toy.weights(single[0][0])
    for name in ours.keys() - {"student.network.seen"}:
        torch.testing.assert_close(toy.weights(learner)[name], ours[name], rtol=1e-3, atol=1e-4)


def test_what_one_began_two_end(done, single):
    theirs = load_file(done / "one_to_two.safetensors")
    ours = toy.weights(single[0][0])
    for name in ours.keys() - {"student.network.seen"}:
        torch.testing.assert_close(theirs[name], ours[name], rtol=1e-3, atol=1e-4)


def test_layers_are_the_longest_list():
    learner = toy.Learner()
    assert layers_of(learner) == list(learner.student.network.layers)
    assert layers_of(torch.nn.Linear(2, 2)) == []
