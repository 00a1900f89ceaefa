"""Two processes, and processes that are killed, through the command line."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file
from shared import make_llama, make_tokenizer

import stillhouse
from stillhouse.label import label
from stillhouse.recipe import load

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("material")
    make_llama(make_tokenizer(), layers=3).save(folder / "teacher")
    chooser = random.Random(0)
    words = ["still", "water", "grain", "malt", "mash", "oak", "cask"]
    rows = [{"prompt": " ".join(chooser.choices(words, k=5)), "response": " ".join(chooser.choices(words, k=chooser.randint(2, 20)))} for _ in range(80)]  # fmt: skip
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    content = {
        "data": {
            "sources": {"name": "jsonl", "path": str(folder / "rows.jsonl"), "format": "prompt_response"},
            "block": 128, "validation": 0.2,
        },
        "teacher": {"name": "local", "model": str(folder / "teacher"), "dtype": "float32"},  # two runs may measure two things
        "student": {"name": "drop_layers", "keep": 2},
        "trainer": {
            "steps": 8, "tokens_per_step": 512, "micro_tokens": 256, "dtype": "float32", "checkpoint_every": 1,
            "validate_every": 2, "validation_tokens": 256, "threads": 1, "learning_rate": 3e-3,
        },
        "evaluate": {"tokens": 200, "control": False},
        "report": {"prompts": ["still"], "new_tokens": 2},
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def command(recipe: Path, run: Path) -> list[str]:
    return [sys.executable, "-m", "stillhouse", "run", str(recipe), f"run={run}"]


@pytest.fixture(scope="module")
def uninterrupted(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    subprocess.run(command(recipe, run), env=ENVIRONMENT, check=True, capture_output=True, timeout=120)
    return run


def test_killed_at_random_instants_it_ends_with_the_same_bits(recipe: Path, uninterrupted: Path, tmp_path: Path):
    chooser = random.Random(1)
    run = tmp_path / "killed"
    for round_ in range(12):
        process = subprocess.Popen(
            command(recipe, run), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        # the first kills fall into loading and data, the later ones into training, saving, evaluation
        deadline = time.monotonic() + 60
        wanted = chooser.choice([None, "data/manifest.json", "metrics.jsonl", "checkpoints", "evaluation"])
        while process.poll() is None and time.monotonic() < deadline:
            if wanted is None or (run / wanted).exists():
                break
            time.sleep(0.02)
        time.sleep(chooser.uniform(0.0, 0.6))
        if process.poll() is not None:
            assert process.returncode == 0, f"round {round_} failed by itself"
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command(recipe, run), env=ENVIRONMENT, check=True, capture_output=True, timeout=120)
    for name in ("student/model.safetensors",):
        assert (run / name).read_bytes() == (uninterrupted / name).read_bytes()

    def drop(path: Path) -> list[dict]:
        return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in path.read_text().splitlines()]

    assert drop(run / "metrics.jsonl") == drop(uninterrupted / "metrics.jsonl")


def on_two(recipe: Path, run: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*torchrun, *command(recipe, run)[1:], *overrides],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_text_chosen_by_difficulty_is_the_same_on_two_processes(recipe: Path, tmp_path: Path):
    """Measured once and again while it learns; from stored signals, and held-out batches that cannot be shared evenly."""
    model = yaml.safe_load(recipe.read_text())["teacher"]["model"]
    store = f"teacher={{name: store, path: {tmp_path / 'said'}, model: {model}, k: 16, dtype: float32}}"
    chosen = "data.sampler=[{name: confident, keep: 0.9}, {name: dynamic, every: 2, by: gap}]"
    overrides = [store, chosen, "trainer.steps=4", "trainer.validation_tokens=600"]
    one, two = tmp_path / "one", tmp_path / "two"
    settings = load(recipe, [f"run={one}", *overrides])
    label(settings)
    stillhouse.run(settings)
    done = on_two(recipe, two, *overrides)
    assert done.returncode == 0, done.stderr[-3000:]
    measured = sorted(path.name for path in (one / "sampling").iterdir())
    assert measured == sorted(path.name for path in (two / "sampling").iterdir()) and len(measured) == 3
    for name in measured:
        ours, theirs = (np.load(run / "sampling" / name)["values"] for run in (one, two))
        np.testing.assert_allclose(theirs, ours, rtol=0.0 if name.endswith("-00000000.npz") else 1e-3, atol=0.0)
    weights, others = (load_file(run / "student" / "model.safetensors") for run in (one, two))
    assert max(float((weights[name] - others[name]).abs().max()) for name in weights) < 2e-4


def test_two_processes_train_the_same_student(recipe: Path, uninterrupted: Path, tmp_path: Path):
    """FSDP2 for student and teacher over gloo, ragged documents: equal to one process up to rounding."""
    run = tmp_path / "two"
    done = on_two(recipe, run)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (load_file(r / "student" / "model.safetensors") for r in (uninterrupted, run))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert (tensor - two[name]).abs().max() < 2e-4, name
    losses = [
        [json.loads(line).get("loss") for line in (r / "metrics.jsonl").read_text().splitlines()]
        for r in (uninterrupted, run)
    ]
    assert [x for x in losses[0] if x] == pytest.approx([x for x in losses[1] if x], rel=1e-4)
    assert (run / "report.html").is_file()
