"""Dropped layers against the teacher that passes them over."""

from __future__ import annotations

import pytest
import torch
from zoo import ZOO, answers, make

from stillhouse.errors import ModelError
from stillhouse.student.depth import choose_layers, with_layers

IDS = torch.tensor([[5, 9, 77, 200, 31, 8, 120, 44]])


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("kept", [[0, 2], [1], [1, 2]])
def test_it_is_the_teacher_that_passes_the_others_over(name: str, kept: list[int], tokenizer):
    """Also where layers are of several kinds: every one keeps its own (Gemma's windows)."""
    teacher = make(name, tokenizer)
    student = with_layers(teacher, kept).eval()
    handles = [
        layer.register_forward_hook(
            lambda _m, args, out: args[0] if isinstance(out, torch.Tensor) else (args[0], *out[1:])
        )
        for i, layer in enumerate(teacher.layers)
        if i not in kept
    ]
    expected = answers(teacher, IDS)
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(answers(student, IDS), expected)
    assert not torch.allclose(expected, answers(teacher, IDS), rtol=1e-2, atol=1e-2)


def test_copies_of_one_layer_are_two(tokenizer):
    student = with_layers(make("llama", tokenizer), [1, 1])
    first, second = (layer.mlp.up_proj.weight for layer in student.layers)
    assert torch.equal(first, second)
    assert first.data_ptr() != second.data_ptr()


@pytest.mark.parametrize("by", ["block_influence", "perplexity"])
def test_a_layer_that_does_nothing_goes_first(by: str, tokenizer):
    teacher = make("llama", tokenizer)
    with torch.no_grad():
        teacher.layers[2].self_attn.o_proj.weight.zero_()
        teacher.layers[2].mlp.down_proj.weight.zero_()
    assert choose_layers(teacher, lambda: ["The quick brown fox jumps over the lazy dog."], 2, by) == [0, 1]
    assert choose_layers(teacher, list, 2, "even") == [0, 2]


def test_layers_that_depend_on_their_number_stay(tokenizer):
    teacher = make("gpt2", tokenizer)
    teacher.config.scale_attn_by_inverse_layer_idx = True
    with pytest.raises(ModelError, match="scale_attn_by_inverse_layer_idx"):
        with_layers(teacher, [0, 2])
