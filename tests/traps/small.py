"""What the traps' tests share: cutting batches, calling a loss as training does, and a whole step from its definition."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from references import kl, softmax

from stillhouse.find import find
from stillhouse.models import Model
from stillhouse.objective import Learner
from stillhouse.objective.chunks import WeightedLoss, chunked
from stillhouse.teacher import Teacher
from stillhouse.trainer.distributed import Ranks
from stillhouse.trainer.loop import accumulate
from stillhouse.types import Batch, Head, Signal

ALONE = Ranks(0, 1, torch.device("cpu"))


def documents(batch: Batch, which: list[int]) -> Batch:
    """Some of a batch's documents."""
    ids, positions, select, labels, document, borders = [], [], [], [], [], [0]
    for new, d in enumerate(which):
        start, stop = batch.borders_D1[d : d + 2]
        mine = batch.document_N == d
        ids.append(batch.input_ids_P[start:stop])
        positions.append(batch.position_ids_P[start:stop])
        select.append(batch.select_N[mine] - start + borders[-1])
        labels.append(batch.labels_N[mine])
        document.append(torch.full((int(mine.sum()),), new))
        borders.append(borders[-1] + stop - start)
    select_N = torch.cat(select)
    return Batch(
        torch.cat(ids), torch.cat(positions), tuple(borders), select_N, torch.cat(labels), torch.ones(len(select_N)),
        torch.cat(document), tuple(batch.keys[d] for d in which),
    )  # fmt: skip


def silent(batch: Batch, which: list[int]) -> Batch:
    """The batch with no loss on some of its documents."""
    stays = torch.tensor([d not in which for d in batch.document_N.tolist()])
    names = ("select_N", "labels_N", "weight_N", "document_N")
    return replace(batch, **{name: getattr(batch, name)[stays] for name in names})


def gradients(learner: Learner, teacher: Teacher | None, batches: list[Batch]) -> dict[str, torch.Tensor]:
    """Of one step over these micro-batches, by parameter, dropout aside."""
    learner.zero_grad()
    accumulate(learner, teacher, batches, 0, ALONE)
    return {name: p.grad.clone() for name, p in learner.named_parameters() if p.grad is not None}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], rtol: float = 1e-4) -> None:
    """Gradients are equal, and large enough for that to say something."""
    assert found.keys() == expected.keys()
    assert max(float(x.abs().max()) for x in expected.values()) > 1e-3
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name], gradient.to(found[name].dtype), rtol=rtol, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}"
        )


def positions(rows: int, outcomes: int) -> Batch:
    """One document, every position of it with loss."""
    ids = torch.zeros(rows, dtype=torch.int64)
    return Batch(ids, ids, (0, rows), torch.arange(rows), torch.arange(rows) % outcomes, torch.ones(rows), ids)


def learned(name: str, student: torch.Tensor, teacher: Any, **options: Any) -> tuple[float, torch.Tensor]:
    """A loss as training takes it, through the chunked head: its sum, and the gradient of the student's logits [N, V]."""
    signal = teacher if isinstance(teacher, Signal) else Signal(logits_NV=teacher)
    rows, outcomes = student.shape
    leaf = student.clone().requires_grad_()
    loss = WeightedLoss(name, find("loss", name), 1.0, options)
    head = Head(torch.eye(outcomes, dtype=leaf.dtype))
    total, _ = chunked([loss], leaf, head, signal, positions(rows, outcomes), 1.0, 2)
    total.backward()
    return total.item(), leaf.grad


def truncated(teacher: torch.Tensor, k: int) -> Signal:
    """The k likeliest outcomes and the logarithm of what they leave over."""
    log_p = torch.log_softmax(teacher.double(), -1)
    top = log_p.topk(k)
    rest = torch.log((1 - top.values.exp().sum(-1)).clamp_min(1e-300))
    return Signal(ids_NK=top.indices, logp_NK=top.values.to(teacher.dtype), rest_N=rest.to(teacher.dtype))


def alone(model: Model, batch: Batch, d: int) -> torch.Tensor:
    """Logits of one of a batch's documents by transformers itself, the document fed alone, [length, V], float64."""
    start, stop = batch.borders_D1[d : d + 2]
    with model.generating() as network:
        return network(input_ids=batch.input_ids_P[None, start:stop], use_cache=False).logits[0].double()


def whole_step(student: Model, teacher: Model, batch: Batch, alpha: float, temperature: float) -> torch.Tensor:
    """α T² KL + (1 − α) CE, the mean over all positions with loss: a document, a position and an outcome at a time."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for d in range(len(batch.borders_D1) - 1):
        ours = alone(student, batch, d)
        with torch.no_grad():
            theirs = alone(teacher, batch, d)
        for n in range(len(batch.select_N)):
            if int(batch.document_N[n]) != d:
                continue
            at = int(batch.select_N[n]) - batch.borders_D1[d]
            soft = kl(softmax(list(theirs[at]), temperature), softmax(list(ours[at]), temperature))
            hard = -torch.log(softmax(list(ours[at]))[int(batch.labels_N[n])])
            total = total + alpha * temperature**2 * soft + (1 - alpha) * hard
            count += 1
    return total / count
