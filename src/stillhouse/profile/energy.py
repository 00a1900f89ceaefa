"""Energy: what the processor's own counter says, or an assumed power, and never one taken for the other."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from stillhouse.profile.timed import Timed

POWERCAP = Path("/sys/class/powercap")
"""Where Linux shows the counters that Intel's and AMD's processors keep (RAPL)."""

IDLE_SECONDS = 1.0


@dataclass
class Counter:
    """Joules that the processor's packages have used, all programs together.

    Args:
        zones: folders of the packages.
        last: microjoules of each when it was read last.
        joules: since it was opened; a counter that began again at zero is followed.
    """

    zones: list[Path]
    last: dict[Path, int] = field(default_factory=dict)
    joules: float = 0.0

    def read(self) -> float:
        """Joules since it was opened."""
        for zone in self.zones:
            now = int((zone / "energy_uj").read_text(encoding="ascii"))
            gone = now - self.last.get(zone, now)
            if gone < 0:
                gone += int((zone / "max_energy_range_uj").read_text(encoding="ascii"))
            self.last[zone] = now
            self.joules += 1e-6 * gone
        return self.joules


def counter(root: Path = POWERCAP) -> tuple[Counter | None, str]:
    """The packages' counters, and in words why there are none (a virtual machine has none; some systems keep them for root)."""
    zones = []
    for name in sorted(root.glob("intel-rapl:*/name")):
        if name.read_text(encoding="ascii").startswith(("package", "psys")):
            zones.append(name.parent)
    packages = [z for z in zones if (z / "name").read_text(encoding="ascii").startswith("package")] or zones
    if not packages:
        return None, "no energy counter here (RAPL), and no --watts given"
    found = Counter(packages)
    try:
        found.read()
    except (OSError, ValueError):
        return None, "the energy counter (RAPL) may be read by root only, and no --watts given"
    return found, ""


class Meter:
    """The power of each model while it has its turn.

    Args:
        watts: an assumed power; the counter if None.
        root: where the counters lie.
    """

    def __init__(self, watts: float | None, root: Path = POWERCAP) -> None:
        self.watts = watts
        self.counter, self.why = (None, "") if watts is not None else counter(root)
        self.idle = 0.0
        self.spent: dict[str, list[tuple[float, float]]] = {}
        if self.counter is not None:
            before, began = self.counter.read(), time.monotonic()
            time.sleep(IDLE_SECONDS)
            self.idle = (self.counter.read() - before) / (time.monotonic() - began)

    def begin(self) -> None:
        """A turn begins."""
        self._began = time.monotonic()
        self._joules = self.counter.read() if self.counter else 0.0

    def end(self, name: str) -> None:
        """A model's turn ends."""
        if self.counter is not None:
            turn = (self.counter.read() - self._joules, time.monotonic() - self._began)
            self.spent.setdefault(name, []).append(turn)

    def of(self, row: Timed) -> dict[str, object]:
        """Joules of a token (of a classifier: of an answer) and of a request, with where they come from; or why there are none."""
        watts = self.watts
        source = f"estimated: {watts:g} W assumed while it works (--watts)" if watts is not None else self.why
        if self.counter is not None and row.name in self.spent:
            joules, seconds = (sum(values) for values in zip(*self.spent[row.name], strict=True))
            watts = max(0.0, joules / seconds - self.idle)
            source = f"measured: RAPL, all of the processor, {self.idle:.1f} W of idling taken off"
        if watts is None or not row.prefill:
            return {"joules": None, "request": None, "watts": None, "source": source}
        answers = row.steps or row.prefill
        request = (sum(row.prefill) + sum(row.steps)) / len(row.prefill)
        return {
            "joules": watts * sum(answers) / len(answers),
            "request": watts * request,
            "watts": watts,
            "source": source,
        }
