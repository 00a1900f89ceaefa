"""Terms, weights, losses on layers and their projections, put together by the learner."""

from __future__ import annotations

import pytest
import torch
from shared import make_batch, make_llama, make_tokenizer

from stillhouse import recipe
from stillhouse.errors import RecipeError
from stillhouse.objective import Learner, Shape, layer_similarity, terms_of
from stillhouse.objective.chunks import WeightedLoss, chunked
from stillhouse.objective.losses.cross_entropy import cross_entropy
from stillhouse.objective.losses.forward_kl import forward_kl
from stillhouse.rows import topk_kl_ce_, topk_kl_ce_torch_
from stillhouse.teacher import Teacher
from stillhouse.types import Batch, Head, Signal


def truncated(logits: torch.Tensor, k: int) -> Signal:
    """The k likeliest outcomes and the logarithm of what they leave over."""
    log_p = torch.log_softmax(logits, -1)
    logp, ids = log_p.topk(k)
    return Signal(ids_NK=ids, logp_NK=logp, rest_N=torch.log1p(-logp.exp().sum(-1)))


def slow_topk(s, ids, logp_tempered, label, temperature, soft, hard):
    """soft · T² KL over the named outcomes and the rest + hard · CE, from the definition, one position."""
    q = torch.softmax(s / temperature, -1)
    total, left = 0.0, 1.0
    for i, lp in zip(ids.tolist(), logp_tempered[:-1].tolist(), strict=True):
        if i >= 0:
            total = total + torch.exp(torch.tensor(lp).double()) * (lp - torch.log(q[i]))
            left = left - q[i]
    rest = logp_tempered[-1].item()
    if rest > -1e30:
        total = total + torch.exp(torch.tensor(rest).double()) * (rest - torch.log(left))
    return soft * temperature**2 * total + hard * -torch.log(torch.softmax(s, -1)[label])


@pytest.mark.parametrize("kernel", [topk_kl_ce_, topk_kl_ce_torch_])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("rest", [True, False])
def test_truncated_rows_equal_their_definition_and_its_gradient(kernel, temperature, rest):
    torch.manual_seed(3)
    N, V, K = 6, 41, 5
    s = torch.randn(N, V, dtype=torch.float64) * 2
    ids = torch.stack([torch.randperm(V)[:K] for _ in range(N)])
    ids[2, 3:] = -1
    logp = torch.log_softmax(torch.randn(N, K + 1), -1)
    logp[2, 3:K] = float("-inf")
    if not rest:
        logp[:, K] = float("-inf")
    labels, soft, hard = torch.randint(0, V, (N,)), torch.rand(N), torch.rand(N)
    leaf = s.clone().requires_grad_()
    expected = [
        slow_topk(leaf[n], ids[n], logp[n].double(), labels[n], temperature, soft[n].item(), hard[n].item())
        for n in range(N)
    ]
    torch.stack(expected).sum().backward()
    gradient = s.float().clone()
    kl, ce = kernel(gradient, ids, logp, labels, temperature, soft, hard)
    assert torch.allclose((soft * kl + hard * ce).double(), torch.stack(expected).detach(), rtol=1e-4, atol=1e-5)
    assert torch.allclose(gradient.double(), leaf.grad, rtol=1e-4, atol=2e-6)


