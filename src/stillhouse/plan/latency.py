"""How long an answer will take on this machine: a law fitted to a few small models that are timed here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import torch

from stillhouse.models import Model
from stillhouse.plan.sizes import Tally, reads_whole, tally, with_vocabulary

TEXT = 128
"""Tokens of the text that a classifier or encoder reads in one answer."""

CONTEXT = 64
"""Tokens of context at which a language model's token is timed."""

ROUNDS, REPEATS = 4, 6
"""Each model is timed so many times in turn with the others, so many answers each time."""

CORNERS = 4
"""Shallow or deep, narrow or wide: the extremes among the timed models."""

LARGEST = (768, 16384)
"""Hidden channels and tokens that the timed models have at most, so that measuring takes seconds."""


@dataclass(frozen=True)
class Timed:
    """One model that was timed.

    Args:
        layers: its blocks.
        used: weights that an answer multiplies with.
        seconds: of an answer: a token of a language model, a text of a classifier or encoder.

    """

    layers: int
    used: int
    seconds: float


@dataclass(frozen=True)
class Law:
    """Seconds of an answer = start + per_layer · layers + per_weight · used weights.

    Args:
        start: seconds that any answer takes.
        per_layer: seconds of calling a block, however small.
        per_weight: seconds of reading a weight and multiplying with it.
        error: the largest relative error on a timed model between the extremes that was left out of the fit.
        timed: what it was fitted to.

    """

    start: float
    per_layer: float
    per_weight: float
    error: float
    timed: tuple[Timed, ...]

    def seconds(self, found: Tally) -> float:
        """Predicted seconds of an answer of a model."""
        return self.start + self.per_layer * found.layers + self.per_weight * found.used

    def __str__(self) -> str:
        return (
            f"{1e3 * self.start:.2f} ms + {1e3 * self.per_layer:.3f} ms a layer + {1e9 * self.per_weight:.2f} ms a million "
            f"weights; off by at most {100 * self.error:.0f} % on timed models that were left out ({len(self.timed)} timed)"
        )


def fit(timed: Sequence[Timed]) -> Law:
    """The law of least relative error whose three numbers are not negative.

    Its error is the largest that it would have made on a model had that one not been fitted. The extremes are always fitted:
    a law is asked what lies between them.

    Args:
        timed: the ``CORNERS`` extremes of depth and width first, then at least one model between them.

    """
    errors = []
    for one in timed[CORNERS:]:
        start, per_layer, per_weight = _solve([other for other in timed if other is not one])
        errors.append(abs(start + per_layer * one.layers + per_weight * one.used - one.seconds) / one.seconds)
    return Law(*_solve(timed), error=max(errors), timed=tuple(timed))


def _solve(timed: Sequence[Timed]) -> tuple[float, float, float]:
    """Least squares of relative errors with no negative number: the best of all subsets of the three that have none."""
    seconds = np.array([t.seconds for t in timed])
    columns: npt.NDArray[np.float64] = np.array([[1.0, t.layers, t.used] for t in timed]) / seconds[:, None]
    best: tuple[float, npt.NDArray[np.float64]] | None = None
    for chosen in (c for count in (3, 2, 1) for c in combinations(range(3), count)):
        part, *_ = np.linalg.lstsq(columns[:, chosen] / (scale := columns[:, chosen].max(0)), np.ones(len(timed)))
        if (part < 0).any():
            continue
        whole = np.zeros(3)
        whole[list(chosen)] = part / scale
        miss = float(((columns @ whole - 1.0) ** 2).sum())
        if best is None or miss < best[0]:
            best = miss, whole
    assert best is not None  # one positive column against positive ones always has a positive answer
    return float(best[1][0]), float(best[1][1]), float(best[1][2])


def measure(teacher: Model) -> Law:
    """Time seven small models of the teacher's architecture and fit the law; takes some seconds.

    Greedy decoding in float32 with transformers, a cache and batch 1 (for a classifier or encoder: a text of ``TEXT`` tokens), with the
    threads that torch uses now. Other runtimes and quantised weights are faster by factors of their own.

    Args:
        teacher: whose architecture; may be on the meta device.

    """
    return fit(time_all(_models(teacher)))


def _models(teacher: Model) -> list[Model]:
    """The corners, then models of half the width between them; their weights are zeros."""
    config = teacher.config
    depth, heads = config.num_hidden_layers, config.num_attention_heads
    head = config.hidden_size // heads
    most = max(1, min(config.hidden_size, LARGEST[0]) // head)
    few, many = min(2, depth), max(min(depth, 12), 4)
    half = max(1, most // 2)
    corners = [(few, 1), (many, 1), (few, most), (many, most)]
    shapes = [*corners, (few, half), (many // 2, half), (many, half)]
    return [_model(teacher, layers, heads, head) for layers, heads in shapes]


def _model(teacher: Model, layers: int, heads: int, head: int) -> Model:
    config = with_vocabulary(teacher, min(teacher.config.vocab_size, LARGEST[1])).config
    config.num_hidden_layers, config.num_attention_heads = layers, heads
    config.hidden_size = heads * head
    wide = getattr(teacher.config, "intermediate_size", None)
    if wide:
        config.intermediate_size = max(1, wide * config.hidden_size // teacher.config.hidden_size)
    if getattr(config, "num_key_value_heads", None):
        config.num_key_value_heads = max(
            g for g in range(1, min(heads, config.num_key_value_heads) + 1) if not heads % g
        )
    if getattr(config, "layer_types", None):
        config.layer_types = (config.layer_types * layers)[:layers]
    with torch.device("meta"):
        network = type(teacher.network)._from_config(config)
    network.to_empty(device="cpu").tie_weights()
    for tensor in (*network.parameters(), *network.buffers()):  # zeros take as long as any numbers, and no time to draw
        tensor.data.zero_()
    return Model(network, teacher.tokenizer, teacher.name)


@torch.no_grad()
def time_all(models: Sequence[Model]) -> list[Timed]:
    """Time models in turns, so that what else the machine does meets all alike; of each, what a tenth of its answers do not exceed.

    On a quiet machine that is the median within a few per cent; on a busy one the median is the others' doing.
    """
    seconds: list[list[float]] = [[] for _ in models]
    for _ in range(ROUNDS):
        for model, own in zip(models, seconds, strict=True):
            own += _answers(model)
    found = [tally(model) for model in models]
    return [Timed(t.layers, t.used, float(np.quantile(s, 0.1))) for t, s in zip(found, seconds, strict=True)]


def _answers(model: Model) -> list[float]:
    """Seconds of each of ``REPEATS`` answers, after one that is not counted."""
    seconds = []
    with model.generating() as network:
        if reads_whole(model):
            ids = torch.ones(1, TEXT, dtype=torch.long)
            for _ in range(REPEATS + 1):
                began = time.perf_counter()
                network(input_ids=ids)
                seconds.append(time.perf_counter() - began)
            return seconds[1:]
        out = network(input_ids=torch.ones(1, CONTEXT, dtype=torch.long), use_cache=True)
        for _ in range(REPEATS + 1):
            began = time.perf_counter()
            token = out.logits[:, -1:].argmax(-1)
            out = network(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
            seconds.append(time.perf_counter() - began)
    return seconds[1:]
