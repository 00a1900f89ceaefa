"""The chunked head against autograd over the whole [N, V] in float64."""

from __future__ import annotations

import math

import pytest
import torch

from stillhouse import rows
from stillhouse.objective.chunks import WeightedLoss, chunk_length, chunked
from stillhouse.objective.losses.cross_entropy import cross_entropy
from stillhouse.objective.losses.forward_kl import forward_kl
from stillhouse.types import Batch, Head, Signal


def slow_objective(hidden, weight, teacher_logits, labels, weights, alpha, temperature, denominator):
    """From the definition, in probability space, a position at a time."""
    total = hidden.new_zeros(())
    for n in range(hidden.shape[0]):
        s = weight @ hidden[n]
        q_t = torch.exp(s / temperature) / torch.exp(s / temperature).sum()
        p_t = torch.exp(teacher_logits[n] / temperature) / torch.exp(teacher_logits[n] / temperature).sum()
        kl = sum(p_t[v] * torch.log(p_t[v] / q_t[v]) for v in range(len(s)))
        q = torch.exp(s) / torch.exp(s).sum()
        ce = -torch.log(q[labels[n]])
        total = total + weights[n] * (alpha * temperature**2 * kl + (1 - alpha) * ce)
    return total / denominator


def make(N=11, V=23, H=5, G=7, seed=0):
    g = torch.Generator().manual_seed(seed)
    r = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    labels = torch.randint(0, V, (N,), generator=g)
    weights = torch.rand(N, generator=g).float()
    ids = torch.zeros(N, dtype=torch.int64)
    batch = Batch(ids, ids, (0, N), torch.arange(N), labels, weights, ids)
    return r(N, H), r(V, H), r(N, G), r(V, G), batch


@pytest.mark.parametrize("chunk", [1, 4, 11, 100])
@pytest.mark.parametrize("temperature", [1.0, 4.0, 0.7])
@pytest.mark.parametrize("alpha", [0.9, 0.3])
def test_value_and_gradient_equal_the_definition(chunk, temperature, alpha):
    hidden, weight, teacher_hidden, teacher_weight, batch = make()
    h64, w64 = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    teacher_logits = teacher_hidden @ teacher_weight.T
    expected = slow_objective(
        h64, w64, teacher_logits, batch.labels_N, batch.weight_N.double(), alpha, temperature, 7.0
    )
    expected.backward()

    h, w = hidden.float().requires_grad_(), weight.float().requires_grad_()
    losses = [
        WeightedLoss("forward_kl", forward_kl, alpha, {"temperature": temperature}),
        WeightedLoss("cross_entropy", cross_entropy, 1 - alpha),
    ]
    signal = Signal(hidden_NH=teacher_hidden.float(), head=Head(teacher_weight.float()))
    total, sums = chunked(losses, h, Head(w), signal, batch, 7.0, chunk)
    total.backward()
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert (alpha * sums[0] + (1 - alpha) * sums[1]).item() / 7.0 == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(h.grad.double(), h64.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(w.grad.double(), w64.grad, rtol=1e-4, atol=1e-6)


def test_closed_form_equals_autograd_per_chunk():
    """The same losses under other names take the general path; both must agree, and with a bias and a graph above."""
    hidden, weight, teacher_hidden, teacher_weight, batch = make(seed=3)
    bias = torch.randn(weight.shape[0])
    results = []
    for wrap in (lambda f: f, lambda f: lambda *a, **k: f(*a, **k)):
        h, w, b = hidden.float().requires_grad_(), weight.float().requires_grad_(), bias.clone().requires_grad_()
        losses = [
            WeightedLoss("kl", wrap(forward_kl), 0.6, {"temperature": 2.0}),
            WeightedLoss("ce", wrap(cross_entropy), 0.4),
        ]
        signal = Signal(hidden_NH=teacher_hidden.float(), head=Head(teacher_weight.float()))
        total, _ = chunked(losses, h * 1.0, Head(w, b), signal, batch, 3.0, 4)
        (total * 2.0).backward()
        results.append((total.detach(), h.grad, w.grad, b.grad))
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-6)


def test_a_capped_and_scaled_head_goes_through_the_general_path():
    hidden, weight, teacher_hidden, teacher_weight, batch = make(seed=5)
    h64 = hidden.clone().requires_grad_()
    logits = torch.tanh(h64 @ weight.T * 0.5 / 3.0) * 3.0
    q = torch.softmax(logits, -1)[torch.arange(11), batch.labels_N]
    (-(q.log() * batch.weight_N).sum() / 5.0).backward()
    h = hidden.float().requires_grad_()
    head = Head(weight.float(), scale=0.5, softcap=3.0)
    total, _ = chunked([WeightedLoss("ce", cross_entropy, 1.0)], h, head, None, batch, 5.0, 4)
    total.backward()
    torch.testing.assert_close(h.grad.double(), h64.grad, rtol=1e-4, atol=1e-6)


