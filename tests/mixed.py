"""Pieces of several tasks, and a student's difficulty that is made up: what tests of mixtures and samplers share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stillhouse.data.measured import Measured
from stillhouse.data.pieces import Pieces
from stillhouse.data.store import DOCUMENT
from stillhouse.data.stream import Stream
from stillhouse.find import check_options, find
from stillhouse.types import Batch

NEEDED: dict[str, dict[str, Any]] = {"fixed": {"shares": {"a": 5, "b": 2, "c": 1}}, "capped": {"most": 300}}
"""Options that a mixture cannot do without."""


def make_pieces(
    sizes: dict[str, int], *, longest: int = 40, whole: bool = True, seed: int = 1, vocabulary: int = 300
) -> Pieces:
    """So many documents of each task, of random length; the first token of a document is its number, if that fits."""
    draw = np.random.default_rng(seed)
    inputs: list[int] = []
    rows = []
    for task, (_, count) in enumerate(sizes.items()):
        for _ in range(count):
            length = int(draw.integers(4, longest))
            number, start = len(rows), len(inputs)
            inputs += [number % vocabulary, *draw.integers(3, vocabulary, length - 1).tolist()]
            key = draw.bytes(16)
            rows.append(
                (key, int.from_bytes(key[:8], "little"), start, length, length, 0, whole, True, 0, task, 1.0, 0, 0)
            )
    tokens = np.array(inputs, np.int32)
    labels = np.roll(tokens, -1)
    documents = np.array(rows, DOCUMENT)
    return Pieces(tokens, labels, np.ones(len(tokens), np.uint32), documents, 64, dict.fromkeys(sizes, 1.0))


class Scale:
    """A stand-in for a student: how far it has learned is one number."""

    def __init__(self, learned: float = 0.0) -> None:
        self.learned = learned
        self.asked: list[tuple[tuple[str, ...], int]] = []

    def measure(self, student: Scale, names: Sequence[str], batches: Iterator[Batch], tokens: int) -> tuple[Any, Any]:
        """Difficulty, by whatever measure, that follows from a document's key and from what was learned."""
        student.asked.append((tuple(names), tokens))
        sums, counts = [], []
        for batch in batches:
            for d, key in enumerate(batch.keys):
                positions = int((batch.document_N == d).sum())
                value = int(key[:4], 16) / 65536 + 0.1 / (1 + student.learned)
                sums.append([positions * value] * len(names))
                counts.append(positions)
        return np.array(sums), np.array(counts)


def make_stream(
    pieces: Pieces,
    mixture: str = "proportional",
    samplers: Sequence[str | tuple[str, dict[str, Any]]] = (),
    *,
    folder: Path | None = None,
    student: Scale | None = None,
    steps: int = 40,
    epochs: dict[str, int] | None = None,
    measures: bool = True,
    **options: Any,
) -> Stream:
    """A stream as ``run.py`` makes it, bound to a student."""
    function = find("mixture", mixture)
    filled = check_options(function, NEEDED.get(mixture, {}) | options, "data.mixture")
    student = student or Scale()
    seen = Measured(pieces, pieces, student.measure if measures else None)
    stream = Stream(pieces, partial(function, **filled), seen, filled.get("every"), epochs)
    for each in samplers:
        name, given = (each, {}) if isinstance(each, str) else each
        sampler = find("sampler", name)
        stream = sampler(stream, **check_options(sampler, given, "data.sampler"))
    stream.bind(student, folder or Path("unused"), steps=steps, world=1)
    return stream


ASKED = {"tokens_per_step": 256, "micro_tokens": 128, "seed": 3}


def read(stream: Stream, steps: Sequence[int]) -> list[list[tuple[str, ...]]]:
    """The keys of each micro-batch of each step."""
    return [[batch.keys for batch in stream.step(step, **ASKED)] for step in steps]
