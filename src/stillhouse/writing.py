"""Text that a teacher writes by itself: what it is asked, what it answers, and how a model here answers many at a time.

Each text has a seed of its own, from which its chances follow token by token. So what is written does not depend, but for
rounding, on what else is written at the same time, and a row can be written again from what it says of itself.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from stillhouse import machine
from stillhouse.errors import ModelError, fail
from stillhouse.models import Model, fingerprint, writing_by
from stillhouse.vocabulary import encode

Form = Literal["chat", "text", "exact"]
"""How a teacher is given a text: as a user's message through the chat template; as data to go on from; or token by token as it
stands, special tokens included."""

_ROUND = 16
"""Tokens between two looks at which texts are done, so that nothing is computed for them any more."""

_LIKELIEST = 512
"""Outcomes that are sorted to find the nucleus; the few rows whose nucleus is larger are sorted whole."""


@dataclass(frozen=True)
class Ask:
    """One text to be written.

    Args:
        text: what is asked, or gone on from.
        form: how the teacher is given it.
        seed: of the sampling.
        new_tokens: at most.
        temperature: of the sampling; 0 takes the likeliest token each time.
        top_p: only the likeliest tokens that together have this probability.
        min_p: only tokens with at least this share of the likeliest one's probability.
        stop: strings that end a text and are not part of it; a special token's name is such a string too.
    """

    text: str
    form: Form
    seed: int
    new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What was written.

    Args:
        text: without what ended it.
        tokens: how many, the end token included.
        finish: what ended it: an end token, a stop string, or the length.
        logprob: log-probability of all its tokens at temperature 1, nats; None where the teacher does not tell.
    """

    text: str
    tokens: int
    finish: Literal["end", "stop", "length"]
    logprob: float | None = None


class Writer(Protocol):
    """Who writes."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def tokenizer(self) -> Any:
        """The tokenizer whose chat template it is asked with."""
        ...

    @property
    def chats(self) -> bool:
        """Whether a question is put to it through a chat template."""
        ...

    @property
    def fingerprint(self) -> str:
        """What tells it from others."""
        ...

    def arithmetic(self, asked: str, together: int) -> str:
        """The arithmetic that it would write in, where ``auto`` is asked for by measuring."""
        ...

    def write(self, asks: Sequence[Ask], *, arithmetic: str, tell: Callable[[float], None]) -> list[Answer]:
        """An answer to each; calls ``tell`` with the share that is done."""
        ...


class Listener(Protocol):
    """Who wants to know the teacher's hidden states of what it writes."""

    def document(self, ask: Ask, answer: Answer) -> Sequence[int]:
        """The tokens that an answer is learned from as; the teacher reads on to their end. None if it is not wanted."""
        ...

    def hear(self, ask: Ask, hidden_LH: Tensor) -> None:
        """The states at all tokens of that document."""
        ...


def writer_of(teacher: Any) -> Writer:
    """Who writes for a teacher: itself, or its model."""
    if isinstance(teacher, Model):
        return Local(teacher)
    writer: Writer = teacher if hasattr(teacher, "write") else Local(teacher.model)
    return writer


