"""A teacher of classes reads every text in its own tokens, and is refused where its classes are others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf
from classifiers import bert, model, word_pieces
from shared import make_llama, make_tokenizer

from stillhouse.data.render import PAIR, read_whole
from stillhouse.errors import ModelError
from stillhouse.teacher import Teacher
from stillhouse.teacher.classes import of_classes
from stillhouse.types import Batch

TEXTS = {"k0": "fine film", "k1": f"a dull plot{PAIR}so awful", "k2": "still warm and sweet"}


def read(key: str, tokenizer: Any) -> list[int]:
    return read_whole([TEXTS[key]], tokenizer, 32)[0][0]


def batch_of(tokenizer: Any) -> Batch:
    """The texts in a byte-level tokenizer's tokens, the label at the last."""
    rows = [read(key, tokenizer) for key in TEXTS]
    borders = [0, *torch.tensor([len(row) for row in rows]).cumsum(0).tolist()]
    return Batch(
        torch.tensor([i for row in rows for i in row]), torch.cat([torch.arange(len(row)) for row in rows]), tuple(borders),
        torch.tensor(borders[1:]) - 1, torch.tensor([0, 1, 2]), torch.ones(3), torch.arange(3), tuple(TEXTS),
    )  # fmt: skip


def classifier(names: str = "xyz") -> Teacher:
    tokenizer = word_pieces()
    network = bert(tokenizer, "ForSequenceClassification", num_labels=len(names))
    network.config.id2label = dict(enumerate(names))
    return Teacher(model(network, tokenizer))


def test_it_says_what_it_says_of_the_text_whatever_the_students_tokens():
    teacher, ours = classifier(), make_tokenizer()
    batch = batch_of(ours)
    reader = of_classes(teacher, ours, ("x", "y", "z"), read)
    said = reader.signal(batch, frozenset({"hidden"}))
    logits_NV = said.rows(0, 3).logits_NV
    with teacher.model.generating() as network, torch.no_grad():
        for n, text in enumerate(TEXTS.values()):
            encoded = teacher.tokenizer(*text.split(PAIR), return_tensors="pt")
            out = network(**encoded, output_hidden_states=True)
            torch.testing.assert_close(logits_NV[n], out.logits[0], rtol=1e-4, atol=1e-5)
            for layer, states in enumerate(out.hidden_states[1:]):
                mine = said.layers["hidden"][layer]
                assert mine.shape[0] == len(batch.input_ids_P)
                torch.testing.assert_close(mine[batch.select_N[n]], states[0, 0], rtol=1e-4, atol=1e-5)
    assert reader.forms == {"dense"}
    assert reader.placed(lambda m: m).signal(batch).rows(0, 3).logits_NV.equal(logits_NV)


def test_one_with_the_students_tokens_is_asked_itself():
    teacher = classifier()
    assert of_classes(teacher, word_pieces(), ("x", "y", "z"), read) is teacher


@pytest.mark.parametrize("wrong", [("x", "y"), ("y", "x", "z"), ("a", "b", "c"), ("x", "y", "z", "w")])
def test_other_classes_are_refused(wrong: tuple[str, ...]):
    with pytest.raises(ModelError, match="has the classes x, y, z, and the data"):
        of_classes(classifier(), word_pieces(), wrong, read)


@pytest.mark.parametrize("right", [("0", "1", "2"), ("X", "y", "Z")])
def test_numbers_name_nothing_and_case_does_not_count(right: tuple[str, ...]):
    of_classes(classifier(), word_pieces(), right, read)


def test_a_model_of_something_else_says_nothing_of_classes():
    tokenizer = word_pieces()
    for inner in (Teacher(model(bert(tokenizer), tokenizer)), Teacher(make_llama(make_tokenizer()))):
        silent = of_classes(inner, tokenizer, ("x", "y"), read)
        assert not silent.forms
        assert not silent.shows


def test_an_idle_process_gets_an_answer():
    zero = torch.zeros(1, dtype=torch.int64)
    nothing = Batch(zero, zero.clone(), (0, 1), zero.clone(), zero.clone(), torch.zeros(1), zero.clone(), ("",))
    said = of_classes(classifier(), make_tokenizer(), ("x", "y", "z"), read).signal(nothing)
    assert said.rows(0, 1).logits_NV.isfinite().all()


def test_hf_default_names_are_no_names():
    tokenizer = word_pieces()
    network = bert(tokenizer, "ForSequenceClassification", num_labels=2)
    assert isinstance(network, hf.BertForSequenceClassification)
    teacher = Teacher(model(network, tokenizer))
    assert of_classes(teacher, tokenizer, ("negative", "positive"), read) is teacher
