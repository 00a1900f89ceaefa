"""What each of two processes does for trap 14; started by torchrun. Alone it does the same by itself."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from safetensors.torch import save_file
from shared import make_batch, make_llama, make_tokenizer

from stillhouse.objective import Learner
from stillhouse.recipe import Objective, Trainer
from stillhouse.teacher import Teacher
from stillhouse.trainer import distributed
from stillhouse.trainer.loop import _prepare, accumulate


def step(ranks: distributed.Ranks) -> dict[str, torch.Tensor]:
    """The gradient of a step of two unequal micro-batches, whole, by parameter."""
    tokenizer = make_tokenizer()
    teacher = Teacher(make_llama(tokenizer, layers=2, seed=2))
    learner = Learner(make_llama(tokenizer, layers=2, seed=1, tied=False), Objective(), 1)
    _prepare(learner, Trainer(device="cpu"), ranks)
    batches = [make_batch([9, 4], 300, seed=1), make_batch([3], 300, seed=2)]
    accumulate(learner, teacher, batches[ranks.rank :: ranks.world], 0, ranks)
    return {n: distributed.whole(p.grad).clone().contiguous() for n, p in learner.named_parameters()}


if __name__ == "__main__":
    mine = distributed.start("cpu")
    found = step(mine)
    if mine.main:
        save_file(found, sys.argv[1])
    distributed.stop()
