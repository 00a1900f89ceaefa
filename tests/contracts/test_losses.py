"""What holds for every loss, checked over the listing of the folder: a new file is checked from the start."""

from __future__ import annotations

import dataclasses
import inspect
import math
from typing import Any

import pytest
import torch
from references import LAYERS, OUTCOMES
from shared import make_batch

from stillhouse.errors import RecipeError
from stillhouse.find import find, names
from stillhouse.types import Attended, Batch, Output, Signal, learns_from_teacher


def wants(name: str) -> frozenset[str]:
    return getattr(find("loss", name), "needs", frozenset())


ON_LAYERS = [name for name in names("loss") if wants(name) & {"hidden", "attention"}]
LOSSES = [name for name in names("loss") if name not in ON_LAYERS]
KNOWN = [name for name in LOSSES if name in OUTCOMES]
AGREEING = [name for name in KNOWN if OUTCOMES[name].agree]
DIVERGENCES = [name for name in KNOWN if OUTCOMES[name].divergence]
WITH_OPTIONS = [(name, options) for name in KNOWN for options in ({}, *OUTCOMES[name].options)]
TEMPERED = [n for n in LOSSES if "temperature" in inspect.signature(find("loss", n)).parameters]
N, V = 6, 9


@pytest.mark.parametrize("name", names("loss"))
def test_there_is_a_definition_to_compare_with(name: str):
    assert name in OUTCOMES or name in LAYERS, f"write the definition of {name} in tests/references.py, with loops"


def batch_of(n: int, outcomes: int) -> Batch:
    ids = torch.zeros(n, dtype=torch.int64)
    labels = (torch.arange(n) * 2) % outcomes
    return Batch(ids, ids, (0, n), torch.arange(n), labels, torch.ones(n), ids)


def call(name: str, student: torch.Tensor, teacher: torch.Tensor | Signal, **options: object) -> torch.Tensor:
    signal = teacher if isinstance(teacher, Signal) else Signal(logits_NV=teacher)
    return find("loss", name)(Output(student), signal, batch_of(*student.shape), **options)


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(N, V, generator=g) * 3, torch.randn(N, V, generator=g) * 3


# --- losses over outcomes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_one_number_a_position_in_float32(name: str, logits):
    for dtype in (torch.float32, torch.bfloat16):
        value = call(name, *(x.to(dtype) for x in logits))
        assert value.shape == (N,)
        assert value.dtype == torch.float32


@pytest.mark.parametrize(("name", "options"), WITH_OPTIONS)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 8.0])
def test_finite_at_the_extremes_of_bfloat16(name: str, options: dict[str, Any], temperature: float):
    if name in TEMPERED:
        options = options | {"temperature": temperature}
    student = torch.tensor([[60.0, -60.0, 0.0], [-60.0, 60.0, 60.0]], dtype=torch.bfloat16).requires_grad_()
    teacher = torch.tensor([[-60.0, 60.0, 0.0], [60.0, 60.0, -60.0]], dtype=torch.bfloat16)
    value = call(name, student, teacher, **options)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert (value > -1e-6).all()
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_finite_where_the_teacher_rules_outcomes_out(name: str, logits):
    """−inf logits, as of a masked vocabulary: 0 · −inf is no NaN here."""
    student = logits[0].clone().requires_grad_()
    teacher = logits[1].clone()
    teacher[:, 3:6] = -math.inf
    value = call(name, student, teacher)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize(("name", "options"), [x for x in WITH_OPTIONS if OUTCOMES[x[0]].agree])
def test_zero_and_without_gradient_where_they_agree(name: str, options: dict[str, Any], logits):
    student = logits[0].clone().requires_grad_()
    value = call(name, student, logits[0], **options)
    value.sum().backward()
    assert value.abs().max() < 1e-5
    assert student.grad.abs().max() < 1e-5


