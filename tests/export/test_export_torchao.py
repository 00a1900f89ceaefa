"""torchao: from_pretrained loads integers, and they are those that were trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from shared import make_llama, make_tokenizer

pytest.importorskip("torchao", reason="pip install 'stillhouse[quant]'")
from transformers import AutoModelForCausalLM

from stillhouse.export.compare import logits_of
from stillhouse.export.formats.torchao import torchao
from stillhouse.recipe import Quantize
from stillhouse.student import quantize

IDS = list(range(3, 40))


@pytest.mark.parametrize("inputs", ["float32", "int8"])
def test_a_student_that_was_trained_for_its_grid_is_the_same_afterwards(inputs: str, tmp_path: Path):
    student = make_llama(make_tokenizer())
    quantize.attach(student, Quantize(weights="int4", activations=inputs, group=16))
    quantize.convert(student)
    assert student.grids
    torchao(student, tmp_path, precision="int4")
    read = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    for name, grid in student.grids.items():
        held = read.get_parameter(name)
        assert torch.equal(held.qdata, grid.values) and torch.equal(held.scale, grid.scales), name
    layer = read.model.layers[0].mlp.up_proj.weight
    assert layer.activation_quantization == (None if inputs == "float32" else "int8_asym_per_token")
    with torch.no_grad():
        came = read(torch.tensor([IDS])).logits[0]
    # a number that lies between two steps is rounded to either, by the last bit of a sum, and all later tokens see it
    near = 1e-3 if inputs == "float32" else 0.1
    torch.testing.assert_close(came, logits_of(student, IDS), atol=near, rtol=near)


def test_an_integer_takes_a_byte_and_a_tied_head_none(tmp_path: Path):
    student = make_llama(make_tokenizer(4000))
    torchao(student, tmp_path, precision="int8")
    told = torchao.size(student, {"precision": "int8"})
    assert 0 < (tmp_path / "model.safetensors").stat().st_size - told < 40_000
