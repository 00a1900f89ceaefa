"""What holds for every loss over outcomes, checked over the listing of the folder."""

from __future__ import annotations

import inspect

import pytest
import torch

from stillhouse.find import find, names
from stillhouse.types import Batch, Output, Signal

LOSSES = [name for name in names("loss") if not getattr(find("loss", name), "needs", None)]
DIVERGENCES = [name for name in LOSSES if name not in ("cross_entropy", "label_smoothing")]


def batch_of(n: int, V: int) -> Batch:
    ids = torch.zeros(n, dtype=torch.int64)
    labels = torch.arange(n) % V
    return Batch(ids, ids, (0, n), torch.arange(n), labels, torch.ones(n), ids)


def call(name: str, student: torch.Tensor, teacher: torch.Tensor, **options: object) -> torch.Tensor:
    return find("loss", name)(Output(student), Signal(logits_NV=teacher), batch_of(*student.shape), **options)


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(6, 9, generator=g) * 3, torch.randn(6, 9, generator=g) * 3


@pytest.mark.parametrize("name", LOSSES)
def test_one_number_a_position_in_float32(name: str, logits):
    value = call(name, *logits)
    assert value.shape == (6,)
    assert value.dtype == torch.float32


@pytest.mark.parametrize("name", LOSSES)
def test_finite_at_the_extremes_of_bfloat16(name: str):
    student = torch.tensor([[60.0, -60.0, 0.0], [-60.0, 60.0, 60.0]], dtype=torch.bfloat16).requires_grad_()
    teacher = torch.tensor([[-60.0, 60.0, 0.0], [60.0, 60.0, -60.0]], dtype=torch.bfloat16)
    value = call(name, student, teacher)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_zero_and_without_gradient_where_they_agree(name: str, logits):
    student = logits[0].clone().requires_grad_()
    value = call(name, student, logits[0])
    value.sum().backward()
    assert value.abs().max() < 1e-5
    assert student.grad.abs().max() < 1e-5


@pytest.mark.parametrize("name", DIVERGENCES)
def test_never_negative(name: str, logits):
    assert (call(name, *logits) > 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_constant_added_to_logits_changes_nothing(name: str, logits):
    student, teacher = logits
    torch.testing.assert_close(
        call(name, student + 11.0, teacher - 5.0), call(name, student, teacher), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", LOSSES)
def test_positions_do_not_mix(name: str, logits):
    student, teacher = logits
    whole = call(name, student, teacher)
    changed = student.clone()
    changed[3] += torch.arange(9.0)
    other = call(name, changed, teacher)
    assert torch.equal(whole[[0, 1, 2, 4, 5]], other[[0, 1, 2, 4, 5]])
    assert whole[3] != other[3]


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_that_of_float64(name: str, logits):
    single, double = (x.clone() for x in (logits[0], logits[0].double()))
    single.requires_grad_(), double.requires_grad_()
    call(name, single, logits[1]).sum().backward()
    call(name, double, logits[1].double()).sum().backward()
    torch.testing.assert_close(single.grad.double(), double.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in LOSSES if "temperature" in inspect.signature(find("loss", n)).parameters])
def test_softening_keeps_the_size_of_the_gradient(name: str):
    """T² is in the gradient: near agreement it does not shrink with T (pitfall: T² only in the logged value)."""
    g = torch.Generator().manual_seed(2)
    teacher = torch.randn(4, 9, generator=g) * 0.2
    norms = []
    for temperature in (1.0, 8.0):
        student = (teacher + 0.05 * torch.randn(4, 9, generator=torch.Generator().manual_seed(3))).requires_grad_()
        call(name, student, teacher, temperature=temperature).sum().backward()
        norms.append(student.grad.norm().item())
    assert norms[1] == pytest.approx(norms[0], rel=0.2)


def test_forward_kl_is_the_definition(logits):
    """In probability space, with loops."""
    student, teacher = (x.double() for x in logits)
    found = call("forward_kl", student, teacher, temperature=2.0)
    for n in range(6):
        q = [torch.exp(student[n, v] / 2).item() for v in range(9)]
        p = [torch.exp(teacher[n, v] / 2).item() for v in range(9)]
        q, p = [x / sum(q) for x in q], [x / sum(p) for x in p]
        slow = 4 * sum(p[v] * torch.log(torch.tensor(p[v] / q[v], dtype=torch.float64)).item() for v in range(9))
        assert found[n].item() == pytest.approx(slow, rel=1e-6)


def truncated(teacher: torch.Tensor, k: int) -> Signal:
    log_p = torch.log_softmax(teacher.double(), -1)
    top = log_p.topk(k)
    rest = torch.log1p(-top.values.exp().sum(-1).clamp(max=1 - 1e-12))
    return Signal(ids_NK=top.indices, logp_NK=top.values, rest_N=rest)


def test_truncated_teachers_keep_their_remainder(logits):
    """k = V − 1 with the rest as one more outcome is the dense value; a smaller k never exceeds it; mass outside is seen."""
    student, teacher = (x.double() for x in logits)
    forward = find("loss", "forward_kl")
    dense = call("forward_kl", student, teacher)
    batch = batch_of(6, 9)
    torch.testing.assert_close(forward(Output(student), truncated(teacher, 8), batch), dense, rtol=1e-6, atol=1e-8)
    last = dense
    for k in (6, 4, 2, 1):
        value = forward(Output(student), truncated(teacher, k), batch)
        assert (value <= last + 1e-9).all() and (value >= 0).all()
        last = value
    outside = torch.full_like(student, -5.0)
    outside.scatter_(1, teacher.argsort(-1)[:, :1], 10.0)  # all mass on what the teacher deems least likely
    assert (
        forward(Output(outside), truncated(teacher, 3), batch)
        > forward(Output(teacher), truncated(teacher, 3), batch) + 1
    ).all()
