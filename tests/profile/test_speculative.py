"""Drafts: what is kept against Σ min(p, q) by loops, the counting against a text written by hand, and the text itself."""

from __future__ import annotations

import math

import pytest
import torch
import zoo
from shared import make_llama, make_tokenizer

from stillhouse.errors import ModelError
from stillhouse.profile import speculative
from stillhouse.profile.speculative import DRAFT, _count, _overlap, speculate


def test_checks_are_counted_by_hand():
    """A prompt of 5. Of four drafts 2 are kept, then all 4, then none; the last check is cut by the length and not counted."""
    checks = [
        (0, 5 + 4),  # reads the prompt and 4 drafts; 2 kept + 1 of its own: the text has 8
        (7, 1 + 4),  # 4 kept + 1: 13
        (12, 1 + 4),  # none kept + 1: 14
        (13, 1 + 2),
    ]
    kept, tested, count = _count(checks, 5)
    assert (kept, count) == (2 + 4 + 0, 4)
    assert tested == 3 + 4 + 1  # those kept, and the first that was not


def test_a_student_that_is_its_teacher_is_always_kept(monkeypatch: pytest.MonkeyPatch):
    tokenizer = make_tokenizer()
    teacher, student = make_llama(tokenizer, seed=3), make_llama(tokenizer, seed=3)
    monkeypatch.setattr(speculative, "ROUNDS", 1)
    found = speculate(teacher, student, [tokenizer("The quick brown").input_ids], 20, cost=1.0)
    assert found.accepted == 1.0 and found.predicted == pytest.approx(1.0, abs=1e-5)
    assert found.expected == DRAFT + 1 and found.same_words
    assert found.predicted_speed_up == pytest.approx(1.0)  # drafting costs as much as it saves


def test_what_is_kept_is_what_was_predicted(monkeypatch: pytest.MonkeyPatch):
    """Of n drafted tokens a share Σ min(p, q) is kept, within four standard errors; the texts are the teacher's own."""
    tokenizer = make_tokenizer()
    teacher, student = make_llama(tokenizer, seed=0), make_llama(tokenizer, layers=1, seed=0)
    prompts = [tokenizer(text).input_ids for text in ("The quick brown fox", "def add")]
    monkeypatch.setattr(speculative, "ROUNDS", 2)
    found = speculate(teacher, student, prompts, 32, held_out=0.4, cost=0.5)
    assert 0.1 < found.predicted < 0.9 and found.tested > 60
    error = math.sqrt(found.predicted * (1 - found.predicted) / found.tested)
    assert abs(found.accepted - found.predicted) < 4 * error + 0.02
    a = found.accepted
    assert found.expected == pytest.approx(sum(a**i for i in range(DRAFT + 1)))  # 1 + a + a² …
    assert found.per_check == pytest.approx(found.expected, rel=0.25)
    assert found.same_words and found.held_out == 0.4


def test_the_overlap_is_the_sum_of_the_smaller_ones():
    tokenizer = make_tokenizer()
    teacher, student = make_llama(tokenizer, seed=0), make_llama(tokenizer, layers=1, seed=0)
    ids = torch.tensor([[5, 6, 7, 8]])
    with teacher.generating() as big, student.generating() as small:
        found = _overlap(big, small, ids, 2)
    assert len(found) == 2  # the two tokens after the prompt
    for place, value in zip((1, 2), found.tolist(), strict=True):
        p, q = (zoo.answers(m, ids[:, : place + 1])[0, -1].double().exp() for m in (teacher, student))
        total = sum(min(a, b) for a, b in zip((p / p.sum()).tolist(), (q / q.sum()).tolist(), strict=True))
        assert value == pytest.approx(total, abs=1e-5)


def test_other_tokens_are_told():
    teacher, student = make_llama(make_tokenizer()), make_llama(make_tokenizer(280))
    with pytest.raises(ModelError, match="does not have"):
        speculate(teacher, student, [[1, 2]], 4, cost=1.0)
