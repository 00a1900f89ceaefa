"""What tests of several folders make: a tiny tokenizer, a tiny model, a batch; and where evaluation sets lie."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from stillhouse.models import Model
from stillhouse.types import Batch

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LINES = [
    "The quick brown fox jumps over the lazy dog.",
    "Still waters run deep, and a still turns mash into spirit.",
    "A teacher says what it knows; a student keeps what it can.",
    "def add(a, b):\n    return a + b\n",
] * 3


def make_tokenizer(vocabulary: int = 320) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer trained on a few lines, with an end token and a chat template."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(LINES, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = CHAT
    return tokenizer


def make_llama(tokenizer: PreTrainedTokenizerFast, *, layers: int = 2, seed: int = 0, tied: bool = True) -> Model:
    """A Llama with grouped queries, small enough for a test."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    return Model(LlamaForCausalLM(config), tokenizer, "tiny")


def make_batch(lengths: list[int], vocabulary: int, *, seed: int = 0, every: int = 1) -> Batch:
    """Random documents of the given lengths, every so many positions with loss."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(lengths)
    ids = torch.randint(3, vocabulary, (total,), generator=generator)
    positions = torch.cat([torch.arange(n) for n in lengths])
    borders = tuple(torch.tensor([0, *lengths]).cumsum(0).tolist())
    select = torch.arange(0, total, every)
    document = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])
    labels = torch.randint(0, vocabulary, (len(select),), generator=generator)
    return Batch(
        ids, positions, borders, select, labels, torch.ones(len(select)), document[select],
        tuple(f"document-{i}" for i in range(len(lengths))),
    )  # fmt: skip


def data_folder() -> Path | None:
    """The folder of evaluation sets: ``$STILLHOUSE_DATA``, or ``shared/data`` beside or above the project; None without one."""
    given = os.environ.get("STILLHOUSE_DATA")
    places = [Path(given)] if given else [p / "shared" / "data" for p in Path(__file__).resolve().parents[1:]]
    return next((p for p in places if p.is_dir()), None)
