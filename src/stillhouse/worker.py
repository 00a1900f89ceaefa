"""A model in a process of its own, whatever runs it: to test again what was exported, and to time it.

The process imports its runtime and nothing that the runtime does not need (torch only where torch is the runtime), so its peak
memory and the time it takes to load are what they will be for whoever uses the file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stillhouse.errors import RunError, StillhouseError, fail
from stillhouse.find import find


class Runtime(Protocol):
    """A loaded artefact: what each file in ``runtimes/`` returns."""

    def reset(self) -> None:
        """Forget what was fed: the next token is a text's first."""
        ...

    def feed(self, ids: list[int]) -> NDArray[np.float32]:
        """Go on with a text, keeping what was computed of it.

        Args:
            ids: the next tokens; of a classifier, a whole text.

        Returns:
            logits [P, V] of a language model, one row a token fed; [1, C] of a classifier.

        """
        ...

    def encode(self, text: str) -> list[int] | None:
        """Tokens by the artefact's own tokenizer; None if it has none."""
        ...


class Worker:
    """A process that holds one artefact and answers questions about it; a context manager.

    Args:
        runtime: name of a file in ``runtimes/``.
        path: the artefact.
        threads: for its arithmetic.

    Raises:
        RunError: the artefact cannot be loaded, or its process died.

    """

    def __init__(self, runtime: str, path: Path, threads: int) -> None:
        self.path = path
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 – lives as long as the process
        package = str(Path(__file__).parents[1])
        old = os.environ.get("PYTHONPATH")
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([package, *([old] if old else [])]),
            "OMP_NUM_THREADS": str(threads),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "stillhouse.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
        )
        try:
            self.loaded = self.ask("load", runtime=runtime, path=str(path), threads=threads)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def ask(self, do: str, **what: Any) -> dict[str, Any]:
        """Send one question and wait for its answer; see ``_Desk`` for what can be asked.

        Raises:
            RunError: the runtime refused, or its process died.

        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **what}).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            code = self._process.wait()
            self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - 2000))
            last = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
            what_came = f"the process that ran it ended with {code}: {' '.join(last) or 'it said nothing'}"
            raise fail(RunError, str(self.path), what_came)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise fail(RunError, str(self.path), answer["error"])
        return answer

    def logits(self, ids: list[int]) -> NDArray[np.float32]:
        """Logits of a text from its beginning: [P, V], or [1, C] of a classifier."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "logits.npy"
            self.ask("logits", ids=ids, out=str(file))
            found: NDArray[np.float32] = np.load(file)
            return found

    def greedy(self, ids: list[int], tokens: int) -> list[int]:
        """The likeliest continuation of a text, so many tokens of it."""
        written: list[int] = self.ask("greedy", ids=ids, tokens=tokens)["tokens"]
        return written


class _Desk:
    """The other side: answers in the worker's process."""

    def __init__(self) -> None:
        self.runtime: Runtime | None = None

    def load(self, runtime: str, path: str, threads: int) -> dict[str, Any]:
        """Import this package, then the runtime, and load the artefact: seconds and memory of the first and of all else."""
        began = time.perf_counter()
        function = find("runtime", runtime)
        imported = time.perf_counter()
        base = peak_memory()
        self.runtime = function(Path(path), threads)
        return {
            "import_seconds": imported - began,
            "load_seconds": time.perf_counter() - imported,
            "import_bytes": base,
            "load_bytes": peak_memory(),
        }

    def logits(self, ids: list[int], out: str) -> dict[str, Any]:
        """Logits of a whole text, into a file."""
        assert self.runtime is not None
        self.runtime.reset()
        np.save(out, self.runtime.feed(ids))
        return {}

    def greedy(self, ids: list[int], tokens: int) -> dict[str, Any]:
        """The likeliest continuation."""
        assert self.runtime is not None
        self.runtime.reset()
        written: list[int] = []
        fed = ids
        for _ in range(tokens):
            written.append(int(self.runtime.feed(fed)[-1].argmax()))
            fed = written[-1:]
        return {"tokens": written}

    def encode(self, text: str) -> dict[str, Any]:
        """Tokens of a text."""
        assert self.runtime is not None
        return {"ids": self.runtime.encode(text)}

    def time(self, ids: list[int], tokens: int) -> dict[str, Any]:
        """Seconds of reading a prompt, and of each token after it; and seconds of this process's CPU for both."""
        assert self.runtime is not None
        self.runtime.reset()
        began, worked = time.perf_counter(), time.process_time()
        token = int(self.runtime.feed(ids)[-1].argmax())
        read, worked_then = time.perf_counter(), time.process_time()
        steps = []
        for _ in range(tokens):
            before = time.perf_counter()
            token = int(self.runtime.feed([token])[-1].argmax())
            steps.append(time.perf_counter() - before)
        return {
            "prefill": read - began,
            "steps": steps,
            "prefill_cpu": worked_then - worked,
            "steps_cpu": time.process_time() - worked_then,
            "peak": peak_memory(),
        }

    def parts(self, ids: list[int], tokens: int) -> dict[str, Any]:
        """Seconds of each token by part of the model, where the runtime can tell (``timed_parts``); else nothing."""
        split = getattr(self.runtime, "timed_parts", None)
        return {"parts": split(ids, tokens) if split else None}

    def batch(self, ids: list[int], count: int, tokens: int) -> dict[str, Any]:
        """Seconds of each step in which so many texts grow by a token, where the runtime can (``timed_batch``); else nothing."""
        write = getattr(self.runtime, "timed_batch", None)
        return {"steps": write(ids, count, tokens) if write else None}

    def peak(self) -> dict[str, Any]:
        """The most memory held so far, bytes; where the model is in another process than this, that one's."""
        elsewhere = getattr(self.runtime, "peak_bytes", None)
        return {"bytes": elsewhere() if elsewhere else peak_memory()}


def peak_memory(process: int | str = "self") -> int:
    """Most memory that a process held so far, bytes.

    Not ``ru_maxrss`` on Linux: that begins with what the parent held when it started the process.

    Args:
        process: its number, on Linux; this one without.

    """
    try:
        for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    """Answer questions, a line each, until there are no more."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a runtime prints must not be taken for an answer
    desk = _Desk()
    for line in sys.stdin.buffer:
        question = json.loads(line)
        try:
            answer = getattr(desk, question.pop("do"))(**question)
        except StillhouseError as error:
            answer = {"error": str(error)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
