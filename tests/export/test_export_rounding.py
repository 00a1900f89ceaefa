"""Matrices in integers: how far weights move, and that trained ones do not."""

from __future__ import annotations

import pytest
import torch
from shared import make_llama, make_tokenizer

pytest.importorskip("torchao", reason="pip install 'stillhouse[quant]'")

from stillhouse.export.compare import logits_of
from stillhouse.export.rounding import in_integers
from stillhouse.grid import Grid
from stillhouse.models import Model

QUERIES = "model.layers.0.self_attn.q_proj.weight"
IDS = list(range(3, 40))


@pytest.fixture(scope="module")
def student() -> Model:
    return make_llama(make_tokenizer())


@pytest.mark.parametrize("bits", [8, 4])
def test_no_weight_moves_by_more_than_half_a_step_of_its_group(bits: int, student: Model):
    _, plain = in_integers(student, bits, xnnpack=False)
    rounded = dict(plain.network.named_parameters())
    for name, was in student.network.named_parameters():
        if was.ndim < 2:
            assert torch.equal(was, rounded[name]), name
            continue
        # rows of 48 do not divide into groups of 32, embedding and head keep eight bits
        four = bits == 4 and "layers" in name and was.shape[1] % 32 == 0
        for before, after in zip(
            was.detach().reshape(-1, 32 if four else was.shape[1]),
            rounded[name].reshape(-1, 32 if four else was.shape[1]),
            strict=True,
        ):
            step = float(before.abs().max()) / (7 if four else 127)
            assert float((before - after).abs().max()) <= 0.51 * step, name
            assert len(after.unique()) <= (16 if four else 256)


def test_the_two_copies_say_the_same(student: Model):
    small, plain = in_integers(student, 4, xnnpack=False)
    with torch.no_grad(), small.generating() as network:
        torch.testing.assert_close(
            network(input_ids=torch.tensor([IDS])).logits[0], logits_of(plain, IDS), atol=1e-5, rtol=1e-5
        )
    assert logits_of(student, IDS).ne(logits_of(plain, IDS)).any()


def test_a_trained_grid_is_taken_as_it_is():
    """Scales that no rule would choose: the weights must be those, not rounded once more."""
    student = make_llama(make_tokenizer())
    torch.manual_seed(1)
    weights = dict(student.network.named_parameters())
    grid = Grid(torch.randint(-8, 8, (32, 32), dtype=torch.int8), torch.rand(32, 2).half().float() + 0.01, 4, 16)
    weights[QUERIES].data = grid.dequantise()
    student.grids = {QUERIES: grid}
    small, plain = in_integers(student, 8, xnnpack=False)
    held = small.network.get_submodule(QUERIES.removesuffix(".weight")).weight
    assert torch.equal(held.qdata, grid.values) and torch.equal(held.scale, grid.scales)
    assert torch.equal(dict(plain.network.named_parameters())[QUERIES], weights[QUERIES])


def test_a_tied_embedding_stays_one_matrix(student: Model):
    small, plain = in_integers(student, 8, xnnpack=True)
    assert torch.equal(small.network.lm_head.weight.qdata, small.network.model.embed_tokens.weight.qdata)
    assert plain.network.lm_head.weight is plain.network.model.embed_tokens.weight
