"""What tests of classifiers share: a word-piece tokenizer as BERT's, tiny encoders, labelled texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from stillhouse.models import Model

GOOD = ["fine", "lovely", "bright", "sweet", "warm", "clever"]
BAD = ["dull", "awful", "sour", "cold", "clumsy", "vague"]
OTHER = ["film", "plot", "cask", "still", "teacher", "page", "the", "a", "with", "and", "so", "very"]

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}


def word_pieces() -> hf.PreTrainedTokenizerFast:
    """[CLS] text [SEP], [CLS] text [SEP] pair [SEP] with token types, as BERT's tokenizer."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1) if not chr(code).isupper()]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + letter for letter in letters)]
    pieces += [word for word in (*GOOD, *BAD, *OTHER) if len(word) > 1]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    inner = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, inner.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return hf.BertTokenizerFast(tokenizer_object=inner)


def bert(tokenizer: Any, kind: str = "Model", *, seed: int = 0, **settings: Any) -> hf.PreTrainedModel:
    """A BERT, all parameters random: ``Model`` (no head), ``ForMaskedLM`` or ``ForSequenceClassification``."""
    return random(getattr(hf, f"Bert{kind}"), hf.BertConfig(vocab_size=len(tokenizer), pad_token_id=0, max_position_embeddings=64, **{**SMALL, **settings}), seed)  # fmt: skip


def random(kind: Any, config: Any, seed: int = 0, spread: float = 0.2) -> hf.PreTrainedModel:
    """A network with every parameter random, so that a forgotten one shows."""
    torch.manual_seed(seed)
    network: hf.PreTrainedModel = kind(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0.0, spread)
    network.tie_weights()
    return network.eval()


def reviews(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Texts that say mostly good (1) or mostly bad (0) of something."""
    rng = np.random.default_rng(seed)
    rows = []
    for label in rng.integers(0, 2, count).tolist():
        own = rng.choice(GOOD if label else BAD, 3).tolist()
        words = [*own, *rng.choice(OTHER, int(rng.integers(3, 9))).tolist()]
        rows.append({"sentence": " ".join(rng.permutation(words).tolist()), "label": label})
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """As JSON lines."""
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


def model(network: hf.PreTrainedModel, tokenizer: Any, name: str = "tiny") -> Model:
    """With its tokenizer."""
    return Model(network, tokenizer, name)
