"""The common support of teacher and student, for any logits: whole distributions, and never more divergence than there is."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.objective.support import common, tempered
from stillhouse.types import Output, Signal

logits = st.floats(-30, 30, width=32)
temperatures = st.sampled_from([0.5, 1.0, 2.0, 5.0])


near = st.floats(-6, 6, width=32)
"""Where what is left over, 1 − Σ q, is not lost in rounding."""


@st.composite
def pairs(draw: Any, of: st.SearchStrategy[float] = logits) -> tuple[list[float], list[float]]:
    """A student's and a teacher's logits of one position, equally many."""
    size = draw(st.integers(3, 12))
    return tuple(draw(st.lists(of, min_size=size, max_size=size)) for _ in range(2))  # type: ignore[return-value]


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    weights = [math.exp((x - max(row)) / temperature) for x in row]
    return [w / math.fsum(weights) for w in weights]


def tensor(row: list[float]) -> torch.Tensor:
    return torch.tensor([row], dtype=torch.float64)


def named(row: list[float], k: int) -> Signal:
    """A teacher that names its k likeliest outcomes, and what they leave over, at temperature 1."""
    p = softmax(row)
    order = sorted(range(len(row)), key=lambda v: -row[v])[:k]
    rest = math.fsum(p[v] for v in range(len(row)) if v not in order)
    return Signal(
        ids_NK=torch.tensor([order]), logp_NK=tensor([math.log(max(p[v], 1e-300)) for v in order]),
        rest_N=tensor([math.log(max(rest, 1e-300))])[0],
    )  # fmt: skip


def divergence(log_q: torch.Tensor, log_p: torch.Tensor) -> float:
    p, q = log_p[0].exp().tolist(), log_q[0].exp().tolist()
    return math.fsum(a * math.log(a / max(b, 1e-300)) for a, b in zip(p, q, strict=True) if a > 0)


def probabilities(log: torch.Tensor) -> Any:
    return pytest.approx(log[0].exp().tolist(), abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(rows=pairs(), temperature=temperatures, more=st.lists(logits, max_size=4), student_longer=st.booleans())
def test_a_whole_teacher_is_compared_on_the_prefix_that_both_have(
    rows: tuple[list[float], list[float]], temperature: float, more: list[float], student_longer: bool
):
    student, teacher = rows
    ours, theirs = (student + more, teacher) if student_longer else (student, teacher + more)
    log_q, log_p = common(Output(tensor(ours)), Signal(logits_NV=tensor(theirs)), temperature)
    assert softmax(student, temperature) == probabilities(log_q)
    assert softmax(teacher, temperature) == probabilities(log_p)


@settings(max_examples=100, deadline=None)
@given(rows=pairs(near), k=st.integers(1, 12))
def test_what_is_not_named_is_one_more_outcome_and_hides_divergence_but_adds_none(
    rows: tuple[list[float], list[float]], k: int
):
    student, teacher = rows
    signal = named(teacher, k)
    log_q, log_p = common(Output(tensor(student)), signal)
    q, p, ids = softmax(student), softmax(teacher), signal.ids_NK[0].tolist()
    assert [*(q[v] for v in ids), 1 - math.fsum(q[v] for v in ids)] == probabilities(log_q)
    assert [*(p[v] for v in ids), 1 - math.fsum(p[v] for v in ids)] == probabilities(log_p)
    whole = divergence(*common(Output(tensor(student)), Signal(logits_NV=tensor(teacher))))
    part = divergence(log_q, log_p)
    assert -1e-9 <= part <= whole + 1e-9
    if k == len(teacher) - 1:
        assert part == pytest.approx(whole, abs=1e-9)
    fewer = divergence(*common(Output(tensor(student)), named(teacher, max(k - 1, 1))))
    assert fewer <= part + 1e-9


@settings(max_examples=100, deadline=None)
@given(
    top=st.lists(logits, min_size=1, max_size=6),
    below=st.floats(0, 20),
    others=st.integers(1, 9),
    temperature=temperatures,
)
def test_softening_a_part_is_exact_where_the_others_are_alike(
    top: list[float], below: float, others: int, temperature: float
):
    """What is not named is taken as spread evenly: where it is, the temperature is that of the whole."""
    row = top + [min(top) - below] * others
    found = tempered(named(row, len(top)), len(row), temperature)[0].exp().tolist()
    p = softmax(row, temperature)
    assert found[-1] == pytest.approx(math.fsum(p[len(top) :]), abs=1e-9)
    assert sorted(found[:-1]) == pytest.approx(sorted(p[: len(top)]), abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(rows=pairs(), order=st.randoms(use_true_random=False), temperature=temperatures, known=st.integers(1, 12))
def test_vocabularies_in_another_order_are_compared_by_what_both_know(
    rows: tuple[list[float], list[float]], order: Any, temperature: float, known: int
):
    student, teacher = rows
    ours, theirs = (order.sample(range(len(student)), min(known, len(student))) for _ in range(2))
    shared = torch.tensor(ours), torch.tensor(theirs)
    log_q, log_p = common(Output(tensor(student)), Signal(logits_NV=tensor(teacher), shared=shared), temperature)
    for log, row, ids in ((log_q, student, ours), (log_p, teacher, theirs)):
        whole = softmax(row, temperature)
        assert [*(whole[v] for v in ids), 1 - math.fsum(whole[v] for v in ids)] == probabilities(log)


@settings(max_examples=60, deadline=None)
@given(rows=pairs(), draws=st.lists(st.integers(0, 2), min_size=1, max_size=8))
def test_of_a_sample_the_student_keeps_its_probability_among_all(
    rows: tuple[list[float], list[float]], draws: list[int]
):
    student, _ = rows
    ids = sorted(set(draws))
    logp = [math.log(draws.count(v) / len(draws)) for v in ids]
    log_q, log_p = common(
        Output(tensor(student)), Signal(ids_NK=torch.tensor([ids]), logp_NK=tensor(logp), sampled=True)
    )
    q = softmax(student)
    assert [q[v] for v in ids] == probabilities(log_q)
    assert log_p[0].tolist() == pytest.approx(logp)
