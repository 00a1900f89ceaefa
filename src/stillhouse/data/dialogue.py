"""Conversations through a tokenizer's chat template, with the borders of what the assistant says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from stillhouse.data.render import Rendered
from stillhouse.errors import DataError, fail

Message = dict[str, Any]


_F = TypeVar("_F", bound=Callable[..., Any])


def converses(when: Callable[[Mapping[str, Any]], bool]) -> Callable[[_F], _F]:
    """Mark a format that writes with the tokenizer's chat template, so that a tokenizer without one is refused before work.

    Args:
        when: given the format's options, whether it does.

    """

    def mark(format_: _F) -> _F:
        format_.converses = when  # type: ignore[attr-defined]
        return format_

    return mark


def dialogue(messages: Sequence[Message], tokenizer: Any, *, everything: bool = False) -> Rendered:
    """Render messages once; the loss spans are what the template writes for the assistant, end of turn included.

    A turn's span starts where the messages before it end when the template is asked for a generation prompt, and ends
    where the messages up to it end. Both must be beginnings of the whole text.

    Args:
        messages: each with ``role`` and ``content``.
        tokenizer: with a chat template.
        everything: all of the text carries loss, not only the assistant's turns.

    Raises:
        DataError: there is no template; it refuses the messages; or it writes earlier turns otherwise when later ones
            follow, so that the borders of a turn cannot be found.
    """
    if not tokenizer.chat_template:
        raise fail(
            DataError,
            "tokenizer",
            "has no chat template",
            "Take an instruction-tuned model's tokenizer, or the format prompt_response with a template of your own.",
        )
    text = _render(tokenizer, messages, prompt=False)
    if everything:
        return Rendered(text, whole=True, special=True)
    spans = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _render(tokenizer, messages[:i], prompt=True)
        upto = _render(tokenizer, messages[: i + 1], prompt=False) if i + 1 < len(messages) else text
        if not (text.startswith(before) and text.startswith(upto) and len(before) < len(upto)):
            raise fail(
                DataError,
                f"messages[{i}]",
                "the chat template writes this turn otherwise in the whole conversation, "
                "so what the assistant said cannot be told apart",
                "End each conversation after one assistant turn, or use loss: all, or prompt_response with a template.",
            )
        spans.append((len(before), len(upto)))
    return Rendered(text, spans, whole=True, special=True)


def _render(tokenizer: Any, messages: Sequence[Message], *, prompt: bool) -> str:
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=prompt)
    except (TemplateError, TypeError, IndexError, KeyError, ValueError) as error:
        raise fail(DataError, "messages", f"the chat template refuses them: {error}") from None
    assert isinstance(text, str)
    return text
