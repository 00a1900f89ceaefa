"""Layer maps, weights and schedules: by definition one by one; what holds for all is in tests/contracts."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from shared import make_batch

from stillhouse.errors import RecipeError
from stillhouse.find import check_options, find
from stillhouse.types import Batch, Output, Signal


def test_uniform_ends_with_the_last_and_never_ties_bottom_to_bottom():
    uniform = find("layers", "uniform")
    assert uniform(12, 48) == [(3, 12), (6, 24), (9, 36), (12, 48)]
    assert uniform(10, 30, count=5) == [(2, 6), (4, 12), (6, 18), (8, 24), (10, 30)]
    assert uniform(2, 30) == [(1, 15), (2, 30)]  # no more pairs than the student has layers
    assert uniform(24, 3) == [(8, 1), (16, 2), (24, 3)]
    assert find("layers", "last")(12, 48) == [(12, 48)]


def test_listed_says_every_mistake_at_once():
    listed = find("layers", "listed")
    options = check_options(listed, {"pairs": [[1, 3], [2, 6]]}, "objective.layers")
    assert listed(2, 6, **options) == [(1, 3), (2, 6)]
    with pytest.raises(RecipeError) as caught:
        listed(2, 6, pairs=[(0, 3), (3, 6), (1, 7), (1, 2), (1, 2)])
    text = str(caught.value)
    for said in (
        "student has no layer 0",
        "student has no layer 3",
        "teacher has no layer 7",
        "[1, 2] is listed twice",
    ):
        assert said in text
    with pytest.raises(RecipeError, match="no pair"):
        listed(2, 6, pairs=[])
    with pytest.raises(RecipeError, match=r"objective\.layers\.pairs"):
        check_options(listed, {"pairs": [[1, 2, 3]]}, "objective.layers")


@pytest.mark.parametrize(("student", "teacher", "count"), [(3, 6, 2), (4, 4, 4), (5, 7, 3), (2, 6, 4), (6, 2, 1)])
def test_searched_is_the_best_of_all_maps_that_keep_the_order(student: int, teacher: int, count: int):
    for seed in range(5):
        similarity = torch.rand(student, teacher, generator=torch.Generator().manual_seed(seed))
        pairs = min(count, student, teacher)
        best = max(
            (
                sum(similarity[s, t].item() for s, t in zip(ours, theirs, strict=True)),
                [(s + 1, t + 1) for s, t in zip(ours, theirs, strict=True)],
            )
            for ours in itertools.combinations(range(student), pairs)
            for theirs in itertools.combinations(range(teacher), pairs)
        )
        assert find("layers", "searched")(student, teacher, similarity, count=count) == best[1]


def test_searched_survives_layers_that_cannot_be_compared():
    similarity = torch.tensor([[math.nan, 0.1], [0.2, math.nan]])
    assert find("layers", "searched")(2, 2, similarity, count=1) == [(2, 1)]


def truncate(logits: torch.Tensor, k: int) -> Signal:
    log_p = torch.log_softmax(logits.double(), -1)
    top = log_p.topk(k)
    rest = torch.log1p(-top.values.exp().sum(-1).clamp(max=1 - 1e-12))
    return Signal(ids_NK=top.indices, logp_NK=top.values, rest_N=rest)


@pytest.fixture
def logits() -> torch.Tensor:
    return 2 * torch.randn(5, 7, generator=torch.Generator().manual_seed(0))


def slow_confidence(row: torch.Tensor, by: str) -> float:
    powers = [math.exp(x) for x in row.tolist()]
    p = sorted((x / sum(powers) for x in powers), reverse=True)
    if by == "probability":
        return p[0]
    if by == "margin":
        return p[0] - p[1]
    return 1 + sum(x * math.log(x) for x in p) / math.log(len(p))


@pytest.mark.parametrize("by", ["probability", "entropy", "margin"])
def test_teacher_confidence(by: str, logits):
    weight = find("weight", "teacher_confidence")
    student = Output(torch.zeros(5, 7))
    expected = [slow_confidence(row, by) for row in logits]
    dense = weight(student, Signal(logits_NV=logits), by=by)
    assert dense.tolist() == pytest.approx(expected, rel=1e-5)
    assert weight(student, Signal(logits_NV=logits), by=by, power=2.0).tolist() == pytest.approx(
        [x**2 for x in expected], rel=1e-5
    )
    torch.testing.assert_close(weight(student, truncate(logits, 6), by=by), dense, rtol=1e-4, atol=1e-5)
    sure, unsure = torch.zeros(1, 7), torch.zeros(1, 7)
    sure[0, 2] = 100.0
    assert weight(student, Signal(logits_NV=sure), by=by).item() == pytest.approx(1.0)
    assert weight(student, Signal(logits_NV=unsure), by=by).item() == pytest.approx(
        1 / 7 if by == "probability" else 0, abs=1e-6
    )


def test_confidence_of_a_truncated_teacher_is_never_overstated(logits):
    """Spreading the rest evenly is the least that can be known of it."""
    weight = find("weight", "teacher_confidence")
    student = Output(torch.zeros(5, 7))
    dense = weight(student, Signal(logits_NV=logits), by="entropy")
    for k in (1, 3, 5):
        assert (weight(student, truncate(logits, k), by="entropy") <= dense + 1e-6).all()


def labelled(labels: list[int], **more: object) -> Batch:
    batch = make_batch([len(labels)], 7)
    return dataclasses.replace(batch, labels_N=torch.tensor(labels), **more)


def test_token_rarity_is_one_on_average_over_the_training_labels():
    labels = [0] * 50 + [1] * 9 + [2] * 3 + [5]
    counts = torch.tensor([50, 9, 3, 0, 0, 1, 0])
    weight = find("weight", "token_rarity")
    for power in (0.5, 1.0):
        found = weight(labelled(labels), counts, power=power)
        assert found.mean().item() == pytest.approx(1.0, rel=1e-5)
        assert (found[62] / found[0]).item() == pytest.approx((51 / 2) ** power, rel=1e-5)
    assert weight(labelled(labels), counts, power=0.0).tolist() == pytest.approx([1.0] * 63)
    assert torch.isfinite(weight(labelled([3]), counts)).all()  # never seen in training


def test_correctness_gate(logits):
    weight = find("weight", "correctness_gate")
    best = [max(range(7), key=lambda v: row[v]) for row in logits.tolist()]
    batch = labelled([best[0], (best[1] + 1) % 7, best[2], (best[3] + 2) % 7, best[4]])
    expected = [1.0, 0.25, 1.0, 0.25, 1.0]
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    permuted = torch.full((5, 9), -50.0)
    permuted[:, order] = logits
    for signal in (
        Signal(logits_NV=logits),
        truncate(logits, 2),
        Signal(logits_NV=permuted, shared=(torch.arange(7), order)),
    ):
        assert weight(signal, batch, otherwise=0.25).tolist() == expected
    assert weight(Signal(logits_NV=logits), batch).tolist() == [1.0, 0.0, 1.0, 0.0, 1.0]
    only_theirs = permuted.clone()
    only_theirs[:, 7 if 7 not in order else 8] = 90.0  # a word the student does not have: never right
    assert weight(Signal(logits_NV=only_theirs, shared=(torch.arange(7), order)), batch).sum() == 0


def test_task_weights_by_document():
    batch = dataclasses.replace(make_batch([2, 1, 3], 7), tasks=("chat", "", "sums"))
    weight = find("weight", "task")
    assert weight(batch, weights={"sums": 2.0, "chat": 0.5}).tolist() == [0.5, 0.5, 1.0, 2.0, 2.0, 2.0]
    assert weight(batch, weights={"sums": 2.0}, default=0.0).tolist() == [0.0, 0.0, 0.0, 2.0, 2.0, 2.0]
    assert weight(make_batch([2], 7), weights={"sums": 2.0}).tolist() == [1.0, 1.0]


def test_step_holds_each_value_from_its_share_on():
    step = find("schedule", "step")
    options = {"at": [0.0, 0.25, 0.5], "values": [3.0, 1.0, 2.0]}
    assert [step(x, **options) for x in (0.0, 0.2, 0.25, 0.49, 0.5, 1.0)] == [3.0, 3.0, 1.0, 1.0, 2.0, 2.0]
    for at, values in (([0.0], [1.0, 2.0]), ([0.1, 0.5], [1.0, 2.0]), ([0.0, 0.5, 0.5], [1.0, 2.0, 3.0]), ([], [])):
        with pytest.raises(RecipeError, match="step"):
            step(0.3, at=at, values=values)
