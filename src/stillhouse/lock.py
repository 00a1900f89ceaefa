"""One run in a folder at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stillhouse.errors import RunError, fail

_held: dict[Path, int] = {}
"""Folders this process has locked → how many times."""


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes; the same process may take it again.

    The operating system drops the lock when the process ends, however it ends: a stale lock cannot be.

    Raises:
        RunError: another process holds it (names its process id), or the folder cannot be made.
    """
    path = (folder / ".lock").resolve()
    if path in _held:
        _held[path] += 1
        try:
            yield
        finally:
            _held[path] -= 1
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise fail(
            RunError, str(folder), f"cannot be used: {error.strerror}", "Give this run another folder: run: <folder>."
        ) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 64, 0).decode(errors="replace").strip() or "unknown"
            raise fail(
                RunError,
                str(folder),
                f"another run is at work in this folder (process {holder})",
                "Wait for it, stop it, or give this run its own folder: run: <folder>.",
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        _held[path] = 1
        try:
            yield
        finally:
            del _held[path]
    finally:
        os.close(handle)  # which drops the lock