@pytest.mark.parametrize(("name", "options"), [x for x in WITH_OPTIONS if OUTCOMES[x[0]].agree])
def test_positive_where_they_do_not(name: str, options: dict[str, Any], logits):
    assert (call(name, *logits, **options) > 0).all()


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


@pytest.mark.parametrize(
    ("name", "options", "temperature"),
    [(n, o, temperature) for n, o in WITH_OPTIONS for temperature in ((1.0, 4.0, 0.7) if n in TEMPERED else (1.0,))],
)
def test_value_and_gradient_are_the_definition(name: str, options: dict[str, Any], temperature: float, logits):
    """Against loops in probability space and their float64 gradient; with T in the gradient, not only in the value."""
    if name in TEMPERED:
        options = options | {"temperature": temperature}
    double = logits[0].double().requires_grad_()
    labels = batch_of(N, V).labels_N.tolist()
    slow = [OUTCOMES[name](double[n], logits[1][n].double(), labels[n], **options) for n in range(N)]
    (slow_gradient,) = torch.autograd.grad(sum(slow), double)
    single = logits[0].clone().requires_grad_()
    value = call(name, single, logits[1], **options)
    value.sum().backward()
    torch.testing.assert_close(value.double(), torch.stack(slow), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(single.grad.double(), slow_gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_that_of_float64(name: str, logits):
    single, double = (x.clone() for x in (logits[0], logits[0].double()))
    single.requires_grad_(), double.requires_grad_()
    call(name, single, logits[1]).sum().backward()
    call(name, double, logits[1].double()).sum().backward()
    torch.testing.assert_close(single.grad.double(), double.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in LOSSES if n not in ("adaptive_kl", "cross_entropy")])
def test_gradient_is_that_of_finite_differences(name: str, logits):
    """But of adaptive KL, whose shares carry no gradient on purpose, and of cross-entropy, which works in float32."""
    student, teacher = (x[:2].double() for x in logits)
    assert torch.autograd.gradcheck(lambda x: call(name, x, teacher), student.clone().requires_grad_())


@pytest.mark.parametrize("name", TEMPERED)
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


@pytest.mark.parametrize("name", [n for n in LOSSES if learns_from_teacher(find("loss", n)) and n != "universal"])
@pytest.mark.parametrize("padded", ["student", "teacher"])
def test_a_padded_head_changes_nothing(name: str, padded: str, logits):
    """Rows that only one of the two has (a head padded to a round size) are no outcomes; by rank alone they are."""
    longer = {"student": logits[0], "teacher": logits[1]}
    longer[padded] = torch.cat([longer[padded], torch.randn(N, 3)], -1)
    torch.testing.assert_close(
        call(name, longer["student"], longer["teacher"])[:4], call(name, *logits)[:4], rtol=1e-4, atol=1e-5
    )


# --- truncated teachers ---------------------------------------------------------------------------------------------


def truncated(teacher: torch.Tensor, k: int) -> Signal:
    log_p = torch.log_softmax(teacher.double(), -1)
    top = log_p.topk(k)
    rest = torch.log1p(-top.values.exp().sum(-1).clamp(max=1 - 1e-12))
    return Signal(ids_NK=top.indices, logp_NK=top.values, rest_N=rest)


TRUNCATING = [n for n in LOSSES if learns_from_teacher(find("loss", n)) and "dense" not in wants(n)]


@pytest.mark.parametrize("name", TRUNCATING)
def test_all_but_one_outcome_and_the_rest_are_the_whole(name: str, logits):
    student, teacher = (x.double() for x in logits)
    options = {"k": 4} if name == "ranking" else {}
    whole, cut = student.clone().requires_grad_(), student.clone().requires_grad_()
    dense, value = call(name, whole, teacher, **options), call(name, cut, truncated(teacher, V - 1), **options)
    dense.sum().backward(), value.sum().backward()
    torch.testing.assert_close(value, dense, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(cut.grad, whole.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "options"), [(n, o) for n in DIVERGENCES if n in TRUNCATING for o in OUTCOMES[n].coarser or ()]
)
def test_fewer_named_outcomes_never_exceed_more(name: str, options: dict[str, Any], logits):
    """Merging outcomes only loses sight of differences; partial sums and renormalised tails break this."""
    student, teacher = (x.double() for x in logits)
    last = call(name, student, teacher, **options)
    for k in (6, 4, 2, 1):
        value = call(name, student, truncated(teacher, k), **options)
        assert (value <= last + 1e-9).all() and (value >= 0).all()
        last = value


@pytest.mark.parametrize("name", [n for n in DIVERGENCES if n in TRUNCATING])
def test_the_rest_is_one_more_outcome(name: str, logits):
    student, teacher = (x.double() for x in logits)
    signal = truncated(teacher, 3)
    found = call(name, student, signal)
    for n in range(N):
        named = signal.ids_NK[n].tolist()
        merged = []
        for row in (student[n], teacher[n]):
            share = torch.softmax(row, -1)
            merged.append([*(share[v] for v in named), sum(share[v] for v in range(V) if v not in named)])
        if name == "adaptive_kl" and merged[1][-1] > merged[1][-2]:
            continue  # here the rest, though larger than a named outcome, is the tail: a test of its own below
        assert found[n].item() == pytest.approx(OUTCOMES[name].of(*merged).item(), rel=1e-6)


@pytest.mark.parametrize("name", [n for n in DIVERGENCES if n in TRUNCATING])
def test_probability_outside_the_named_outcomes_is_seen(name: str, logits):
    student, teacher = (x.double() for x in logits)
    outside = torch.full_like(student, -5.0)
    outside.scatter_(1, teacher.argsort(-1)[:, :1], 10.0)  # all on what the teacher deems least likely
    signal = truncated(teacher, 3)
    assert (call(name, outside, signal) > call(name, teacher, signal) + 0.2).all()


@pytest.mark.parametrize("name", TRUNCATING)
def test_rows_that_name_fewer_outcomes_are_filled_up(name: str, logits):
    """−1 and −inf fill up; value and gradient are those of the shorter row."""
    student, teacher = logits
    short = truncated(teacher, 4)
    filled = Signal(
        ids_NK=torch.cat([short.ids_NK, torch.full((N, 2), -1)], -1),
        logp_NK=torch.cat([short.logp_NK, torch.full((N, 2), -math.inf)], -1).float(),
        rest_N=short.rest_N.float(),
    )
    short = dataclasses.replace(short, logp_NK=short.logp_NK.float(), rest_N=short.rest_N.float())
    one, other = student.clone().requires_grad_(), student.clone().requires_grad_()
    value, expected = call(name, one, filled), call(name, other, short)
    value.sum().backward(), expected.sum().backward()
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [n for n in LOSSES if learns_from_teacher(find("loss", n)) and not wants(n)])
def test_samples_of_an_unmarked_loss_are_unbiased(name: str, logits):
    """The mean gradient over all samples of one outcome, each as likely as the teacher says, is the dense gradient.

    A loss that is not linear in the teacher's probabilities fails here: mark it ``@needs("topk")``.
    """
    student, teacher = (x.double() for x in logits)
    dense = student.clone().requires_grad_()
    call(name, dense, teacher).sum().backward()
    mean = torch.zeros_like(student)
    for v in range(V):
        leaf = student.clone().requires_grad_()
        ids = torch.full((N, 1), v)
        drawn = Signal(ids_NK=ids, logp_NK=torch.zeros(N, 1).double(), rest_N=torch.full((N,), -math.inf), sampled=True)
        call(name, leaf, drawn).sum().backward()
        mean += torch.softmax(teacher, -1)[:, v, None] * leaf.grad
    torch.testing.assert_close(mean, dense.grad, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_marks_are_known(name: str):
    assert wants(name) <= {"dense", "topk"}


# --- vocabularies that differ ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in LOSSES if learns_from_teacher(find("loss", n))])
def test_permuted_vocabularies_are_matched_by_what_both_know(name: str, logits):
    """The teacher's ids are shuffled, and it knows two more outcomes that hardly matter: as good as the same vocabulary."""
    student, teacher = logits
    g = torch.Generator().manual_seed(4)
    order, listed = torch.randperm(V, generator=g), torch.randperm(V, generator=g)
    theirs = torch.empty(N, V + 2)
    theirs[:, order], theirs[:, V:] = teacher, -80.0
    shared = Signal(logits_NV=theirs, shared=(listed, order[listed]))
    torch.testing.assert_close(call(name, student, shared), call(name, student, teacher), rtol=1e-3, atol=1e-4)


def test_universal_needs_no_common_vocabulary(logits):
    student, teacher = logits
    fewer = teacher[:, :5]
    found = call("universal", student, fewer)
    for n in range(N):
        assert found[n].item() == pytest.approx(
            OUTCOMES["universal"](student[n].double(), fewer[n].double(), 0).item(), rel=1e-5
        )
    shuffled = teacher[:, torch.randperm(V, generator=torch.Generator().manual_seed(4))]
    torch.testing.assert_close(call("universal", student, shuffled), call("universal", student, teacher))


def test_a_true_outcome_the_teacher_does_not_know_is_one_of_the_others(logits):
    student, teacher = (x.double() for x in logits)
    some = torch.tensor([3, 0, 2])  # labels are 0, 2, 4, 6, 8, 1
    found = call("decoupled_kd", student, Signal(logits_NV=teacher, shared=(some, some)))
    for n, place in enumerate((1, 2, 3, 3, 3, 3)):  # among the shared ones, and the rest as one more
        merged = []
        for row in (student[n], teacher[n]):
            share = torch.softmax(row, -1)
            merged.append([*(share[v].log() for v in some), (1 - share[some].sum()).log()])
        assert found[n].item() == pytest.approx(OUTCOMES["decoupled_kd"].of(*merged, place).item(), rel=1e-6)


# --- single losses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("end", "same"), [(0.0, "forward_kl"), (1.0, "reverse_kl")])
def test_js_is_continuous_at_its_ends(end: float, same: str, logits):
    """Value and gradient, in float32, down to β that float32 cannot add to 1 (pitfall 6)."""

    student, teacher = logits[0] * 0.4, logits[1] * 0.4  # p / q below about 50, so that one tolerance does

    def at(name: str, **options: float) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = student.clone().requires_grad_()
        value = call(name, leaf, teacher, **options)
        value.sum().backward()
        return value.detach(), leaf.grad

    expected = at(same)
    for step in (0.0, 1e-12, 1e-8, 1e-6, 1e-4, 1e-3, 1e-2):
        for found, end_of in zip(at("js", beta=abs(end - step)), expected, strict=True):
            assert (found - end_of).abs().max() < 3e-6 + 20 * step, step


@pytest.mark.parametrize(("end", "same"), [(0.0, "forward_kl"), (1.0, "reverse_kl")])
def test_js_is_continuous_where_a_stored_teacher_sums_to_one_only_up_to_rounding(end: float, same: str, logits):
    student, teacher = (x.double() * 0.4 for x in logits)
    signal = truncated(teacher, 4)
    signal = dataclasses.replace(signal, logp_NK=signal.logp_NK + 0.01)
    torch.testing.assert_close(
        call("js", student, signal, beta=abs(end - 1e-6)), call(same, student, signal), rtol=0, atol=1e-4
    )


def test_js_at_one_half_is_four_times_jensen_shannon(logits):
    p, q = torch.softmax(logits[1].double(), -1), torch.softmax(logits[0].double(), -1)
    m = (p + q) / 2
    entropy = lambda x: -(x * x.log()).sum(-1)  # noqa: E731
    torch.testing.assert_close(
        call("js", *logits).double(), 4 * (entropy(m) - (entropy(p) + entropy(q)) / 2), rtol=1e-5, atol=1e-6
    )


def test_near_agreement_the_divergences_are_of_one_size():
    """So that α means the same with each: forward and reverse KL, their mean, every β of js, α + β = 1."""
    g = torch.Generator().manual_seed(5)
    teacher = torch.randn(4, 9, generator=g).double()
    student = teacher + 0.01 * torch.randn(4, 9, generator=g).double()
    expected = call("forward_kl", student, teacher)
    for name, options in (
        ("reverse_kl", {}),
        ("symmetric_kl", {}),
        ("js", {"beta": 0.1}),
        ("js", {"beta": 0.7}),
        ("adaptive_kl", {}),
        ("alpha_beta", {"alpha": 0.3, "beta": 0.7}),
    ):
        torch.testing.assert_close(call(name, student, teacher, **options), expected, rtol=0.02, atol=0)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1e-4), (1e-4, 1.0), (0.6, 1e-6)])
