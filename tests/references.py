"""Every loss by its definition: in probability space, with loops, a position at a time, in float64.

A new file in ``objective/losses`` needs an entry here; until it has one, ``tests/contracts/test_losses.py`` says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

Numbers = list[Any]
"""Scalars that carry a gradient."""


@dataclass(frozen=True)
class Reference:
    """What a loss over outcomes should be.

    Args:
        of: for a divergence, of the probabilities (q, p, **options); for others, of (student logits, teacher logits, label,
            **options).
        divergence: 0 and without gradient where student and teacher agree, positive elsewhere, and a function of the two
            distributions alone.
        order: a divergence's value is multiplied by temperature to this power.
        options: sets of options to try besides the defaults.
        coarser: options with which merging outcomes never makes it larger; None if there are none.
        agree: of others: whether it is 0 and without gradient where the two agree.
    """

    of: Callable[..., Any]
    divergence: bool = True
    order: int = 2
    options: tuple[dict[str, Any], ...] = ()
    coarser: tuple[dict[str, Any], ...] | None = ({},)
    agree: bool = True

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor, label: int, **options: Any) -> Any:
        """At one position."""
        if not self.divergence:
            return self.of(list(student), list(teacher), label, **options)
        temperature = options.pop("temperature", 1.0)
        q, p = softmax(list(student), temperature), softmax(list(teacher), temperature)
        return temperature**self.order * self.of(q, p, **options)


def softmax(logits: Numbers, temperature: float = 1.0) -> Numbers:
    powers = [torch.exp(x / temperature) for x in logits]
    total = sum(powers)
    return [x / total for x in powers]


def kl(p: Numbers, q: Numbers) -> Any:
    return sum(a * torch.log(a / b) for a, b in zip(p, q, strict=True))


def mix(share: float, p: Numbers, q: Numbers) -> Numbers:
    return [share * a + (1 - share) * b for a, b in zip(p, q, strict=True)]


def generalised_js(q: Numbers, p: Numbers, beta: float = 0.5) -> Any:
    if beta == 0:
        return kl(p, q)
    if beta == 1:
        return kl(q, p)
    m = mix(beta, p, q)
    return (beta * kl(p, m) + (1 - beta) * kl(q, m)) / (beta * (1 - beta))


def skewed(a: Numbers, b: Numbers, skew: float) -> Any:
    return kl(a, mix(skew, a, b))


def adaptive(q: Numbers, p: Numbers, head: float = 0.5) -> Any:
    by_size = sorted(range(len(p)), key=lambda v: -p[v].item())
    chosen, mass = [], 0.0
    for v in by_size:
        if mass >= head:
            break
        chosen.append(v)
        mass += p[v].item()
    gap = [abs(a.item() - b.item()) for a, b in zip(p, q, strict=True)]
    share = sum(gap[v] for v in chosen) / sum(gap)
    return share * kl(p, q) + (1 - share) * kl(q, p)


def ab(q: Numbers, p: Numbers, alpha: float = 0.2, beta: float = 0.7) -> Any:
    total = 0
    for a, b in zip(p, q, strict=True):
        if beta == 0:
            total += (a**alpha * torch.log(a**alpha / b**alpha) - a**alpha + b**alpha) / alpha**2
        elif alpha == 0:
            total += (b**beta * torch.log(b**beta / a**beta) - b**beta + a**beta) / beta**2
        else:
            s = alpha + beta
            total += -(a**alpha * b**beta - alpha / s * a**s - beta / s * b**s) / (alpha * beta)
    return total


def centred(logits: Numbers) -> Numbers:
    mean = sum(logits) / len(logits)
    return [x - mean for x in logits]


def cosine(a: Numbers, b: Numbers) -> Any:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / torch.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def coin(t: Any, s: Any) -> Any:
    return kl([1 / (1 + torch.exp(-t)), 1 / (1 + torch.exp(t))], [1 / (1 + torch.exp(-s)), 1 / (1 + torch.exp(s))])


def rank_pairs(s: Numbers, t: Numbers, label: int, k: int = 8) -> Any:
    best = sorted(range(len(t)), key=lambda v: -t[v].item())[:k]
    pairs = [(i, j) for n, i in enumerate(best) for j in best[n + 1 :]]
    return sum(coin(t[i] - t[j], s[i] - s[j]) for i, j in pairs) / len(pairs)


def first_choice(s: Numbers, t: Numbers, label: int) -> Any:
    return -torch.log(softmax(s)[max(range(len(t)), key=lambda v: t[v].item())])


def smoothed(s: Numbers, t: Numbers, label: int, smoothing: float = 0.1) -> Any:
    q = softmax(s)
    return -sum((smoothing / len(q) + (1 - smoothing) * (v == label)) * torch.log(q[v]) for v in range(len(q)))


def decoupled(
    s: Numbers, t: Numbers, label: int, target: float = 1.0, other: float = 1.0, temperature: float = 1.0
) -> Any:
    q, p = softmax(s, temperature), softmax(t, temperature)
    others = [v for v in range(len(q)) if v != label]
    binary = kl([p[label], sum(p[v] for v in others)], [q[label], sum(q[v] for v in others)])
    rest = kl(*([x[v] / sum(x[w] for w in others) for v in others] for x in (p, q)))
    return temperature**2 * (target * binary + other * rest)


def by_rank(s: Numbers, t: Numbers, label: int) -> Any:
    q, p = (sorted(softmax(x), key=lambda v: -v.item()) for x in (s, t))
    longer = max(len(q), len(p))
    q, p = (x + [torch.zeros(())] * (longer - len(x)) for x in (q, p))
    return sum(abs(a - b) for a, b in zip(p, q, strict=True))


OUTCOMES: dict[str, Reference] = {
    "cross_entropy": Reference(lambda s, t, label: -torch.log(softmax(s)[label]), divergence=False, agree=False),
    "label_smoothing": Reference(
        smoothed, divergence=False, agree=False, options=({"smoothing": 0.4}, {"smoothing": 0})
    ),
    "top1_cross_entropy": Reference(first_choice, divergence=False, agree=False),
    "forward_kl": Reference(lambda q, p: kl(p, q)),
    "gold": Reference(lambda q, p: kl(p, q)),  # of one vocabulary; where they differ, see tests/teacher
    "reverse_kl": Reference(lambda q, p: kl(q, p)),
    "symmetric_kl": Reference(lambda q, p: (kl(p, q) + kl(q, p)) / 2),
    "js": Reference(
        generalised_js,
        options=tuple({"beta": b} for b in (0.0, 0.01, 0.3, 0.9, 1.0)),
        coarser=({"beta": 0.1}, {"beta": 0.5}, {"beta": 0.8}),
    ),
    "skew_forward_kl": Reference(lambda q, p, skew=0.1: skewed(p, q, skew), options=({"skew": 0.0}, {"skew": 0.6})),
    "skew_reverse_kl": Reference(lambda q, p, skew=0.1: skewed(q, p, skew), options=({"skew": 0.0}, {"skew": 0.6})),
    "adaptive_kl": Reference(adaptive, options=({"head": 0.9}, {"head": 0.1}), coarser=None),
    "total_variation": Reference(lambda q, p: sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2, order=1),
    "alpha_beta": Reference(
        ab,
        options=tuple(
            {"alpha": a, "beta": b} for a, b in ((1, 0), (0, 1), (0.5, 0.5), (1.5, 0.02), (0, 0.6), (0.7, 0))
        ),
        coarser=({"alpha": 0.5, "beta": 0.5}, {"alpha": 1.0, "beta": 0.0}, {"alpha": 0.2, "beta": 0.8}),
    ),
    "logits_cosine": Reference(lambda s, t, label: 1 - cosine(centred(s), centred(t)), divergence=False),
    "logits_mse": Reference(
        lambda s, t, label: sum((a - b) ** 2 for a, b in zip(centred(s), centred(t), strict=True)) / len(s),
        divergence=False,
    ),
    "ranking": Reference(rank_pairs, divergence=False, options=({"k": 2}, {"k": 5})),
    "decoupled_kd": Reference(decoupled, divergence=False, options=({"target": 0.5, "other": 3.0},)),
    "universal": Reference(by_rank, divergence=False),
}
"""Of losses over outcomes."""


def hidden_square(ours: torch.Tensor, theirs: torch.Tensor, n: int) -> Any:
    return sum((a - b) ** 2 for a, b in zip(ours[n], theirs[n], strict=True)) / ours.shape[1]


def attention_row(of: Any, batch: Any, n: int, causal: bool) -> list[Numbers]:
    """Where position n looks: for each query head a distribution over its document's tokens, 0 for those it cannot see."""
    place = int(batch.select_N[n])
    start, stop = document_of(batch, place)
    shared_by = of.query.shape[1] // of.key.shape[1]
    rows = []
    for head in range(of.query.shape[1]):
        powers = []
        for j in range(start, stop):
            score = of.scale * sum(
                x * y for x, y in zip(of.query[place, head], of.key[j, head // shared_by], strict=True)
            )
            powers.append(torch.exp(score) if j <= place or not causal else torch.zeros((), dtype=torch.float64))
        rows.append([x / sum(powers) for x in powers])
    return rows


def document_of(batch: Any, place: int) -> tuple[int, int]:
    borders = batch.borders_D1
    return next((a, b) for a, b in pairwise(borders) if a <= place < b)


def average_heads(rows: list[Numbers], to: int) -> list[Numbers]:
    size = len(rows) // to
    return [
        [sum(row[j] for row in rows[h * size : (h + 1) * size]) / size for j in range(len(rows[0]))] for h in range(to)
    ]


def matched(ours: list[Numbers], theirs: list[Numbers]) -> tuple[list[Numbers], list[Numbers]]:
    few, many = min(len(ours), len(theirs)), max(len(ours), len(theirs))
    to = few if many / few == many // few else 1
    return average_heads(ours, to), average_heads(theirs, to)


def visible_kl(p: Numbers, q: Numbers) -> Any:
    return sum(a * torch.log(a / b) for a, b in zip(p, q, strict=True) if a.item() > 0)


def attention_divergence(ours: Any, theirs: Any, batch: Any, n: int) -> Any:
    qs, ps = matched(*(attention_row(x, batch, n, ours.causal) for x in (ours, theirs)))
    return sum(visible_kl(p, q) for q, p in zip(qs, ps, strict=True)) / len(qs)


def attention_square(ours: Any, theirs: Any, batch: Any, n: int) -> Any:
    qs, ps = matched(*(attention_row(x, batch, n, ours.causal) for x in (ours, theirs)))
    return sum((a - b) ** 2 for q, p in zip(qs, ps, strict=True) for a, b in zip(p, q, strict=True)) / len(qs)


def relation_divergence(ours: Any, theirs: Any, batch: Any, n: int, heads: int = 8) -> Any:
    place = int(batch.select_N[n])
    start, stop = document_of(batch, place)
    seen = range(start, place + 1) if ours.causal else range(start, stop)
    total = 0
    for kind in ("query", "key", "value"):
        for head in range(heads):
            rows = []
            for of in (ours, theirs):
                vectors = [[x for part in token for x in part] for token in getattr(of, kind)]
                width = len(vectors[0]) // heads
                cut = [v[head * width : (head + 1) * width] for v in vectors]
                powers = [
                    torch.exp(sum(x * y for x, y in zip(cut[place], cut[j], strict=True)) / math.sqrt(width))
                    for j in seen
                ]
                rows.append([x / sum(powers) for x in powers])
            total = total + kl(rows[1], rows[0])
    return total / (3 * heads)


LAYERS: dict[str, Callable[..., Any]] = {
    "hidden_mse": hidden_square,
    "hidden_cosine": lambda ours, theirs, n: 1 - cosine(list(ours[n]), list(theirs[n])),
    "attention_kl": attention_divergence,
    "attention_mse": attention_square,
    "relations": relation_divergence,
}
"""Of losses on layers: of one pair of layers (ours, theirs), the batch where it matters, and a position."""

EXAMPLES: dict[tuple[str, str], dict[str, Any]] = {
    ("layers", "listed"): {"pairs": [(1, 1)]},
    ("weight", "task"): {"weights": {"a": 2.0, "b": 0.5}},
    ("schedule", "constant"): {"value": 0.4},
    ("schedule", "linear"): {"start": 0.9, "end": 0.1},
    ("schedule", "cosine"): {"start": 0.9, "end": 0.1},
    ("schedule", "step"): {"at": [0.0, 0.25, 0.5], "values": [3.0, 1.0, 2.0]},
}
"""Options of strategies that cannot be called without."""
