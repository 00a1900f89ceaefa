"""What is told of each task while several are trained together: its gradient, and early warnings.

A warning is told once, as soon as the numbers of ``metrics.jsonl`` show it, and follows from them alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

STARVED = 0.1
"""A task starves if it has less than this part of an equal share of what counts in the loss."""
_STEPS = 20
"""Steps that must have been taken before that is judged."""
EPOCHS = 4.0
"""Up to about so many readings of a text teach nearly as much as new text (Muennighoff et al. 2023, arXiv:2305.16264, §5)."""
WORSE = 0.02
"""By what share a held-out loss must have risen to be called worse."""


class Watch:
    """Looks at the lines of a run's metrics as they come.

    Args:
        tasks: their names.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        self.tasks = tasks
        self._told: set[tuple[str, str]] = set()
        self._steps = 0
        self._share: dict[str, float] = dict.fromkeys(tasks, 0.0)
        self._since: dict[str, list[float]] = {name: [] for name in tasks}
        self._held_out: dict[str, list[tuple[float, float]]] = {name: [] for name in tasks}

    def see(self, line: Mapping[str, Any]) -> list[str]:
        """Take in a line; what it shows for the first time, a sentence each."""
        held_out = line.get("validation")
        if isinstance(held_out, Mapping):
            return [text for name in self.tasks for text in self._validated(name, held_out)]
        if "loss" not in line:
            return []
        self._steps += 1
        return [text for name in self.tasks for text in self._stepped(name, line)]

    def _stepped(self, name: str, line: Mapping[str, Any]) -> list[str]:
        self._share[name] += float(line.get(f"share/{name}", 0.0))
        if f"loss/{name}" in line:
            self._since[name].append(float(line[f"loss/{name}"]))
        found = []
        share = self._share[name] / self._steps
        if self._steps >= _STEPS and share < STARVED / len(self.tasks):
            text = f"has {share:.2%} of what counts in the loss: raise its weight, or its share in data.mixture"
            found += self._once(name, "starves", text)
        if float(line.get(f"epochs/{name}", 0.0)) > EPOCHS:
            text = f"is read for more than the {EPOCHS:.0f}th time: give it less of the mixture, a limit on epochs, or more text"
            found += self._once(name, "is read again and again", text)
        return found

    def _validated(self, name: str, held_out: Mapping[str, Any]) -> list[str]:
        value = held_out.get(f"loss/{name}")
        if not isinstance(value, int | float):
            return []
        trained = self._since[name]
        past = self._held_out[name]
        past.append((float(value), sum(trained) / len(trained) if trained else float("nan")))
        self._since[name] = []
        best = min(range(len(past)), key=lambda i: past[i][0])
        found = []
        worse = past[-1][0] > past[best][0] * (1 + WORSE)
        if worse and len(past) - best > 2 and past[-2][0] > past[best][0] and past[-1][1] < past[best][1]:
            text = (
                f"over-fits: its held-out loss rose from {past[best][0]:.3f} to {past[-1][0]:.3f} while its training loss fell "
                f"from {past[best][1]:.3f} to {past[-1][1]:.3f}"
            )
            found += self._once(name, "over-fits", text)
        if past[-1][0] > past[0][0] * (1 + WORSE):
            text = f"is being forgotten: its held-out loss is {past[-1][0]:.3f} and was {past[0][0]:.3f} at the first validation"
            found += self._once(name, "is forgotten", text)
        return found

    def _once(self, name: str, kind: str, text: str) -> list[str]:
        if (name, kind) in self._told:
            return []
        self._told.add((name, kind))
        return [f"task '{name}' {text}"]