def test_alpha_beta_is_continuous_at_its_ends(alpha: float, beta: float, logits):
    end = {"alpha": 0.0 if alpha < 0.1 else alpha, "beta": 0.0 if beta < 0.1 else beta}
    torch.testing.assert_close(
        call("alpha_beta", *logits, alpha=alpha, beta=beta), call("alpha_beta", *logits, **end), rtol=5e-3, atol=1e-4
    )


def test_alpha_beta_refuses_what_has_no_meaning(logits):
    with pytest.raises(RecipeError, match="both 0"):
        call("alpha_beta", *logits, alpha=0.0, beta=0.0)


@pytest.mark.parametrize("name", ["skew_forward_kl", "skew_reverse_kl"])
def test_skewed_divergences_are_bounded(name: str):
    student, teacher = torch.tensor([[60.0, -60.0]]), torch.tensor([[-60.0, 60.0]])
    for skew in (0.1, 0.5):
        assert call(name, student, teacher, skew=skew).item() == pytest.approx(-math.log(skew), rel=1e-5)


def test_adaptive_kl_follows_the_gap():
    """A gap in the head alone is forward KL, one in the tail alone reverse KL."""
    teacher = torch.tensor([[0.6, 0.3, 0.06, 0.04]]).log()
    in_tail = torch.tensor([[0.6, 0.2, 0.1, 0.1]]).log()
    torch.testing.assert_close(call("adaptive_kl", in_tail, teacher), call("reverse_kl", in_tail, teacher))
    whole = call("adaptive_kl", in_tail, teacher, head=1.0)  # all is head
    torch.testing.assert_close(whole, call("forward_kl", in_tail, teacher))


