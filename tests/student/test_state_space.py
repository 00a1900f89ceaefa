"""Mamba-2 layers against the recurrence one token at a time, and what they begin as."""

from __future__ import annotations

import math

import pytest
import torch
from shared import make_batch
from zoo import answers, make

from stillhouse.architectures.state_space import scan
from stillhouse.models import Model
from stillhouse.recipe import Student
from stillhouse.student import build

IDS = torch.tensor([[5, 9, 77, 200, 31, 8, 11]])


def made(teacher: Model, attention: list[int] | None = None) -> Model:
    return build(Student(name="state_space", attention=attention), teacher).eval()


@pytest.mark.parametrize("length", [1, 3, 4, 5, 9, 16])
def test_a_scan_is_the_recurrence(length: int):
    generator = torch.Generator().manual_seed(length)
    x, b, c = (torch.randn(2, 3, length, width, generator=generator) for width in (5, 4, 4))
    decay = -torch.rand(2, 3, length, generator=generator) * 3
    found = scan(x, decay, b, c, chunk=4)
    for text in range(2):
        for head in range(3):
            state = [[0.0] * 5 for _ in range(4)]
            for t in range(length):
                stays = math.exp(float(decay[text, head, t]))
                for s in range(4):
                    for p in range(5):
                        state[s][p] = stays * state[s][p] + float(b[text, head, t, s] * x[text, head, t, p])
                y = [sum(state[s][p] * float(c[text, head, t, s]) for s in range(4)) for p in range(5)]
                torch.testing.assert_close(found[text, head, t], torch.tensor(y), rtol=1e-4, atol=1e-4)


def test_what_is_forgotten_at_once_makes_no_trouble():
    """Decays so strong that a naive ratio of products would divide nothing by nothing."""
    x, b, c = (torch.ones(1, 1, 130, 2, requires_grad=True) for _ in range(3))
    y = scan(x, torch.full((1, 1, 130), -80.0), b, c)
    torch.testing.assert_close(y, torch.full_like(y, 2.0))
    y.sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_layers_that_all_keep_their_attention_are_the_teacher(tokenizer):
    teacher = make("llama", tokenizer)
    torch.testing.assert_close(answers(made(teacher, [0, 1, 2]), IDS), answers(teacher, IDS), rtol=1e-4, atol=1e-4)


def test_a_mixer_begins_as_the_attention_it_replaces(tokenizer):
    """C · B of two tokens is the query times the key of their head, before rotary positions; x is the value."""
    teacher = make("llama", tokenizer)
    theirs, mixer = teacher.layers[0].self_attn, made(teacher, [1]).layers[0].mamba
    x = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    gate, mixed, step = (mixer.in_proj.weight @ x.t()).split([32, 96, 4])
    v, k, q = mixed.t().reshape(2, 3, 4, 8).unbind(1)
    for head in range(4):
        torch.testing.assert_close(q[:, head], (x @ theirs.q_proj.weight.t())[:, head * 8 : head * 8 + 8])
        for mine, project in ((k, theirs.k_proj), (v, theirs.v_proj)):
            group = head // 2
            torch.testing.assert_close(mine[:, head], (x @ project.weight.t())[:, group * 8 : group * 8 + 8])
    assert torch.equal(mixer.out_proj.weight, theirs.o_proj.weight)
    steps = torch.nn.functional.softplus(mixer.dt_bias)
    assert ((steps >= 0.0009) & (steps <= 0.11)).all()
    assert ((mixer.A_log.exp() >= 1) & (mixer.A_log.exp() <= 16)).all()


def test_mlps_norms_embedding_and_head_are_the_teachers(tokenizer):
    teacher, x = make("llama", tokenizer), torch.randn(3, 32)
    student = made(teacher)
    for mine, theirs in zip(student.layers, teacher.layers, strict=True):
        torch.testing.assert_close(mine.shared_mlp(x), theirs.mlp(x))
        assert torch.equal(mine.input_layernorm.weight, theirs.input_layernorm.weight)
        assert torch.equal(mine.post_attention_layernorm.weight, theirs.post_attention_layernorm.weight)
    assert torch.equal(student.network.model.norm.weight, teacher.network.model.norm.weight)
    assert torch.equal(student.head_layer.weight, teacher.head_layer.weight)
    assert student.head_layer.weight is student.network.get_input_embeddings().weight


@pytest.mark.parametrize(("depth", "keeps"), [(1, [0]), (3, [2]), (4, [3]), (8, [3, 7]), (9, [3, 7])])
def test_one_layer_in_four_keeps_its_attention(depth: int, keeps: list[int], tokenizer):
    from shared import make_llama

    kinds = made(make_llama(tokenizer, layers=depth)).config.layer_types
    assert [index for index, kind in enumerate(kinds) if kind == "full_attention"] == keeps


def test_long_documents_packed_are_transformers_own(tokenizer):
    """Over several chunks of the scan, which here and in transformers are cut alike or not."""
    student = made(make("llama", tokenizer), [1])
    batch = make_batch([100, 65, 3], 290)
    with torch.no_grad():
        found = student.head.logits(student(batch)[0])
        alone = [answers(student, batch.input_ids_P[None, a:b])[0] for a, b in ((0, 100), (100, 165), (165, 168))]
    torch.testing.assert_close(found, torch.cat(alone), rtol=1e-3, atol=1e-3)


def test_saved_files_are_transformers_own_class(tokenizer, tmp_path):
    from transformers import AutoModelForCausalLM

    student = made(make("llama", tokenizer))
    student.save(tmp_path)
    network = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(network).__name__ == "GraniteMoeHybridForCausalLM"
    assert not list(tmp_path.glob("*.py"))
    torch.testing.assert_close(network(IDS).logits, answers(student, IDS))
