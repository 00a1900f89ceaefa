"""Two tokenizers that cut text differently, models for them, and batches made as the data stage makes them."""

from __future__ import annotations

from typing import Any

import torch
from shared import LINES, make_llama, make_tokenizer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from stillhouse.data.render import NO_LOSS, Rendered, tokenise
from stillhouse.models import Model
from stillhouse.types import Batch

TEXTS = {
    "a": "The quick brown fox, lazy as a dog, jumps!",
    "b": "A teacher knows what a student  keeps: é and 猫 and 😀.\nStill it jumps",
    "c": "a still turns mash into spirit; " * 3,
}


def make_byte_level(vocabulary: int = 320) -> PreTrainedTokenizerFast:
    return make_tokenizer(vocabulary)


def make_word_piece(vocabulary: int = 150) -> PreTrainedTokenizerFast:
    """Lower case, spaces dropped, [CLS] before and [SEP] after: as BERT's."""
    inner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    inner.train_from_iterator(
        LINES, trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=special, show_progress=False)
    )
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )


def end_of(tokenizer: Any) -> int:
    return tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id


def make_model(tokenizer: Any, seed: int = 0) -> Model:
    return make_llama(tokenizer, seed=seed)


def batch_of(tokenizer: Any, texts: dict[str, str], runs: dict[str, tuple[int, int]] | None = None) -> Batch:
    """Every text as one document, or only the run of it from one position to another; every position carries loss."""
    examples = tokenise([Rendered(text) for text in texts.values()], tokenizer, end_of(tokenizer))
    ids, labels, lengths, offsets = [], [], [], []
    for key, example in zip(texts, examples, strict=True):
        start, stop = (runs or {}).get(key, (0, len(example.inputs)))
        ids += example.inputs[start:stop].tolist()
        labels += example.labels[start:stop].tolist()
        lengths.append(len(example.inputs[start:stop]))
        offsets.append(start)
    assert NO_LOSS not in labels
    borders = tuple(torch.tensor([0, *lengths]).cumsum(0).tolist())
    document = torch.cat([torch.full((n,), d) for d, n in enumerate(lengths)])
    positions = torch.cat([torch.arange(n) for n in lengths])
    return Batch(
        torch.tensor(ids), positions, borders, torch.arange(len(ids)), torch.tensor(labels),
        torch.ones(len(ids)), document, tuple(texts), tuple(offsets),
    )  # fmt: skip
