"""onnxruntime-web in a headless Chromium, which is spoken to through its DevTools pipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillhouse.errors import RunError, fail
from stillhouse.running import browser_program
from stillhouse.worker import Runtime, peak_memory

_LAUNCH = "import os,sys;os.dup2(int(sys.argv[1]),3);os.dup2(int(sys.argv[2]),4);os.execvp(sys.argv[3],sys.argv[3:])"
"""Chromium reads from file 3 and writes to file 4, and ends when they are closed: also when this process is killed."""

_LOADED = """new Promise((loaded, broken) => { const look = () =>
    window.model ? loaded(true) : window.broken ? broken(window.broken) : setTimeout(look, 10); look(); })"""
"""When the page has loaded its model, or said why it cannot."""


def browser(path: Path, threads: int) -> Runtime:  # noqa: ARG001 – the page has one
    """A folder that the export for the web wrote, served on this machine and opened in Chromium."""
    return _Browser(path)


class _Quiet(SimpleHTTPRequestHandler):
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript", ".wasm": "application/wasm"}

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class _Browser:
    def __init__(self, path: Path) -> None:
        program = browser_program()
        if program is None:
            raise fail(RunError, str(path), "needs Chromium or Chrome to be run", "Install one of them.")
        self.profile = tempfile.TemporaryDirectory()
        self._start(program)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(path)))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.asked = 0
        page = f"http://127.0.0.1:{self.server.server_address[1]}/index.html"
        target = self._tell("Target.createTarget", url=page)["targetId"]
        self.session = self._tell("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        while not self._run("location.protocol === 'http:' && document.readyState === 'complete'"):
            time.sleep(0.02)
        self._run(_LOADED)

    def _start(self, program: str) -> None:
        import fcntl  # not on Windows

        reads, given = os.pipe()
        answers, writes = os.pipe()
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (reads, writes)]
        flags = [
            "--headless",
            "--disable-gpu",
            "--no-first-run",
            "--remote-debugging-pipe",
            f"--user-data-dir={self.profile.name}",
        ]
        flags += ["--no-sandbox"] if os.geteuid() == 0 else []
        command = [sys.executable, "-c", _LAUNCH, *map(str, high), program, *flags]
        self.process = subprocess.Popen(command, pass_fds=high, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for end in (reads, writes, *high):
            os.close(end)
        self.give, self.take = os.fdopen(given, "wb", 0), os.fdopen(answers, "rb")

    def _tell(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """One command of the DevTools protocol, and its answer."""
        self.asked += 1
        message = {"id": self.asked, "method": method, "params": parameters} | (
            {"sessionId": session} if session else {}
        )
        self.give.write(json.dumps(message).encode() + b"\0")
        while True:
            said = bytearray()
            while not said.endswith(b"\0"):
                byte = self.take.read(1)
                if not byte:
                    raise fail(RunError, "chromium", f"ended with {self.process.wait()}")
                said += byte
            answer = json.loads(said[:-1])
            if answer.get("id") != self.asked:
                continue  # an event
            if "error" in answer:
                raise fail(RunError, "chromium", f"{method}: {answer['error']['message']}")
            result: dict[str, Any] = answer["result"]
            return result

    def _run(self, expression: str) -> Any:
        """The value of an expression in the page, waited for."""
        told = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        answer = self._tell("Runtime.evaluate", self.session, **told)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            said = details.get("exception", {}).get("description") or details["text"]
            raise fail(RunError, "the page", said.splitlines()[0])
        return answer["result"].get("value")

    def reset(self) -> None:
        """Nothing is kept of a text."""

    def feed(self, ids: list[int]) -> NDArray[np.float32]:
        return np.array([self._run(f"model.logits({json.dumps(ids)})")], np.float32)

    def encode(self, text: str) -> list[int] | None:
        found: list[int] = self._run(f"model.encode({json.dumps(text)}, false)")
        return found

    def peak_bytes(self) -> int:
        """Most memory that the page's process held."""
        processes = self._tell("SystemInfo.getProcessInfo")["processInfo"]
        return max(peak_memory(each["id"]) for each in processes if each["type"] == "renderer")
