"""JSON over HTTP to a server that is slow, limited and sometimes away: patience, pace, budgets, and a memory.

Only the standard library is used. The key is read from the environment when a request is sent; it is kept nowhere, redirects
(which could carry it elsewhere) are not followed, and whatever a server says is cleaned of it before it is shown.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar

from stillhouse.errors import RecipeError, RunError, fail

AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
"""Statuses of a server that may answer later."""

LONGEST_WAIT = 600.0
"""Seconds. A server that asks for more patience than this is not waited for."""

_FIRST_WAIT, _USUAL_WAIT = 0.5, 60.0
_T = TypeVar("_T")
_R = TypeVar("_R")


class Stopped(Exception):  # noqa: N818 (it is no error of its own: another request's failure ends this one)
    """Another of the requests failed for good."""


class Client:
    """Posts JSON to one server from several threads.

    Args:
        url: of the server, with or without the last ``/v1``.
        where: the recipe key to name in errors.
        key_env: name of the environment variable that holds the key, if the server wants one.
        concurrency: requests under way at a time.
        requests_per_minute: at most; tries that failed count. None for no limit.
        max_requests: budget; tries that failed count. None for no limit.
        max_tokens: budget, of prompts and answers together. None for no limit.
        timeout: seconds that an answer may take.
        retries: how often a request is sent again after a timeout, a lost connection or a status in ``AGAIN``.
        keeps: says what is kept, for the errors that end the work.

    Raises:
        RecipeError: an option that cannot be used.

    """

    def __init__(
        self,
        url: str,
        *,
        where: str = "teacher",
        key_env: str | None = None,
        concurrency: int = 8,
        requests_per_minute: float | None = None,
        max_requests: int | None = None,
        max_tokens: int | None = None,
        timeout: float = 120.0,
        retries: int = 6,
        keeps: Callable[[], str] = lambda: "",
    ) -> None:
        self.where, self.keeps = where, keeps
        self.url = _base(url, where)
        if key_env is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key_env):
            # Somebody may have written the key itself there: what came is not shown.
            way_out = "Put the key into an environment variable and name that: key_env: OPENAI_API_KEY."
            raise fail(RecipeError, f"{where}.key_env", "is not the name of an environment variable", way_out)
        limits = {"requests_per_minute": requests_per_minute, "timeout": timeout}
        counts = {"concurrency": concurrency, "max_requests": max_requests, "max_tokens": max_tokens}
        for name, value in (limits | counts).items():
            if value is not None and (value < 1 if name in counts else value <= 0):
                raise fail(
                    RecipeError,
                    f"{where}.{name}",
                    f"is {value}, but must be {'1 or more' if name in counts else 'above 0'}",
                )
        if retries < 0:
            raise fail(RecipeError, f"{where}.retries", f"is {retries}, but must be 0 or more")
        self.key_env, self.concurrency = key_env, concurrency
        self.max_requests, self.max_tokens = max_requests, max_tokens
        self.timeout, self.retries = timeout, retries
        self.requests = self.tokens = 0
        self._interval = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._next = 0.0  # when the next request may be sent, of time.monotonic()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._random = random.Random()
        self._open = urllib.request.build_opener(_NoRedirect).open

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def post(self, path: str, body: dict[str, Any], *, tokens: int, hint: str = "") -> dict[str, Any]:
        """Send a request, again where that may help, and return the answer.

        Args:
            path: below ``/v1``, such as ``completions``.
            body: what is sent.
            tokens: of prompt and answer at most, for the budget.
            hint: what to do if the server says that the request is wrong.

        Raises:
            RunError: a budget is spent, the server refuses, or it does not answer after all retries; says what is kept.
            Stopped: another thread's request failed for good.

        """
        content = json.dumps(body).encode()
        for attempt in range(self.retries + 1):
            self._wait_for_turn(tokens)
            try:
                return self._send(path, content)
            except _Again as again:
                with self._lock:
                    self.tokens -= tokens  # nothing was read or written for it
                pause = again.after
                if pause is None:
                    longest = min(_USUAL_WAIT, _FIRST_WAIT * 2**attempt)
                    pause = longest * (0.5 + 0.5 * self._random.random())
                if attempt == self.retries:
                    what = f"does not answer: {again.what}, {attempt + 1} time{'s' if attempt else ''}"
                    raise self._failure(what, "See whether the server runs and how much it allows.") from None
                if pause > LONGEST_WAIT:
                    what = f"asks to wait {pause:,.0f} seconds ({again.what})"
                    raise self._failure(what, "Start again then, or lower requests_per_minute.") from None
                if again.after is not None:
                    with self._lock:  # the server means all requests
                        self._next = max(self._next, time.monotonic() + pause)
                self._sleep(pause)
            except _Refused as refused:
                with self._lock:
                    self.tokens -= tokens
                raise self._failure(*self._explain(refused, hint)) from None
        raise AssertionError("every attempt returns, waits or raises")

    def map(self, work: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
        """Work on all items, as many at a time as the server is to see; in their order.

        The first failure ends it: what waits is not started, what is under way comes to its end.
        """
        self._stop = stop = threading.Event()

        def guarded(item: _T) -> _R:
            if stop.is_set():
                raise Stopped
            try:
                return work(item)
            except BaseException:
                stop.set()  # at once, before this thread takes the next item
                raise

        with ThreadPoolExecutor(self.concurrency, thread_name_prefix="served") as pool:
            futures = [pool.submit(guarded, item) for item in items]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            except BaseException:  # an interrupt of the waiting thread
                stop.set()
                raise
        for future in futures:
            error = future.exception()
            if error is not None and not isinstance(error, Stopped):
                raise error
        return [future.result() for future in futures]

    def _wait_for_turn(self, tokens: int) -> None:
        """Take from the budgets, and wait until the pace allows one more."""
        with self._lock:
            for name, spent, more in (("max_requests", self.requests, 1), ("max_tokens", self.tokens, tokens)):
                most = getattr(self, name)
                if most is not None and spent + more > most:
                    what = f"the budget of {most:,} {name[4:]} is spent: {spent:,} so far, and {more:,} more are needed"
                    raise self._failure(what, f"Raise {self.where}.{name} to go on.", f"{self.where}.{name}")
            self.requests += 1
            self.tokens += tokens
            at = max(time.monotonic(), self._next)
            self._next = at + self._interval
        self._sleep(at - time.monotonic())

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(max(seconds, 0.0)):
            raise Stopped

    def _send(self, path: str, content: bytes) -> dict[str, Any]:
        request = urllib.request.Request(f"{self.url}/{path}", content, {"Content-Type": "application/json"})
        key = self._key()
        if key:
            request.add_unredirected_header("Authorization", f"Bearer {key}")
        deadline = time.monotonic() + self.timeout
        try:
            with self._open(request, timeout=self.timeout) as answer:
                found = json.loads(_read(answer, deadline))
        except urllib.error.HTTPError as error:
            with error:
                says = _words(error, deadline, key)
                if error.code in AGAIN:
                    after = _seconds(error.headers.get("Retry-After"))
                    raise _Again(f"status {error.code}{f' ({says})' if says else ''}", after) from None
                raise _Refused(error.code, says) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            # URLError and timeouts are OSErrors; an answer that was cut short is no JSON
            reason = getattr(error, "reason", None) or error
            raise _Again(_clean(f"{type(reason).__name__}: {reason}", key)) from None
        if not isinstance(found, dict):
            raise _Again(f"its answer is a {type(found).__name__}, not an object")
        return found

    def _key(self) -> str:
        """The key as it is in the environment now."""
        if self.key_env is None:
            return ""
        key = os.environ.get(self.key_env, "").strip()
        if not key:
            raise self._failure(f"the environment variable {self.key_env} is empty", f"export {self.key_env}=…")
        if not (key.isascii() and key.isprintable()):  # the HTTP library would quote it in its error
            raise self._failure(f"what {self.key_env} holds cannot be sent in a header", "Copy the key again.")
        return key

    def _explain(self, refused: _Refused, hint: str) -> tuple[str, str]:
        says = f": {refused.says}" if refused.says else ""
        what = f"refuses with status {refused.status}{says}"
        if refused.status in (401, 403):
            named = f"Put a valid key into {self.key_env}." if self.key_env else "Name the key's variable: key_env: …"
            return what, named
        if 300 <= refused.status < 400:
            return f"answers with a redirect (status {refused.status}), which is not followed", "Give the final url."
        if refused.status in (404, 405):
            return what, "Check url and model: GET /v1/models lists what the server has."
        return what, hint

    def _failure(self, what: str, way_out: str = "", where: str = "") -> RunError:
        kept = self.keeps()
        return fail(RunError, where or f"{self.where} ({self.url})", f"{what}. {kept}" if kept else what, way_out)


class Kept:
    """Answers that were given, on disk: nothing is asked or paid for twice.

    A folder of JSON lines, one file for each process that wrote there, which only ever grows: a line that a crash cut short,
    or that a disk damaged, is as if it had not been written. The folder may be deleted any time.

    Args:
        folder: where.

    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._places: dict[str, list[tuple[Path, int]]] = {}  # several where an earlier one was damaged
        self._file: Any = None
        for path in sorted(folder.glob("*.jsonl")):
            offset = 0
            with path.open("rb") as file:
                for line in file:
                    if line.startswith(b'{"key":"') and line.endswith(b"}\n"):
                        self._places.setdefault(line[8:72].decode("ascii", "replace"), []).append((path, offset))
                    offset += len(line)

    def __len__(self) -> int:
        return len(self._places)

    def get(self, key: str) -> Any:
        """The answer under a key (64 hexadecimal digits); None if there is none, or no whole one."""
        for path, offset in self._places.get(key, ()):
            try:
                with path.open("rb") as file:
                    file.seek(offset)
                    line = json.loads(file.readline())
                if line["key"] == key and line["crc"] == _crc(line["answer"]):
                    return line["answer"]
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return None

    def put(self, key: str, answer: Any) -> None:
        """Keep an answer.

        Raises:
            RunError: the folder cannot be written to.

        """
        line = json.dumps({"key": key, "crc": _crc(answer), "answer": answer}, separators=(",", ":")) + "\n"
        with self._lock:
            try:
                if self._file is None:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    path = self.folder / f"{uuid.uuid4().hex[:16]}.jsonl"
                    self._file = path.open("ab")
                offset = self._file.tell()
                self._file.write(line.encode())
                self._file.flush()
            except OSError as error:
                way_out = "Make room, or give another folder: keep: …"
                raise fail(RunError, str(self.folder), f"cannot be written: {error.strerror}", way_out) from None
            self._places.setdefault(key, []).append((Path(self._file.name), offset))

    def words(self) -> str:
        """What is kept, as a sentence."""
        count = len(self)
        if not count:
            return ""
        return f"{count:,} answer{'s are' if count > 1 else ' is'} kept in {self.folder}; the same command goes on from there"


