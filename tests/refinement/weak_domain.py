"""A tiny task with a domain that the student hardly sees and its teacher knows: what refinements are tested on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from classifiers import BAD, GOOD, OTHER, SMALL, word_pieces, write

import stillhouse
from stillhouse.models import Model

NAMES = ["negative", "positive"]
FORM = {"name": "labelled", "text": "sentence", "label": "label", "classes": NAMES}
ODD = {0: ["qqa", "qqb", "qqc"], 1: ["zza", "zzb", "zzc"]}
"""Words of the weak domain: spelled in pieces, and never met elsewhere."""


def texts(count: int, domain: str, seed: int) -> list[dict[str, Any]]:
    """Reviews of one domain; those of ``odd`` say what they think in words of their own."""
    rng = np.random.default_rng(seed)
    rows = []
    for label in rng.integers(0, 2, count).tolist():
        kind = ODD[label] if domain == "odd" else (GOOD if label else BAD)
        chosen = [*rng.choice(kind, 2).tolist(), *rng.choice(OTHER, int(rng.integers(3, 8))).tolist()]
        rows.append({"sentence": " ".join(rng.permutation(chosen).tolist()), "label": label, "domain": domain})
    return rows


def encoder(folder: Path) -> Path:
    """A BERT as it begins."""
    tokenizer = word_pieces()
    config = hf.BertConfig(vocab_size=len(tokenizer), pad_token_id=0, max_position_embeddings=64, initializer_range=0.1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **SMALL)  # fmt: skip
    torch.manual_seed(0)
    Model(hf.BertModel(config), tokenizer, "encoder").save(folder / "encoder")
    return folder / "encoder"


def settings(folder: Path, **changes: Any) -> stillhouse.Recipe:
    """A recipe whose student sees two texts of the domain ``odd``; its teacher saw many."""
    if not (folder / "encoder").exists():
        encoder(folder)
        write(folder / "train.jsonl", [*texts(240, "plain", 0), *texts(2, "odd", 1)])
        write(folder / "all.jsonl", [*texts(240, "plain", 0), *texts(240, "odd", 2)])
        write(folder / "pool.jsonl", [*texts(150, "odd", 3), *texts(300, "plain", 4)])
        write(folder / "dev.jsonl", [*texts(60, "plain", 5), *texts(20, "odd", 6)])
        write(folder / "test.jsonl", [*texts(500, "plain", 7), *texts(250, "odd", 8)])

    def source(name: str, **form: Any) -> dict[str, Any]:
        return {"name": "jsonl", "path": str(folder / name), "format": {**FORM, **form}}

    content: dict[str, Any] = {
        "name": "tiny",
        "run": str(folder / "run"),
        "data": {
            "sources": [source("train.jsonl")],
            "validation_sources": [source("dev.jsonl")],
            "test_sources": [source("test.jsonl")],
            "block": 32,
        },
        "teacher": {"name": "local", "model": str(folder / "encoder"), "dtype": "float32"},
        "stages": [
            {
                "name": "adapted", "student": "classifier", "objective": {"alpha": 0.0}, "trainer": {"steps": 50},
                "data": {"sources": [source("all.jsonl")]}, "evaluate": {"slices": [], "tokens": 64},
            },
        ],
        "student": {"name": "classifier", "start": str(folder / "encoder"), "then": [{"name": "drop_layers", "keep": 2}]},
        "objective": {"alpha": 0.8, "temperature": 2.0},
        "trainer": {
            "steps": 25, "tokens_per_step": 256, "micro_tokens": 256, "dtype": "float32", "learning_rate": 5e-3,
            "validate_every": 10, "validation_tokens": 256, "threads": 1, "checkpoint_every": 10,
        },
        "evaluate": {
            "reference": "adapted", "slices": ["domain"], "retention": 0.9,
            "measures": ["accuracy", {"name": "declared", "least": 0.8}], "control": False,
        },
        "refine": {
            "rounds": 2, "trainer": {"steps": 25, "learning_rate": 3e-3}, "smallest": 30, "margin": 0.05,
            "pool": [source("pool.jsonl", label=None)],
            "actions": [{"name": "neighbours", "count": 120}, "reweight"],
        },
    }  # fmt: skip
    for key, value in changes.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    return stillhouse.parse(content)