class Local:
    """A model here, which writes a batch of texts at a time with transformers' ``generate`` and a cache of keys and values.

    Args:
        model: a causal language model.
        listener: who hears its hidden states.
        arithmetic: what it computes in whatever is asked; None to choose.

    Raises:
        ModelError: the model writes no text.
    """

    def __init__(self, model: Model, listener: Listener | None = None, arithmetic: str | None = None) -> None:
        if model.bare or model.classifies:
            raise fail(ModelError, "teacher", f"{model.name} writes no text", "Take a causal language model.")
        self.model, self.listener, self._fixed = model, listener, arithmetic
        config: Any = model.network.generation_config
        named = getattr(config, "eos_token_id", None)
        found = {*(named if isinstance(named, list) else [named]), model.tokenizer.eos_token_id} - {None}
        self.ends = frozenset(map(int, found))
        self._half: PreTrainedModel | None = None

    @property
    def name(self) -> str:
        """See ``Writer``."""
        return self.model.name

    @property
    def tokenizer(self) -> Any:
        """See ``Writer``."""
        return self.model.tokenizer

    @property
    def chats(self) -> bool:
        """See ``Writer``."""
        return bool(self.tokenizer.chat_template)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of its weights."""
        return fingerprint(self.model.network)

    def arithmetic(self, asked: str, together: int) -> str:
        """See ``Writer``; measured with a matrix product of as many rows as texts are written together."""
        if self._fixed is not None:
            return self._fixed
        width = self.model.head_layer.weight.shape[1]
        return machine.choose_dtype(asked, self.model.network.device, (together, width, 4 * width)).dtype

    @torch.no_grad()
    def write(
        self, asks: Sequence[Ask], *, arithmetic: str = "float32", tell: Callable[[float], None] = lambda share: None
    ) -> list[Answer]:
        """See ``Writer``.

        Raises:
            ModelError: nothing would end the texts, or a prompt is longer than the model can read.
        """
        rows = [_Row(ask, self._prompt(ask), _uniforms(ask.seed, ask.new_tokens)) for ask in asks]
        if not self.ends and not all(ask.stop for ask in asks):
            what = f"{self.name} has no end token, so that no text of it would ever end by itself"
            raise fail(ModelError, "teacher", what, r'Name what ends a text: stop: ["\n\n"].')
        self._refuse_too_long(rows)
        with self._network(arithmetic) as network:
            pen = _Pen(self, rows, tell)
            heard = network.base_model.register_forward_hook(pen.hear) if self.listener else None
            try:
                self._fill(network, rows, pen)
            finally:
                if heard is not None:
                    heard.remove()
        answers = [row.answer for row in rows]
        assert all(answers)
        return [answer for answer in answers if answer is not None]

    def _fill(self, network: PreTrainedModel, rows: list[_Row], pen: _Pen) -> None:
        """Write until all rows are done. Where the cache can be cut, nothing more is computed for those that are."""
        longest = max(len(row.prompt) for row in rows)
        pad = min(self.ends, default=0)
        ids_BL = torch.tensor([[pad] * (longest - len(row.prompt)) + row.prompt for row in rows], device=network.device)
        mask_BL = torch.tensor([[0] * (longest - len(r.prompt)) + [1] * len(r.prompt) for r in rows]).to(ids_BL)
        most = max(row.ask.new_tokens for row in rows)
        cuts = self.model.packs
        config = GenerationConfig(
            max_new_tokens=_ROUND if cuts else most, do_sample=False, eos_token_id=None, pad_token_id=pad
        )
        cache: dict[str, Any] = {"past_key_values": DynamicCache(config=network.config)} if cuts else {}
        with writing_by(network, config):
            while True:
                ids_BL = network.generate(
                    ids_BL,
                    attention_mask=mask_BL,
                    logits_processor=LogitsProcessorList([pen]),
                    stopping_criteria=StoppingCriteriaList([_Done(pen)]),
                    **cache,
                )
                left = [b for b, row in enumerate(pen.rows) if not row.done]
                if not left:
                    return
                mask_BL = torch.cat([mask_BL, mask_BL.new_ones(len(mask_BL), ids_BL.shape[1] - mask_BL.shape[1])], 1)
                if cuts and len(left) < len(pen.rows):
                    kept = torch.tensor(left, device=ids_BL.device)
                    ids_BL, mask_BL, pen.rows = ids_BL[kept], mask_BL[kept], [pen.rows[b] for b in left]
                    cache["past_key_values"].batch_select_indices(kept)

    def _prompt(self, ask: Ask) -> list[int]:
        """The tokens that the model is given."""
        if ask.form == "text":
            encoded = encode(self.tokenizer, ask.text, special=False)
            ids, added = list(encoded["input_ids"]), list(encoded["special_tokens_mask"])
            while ids and added[-1]:  # a tokenizer may end every text; this one is to go on
                ids, added = ids[:-1], added[:-1]
        else:
            text = as_message(self.tokenizer, ask.text) if ask.form == "chat" else ask.text
            ids = list(self.tokenizer(text, add_special_tokens=False).input_ids)
        if not ids:
            raise fail(ModelError, "teacher", "is given a prompt without a token", "Take it out of the prompts.")
        return ids

    def _refuse_too_long(self, rows: list[_Row]) -> None:
        context = getattr(self.model.config, "max_position_embeddings", None)
        row = max(rows, key=lambda row: len(row.prompt) + row.ask.new_tokens)
        size = len(row.prompt) + row.ask.new_tokens
        if context is not None and size > context:
            what = f"reads {context:,} tokens at most, and a prompt of {len(row.prompt):,} with {row.ask.new_tokens:,} new ones"
            way_out = f"Shorten the prompt that begins with {row.ask.text[:60]!r}, or write fewer new_tokens."
            raise fail(ModelError, "teacher", f"{what} has {size:,}", way_out)

    @contextmanager
    def _network(self, arithmetic: str) -> Iterator[PreTrainedModel]:
        with self.model.generating() as network:
            if arithmetic == "float32":
                yield network
                return
            if self._half is None:
                self._half = halved(network)
            yield self._half


def as_message(tokenizer: Any, text: str) -> str:
    """A user's message as the chat template writes it, up to where the assistant begins."""
    messages = [{"role": "user", "content": text}]
    return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


