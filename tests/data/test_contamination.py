"""Evaluation text is found in what is learned from, wherever it was planted; clean documents stay."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from stillhouse.data import prepare
from stillhouse.data.evaluation_sets import COMMON, Index
from stillhouse.data.filters.contamination import contamination
from stillhouse.data.grams import words
from stillhouse.data.store import VALIDATION
from stillhouse.errors import DataError, RecipeError
from stillhouse.recipe import Data

LETTERS = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in "nrst"]


def fresh(draw: random.Random, length: int) -> list[str]:
    return [draw.choice(LETTERS) for _ in range(length)]


def expected(texts: list[str], document: str, run: int, shortest: int) -> float:
    """The definition, run by run: the highest score over all evaluation texts."""

    def runs(parts: list[str], n: int) -> list[tuple[str, ...]]:
        return [tuple(parts[i : i + n]) for i in range(len(parts) - n + 1)]

    def own(parts: list[str]) -> set[tuple[str, ...]]:
        if len(parts) >= run:
            return set(runs(parts, run))
        return {tuple(parts)} if len(parts) >= min(shortest, run) else set()

    evaluation = [words(t) for t in texts]
    often = Counter(r for parts in evaluation for r in own(parts))
    best, parts = 0.0, words(document)
    for other in evaluation:
        if parts and parts == other:
            return 1.0
        rare = {r for r in own(other) if often[r] <= COMMON}
        if not rare:
            continue
        size = len(next(iter(rare)))
        shared = rare & set(runs(parts, size))
        best = max(best, len(shared) / min(len(rare), max(len(runs(parts, size)), 1)))
    return best


SOME = st.lists(st.sampled_from("abc"), max_size=14).map(" ".join)


@settings(max_examples=300, deadline=None)
@given(
    texts=st.lists(SOME, max_size=14),
    documents=st.lists(SOME, max_size=6),
    run=st.integers(3, 6),
    shortest=st.integers(1, 8),
)
def test_overlap_is_what_its_definition_says(texts: list[str], documents: list[str], run: int, shortest: int) -> None:
    found = Index(((str(i), t) for i, t in enumerate(texts)), run, shortest).overlap(documents)
    assert found.score_D == pytest.approx([expected(texts, d, run, shortest) for d in documents], abs=1e-6)
    assert [t >= 0 for t in found.text_D.tolist()] == [s > 0 for s in found.score_D.tolist()]


def test_planted_texts_are_found_and_clean_ones_stay() -> None:
    """Whole, in the middle of others, with case and punctuation changed, half of one: found. No clean one of 3,000 is lost."""
    draw = random.Random(0)
    evaluation = [fresh(draw, draw.choice((4, 9, 15, 40, 200))) for _ in range(300)]
    planted = []
    for number, parts in enumerate(evaluation):
        kinds = ["whole"] + (["inside"] if len(parts) >= 8 else []) + (["half"] if len(parts) >= 40 else [])
        for kind in kinds:
            text = list(parts)
            if kind == "half":
                text = text[: len(text) // 2]
            if kind != "whole":
                text = fresh(draw, draw.randint(0, 50)) + text + fresh(draw, draw.randint(0, 50))
            planted.append((number, ", ".join(w.upper() if draw.random() < 0.3 else w for w in text)))
    clean = [" ".join(fresh(draw, draw.randint(1, 200))) for _ in range(3000)]
    # as people write: turns of phrase of up to 12 words are shared and are no contamination
    clean += [" ".join(fresh(draw, 20) + parts[3:15] + fresh(draw, 20)) for parts in evaluation if len(parts) == 40]
    filter_index = Index((("set", " ".join(parts)) for parts in evaluation), 13, 8)
    found = filter_index.overlap([text for _, text in planted])
    assert (found.score_D >= 0.2).all()
    assert found.text_D.tolist() == [number for number, _ in planted]
    kept = filter_index.overlap(clean).score_D < 0.2
    short = {" ".join(parts) for parts in evaluation}
    assert all(k for k, text in zip(kept, clean, strict=True) if text not in short)


def test_turns_of_phrase_that_many_evaluation_texts_share_do_not_count() -> None:
    draw = random.Random(1)
    phrase = fresh(draw, 20)
    for count, flagged in ((COMMON, True), (COMMON + 1, False)):
        texts = [("set", " ".join(phrase + fresh(draw, 5))) for _ in range(count)]
        document = " ".join(fresh(draw, 30) + phrase + fresh(draw, 30))
        found = Index(texts, 13, 8).overlap([document, texts[0][1]])
        assert (found.score_D[0] >= 0.2) == flagged
        assert found.score_D[1] == 1.0  # a whole evaluation text is found all the same


# ---- in a run


def section(source: Path, **options: Any) -> Data:
    return Data.model_validate(
        {
            "sources": {"name": "jsonl", "path": str(source)},
            "block": 8,
            "validation": 0.2,
            "filters": [{"name": "contamination", **options}],
        }
    )


def write_lines(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def sides(folder: Path) -> tuple[list[str], list[str]]:
    table, raw = np.sort(np.load(folder / "documents.npy"), order="text"), np.load(folder / "texts.npy").tobytes()
    texts = [raw[row["text"] :][: row["text_bytes"]].decode() for row in table]
    held_out = (table["side"] == VALIDATION).tolist()
    return (
        [t for t, h in zip(texts, held_out, strict=True) if not h],
        [t for t, h in zip(texts, held_out, strict=True) if h],
    )


def test_no_held_out_document_is_in_training(tokenizer: Any, tmp_path: Path) -> None:
    """Documents that hold a held-out one, before or after it in the stream, go; the held-out ones and all others stay."""
    draw = random.Random(2)
    texts = [" ".join(fresh(draw, draw.randint(9, 60))) for _ in range(200)]
    prepare(section(write_lines(tmp_path / "a.jsonl", texts)), tokenizer, tmp_path / "first")
    train, held_out = sides(tmp_path / "first")
    assert len(train) + len(held_out) == 200
    planted = [f"{' '.join(fresh(draw, 30))} {text.upper()} {' '.join(fresh(draw, 10))}" for text in held_out]
    mixed = [*planted[::2], *texts, *planted[1::2]]
    corpus = prepare(section(write_lines(tmp_path / "b.jsonl", mixed)), tokenizer, tmp_path / "second")
    after, held_after = sides(tmp_path / "second")
    # of the planted ones, those whose own hash holds them out stay there
    assert set(held_after) >= set(held_out) and set(held_after) <= set(held_out) | set(planted)
    assert set(after) == set(train) - {t for t in train if any(t in h for h in held_after)}
    for text in held_after:
        assert not any(" ".join(words(text)) in " ".join(words(other)) for other in after)
    told = corpus.facts["filters"][0]
    assert told["compared with"]["held-out documents"]["texts"] == len(held_after)
    assert told["compared with"]["held-out documents"]["documents removed"] == told["removed"] > 0


def test_files_of_every_kind_are_read(tokenizer: Any, tmp_path: Path) -> None:
    draw = random.Random(3)
    texts = [" ".join(fresh(draw, 40)) for _ in range(60)]
    (tmp_path / "a.txt").write_text(texts[0], encoding="utf-8")
    with gzip.open(tmp_path / "b.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(
            json.dumps({"id": 1, "question": {"stem": texts[1]}, "choices": ["no", texts[2]], "answer": 0}) + "\n"
        )
    parquet.write_table(pa.table({"passage": [texts[3]]}), tmp_path / "c.parquet")
    files = [str(tmp_path / "*.txt"), str(tmp_path / "b.jsonl.gz"), str(tmp_path / "c.parquet")]
    made = section(write_lines(tmp_path / "train.jsonl", texts), files=files, validation=False)
    corpus = prepare(made, tokenizer, tmp_path / "data")
    train, held_out = sides(tmp_path / "data")
    assert set(train) | set(held_out) >= set(texts[4:])
    assert not set(train) & set(texts[:4])
    compared = corpus.facts["filters"][0]["compared with"]
    assert {name: each["texts"] for name, each in compared.items()} == {"a.txt": 1, "b.jsonl.gz": 3, "c.parquet": 1}
    log = [json.loads(line) for line in (tmp_path / "data" / "removed.jsonl").read_text().splitlines()]
    assert {line["why"].partition("with ")[2] for line in log} <= {
        "a.txt, record 1",
        "b.jsonl.gz, record 1",
        "c.parquet, record 1",
    }
    assert str(tmp_path) not in (tmp_path / "data" / "removed.jsonl").read_text()


def test_a_changed_evaluation_file_makes_the_corpus_anew(tokenizer: Any, tmp_path: Path) -> None:
    draw = random.Random(4)
    texts = [" ".join(fresh(draw, 40)) for _ in range(40)]
    evaluation = write_lines(tmp_path / "eval.jsonl", ["nothing that is there"])
    made = section(write_lines(tmp_path / "train.jsonl", texts), files=[str(evaluation)], validation=False)
    assert prepare(made, tokenizer, tmp_path / "data").facts["filtered"] == 0
    train, _ = sides(tmp_path / "data")
    write_lines(evaluation, train[:3])
    assert prepare(made, tokenizer, tmp_path / "data").facts["filtered"] == 3


def test_refusing_names_what_was_found(tokenizer: Any, tmp_path: Path) -> None:
    draw = random.Random(5)
    texts = [" ".join(fresh(draw, 40)) for _ in range(40)]
    evaluation = write_lines(tmp_path / "eval.jsonl", texts)
    made = section(
        write_lines(tmp_path / "train.jsonl", texts), files=[str(evaluation)], validation=False, action="refuse"
    )
    with pytest.raises(DataError) as error:
        prepare(made, tokenizer, tmp_path / "data")
    said = str(error.value)
    assert "documents to learn from hold evaluation text" in said and said.count("eval.jsonl, record") == 3
    assert "set action: remove" in said and "record 1 shares 100%" in said
    assert not (tmp_path / "data").exists()


def test_mistakes_in_its_options(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(RecipeError) as error:
        contamination(lambda: [], files=(str(tmp_path / "none.jsonl"), str(tmp_path / "a.csv")))
    first, second = error.value.problems
    assert first.where == "files.0" and "no file matches" in first.what
    assert second.where == "files.1" and "'a.csv' is of no kind" in second.what and ".jsonl" in second.way_out
    with pytest.raises(RecipeError, match="names no evaluation set"):
        contamination(lambda: [], validation=False)
