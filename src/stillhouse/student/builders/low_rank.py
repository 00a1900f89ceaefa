"""A student whose matrices are products of two thin ones."""

from __future__ import annotations

import copy
import math
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from stillhouse.errors import ModelError, fail
from stillhouse.factorised import CLASSES
from stillhouse.models import Model
from stillhouse.student.importance import Sample, token_counts
from stillhouse.student.products import moments_of, split_map, split_rows


def low_rank(
    teacher: Model,
    sample: Sample,
    *,
    embedding: int | None = None,
    shared: bool = False,
    linear: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None,
    weighted: bool = True,
) -> Model:
    """The teacher with its embedding and head, the linear maps of its layers, or both, factorised.

    The product for the embedding is the one nearest to it where tokens count as often as they come in the sample, those that do
    not come as once (ALBERT's shape, Lan et al. 2019, arXiv:1909.11942, §3.1). That for a linear map changes what it says on the
    sample the least. Take other builders before this one. The student is of a class of Stillhouse's: elsewhere it loads with
    ``trust_remote_code=True``, from the file beside it.

    Args:
        teacher: whose; a language model of the types Llama, Mistral, Qwen2 or Qwen3, or, for linear alone, a classifier of the
            types BERT or RoBERTa.
        sample: texts to count tokens in and to read.
        embedding: rank: the width of the table that tokens are looked up in, between embedding and hidden width.
        shared: one table for embedding and head, each with a map of its own, where the teacher has two.
        linear: share of its parameters that each linear map of the layers keeps.
        weighted: fit the linear maps to what they hear in the sample; if not, to their matrices alone.

    """
    network = teacher.network
    kind = CLASSES.get(type(network))
    if kind is None:
        what = f"a {type(network).__name__} cannot be factorised here"
        known = ", ".join(each.__name__ for each in CLASSES)
        raise fail(ModelError, "student", what, f"Known: {known}. trim_vocabulary makes other embeddings smaller.")
    if embedding is None and linear is None:
        what = "neither embedding nor linear is given, so that nothing would be factorised"
        raise fail(ModelError, "student", what, "Write embedding: 128, or linear: 0.5 for half of each map, or both.")
    if embedding is not None:
        _check_embedding(teacher, embedding, shared)
    elif shared:
        raise fail(ModelError, "student.shared", "is about the embedding, which is left whole", "Give embedding too.")
    ranks = {} if linear is None else _ranks(teacher, linear)
    settings = {
        key: value
        for key, value in teacher.config.to_dict().items()
        if key not in ("model_type", "architectures", "transformers_version")
    }
    settings |= {"embedding_rank": embedding, "linear_ranks": ranks or None}
    settings |= {"tie_word_embeddings": True} if shared else {}
    config = kind.config_class(**settings)
    device = next(network.parameters()).device
    with torch.device(device):
        student = kind._from_config(config, attn_implementation=teacher.config._attn_implementation)
    if network.can_generate():
        student.generation_config = copy.deepcopy(network.generation_config)
    if device.type != "meta":
        texts = sample() if embedding is not None or weighted else []
        weights = network.state_dict()
        if embedding is not None:
            _factorise_embedding(weights, teacher, texts, embedding, shared)
        _factorise_layers(weights, teacher, ranks, texts if weighted else None)
        student.load_state_dict(weights)
    name = "-".join([teacher.name, *([f"rank-{embedding}"] if embedding else []), *([f"{linear:g}"] if linear else [])])
    return Model(student, teacher.tokenizer, name).requires_grad_(True)


def _check_embedding(teacher: Model, rank: int, shared: bool) -> None:
    """Refuse a rank that saves nothing, and models that have no such embedding."""
    network = teacher.network
    if not network.can_generate():
        what = f"the embedding of a {type(network).__name__} cannot be factorised here"
        raise fail(ModelError, "student.embedding", what, "Give linear alone, or take trim_vocabulary.")
    tied = network.lm_head.weight is network.model.embed_tokens.weight
    if shared and tied:
        what = "embedding and head of this teacher are one matrix already"
        raise fail(ModelError, "student.shared", what, "Leave it out.")
    vocabulary, hidden = network.model.embed_tokens.weight.shape
    matrices = 2 if shared else 1
    most = (matrices * vocabulary * hidden - 1) // (vocabulary + 2 * hidden) if tied or shared else hidden - 1
    if not 1 <= rank <= most:
        what = f"{rank} is not between 1 and {most}, below which the product is smaller than the matrix"
        raise fail(ModelError, "student.embedding", what, f"Give at most {most}: a quarter of the hidden width, say.")


def _ranks(teacher: Model, share: float) -> dict[str, int]:
    """Path in a layer of each linear map → the largest rank whose product has at most that share of its parameters."""
    ranks = {}
    for path, module in teacher.layers[0].named_modules():
        if isinstance(module, nn.Linear):
            ranks[path] = math.floor(share * math.prod(module.weight.shape) / sum(module.weight.shape))
    if min(ranks.values()) < 1:
        path = min(ranks, key=lambda each: ranks[each])
        what = f"leaves '{path}' of the layers no rank at all"
        raise fail(ModelError, "student.linear", what, "Give a larger share.")
    return ranks


def _factorise_embedding(weights: dict[str, Any], teacher: Model, texts: list[str], rank: int, shared: bool) -> None:
    """Put products in the place of embedding and head, in a state dictionary."""
    network: Any = teacher.network
    table_VH, head_VH = network.model.embed_tokens.weight, network.lm_head.weight
    counts_V = token_counts(teacher, texts, len(table_VH))
    if shared:  # one table for both: the best product for the two side by side
        table, both = split_rows(torch.cat([table_VH, head_VH], 1), counts_V, rank)
        head, (up, down) = table, torch.split(both, table_VH.shape[1], 1)
    else:
        table, up = split_rows(table_VH, counts_V, rank)
        head, down = (table, up) if head_VH is table_VH else split_rows(head_VH, counts_V, rank)
    del weights["model.embed_tokens.weight"]
    weights["model.norm.0.weight"] = weights.pop("model.norm.weight")
    weights |= {"model.embed_tokens.table.weight": table, "model.embed_tokens.up.weight": up.t()}
    weights |= {"model.norm.1.weight": down, "lm_head.weight": head}


def _factorise_layers(weights: dict[str, Any], teacher: Model, ranks: dict[str, int], texts: list[str] | None) -> None:
    """Put products in the place of the layers' linear maps, in a state dictionary."""
    names = {id(module): name for name, module in teacher.network.named_modules()}
    maps = {f"{names[id(layer)]}.{path}": rank for layer in teacher.layers for path, rank in ranks.items()}
    moments = {} if texts is None or not maps else moments_of(teacher, maps, texts)
    for name, rank in maps.items():
        up, down = split_map(weights.pop(f"{name}.weight"), moments.get(name), rank)
        weights |= {f"{name}.0.weight": down, f"{name}.1.weight": up}
        if f"{name}.bias" in weights:
            weights[f"{name}.1.bias"] = weights.pop(f"{name}.bias")
