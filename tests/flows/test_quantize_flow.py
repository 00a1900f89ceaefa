"""A student that is quantised while it learns, as last stage and from the start: killed, resumed, judged and kept on its grid."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from shared import LINES, make_llama, make_tokenizer

pytest.importorskip("torchao", reason="pip install 'stillhouse[quant]'")

import stillhouse
from stillhouse import grid, models
from stillhouse.errors import StillhouseError
from stillhouse.evaluate import records

KILL = "STILLHOUSE_TEST_KILL_AT"
QUANTIZE = {"weights": "int4", "group": 16, "after": 0.3, "exceptions": {"*.down_proj": "int8"}}


def kill(*, step: int, metrics: Any, learner: Any) -> None:
    """A hook: die as a process dies that is killed."""
    if os.environ.get(KILL) == str(step):
        os.kill(os.getpid(), signal.SIGKILL)


def settings(folder: Path, run: str, **changes: Any) -> stillhouse.Recipe:
    if not (folder / "teacher").exists():
        make_llama(make_tokenizer(), layers=2).save(folder / "teacher")
        lines = [json.dumps({"text": f"{i} {text} {i * 7}"}) for i, text in enumerate(LINES * 10)]
        (folder / "text.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    content: dict[str, Any] = {
        "name": "tiny",
        "run": str(folder / run),
        "data": {"sources": {"name": "jsonl", "path": str(folder / "text.jsonl")}, "block": 64, "validation": 0.2},
        "teacher": str(folder / "teacher"),
        "student": {"name": "drop_layers", "keep": 1, "quantize": QUANTIZE},
        "trainer": {
            "steps": 8, "tokens_per_step": 128, "micro_tokens": 64, "dtype": "float32", "threads": 1,
            "learning_rate": 5e-3, "checkpoint_every": 2, "validate_every": 3, "validation_tokens": 256,
            "hooks": [f"{__name__}:kill"],
        },
        "evaluate": {"tokens": 400, "control": False, "measures": ["performance"]},
        "report": {"prompts": ["still"], "new_tokens": 2},
    }  # fmt: skip
    return stillhouse.parse({**content, **changes})


def in_child(recipe: stillhouse.Recipe) -> int:
    child = os.fork()
    if child == 0:
        try:
            stillhouse.run(recipe)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quantize")


@pytest.mark.parametrize("activations", ["float32", "int8"])
def test_killed_before_and_after_the_warm_up_it_ends_with_the_same_bits(
    folder: Path, activations: str, monkeypatch: pytest.MonkeyPatch
):
    student = {"name": "drop_layers", "keep": 1, "quantize": QUANTIZE | {"activations": activations}}
    whole = stillhouse.run(settings(folder, f"whole-{activations}", student=student))
    broken = settings(folder, f"broken-{activations}", student=student)
    for step in ("1", "5"):
        monkeypatch.setenv(KILL, step)
        assert in_child(broken) == -signal.SIGKILL
    monkeypatch.delenv(KILL)
    again = stillhouse.run(broken)
    for name in ("model.safetensors", grid.FILE):
        assert (again / "student" / name).read_bytes() == (whole / "student" / name).read_bytes()
    lines = [
        [
            {k: v for k, v in json.loads(line).items() if k != "seconds"}
            for line in (run / "metrics.jsonl").read_text().splitlines()
        ]
        for run in (whole, again)
    ]
    assert lines[0] == lines[1]


def test_what_is_judged_is_the_quantised_student(folder: Path):
    run = stillhouse.run(settings(folder, "whole-int8", student=_with_int8()))
    student = models.load(str(run / "student"))
    assert {g.bits for g in student.grids.values()} == {4, 8} and student.rounding is not None
    weights = dict(student.network.named_parameters())
    for name, each in student.grids.items():
        assert torch.equal(weights[name], each.dequantise())
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best = min(line["validation"]["loss"] for line in steps if "validation" in line)
    last = [line["validation"]["loss"] for line in steps if "validation" in line][-1]
    assert best <= last  # all measured quantised, also that during the warm-up
    assert records.read(run / "evaluation" / "items.parquet").roles["student"].nll.size > 0


def _with_int8() -> dict[str, Any]:
    return {"name": "drop_layers", "keep": 1, "quantize": QUANTIZE | {"activations": "int8"}}


def test_as_last_stage_it_goes_on_from_the_float_student(folder: Path):
    first = {"name": "float", "teaches": False, "student": {"name": "drop_layers", "keep": 1}}
    last = {"name": "same", "quantize": {"weights": "int8", "group": "row"}}
    recipe = settings(folder, "staged", stages=[first], student=last)
    run = stillhouse.run(recipe)
    assert grid.read(run / "stages" / "float" / "student") == {}
    before = models.load(str(run / "before"))
    floating = models.load(str(run / "stages" / "float" / "student"))
    for a, b in zip(before.parameters(), floating.parameters(), strict=True):
        assert torch.equal(a, b)
    assert {g.bits for g in grid.read(run / "student").values()} == {8}
    assert recipe.direct().student.quantize == recipe.student.quantize
    assert recipe.stage(0).student.quantize is None


def test_all_that_is_wrong_is_told_before_any_work(folder: Path):
    student = {"name": "drop_layers", "keep": 1, "quantize": {"group": 64, "exceptions": {"*.nothing": "int8"}}}
    with pytest.raises(StillhouseError) as caught:
        stillhouse.run(settings(folder, "wrong", student=student))
    assert "student.quantize.group: 64 does not divide" in str(caught.value)
    assert "no matrix is called '*.nothing'" in str(caught.value)
    assert not (folder / "wrong" / "before").exists()
