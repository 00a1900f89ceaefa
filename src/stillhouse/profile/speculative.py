"""Speculative decoding: the student drafts, its teacher checks several tokens at once, and the text is the teacher's own.

Leviathan, Kalman and Matias 2023, arXiv:2211.17192: a drafted token x is kept with probability min(1, p(x) / q(x)), so that the
share kept is Σ min(p, q), and with drafts of γ tokens of which each is kept with probability α a check gives
(1 − α^(γ+1)) / (1 − α) tokens (§3.1 to §3.3). Carried out by transformers (``assistant_model``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from stillhouse.errors import ModelError, fail
from stillhouse.models import Model, writing_by
from stillhouse.quantiles import Quantile, quantile
from stillhouse.vocabulary import compare_vocabularies

DRAFT = 4
"""Tokens drafted before each check: γ."""
ROUNDS = 4
"""Texts after each prompt; those with and without drafts take turns."""


@dataclass(frozen=True)
class Speculation:
    """What was found.

    Args:
        draft: tokens drafted before each check.
        tested: drafted tokens that the teacher looked at: those kept, and the first of each draft that was not.
        accepted: share of them that it kept.
        predicted: mean of Σ min(p, q) at the positions of the texts that were written.
        held_out: the same on held-out text, where the evaluation has it.
        per_check: tokens that a check gave.
        expected: tokens that it should give at the measured share, each token kept independently of the others.
        cost: time of a student's token over the teacher's.
        speed_up: time of a text without drafts over that with them: median over pairs, with its interval.
        greedy: the same where the likeliest token is taken each time.
        same_words: whether the greedy texts with and without drafts were the same.
    """

    draft: int
    tested: int
    accepted: float
    predicted: float
    held_out: float | None
    per_check: float
    expected: float
    cost: float
    speed_up: Quantile
    greedy: Quantile
    same_words: bool

    @property
    def predicted_speed_up(self) -> float:
        """Tokens of a check over its time in tokens of the teacher: γ drafts and the check itself (§3.3)."""
        return self.expected / (self.draft * self.cost + 1.0)


def refuse(teacher: Model, student: Model) -> None:
    """Refuse a student that cannot draft for a teacher; both may be empty.

    Raises:
        ModelError: they have other tokens, one of them classifies, or one keeps a state that cannot be taken back.
    """
    if teacher.classifies or student.classifies:
        raise fail(ModelError, student.name, "classifies, and drafts are of text", "Leave --speculative out.")
    same = compare_vocabularies(student.tokenizer, teacher.tokenizer).comparable
    if not same or teacher.outcomes != student.outcomes:
        what = "drafts tokens that its teacher does not have"
        raise fail(ModelError, student.name, what, "Take a student with the teacher's whole vocabulary.")
    for model in (teacher, student):
        if not model.packs or getattr(model.network, "_is_stateful", False):
            what = "keeps a state that cannot be taken back to before a draft"
            raise fail(ModelError, model.name, what, "Leave --speculative out.")


def speculate(
    teacher: Model,
    student: Model,
    prompts: Sequence[Sequence[int]],
    tokens: int,
    *,
    held_out: float | None = None,
    cost: float,
    advance: Callable[[int], None] = lambda done: None,
) -> Speculation:
    """Let a teacher write with and without its student's drafts.

    Args:
        teacher: whose text it is.
        student: who drafts; of the same tokens.
        prompts: token ids.
        tokens: of each text.
        held_out: Σ min(p, q) as an evaluation found it.
        cost: time of a student's token over the teacher's.
        advance: told of each pair of texts.

    Raises:
        ModelError: the student cannot draft for this teacher; see ``refuse``.
    """
    refuse(teacher, student)
    ratios: dict[bool, list[float]] = {True: [], False: []}
    kept = tested = checks = new = 0
    overlaps = []
    same = True
    with ExitStack() as stack:
        big, small = (stack.enter_context(model.generating()) for model in (teacher, student))
        lengths = stack.enter_context(_checks(big))
        stack.enter_context(_always(small))
        for number in range(ROUNDS):
            for ids in prompts:
                given = torch.tensor([list(ids)])
                for sample in (True, False):
                    texts, seconds = [], []
                    for assistant in (None, small) if number % 2 else (small, None):
                        lengths.clear()
                        torch.manual_seed(number)
                        began = time.perf_counter()
                        texts.append(_write(big, given, tokens, sample, assistant))
                        seconds.append(time.perf_counter() - began)
                        if assistant is not None and sample:
                            a, b, c = _count(lengths, len(ids))
                            kept, tested, checks = kept + a, tested + b, checks + c
                            new += texts[-1].shape[1] - len(ids)
                            overlaps.append(_overlap(big, small, texts[-1], len(ids)))
                    plain, drafted = seconds if number % 2 else reversed(seconds)
                    ratios[sample].append(plain / drafted)
                    same = same and (sample or torch.equal(texts[0], texts[1]))
                advance(1)
    share = kept / max(1, tested)
    expected = DRAFT + 1.0 if share == 1.0 else (1.0 - share ** (DRAFT + 1)) / (1.0 - share)
    return Speculation(
        draft=DRAFT,
        tested=tested,
        accepted=share,
        predicted=float(torch.cat(overlaps).mean()),
        held_out=held_out,
        per_check=new / max(1, checks),
        expected=expected,
        cost=cost,
        speed_up=quantile(ratios[True], 0.5),
        greedy=quantile(ratios[False], 0.5),
        same_words=same,
    )


def _write(network: Any, given: Tensor, tokens: int, sample: bool, assistant: Any) -> Tensor:
    """A text of exactly so many tokens, drawn at temperature 1 from all of them, or the likeliest each time: [1, P]."""
    how = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} if sample else {"do_sample": False}
    config = GenerationConfig(max_new_tokens=tokens, eos_token_id=None, pad_token_id=0, **how)
    extra = {} if assistant is None else {"assistant_model": assistant}
    mask = torch.ones_like(given)
    with writing_by(network, config):
        out: Tensor = network.generate(given, attention_mask=mask, **extra)
    return out


@contextmanager
def _always(network: Any) -> Iterator[None]:
    """A student that always drafts as many tokens, however unsure it is."""
    config = GenerationConfig(
        num_assistant_tokens=DRAFT, num_assistant_tokens_schedule="constant", assistant_confidence_threshold=0.0
    )
    with writing_by(network, config):
        yield


@contextmanager
def _checks(network: Any) -> Iterator[list[tuple[int, int]]]:
    """How many tokens the network had read before each time it is asked, and how many it is given: (before, given)."""
    seen: list[tuple[int, int]] = []

    def note(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        past = kwargs.get("past_key_values")
        seen.append((0 if past is None else int(past.get_seq_length()), int(kwargs["input_ids"].shape[1])))

    hook = network.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


def _count(checks: Sequence[tuple[int, int]], prompt: int) -> tuple[int, int, int]:
    """Of one text, from what the teacher was given: drafted tokens kept, tokens tested, and checks.

    A check is given the last token and the drafts after it. What it gives is a token more than it keeps. What the last one
    kept is not counted: the text may end before its drafts do.
    """
    kept = tested = 0
    begins = [max(prompt, before + 1) for before, _ in checks]  # tokens that the text had when the check began
    for (before, given), begin, end in zip(checks[:-1], begins[:-1], begins[1:], strict=True):
        drafted = before + given - begin
        good = end - begin - 1
        kept += good
        tested += good + (1 if good < drafted else 0)
    return kept, tested, len(checks)


@torch.inference_mode()
def _overlap(big: Any, small: Any, ids: Tensor, prompt: int) -> Tensor:
    """Σ min(p, q) at each position after the prompt, [N]."""
    p, q = (torch.softmax(network(input_ids=ids).logits[0, prompt - 1 : -1].float(), -1) for network in (big, small))
    return torch.minimum(p, q).sum(-1)