def test_no_gradient_mode_gives_the_same_value():
    hidden, weight, teacher_hidden, teacher_weight, batch = make(seed=6)
    losses = [WeightedLoss("kl", forward_kl, 0.5, {"temperature": 3.0}), WeightedLoss("ce", cross_entropy, 0.5)]
    signal = Signal(hidden_NH=teacher_hidden.float(), head=Head(teacher_weight.float()))
    with_graph, sums = chunked(losses, hidden.float().requires_grad_(), Head(weight.float()), signal, batch, 2.0, 4)
    with torch.no_grad():
        without, sums_without = chunked(losses, hidden.float(), Head(weight.float()), signal, batch, 2.0, 4)
    assert without.item() == pytest.approx(with_graph.item(), rel=1e-5)
    torch.testing.assert_close(sums, sums_without, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("teacher_outcomes", [20, 23, 26])
def test_padded_vocabularies_are_cut_to_what_both_have(teacher_outcomes):
    """A head padded to a round size gives its extra rows to nobody: adding them changes neither value nor gradient."""
    hidden, weight, _, _, batch = make(seed=7)
    labels = batch.labels_N % 20
    batch = Batch(**{**vars(batch), "labels_N": labels})
    teacher = torch.randn(11, teacher_outcomes, dtype=torch.float64)
    shared = min(23, teacher_outcomes)
    h64 = hidden.clone().requires_grad_()
    q = torch.softmax((h64 @ weight.T)[:, :shared] / 2, -1)
    p = torch.softmax(teacher[:, :shared] / 2, -1)
    ((p * (p / q).log()).sum(-1) * 4 * batch.weight_N).sum().backward()
    h = hidden.float().requires_grad_()
    losses = [WeightedLoss("kl", forward_kl, 1.0, {"temperature": 2.0})]
    total, _ = chunked(losses, h, Head(weight.float()), Signal(logits_NV=teacher.float()), batch, 1.0, 4)
    total.backward()
    torch.testing.assert_close(h.grad.double(), h64.grad, rtol=1e-4, atol=1e-5)


def test_a_given_teacher_is_not_overwritten():
    hidden, weight, _, _, batch = make(seed=8)
    logits = torch.randn(11, 23)
    before = logits.clone()
    losses = [WeightedLoss("kl", forward_kl, 1.0, {"temperature": 2.0})]
    chunked(losses, hidden.float().requires_grad_(), Head(weight.float()), Signal(logits_NV=logits), batch, 1.0, 4)
    assert torch.equal(logits, before)


def test_no_positions_is_zero_loss_and_zero_gradient():
    hidden, weight, _, _, batch = make(seed=9)
    h, w = hidden[:0].float().requires_grad_(), weight.float().requires_grad_()
    total, sums = chunked([WeightedLoss("ce", cross_entropy, 1.0)], h, Head(w), None, batch.rows(0, 0), 1.0)
    total.backward()
    assert total.item() == 0.0
    assert sums.tolist() == [0.0]
    assert w.grad.abs().max() == 0.0


def test_a_whole_vocabulary_never_exists(monkeypatch):
    """No tensor of N · V elements is made on the way: watched from torch's own dispatch."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.untyped_storage().nbytes() // out.element_size())
            return out

    N, V, H = 512, 2000, 8
    hidden, weight, teacher_hidden, teacher_weight, batch = make(N, V, H, H)
    losses = [WeightedLoss("kl", forward_kl, 0.5, {"temperature": 2.0}), WeightedLoss("ce", cross_entropy, 0.5)]
    signal = Signal(hidden_NH=teacher_hidden.float(), head=Head(teacher_weight.float()))
    h, w = hidden.float().requires_grad_(), weight.float().requires_grad_()
    with Watch():
        total, _ = chunked(losses, h, Head(w), signal, batch, 1.0, 16)
        total.backward()
    assert 0 < largest <= 64 * V < N * V


@pytest.mark.parametrize("kernel", [rows.kl_ce_, rows.kl_ce_torch_])
def test_rows_survive_extremes(kernel):
    """±60 logits at T = 0.5 and T = 8: finite, a divergence that is not negative, rows that sum to zero gradient."""
    for temperature in (0.5, 1.0, 8.0):
        s = torch.tensor([[60.0, -60.0, 0.0, 59.0], [-60.0, 60.0, 60.0, -60.0]])
        t = torch.tensor([[-60.0, 60.0, 0.0, 1.0], [60.0, 60.0, -60.0, -60.0]])
        one = torch.ones(2)
        kl, ce = kernel(s, t, torch.tensor([1, 2]), temperature, one, one)
        assert torch.isfinite(s).all()
        assert (kl >= -1e-5).all() and torch.isfinite(kl).all() and torch.isfinite(ce).all()
        assert s.sum(-1).abs().max() < 1e-4 * max(1.0, temperature)


@pytest.mark.parametrize("kernel", [rows.kl_ce_, rows.kl_ce_torch_])
def test_rows_are_zero_where_teacher_and_student_agree(kernel):
    logits = torch.randn(3, 50) * 5
    s = logits.clone()
    kl, _ = kernel(s, logits + 7.0, torch.zeros(3, dtype=torch.int64), 2.0, torch.ones(3), torch.zeros(3))
    assert kl.abs().max() < 1e-5
    assert s.abs().max() < 1e-6


@pytest.mark.parametrize("kernel", [rows.kl_ce_, rows.kl_ce_torch_])
def test_rows_do_not_hide_a_broken_logit(kernel):
    s = torch.randn(2, 40)
    s[1, 3] = math.nan
    kl, _ = kernel(s, torch.randn(2, 40), torch.tensor([1, 2]), 2.0, torch.ones(2), torch.ones(2))
    assert math.isfinite(kl[0]) and not math.isfinite(kl[1])


def test_the_compiled_rows_are_there_where_a_compiler_is():
    import shutil

    if shutil.which("cc") is None:
        pytest.skip("no C compiler here: torch does the rows")
    assert rows._library() is not None


def test_chunk_length_bounds_the_buffer():
    assert chunk_length(49_152) == 256
    assert chunk_length(262_144) == 32
    assert chunk_length(10) == 1024
