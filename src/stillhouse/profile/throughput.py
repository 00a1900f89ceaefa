"""Throughput: how many tokens a second when several texts are written at once, in one process or in several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from stillhouse.profile.timed import Timed
from stillhouse.worker import Worker

BATCHES = (1, 4, 16)
"""Texts that one process writes at once."""
AT_ONCE = (1, 2, 4)
"""Processes that write a text each at the same time."""


@dataclass(frozen=True)
class Rate:
    """How fast several texts grew together.

    Args:
        name: the model or file.
        way: ``batch``, texts in one process; ``processes``, each with one text.
        count: how many.
        rate: tokens a second, all texts together.
        steps: seconds of each step, in which every text grows by a token.
    """

    name: str
    way: str
    count: int
    rate: float
    steps: tuple[float, ...]


def batches(row: Timed, worker: Worker, ids: Sequence[int], tokens: int) -> list[Rate]:
    """One process writes several texts at once; nothing where its runtime takes one text at a time."""
    found = []
    for count in BATCHES:
        steps = worker.ask("batch", ids=list(ids), count=count, tokens=tokens)["steps"]
        if steps is None:
            return []
        found.append(Rate(row.name, "batch", count, count * len(steps) / sum(steps), tuple(steps)))
    return found


def processes(row: Timed, ids: Sequence[int], tokens: int, threads: int, advance: Callable[[int], None]) -> list[Rate]:
    """Several processes write a text each at the same time, as a server with so many workers does; each has its own copy."""
    found = []
    with ExitStack() as stack:
        workers: list[Worker] = []
        for count in AT_ONCE:
            while len(workers) < count:
                workers.append(stack.enter_context(Worker(row.runtime, Path(row.path), threads)))
                workers[-1].ask("time", ids=list(ids), tokens=1)  # warm
            with ThreadPoolExecutor(count) as pool:  # each thread only waits for its process
                answers = list(pool.map(lambda w: w.ask("time", ids=list(ids), tokens=tokens), workers))
            steps = [step for answer in answers for step in answer["steps"]]
            rate = sum(len(answer["steps"]) / sum(answer["steps"]) for answer in answers)
            found.append(Rate(row.name, "processes", count, rate, tuple(steps)))
            advance(1)
    return found
