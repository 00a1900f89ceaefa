"""What the student wrote itself is no truth: no loss and no weight may treat its word as the true outcome."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from shared import make_batch

from stillhouse.objective.losses.decoupled_kd import decoupled_kd
from stillhouse.objective.losses.forward_kl import forward_kl
from stillhouse.objective.weights.correctness_gate import correctness_gate
from stillhouse.objective.weights.token_rarity import token_rarity
from stillhouse.types import Batch, Output, Signal

N, V = 6, 7
OWN = [1, 2, 5]
"""Positions of the student's own text."""


@pytest.fixture
def batch() -> Batch:
    truth = torch.ones(N)
    truth[OWN] = 0.0
    return replace(make_batch([4, 2], V), truth_N=truth)


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    return torch.randn(N, V, generator=g).double() * 2, torch.randn(N, V, generator=g).double() * 2


def with_gradient(batch: Batch, student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = student.clone().requires_grad_()
    value = decoupled_kd(Output(leaf), Signal(logits_NV=teacher), batch, target=0.5, other=8.0, temperature=2.0)
    value.sum().backward()
    return value.detach(), leaf.grad


def test_decoupling_singles_out_no_word_of_the_students_own(batch, logits):
    """Another sample, the same loss; and it is T² Σ p log(p / q), of loops."""
    student, teacher = logits
    value, gradient = with_gradient(batch, student, teacher)
    other = replace(batch, labels_N=torch.where(batch.truth_N > 0, batch.labels_N, (batch.labels_N + 1) % V))
    for found, again in zip((value, gradient), with_gradient(other, student, teacher), strict=True):
        assert torch.equal(found, again)
    for n in OWN:
        q, p = (torch.softmax(x[n] / 2.0, -1).tolist() for x in logits)
        assert value[n].item() == pytest.approx(4 * sum(a * torch.log(torch.tensor(a / b)).item() for a, b in zip(p, q, strict=True)), rel=1e-5)  # fmt: skip


def test_decoupling_where_the_text_is_given_is_as_ever(batch, logits):
    """And there, with target 1 and other 1 − p(true), it is the forward KL (Zhao et al., eq. 6)."""
    given = [n for n in range(N) if n not in OWN]
    for found, plain in zip(with_gradient(batch, *logits), with_gradient(replace(batch, truth_N=None), *logits), strict=True):  # fmt: skip
        assert torch.equal(found[given], plain[given])
        assert not torch.isclose(found[OWN], plain[OWN]).all()
    student, teacher = Output(logits[0]), Signal(logits_NV=logits[1])
    for n in given:
        left = 1 - torch.softmax(logits[1][n], -1)[batch.labels_N[n]].item()
        decoupled = decoupled_kd(student, teacher, batch, other=left)[n]
        assert decoupled.item() == pytest.approx(forward_kl(student, teacher, batch)[n].item(), rel=1e-9)


def test_the_gate_judges_by_true_outcomes_only(batch, logits):
    """A teacher that never chooses the label: shut where the text is given, open where there is nothing to be wrong about."""
    teacher = torch.zeros(N, V).scatter_(1, ((batch.labels_N + 1) % V)[:, None], 5.0)
    assert correctness_gate(Signal(logits_NV=teacher), batch, otherwise=0.25).tolist() == [0.25, 1, 1, 0.25, 0.25, 1]
    right = torch.zeros(N, V).scatter_(1, batch.labels_N[:, None], 5.0)
    assert correctness_gate(Signal(logits_NV=right), batch, otherwise=0.25).tolist() == [1.0] * N
    assert correctness_gate(Signal(logits_NV=teacher), replace(batch, truth_N=None)).tolist() == [0.0] * N


def test_rarity_of_the_students_own_words_is_not_asked_for(batch):
    counts = torch.tensor([50.0, 1.0, 3.0, 20.0, 7.0, 9.0, 10.0])
    weights, plain = (token_rarity(each, counts, power=0.7) for each in (batch, replace(batch, truth_N=None)))
    for n in range(N):
        expected = 1.0 if n in OWN else plain[n].item()
        assert weights[n].item() == pytest.approx(expected)
    assert not torch.allclose(plain[OWN], torch.ones(len(OWN)))
