"""The optimiser against AdamW written out by hand, and the learning rate against values worked out on paper."""

from __future__ import annotations

import math

import pytest
import torch
import toy

from stillhouse.trainer.optim import clip, gradient_norm, learning_rate, make_optimiser, moments


def rates(**changes):
    section = toy.section(steps=11, learning_rate=1.0, **changes)
    return [learning_rate(step, section) for step in range(11)]


def test_cosine():
    values = rates(warmup=0.2, final_learning_rate=0.1)  # two steps rise, then nine fall
    assert values[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert values[6] == pytest.approx(0.55)  # half-way between 1 and 0.1
    assert values[4] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    assert values[10] == pytest.approx(0.1)
    assert values[2:] == sorted(values[2:], reverse=True)


def test_linear():
    values = rates(warmup=0.0, schedule="linear", final_learning_rate=0.0)
    assert values == pytest.approx([1 - k / 10 for k in range(11)])


def test_constant():
    assert rates(warmup=0.0, schedule="constant") == [1.0] * 11
    assert rates(warmup=0.3, schedule="constant")[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_one_step_is_at_the_highest_rate():
    assert learning_rate(0, toy.section(steps=1, learning_rate=0.3)) == pytest.approx(0.3)


def test_only_matrices_decay():
    """With gradients of zero, AdamW does nothing but decay."""
    learner = toy.Learner()
    parameters = dict(learner.named_parameters())
    section = toy.section(weight_decay=0.5, learning_rate=0.1)
    optimiser = make_optimiser(parameters, section)
    before = {n: p.detach().clone() for n, p in parameters.items()}
    for p in parameters.values():
        p.grad = torch.zeros_like(p)
    optimiser.step()
    assert {n for n in parameters if n.endswith("bias") or "norm" in n}
    for name, p in parameters.items():
        if name.endswith("bias") or "norm" in name:
            assert torch.equal(p, before[name]), name
        else:
            torch.testing.assert_close(p.detach(), before[name] * (1 - 0.1 * 0.5))


def test_adamw_by_hand():
    p = torch.nn.Parameter(torch.tensor([[1.0, -2.0], [0.5, 3.0]]))
    section = toy.section(weight_decay=0.1, learning_rate=0.01, betas=(0.9, 0.95))
    optimiser = make_optimiser({"p": p}, section)
    value = [float(x) for x in p.detach().flatten()]
    m, v = [0.0] * 4, [0.0] * 4
    for t in range(1, 4):
        gradient = [0.3 * t, -1.0, 2.0 / t, 0.0]
        p.grad = torch.tensor(gradient).reshape(2, 2)
        optimiser.step()
        for i, g in enumerate(gradient):
            value[i] -= 0.01 * 0.1 * value[i]
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.95 * v[i] + 0.05 * g * g
            value[i] -= 0.01 * (m[i] / (1 - 0.9**t)) / (math.sqrt(v[i] / (1 - 0.95**t)) + 1e-8)
        assert p.detach().flatten().tolist() == pytest.approx(value, rel=1e-5)
    assert optimiser.defaults["fused"]
    assert {k: float(t) for k, t in moments({"p": p}, optimiser).items() if k.endswith("step")} == {"optim.p.step": 3.0}


def test_frozen_parameters_have_no_moments_and_stay():
    learner = toy.Learner()
    learner.projection.weight.requires_grad_(False)
    parameters = dict(learner.named_parameters())
    optimiser = make_optimiser(parameters, toy.section())
    assert not any("projection.weight" in name for name in moments(parameters, optimiser))


def test_tied_parameters_are_one():
    names = list(dict(toy.Learner().named_parameters()))
    assert "student.network.embedding.weight" in names and "student.network.head.weight" not in names


def test_norm_and_clip():
    a, b, c = (torch.nn.Parameter(torch.zeros(n)) for n in (2, 1, 3))
    a.grad, b.grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])  # c has none
    norm = gradient_norm([a, b, c])
    assert float(norm) == pytest.approx(5.0)
    clip([a, b, c], 10.0, norm)
    assert a.grad.tolist() == [3.0, 0.0]
    clip([a, b, c], 2.5, norm)
    assert [*a.grad.tolist(), *b.grad.tolist()] == pytest.approx([1.5, 0.0, 2.0], rel=1e-5)
