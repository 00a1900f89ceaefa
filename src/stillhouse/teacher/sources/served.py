"""A model behind a server."""

from __future__ import annotations

import base64
import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from stillhouse import recipe
from stillhouse.errors import ModelError, RecipeError, RunError, fail
from stillhouse.files import cache_folder, sha256_text
from stillhouse.models import Model
from stillhouse.teacher import Teacher, load
from stillhouse.teacher.client import Client, Kept
from stillhouse.types import Batch, Signal
from stillhouse.writing import Answer, Ask

PROBE = (
    "Once upon a time there was a king who had three daughters. The first daughter was wise, the second daughter was brave, "
    "and the third daughter"
)
"""What a server is tried with: English that any tokenizer has tokens for, and whose next words differ from place to place."""

_PROBE_KEY = sha256_text("probe", PROBE)
_CLOSE = 0.1
"""Nats, on average: what the same log-probability may differ by when it is asked for in two ways (bfloat16, other kernels)."""

_TINY = 2.0**-23
"""Of the probability that is left over, if any outcome is: the rounding of a sum of float32."""

_LOGPROBS_HINT = "See the server's words; vLLM allows k log-probabilities if started with --max-logprobs k."


def served(
    *,
    url: str,
    model: str,
    like: str,
    k: int = 64,
    key_env: str | None = None,
    text_only: bool = False,
    chat: bool | None = None,
    concurrency: int = 8,
    requests_per_minute: float | None = None,
    max_requests: int | None = None,
    max_tokens: int | None = None,
    timeout: float = 120.0,
    retries: int = 6,
    keep: str | None = None,
    empty: bool = False,
) -> Teacher:
    """A model behind an OpenAI-compatible server that gives prompt log-probabilities by token id, as vLLM does.

    Each document is one request to /v1/completions: token ids in, the k likeliest outcomes of each position out, with the
    probability that they leave over. Before anything is asked for, the server is probed: one whose log-probabilities are
    keyed by text, shifted, not normalised or of another vocabulary is refused. Answers are kept and never asked for twice.

    Args:
        url: of the server, such as http://127.0.0.1:8000/v1.
        model: what the server calls it.
        like: a folder, hub id, .gguf file or pkg:NAME with the model's own tokenizer and configuration; no weights are read.
        k: log-probabilities of a position; the server must allow as many (vLLM: --max-logprobs).
        key_env: name of the environment variable that holds the key, if the server wants one.
        text_only: the server writes text and gives no log-probabilities: good for the data source `written` alone.
        chat: write through /v1/chat/completions; if not given, where the tokenizer has a chat template.
        concurrency: requests under way at a time.
        requests_per_minute: at most.
        max_requests: stop after so many in one sitting; repeated ones count.
        max_tokens: stop after so many, of prompts and answers together, in one sitting.
        timeout: seconds that an answer may take.
        retries: how often a request is sent again when the server is busy or away.
        keep: folder of the answers; one in the user's cache if not given.
        empty: do not look whether the server is there.

    """
    if k < 1:
        raise fail(RecipeError, "teacher.k", f"is {k}, but must be 1 or more")
    folder = Path(keep) if keep else cache_folder() / "served" / sha256_text(url.rstrip("/"), model)[:16]
    kept = Kept(folder)
    client = Client(
        url,
        key_env=key_env,
        concurrency=concurrency,
        requests_per_minute=requests_per_minute,
        max_requests=max_requests,
        max_tokens=max_tokens,
        timeout=timeout,
        retries=retries,
        keeps=kept.words,
    )
    shapes = load(recipe.as_teacher(like), empty=True).model
    shapes.name = model
    teacher = Served(shapes, client, kept, k=k, text_only=text_only, chat=chat)
    if not (empty or text_only or kept.get(_PROBE_KEY)):
        teacher.probe()
    return teacher


