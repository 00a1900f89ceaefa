"""The real student, teacher and objective in the loop: interrupted and resumed, the weights have the same bits."""

from __future__ import annotations

import pytest
import toy
from shared import make_batch, make_llama, make_tokenizer

from stillhouse.objective import Learner
from stillhouse.recipe import Objective
from stillhouse.teacher import Teacher
from stillhouse.trainer import train


class CutError(Exception):
    """Stands for whatever ends a process."""


class Pieces:
    def __init__(self, cut: int | None = None) -> None:
        self.cut = cut

    def step(self, step, *, tokens_per_step, micro_tokens, rank, world, seed):
        if step == self.cut:
            raise CutError
        return [make_batch([7, 12, 3], 300, seed=2 * step + j, every=1 + j) for j in range(rank, 3, world)]

    def all(self, micro_tokens, max_tokens=None):
        yield from self.step(100, tokens_per_step=0, micro_tokens=0, rank=0, world=1, seed=0)


def run(folder, section, *, cut=None, seed=1):
    tokenizer = make_tokenizer()
    learner = Learner(make_llama(tokenizer, layers=2, seed=seed), Objective(chunk=8), section.steps)
    teacher = Teacher(make_llama(tokenizer, layers=3, seed=9))
    before = toy.weights(teacher.model)
    train(learner, teacher, Pieces(cut), Pieces(), section, folder, fingerprint="f")
    assert toy.same(before, toy.weights(teacher.model)) and not teacher.model.training
    assert not any(p.grad is not None for p in teacher.model.parameters())
    return learner


@pytest.mark.parametrize(
    "changes",
    [{}, {"threads": 2}, {"dtype": "bfloat16"}, {"gradient_checkpointing": True}],
    ids=["plain", "two threads", "bfloat16", "recomputed"],
)
def test_resumed_is_uninterrupted(tmp_path, changes):
    section = toy.section(steps=8, checkpoint_every=3, validate_every=2, learning_rate=1e-2, **changes)
    whole = run(tmp_path / "whole", section)
    with pytest.raises(CutError):
        run(tmp_path / "cut", section, cut=7)
    resumed = run(tmp_path / "cut", section, seed=5)
    assert toy.same(toy.weights(whole), toy.weights(resumed))
    network = resumed.student.network
    assert network.lm_head.weight is network.model.embed_tokens.weight
