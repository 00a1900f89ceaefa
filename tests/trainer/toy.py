"""A student, a teacher and data that are as small as can be and still have all that the loop must handle.

Tied embedding and head, a norm and biases, dropout (so that random generators matter), a buffer, documents of unequal
length, micro-batches with unequal numbers of loss positions, and one without any.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from stillhouse.recipe import Trainer
from stillhouse.types import Batch, Signal

V, H = 13, 6


class Network(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(V, H)
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(H, H), nn.Tanh(), nn.Dropout(dropout)) for _ in range(2)])
        self.norm = nn.LayerNorm(H)
        self.head = nn.Linear(H, V, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids)
        for layer in self.layers:
            x = x + layer(x)
        return self.head(self.norm(x))


class Student(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.network = Network(dropout)


class Learner(nn.Module):
    want = frozenset({"nothing"})

    def __init__(self, dropout: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.student = Student(dropout)
        self.projection = nn.Linear(V, 1)
        self.steps_seen: list[int] = []
        self.explode: str | None = None

    def forward(self, batch: Batch, signal: Signal | None, denominator: float, step: int):
        self.steps_seen.append(step)
        if self.training:
            self.student.network.seen += 1
        logits = self.student.network(batch.input_ids_P)[batch.select_N]
        log_q = logits.log_softmax(-1)
        nll = -log_q.gather(1, batch.labels_N[:, None])[:, 0]
        total = nll
        parts = {"nll": float(nll.detach().sum())}
        if signal is not None:
            log_p = signal.logits_NV.log_softmax(-1)
            kl = (log_p.exp() * (log_p - log_q)).sum(-1)
            total = total + kl
            parts["kl"] = float(kl.detach().sum())
        total = total + 0.1 * self.projection(logits)[:, 0] ** 2
        if self.explode == "kl":
            parts["kl"] = float("nan")
        if self.explode == "gradient":
            return (total * batch.weight_N).sum() / denominator + _infinite(total), parts
        return (total * batch.weight_N).sum() / denominator, parts


def _infinite(x: torch.Tensor) -> torch.Tensor:
    """A finite value whose gradient is not finite."""
    return (x.sum() * 0.0).sqrt()


class Teacher:
    def __init__(self) -> None:
        torch.manual_seed(99)
        self.table = torch.randn(V, V)

    def signal(self, batch: Batch, want: frozenset[str] = frozenset()) -> Signal:
        assert want == Learner.want
        return Signal(logits_NV=self.table[batch.input_ids_P[batch.select_N]])


def batch_of(documents: list[list[int]], masks: list[list[int]]) -> Batch:
    """Documents with their labels (the last token of each is only a label), mask 1 where a label counts."""
    ids, positions, borders, select, labels, owner = [], [], [0], [], [], []
    for d, (document, mask) in enumerate(zip(documents, masks, strict=True)):
        for i in range(len(document) - 1):
            if mask[i]:
                select.append(len(ids))
                labels.append(document[i + 1])
                owner.append(d)
            ids.append(document[i])
            positions.append(i)
        borders.append(len(ids))
    as_tensor = lambda x: torch.tensor(x, dtype=torch.int64)  # noqa: E731
    return Batch(
        as_tensor(ids),
        as_tensor(positions),
        tuple(borders),
        as_tensor(select),
        as_tensor(labels),
        torch.ones(len(select)),
        as_tensor(owner),
        tuple(str(d) for d in range(len(documents))),
    )


class Pieces:
    """Ragged documents, drawn from the step's number; ``micro`` documents to a micro-batch, ``per_step`` to a step."""

    def __init__(self, micro: int = 2, per_step: int = 7, masked: bool = False) -> None:
        self.micro, self.per_step, self.masked = micro, per_step, masked

    def documents(self, step: int, seed: int) -> list[tuple[list[int], list[int]]]:
        generator = torch.Generator().manual_seed(1000 * seed + step)
        made = []
        for j in range(self.per_step):
            length = int(torch.randint(2, 9, (), generator=generator))
            document = torch.randint(0, V, (length,), generator=generator).tolist()
            mask = torch.randint(0, 2, (length - 1,), generator=generator).tolist()
            if j in (0, 1) or self.masked:  # the first two documents carry no loss at all
                mask = [0] * (length - 1)
            elif j == 2:
                mask = [1] * (length - 1)
            made.append((document, mask))
        return made

    def step(self, step, *, tokens_per_step, micro_tokens, rank=0, world=1, seed=0) -> list[Batch]:
        made = self.documents(step, seed)
        groups = [made[i : i + self.micro] for i in range(0, len(made), self.micro)]
        batches = [batch_of([d for d, _ in g], [m for _, m in g]) for g in groups]
        return batches[rank::world]

    def all(self, micro_tokens: int, max_tokens: int | None = None) -> Iterator[Batch]:
        yield from self.step(10**6, tokens_per_step=0, micro_tokens=0)


def section(**changes) -> Trainer:
    values = {
        "steps": 12,
        "tokens_per_step": 64,
        "micro_tokens": 16,
        "learning_rate": 0.05,
        "checkpoint_every": 4,
        "validate_every": 3,
        "dtype": "float32",
        "device": "cpu",
        "threads": 1,
    }
    return Trainer(**{**values, **changes})


def weights(learner: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in learner.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