def test_the_rest_is_no_outcome_to_choose_or_rank():
    """Though of all that is named it is the most probable: three of nine outcomes, nearly alike."""
    teacher, student = torch.arange(9.0)[None].double() / 50, torch.randn(1, 9, dtype=torch.float64)
    for name, options in (("top1_cross_entropy", {}), ("ranking", {"k": 3})):
        cut, whole = call(name, student, truncated(teacher, 3), **options), call(name, student, teacher, **options)
        torch.testing.assert_close(cut, whole)


def test_adaptive_kl_finds_a_head_of_many_outcomes():
    """One row is sure, the other's head is hundreds of outcomes long."""
    g = torch.Generator().manual_seed(8)
    teacher, student = torch.randn(2, 500, generator=g).double(), torch.randn(2, 500, generator=g).double()
    teacher[0, 7] = 12.0
    for head in (0.5, 0.95):
        found = call("adaptive_kl", student, teacher, head=head)
        for n in range(2):
            slow = OUTCOMES["adaptive_kl"](student[n], teacher[n], 0, head=head)
            assert found[n].item() == pytest.approx(slow.item(), rel=1e-9)


def test_adaptive_kl_takes_the_rest_of_a_truncated_teacher_for_tail():
    """Although it is larger than what is named: it stands for many outcomes."""
    p, q = [0.3, 0.1, 0.25, 0.2, 0.15], [0.1, 0.3, 0.3, 0.15, 0.15]
    teacher = torch.tensor([p]).double().log()
    student = torch.tensor([q]).double().log()
    p, q = [0.3, 0.25, 0.45], [0.1, 0.3, 0.6]  # two named, which together reach one half, and the rest
    forward = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    reverse = sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
    share = (0.2 + 0.05) / (0.2 + 0.05 + 0.15)
    found = call("adaptive_kl", student, truncated(teacher, 2)).item()
    assert found == pytest.approx(share * forward + (1 - share) * reverse, rel=1e-6)


