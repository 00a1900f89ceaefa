"""Tiny tokenizers: byte-level BPE trained on a few lines."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

LINES = [
    "the quick brown fox jumps over the lazy dog and the dog sleeps",
    "a distilled student says what the teacher says, only faster",
    "question and answer, question and answer, the end",
] * 4

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make(
    *,
    bos: bool = False,
    eos: str | None = "<|im_end|>",
    template: str | None = CHAT,
    trim: bool = False,
    own_end: bool = False,
) -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    if trim:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    if bos or own_end:
        ids = [(t, tokenizer.token_to_id(t)) for t in ("<s>", "<|im_end|>")]
        single = ("<s> " if bos else "") + "$A" + (" <|im_end|>" if own_end else "")
        tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, bos_token="<s>" if bos else None)
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|endoftext|>"]})
    fast.chat_template = template
    return fast


def make_pieced() -> Any:
    """As Llama 2 and Gemma have them: spaces as letters, unknown characters as bytes, normalised first."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", "<s>", "</s>", *bytes_], show_progress=False)
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", bos_token="<s>", unk_token="<unk>")


def make_lossy() -> Any:
    """As BERT has them: words in lower case, accents dropped, the unknown in one token."""
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "the": 2, "dog": 3}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")
