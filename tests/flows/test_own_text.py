"""A student that learns from its own text, through the command line: killed and continued, and told where it cannot be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from shared import make_llama, make_tokenizer

from stillhouse import recipe
from stillhouse.check import check
from stillhouse.errors import RecipeError

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def content(folder: Path) -> dict:
    words = ["still", "water", "grain", "malt", "mash", "oak", "cask"]
    rows = [{"prompt": " ".join(words[(i + j) % 7] for j in range(4)) + f" {i}", "response": " ".join(words[(i * j) % 7] for j in range(9))} for i in range(60)]  # fmt: skip
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    make_llama(make_tokenizer(), layers=3).save(folder / "teacher")
    return {
        "data": {
            "sources": {"name": "jsonl", "path": str(folder / "rows.jsonl"), "format": "prompt_response"},
            "block": 128, "validation": 0.2,
            "sampler": {"name": "student_text", "share": 0.5, "every": 3, "new_tokens": 8},
        },
        "teacher": {"name": "local", "model": str(folder / "teacher"), "dtype": "float32"},  # auto may differ between two runs
        "student": {"name": "drop_layers", "keep": 2},
        "objective": {
            "soft": {"name": "forward_kl", "weights": {"name": "own_text", "inside": 0, "outside": 1}},
            "terms": {"name": "reverse_kl", "weights": "own_text"},
        },
        "trainer": {
            "steps": 8, "tokens_per_step": 512, "micro_tokens": 256, "dtype": "float32", "checkpoint_every": 2,
            "validate_every": 4, "validation_tokens": 256, "threads": 1, "learning_rate": 3e-3,
        },
        "evaluate": {"tokens": 200},
        "report": {"prompts": ["still"], "new_tokens": 2},
    }  # fmt: skip


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("material")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content(folder)))
    return folder / "recipe.yaml"


def command(asked: Path, run: Path) -> list[str]:
    return [sys.executable, "-m", "stillhouse", "run", str(asked), f"run={run}"]


def alone(asked: Path, run: Path) -> list[str]:
    return [*command(asked, run), "evaluate.control=false"]


def steps(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def test_killed_amid_its_own_text_it_ends_with_the_same_bits(asked: Path, tmp_path: Path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(asked, whole), env=ENVIRONMENT, check=True, capture_output=True, timeout=180)
    for wanted in ("on_policy/step-00000000.safetensors", "on_policy/step-00000003.safetensors"):
        process = subprocess.Popen(
            alone(asked, killed), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and not (killed / wanted).exists():
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(alone(asked, killed), env=ENVIRONMENT, check=True, capture_output=True, timeout=180)
    one, two = (load_file(run / "student" / "model.safetensors") for run in (whole, killed))
    assert all((one[name] == two[name]).all() for name in one)
    assert steps(whole) == steps(killed)
    shares = [line["own_share"] for line in steps(whole) if "own_share" in line]
    assert 0.0 < sum(shares) / len(shares) < 1.0
    assert all("own_share" not in line for line in steps(whole / "control"))  # nobody could judge what it wrote
    assert "own_length" not in (whole / "report.html").read_text()


def test_what_cannot_be_is_refused_before_anything_is_loaded(asked: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(RecipeError, match=r"data\.sampler\.share"):
        check(recipe.load(asked, ["data.sampler.share=1.5"]))
    with pytest.raises(RecipeError, match="nothing is stored of it"):
        check(recipe.load(asked, ["teacher.name=store"]))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="Train with one process"):
        check(recipe.load(asked))
