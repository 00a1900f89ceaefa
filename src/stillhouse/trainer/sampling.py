"""Pieces that need the student: what it writes itself while it learns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from stillhouse.types import Batch


@runtime_checkable
class Sampled(Protocol):
    """Training pieces of which some follow from the student's weights; the loop asks for each step once, in turn.

    A step may depend on the weights at this step or at earlier ones. What it needs of earlier ones it must keep on disk
    itself before the step is taken: after a kill the loop goes on from a checkpoint and asks from there.
    """

    def bind(self, student: Any, folder: Path, *, steps: int, world: int) -> None:
        """Called when the weights are those of the step to begin with."""
        ...

    def step(
        self, step: int, *, tokens_per_step: int, micro_tokens: int, rank: int, world: int, seed: int
    ) -> list[Batch]:
        """As of any pieces."""
        ...

    def all(self, micro_tokens: int, max_tokens: int | None = None) -> Iterator[Batch]:
        """As of any pieces."""
        ...

    def facts(self) -> dict[str, float]:
        """Numbers of the last step for its line in the metrics; the same however often the run was interrupted."""
        ...

    def forget(self, oldest: int) -> None:
        """Told that no run can go on from a checkpoint before this step."""
        ...


def oldest_checkpoint(folder: Path) -> int:
    """The lowest step that a run's folder has a checkpoint of."""
    return min((int(p.name.removeprefix("step-")) for p in (folder / "checkpoints").glob("step-*")), default=0)
