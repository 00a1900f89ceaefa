"""Serve: hand a run's student to an existing engine that answers as OpenAI's servers do.

Stillhouse writes no server of its own: it chooses the file and the engine, says what it runs and how to call it, and waits.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from stillhouse.errors import RunError, did_you_mean, fail
from stillhouse.files import read_json
from stillhouse.find import find, names
from stillhouse.progress import timed

_F = TypeVar("_F", bound=Callable[..., Any])

PATIENCE = 600.0
"""Seconds that an engine may take to be ready."""


@dataclass(frozen=True)
class Order:
    """What an engine is asked to serve.

    Args:
        path: the file or folder, absolute.
        name: what clients call the model.
        host: to listen on.
        port: likewise.
        context: tokens that a request and its answer may have together.
        threads: CPU threads; the engine's own choice if None.
    """

    path: Path
    name: str
    host: str
    port: int
    context: int
    threads: int | None


@dataclass(frozen=True)
class Served:
    """A server to be, or that is.

    Args:
        artefact: which file of the run.
        engine: which engine.
        command: what is run.
        url: of the OpenAI-compatible endpoint.
        model: what clients call the model.
    """

    artefact: str
    engine: str
    command: tuple[str, ...]
    url: str
    model: str

    @property
    def call(self) -> str:
        """A command that asks it something."""
        body = json.dumps({"model": self.model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 32})
        return f"curl {self.url}/chat/completions -H 'Content-Type: application/json' -d {shlex.quote(body)}"


def engine_of(*, form: str, packages: tuple[str, ...], install: str) -> Callable[[_F], _F]:
    """Mark an engine: a function that makes the arguments of Python of an ``Order``.

    Args:
        form: the export format that it serves.
        packages: what must be importable for it.
        install: the line that installs it.
    """

    def mark(function: _F) -> _F:
        for name, value in (("form", form), ("packages", packages), ("install", install)):
            setattr(function, name, value)
        return function

    return mark


def plan(
    run: str | Path,
    *,
    artefact: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8080,
    context: int = 2048,
    threads: int | None = None,
    python: str | None = None,
    extra: Sequence[str] = (),
) -> Served:
    """Choose a file of a run and the engine for it; starts nothing.

    Args:
        run: a run's folder.
        artefact: which file, such as ``gguf-q8_0``; the first for which an engine is installed if not given.
        host: to listen on.
        port: likewise.
        context: tokens that a request and its answer may have together; what the model can read, if that is less.
        threads: CPU threads; the engine's own choice if not given.
        python: the Python that has the engine; this one if not given.
        extra: further arguments for the engine.

    Raises:
        RunError: there is no such run or file, no engine serves it, or the engine is not installed.
    """
    folder = Path(run)
    config = folder / "student" / "config.json"
    if not config.is_file():
        raise fail(RunError, str(folder), "holds no finished student", "Finish it: stillhouse run <its recipe>.")
    shape = json.loads(config.read_text(encoding="utf-8"))
    if any(name.endswith("ForSequenceClassification") for name in shape.get("architectures") or []):
        what = "is a classifier, and chat servers write text"
        raise fail(RunError, str(folder), what, "Run its ONNX file with ONNX Runtime: see docs/deploy.md.")
    there = _artefacts(folder)
    if artefact is not None and artefact not in there:
        raise fail(RunError, "--artefact", f"there is no '{artefact}' in {folder}", did_you_mean(artefact, there))
    python = python or sys.executable
    engines = {find("engine", name).form: name for name in names("engine")}  # type: ignore[attr-defined]
    lacking = []
    for name in there if artefact is None else [artefact]:
        form, path = there[name]
        if form not in engines:
            lacking.append(f"{name}: no engine here serves {form} files over HTTP")
            continue
        engine: Any = find("engine", engines[form])
        missing = _missing(python, engine.packages)
        if missing:
            lacking.append(f"{name}: {engines[form]} is not there ({', '.join(missing)}): {engine.install}")
            continue
        most = int(shape.get("max_position_embeddings") or context)
        model = folder.resolve().name
        order = Order(path.resolve(), model, host, port, min(context, most), threads)
        shown = host if host not in ("0.0.0.0", "::") else "127.0.0.1"
        command = (python, *engine(order), *extra)
        return Served(name, engines[form], command, f"http://{shown}:{port}/v1", model)
    ways = "\n      ".join(lacking)
    served = ", ".join(sorted(engines))
    way_out = f"One of these is enough:\n      {ways}\n      Formats that can be served: {served} (export.formats)."
    raise fail(RunError, str(folder), "no engine is installed for any of its files", way_out)


def _artefacts(folder: Path) -> dict[str, tuple[str, Path]]:
    """Name → format and path of each file that was written and is there; GGUF files first, then the student's own folder."""
    found = {}
    for record in read_json(folder / "exports.json", []):
        if record["name"] != "hf" and "refused" not in record and (folder / record["path"]).exists():
            found[record["name"]] = (record["format"], folder / record["path"])
    found["student"] = ("hf", folder / "student")
    order = {"gguf": 0, "hf": 1}
    return dict(sorted(found.items(), key=lambda item: order.get(item[1][0], 2)))


def _missing(python: str, packages: Sequence[str]) -> list[str]:
    """Which packages a Python cannot import; they are looked for and not imported."""
    look = "import importlib.util as u, sys; print(*[p for p in sys.argv[1:] if u.find_spec(p) is None])"
    try:
        said = subprocess.run([python, "-c", look, *packages], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise fail(RunError, "--python", f"'{python}' does not run: {error}", "Give the path of a Python.") from None
    return said.split()


@contextmanager
def serving(planned: Served, console: Console | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """The engine, started and ready; it ends with the ``with`` block.

    Args:
        planned: what ``plan`` chose.
        console: where to show how long it takes.

    Raises:
        RunError: the port is taken, or the engine ended or was not ready in ``PATIENCE`` seconds.
    """
    host, port = planned.url.removeprefix("http://").removesuffix("/v1").rsplit(":", 1)
    with socket.socket() as probe:
        if probe.connect_ex((host, int(port))) == 0:
            what = f"something listens on port {port} already"
            raise fail(RunError, "--port", what, "Give another: --port 8081.")
    environment = os.environ | {"VLLM_NO_USAGE_STATS": "1"}
    process = subprocess.Popen(planned.command, env=environment)
    try:
        with timed(console, f"Starting {planned.engine}"):
            began = time.monotonic()
            while not _answers(planned.url):
                code = process.poll()
                if code is not None:
                    what = f"{planned.engine} ended with {code} before it answered; what it said stands above"
                    raise fail(RunError, planned.artefact, what)
                if time.monotonic() - began > PATIENCE:
                    raise fail(RunError, planned.artefact, f"{planned.engine} was not ready in {PATIENCE:.0f} seconds")
                time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/models", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def serve(planned: Served, console: Console) -> int:
    """Start the engine, say how to call it, and wait until it ends or is interrupted.

    Returns:
        its exit code; 0 where the user ended it.

    Raises:
        RunError: it did not start.
    """

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    say(f"Serving {planned.artefact} with {planned.engine}. It runs:\n  {shlex.join(planned.command)}")
    with contextlib.suppress(KeyboardInterrupt), serving(planned, console) as process:
        say(f"Ready: {planned.url} (OpenAI-compatible). Ask it something, or end it with Ctrl-C:\n  {planned.call}")
        return process.wait()
    return 0
