"""A tiny random model of every family, all parameters random, so that a forgotten one shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf

from stillhouse.models import Model

WIDTHS: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
GROUPED = {**WIDTHS, "num_key_value_heads": 2, "bos_token_id": None}
WINDOW = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
GPT2 = {"n_embd": 32, "n_inner": 48, "n_layer": 3, "n_head": 4, "n_positions": 128, "bos_token_id": None}
DROPOUTS = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "pad_token_id": 1}
HEADS = {"attention_bias": True, "mlp_bias": True}

ZOO: dict[str, Callable[[dict[str, Any]], hf.PreTrainedModel]] = {
    "llama": lambda o: hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED, **o, tie_word_embeddings=True)),
    "llama-untied": lambda o: hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED, **o, **HEADS, tie_word_embeddings=False)),
    "llama-classifier": lambda o: hf.LlamaForSequenceClassification(hf.LlamaConfig(**GROUPED, **o, num_labels=3)),
    "mistral": lambda o: hf.MistralForCausalLM(hf.MistralConfig(**GROUPED, **o, sliding_window=4)),
    "mistral-whole": lambda o: hf.MistralForCausalLM(hf.MistralConfig(**GROUPED, **o, sliding_window=None)),
    "qwen2": lambda o: hf.Qwen2ForCausalLM(hf.Qwen2Config(**GROUPED, **o)),
    "qwen3": lambda o: hf.Qwen3ForCausalLM(hf.Qwen3Config(**GROUPED, **o, head_dim=8, tie_word_embeddings=True)),
    "gemma2": lambda o: hf.Gemma2ForCausalLM(
        hf.Gemma2Config(**GROUPED, **o, **WINDOW, head_dim=16, query_pre_attn_scalar=16)
    ),
    "gemma3": lambda o: hf.Gemma3ForCausalLM(
        hf.Gemma3TextConfig(**GROUPED, **o, **WINDOW, head_dim=16, query_pre_attn_scalar=16)
    ),
    "gpt2": lambda o: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2, **o)),
    "neox": lambda o: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**WIDTHS, **o)),
    "bert-classifier": lambda o: hf.BertForSequenceClassification(
        hf.BertConfig(**WIDTHS, **DROPOUTS, **o, num_labels=3)
    ),
    "bert-masked": lambda o: hf.BertForMaskedLM(hf.BertConfig(**WIDTHS, **DROPOUTS, **o)),
    "roberta-classifier": lambda o: hf.RobertaForSequenceClassification(
        hf.RobertaConfig(**WIDTHS, **DROPOUTS, **o, num_labels=3)
    ),
    "roberta-masked": lambda o: hf.RobertaForMaskedLM(hf.RobertaConfig(**WIDTHS, **DROPOUTS, **o)),
}
"""Name → how it is made, given what every configuration shares."""

DECODERS = [name for name in ZOO if "classifier" not in name and "masked" not in name]
CLASSIFIERS = [name for name in ZOO if "classifier" in name]


def make(name: str, tokenizer: hf.PreTrainedTokenizerFast, *, seed: int = 0) -> Model:
    """One of the zoo."""
    torch.manual_seed(seed)
    shared: dict[str, Any] = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    if "bert" not in name:
        shared["pad_token_id"] = tokenizer.pad_token_id
    network = ZOO[name](shared)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0.0, 0.25)
            if parameter.ndim == 1:
                parameter += 0.5
    network.tie_weights()
    return Model(network, tokenizer, name).eval()


def answers(model: Model, ids: torch.Tensor) -> torch.Tensor:
    """What the whole network says of token ids [1, P], by transformers' own attention."""
    with model.generating() as network, torch.no_grad():
        out: torch.Tensor = network(input_ids=ids).logits
    return out
