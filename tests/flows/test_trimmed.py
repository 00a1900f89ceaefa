"""A student with some of its teacher's layers and tokens, through the whole flow."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from shared import LINES, make_llama, make_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

import stillhouse
from stillhouse.errors import RecipeError
from stillhouse.evaluate import records


def settings(folder: Path, student: object) -> stillhouse.Recipe:
    lines = [json.dumps({"text": f"{i} casks of oak, {i * i} litres. {LINES[i % 4]}"}) for i in range(60)]
    (folder / "text.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    make_llama(make_tokenizer(), layers=3).save(folder / "teacher")
    return stillhouse.parse(
        {
            "name": "tiny",
            "run": str(folder / "run"),
            "data": {"sources": {"name": "jsonl", "path": str(folder / "text.jsonl")}, "block": 64, "validation": 0.2},
            "teacher": {"name": "local", "model": str(folder / "teacher"), "dtype": "float32"},
            "student": student,
            "objective": {"terms": [{"name": "hidden_mse", "layers": "last", "weight": 0.1}]},
            "trainer": {"steps": 4, "tokens_per_step": 128, "micro_tokens": 64, "dtype": "float32"},
            "evaluate": {"tokens": 300, "control": False},
            "report": {"prompts": ["still water"], "new_tokens": 4},
        }
    )


def test_builders_in_a_chain_give_one_student(tmp_path: Path):
    then = [{"name": "trim_vocabulary", "size": 290}]
    run = stillhouse.run(settings(tmp_path, {"name": "drop_layers", "keep": 2, "then": then}))
    student = AutoModelForCausalLM.from_pretrained(run / "student")
    tokenizer = AutoTokenizer.from_pretrained(run / "student")
    assert (student.config.num_hidden_layers, student.config.vocab_size, len(tokenizer)) == (2, 290, 290)
    with safe_open(run / "student" / "model.safetensors", "pt") as file:
        stored = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 (no mapping)
    facts = json.loads((run / "evaluation" / "models.json").read_text())
    assert facts["student"]["parameters"] == facts["before"]["parameters"] == stored
    hostile = "naïve 猫 😀\u200d \x00 \u202eabc"
    assert tokenizer.decode(tokenizer(hostile).input_ids, clean_up_tokenization_spaces=False) == hostile
    items = records.read(run / "evaluation" / "items.parquet")
    assert items.roles["student"].kl is not None
    assert items.roles["student"].kl.mean() < items.roles["before"].kl.mean()
    # The same text costs the teacher the same, in whichever tokens its student reads it.
    whole = tmp_path / "whole"
    whole.mkdir()
    other = stillhouse.run(settings(whole, {"name": "drop_layers", "keep": 2}))
    own = records.read(other / "evaluation" / "items.parquet")
    keys = sorted(set(items.key.tolist()) & set(own.key.tolist()))
    assert len(keys) > 3
    sums = [[float(t.roles["teacher"].nll[t.key == key].sum()) for key in keys] for t in (items, own)]
    assert np.asarray(sums[0]) == pytest.approx(np.asarray(sums[1]), rel=0.05)  # but for what the first token holds


def test_a_factorised_student_is_trained_exported_and_loaded(tmp_path: Path):
    then = [{"name": "low_rank", "embedding": 8}]
    run = stillhouse.run(settings(tmp_path, {"name": "drop_layers", "keep": 2, "then": then}))
    loaded = stillhouse.models.load(str(run / "student"))
    assert loaded.config.model_type == "factorised_llama"
    items = records.read(run / "evaluation" / "items.parquet")
    assert items.roles["student"].nll.mean() < items.roles["before"].nll.mean()


def test_the_second_builder_of_a_chain_is_checked_like_the_first(tmp_path: Path):
    then = [{"name": "trim_vocabulry", "size": 290}, {"name": "trim_vocabulary", "sise": 290}]
    with pytest.raises(RecipeError) as raised:
        stillhouse.run(settings(tmp_path, {"name": "drop_layers", "keep": 2, "then": then}))
    told = str(raised.value)
    assert "student.then.0" in told and "Did you mean 'trim_vocabulary'" in told
    assert "student.then.1.sise" in told and "student.then.1.size" in told