class _Again(Exception):  # noqa: N818
    """What may go better next time."""

    def __init__(self, what: str, after: float | None = None) -> None:
        self.what, self.after = what, after
        super().__init__(what)


class _Refused(Exception):  # noqa: N818
    """What will not."""

    def __init__(self, status: int, says: str) -> None:
        self.status, self.says = status, says
        super().__init__(says)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """None: the redirect becomes an error."""


def _base(url: str, where: str) -> str:
    """The address up to ``/v1``."""
    try:
        parts = urllib.parse.urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and not parts.fragment
        secret = bool(parts.username or parts.password)
    except ValueError:
        good, secret = False, "@" in url
    if secret:  # it would be written into logs and the run's recipe; what came is not shown
        way_out = "Leave it out, and name the environment variable of the key: key_env: …"
        raise fail(RecipeError, f"{where}.url", "carries a name or password", way_out)
    if not good:
        raise fail(RecipeError, f"{where}.url", f"'{url}' is no address of a server", "Write http://host:port/v1.")
    base = url.rstrip("/")
    return base if parts.path.strip("/") else f"{base}/v1"


def _read(answer: Any, deadline: float) -> bytes:
    """All of an answer, unless it drips in for longer than it may take."""
    parts = []
    while part := answer.read1(1 << 20):
        parts.append(part)
        if time.monotonic() > deadline:
            raise TimeoutError("the answer was not whole in time")
    if answer.length:  # what was announced and did not come
        raise http.client.IncompleteRead(b"", answer.length)
    return b"".join(parts)


def _words(error: urllib.error.HTTPError, deadline: float, key: str) -> str:
    """What the server says of a failure, in a line without the key."""
    try:
        text = _clean(_read(error, deadline).decode("utf-8", "replace"), key)
    except (OSError, http.client.HTTPException, AttributeError):
        return ""
    try:
        found = json.loads(text)
        inner = found.get("error", found)
        said = inner.get("message", text) if isinstance(inner, dict) else inner
    except (ValueError, AttributeError):
        said = text
    return _clean(" ".join(str(said).split()), key)[:300]


def _clean(text: str, key: str) -> str:
    return text.replace(key, "•••") if key else text


def _seconds(retry_after: str | None) -> float | None:
    """A Retry-After header: seconds, or a date."""
    if not retry_after:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _crc(answer: Any) -> int:
    return zlib.crc32(json.dumps(answer, sort_keys=True, separators=(",", ":")).encode())
