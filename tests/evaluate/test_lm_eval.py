"""Question by question what lm-evaluation-harness says; ``lm_eval/make.py`` froze it."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from stillhouse.evaluate import answers
from stillhouse.evaluate.asking import ask
from stillhouse.evaluate.questions import Task
from stillhouse.models import load

HERE = Path(__file__).parent / "lm_eval"


def made():
    """The script beside the fixture, for its questions."""
    spec = importlib.util.spec_from_file_location("lm_eval_make", HERE / "make.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["lm_eval_make"] = module
    spec.loader.exec_module(module)
    return module


def test_two_hundred_questions_one_by_one():
    asked = made().questions()
    theirs = json.loads((HERE / "samples.json").read_text(encoding="utf-8"))["samples"]
    assert sum(map(len, asked.values())) == 200
    model = load(str(HERE / "model"))
    rights: list[float] = []
    for name, questions in asked.items():
        replies = ask(model, questions, 0, [0])
        table = answers.together(answers.table("teacher", name, Task(tuple(questions), "x"), "raw", replies))
        raw, norm = table.score("teacher", "raw"), table.score("teacher", "character")
        for i, (reply, sample) in enumerate(zip(replies, theirs[name], strict=True)):
            assert list(reply.ll) == pytest.approx(sample["ll"], abs=2e-3)
            assert list(reply.greedy) == sample["greedy"]
            assert raw[i] == sample["acc"]
            if len(reply.ll) > 1:
                assert norm[i] == sample["acc_norm"]
        rights += raw.tolist()
    assert 0.05 < sum(rights) / 200 < 0.95, "neither always right nor always wrong"
