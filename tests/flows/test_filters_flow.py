"""A whole run on filtered text: the teacher judges it, held-out text is not learned from, and the page says what went."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from shared import LINES, make_llama, make_tokenizer

import stillhouse
from stillhouse.data.grams import words
from stillhouse.data.store import VALIDATION

pytest.importorskip("rensa")
WORDS = " ".join(LINES).split()


def text(number: int) -> str:
    draw = random.Random(number)
    return f"{number} " + " ".join(draw.choice(WORDS) for _ in range(draw.randint(15, 40)))


def texts_of(folder: Path) -> tuple[list[str], list[bool]]:
    table, raw = np.sort(np.load(folder / "documents.npy"), order="text"), np.load(folder / "texts.npy").tobytes()
    texts = [raw[row["text"] :][: row["text_bytes"]].decode() for row in table]
    return texts, (table["side"] == VALIDATION).tolist()


def test_a_run_with_filters(tmp_path: Path) -> None:
    make_llama(make_tokenizer()).save(tmp_path / "teacher")
    clean = [text(i) for i in range(80)]
    rows = [*clean, *(f"{row} again" for row in clean[:10]), "too short", "<b>the fox</b> " * 30]
    rows += [f"Before. {row} After." for row in clean]  # each holds a document, some of which are held out
    lines = "".join(json.dumps({"text": row}) + "\n" for row in rows)
    (tmp_path / "text.jsonl").write_text(lines, encoding="utf-8")
    recipe = stillhouse.parse(
        {
            "run": str(tmp_path / "run"),
            "data": {
                "sources": {"name": "jsonl", "path": str(tmp_path / "text.jsonl")},
                "block": 32,
                "validation": 0.2,
                "filters": [
                    {"name": "length", "least": 5},
                    "repetition",
                    {"name": "perplexity", "most": 1e9, "tokens": 16},
                    {"name": "contamination"},
                    {"name": "near_duplicates", "threshold": 0.6},
                ],
            },
            "teacher": str(tmp_path / "teacher"),
            "student": {"name": "drop_layers", "keep": 1},
            "trainer": {"steps": 2, "tokens_per_step": 64, "micro_tokens": 64, "dtype": "float32", "threads": 1},
            "evaluate": {"tokens": 200, "control": False},
            "report": {"prompts": ["The"], "new_tokens": 2},
        }
    )  # fmt: skip
    folder = stillhouse.run(recipe)
    kept, held_out = texts_of(folder / "data")
    train = [row for row, held in zip(kept, held_out, strict=True) if not held]
    for row, held in zip(kept, held_out, strict=True):
        assert not held or not any(" ".join(words(row)) in " ".join(words(other)) for other in train)
    gone = [json.loads(line) for line in (folder / "data" / "removed.jsonl").read_text().splitlines()]
    assert len(gone) + len(kept) == len(rows)
    assert {line["filter"] for line in gone} == {"length", "repetition", "contamination", "near_duplicates"}
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "What the filters took out" in page and "&lt;b&gt;the fox" in page and "<b>the fox" not in page
    assert "perplexity" in page and "self-bleu" in page
    before = (folder / "data" / "manifest.json").stat().st_mtime_ns
    assert stillhouse.run(recipe) == folder
    assert (folder / "data" / "manifest.json").stat().st_mtime_ns == before
