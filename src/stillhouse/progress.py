"""Progress with an estimate of the time left, for work that is not training."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

PLAIN_SECONDS = 5.0
"""How often a line is written where there is no terminal."""

_TERMINAL_SECONDS = 0.25
_F = TypeVar("_F", bound=Callable[..., Any])


class Tell(Protocol):
    """What work calls to say how far it is."""

    def __call__(self, text: str, left: float | None = None, at_least: bool = False) -> None:
        """Replace what is shown.

        Args:
            text: what is done so far.
            left: seconds from now to the end, about; None where that cannot be known.
            at_least: some of the work is not in ``left``.

        """
        ...


@contextmanager
def timed(console: Console | None, what: str, left: float | None = None) -> Iterator[Tell]:
    """Show what is being done, for how long, and the time left, also while the work itself has nothing to say.

    A bar in a terminal, a line at the start and every five seconds elsewhere, nothing without a console. Between two calls
    of what is yielded the time left counts down.

    Args:
        console: where to show it.
        what: what is being done.
        left: seconds that it will take, about, if that is known before it starts.

    """
    if console is None:
        yield lambda text, left=None, at_least=False: None
        return
    state = _State(left)
    if not console.is_terminal:
        until = f" about {duration(left)}" if left is not None else ""
        console.print(f"{what} …{until}", highlight=False, markup=False)
        with _every(PLAIN_SECONDS, lambda: console.print(f"{what}: {state.words()}", highlight=False, markup=False)):
            yield state.tell
        return
    columns = TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[words]}", markup=False)
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as progress:
        task = progress.add_task(escape(what), total=None, words=state.words())

        def show() -> None:
            spent, rest = state.now()
            total = spent + rest if rest is not None else None
            progress.update(task, completed=spent, total=total, words=state.words(), refresh=True)

        with _every(_TERMINAL_SECONDS, show):
            show()
            yield state.tell


@contextmanager
def bar(console: Console | None, what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """As ``timed``, for work in equal parts; call what is yielded with the amount done since the last call.

    Args:
        console: where to show it.
        what: what is being done.
        total: how much there is to do.
        unit: of what.

    """
    began = time.monotonic()
    done = 0
    with timed(console, what) as tell:

        def advance(amount: int) -> None:
            nonlocal done
            done += amount
            left = (time.monotonic() - began) * (total - done) / done if done else None
            tell(f"{done:,} of {total:,} {unit}", left)

        advance(0)
        yield advance
    if console is not None:
        text = f"{what}: {total:,} {unit} in {duration(time.monotonic() - began)}"
        console.print(text, highlight=False, markup=False)


def takes(seconds: Callable[[dict[str, Any]], float | None]) -> Callable[[_F], _F]:
    """Mark a strategy with the seconds that it will take, about, given its options; None where it is quick or not known."""

    def mark(function: _F) -> _F:
        function.takes = seconds  # type: ignore[attr-defined]
        return function

    return mark


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} second{'' if round(seconds) == 1 else 's'}"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


class _State:
    """What was told last, and when."""

    def __init__(self, left: float | None) -> None:
        self.began = time.monotonic()
        self.last: tuple[float, str, float | None, bool] = (self.began, "", left, False)

    def tell(self, text: str, left: float | None = None, at_least: bool = False) -> None:
        """See ``Tell``."""
        self.last = (time.monotonic(), text, left, at_least)  # one assignment: the thread that shows it needs no lock

    def now(self) -> tuple[float, float | None]:
        """Seconds spent and, if known, left; negative once it takes longer than it was said to."""
        now = time.monotonic()
        told, _, left, _ = self.last
        return now - self.began, left if left is None else left - (now - told)

    def words(self) -> str:
        """All of it in one line."""
        spent, left = self.now()
        _, text, _, at_least = self.last
        parts = [text] if text else []
        parts.append(duration(spent))
        if left is not None:
            about = "at least" if at_least else "about"
            parts.append(f"{about} {duration(left)} left" if left >= 0.5 else _late(left))
        return ", ".join(parts)


def _late(left: float) -> str:
    return "nearly done" if left > -2.0 else "longer than expected"


@contextmanager
def _every(seconds: float, action: Callable[[], None]) -> Iterator[None]:
    """Do something again and again beside the ``with`` block, in a thread that ends with it."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.wait(seconds):
            action()

    thread = threading.Thread(target=repeat, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
