"""Classifiers as trunk and head: packed documents say what transformers says of padded rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from classifiers import SMALL, bert, random, word_pieces
from shared import make_tokenizer

from stillhouse import models
from stillhouse.errors import ModelError
from stillhouse.models import Model
from stillhouse.types import Batch

TEXTS = ["fine film", "a very dull and awful plot", "still", "the sweet cask so warm with the clever teacher"]
PAIRS = [("fine film", "so sweet"), ("awful", "the plot and the page"), ("cold", "warm"), ("a b", "[SEP] x")]
DISTIL = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 64}
TINY = {**SMALL, "num_labels": 5}
KINDS: dict[str, tuple[Any, Any]] = {
    "bert": (hf.BertForSequenceClassification, lambda n: hf.BertConfig(vocab_size=n, pad_token_id=0, **TINY)),
    "roberta": (
        hf.RobertaForSequenceClassification,
        lambda n: hf.RobertaConfig(vocab_size=n, pad_token_id=1, max_position_embeddings=64, **TINY),
    ),
    "distilbert": (
        hf.DistilBertForSequenceClassification,
        lambda n: hf.DistilBertConfig(vocab_size=n, pad_token_id=0, num_labels=5, **DISTIL),
    ),
    "llama": (hf.LlamaForSequenceClassification, lambda n: hf.LlamaConfig(vocab_size=n, pad_token_id=0, **TINY)),
    "gpt2": (
        hf.GPT2ForSequenceClassification,
        lambda n: hf.GPT2Config(vocab_size=n, pad_token_id=0, n_embd=32, n_layer=2, n_head=4, num_labels=5),
    ),
}


def packed(rows: list[list[int]], first: bool) -> Batch:
    lengths = [len(row) for row in rows]
    borders = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    select = borders[:-1] if first else [b - 1 for b in borders[1:]]
    zeros = torch.zeros(len(rows), dtype=torch.int64)
    return Batch(
        torch.tensor([i for row in rows for i in row]), torch.cat([torch.arange(n) for n in lengths]), tuple(borders), torch.tensor(select),
        zeros, torch.ones(len(rows)), torch.arange(len(rows)),
    )  # fmt: skip


def make(kind: str) -> Model:
    tokenizer = word_pieces() if "bert" in kind else make_tokenizer()
    if kind == "roberta":
        tokenizer.pad_token = "[UNK]"  # its id is 1, as RoBERTa's padding
    network, config = KINDS[kind]
    return Model(random(network, config(len(tokenizer))), tokenizer, kind).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_packed_texts_say_what_padded_rows_say(kind: str):
    model = make(kind)
    rows = [model.tokenizer(text)["input_ids"] for text in TEXTS]
    with torch.no_grad():
        ours = model.head.logits(model(packed(rows, first="bert" in kind))[0])
    longest, pad = max(map(len, rows)), model.config.pad_token_id
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    with model.generating() as network, torch.no_grad():
        theirs = network(input_ids=ids, attention_mask=mask).logits
    assert ours.shape == (4, 5)
    assert ours.std() > 0.01
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("packs", [True, False])
def test_the_second_text_of_a_pair_is_read_apart(packs: bool):
    model = make("bert")
    model.packs = packs
    if not packs:
        model.network.set_attn_implementation("sdpa")
    first, second = zip(*PAIRS, strict=True)
    encoded = model.tokenizer(list(first), list(second), padding=True, return_tensors="pt", split_special_tokens=True)
    assert encoded["token_type_ids"].max() == 1
    rows = [model.tokenizer(a, b, split_special_tokens=True)["input_ids"] for a, b in PAIRS]
    with torch.no_grad():
        ours = model.head.logits(model(packed(rows, first=True))[0])
        with model.generating() as network:
            theirs = network(**encoded).logits
            alike = network(**(encoded | {"token_type_ids": torch.zeros_like(encoded["token_type_ids"])})).logits
    assert (theirs - alike).abs().max() > 1e-3
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_saved_loads_as_what_it_is(kind: str, tmp_path: Path):
    model = make(kind)
    model.network.config.id2label = dict(enumerate("vwxyz"))
    model.save(tmp_path)
    again = models.load(str(tmp_path))
    assert again.classifies
    assert again.classes == tuple("vwxyz")
    assert not again.bare
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert models.load(str(tmp_path), empty=True).parameters_count == model.parameters_count


@pytest.mark.parametrize("kind", ["Model", "ForMaskedLM"])
def test_an_encoder_loads_as_its_trunk_alone(kind: str, tmp_path: Path):
    tokenizer = word_pieces()
    network = bert(tokenizer, kind)
    Model(network, tokenizer, "encoder").save(tmp_path)
    loaded = models.load(str(tmp_path))
    assert loaded.bare
    assert not loaded.classifies
    assert (loaded.network.pooler is None) == (kind == "ForMaskedLM")
    for name, value in loaded.network.state_dict().items():
        assert torch.equal(value, network.base_model.state_dict()[name]), name
    with pytest.raises(ModelError, match="no linear last layer"):
        _ = loaded.head


def test_a_pooling_that_is_not_known_is_refused(tmp_path: Path):
    model = make("roberta")
    model.network.classifier.dense.weight.data *= 4
    model.save(tmp_path)
    pooled, Model._pooled = Model._pooled, lambda self, hidden_NH: hidden_NH
    try:
        with pytest.raises(ModelError, match="more than its last layer"):
            models.load(str(tmp_path))
    finally:
        Model._pooled = pooled