def halved(network: PreTrainedModel) -> PreTrainedModel:
    """A copy that computes in bfloat16 up to the last linear map, which stays as it is: logits want more than eight bits.

    A copy, because autocast converts all weights again for every token.
    """
    memo: dict[int, Any] = {
        id(p): nn.Parameter(p.detach().to(torch.bfloat16), requires_grad=False) for p in network.parameters()
    }
    head = network.get_output_embeddings()
    memo[id(head)] = wide = _Wide()
    twin: PreTrainedModel = copy.deepcopy(network, memo)
    wide.head = [head]  # in a list: not a module of the twin, whose weights it shares with the original
    return twin


class _Wide(nn.Module):
    """The original's last linear map."""

    head: list[nn.Module]

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.head[0](hidden.float())
        return out


@dataclass
class _Row:
    """A text under way.

    Args:
        ask: what is asked.
        prompt: its tokens.
        chance: a number in [0, 1) for each token to be written.
        ids: tokens written so far.
        logprob: of them.
        answer: once it is written.
        document: tokens that the teacher is to read to the end of once it is; none if nobody listens.
        hidden: states heard so far, [tokens, H] each.
        heard: of how many tokens.
    """

    ask: Ask
    prompt: list[int]
    chance: npt.NDArray[np.float64]
    ids: list[int] = field(default_factory=list)
    logprob: float = 0.0
    answer: Answer | None = None
    document: list[int] = field(default_factory=list)
    hidden: list[Tensor] = field(default_factory=list)
    heard: int = 0

    @property
    def done(self) -> bool:
        """Whether all of it is written and read."""
        return self.answer is not None and self.heard >= len(self.document)


class _Pen(LogitsProcessor):  # type: ignore[misc]
    """Chooses every token: drawn while a text is open, given where the teacher only reads on.

    Args:
        writer: whose end tokens and tokenizer count.
        rows: the texts of the batch, those that are done left out from time to time.
        tell: told of the share that is written.
    """

    def __init__(self, writer: Local, rows: list[_Row], tell: Callable[[float], None]) -> None:
        self.writer, self.rows, self.all, self.tell = writer, rows, rows, tell
        self.special = writer.tokenizer.get_added_vocab()

    def hear(self, _trunk: nn.Module, _given: Any, out: Any) -> None:
        """Keep the states of the tokens that were read just now: all of the prompt first, then one at a time."""
        hidden_BLH = out.last_hidden_state
        for row, hidden_LH in zip(self.rows, hidden_BLH, strict=True):
            if not row.done:
                new = hidden_LH[-len(row.prompt) :] if not row.heard else hidden_LH[-1:]
                row.hidden.append(new.float())
                row.heard += len(new)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002
        """Logits [B, V] in which the chosen token alone is possible."""
        open_ = [b for b, row in enumerate(self.rows) if row.answer is None]
        if open_:
            rows = [self.rows[b] for b in open_]
            chosen = draw(scores[open_], [row.ask for row in rows], [row.chance[len(row.ids)] for row in rows])
            for row, token, logp in zip(rows, *chosen, strict=True):
                self._take(row, token, logp)
        following = [row.ids[-1] if row.answer is None else self._read_on(row) for row in self.rows]
        out_BV = torch.full_like(scores, -torch.inf)
        out_BV[torch.arange(len(following)), following] = 0.0
        done = sum(row.ask.new_tokens if row.answer else len(row.ids) for row in self.all)
        self.tell(done / sum(row.ask.new_tokens for row in self.all))
        return out_BV

    def _take(self, row: _Row, token: int, logp: float) -> None:
        row.ids.append(token)
        row.logprob += logp
        finish: Literal["end", "stop", "length"]
        if token in self.writer.ends or any(self.special.get(name) == token for name in row.ask.stop):
            finish, text = "end", self._text(row.ids[:-1])
        elif self._stopped(row):
            finish, text = "stop", self._text(row.ids)
            text = text[: min((at for s in row.ask.stop if (at := text.find(s)) >= 0), default=len(text))]
        elif len(row.ids) == row.ask.new_tokens:
            finish, text = "length", self._text(row.ids)
        else:
            return
        row.answer = Answer(text, len(row.ids), finish, row.logprob)
        if self.writer.listener is not None:
            self._ask_listener(row, row.answer)

    def _stopped(self, row: _Row) -> bool:
        if not row.ask.stop:
            return False
        tail = self._text(row.ids[-4 * max(map(len, row.ask.stop)) - 4 :])  # a character may be four tokens
        return any(stop in tail for stop in row.ask.stop)

    def _text(self, ids: list[int]) -> str:
        return str(self.writer.tokenizer.decode(ids, skip_special_tokens=True))

    def _ask_listener(self, row: _Row, answer: Answer) -> None:
        """What is learned from may read other tokens than were written; then nothing heard of it holds."""
        assert self.writer.listener is not None
        document = list(self.writer.listener.document(row.ask, answer))
        both = min(len(document), row.heard)
        if document[:both] == [*row.prompt, *row.ids][:both]:
            row.document = document
        self._finish(row)

    def _read_on(self, row: _Row) -> int:
        """The next token of a text that is written."""
        if row.hidden:
            self._finish(row)
        return row.document[row.heard] if not row.done else 0

    def _finish(self, row: _Row) -> None:
        if row.done:
            if row.document and self.writer.listener is not None:
                self.writer.listener.hear(row.ask, torch.cat(row.hidden)[: len(row.document)])
            row.hidden = []


