"""Chat: what a student says, what its teacher says, both side by side, token by token with how likely each was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stillhouse import models, recipe
from stillhouse import teacher as teachers
from stillhouse.errors import ModelError, RunError, fail
from stillhouse.models import Model
from stillhouse.packages import PREFIX
from stillhouse.writing import Ask, draw


@dataclass(frozen=True)
class Token:
    """One token of a reply.

    Args:
        text: what it adds to the reply; "" while a character is not whole yet, and for the token that ends it.
        piece: the token by itself.
        probability: that it had, at temperature 1.
        others: the likeliest tokens, itself perhaps among them, with their probabilities.
        ends: whether it ends the reply.
    """

    text: str
    piece: str
    probability: float
    others: tuple[tuple[str, float], ...]
    ends: bool


@dataclass(frozen=True)
class Manner:
    """How replies are drawn.

    Args:
        new_tokens: of a reply, at most.
        temperature: 0 takes the likeliest token each time.
        top_p: only the likeliest tokens that together have this probability.
        seed: of the sampling.
        template: put messages through the tokenizer's chat template; if not, or where it has none, texts are continued.
    """

    new_tokens: int = 200
    temperature: float = 0.7
    top_p: float = 0.95
    seed: int = 0
    template: bool = True


class Speaker:
    """A model in a conversation of its own.

    Args:
        role: ``student``, ``teacher`` or ``model``.
        model: who speaks.
        manner: how.
        end: the token that ended documents in its training, if that is known.
    """

    def __init__(self, role: str, model: Model, manner: Manner, end: str | None = None) -> None:
        self.role, self.model, self.manner = role, model, manner
        self.messages: list[dict[str, str]] = []
        tokenizer: Any = model.tokenizer
        own = getattr(getattr(model.network, "generation_config", None), "eos_token_id", None)
        named = tokenizer.get_vocab().get(end) if end else None
        listed = own if isinstance(own, list) else [own]
        self.ends = {int(i) for i in (*listed, tokenizer.eos_token_id, named) if i is not None}

    @property
    def chats(self) -> bool:
        """Whether messages go through a chat template."""
        return self.manner.template and bool(self.model.tokenizer.chat_template)

    def forget(self) -> None:
        """Begin a new conversation."""
        self.messages = []

    def classes(self, text: str) -> list[tuple[str, float]]:
        """A classifier's classes with their probabilities for a text, the likeliest first."""
        ids = self.model.tokenizer(text, return_tensors="pt", truncation=True)
        with self.model.generating() as network, torch.inference_mode():
            p_C = torch.softmax(network(input_ids=ids.input_ids, attention_mask=ids.attention_mask).logits[0], -1)
        return sorted(zip(self.model.classes, p_C.tolist(), strict=True), key=lambda one: -one[1])

    def reply(self, text: str, *, top: int = 4) -> Iterator[Token]:
        """Answer a message, or continue a text, a token at a time; the message is remembered once the reply is whole.

        Args:
            text: what is said to it.
            top: how many of the likeliest tokens to name beside each.

        Raises:
            ModelError: the conversation is longer than the model can read.
        """
        messages = [*self.messages, {"role": "user", "content": text}]
        tokenizer: Any = self.model.tokenizer
        if self.chats:
            given = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            ids = list(tokenizer(given, add_special_tokens=False).input_ids)
        else:
            ids = list(tokenizer(text).input_ids) or [min(self.ends, default=0)]
        self._refuse_too_long(len(ids))
        said = ""
        for token in self._tokens(ids, top):
            said += token.text
            yield token
        self.messages = [*messages, {"role": "assistant", "content": said}] if self.chats else []

    def _tokens(self, ids: Sequence[int], top: int) -> Iterator[Token]:
        manner, tokenizer = self.manner, self.model.tokenizer
        ask = Ask("", "exact", manner.seed, manner.new_tokens, temperature=manner.temperature, top_p=manner.top_p)
        chances = torch.rand(manner.new_tokens, generator=torch.Generator().manual_seed(manner.seed)).tolist()
        written: list[int] = []
        shown = ""
        past: Any = None
        fed = torch.tensor([list(ids)])
        with self.model.generating() as network:
            for chance in chances:
                with torch.inference_mode():
                    out = network(input_ids=fed, past_key_values=past, use_cache=True)
                past, logits_1V = out.past_key_values, out.logits[:, -1].float()
                (chosen,), (logp,) = draw(logits_1V, [ask], [chance])
                p_V = torch.softmax(logits_1V[0], -1)
                best = p_V.topk(min(top, len(p_V)))
                others = zip(best.indices.tolist(), best.values.tolist(), strict=True)
                written.append(chosen)
                ended = chosen in self.ends
                whole = shown if ended else str(tokenizer.decode(written, skip_special_tokens=True))
                new = "" if whole.endswith("\ufffd") and len(written) < manner.new_tokens else whole[len(shown) :]
                shown += new
                named = tuple((str(tokenizer.decode([i])), p) for i, p in others)
                piece = str(tokenizer.decode([chosen]))
                yield Token(new, piece, float(torch.tensor(logp).exp()), named, ended)
                if ended:
                    return
                fed = torch.tensor([[chosen]])

    def _refuse_too_long(self, length: int) -> None:
        most = getattr(self.model.config, "max_position_embeddings", None)
        if most is not None and length + self.manner.new_tokens > most:
            what = f"reads {most:,} tokens, and the conversation with {self.manner.new_tokens:,} new ones has {length + self.manner.new_tokens:,}"
            raise fail(ModelError, self.model.name, what, "Begin a new one (/new), or ask for fewer --tokens.")


def speakers(what: str, manner: Manner, *, teacher: bool = False, side_by_side: bool = False) -> list[Speaker]:
    """Load who is to speak.

    Args:
        what: a run's folder, or a model: a folder, a hub id, a GGUF file, ``pkg:NAME``.
        manner: how they speak.
        teacher: a run's teacher instead of its student.
        side_by_side: both.

    Raises:
        RunError: the run has no finished student.
        ModelError: there is no such model, or a teacher is asked for whose weights are not here.
    """
    folder = Path(what)
    if what.startswith(PREFIX) or not (folder / "recipe.yaml").is_file():
        if teacher or side_by_side:
            raise fail(RunError, what, "is not a run's folder, so it has no teacher", "Give runs/<name>.")
        return [Speaker("model", teachers.load(recipe.as_teacher(what)).model, manner)]
    settings = recipe.load(folder / "recipe.yaml")
    found = []
    if not teacher or side_by_side:
        if not (folder / "student" / "config.json").is_file():
            raise fail(RunError, what, "holds no finished student", f"Finish it: stillhouse run {folder}/recipe.yaml")
        student = models.load(str(folder / "student"), name=settings.name)
        found.append(Speaker("student", student, manner, settings.data.end_token))
    if teacher or side_by_side:
        if settings.reference.name in ("store", "served"):
            what_came = f"the weights of its teacher '{settings.reference.name}' are not here"
            raise fail(ModelError, what, what_came, "Leave --teacher and --side-by-side out.")
        loaded = teachers.load(settings.reference)
        if not loaded.alone:
            raise fail(ModelError, what, "its teacher is more than one model", "Give one of them by its own name.")
        found.append(Speaker("teacher", loaded.model, manner))
    return found
