"""Conversations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from stillhouse.data.dialogue import converses, dialogue
from stillhouse.data.render import Rendered, value_of
from stillhouse.errors import DataError, fail


@converses(lambda _: True)
def chat(
    record: Mapping[str, Any],
    tokenizer: Any,
    *,
    field: str = "messages",
    loss: Literal["responses", "all"] = "responses",
) -> Rendered:
    """A conversation through the tokenizer's chat template: what the assistant says carries loss, in every turn.

    The end of a turn that the template writes after the assistant's words carries loss too. Never cut into pieces.

    Args:
        record: a source's record.
        tokenizer: the student's, with a chat template.
        field: where the list of messages is, each with ``role`` and ``content``.
        loss: on the assistant's turns, or on all of the text.

    Raises:
        DataError: the field is missing or holds no messages, or the template cannot be used (see ``dialogue``).
    """
    messages = value_of(record, field, list, "field")
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            raise fail(DataError, f"{field}[{i}]", f"is {type(message).__name__}, not a message of role and content")
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                came = ", ".join(f"{k}: {type(v).__name__}" for k, v in message.items())
                raise fail(DataError, f"{field}[{i}]", f"has no text in '{key}' (it has {came or 'nothing'})")
    if not messages:
        raise fail(DataError, field, "holds no messages", "Filter such records out of the source.")
    own = "\n".join(message["content"] for message in messages)
    return replace(dialogue(messages, tokenizer, everything=loss == "all"), own=own)
