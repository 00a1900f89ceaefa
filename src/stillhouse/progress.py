"""Progress with an estimate of the time left, for work that is not training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_SECONDS = 10.0
"""How often a line is written where there is no terminal."""


@contextmanager
def bar(console: Console | None, what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Show how far work has come; call what is yielded with the amount done since the last call.

    A bar in a terminal, a line every ten seconds elsewhere, nothing without a console.

    Args:
        console: where to show it.
        what: what is being done.
        total: how much there is to do.
        unit: of what.

    """
    if console is None:
        yield lambda _amount: None
    elif console.is_terminal:
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(what, total=total)
            yield lambda amount: progress.advance(task, amount)
    else:
        began = last = time.monotonic()
        done = 0

        def advance(amount: int) -> None:
            nonlocal last, done
            done += amount
            now = time.monotonic()
            if now - last >= PLAIN_SECONDS:
                last = now
                left = (now - began) * (total - done) / max(done, 1)
                console.print(f"{what}: {done:,} of {total:,} {unit}, about {left:.0f} s left", highlight=False)

        yield advance
        console.print(f"{what}: {total:,} {unit} in {time.monotonic() - began:.0f} s", highlight=False)


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