def make(N=9, V=31, H=6):
    g = torch.Generator().manual_seed(1)
    ids = torch.zeros(N, dtype=torch.int64)
    batch = Batch(ids, ids, (0, N), torch.arange(N), torch.randint(0, V, (N,), generator=g), torch.ones(N), ids)
    return torch.randn(N, H, generator=g), torch.randn(V, H, generator=g), torch.randn(N, V, generator=g), batch


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_truncated_teacher_takes_the_closed_form_and_equals_the_general_path(temperature):
    hidden, weight, teacher_logits, batch = make()
    signal = truncated(teacher_logits, 5)
    found = []
    for soft in (forward_kl, lambda student, teacher, batch, **o: forward_kl(student, teacher, batch, **o)):
        h = hidden.clone().requires_grad_()
        losses = [
            WeightedLoss("soft", soft, 0.7, {"temperature": temperature}),
            WeightedLoss("hard", cross_entropy, 0.3),
        ]
        total, sums = chunked(losses, h, Head(weight), signal, batch, 4.0, 4)
        total.backward()
        found.append((total.detach(), sums, h.grad))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def test_naming_all_but_one_outcome_is_the_dense_teacher():
    hidden, weight, teacher_logits, batch = make()
    losses = [WeightedLoss("soft", forward_kl, 1.0)]
    dense, _ = chunked(losses, hidden, Head(weight), Signal(logits_NV=teacher_logits), batch, 1.0)
    almost, _ = chunked(losses, hidden, Head(weight), truncated(teacher_logits, 30), batch, 1.0)
    fewer, _ = chunked(losses, hidden, Head(weight), truncated(teacher_logits, 8), batch, 1.0)
    assert almost.item() == pytest.approx(dense.item(), rel=1e-4)
    assert 0 < fewer.item() < dense.item()


def test_the_mean_of_teachers_is_that_of_their_probabilities_or_logits():
    a, b = torch.randn(4, 9), torch.randn(4, 9)
    shares = (torch.tensor([0.25, 0.25, 1.0, 0.0]), torch.tensor([0.75, 0.75, 0.0, 1.0]))
    both = Signal(members=(Signal(logits_NV=a), Signal(logits_NV=b)), shares=shares)
    p = torch.softmax(both.rows(1, 4).logits_NV, -1)
    for row, n in enumerate([1, 2, 3]):
        mixed = shares[0][n] * torch.softmax(a[n], -1) + shares[1][n] * torch.softmax(b[n], -1)
        assert torch.allclose(p[row], mixed, atol=1e-6)
    geometric = Signal(members=both.members, shares=(0.5, 0.5), mean_of="logits").rows(0, 4).logits_NV
    assert torch.allclose(torch.softmax(geometric, -1), torch.softmax((a + b) / 2, -1), atol=1e-6)


def test_own_samples_teach_no_labels_and_a_silent_teacher_nothing():
    hidden, weight, teacher_logits, batch = make()
    h = hidden.clone().requires_grad_()
    truth, word = torch.zeros(9), torch.zeros(9)
    truth[:4], word[6:] = 1.0, 1.0
    batch = Batch(**{**vars(batch), "truth_N": truth})
    losses = [WeightedLoss("soft", forward_kl, 0.5), WeightedLoss("hard", cross_entropy, 0.5)]
    total, _ = chunked(losses, h, Head(weight), Signal(logits_NV=teacher_logits, weight_N=word), batch, 1.0, 2)
    total.backward()
    moved = h.grad.abs().sum(-1) > 0
    assert moved.tolist() == [True] * 4 + [False] * 2 + [True] * 3


def section(**changes):
    return recipe.Objective.model_validate({"alpha": 0.5, **changes})


@pytest.fixture(scope="module")
def pair():
    tokenizer = make_tokenizer()
    return make_llama(tokenizer, layers=2, seed=1), Teacher(make_llama(tokenizer, layers=4, seed=2))


def learn(student, teacher, objective, **more):
    learner = Learner(student, objective, 10, shape=Shape.of(teacher.model), **more)
    batch = make_batch([7, 12], 300)
    loss, parts = learner(batch, teacher.signal(batch, learner.want), 19.0, 0)
    return learner, batch, loss, parts


def test_weights_multiply_what_a_position_counts(pair):
    student, teacher = pair
    plain = learn(student, teacher, section())[3]
    half = learn(student, teacher, section(soft={"name": "forward_kl", "weights": "tests.objective.test_learner:half"}))
    assert half[3]["forward_kl"] == pytest.approx(plain["forward_kl"] / 2, rel=1e-5)
    assert half[3]["cross_entropy"] == pytest.approx(plain["cross_entropy"], rel=1e-6)


def half(batch: Batch) -> torch.Tensor:
    """Half of everything."""
    return torch.full_like(batch.weight_N, 0.5)


def rare(batch: Batch, counts_V: torch.Tensor) -> torch.Tensor:
    """One over the label's count."""
    return 1.0 / counts_V[batch.labels_N]


