"""The whole flow with a student of fewer tokens than its teacher."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shared import LINES, make_llama, make_tokenizer

import stillhouse
from stillhouse import models
from stillhouse.evaluate import records
from stillhouse.teacher import Teacher


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny teacher and a text to learn from, each line another."""
    folder = tmp_path_factory.mktemp("material")
    make_llama(make_tokenizer(), layers=3).save(folder / "teacher")
    random = np.random.default_rng(0)
    words = " ".join(LINES[:4]).split()
    lines = [json.dumps({"text": " ".join(random.choice(words, size=24))}) for _ in range(80)]
    (folder / "text.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def recipe_for(material: Path, run: Path, **sections: Any) -> stillhouse.Recipe:
    content = {
        "name": "tiny",
        "run": str(run),
        "data": {"sources": {"name": "jsonl", "path": str(material / "text.jsonl")}, "block": 128, "validation": 0.2},
        "teacher": str(material / "teacher"),
        "student": {"name": "drop_layers", "keep": 2, "then": [{"name": "trim_vocabulary", "size": 275}]},
        "trainer": {
            "steps": 6, "tokens_per_step": 256, "micro_tokens": 128, "dtype": "float32", "validate_every": 3,
            "validation_tokens": 256, "checkpoint_every": 2, "threads": 1, "learning_rate": 3e-3,
        },
        "evaluate": {"tokens": 1000},
        "report": {"prompts": ["still water"], "new_tokens": 4},
    }  # fmt: skip
    for name, values in sections.items():
        content[name] = {**content.get(name, {}), **values}
    return stillhouse.parse(content, [])


CASES: dict[str, dict[str, Any]] = {
    "outcomes": {},
    "layers": {"objective": {"terms": [{"name": "hidden_mse", "weight": 0.1, "layers": "last"}]}},
    "own text": {"data": {"sampler": {"name": "student_text", "new_tokens": 8}}},
}


@pytest.mark.parametrize("case", CASES)
def test_a_student_of_fewer_tokens_is_taught_saved_and_compared(case: str, material: Path, tmp_path: Path):
    run = stillhouse.run(recipe_for(material, tmp_path / "run", **CASES[case]))
    student = models.load(str(run / "student"))
    assert student.outcomes == len(student.tokenizer) == 275 and len(student.layers) == 2
    assert student.tokenizer.chat_template == make_tokenizer().chat_template
    text = "a fox é 猫\n"
    assert student.tokenizer.decode(student.tokenizer(text).input_ids) == text
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps and all(np.isfinite(value) for step in steps for value in step.values() if isinstance(value, float))
    assert (run / "report.html").is_file()
    items = records.read(run / "evaluation" / "items.parquet")
    assert set(items.roles) == {"teacher", "before", "student", "control", "floor"}
    assert items.label.max() < 275 and np.isfinite(items.roles["student"].kl).all()
    # the teacher is charged for its own reading of the same text
    own = Teacher(models.load(str(material / "teacher")))
    tokenizer, cost, held_out = own.tokenizer, 0.0, set(items.key.tolist())
    for line in (material / "text.jsonl").read_text().splitlines():
        text = json.loads(line)["text"]
        if hashlib.blake2b(text.encode(), digest_size=16).hexdigest() in held_out:
            ids = torch.tensor([*tokenizer(text).input_ids, tokenizer.eos_token_id])
            with torch.no_grad(), own.model.generating() as network:
                logits_LV = network(input_ids=ids[None, :-1]).logits[0].double()
            cost -= float(torch.log_softmax(logits_LV, -1).gather(-1, ids[1:, None]).sum())
    # all but the bytes by which the first tokens differ, which cost nothing
    assert items.roles["teacher"].nll.sum() == pytest.approx(cost, rel=0.05)
