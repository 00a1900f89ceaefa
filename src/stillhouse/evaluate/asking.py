"""Ask a model a task's questions. With ``score`` the only part of the evaluation that touches a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from stillhouse.evaluate.forest import Asked, Packed, pack
from stillhouse.evaluate.questions import Question, Reply
from stillhouse.models import Model, writing_by

CHUNK = 64
"""Positions whose logits exist at one time: few enough to stay in the cache."""

MICRO_TOKENS = 1024
"""Tokens read at one time."""

TOGETHER = 16
"""Texts written at one time."""


def ask(
    model: Model, questions: Sequence[Question], prefix: int, ends: Sequence[int], *, free: bool = False,
    tick: Callable[[int], None] = lambda _: None,
) -> list[Reply]:  # fmt: skip
    """The model's replies, in the order of the questions.

    Args:
        model: a causal language model.
        questions: of any kinds.
        prefix: the token that stands before a text without context: what separates documents.
        ends: tokens that end what is written.
        free: also ask for the options' own likelihoods.
        tick: called with the number of questions after some are done.
    """
    model.eval()
    writing = [i for i, question in enumerate(questions) if question.kind == "write"]
    found: dict[int, Reply] = dict(
        zip(writing, _write(model, [questions[i] for i in writing], prefix, ends, tick), strict=True)
    )
    reading = [i for i in range(len(questions)) if i not in found]
    found |= dict(zip(reading, _read(model, [questions[i] for i in reading], prefix, free, tick), strict=True))
    return [found[i] for i in range(len(questions))]


# ---------------------------------------------------------------------------------------------------------------- reading


def likelihoods(
    model: Model, sequences: Sequence[Asked], tick: Callable[[int], None] = lambda _: None
) -> list[tuple[float, bool]]:
    """Of each sequence: log P of its scored tokens, nats, and whether each of them was the likeliest.

    Args:
        model: a causal language model.
        sequences: in any order.
        tick: called with the number of sequences after some are done.
    """
    found: list[tuple[float, bool]] = [(0.0, True)] * len(sequences)
    for packed in pack(sequences, MICRO_TOKENS, int(model.config.hidden_size), share=model.packs):
        ll_M, top_M = _score(model, packed)
        place = 0
        for index, count in zip(packed.which, packed.count, strict=True):
            part = slice(place, place + count)
            found[index] = (float(ll_M[part].sum()), bool(top_M[part].all()))
            place += count
        tick(len(packed.which))
    return found


@torch.no_grad()
def _score(model: Model, packed: Packed) -> tuple[Tensor, Tensor]:
    """Log P of each scored token, [M] float64, and whether it was the likeliest, [M]. Logits exist of answers only."""
    device = next(model.parameters()).device
    hidden_NH, _ = model(packed.batch.to(device))
    row_M, label_M = packed.row_M.to(device), packed.label_M.to(device)
    order_M = torch.argsort(row_M, stable=True)
    row_M, label_M = row_M[order_M], label_M[order_M]
    starts = torch.searchsorted(row_M, torch.arange(0, len(hidden_NH) + CHUNK, CHUNK, device=device)).tolist()
    head = model.head
    ll_M = torch.empty(len(row_M), dtype=torch.float64, device=device)
    top_M = torch.empty(len(row_M), dtype=torch.bool, device=device)
    room_NV = torch.empty(min(CHUNK, len(hidden_NH)), model.outcomes, device=device)
    for chunk, first in enumerate(range(0, len(hidden_NH), CHUNK)):
        hidden_CH = hidden_NH[first : first + CHUNK]
        logits_NV = head.logits(hidden_CH, out=room_NV[: len(hidden_CH)])
        here = slice(starts[chunk], starts[chunk + 1])
        rows_M, labels_M = row_M[here] - first, label_M[here]
        highest_N, likeliest_N = logits_NV.max(-1)
        said_M = logits_NV[rows_M, labels_M] - highest_N[rows_M]
        total_N = logits_NV.sub_(highest_N[:, None]).exp_().sum(-1)  # in place: the logits are needed no more
        ll_M[order_M[here]] = (said_M - total_N.log()[rows_M]).double()
        top_M[order_M[here]] = likeliest_N[rows_M] == labels_M
    return ll_M.cpu(), top_M.cpu()


def _read(
    model: Model, questions: Sequence[Question], prefix: int, free: bool, tick: Callable[[int], None]
) -> Iterator[Reply]:
    """Options one beside the other; a text in windows of what the model can read."""
    pairs: list[tuple[str, str]] = []
    for question in questions:
        for option, continuation in enumerate(question.options):
            pairs.append((question.context(option), continuation + question.end))
        if free and question.kind == "choice":
            pairs += [(question.free, continuation) for continuation in question.options]
    longest = _longest(model)
    read = _Reader(model.tokenizer, prefix)
    encoded = read.pairs(pairs)
    asked: list[Asked] = []
    parts: list[list[int]] = []  # which sequences each pair became
    cut: list[bool] = []
    for sequence in encoded:
        if len(sequence.tokens) <= longest + 1:
            parts.append([len(asked)])
            asked.append(sequence)
            cut.append(False)
        elif len(sequence.tokens) - sequence.start <= longest - 1:
            shift = len(sequence.tokens) - longest - 1
            parts.append([len(asked)])
            asked.append(Asked(sequence.tokens[shift:], sequence.start - shift))
            cut.append(True)
        else:
            pieces = list(_windows(sequence, longest))
            parts.append(list(range(len(asked), len(asked) + len(pieces))))
            asked += pieces
            cut.append(False)
    owners = len(pairs) / max(1, len(questions))
    told = 0.0

    def advance(sequences: int) -> None:
        nonlocal told
        told += sequences / owners
        if told >= 1:
            tick(int(told))
            told -= int(told)

    scores = likelihoods(model, asked, advance)
    place = 0

    def take(count: int) -> tuple[tuple[float, ...], tuple[bool, ...], tuple[int, ...], bool]:
        nonlocal place
        mine = parts[place : place + count]
        short = any(cut[place : place + count])
        place += count
        ll = tuple(sum(scores[i][0] for i in pieces) for pieces in mine)
        greedy = tuple(all(scores[i][1] for i in pieces) for pieces in mine)
        return ll, greedy, tuple(sum(len(asked[i].tokens) - asked[i].start for i in pieces) for pieces in mine), short

    for question in questions:
        ll, greedy, tokens, short = take(len(question.options))
        reply = Reply(ll, tokens, greedy, truncated=short)
        if free and question.kind == "choice":
            reply = replace(reply, free=take(len(question.options))[0])
        yield reply


def _windows(sequence: Asked, longest: int) -> Iterator[Asked]:
    """A long sequence in stretches, each token scored once, with half a window or more before it but in the first stretch."""
    tokens, place = sequence.tokens, sequence.start
    while place < len(tokens):
        begin = 0 if place <= longest // 2 else place - longest // 2
        stop = min(len(tokens), begin + longest + 1)
        yield Asked(tokens[begin:stop], place - begin)
        place = stop


def _longest(model: Model) -> int:
    """How many tokens the model can read at once."""
    return int(getattr(model.config, "max_position_embeddings", None) or 2048)


class _Reader:
    """Texts as tokens, each distinct text once.

    Args:
        tokenizer: of the model.
        prefix: what stands before a text without context.
    """

    def __init__(self, tokenizer: Any, prefix: int) -> None:
        self.tokenizer = tokenizer
        self.prefix = prefix
        self.known: dict[str, tuple[int, ...]] = {"": ()}

    def learn(self, texts: Sequence[str]) -> None:
        """Read those that are not known yet, together."""
        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        if new:
            ids = self.tokenizer(new, add_special_tokens=False).input_ids
            self.known |= {text: tuple(row) for text, row in zip(new, ids, strict=True)}

    def pairs(self, pairs: Sequence[tuple[str, str]]) -> list[Asked]:
        """Context and continuation as one sequence, scored from where the continuation begins.

        The two are read as one text, so that a token may not end between them where it would not in a text. Space at a
        context's end goes to the continuation, as lm-evaluation-harness does. Where the context's last token would be another
        one in the whole, scoring starts with it.
        """
        moved = []
        for context, continuation in pairs:
            kept = context.rstrip()
            moved.append((kept, context[len(kept) :] + continuation))
        self.learn([context for context, _ in moved] + [context + rest for context, rest in moved])
        found = []
        for context, continuation in moved:
            whole, before = self.known[context + continuation], self.known[context]
            if not context:
                found.append(Asked((self.prefix, *whole), 1))
                continue
            start = 0
            while start < min(len(before), len(whole) - 1) and before[start] == whole[start]:
                start += 1
            # nothing in common: as a text without context
            found.append(Asked(whole, start) if start else Asked((self.prefix, *whole), 1))
        return found


# ---------------------------------------------------------------------------------------------------------------- writing


def _write(
    model: Model, questions: Sequence[Question], prefix: int, ends: Sequence[int], tick: Callable[[int], None]
) -> Iterator[Reply]:
    """What the model writes, greedily; prompts of like length together."""
    read = _Reader(model.tokenizer, prefix)
    read.learn([question.contexts[0] for question in questions])
    longest = _longest(model)
    found: dict[int, Reply] = {}
    order = sorted(
        range(len(questions)), key=lambda i: (questions[i].new_tokens, len(read.known[questions[i].contexts[0]]))
    )
    for first in range(0, len(order), TOGETHER):
        group = order[first : first + TOGETHER]
        new_tokens = max(questions[i].new_tokens for i in group)
        prompts = [read.known[questions[i].contexts[0]] or (prefix,) for i in group]
        room = max(1, longest - new_tokens)
        outs = _continued(
            model, [prompt[-room:] for prompt in prompts], new_tokens, ends, [questions[i].stop for i in group]
        )
        for i, prompt, out in zip(group, prompts, outs, strict=True):
            found[i] = _ended(model, out[: questions[i].new_tokens], ends, questions[i], len(prompt) > room)
        tick(len(group))
    for i in range(len(questions)):
        yield found[i]


@torch.no_grad()
def _continued(
    model: Model, prompts: Sequence[tuple[int, ...]], new_tokens: int, ends: Sequence[int], stops: Sequence[tuple[str, ...]]
) -> list[list[int]]:  # fmt: skip
    """The tokens that follow each prompt; what comes behind an end is not to be read."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[ends[0]] * (longest - len(p)) + list(p) for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    config = GenerationConfig(max_new_tokens=new_tokens, do_sample=False, eos_token_id=list(ends), pad_token_id=ends[0])
    with model.generating() as network, writing_by(network, config):
        criteria = StoppingCriteriaList([_Stops(model.tokenizer, longest, stops)]) if any(stops) else None
        device = network.device
        out = network.generate(ids.to(device), attention_mask=mask.to(device), stopping_criteria=criteria)
    return [row[longest:] for row in out.tolist()]


def _ended(model: Model, out: list[int], ends: Sequence[int], question: Question, truncated: bool) -> Reply:
    """Cut at the first end, and say which it was."""
    end = next((place for place, token in enumerate(out) if token in ends), None)
    written = model.tokenizer.decode(out if end is None else out[:end])
    places = [place for stop in question.stop if (place := written.find(stop)) >= 0]
    if places:
        return Reply(text=written[: min(places)], stop="stop", truncated=truncated)
    return Reply(text=written, stop="length" if end is None else "eos", truncated=truncated)


class _Stops(StoppingCriteria):  # type: ignore[misc]
    """Ends a row when one of its stops has been written."""

    def __init__(self, tokenizer: Any, given: int, stops: Sequence[tuple[str, ...]]) -> None:
        self.tokenizer = tokenizer
        self.given = given
        self.stops = stops

    def __call__(self, input_ids: torch.LongTensor, _scores: torch.FloatTensor, **_: Any) -> Any:
        """Which rows are done, [rows]."""
        texts = self.tokenizer.batch_decode(input_ids[:, self.given :])
        done = [any(stop in text for stop in stops) for text, stops in zip(texts, self.stops, strict=True)]
        return torch.tensor(done, device=input_ids.device)