class Served(Teacher):
    """A teacher whose weights are elsewhere.

    Args:
        model: its tokenizer and shapes; the name is the server's.
        client: the way to it.
        kept: its answers so far.
        k: log-probabilities of a position.
        text_only: it has no log-probabilities.
        chat: write through the chat interface; None: where the tokenizer has a chat template.

    """

    forms = frozenset({"topk"})
    shows = frozenset()
    alone = False

    def __init__(
        self, model: Model, client: Client, kept: Kept, *, k: int, text_only: bool = False, chat: bool | None = None
    ) -> None:
        super().__init__(model)
        self.client, self.kept, self.k = client, kept, k
        if text_only:
            self.forms = frozenset()
        self.chat = bool(model.tokenizer.chat_template) if chat is None else chat
        self._probed = False

    @torch.no_grad()
    def signal(self, batch: Batch, want: frozenset[str] = frozenset()) -> Signal:
        """The k likeliest outcomes of each position, its label, and what they leave over; from the server or as kept.

        The distribution after a token is what the server says of the token that follows it. Where a piece ends, its last
        label is sent along, so that there is one.

        Raises:
            RunError: the server does not answer, or a budget is spent; what was answered is kept.
            ModelError: the probe found the server unfit.

        """
        if want or not self.forms:
            what = f"a server does not tell its {', '.join(sorted(want))}" if want else "text_only gives no signal"
            raise fail(
                ModelError, "teacher", what, "Take a loss on outcomes." if want else "Learn from its text alone."
            )
        select, labels = batch.select_N.tolist(), batch.labels_N.tolist()
        label_at = dict(zip(select, labels, strict=True))
        tokens, prompts, rows_of = batch.input_ids_P.tolist(), [], []
        for start, stop in zip(batch.borders_D1[:-1], batch.borders_D1[1:], strict=True):
            places = [p for p in range(start, stop) if p in label_at]
            if not places:
                continue
            last = places[-1]
            follows = tokens[last + 1] if last + 1 < stop else label_at[last]
            prompts.append((*tokens[start : last + 1], follows))
            rows_of.append([p - start + 1 for p in places])  # in the answer, a token's entry is what was expected there
        found = self._read(prompts)
        at = dict(
            zip(sorted(label_at), ((d, row) for d, rows in enumerate(rows_of) for row in rows), strict=True)
        )  # documents lie one after another, so sorted positions are in the documents' order
        ids_NK = np.stack([found[d][0][row] for d, row in map(at.__getitem__, select)])
        logp_NK = np.stack([found[d][1][row] for d, row in map(at.__getitem__, select)])
        device = batch.input_ids_P.device
        return Signal(
            ids_NK=torch.from_numpy(ids_NK.astype(np.int64)).to(device),
            logp_NK=torch.from_numpy(logp_NK).to(device),
            rest_N=torch.from_numpy(rest(logp_NK, ids_NK, self.model.outcomes)).to(device),
        )

    def placed(self, place: Callable[[Model], Model]) -> Served:  # noqa: ARG002
        """Itself: no network runs here."""
        return self

    @property
    def chats(self) -> bool:
        """Whether it writes through the chat interface."""
        return self.chat

    @property
    def fingerprint(self) -> str:
        """What tells it from other served models: where it is and what it is called; its weights are not known here."""
        return sha256_text("served", self.client.url, self.name)

    def arithmetic(self, asked: str, together: int) -> str:  # noqa: ARG002
        """What it writes in is the server's to choose."""
        return "the server's"

    def write(
        self,
        asks: Sequence[Ask],
        *,
        arithmetic: str = "",  # noqa: ARG002
        tell: Callable[[float], None] = lambda share: None,
    ) -> list[Answer]:
        """What the teacher writes when asked; an answer that was kept is not asked for again.

        Args:
            asks: what; a chat template is applied by the server.
            arithmetic: the server's.
            tell: called with the share that is answered.

        Raises:
            RunError: the server does not answer, answers what is no text, or a budget is spent; what was answered is kept.

        """
        answered = itertools.count(1)

        def one(ask: Ask) -> Answer:
            answer = self._answer(ask)
            tell(next(answered) / len(asks))
            return answer

        return self.client.map(one, asks)

    def _answer(self, ask: Ask) -> Answer:
        chat = ask.form == "chat"
        body: dict[str, Any] = {"model": self.name, "max_tokens": ask.new_tokens, "seed": ask.seed}
        body |= {"temperature": ask.temperature, "top_p": ask.top_p}
        body |= {"min_p": ask.min_p} if ask.min_p else {}  # not of OpenAI's interface; vLLM and llama.cpp know it
        body |= {"stop": list(ask.stop)} if ask.stop else {}
        if chat:
            body |= {"messages": [{"role": "user", "content": ask.text}]} | ({"logprobs": True} if self.forms else {})
        else:
            # special tokens are sent as the tokens they are: what a server reads in their names is its own affair
            prompt = self._ids(ask.text) if ask.form == "exact" else ask.text
            body |= {"prompt": prompt} | ({"logprobs": 1} if self.forms else {})
        key = sha256_text("answer", str(chat), json.dumps(body, sort_keys=True))
        kept = self.kept.get(key)
        if isinstance(kept, dict):
            return Answer(**kept)
        tokens = len(self._ids(ask.text)) + ask.new_tokens
        choice = self._choice(self.client.post("chat/completions" if chat else "completions", body, tokens=tokens))
        message = choice.get("message")
        text = message.get("content") if chat and isinstance(message, dict) else choice.get("text")
        if not isinstance(text, str) or not _is_text(text):
            what = f"answered with {str(text)[:60]!r} where text should be. {self.kept.words()}"
            way_out = "See what the server writes; its chat interface may want another model, or chat: false."
            raise fail(RunError, f"teacher ({self.client.url})", what, way_out)
        logprobs = _own_logprobs(choice)
        count = len(logprobs) if logprobs else len(self._ids(text))
        finish = "length" if choice.get("finish_reason") == "length" else "end"
        answer = Answer(text, max(count, 1), finish, sum(logprobs) if logprobs else None)  # type: ignore[arg-type]
        self.kept.put(key, vars(answer))
        return answer

    def probe(self) -> None:
        """See with four short requests whether the server's prompt log-probabilities are what they should be.

        What it says of the token that follows some words (when it reads on) must be what it said when it was to write the
        next token after just these words; and ids must mean the same strings as in the tokenizer here.

        Raises:
            ModelError: they are not: keyed by text, shifted, not normalised, or missing.
            RunError: the server does not answer.

        """
        ids = self._ids(PROBE)
        ends = (len(ids) // 3, 2 * len(ids) // 3, len(ids))

        def ask(prompt: list[int]) -> dict[str, Any]:
            few = {"logprobs": min(self.k, 5), "return_tokens_as_token_ids": True}
            return self._ask(prompt, few)

        read, *written = self.client.map(ask, [[*ids, ids[0]], *(ids[:end] for end in ends)])
        expected = self._parse(read, [*ids, ids[0]])
        self._check_strings(read["prompt_logprobs"], [*ids, ids[0]])
        after = [_generated(choice) for choice in written]
        if not all(after):
            raise self._unfit(
                "does not give the log-probabilities of a token that it writes by token id, so that those of a prompt cannot be checked",
            )
        right = _distance(after, [dict(zip(*(x[end].tolist() for x in expected), strict=True)) for end in ends])
        if right <= _CLOSE:
            self._recognise(expected, ids)
            self._probed = True
            return
        late = _distance(after, [dict(zip(*(x[end - 1].tolist() for x in expected), strict=True)) for end in ends])
        if late <= _CLOSE < right:
            raise self._unfit(
                "gives each token of a prompt the log-probabilities of the token after it: they are shifted by one",
            )
        raise self._unfit(
            f"contradicts itself: what it says of a token in a prompt and of the same token when it writes it differ by {right:.2f} "
            "nats on average"
        )

    def _recognise(self, expected: tuple[Any, Any], ids: list[int]) -> None:
        """Refuse kept answers that another model gave under the same name: what it says of the probe has changed."""
        rows = list(zip(*expected, strict=True))[1:]
        now = [round(float(logp[names == token][0]), 4) for token, (names, logp) in zip(ids[1:], rows, strict=False)]
        before = self.kept.get(_PROBE_KEY)
        if before is None:
            self.kept.put(_PROBE_KEY, now)
            return
        if len(before) != len(now) or float(np.abs(np.subtract(before, now)).mean()) > _CLOSE:
            raise fail(
                ModelError,
                "teacher.keep",
                f"the answers in {self.kept.folder} are another model's: what '{self.name}' says of a known text has changed",
                "Delete the folder if you need it no longer, or give another: keep: …",
            )

    def _read(self, prompts: list[tuple[int, ...]]) -> list[tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]]:
        """Of each prompt: ids and log-probabilities, [tokens, k + 1] each; the first row is empty."""
        keys = [sha256_text("logprobs", str(self.k), " ".join(map(str, prompt))) for prompt in prompts]
        kept = [self._unpacked(self.kept.get(key), len(prompt)) for key, prompt in zip(keys, prompts, strict=True)]
        if any(found is None for found in kept) and not self._probed:
            self.probe()

        def one(index: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
            if (known := kept[index]) is not None:
                return known
            prompt = list(prompts[index])
            ids, logp = self._parse(self._ask(prompt, {}), prompt)
            self.kept.put(keys[index], {"ids": _packed(ids), "logp": _packed(logp)})
            return ids, logp

        return self.client.map(one, range(len(prompts)))

    def _ids(self, text: str) -> list[int]:
        """A text's token ids, nothing added."""
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def _ask(self, prompt: list[int], more: dict[str, Any]) -> dict[str, Any]:
        body = {"model": self.name, "prompt": prompt, "max_tokens": 1, "temperature": 1.0}
        body |= {"prompt_logprobs": self.k} | more
        answer = self.client.post("completions", body, tokens=len(prompt) + 1, hint=_LOGPROBS_HINT)
        return self._choice(answer)

    def _choice(self, answer: dict[str, Any]) -> dict[str, Any]:
        choices = answer.get("choices")
        if not (isinstance(choices, list) and choices and isinstance(choices[0], dict)):
            raise fail(RunError, f"teacher ({self.client.url})", "answered without a choice", self.kept.words())
        return choices[0]

    def _parse(
        self, choice: dict[str, Any], prompt: list[int]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Ids and log-probabilities, [tokens, k + 1] each, likeliest first; ids −1 and −inf where there are fewer."""
        rows = choice.get("prompt_logprobs")
        if not isinstance(rows, list) or not any(rows):
            raise self._unfit("gives no prompt log-probabilities", "For its text alone: text_only: true.")
        if (
            len(rows) != len(prompt)
            or rows[0] is not None
            or not all(isinstance(row, dict) and row for row in rows[1:])
        ):
            raise self._unfit(
                f"answered {len(prompt)} tokens with log-probabilities of {sum(map(bool, rows))}; the first has none"
            )
        ids_PK = np.full((len(rows), self.k + 1), -1, dtype=np.int32)
        logp_PK = np.full((len(rows), self.k + 1), -np.inf, dtype=np.float32)
        for place, (token, row) in enumerate(zip(prompt[1:], rows[1:], strict=True), 1):
            try:
                named = {int(name): float(value["logprob"]) for name, value in row.items()}
            except (ValueError, TypeError, KeyError):
                raise self._unfit(
                    f"keys its log-probabilities by text, such as {next(iter(row))!r}, not by token id: two tokens may read alike"
                ) from None
            total = math.fsum(math.exp(min(value, 1.0)) for value in named.values())
            if not total <= 1.001:  # false for NaN
                raise self._unfit(
                    f"gives values whose probabilities add up to {total:.3f}: they are no log-probabilities"
                )
            if token not in named or max(named) >= self.model.outcomes or min(named) < 0:
                what = f"leaves out token {token}, which the prompt has there"
                if token in named:
                    what = f"names token {max(named)}, but '{self.name}' knows {self.model.outcomes} here"
                raise self._unfit(what, "Is 'like' the served model's own tokenizer and configuration?")
            likeliest = sorted(named.items(), key=lambda item: -item[1])
            if len(likeliest) > self.k + 1:
                likeliest = [x for i, x in enumerate(likeliest) if i < self.k or x[0] == token][: self.k + 1]
            ids_PK[place, : len(likeliest)], logp_PK[place, : len(likeliest)] = zip(*likeliest, strict=True)
        return ids_PK, logp_PK

    def _check_strings(self, rows: Any, prompt: list[int]) -> None:
        """Refuse a server whose ids mean other strings, where it says what they mean."""
        pairs = []
        for token, row in zip(prompt, rows if isinstance(rows, list) else [], strict=False):
            entry = row.get(str(token)) if isinstance(row, dict) else None
            theirs = entry.get("decoded_token") if isinstance(entry, dict) else None
            if isinstance(theirs, str) and theirs.strip().isalpha() and theirs.isascii():
                pairs.append((theirs.strip(), self.tokenizer.decode([token]).strip()))
        wrong = [pair for pair in pairs if pair[0] != pair[1]]
        if len(wrong) * 2 > len(pairs):
            theirs, ours = wrong[0]
            raise self._unfit(
                f"has another vocabulary: the token that reads {ours!r} here reads {theirs!r} there",
                "Give the served model's own folder or hub id as 'like'.",
            )

    def _unpacked(self, answer: Any, length: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]] | None:
        if not isinstance(answer, dict):
            return None
        ids, logp = (
            np.frombuffer(base64.b64decode(answer[name]), dtype=kind)
            for name, kind in (("ids", "<i4"), ("logp", "<f4"))
        )
        shape = (length, self.k + 1)
        return ids.reshape(shape), logp.reshape(shape)

    def _unfit(
        self, what: str, way_out: str = "Serve the model with vLLM, whose prompt log-probabilities are right."
    ) -> ModelError:
        return fail(ModelError, f"teacher ({self.client.url})", f"the server {what}", way_out)


def rest(logp_NK: npt.NDArray[np.float32], ids_NK: npt.NDArray[np.int32], outcomes: int) -> npt.NDArray[np.float32]:
    """Log of the probability that the named outcomes leave over, [N]; −inf where they are all there are.

    Added up in float64. Where other outcomes exist it is never less than float32 can tell from nothing: to a loss that asks
    how surprised the teacher would be, nothing is infinitely different from next to nothing.
    """
    left_N = 1.0 - np.exp(logp_NK.astype(np.float64)).sum(-1)
    named_N = (ids_NK >= 0).sum(-1)
    with np.errstate(divide="ignore"):
        log_N = np.log(np.where(named_N < outcomes, np.maximum(left_N, _TINY), 0.0))
    return np.asarray(log_N, dtype=np.float32)


def _is_text(value: str) -> bool:
    """Whether a string can be written to a file: no half of a surrogate pair."""
    try:
        return value.encode() is not None
    except UnicodeEncodeError:
        return False


def _own_logprobs(choice: dict[str, Any]) -> list[float]:
    """Log-probabilities of the tokens written, as either interface tells them; empty where it does not."""
    told = choice.get("logprobs")
    try:
        if isinstance(told, dict) and isinstance(told.get("content"), list):
            return [float(token["logprob"]) for token in told["content"]]
        return [float(value) for value in told["token_logprobs"]] if isinstance(told, dict) else []
    except (KeyError, TypeError, ValueError):
        return []


def _generated(choice: dict[str, Any]) -> dict[int, float]:
    """Log-probabilities of the first token written, by id; empty if there are none."""
    try:
        named = choice["logprobs"]["top_logprobs"][0]
        return {int(name.removeprefix("token_id:")): float(value) for name, value in named.items()}
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return {}


def _distance(one: Sequence[dict[int, float]], other: Sequence[dict[int, float]]) -> float:
    """Mean difference of log-probabilities, weighed by the probability; what only one side names counts as 1 nat."""
    total = weights = 0.0
    for named, others in zip(one, other, strict=True):
        for token, value in named.items():
            weight = math.exp(value)
            total += weight * (abs(value - others[token]) if token in others else 1.0)
            weights += weight
    return total / max(weights, 1e-9)


def _packed(values: npt.NDArray[Any]) -> str:
    return base64.b64encode(values.astype(values.dtype.newbyteorder("<")).tobytes()).decode()