class _Done(StoppingCriteria):  # type: ignore[misc]
    """Which rows are done, [B]."""

    def __init__(self, pen: _Pen) -> None:
        self.pen = pen

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:  # noqa: ARG002
        return torch.tensor([row.done for row in self.pen.rows], device=input_ids.device)


def draw(logits_BV: Tensor, asks: Sequence[Ask], chances: Sequence[float]) -> tuple[list[int], list[float]]:
    """A token for each row, and its log-probability at temperature 1.

    Temperature first, then the nucleus (top-p: Holtzman et al. 2020, arXiv:1904.09751, §3.1), then min-p (Nguyen et al. 2024,
    arXiv:2407.01082); of what is left, the token in whose part of [0, 1) the row's chance falls, in the order of their ids.

    Args:
        logits_BV: of the next token.
        asks: temperature, top_p and min_p of each row.
        chances: of each row, in [0, 1).
    """
    logits_BV = logits_BV.float()
    temperature_B1, top_p_B1, min_p_B1 = (
        torch.tensor([[getattr(ask, name)] for ask in asks], device=logits_BV.device)
        for name in ("temperature", "top_p", "min_p")
    )
    greedy_B = temperature_B1[:, 0] == 0.0
    probs_BV = torch.softmax(logits_BV / temperature_B1.masked_fill(greedy_B[:, None], 1.0), -1)
    least_B1 = min_p_B1 * probs_BV.amax(-1, keepdim=True)
    if bool((top_p_B1 < 1.0).any()):
        least_B1 = torch.maximum(least_B1, _nucleus(probs_BV, top_p_B1))
    probs_BV.masked_fill_(probs_BV < least_B1, 0.0)
    total_BV = probs_BV.cumsum(-1, dtype=torch.float64)
    point_B1 = torch.tensor(chances, dtype=torch.float64, device=logits_BV.device)[:, None] * total_BV[:, -1:]
    drawn_B = torch.searchsorted(total_BV, point_B1, right=True)[:, 0]  # right: never a token with an empty part
    token_B = torch.where(greedy_B, logits_BV.argmax(-1), drawn_B.clamp_max(logits_BV.shape[-1] - 1))
    logp_B = logits_BV.gather(-1, token_B[:, None])[:, 0] - torch.logsumexp(logits_BV, -1)
    return token_B.tolist(), logp_B.tolist()


def _nucleus(probs_BV: Tensor, top_p_B1: Tensor) -> Tensor:
    """The least probability inside each row's nucleus, [B, 1]; 0 where all tokens are.

    A whole vocabulary takes longer to sort than a small model takes to fill it: the likeliest are looked at first.
    """
    least_B1 = torch.empty_like(top_p_B1)
    count, rows = min(_LIKELIEST, probs_BV.shape[-1]), torch.arange(len(probs_BV), device=probs_BV.device)
    while len(rows):
        top_BK = probs_BV[rows].topk(count).values
        before_BK = top_BK.cumsum(-1) - top_BK
        inside_BK = before_BK < top_p_B1[rows]
        last_B1 = inside_BK.sum(-1, keepdim=True).clamp_min(1) - 1
        least_B1[rows] = top_BK.gather(-1, last_B1)
        whole = count == probs_BV.shape[-1]
        rows = rows[:0] if whole else rows[inside_BK[:, -1]]  # their nucleus may reach further
        count = probs_BV.shape[-1]
    return least_B1.masked_fill(top_p_B1 >= 1.0, 0.0)


def _uniforms(seed: int, count: int) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1), [count]; numpy promises the raw numbers of a bit generator for ever."""
    raw = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(count)
    return np.asarray((raw >> np.uint64(11)) * 2.0**-53)
