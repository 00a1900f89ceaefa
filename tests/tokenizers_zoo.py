"""A small tokenizer of every kind that can be trimmed, and texts that are hard to keep whole."""

from __future__ import annotations

import json
from typing import Any

from shared import CHAT, LINES, make_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
NAMED = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
HOSTILE = [
    "",
    " ",
    "\n\n\t  \r\n",
    "e\u0301 is not \u00e9, and Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d\u034f\u0334\u0319\u0324\u031e\u0349\u035a\u032f\u031e\u0320\u034d is worse",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f \U0001f1e9\U0001f1ea",
    "\u202eright to left\u202c \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "\x00\x01\x07\x1b[31m\x7f\x85\ufeff\u200b\u2028\u2029\ufffd\uffff",
    "caf\u00c3\u00a9 \u00ed\u00a0\u0080 \xed\xb0\x80 \xff\xfe \xc0\xaf",
    "\U0010ffff\ue000\U0001d54f",
    "\u732b\u304c\u597d\u304d\u3067\u3059\uff01 \ud55c\uad6d\uc5b4 \u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22",
    "<|im_end|> <unk> [CLS] \u2581\u2581 ##ing <0x41> \u0120the",
    "still the quick brown fox " * 400,
    "aaaaaaaaaaaaaaaaaaaa" * 200,
]
"""Combining marks, joined emoji, right to left, controls, what looks like broken bytes, private use, other scripts, names of
special tokens and of spaces, very long, empty."""


def byte_level() -> Any:
    """As GPT-2's and SmolLM's."""
    return make_tokenizer(420)


def metaspace() -> Any:
    """As Llama 2's: spaces as ▁, unknown characters as bytes, a start token before each text."""
    inner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=SPECIAL + bytes_, show_progress=False)
    inner.train_from_iterator(LINES, trainer)
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    rules = json.loads(inner.to_str())
    rules["added_tokens"] = [each for each in rules["added_tokens"] if each["content"] in SPECIAL]
    return _wrapped(rules)


def several_ways() -> Any:
    """As tokenizers converted from a list of ranks: every way to cut a token into two is a merge."""
    rules = json.loads(byte_level().backend_tokenizer.to_str())
    model = rules["model"]
    added = {each["content"] for each in rules["added_tokens"]}
    merges = [
        [token[:cut], token[cut:]]
        for token in sorted(model["vocab"], key=model["vocab"].get)
        for cut in range(1, len(token))
        if token not in added and {token[:cut], token[cut:]} <= model["vocab"].keys()
    ]
    model["merges"], model["ignore_merges"] = merges, True
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(rules)), eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHAT
    return tokenizer


def roberta() -> Any:
    """Byte-level with RoBERTa's own processor, which names ids."""
    rules = json.loads(byte_level().backend_tokenizer.to_str())
    _specials_last(rules)
    ids = {each["content"]: each["id"] for each in rules["added_tokens"]}
    rules["post_processor"] = {
        "type": "RobertaProcessing", "sep": ["<|im_end|>", ids["<|im_end|>"]], "cls": ["<|im_start|>", ids["<|im_start|>"]], "trim_offsets": True, "add_prefix_space": False,
    }  # fmt: skip
    return _wrapped(rules, eos_token="<|im_end|>", bos_token="<|im_start|>", pad_token="<|endoftext|>")


def word_piece() -> Any:
    """As BERT's."""
    inner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=180, special_tokens=special, show_progress=False)
    inner.train_from_iterator(LINES, trainer)
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    rules = json.loads(inner.to_str())
    _specials_last(rules)
    return _wrapped(rules, mask_token="[MASK]", **names)


def unigram() -> Any:
    """As T5's, with bytes for what it does not know."""
    inner = Tokenizer(models.Unigram())
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    inner.train_from_iterator(LINES, trainer)
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    rules = json.loads(inner.to_str())
    rules["model"]["vocab"] += [[f"<0x{byte:02X}>", -20.0] for byte in range(256)]
    rules["model"]["byte_fallback"] = True
    _specials_last(rules)
    return _wrapped(rules)


def _specials_last(rules: dict[str, Any]) -> None:
    """Special tokens behind all others, so that dropping one of these moves them."""
    model = rules["model"]
    special = [each["content"] for each in rules["added_tokens"]]
    if model["type"] == "Unigram":
        scores = dict(map(tuple, model["vocab"]))
        model["vocab"] = [[t, s] for t, s in scores.items() if t not in special] + [[t, scores[t]] for t in special]
        ids = {token: number for number, (token, _) in enumerate(model["vocab"])}
        model["unk_id"] = ids["<unk>"]
    else:
        words = sorted(set(model["vocab"]) - set(special), key=model["vocab"].get)
        ids = model["vocab"] = {token: number for number, token in enumerate([*words, *special])}
    for each in rules["added_tokens"]:
        each["id"] = ids[each["content"]]
    for each in (rules["post_processor"] or {}).get("special_tokens", {}).values():
        each["ids"] = [ids[token] for token in each["tokens"]]


def _wrapped(rules: dict[str, Any], **names: str) -> Any:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(rules, ensure_ascii=False)), **(names or NAMED)
    )
    tokenizer.chat_template = CHAT
    return tokenizer


ZOO = {f.__name__: f for f in (byte_level, metaspace, several_ways, roberta, word_piece, unigram)}
