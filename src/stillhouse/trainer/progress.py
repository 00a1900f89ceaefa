"""What is seen of a training run while it runs: a bar on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from stillhouse.progress import duration

EVERY_SECONDS = 10.0
"""Between two lines where there is no terminal."""


class Reporter:
    """Tells of steps and of what happens between them.

    Args:
        console: where to write; None writes nothing.
        name: what the run is called.
        start: steps already taken.
        steps: steps in all.
    """

    def __init__(self, console: Console | None, name: str, start: int, steps: int) -> None:
        self.console = console
        self.name = name
        self.start = start
        self.steps = steps
        self._began = time.perf_counter()
        self._tokens = 0
        self._last_line = 0.0
        self._took: dict[str, float] = {}
        self._bar: Progress | None = None
        if console is not None and console.is_terminal and start < steps:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[numbers]}"),
                TimeElapsedColumn(),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task(escape(name), total=steps, completed=start, numbers="first step …")
            self._bar.start()

    def say(self, text: str) -> None:
        """One line."""
        if self.console is not None:
            self.console.print(escape(text), highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """One line that must not be missed."""
        if self.console is not None:
            self.console.print(f"[yellow]warning:[/yellow] {escape(text)}", highlight=False, soft_wrap=True)

    def step(self, step: int, metrics: Mapping[str, float], tokens: int) -> None:
        """A step is done.

        Args:
            step: steps taken.
            metrics: its numbers.
            tokens: loss positions it learned from.
        """
        if self.console is None:
            return
        now = time.perf_counter()
        self._tokens += tokens
        spent = now - self._began
        left = spent / max(1, step - self.start) * (self.steps - step)
        numbers = f"loss {metrics['loss']:.4f} · {self._tokens / spent:,.0f} positions/s · {_clock(left)} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, numbers=numbers)
        elif now - self._last_line >= EVERY_SECONDS or step == self.steps:
            self._last_line = now
            self.say(f"{self.name}: step {step}/{self.steps} · {numbers}")

    def validation(self, step: int, values: Mapping[str, float], better: bool) -> None:
        """A validation is done."""
        shown = {name: value for name, value in values.items() if not name.startswith("share/")}
        parts = " · ".join(f"{name} {value:.4f}" for name, value in shown.items())
        self.say(f"{self.name}: step {step}: held out: {parts}{' · best so far' if better else ''}")

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Say what holds the next step up, and how long it took the last time.

        Args:
            what: in a word or two, such as ``validation``.
        """
        before = self._took.get(what)
        about = "" if before is None else f", about {duration(before)}"
        if self._bar is not None:
            self._bar.update(self._task, numbers=f"{what}{about} …", refresh=True)
        elif before is not None and before >= EVERY_SECONDS:
            self.say(f"{self.name}: {what}{about} …")
        began = time.perf_counter()
        yield
        self._took[what] = time.perf_counter() - began

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
