"""A student whose embedding and head are products of two thin matrices."""

from __future__ import annotations

import copy

import torch

from stillhouse.errors import ModelError, fail
from stillhouse.factorised import CLASSES, split
from stillhouse.models import Model
from stillhouse.student.importance import Sample, token_counts


def low_rank(teacher: Model, sample: Sample, *, embedding: int) -> Model:
    """The teacher with its embedding and head factorised (ALBERT's shape, Lan et al. 2019, arXiv:1909.11942, §3.1).

    The product is the one nearest to the teacher's matrix where tokens count as often as they come in the sample, those that
    do not come as once (GroupReduce, Chen et al. 2018, arXiv:1806.06950, eq. 2). Take other builders before this one. The
    student is of a class of Stillhouse's: elsewhere it loads with ``trust_remote_code=True``, from the file beside it.

    Args:
        teacher: whose; of the types Llama, Mistral, Qwen2 or Qwen3.
        sample: texts whose tokens are counted.
        embedding: rank: the width of the table that tokens are looked up in, between embedding and hidden width.

    """
    network, config = teacher.network, teacher.config
    kind = CLASSES.get(config.model_type)
    if kind is None or not network.can_generate():
        what = f"the embedding of a {type(network).__name__} cannot be factorised here"
        way_out = f"Take a language model of the types {', '.join(CLASSES)}; trim_vocabulary makes others smaller."
        raise fail(ModelError, "student", what, way_out)
    tied = network.lm_head.weight is network.model.embed_tokens.weight
    vocabulary, hidden = network.model.embed_tokens.weight.shape
    most = (vocabulary * hidden - 1) // (vocabulary + 2 * hidden) if tied else hidden - 1
    if not 1 <= embedding <= most:
        what = f"{embedding} is not between 1 and {most}, below which the product is smaller than the matrix"
        raise fail(ModelError, "student.embedding", what, f"Give at most {most}: a quarter of the hidden width, say.")
    settings = {**config.to_dict(), "embedding_rank": embedding}
    settings = {k: v for k, v in settings.items() if k not in ("model_type", "architectures", "transformers_version")}
    device = next(network.parameters()).device
    with torch.device(device):
        student = kind._from_config(kind.config_class(**settings), attn_implementation=config._attn_implementation)
    student.generation_config = copy.deepcopy(network.generation_config)
    if device.type != "meta":
        theirs = network.state_dict()
        moved = {name.replace("model.norm.", "model.norm.0."): value for name, value in theirs.items()}
        counts_V = token_counts(teacher, sample(), vocabulary)
        table, up = split(network.model.embed_tokens.weight, counts_V, embedding)
        head, down = (table, up) if tied else split(network.lm_head.weight, counts_V, embedding)
        moved |= {"model.embed_tokens.table.weight": table, "model.embed_tokens.up.weight": up.t()}
        moved |= {"model.norm.1.weight": down, "lm_head.weight": head}
        moved.pop("model.embed_tokens.weight")
        student.load_state_dict(moved)
    return Model(student, teacher.tokenizer, f"{teacher.name}-rank-{embedding}").requires_grad_(True)
