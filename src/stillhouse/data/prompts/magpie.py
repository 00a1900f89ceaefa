"""Questions that a chat model asks itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stillhouse.data.synthesis import Draft, Prompt
from stillhouse.errors import DataError, ModelError, fail

_MARK = "\ue000"
"""Stands for the user's words in the template; no tokenizer's template changes a character for private use."""


def magpie(
    draft: Draft,
    tokenizer: Any,
    *,
    count: int,
    new_tokens: int = 64,
    temperature: float = 1.0,
    top_p: float = 1.0,
    together: int = 16,
) -> Iterator[Prompt]:
    """Questions of a chat model's own: given only what comes before a user's words, it writes them (Magpie, arXiv:2406.08464, §2.1).

    A draft that does not end by itself, is empty or came before is left out, and another is written in its place.

    Args:
        draft: has the teacher write.
        tokenizer: the teacher's, with a chat template.
        count: questions wanted.
        new_tokens: of a question, at most.
        temperature: of the questions.
        top_p: of the questions.
        together: written at the same time.

    Raises:
        ModelError: there is no chat template.
        DataError: the teacher writes hardly any questions of its own.
    """
    if not tokenizer.chat_template:
        what = "has no chat template, and questions are mined by what it writes before a user's words"
        raise fail(ModelError, "teacher", what, "Take an instruction-tuned teacher, or other prompts.")
    messages = [{"role": "user", "content": _MARK}]
    before, _, after = tokenizer.apply_chat_template(messages, tokenize=False).partition(_MARK)
    stop = tuple(token for token in tokenizer.get_added_vocab() if after.strip().startswith(token))
    seen: set[str] = set()
    drafts = 0
    while len(seen) < count:
        if drafts >= 20 * count + 200:
            what = f"{drafts} drafts gave only {len(seen)} of {count} different questions"
            raise fail(DataError, "prompts", what, "Raise temperature or new_tokens, or ask for fewer (count).")
        drafts += together
        settings: dict[str, Any] = {"new_tokens": new_tokens, "temperature": temperature, "top_p": top_p}
        for answer in draft([before] * together, stop=stop, done=len(seen) / count, **settings):
            text = answer.text.strip()
            if answer.finish != "length" and text and text not in seen and len(seen) < count:
                seen.add(text)
                yield Prompt(text, {"number": len(seen)}, "chat")
