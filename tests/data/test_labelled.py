"""Labelled texts: one label each, where the tokenizer gives a class a place; from the format to the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from classifiers import reviews, word_pieces, write
from shared import make_tokenizer

from stillhouse import data
from stillhouse.data.formats.labelled import labelled
from stillhouse.data.render import NO_LOSS, PAIR, classified
from stillhouse.errors import DataError, RecipeError
from stillhouse.find import check_options
from stillhouse.recipe import Data

NAMES = ["bad", "good"]


def section(path: Path, block: int = 32, **form: Any) -> Data:
    return Data.model_validate(
        {
            "sources": [{"name": "jsonl", "path": str(path), "format": {"name": "labelled", **form}}],
            "block": block,
            "validation": 0.25,
        }
    )


@pytest.mark.parametrize(("value", "index"), [("bad", 0), ("good", 1), (0, 0), (1, 1), (True, 1)])
def test_a_label_is_a_name_or_a_number(value: Any, index: int):
    assert labelled({"text": "x", "label": value}, None, classes=NAMES).label == index


def test_a_number_of_classes_names_them_by_number():
    assert labelled({"text": "x", "label": 4}, None, classes=5).label == 4
    assert labelled({"text": "x", "label": "4"}, None, classes=5).label == 4


@pytest.mark.parametrize("value", [2, -1, 0.0, None, ["good"], "god", ""])
def test_a_label_that_is_no_class_is_refused(value: Any):
    with pytest.raises(DataError, match="none of the 2 classes"):
        labelled({"text": "x", "label": value}, None, classes=NAMES)


def test_mistakes_name_the_nearest():
    with pytest.raises(DataError, match="Did you mean 'good'"):
        labelled({"text": "x", "label": "god"}, None, classes=NAMES)
    with pytest.raises(DataError, match="'sentence'"):
        labelled({"sentence": "x", "label": 0}, None, classes=NAMES, text="sentense")
    with pytest.raises(DataError, match="parts pairs"):
        labelled({"text": f"a{PAIR}b", "label": 0}, None, classes=NAMES)
    for wrong in (1, ["only"], "good"):
        with pytest.raises(RecipeError):
            check_options(labelled, {"classes": wrong}, "format")


def test_the_label_is_at_the_first_token_of_an_encoder_and_at_the_last_of_others():
    for tokenizer, at in ((word_pieces(), 0), (make_tokenizer(), -1)):
        rendered = labelled({"text": "a fine still", "label": 1}, tokenizer, classes=3)
        (example,) = classified([rendered], tokenizer, 32)
        assert example.inputs.tolist() == tokenizer("a fine still")["input_ids"]  # nothing shifted, nothing added
        assert example.labels[at] == 1
        assert np.count_nonzero(example.labels == NO_LOSS) == len(example.labels) - 1
        assert not example.bytes.any()
        assert not example.truncated


def test_a_pair_longer_than_a_block_is_cut_as_the_tokenizer_does():
    tokenizer = word_pieces()
    row = {"a": "the " * 30, "b": "a fine film", "label": 0}
    rendered = labelled(row, tokenizer, classes=2, text="a", pair="b")
    (example,) = classified([rendered], tokenizer, 12)
    assert example.truncated
    assert example.inputs.tolist() == tokenizer(row["a"], row["b"], truncation=True, max_length=12)["input_ids"]
    assert len(example.inputs) == 12
    assert example.inputs[-1] == tokenizer.sep_token_id
    assert example.labels[0] == 0
    (last,) = classified([labelled({"text": "x " * 50, "label": 1}, None, classes=2)], make_tokenizer(), 8)
    assert (len(last.inputs), last.labels[-1], last.truncated) == (8, 1, True)


def test_special_tokens_in_a_text_are_letters():
    tokenizer = word_pieces()
    (example,) = classified([labelled({"text": "a [SEP] b", "label": 0}, tokenizer, classes=2)], tokenizer, 32)
    assert example.inputs.tolist().count(tokenizer.sep_token_id) == 1


def test_the_corpus_has_one_label_a_text_and_finds_the_text_again(tmp_path: Path):
    rows = [{**row, "extra": f"page {i}"} for i, row in enumerate(reviews(80))]
    rows.append({"sentence": "the " * 60, "extra": "long", "label": 1})
    file = write(tmp_path / "rows.jsonl", rows)
    settings = section(file, block=24, classes=NAMES, text="sentence", pair="extra")
    tokenizer = word_pieces()
    corpus = data.prepare(settings, tokenizer, tmp_path / "data")
    assert corpus.facts["texts_truncated"] == 1
    assert corpus.facts["end_token"] is None
    wanted = {(row["sentence"], row["extra"]): row["label"] for row in rows}
    seen = 0
    for side in (corpus.train, corpus.validation):
        for batch, bytes_ in side.all(64):
            assert len(batch.labels_N) == len(batch.borders_D1) - 1
            assert batch.select_N.tolist() == list(batch.borders_D1[:-1])
            assert not bytes_.any()
            for d, label in enumerate(batch.labels_N.tolist()):
                first, second = corpus.text_of(batch.keys[d]).split(PAIR)
                assert wanted[first, second] == label
                ids = batch.input_ids_P[batch.borders_D1[d] : batch.borders_D1[d + 1]].tolist()
                assert ids == tokenizer(first, second, truncation=True, max_length=24)["input_ids"]
                seen += 1
    assert seen == len(rows)
    counts = corpus.train.label_counts(2) + corpus.validation.label_counts(2)
    assert counts.tolist() == np.bincount([row["label"] for row in rows]).tolist()
    texts = data.sample(settings, tokenizer)
    assert len(texts) == corpus.train.documents
    assert not any(PAIR in text for text in texts)


def test_one_text_is_kept_once_but_once_for_each_second(tmp_path: Path):
    rows = [{"a": "fine", "b": b, "label": 0} for b in ("x", "y", "x", "z", "w")]
    file = write(tmp_path / "rows.jsonl", rows)
    corpus = data.prepare(section(file, block=8, classes=2, text="a", pair="b"), word_pieces(), tmp_path / "data")
    assert corpus.facts["documents"] == 4
    assert corpus.facts["duplicates_dropped"] == 1


def test_a_wrong_label_says_where_it_is(tmp_path: Path):
    file = write(tmp_path / "rows.jsonl", [{"text": "a", "label": 0}, {"text": "b", "label": 7}])
    with pytest.raises(DataError, match=r"record 2.*label.*holds 7"):
        data.prepare(section(file, classes=2), word_pieces(), tmp_path / "data")