# --- losses on layers -----------------------------------------------------------------------------------------------

LENGTHS = [4, 1, 3]
SHAPES = [((4, 2), (4, 4)), ((2, 1), (4, 2)), ((6, 2), (2, 2)), ((3, 3), (4, 2))]
"""(query heads, key heads) of student and teacher: equal, groups either way, and neither divides."""


def attended(heads: tuple[int, int], *, width: int = 4, seed: int, causal: bool = True, size: float = 1.0) -> Attended:
    g = torch.Generator().manual_seed(seed)
    r = lambda h: size * torch.randn(sum(LENGTHS), h, width, generator=g).double()  # noqa: E731
    return Attended(r(heads[0]), r(heads[1]), r(heads[1]), width**-0.5, causal)


def cast(pair: Any, dtype: torch.dtype) -> Any:
    """Tensors of a hidden state or of an attended layer, as leaves of their own."""
    if isinstance(pair, torch.Tensor):
        return pair.to(dtype).clone().requires_grad_()
    moved = {k: v.to(dtype).clone().requires_grad_() for k, v in vars(pair).items() if isinstance(v, torch.Tensor)}
    return dataclasses.replace(pair, **moved)


def leaves(layers: list[Any]) -> list[torch.Tensor]:
    return [t for x in layers for t in ([x] if isinstance(x, torch.Tensor) else [x.query, x.key, x.value])]


