"""Whether an artefact says what the student says, measured on held-out text in a fresh process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stillhouse.models import Model
from stillhouse.types import Batch
from stillhouse.vocabulary import pools_first
from stillhouse.worker import Worker

_RESAMPLES = 2000


@dataclass(frozen=True)
class Change:
    """A mean over positions, the artefact's minus the reference's, with its 95 % interval (bootstrap over texts); NaN if unknown."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """What was found where two models read the same texts.

    Args:
        texts: how many.
        positions: tokens read, or texts of a classifier.
        kl: mean KL(reference ‖ artefact) in nats.
        worst: the largest of them.
        where: the position of the worst, in words.
        largest_logit: largest absolute difference of two logits, each row's mean taken off (it changes no probability).
        agreement: share of positions with the same likeliest outcome.
        loss: mean of −log q of the true next token (or class), the artefact's minus the reference's, in nats; NaN where it is
            not known.
        low: lower end of its 95 % interval.
        high: upper end.
        perplexity: the artefact's, on these texts; NaN likewise.
        accuracy: share of positions whose likeliest outcome is the true one, the artefact's; NaN likewise.
        right: the change of that share.
        calibration: the change of mean confidence − accuracy of the first choice.

    """

    texts: int
    positions: int
    kl: float
    worst: float
    where: str
    largest_logit: float
    agreement: float
    loss: float
    low: float
    high: float
    perplexity: float
    accuracy: float
    right: Change
    calibration: Change

    def to_dict(self) -> dict[str, Any]:
        """As plain values; what is not a number becomes None."""

        def known(items: list[tuple[str, Any]]) -> dict[str, Any]:
            return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in items}

        return asdict(self, dict_factory=known)


@torch.no_grad()
def logits_of(model: Model, ids: Sequence[int]) -> torch.Tensor:
    """What PyTorch says of one text in float32: logits [P, V] at every token, or [1, C] of a classifier."""
    ids_P = torch.tensor(list(ids))
    length = len(ids_P)
    position_P = torch.arange(length)
    at_N = torch.tensor([0 if pools_first(model.tokenizer) else length - 1]) if model.classifies else position_P
    nothing_N = torch.zeros_like(at_N)
    batch = Batch(ids_P, position_P, (0, length), at_N, nothing_N, torch.ones(len(at_N)), nothing_N)
    model.eval()
    dtype = model.compute_dtype
    model.set_compute_dtype(torch.float32)
    logits_NV = model.head.logits(model(batch)[0])
    model.set_compute_dtype(dtype)
    return logits_NV


def difference(
    worker: Worker, model: Model, texts: Sequence[list[int]], classes: Sequence[int] | None = None
) -> Difference:
    """Read every text with both.

    Args:
        worker: the artefact.
        model: the reference, in PyTorch.
        texts: token ids of held-out texts, one a list.
        classes: of a classifier, the true class of each text, where it is known.

    Returns:
        what differs; the intervals are a bootstrap over texts, both models resampled together.

    """
    kl_D: list[NDArray[np.float64]] = []
    loss_D: list[NDArray[np.float64]] = []
    own: list[NDArray[np.float64]] = []
    right_D: list[NDArray[np.float64]] = []
    was_right_D: list[NDArray[np.float64]] = []
    sure_D: list[NDArray[np.float64]] = []
    same, largest = 0, 0.0
    worst, where = -1.0, ""
    for number, ids in enumerate(texts):
        want = logits_of(model, ids).double().numpy()
        came = worker.logits(ids).astype(np.float64)[:, : want.shape[1]]
        finite = np.isfinite(came).all(-1)
        if not finite.all():
            came[~finite] = 0.0  # no distribution at all: as far from the reference as one that knows nothing
        log_p, log_q = _log_softmax(want), _log_softmax(came)
        kl = (np.exp(log_p) * (log_p - log_q)).sum(-1)
        kl[~finite] = np.inf
        if (top := int(kl.argmax())) is not None and kl[top] > worst:
            worst = float(kl[top])
            token = model.tokenizer.decode(ids[: top + 1])[-30:] if not model.classifies else ""
            where = f"text {number + 1}" if model.classifies else f"text {number + 1}, token {top + 1}, after {token!r}"
        centred = (came - came.mean(-1, keepdims=True)) - (want - want.mean(-1, keepdims=True))
        largest = max(largest, float(np.abs(centred).max()))
        same += int((came.argmax(-1) == want.argmax(-1)).sum())
        kl_D.append(kl)
        true = ids[1:] if not model.classifies else classes[number : number + 1] if classes else []
        n, true_n = np.arange(len(true)), np.array(true, np.int64)
        log_p, log_q = log_p[: len(true)], log_q[: len(true)]
        loss_D.append(log_p[n, true_n] - log_q[n, true_n])
        own.append(-log_q[n, true_n])
        right_D.append((log_q.argmax(-1) == true_n).astype(float))
        was_right_D.append((log_p.argmax(-1) == true_n).astype(float))
        sure_D.append(np.exp(log_q.max(-1)) - np.exp(log_p.max(-1)))
    positions = sum(map(len, kl_D))
    known = any(map(len, own))
    loss = _change(loss_D)
    turned_D = [now - was for now, was in zip(right_D, was_right_D, strict=True)]
    return Difference(
        texts=len(texts),
        positions=positions,
        kl=float(np.concatenate(kl_D).mean()),
        worst=worst,
        where=where,
        largest_logit=largest,
        agreement=same / positions,
        loss=loss.value,
        low=loss.low,
        high=loss.high,
        perplexity=float(np.exp(np.concatenate(own).mean())) if known else math.nan,
        accuracy=float(np.concatenate(right_D).mean()) if known else math.nan,
        right=_change(turned_D),
        calibration=_change([sure - turned for sure, turned in zip(sure_D, turned_D, strict=True)]),
    )


def same_words(worker: Worker, model: Model, prompts: Sequence[list[int]], tokens: int) -> tuple[int, int]:
    """How many greedy tokens are the student's until the first that is not, over all prompts: those, and out of how many."""
    same = 0
    for ids in prompts:
        written = worker.greedy(ids, tokens)
        want = logits_of(model, [*ids, *written[:-1]])[len(ids) - 1 :].argmax(-1).tolist()
        same += next((i for i, (a, b) in enumerate(zip(written, want, strict=True)) if a != b), tokens)
    return same, tokens * len(prompts)


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(-1, keepdims=True)
    found: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return found


def _change(values_D: list[NDArray[np.float64]]) -> Change:
    """Mean over all positions, and its 95 % interval by a bootstrap over texts."""
    values_D = [v for v in values_D if len(v)]
    if not values_D:
        return Change(math.nan, math.nan, math.nan)
    sums, counts = np.array([v.sum() for v in values_D]), np.array([len(v) for v in values_D])
    drawn = np.random.default_rng(0).integers(0, len(sums), (_RESAMPLES, len(sums)))
    means = sums[drawn].sum(-1) / counts[drawn].sum(-1)
    low, high = (float(q) for q in np.quantile(means, (0.025, 0.975)))
    return Change(float(sums.sum() / counts.sum()), low, high)
