"""Text that the teacher writes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch

from stillhouse.data.reading import Record, Tell, decoded, files, matching, reads, untold
from stillhouse.errors import DataError, fail
from stillhouse.models import Model

_ENDINGS = (".txt",)


class Writer(Protocol):
    """Who answers prompts by itself: a teacher behind a server."""

    def write(self, prompts: list[str], *, new_tokens: int, temperature: float, top_p: float, seed: int) -> list[str]:
        """An answer to each prompt."""
        ...


@reads(lambda options: matching(options["prompts"], _ENDINGS))
def written(
    teacher: Any,
    tell: Tell = untold,
    *,
    prompts: str,
    samples: int = 1,
    new_tokens: int = 128,
    temperature: float = 0.8,
    top_p: float = 0.95,
    together: int = 16,
    seed: int = 0,
) -> Iterator[Record]:
    """Answers of the teacher itself to the prompts in a file, one prompt a line.

    Through the tokenizer's chat template where it has one, else as continuations. Yields ``{"prompt": …, "response": …,
    "text": …, "messages": [user, assistant]}``, so that every format can read it. An answer that the length cut short is
    kept; an empty one is not. The same seed gives the same text on the same machine.

    Args:
        teacher: who writes: a ``Model``, a ``Writer``, or what has a ``Model`` as its ``model``.
        tell: called with the share of the tokens that is written, counting each answer at its longest.
        prompts: a text file, or a folder or glob of them; a line each, empty lines and those that begin with # left out.
        samples: answers to each prompt.
        new_tokens: of an answer, at most.
        temperature: of the sampling; higher is more diverse.
        top_p: only the likeliest tokens that together have this probability.
        together: prompts answered at the same time.
        seed: of the sampling.

    Raises:
        DataError: no such file, or no prompt in it.

    """
    lines = [line.strip() for file in files(prompts, _ENDINGS) for line in "".join(decoded(file)).splitlines()]
    asked = [line for line in lines if line and not line.startswith("#") for _ in range(samples)]
    if not asked:
        raise fail(DataError, prompts, "holds no prompt", "Write one prompt a line.")
    model: Model | Writer = teacher if isinstance(teacher, Model) or hasattr(teacher, "write") else teacher.model
    for start in range(0, len(asked), together):
        some = asked[start : start + together]
        counter = _Counter(tell, start / len(asked), len(some) / len(asked) / new_tokens)
        if isinstance(model, Model):
            answers = _answers(model, some, new_tokens, temperature, top_p, seed + start, counter)
        else:
            answers = model.write(some, new_tokens=new_tokens, temperature=temperature, top_p=top_p, seed=seed + start)
        for prompt, answer in zip(some, answers, strict=True):
            if answer.strip():
                yield _record(prompt, answer.strip())
        tell((start + len(some)) / len(asked))


class _Counter:
    """Sees each token as it is written (as a streamer of transformers), and tells of the share that is done."""

    def __init__(self, tell: Tell, share: float, step: float) -> None:
        self.tell, self.share, self.step = tell, share, step
        self.tokens = -1  # the prompt comes first

    def put(self, _value: Any) -> None:
        """One more token of each answer."""
        self.tokens += 1
        if self.tokens:
            self.tell(self.share + self.tokens * self.step)

    def end(self) -> None:
        """All are written."""


@torch.no_grad()
def _answers(
    teacher: Model,
    prompts: list[str],
    new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    counter: _Counter,
) -> list[str]:
    tokenizer = teacher.tokenizer
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (tokenizer.eos_token_id or 0)
    rows = [tokenizer(_as_prompt(tokenizer, line), add_special_tokens=False).input_ids for line in prompts]
    longest = max(len(row) for row in rows)
    ids_BL = torch.tensor([[pad] * (longest - len(row)) + row for row in rows])
    mask_BL = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    with torch.random.fork_rng(devices=[]), teacher.generating() as network:
        torch.manual_seed(seed)
        out = network.generate(
            ids_BL.to(network.device),
            attention_mask=mask_BL.to(network.device),
            max_new_tokens=new_tokens,
            do_sample=True,
            temperature=temperature,
            top_p=top_p,
            top_k=0,
            pad_token_id=pad,
            streamer=counter,
        )
    return list(tokenizer.batch_decode(out[:, longest:], skip_special_tokens=True))


def _as_prompt(tokenizer: Any, line: str) -> str:
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": line}]
        return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
    return line


def _record(prompt: str, answer: str) -> Record:
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return {"prompt": prompt, "response": answer, "text": answer, "messages": messages}
