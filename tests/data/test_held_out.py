"""A task's own files as what is held out, texts without a label, and texts made of others."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from classifiers import GOOD, bert, model, reviews, word_pieces, write

from stillhouse import data
from stillhouse.check import class_problems
from stillhouse.data.augmentations.crop import crop
from stillhouse.data.augmentations.replace_words import replace_words
from stillhouse.errors import DataError
from stillhouse.recipe import Data

FORM = {"name": "labelled", "text": "sentence", "classes": ["bad", "good"]}


def source(path: Path, **changes: Any) -> dict[str, Any]:
    return {"name": "jsonl", "path": str(path), "format": {**FORM, **changes}}


def texts_of(corpus: data.Corpus, side: Any) -> dict[str, int | None]:
    """Text → its label, None where it is not known."""
    found: dict[str, int | None] = {}
    for batch, _ in side.all(64):
        truth = [1.0] * len(batch.labels_N) if batch.truth_N is None else batch.truth_N.tolist()
        for key, label, known in zip(batch.keys, batch.labels_N.tolist(), truth, strict=True):
            found[corpus.text_of(key)] = label if known else None
    return found


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    rows = reviews(120)
    parts = {
        "train": rows[:70] + rows[70:75] + rows[90:95],  # ten texts are also in the held-out files
        "dev": rows[70:90],
        "test": rows[90:110],
        "more": [{"sentence": row["sentence"]} for row in rows[105:]] + [{"sentence": rows[0]["sentence"]}],
    }
    return {name: write(tmp_path / f"{name}.jsonl", part) for name, part in parts.items()}


def section(files: dict[str, Path], **changes: Any) -> Data:
    content = {
        "sources": [source(files["more"], label=None), source(files["train"])],
        "validation_sources": source(files["dev"]),
        "test_sources": [source(files["test"])],
        "block": 32,
    }
    return Data.model_validate({**content, **changes})


def test_held_out_files_are_whole_and_nothing_of_them_is_learned_from(files: dict[str, Path], tmp_path: Path):
    rows = [row["sentence"] for row in reviews(120)]
    corpus = data.prepare(section(files), word_pieces(), tmp_path / "data")
    dev, test, train = (texts_of(corpus, side) for side in (corpus.validation, corpus.test, corpus.train))
    assert set(dev) == set(rows[70:90]) - set(rows[90:110])
    assert set(test) == set(rows[90:110])
    assert not (set(train) & (set(dev) | set(test)))
    assert set(train) == set(rows[:70] + rows[110:]) - set(dev) - set(test)
    assert corpus.facts["test"]["documents"] == len(test)
    assert test == {r["sentence"]: r["label"] for r in reviews(120)[90:110]}


def test_an_unlabelled_text_has_no_truth_and_a_labelled_copy_of_it_wins(files: dict[str, Path], tmp_path: Path):
    rows = reviews(120)
    corpus = data.prepare(section(files), word_pieces(), tmp_path / "data")
    train = texts_of(corpus, corpus.train)
    assert train[rows[0]["sentence"]] == rows[0]["label"]  # although the source without labels stands first
    unlabelled = {text for text, label in train.items() if label is None}
    assert unlabelled == {row["sentence"] for row in rows[110:]} - {row["sentence"] for row in rows[:110]}
    assert texts_of(corpus, corpus.labelled).keys() == train.keys() - unlabelled
    assert corpus.train.label_counts(2).sum() == len(train) - len(unlabelled)
    assert corpus.facts["without_label"] == len(unlabelled)


def test_without_files_a_share_is_held_out_and_never_a_text_without_label(files: dict[str, Path], tmp_path: Path):
    split = section(files, validation_sources=[], test_sources=[], validation=0.4)
    corpus = data.prepare(split, word_pieces(), tmp_path / "data")
    held_out = texts_of(corpus, corpus.validation)
    assert 15 < len(held_out) < 50
    assert None not in held_out.values()
    assert corpus.test is corpus.validation


def test_the_sample_of_builders_holds_nothing_that_is_held_out(files: dict[str, Path]):
    outside = {row["sentence"] for row in reviews(120)[70:110]}
    assert not set(data.sample(section(files), word_pieces())) & outside


@pytest.mark.parametrize("by", ["files", "share"])
def test_texts_are_made_only_of_those_to_learn_from(files: dict[str, Path], tmp_path: Path, by: str):
    changes: dict[str, Any] = {} if by == "files" else {"validation_sources": [], "test_sources": [], "validation": 0.3}
    augment = [{"name": "crop", "shortest": 2, "longest": 3, "copies": 3}]
    corpus = data.prepare(section(files, augment=augment, **changes), word_pieces(), tmp_path / "data")
    train = texts_of(corpus, corpus.train)
    originals = {row["sentence"] for row in reviews(120)}
    made = set(train) - originals
    assert len(made) > 100
    assert corpus.facts["augmented"] == len(made)
    learned = " | ".join(set(train) & originals)
    for text in made:
        assert train[text] is None
        assert text in learned


def test_the_same_texts_are_made_in_any_order_of_the_sources(files: dict[str, Path], tmp_path: Path):
    augment = [{"name": "crop", "copies": 2}]
    one = section(files, augment=augment)
    other = one.model_copy(update={"sources": one.sources[::-1]})
    made = [
        set(texts_of(corpus, corpus.train))
        for i, each in enumerate((one, other))
        for corpus in [data.prepare(each, word_pieces(), tmp_path / str(i))]
    ]
    assert made[0] == made[1]
    again = data.prepare(section(files, augment=augment, seed=7), word_pieces(), tmp_path / "2")
    assert set(texts_of(again, again.train)) != made[0]


def test_too_small_a_share_is_refused_where_texts_are_made(files: dict[str, Path], tmp_path: Path):
    tiny = section(files, validation_sources=[], test_sources=[], validation=1e-9, augment={"name": "crop"})
    with pytest.raises(DataError, match="on one side"):
        data.prepare(tiny, word_pieces(), tmp_path / "data")


def test_a_side_without_texts_of_its_own_is_refused(files: dict[str, Path], tmp_path: Path):
    with pytest.raises(DataError, match=r"validation_sources.*held out already"):
        data.prepare(section(files, validation_sources=[source(files["test"])]), word_pieces(), tmp_path / "data")
    with pytest.raises(DataError, match="no document to learn from"):
        data.prepare(section(files, sources=[source(files["test"])]), word_pieces(), tmp_path / "data")


def test_what_makes_no_sense_is_told_before_anything_is_read(files: dict[str, Path]):
    text = {"name": "jsonl", "path": str(files["train"])}
    problems = class_problems(section(files, test_sources=[source(files["more"], label=None)]))
    assert [p.where for p in problems] == ["data.test_sources.0.format.label"]
    assert [p.where for p in class_problems(section(files, validation_sources=[text]))] == [
        "data.validation_sources.0.format"
    ]
    plain = Data.model_validate({"sources": text, "augment": "crop"})
    assert [p.where for p in class_problems(plain)] == ["data.augment"]


def test_a_crop_is_a_stretch_of_the_words():
    text = "one two three four five"
    make, draw = crop([text], shortest=2, longest=4), random.Random(0)
    found = [make(text, draw) for _ in range(200)]
    assert {len(each.split()) for each in found} == {2, 3, 4}
    assert all(each in text for each in found)
    assert {each.split()[0] for each in found} == {"one", "two", "three", "four"}
    assert crop([text], shortest=9)(text, draw) == text


def test_words_become_their_nearest_in_the_embedding(tmp_path: Path):
    """Neighbours set by hand: each good word lies beside one other good word."""
    tokenizer = word_pieces()
    network = bert(tokenizer)
    vocabulary = tokenizer.get_vocab()
    with torch.no_grad():
        table = network.get_input_embeddings().weight
        for first, second in zip(GOOD[::2], GOOD[1::2], strict=True):
            table[vocabulary[second]] = 3.0 * table[vocabulary[first]]  # the length does not count
    model(network, tokenizer).save(tmp_path / "encoder")
    text = f"the {GOOD[0]} film, {GOOD[3]}: unknownword a 1990"
    make = replace_words([text], model=str(tmp_path / "encoder"), share=1.0, among=1)
    said = make(text, random.Random(0))
    words, new = text.replace(",", "").replace(":", "").split(), said.replace(",", "").replace(":", "").split()
    assert new[1] == GOOD[1] and new[3] == GOOD[2]
    assert new[4:] == words[4:]  # several tokens, one letter, a number: as they were
    assert said[len(said) - len(" 1990") :] == " 1990" and "," in said
    everyone = {word for word in vocabulary if word.isalpha() and len(word) > 1}
    assert set(new[:4]) <= everyone


def test_a_share_of_the_words_is_replaced(tmp_path: Path):
    tokenizer = word_pieces()
    model(bert(tokenizer), tokenizer).save(tmp_path / "encoder")
    text = " ".join(GOOD * 50)
    make = replace_words([text], model=str(tmp_path / "encoder"), share=0.3, among=4)
    said = make(text, random.Random(1)).split()
    changed = [a for a, b in zip(said, GOOD * 50, strict=True) if a != b]
    assert 0.2 < len(changed) / len(said) < 0.4
    assert len({b for a, b in zip(GOOD * 50, said, strict=True) if a == GOOD[0]}) == 5  # itself and four neighbours
