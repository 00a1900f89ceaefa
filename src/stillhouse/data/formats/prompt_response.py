"""Prompts with their answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from stillhouse.data.dialogue import converses, dialogue
from stillhouse.data.render import Rendered, value_of
from stillhouse.data.templates import refuse_single_braces
from stillhouse.errors import DataError, fail


@converses(lambda options: options.get("template") == "chat")
def prompt_response(
    record: Mapping[str, Any],
    tokenizer: Any,
    *,
    prompt: str = "prompt",
    response: str = "response",
    loss: Literal["response", "all"] = "response",
    template: str = "{{ prompt }}\n{{ response }}",
) -> Rendered:
    """A prompt and its answer: the answer and the end token carry loss. Never cut into pieces.

    Args:
        record: a source's record.
        tokenizer: the student's.
        prompt: the field of the prompt.
        response: the field of the answer.
        loss: on the answer (and what the template writes after it), or on all of the text.
        template: how they become one text: ``{{ prompt }}`` once, then ``{{ response }}`` once; or the word ``chat`` for the
            tokenizer's chat template with a turn of the user and a turn of the assistant. If a special token such as
            ``<|user|>`` is written in it, special tokens in the text are read as such and the tokenizer adds none.

    Raises:
        DataError: a field is missing or not text, or the template cannot be used.
    """
    question = value_of(record, prompt, str, "prompt")
    answer = value_of(record, response, str, "response")
    everything = loss == "all"
    if template == "chat":
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        rendered = dialogue(messages, tokenizer, everything=everything)
    else:
        head, middle, tail = _parts(template)
        start = len(head) + len(question) + len(middle)
        text = head + question + middle + answer + tail
        marked = any(token in part for token in tokenizer.get_added_vocab() for part in (head, middle, tail))
        rendered = Rendered(text, None if everything else [(start, len(text))], whole=True, special=marked)
    if not answer.strip() and not everything:
        rendered = replace(rendered, loss_spans=[])  # nothing to learn from
    return replace(rendered, own=f"{question}\n{answer}")


def _parts(template: str) -> tuple[str, str, str]:
    head, *places = re.split(r"\{\{\s*(prompt|response)\s*\}\}", template)
    if places[::2] != ["prompt", "response"]:
        refuse_single_braces(template, ("prompt", "response"), "")
        raise fail(
            DataError,
            "template",
            f"{template!r} is to have {{{{ prompt }}}} once and {{{{ response }}}} once after it",
            r'For example "Question: {{ prompt }}\nAnswer: {{ response }}", or chat.',
        )
    return head, places[1], places[3]
