"""What surrounds the loop while it runs: how it is stopped, and in which order sums are taken."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
import torch.utils.deterministic

from stillhouse.errors import RunError


class InterruptedRunError(RunError):
    """The run was asked to stop, finished its step and saved it. The command line exits with ``exit_code``."""

    exit_code = 130


@dataclass
class Stop:
    """Whether the user asked to stop."""

    asked: bool = False


@contextlib.contextmanager
def listening(main: bool) -> Iterator[Stop]:
    """While inside, the first SIGINT or SIGTERM asks to stop after the step; a second one acts as it always does."""
    stop = Stop()
    before: dict[signal.Signals, Any] = {}

    def ask(number: int, _frame: FrameType | None) -> None:
        stop.asked = True
        signal.signal(number, before[signal.Signals(number)])
        if main:
            os.write(2, b"\nFinishing this step, then saving. Once more stops at once.\n")

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.getsignal(number)
            signal.signal(number, ask)
    except ValueError:  # not the main thread: whoever runs us listens
        before.clear()
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """While inside, the CPU's sums are taken in one order. CUDA has no such order for every kernel, and is left alone."""
    if device.type != "cpu":
        yield
        return
    was = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    switches: Any = torch.utils.deterministic
    filled = switches.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    switches.fill_uninitialized_memory = False  # a debugging aid that costs a pass over each buffer
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was[0], warn_only=was[1])
        switches.fill_uninitialized_memory = filled