def layer_batch(every: int = 1) -> Batch:
    batch = make_batch(LENGTHS, 20, every=every)
    mixed = torch.randperm(len(batch.select_N), generator=torch.Generator().manual_seed(6))
    return dataclasses.replace(batch, select_N=batch.select_N[mixed], document_N=batch.document_N[mixed])


def layers_of(name: str, batch: Batch, shape: Any = SHAPES[0], *, causal: bool = True, size: float = 1.0) -> Any:
    """Two pairs of layers of the kind that a loss wants, in float64: the student's and the teacher's."""
    if "hidden" in wants(name):
        g = torch.Generator().manual_seed(7)
        return [[size * torch.randn(len(batch.select_N), 5, generator=g).double() for _ in range(2)] for _ in range(2)]
    return [
        [attended(heads, width=width, seed=10 * i + j, causal=causal, size=size) for j in range(2)]
        for i, (heads, width) in enumerate(zip(shape, (4, 8), strict=True))
    ]


def on_layers(name: str, ours: list[Any], theirs: list[Any], batch: Batch, **options: Any) -> torch.Tensor:
    (kind,) = wants(name) & {"hidden", "attention"}
    student = Output(torch.empty(0), {kind: ours})
    return find("loss", name)(student, Signal(layers={kind: theirs}), batch, **options)


def few_heads(name: str) -> dict[str, Any]:
    return {"heads": 2} if name == "relations" else {}


@pytest.mark.parametrize("name", ON_LAYERS)
def test_layers_one_number_a_position_in_float32(name: str):
    batch = layer_batch()
    for dtype in (torch.float32, torch.bfloat16):
        ours, theirs = ([cast(x, dtype) for x in side] for side in layers_of(name, batch))
        value = on_layers(name, ours, theirs, batch, **few_heads(name))
        assert value.shape == (8,)
        assert value.dtype == torch.float32


