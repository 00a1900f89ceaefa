"""What each of two processes does; started by torchrun from test_distributed.py, all in one start because starting is slow."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import toy
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from stillhouse.errors import RunError
from stillhouse.trainer import distributed, train
from stillhouse.trainer.loop import _prepare, accumulate
from stillhouse.trainer.optim import gradient_norm

sys.path.insert(0, str(Path(__file__).parents[1]))


class CutError(Exception):
    """Stands for whatever ends a process."""


class Stopping(toy.Pieces):
    def step(self, step, **options):
        if step == 6:
            raise CutError
        return super().step(step, **options)


class Llamas:
    """A live teacher, split over the processes as the student is."""

    def __init__(self, ranks) -> None:
        from shared import make_llama, make_tokenizer

        self.model = make_llama(make_tokenizer(), layers=3, seed=9).requires_grad_(False)
        distributed.shard(self.model, self.model.layers, ranks)

    @torch.no_grad()
    def signal(self, batch, want=frozenset()):
        from stillhouse.types import Signal

        self.model.eval()
        hidden, _ = self.model(batch)
        head = self.model.head
        assert not isinstance(head.weight_VH, DTensor)
        return Signal(hidden_NH=hidden, head=head)


def llama_learner(ranks):
    """The real student and objective, tied, chunked, closed-form gradient and all."""
    from shared import make_llama, make_tokenizer

    from stillhouse.objective import Learner
    from stillhouse.recipe import Objective

    return Learner(make_llama(make_tokenizer(), layers=2, seed=1), Objective(chunk=5), 10)


def real_batches():
    from shared import make_batch

    return [
        make_batch(lengths, 300, seed=i, every=e) for i, (lengths, e) in enumerate([([9, 4], 1), ([12], 5), ([3], 2)])
    ]


def gradients(learner, teacher, batches, ranks):
    """Facts of one step's gradient; the names are those of the single process."""
    sums = accumulate(learner, teacher, batches[ranks.rank :: ranks.world], 0, ranks)
    parameters = dict(learner.named_parameters())
    distributed.gather_again(learner)
    parameters = dict(learner.named_parameters())
    if ranks.world > 1:
        assert all(isinstance(p, DTensor) and isinstance(p.grad, DTensor) for p in parameters.values())
    found = {name: distributed.whole(p.grad) for name, p in parameters.items()}
    found["norm"] = gradient_norm(parameters.values())
    found["loss"] = torch.tensor(sums.loss)
    found["weight"] = torch.tensor(sums.weight)
    found.update({f"part {name}": torch.tensor(value) for name, value in sums.parts.items()})
    return {name: t.detach().clone().contiguous() for name, t in found.items()}


def all_gradients(ranks):
    """Unequal and missing micro-batches; the toy and the real learner."""
    found = {}
    for per_step in (7, 5, 3):  # 4, 3 and 2 micro-batches; the first of them has no position
        learner = toy.Learner()
        _prepare(learner, toy.section(), ranks)
        batches = toy.Pieces(per_step=per_step).step(1, tokens_per_step=0, micro_tokens=0)
        found[f"toy {per_step}"] = gradients(learner, toy.Teacher(), batches, ranks)
    for count in (3, 1):  # with one micro-batch, the second process has none
        learner = llama_learner(ranks)
        _prepare(learner, toy.section(), ranks)
        found[f"llama {count}"] = gradients(learner, Llamas(ranks), real_batches()[:count], ranks)
    learner = llama_learner(ranks)
    _prepare(learner, toy.section(gradient_checkpointing=True), ranks)
    found["llama recomputed"] = gradients(learner, Llamas(ranks), real_batches(), ranks)
    return {f"{case}/{name}": t for case, values in found.items() for name, t in values.items()}


def difficulties(ranks):
    """What is measured of a split student under a split teacher, before any step and after one; of three batches and of one."""
    from stillhouse.objective.measure import measure

    learner, teacher, found = llama_learner(ranks), Llamas(ranks), {}
    _prepare(learner, toy.section(), ranks)
    reads = learner.student if ranks.world == 1 else learner
    for moment in ("before", "after"):
        for count in (3, 1):
            sums, counts = measure(
                teacher.signal, reads, ["gap", "student_loss"], iter(real_batches()[:count]), lambda _: None,
                rank=ranks.rank, world=ranks.world, summed=distributed.sum_over_ranks,
            )  # fmt: skip
            found |= {f"{moment} {count} sums": torch.tensor(sums), f"{moment} {count} counts": torch.tensor(counts)}
        assert learner.student.training
        gradients(learner, teacher, real_batches(), ranks)
    return found


def run(folder, ranks, pieces=None, seed=0):
    learner = toy.Learner(seed=seed)
    progress = train(
        learner, toy.Teacher(), pieces or toy.Pieces(per_step=5), toy.Pieces(), toy.section(), folder,
        fingerprint="f", ranks=ranks,
    )  # fmt: skip
    return learner, progress


def main(root: Path) -> None:
    ranks = distributed.start("cpu")
    assert ranks.world == 2 and distributed.is_main() == (ranks.rank == 0)
    assert distributed.sum_over_ranks([1.0, ranks.rank]) == [2.0, 1.0]
    assert distributed.from_main({"a": [ranks.rank, "é"]}) == {"a": [0, "é"]}

    found = all_gradients(ranks)
    if ranks.main:
        save_file(found, root / "gradients.safetensors")

    found = difficulties(ranks)
    if ranks.main:
        save_file(found, root / "difficulties.safetensors")

    learner, progress = run(root / "whole2", ranks)
    state = distributed.full_state_dict(learner)
    if ranks.main:
        save_file({n: t.contiguous().clone() for n, t in state.items()}, root / "whole2.safetensors")
        (root / "progress.json").write_text(json.dumps(progress.to_dict()))
    else:
        assert not state

    with pytest.raises(CutError):
        run(root / "cut_on_two", ranks, Stopping(per_step=5))

    learner, _ = run(root / "cut_on_one", ranks, seed=5)  # prepared by one process
    state = distributed.full_state_dict(learner)
    if ranks.main:
        save_file({n: t.contiguous().clone() for n, t in state.items()}, root / "one_to_two.safetensors")

    with pytest.raises(RunError, match="different weights"):
        _prepare(toy.Learner(seed=ranks.rank), toy.section(), ranks)

    def only_one_fails() -> None:
        if ranks.rank == 1:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError):  # on both
        distributed.together(only_one_fails)
    distributed.stop()
    print(f"rank {ranks.rank} done")
    distributed.leave(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
