"""Where each model family keeps its parts: the one file that knows, for all that cuts or ranks them.

A weight is described by a letter an axis, so that a cut is the same few lines for every family: keep these indices of the
axes of this letter. The letters:

===== ===========================================================================================================
``H`` hidden channels, which every layer reads and writes
``Q`` query heads, one after another, each as wide as a head
``K`` key-value heads, likewise; as many as query heads, or one for a group of them
``F`` channels of the feed-forward layer
``A`` queries, keys and values in one matrix: all queries, all keys, all values
``B`` queries, keys and values in one matrix: query, key and value of the first head, then those of the second …
``V`` the vocabulary
``.`` what no cut of the width changes: the width of a head, positions, token types, classes
===== ===========================================================================================================
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from stillhouse.errors import ModelError, fail


@dataclass(frozen=True)
class Size:
    """What decides how large a model of a family is.

    Args:
        layers: blocks.
        hidden: channels of the hidden states.
        heads: query heads.
        groups: key-value heads; each serves heads / groups query heads.
        head_width: channels of a head.
        intermediate: channels of the feed-forward layers.
        vocabulary: rows of the embedding.

    """

    layers: int
    hidden: int
    heads: int
    groups: int
    head_width: int
    intermediate: int
    vocabulary: int

    @property
    def letters(self) -> dict[str, int]:
        """Length of an axis by its letter."""
        queries, keys = self.heads * self.head_width, self.groups * self.head_width
        return {
            "H": self.hidden,
            "Q": queries,
            "K": keys,
            "F": self.intermediate,
            "A": queries + 2 * keys,
            "B": queries + 2 * keys,
            "V": self.vocabulary,
        }


@dataclass(frozen=True)
class Family:
    """A family of models that keep their parts in the same places.

    Args:
        name: what people call it.
        layer: modules of a layer and the axes of their weights, by their path in the layer.
        rest: the same of everything else, by their path in the network without its trunk's name.
        attention_out: the module of a layer that the heads' outputs go into.
        ffn_out: the module of a layer that the feed-forward channels go into.
        final_norm: the norm after the last layer, by its path in the network without its trunk's name; "" if there is none.
        norm_offset: a norm multiplies by its weight plus this.
        scales_embedding: embeddings are multiplied by √hidden as they are read.
        own_head_width: the configuration names a head's width; if not, it is hidden / heads, so these two go together.
        whole_heads: the configuration must say a hidden width that is a multiple of the heads.
        intermediate_key: the configuration's name for the feed-forward width.
        refuses: keys of the configuration that change the mathematics in a way that no cut follows.

    """

    name: str
    layer: Mapping[str, str]
    rest: Mapping[str, str]
    attention_out: str
    ffn_out: str
    final_norm: str = ""
    norm_offset: float = 0.0
    scales_embedding: bool = False
    own_head_width: bool = False
    whole_heads: bool = False
    intermediate_key: str = "intermediate_size"
    refuses: tuple[str, ...] = ()

    def size(self, config: PreTrainedConfig) -> Size:
        """What a configuration says."""
        heads = config.num_attention_heads
        width = getattr(config, "head_dim", None) if self.own_head_width else None
        return Size(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=heads,
            groups=(getattr(config, "num_key_value_heads", None) or heads) if self.own_head_width else heads,
            head_width=width or config.hidden_size // heads,
            intermediate=getattr(config, self.intermediate_key) or 4 * config.hidden_size,
            vocabulary=config.vocab_size,
        )

    def resized(self, config: PreTrainedConfig, size: Size) -> PreTrainedConfig:
        """The configuration with another width; depth and vocabulary stay its own."""
        config = copy.deepcopy(config)
        config.hidden_size = size.hidden
        config.num_attention_heads = size.heads
        setattr(config, self.intermediate_key, size.intermediate)
        if self.own_head_width:
            config.num_key_value_heads = size.groups
            config.head_dim = size.head_width
        return config

    def problem(self, size: Size) -> tuple[str, str] | None:
        """Why no model of this family can have such a size, and a way out; None if one can."""
        if size.heads % size.groups:
            return f"{size.heads} heads cannot share {size.groups} key-value heads evenly", "Take a multiple."
        if not self.own_head_width and size.hidden != size.heads * size.head_width:
            what = f"in {self.name} the hidden width is heads × head width, and {size.hidden} is not {size.heads} × {size.head_width}"
            return what, f"Take hidden={size.heads * size.head_width}, or leave one of the two out."
        if self.whole_heads and size.hidden % size.heads:
            what = f"in {self.name} the hidden width must be a multiple of the heads, and {size.hidden} is none of {size.heads}"
            below = size.hidden // size.heads * size.heads
            return what, f"Take hidden={below or size.heads}."
        return None


_LLAMA = Family(
    name="Llama",
    layer={
        "self_attn.q_proj": "QH",
        "self_attn.k_proj": "KH",
        "self_attn.v_proj": "KH",
        "self_attn.o_proj": "HQ",
        "self_attn.q_norm": ".",
        "self_attn.k_norm": ".",
        "mlp.gate_proj": "FH",
        "mlp.up_proj": "FH",
        "mlp.down_proj": "HF",
        "input_layernorm": "H",
        "post_attention_layernorm": "H",
        "pre_feedforward_layernorm": "H",
        "post_feedforward_layernorm": "H",
    },
    rest={"embed_tokens": "VH", "norm": "H", "lm_head": "VH", "score": ".H"},
    attention_out="self_attn.o_proj",
    ffn_out="mlp.down_proj",
    final_norm="norm",
    own_head_width=True,
)
_GEMMA = replace(_LLAMA, name="Gemma", norm_offset=1.0, scales_embedding=True, whole_heads=True)
_GPT2 = Family(
    name="GPT-2",
    layer={
        "attn.c_attn": "HA",
        "attn.c_proj": "QH",
        "mlp.c_fc": "HF",
        "mlp.c_proj": "FH",
        "ln_1": "H",
        "ln_2": "H",
    },
    rest={"wte": "VH", "wpe": ".H", "ln_f": "H", "lm_head": "VH", "score": ".H"},
    attention_out="attn.c_proj",
    ffn_out="mlp.c_proj",
    final_norm="ln_f",
    intermediate_key="n_inner",
    refuses=("scale_attn_by_inverse_layer_idx",),
)
_NEOX = Family(
    name="GPT-NeoX",
    layer={
        "attention.query_key_value": "BH",
        "attention.dense": "HQ",
        "mlp.dense_h_to_4h": "FH",
        "mlp.dense_4h_to_h": "HF",
        "input_layernorm": "H",
        "post_attention_layernorm": "H",
    },
    rest={"embed_in": "VH", "final_layer_norm": "H", "lm_head": "VH", "embed_out": "VH", "score": ".H"},
    attention_out="attention.dense",
    ffn_out="mlp.dense_4h_to_h",
    final_norm="final_layer_norm",
)
_ENCODER_LAYER = {
    "attention.self.query": "QH",
    "attention.self.key": "KH",
    "attention.self.value": "KH",
    "attention.output.dense": "HQ",
    "attention.output.LayerNorm": "H",
    "intermediate.dense": "FH",
    "output.dense": "HF",
    "output.LayerNorm": "H",
}
_ENCODER_REST = {
    "embeddings.word_embeddings": "VH",
    "embeddings.position_embeddings": ".H",
    "embeddings.token_type_embeddings": ".H",
    "embeddings.LayerNorm": "H",
    "pooler.dense": "HH",
}
_BERT = Family(
    name="BERT",
    layer=_ENCODER_LAYER,
    rest={
        **_ENCODER_REST,
        "classifier": ".H",
        "cls.predictions.transform.dense": "HH",
        "cls.predictions.transform.LayerNorm": "H",
        "cls.predictions.decoder": "VH",
        "cls.predictions": "V",
    },
    attention_out="attention.output.dense",
    ffn_out="output.dense",
)
_ROBERTA = replace(
    _BERT,
    name="RoBERTa",
    rest={
        **_ENCODER_REST,
        "classifier.dense": "HH",
        "classifier.out_proj": ".H",
        "lm_head.dense": "HH",
        "lm_head.layer_norm": "H",
        "lm_head.decoder": "VH",
        "lm_head": "V",
    },
)

FAMILIES: dict[str, Family] = {
    "llama": replace(_LLAMA, whole_heads=True),
    "mistral": replace(_LLAMA, name="Mistral"),
    "qwen2": replace(_LLAMA, name="Qwen2"),
    "qwen3": replace(_LLAMA, name="Qwen3"),
    "gemma2": replace(_GEMMA, name="Gemma 2"),
    "gemma3_text": replace(_GEMMA, name="Gemma 3"),
    "gpt2": _GPT2,
    "gpt_neox": _NEOX,
    "bert": _BERT,
    "roberta": _ROBERTA,
}
"""Model type, as a configuration names it → family."""


def family_of(network: PreTrainedModel, where: str = "student") -> Family:
    """The family of a network.

    Args:
        network: whose.
        where: the recipe key to name in the error.

    Raises:
        ModelError: its type is not known here, or a setting of it is not.

    """
    config = network.config
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise fail(
            ModelError,
            where,
            f"it is not known here where a model of the type '{config.model_type}' keeps its parts",
            f"Known: {', '.join(sorted(FAMILIES))}. Layers can be dropped of any model: drop_layers with by=even.",
        )
    for key in family.refuses:
        if getattr(config, key, False):
            raise fail(ModelError, where, f"a {family.name} with {key} cannot be cut", "Use a model without it.")
    return family


@dataclass(frozen=True)
class Part:
    """What a parameter is.

    Args:
        axes: a letter an axis.
        layer: number of the layer it is of; None if it is of none.
        norm: it is the weight of a norm over hidden channels.

    """

    axes: str
    layer: int | None
    norm: bool = False


def parts_of(network: PreTrainedModel, where: str = "student") -> dict[str, Part]:
    """What each parameter of a network is, by its name; tied ones once.

    Args:
        network: of a known family; may be on the meta device.
        where: the recipe key to name in the error.

    Raises:
        ModelError: an unknown family, or a parameter that its family does not have.

    """
    family = family_of(network, where)
    found = {}
    for name, parameter in network.named_parameters():
        path, _, kind = name.removeprefix(f"{network.base_model_prefix}.").rpartition(".")
        inside = re.fullmatch(r"(?:encoder\.layer|layers|h)\.(\d+)\.(.+)", path)
        axes = family.layer.get(inside[2]) if inside else family.rest.get(path)
        if axes is None:
            raise fail(
                ModelError,
                where,
                f"a {type(network).__name__} has a part '{name}' that is not known of the family {family.name}",
                "Use the plain language model or sequence classifier of this family.",
            )
        if kind == "bias" and len(axes) > 1:  # of what comes out, which a Conv1D names last
            axes = axes[-1] if isinstance(network.get_submodule(name.rpartition(".")[0]), Conv1D) else axes[0]
        assert parameter.ndim == len(axes), name
        found[name] = Part(axes, int(inside[1]) if inside else None, norm=axes == "H" and kind == "weight")
    return found
