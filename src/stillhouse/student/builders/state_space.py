"""A student whose layers are state-space models in place of most attention."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GraniteMoeHybridConfig, GraniteMoeHybridForCausalLM

from stillhouse.errors import ModelError, fail
from stillhouse.models import Model
from stillhouse.student.hybrid import inherited, kept_layers, refuse_unlike_llama

KEEPS_EVERY = 4
"""One layer in so many keeps its attention, unless the recipe says which."""


def state_space(teacher: Model, *, attention: list[int] | None = None) -> Model:
    """The teacher with Mamba-2 in place of most attention (MambaInLlama, Wang et al. 2024, arXiv:2408.15237).

    What attention computes without its softmax is what Mamba-2 computes with nothing forgotten: so C, B and x begin as the
    teacher's q, k and v, and its output as o; keys and values that heads share are repeated. Gates and decays are fresh, and
    convolutions let pass (in the paper they are drawn). MLPs, norms, embedding, head and the layers that keep their
    attention are the teacher's. The student is of transformers' own class GraniteMoeHybrid, without experts. Take
    drop_layers before this one for a shallower student.

    Args:
        teacher: a language model of the type Llama, or a Mistral without a sliding window; its heads together as wide as its
            hidden states.
        attention: layers that keep their attention, counted from 0; every fourth if not given. At least one.

    """
    refuse_unlike_llama(teacher, "state-space layers")
    config = teacher.config
    depth, heads = config.num_hidden_layers, config.num_attention_heads
    usual = list(range(min(KEEPS_EVERY, depth) - 1, depth, KEEPS_EVERY))
    keep = kept_layers(teacher, usual if attention is None else attention)
    if not keep:  # transformers' cache counts its tokens by such a layer: without one no text can be written
        what = "no layer keeps its attention, and transformers writes no text with such a model"
        raise fail(ModelError, "student.attention", what, f"Name one: attention: [{usual[-1]}].")
    width = config.head_dim or config.hidden_size // heads
    refusals = [
        (heads * width != config.hidden_size, f"its heads together are {heads * width} wide, and its hidden states {config.hidden_size}"),
        (any(name.endswith("proj.bias") for name, _ in teacher.network.named_parameters()), "its projections have biases, for which there is no place"),
        (config.hidden_act != "silu", f"its activation is {config.hidden_act}, and Mamba-2's is silu"),
    ]  # fmt: skip
    for wrong, what in refusals:
        if wrong:
            raise fail(
                ModelError, "student", f"state-space layers cannot be made of it: {what}", "Take linear_attention."
            )
    settings = inherited(teacher) | {
        "shared_intermediate_size": config.intermediate_size,
        "layer_types": ["full_attention" if i in keep else "linear_attention" for i in range(depth)],
        "position_embedding_type": "rope",
        "attention_multiplier": width**-0.5,
        "num_local_experts": 0,
        "mamba_n_heads": heads,
        "mamba_n_groups": heads,
        "mamba_d_head": width,
        "mamba_d_state": width,
        "mamba_expand": 1,
        "mamba_chunk_size": 64,
    }
    student = GraniteMoeHybridForCausalLM._from_config(GraniteMoeHybridConfig(**settings))
    student.generation_config = copy.deepcopy(teacher.network.generation_config)
    if not next(teacher.parameters()).is_meta:
        with torch.no_grad():
            _take_over(student, teacher.network)
    return Model(student, teacher.tokenizer, f"{teacher.name}-mamba2").requires_grad_(True)


def _take_over(student: nn.Module, theirs: nn.Module) -> None:
    """Copy what the two have in common, and begin state-space layers as the attention that they replace."""
    weights: dict[str, Tensor] = dict(theirs.state_dict())
    for index in range(len(theirs.model.layers)):  # type: ignore[union-attr,arg-type]
        at = f"model.layers.{index}"
        gate, up = (weights.pop(f"{at}.mlp.{name}_proj.weight") for name in ("gate", "up"))
        weights[f"{at}.shared_mlp.input_linear.weight"] = torch.cat([gate, up])
        weights[f"{at}.shared_mlp.output_linear.weight"] = weights.pop(f"{at}.mlp.down_proj.weight")
        mixer: Any = student.get_submodule(at).mamba
        if mixer is None:
            continue
        q, k, v, o = (weights.pop(f"{at}.self_attn.{name}_proj.weight") for name in "qkvo")
        shared = q.shape[0] // k.shape[0]
        k, v = (x.unflatten(0, (-1, mixer.head_dim)).repeat_interleave(shared, 0).flatten(0, 1) for x in (k, v))  # type: ignore[no-untyped-call]
        mixer.in_proj.weight[mixer.intermediate_size : -mixer.num_heads] = torch.cat([v, k, q])
        mixer.out_proj.weight.copy_(o)
        mixer.conv1d.weight.zero_()[..., -1] = 1.0
        # As Mamba-2 begins: steps spread evenly in their logarithm from 0.001 to 0.1, decays from 1 to 16.
        step = torch.empty_like(mixer.dt_bias).uniform_(math.log(0.001), math.log(0.1)).exp()
        mixer.dt_bias.copy_(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus
        mixer.A_log.copy_(torch.empty_like(mixer.A_log).uniform_(1.0, 16.0).log())
    missing, unexpected = student.load_state_dict(weights, strict=False)
    assert not unexpected and all(".mamba." in name for name in missing), f"{unexpected[:3]} {missing[:3]}"
