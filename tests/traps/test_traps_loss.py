"""Traps in what is minimised: 1 (T²), 6 (generalised JSD), 12 (half precision), 19 (entropy), 20 (balancing)."""

from __future__ import annotations

import math

import pytest
import torch
from references import OUTCOMES, kl, softmax
from shared import make_batch, make_llama, make_tokenizer
from small import learned, positions

from stillhouse import rows
from stillhouse.find import find
from stillhouse.objective import Learner, Shape, terms_of
from stillhouse.recipe import Objective
from stillhouse.teacher import Teacher
from stillhouse.types import Output, Signal

DIVERGENCES = [name for name, reference in OUTCOMES.items() if reference.divergence]


def value_of(name: str, student: torch.Tensor, teacher: torch.Tensor, **options: float) -> torch.Tensor:
    """The loss itself, in the types that come."""
    return find("loss", name)(Output(student), Signal(logits_NV=teacher), positions(*student.shape), **options)


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(7)
    return torch.randn(5, 9, generator=g) * 2, torch.randn(5, 9, generator=g) * 2


@pytest.fixture(params=["compiled", "torch"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to the closed form of forward KL."""
    if request.param == "torch":
        monkeypatch.setattr(rows, "_library", lambda: None)
    elif rows._library() is None:
        pytest.skip("no compiler here")
    return request.param


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl"])
def test_trap_01_temperature_squared(name: str, logits, kernel: str):
    """Softening both sides by T leaves a soft gradient 1/T² as large, so the soft loss fades beside the hard one.

    Code that puts the factor T² into the number it prints and not into the one it differentiates looks right in every log. So
    it is the gradient that is compared, at T = 4, with that of T² · KL in float64.
    """
    student, teacher = logits
    leaf = student.double().requires_grad_()
    expected = 0
    for n in range(len(student)):
        q, p = softmax(list(leaf[n]), 4.0), softmax(list(teacher[n].double()), 4.0)
        expected = expected + 16 * (kl(p, q) if name == "forward_kl" else kl(q, p))
    expected.backward()
    value, gradient = learned(name, student, teacher, temperature=4.0)
    assert value == pytest.approx(expected.item(), rel=1e-4)
    torch.testing.assert_close(gradient.double(), leaf.grad, rtol=1e-4, atol=1e-5)


def test_trap_06_generalised_jsd_has_no_jump_at_its_end(logits):
    """β KL(p ‖ m) + (1 − β) KL(q ‖ m) sinks to 0 with β, and trainers that make an exception of β = 0 leap to a full KL there:
    β = 0.001 then learns a thousandth as fast as β = 0. Divided by β (1 − β) the value and its gradient run on into the KL."""
    student, teacher = (x * 0.5 for x in logits)
    at_end, gradient_at_end = learned("js", student, teacher, beta=0.0)
    forward = sum(kl(softmax(list(p)), softmax(list(q))) for q, p in zip(*(x.double() for x in (student, teacher)), strict=True))  # fmt: skip
    assert at_end == pytest.approx(forward.item(), rel=1e-5)
    for beta in (1e-3, 1e-2):
        value, gradient = learned("js", student, teacher, beta=beta)
        assert value == pytest.approx(at_end, rel=10 * beta)
        assert float((gradient - gradient_at_end).norm() / gradient_at_end.norm()) < 20 * beta


@pytest.mark.parametrize("name", DIVERGENCES)
def test_trap_12_half_precision(name: str, logits):
    """Probabilities of bfloat16 have three digits: a KL made of them bottoms out near 0.01, goes below zero, and log-ratios
    overflow. Logits may come in bfloat16, but from there on it is float32, in logarithms."""
    options = {"temperature": 0.5}
    near = (logits[0] + 0.02 * logits[1]).bfloat16()
    for student, teacher in (
        (torch.tensor([[60.0, -60.0, 0.0], [-60.0, 60.0, 60.0]]), torch.tensor([[-60.0, 60.0, 0.0], [60.0, 60.0, -60.0]])),
        (near, logits[0]),
    ):  # fmt: skip
        student, teacher = student.bfloat16(), teacher.bfloat16()
        leaf = student.clone().requires_grad_()
        value = value_of(name, leaf, teacher, **options)
        value.sum().backward()
        assert torch.isfinite(value).all() and (value > -1e-6).all()
        assert torch.isfinite(leaf.grad).all()
    exact = value_of(name, near.double(), logits[0].bfloat16().double())
    assert (value_of(name, near, logits[0].bfloat16()) - exact).abs().max() < 1e-5


@pytest.mark.parametrize("name", DIVERGENCES)
def test_trap_12_outcomes_that_are_ruled_out(name: str, logits):
    """A masked outcome has the logit −inf. Its p is 0, but 0 · −inf is NaN, and a NaN that is wiped from the value afterwards
    is still in the gradient: log-probabilities are finite before anything is multiplied."""
    teacher = logits[1].clone()
    teacher[:, 2:4] = -math.inf
    leaf = logits[0].clone().requires_grad_()
    value = value_of(name, leaf, teacher)
    value.sum().backward()
    assert torch.isfinite(value).all() and torch.isfinite(leaf.grad).all()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_trap_19_nothing_to_learn_is_zero(name: str, logits):
    """The cross-entropy with the teacher's distribution has the same gradient as the KL but is larger by the teacher's entropy;
    called KL it never reaches zero, and a student that has learned everything looks far away."""
    value, gradient = learned(name, logits[1], logits[1])
    assert abs(value) < 1e-5 and gradient.abs().max() < 1e-5
    assert (
        value_of(name, logits[1], logits[1]).abs().max() < 1e-5
    )  # as it is beside other terms, outside the closed form


def test_trap_19_nor_is_there_a_gap_in_the_evaluation(logits, kernel: str):
    found = rows.compare(logits[1].clone(), logits[1].clone(), torch.zeros(5, dtype=torch.int64))
    assert found.kl_N.abs().max() < 1e-6
    assert abs(learned("forward_kl", logits[1], logits[1])[0]) < 1e-5


def test_trap_20_the_pull_fades_as_the_gap_closes(logits):
    """Terms scaled to equal size from step to step look well balanced, and divide the KL by itself: the nearer the student, the
    harder it is pulled, until it shakes. Weights are fixed or scheduled: ten times nearer, a tenth of the pull."""
    (soft,) = terms_of(Objective(alpha=1.0, soft={"name": "js"}))
    assert {soft.at(progress).weight for progress in (0.0, 0.4, 1.0)} == {1.0}
    teacher, way = logits[0].double(), logits[1].double()
    far, near = (learned("js", teacher + step * way, teacher)[1].norm() for step in (1e-2, 1e-3))
    assert float(far / near) == pytest.approx(10.0, rel=0.1)


def test_trap_20_the_whole_is_a_fixed_sum_of_its_terms():
    """Of the default objective and a term on layers: the weights that the recipe says, whatever the losses are."""
    tokenizer = make_tokenizer()
    student, teacher = make_llama(tokenizer, layers=2, seed=1), Teacher(make_llama(tokenizer, layers=4, seed=2))
    objective = Objective(terms=[{"name": "hidden_mse", "weight": 3.0}])
    learner = Learner(student, objective, 10, shape=Shape.of(teacher.model))
    batch = make_batch([7, 12], 300)
    for step in (0, 9):
        loss, parts = learner(batch, teacher.signal(batch, learner.want), 19.0, step)
        whole = 0.9 * parts["forward_kl"] + 0.1 * parts["cross_entropy"] + 3.0 * parts["hidden_mse"]
        assert loss.item() == pytest.approx(whole / 19.0, rel=1e-5)