@pytest.mark.parametrize("name", ON_LAYERS)
def test_layers_finite_at_extremes(name: str):
    batch = layer_batch()
    ours, theirs = ([cast(x, torch.bfloat16) for x in side] for side in layers_of(name, batch, size=60.0))
    value = on_layers(name, ours, theirs, batch, **few_heads(name))
    value.sum().backward()
    assert torch.isfinite(value).all() and (value > -1e-6).all()
    assert all(torch.isfinite(t.grad).all() for t in leaves(ours) if t.grad is not None)


@pytest.mark.parametrize("name", ON_LAYERS)
def test_layers_zero_and_without_gradient_where_they_agree(name: str):
    batch = layer_batch()
    ours, _ = layers_of(name, batch)
    ours = [cast(x, torch.float32) for x in ours]
    value = on_layers(name, ours, [cast(x, torch.float32) for x in ours], batch, **few_heads(name))
    value.sum().backward()
    assert value.abs().max() < 1e-6
    assert all(t.grad.abs().max() < 1e-6 for t in leaves(ours) if t.grad is not None)


@pytest.mark.parametrize(
    ("name", "shape", "causal"),
    [
        (name, shape, causal)
        for name in ON_LAYERS
        if name in LAYERS
        for shape in (SHAPES if "attention" in wants(name) else SHAPES[:1])
        for causal in ((True, False) if "attention" in wants(name) else (True,))
    ],
)
def test_layers_value_and_gradient_are_the_definition(name: str, shape: Any, causal: bool):
    """Grouped queries, unequal head counts and widths, documents of unequal length, positions in any order."""
    batch = layer_batch(every=2 if causal else 3)
    ours, theirs = layers_of(name, batch, shape, causal=causal)
    double, single = [cast(x, torch.float64) for x in ours], [cast(x, torch.float32) for x in ours]
    extra = [] if "hidden" in wants(name) else [batch]
    options = few_heads(name)
    slow = [
        sum(LAYERS[name](a, b, *extra, n, **options) for a, b in zip(double, theirs, strict=True)) / 2
        for n in range(len(batch.select_N))
    ]
    sum(slow).backward()
    value = on_layers(name, single, [cast(x, torch.float32) for x in theirs], batch, **options)
    value.sum().backward()
    torch.testing.assert_close(value.double(), torch.stack(slow), rtol=1e-4, atol=1e-6)
    for fast, expected in zip(leaves(single), leaves(double), strict=True):
        if expected.grad is None:
            assert fast.grad is None or fast.grad.abs().max() == 0
        else:
            torch.testing.assert_close(fast.grad.double(), expected.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in ON_LAYERS if "attention" in wants(n)])
def test_documents_do_not_see_each_other_and_no_token_the_future(name: str):
    batch = make_batch(LENGTHS, 20)
    ours, theirs = layers_of(name, batch)
    before = on_layers(name, ours, theirs, batch, **few_heads(name))
    for layer in ours:
        for t in (layer.query, layer.key, layer.value):
            t[2] += 5.0  # third token of the first document
    after = on_layers(name, ours, theirs, batch, **few_heads(name))
    assert torch.equal(before[[0, 1]], after[[0, 1]])
    assert torch.equal(before[4:], after[4:])
    assert (before[2:4] != after[2:4]).all()


def test_no_positions_are_no_values():
    batch = dataclasses.replace(make_batch(LENGTHS, 20), select_N=torch.zeros(0, dtype=torch.int64))
    ours, theirs = layers_of("attention_kl", batch)
    assert on_layers("attention_kl", ours, theirs, batch).shape == (0,)


def test_relation_heads_that_do_not_fit_are_refused_with_a_number_that_does():
    batch = make_batch(LENGTHS, 20)
    ours, theirs = layers_of("relations", batch)
    with pytest.raises(RecipeError, match="such as 4"):
        on_layers("relations", ours, theirs, batch, heads=7)