def test_a_weight_is_given_the_counts_it_names(pair):
    student, teacher = pair
    counts = torch.full((len(student.tokenizer),), 4.0)
    objective = section(hard={"name": "cross_entropy", "weights": ["tests.objective.test_learner:rare"]})
    with_counts = learn(student, teacher, objective, counts_V=lambda: counts)[3]
    plain = learn(student, teacher, section(), counts_V=lambda: 1 / 0)[3]
    assert with_counts["cross_entropy"] == pytest.approx(plain["cross_entropy"] / 4, rel=1e-5)


def test_a_loss_on_layers_sees_the_mapped_pairs_and_its_projection_learns(pair):
    student, teacher = pair
    term = {"name": "hidden_mse", "weight": 2.0, "layers": {"name": "listed", "pairs": [[1, 2], [2, 4]]}}
    learner, batch, loss, parts = learn(student, teacher, section(terms=[{**term, "projection": "always"}]))
    loss.backward()
    maps = list(learner.projections["hidden_mse"].parameters())
    assert len(maps) == 2 and all(m.grad.abs().sum() > 0 for m in maps)
    assert not any("projection" in name for name, _ in student.named_parameters())
    with torch.no_grad():
        ours, theirs = student(batch, learner.want)[1]["hidden"], teacher.signal(batch, learner.want).layers["hidden"]
        expected = 0.0
        for n in batch.select_N.tolist():
            for m, (s, t) in zip(maps, [(1, 2), (2, 4)], strict=True):
                difference = m @ ours[s - 1][n] - theirs[t - 1][n]
                expected += (difference**2).mean().item() / 2
    assert parts["hidden_mse"] == pytest.approx(expected, rel=1e-4)
    plain = learn(student, teacher, section())[2]
    assert loss.item() == pytest.approx(plain.item() + 2.0 * expected / 19.0, rel=1e-4)


@pytest.mark.parametrize("name", ["attention_kl", "attention_mse", "relations", "hidden_cosine"])
def test_losses_on_layers_vanish_where_student_and_teacher_are_one(pair, name):
    _, teacher = pair
    _, _, _, parts = learn(teacher.model, teacher, section(terms=[{"name": name, "layers": "last"}]))
    assert parts[name] == pytest.approx(0.0, abs=1e-4)


def test_losses_on_layers_reach_the_student_through_its_queries(pair):
    student, teacher = pair
    student.zero_grad()
    learner, _, loss, parts = learn(
        student, teacher, section(alpha=0.0, hard="cross_entropy", terms=[{"name": "attention_kl", "weight": 5.0}])
    )
    loss.backward()
    with_term = student.layers[1].self_attn.q_proj.weight.grad.clone()
    student.zero_grad()
    learn(student, teacher, section(alpha=0.0))[2].backward()
    assert parts["attention_kl"] > 0
    assert not torch.allclose(with_term, student.layers[1].self_attn.q_proj.weight.grad)


def test_same_layers_are_most_alike(pair):
    _, teacher = pair
    found = layer_similarity(teacher.model, teacher.signal, make_batch([40, 30], 300))
    assert found.shape == (4, 4)
    assert torch.allclose(found.diagonal(), torch.ones(4), atol=1e-4)
    assert (found <= 1 + 1e-5).all() and (found.argmax(1) == torch.arange(4)).all()


def test_a_loss_on_layers_is_refused_as_the_soft_loss():
    with pytest.raises(RecipeError, match=r"objective\.terms"):
        terms_of(section(soft="hidden_mse"))


def test_a_layer_that_is_not_there_is_named(pair):
    student, teacher = pair
    term = {"name": "hidden_mse", "layers": {"name": "listed", "pairs": [[3, 1]]}}
    with pytest.raises(RecipeError, match="layer 3"):
        learn(student, teacher, section(terms=[term]))


def test_two_terms_of_one_name_are_told_apart():
    names = [t.name for t in terms_of(section(terms=["reverse_kl", {"name": "reverse_kl", "temperature": 1.0}]))]
    assert names == ["forward_kl", "cross_entropy", "reverse_kl_1", "reverse_kl_2"]
