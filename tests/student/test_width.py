"""Width cuts against the teacher itself, run with what was cut masked away channel by channel."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from zoo import ZOO, answers, make

from stillhouse.models import Model
from stillhouse.student.builders.shrink_width import shrink_width
from stillhouse.student.families import Size, family_of
from stillhouse.student.importance import norm_gains, widths
from stillhouse.student.width import Kept, cut

IDS = torch.tensor([[5, 9, 77, 200, 31, 8, 120]])
HEADS_OUT = ("o_proj", "attn.c_proj", "attention.dense", "attention.output.dense")
HIDDEN_TO_HIDDEN = ("pooler.dense", "transform.dense", "classifier.dense", "lm_head.dense")
CHANNELS_OUT = ("down_proj", "mlp.c_proj", "dense_4h_to_h", "output.dense")


def random_kept(teacher: Model, size: Size, seed: int) -> Kept:
    old, generator = family_of(teacher.network).size(teacher.config), torch.Generator().manual_seed(seed)

    def some(many: int, keep: int) -> torch.Tensor:
        return torch.randperm(many, generator=generator)[:keep].sort().values

    return Kept(
        some(old.hidden, size.hidden),
        [some(old.groups, size.groups) for _ in range(old.layers)],
        [some(old.intermediate, size.intermediate) for _ in range(old.layers)],
    )


def is_norm(module: nn.Module) -> bool:
    return "Norm" in type(module).__name__ and getattr(module, "weight", None) is not None


@contextlib.contextmanager
def masked(teacher: Model, kept: Kept, old: Size) -> Iterator[None]:
    """The teacher, with what is not kept set to nothing wherever it is about to be used. Knows nothing of axes."""
    gone = [c for c in range(old.hidden) if c not in kept.hidden.tolist()]
    handles = []

    def silence(module: nn.Module, args: tuple, out: torch.Tensor) -> torch.Tensor:
        out = out.clone()
        for channel in gone:
            out[..., channel] = 0.0
        return out

    def norm_by_loops(name: str):
        def hook(module: nn.Module, args: tuple, _out: torch.Tensor) -> torch.Tensor:
            x, out = args[0], torch.zeros_like(args[0])
            offset = 1.0 if "Gemma" in type(module).__name__ else 0.0
            eps = getattr(module, "eps", None) or getattr(module, "variance_epsilon", None)
            for position in range(x.shape[1]):
                values = [float(x[0, position, c]) for c in kept.hidden.tolist()]
                mean = sum(values) / len(values) if isinstance(module, nn.LayerNorm) else 0.0
                square = sum((v - mean) ** 2 for v in values) / len(values)
                for c, v in zip(kept.hidden.tolist(), values, strict=True):
                    weight = (float(module.weight[c]) + offset) * kept.gains.get(name, 1.0)
                    bias = float(module.bias[c]) if getattr(module, "bias", None) is not None else 0.0
                    out[0, position, c] = (v - mean) / math.sqrt(square + eps) * weight + bias
            return out

        return hook

    def mute(layer: int, block: int, allowed: list[int]):
        def hook(module: nn.Module, args: tuple) -> tuple:
            x = args[0].clone()
            for i in range(x.shape[-1]):
                if i // block not in allowed:
                    x[..., i] = 0.0
            return (x,)

        return hook

    for name, module in teacher.network.named_modules():
        if is_norm(module) and module.weight.shape[0] == old.hidden and "q_norm" not in name and "k_norm" not in name:
            handles.append(module.register_forward_hook(norm_by_loops(name)))
        elif isinstance(module, nn.Embedding) or name.endswith(HIDDEN_TO_HIDDEN):
            handles.append(module.register_forward_hook(silence))
    for i, layer in enumerate(teacher.layers):
        for name, module in layer.named_modules():
            if name.endswith(HEADS_OUT):
                width = old.heads // old.groups * old.head_width
                handles.append(module.register_forward_pre_hook(mute(i, width, kept.groups[i].tolist())))
                handles.append(module.register_forward_hook(silence))
            elif name.endswith(CHANNELS_OUT):
                handles.append(module.register_forward_pre_hook(mute(i, 1, kept.intermediate[i].tolist())))
                handles.append(module.register_forward_hook(silence))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("name", ZOO)
def test_a_cut_is_the_teacher_with_the_rest_masked(name: str, tokenizer):
    teacher = make(name, tokenizer)
    family = family_of(teacher.network)
    old = family.size(teacher.config)
    size = Size(old.layers, 20 if family.own_head_width else 16, 2, old.groups // 2, old.head_width, 29, old.vocabulary)
    kept = random_kept(teacher, size, seed=3)
    student = cut(teacher, size, kept).eval()
    with masked(teacher, kept, old):
        expected = answers(teacher, IDS)
    torch.testing.assert_close(answers(student, IDS), expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(expected, answers(teacher, IDS), rtol=0.1, atol=0.1)


def test_the_strongest_stay_and_norms_are_mended(tokenizer):
    teacher = make("llama", tokenizer)
    texts = ["The quick brown fox jumps over the lazy dog.", "A student keeps what it can."]
    scores = widths(teacher, texts)

    def strongest(values: torch.Tensor, keep: int) -> list[int]:
        ranked = sorted(range(len(values)), key=lambda i: -float(values[i]))
        return sorted(ranked[:keep])

    hidden = strongest(scores.hidden_H, 16)
    gains = norm_gains(teacher, texts, torch.tensor(hidden))
    student = shrink_width(teacher, lambda: texts, hidden=16, heads=2, intermediate=20)
    mine, theirs = student.network.model, teacher.network.model
    assert torch.equal(mine.embed_tokens.weight, theirs.embed_tokens.weight[:, hidden])
    torch.testing.assert_close(mine.norm.weight, theirs.norm.weight[hidden] * gains["model.norm"])
    assert all(abs(gain - 1) > 1e-3 for gain in gains.values())
    for i in range(3):
        (group,) = strongest(scores.groups_LG[i], 1)
        channels = strongest(scores.intermediate_LF[i], 20)
        ours, its = mine.layers[i], theirs.layers[i]
        assert torch.equal(ours.mlp.up_proj.weight, its.mlp.up_proj.weight[channels][:, hidden])
        assert torch.equal(
            ours.self_attn.k_proj.weight, its.self_attn.k_proj.weight[8 * group : 8 * group + 8][:, hidden]
        )
        gain = gains[f"model.layers.{i}.input_layernorm"]
        torch.testing.assert_close(ours.input_layernorm.weight, its.input_layernorm.weight[hidden] * gain)


def test_norms_stay_as_they_were_where_the_hidden_width_does(tokenizer):
    teacher = make("llama", tokenizer)
    student = shrink_width(teacher, lambda: ["The quick brown fox"], intermediate=20)
    assert torch.equal(student.network.model.norm.weight, teacher.network.model.norm.weight)
