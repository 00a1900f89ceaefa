"""Question by question what lm-evaluation-harness says; ``lm_eval/make.py`` froze it."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from stillhouse.errors import RecipeError
from stillhouse.evaluate import answers
from stillhouse.evaluate.asking import ask
from stillhouse.evaluate.questions import Task
from stillhouse.evaluate.tasks.lm_eval import lm_eval
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


YAML = """
task: riddles
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{{metric: acc}}]
"""


def test_a_task_file_of_theirs_makes_our_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("lm_eval.tasks", reason="lm-evaluation-harness is not installed (stillhouse[lm-eval])")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"question": f"What is {i}?", "choices": ["a piano", "a door"], "answer": i % 2} for i in range(30)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    (tmp_path / "riddles.yaml").write_text(YAML.format(path=tmp_path / "rows.jsonl"), encoding="utf-8")
    task = lm_eval(task="riddles", include=str(tmp_path), dev_questions=5)
    found = sorted((*task.questions, *task.dev), key=lambda q: int(q.id.rpartition(".")[2]))
    assert [(q.contexts, q.options, q.gold) for q in found] == [
        ((f"What is {i}?\nAnswer:",), (" a piano", " a door"), i % 2) for i in range(30)
    ]
    with pytest.raises(RecipeError, match="there is no task 'chess'"):
        lm_eval(task="chess", include=str(tmp_path))


def test_without_the_harness_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(RecipeError, match=r"stillhouse\[lm-eval\]"):
        lm_eval(task="arc_easy")
