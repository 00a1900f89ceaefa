"""Records of any fields, through templates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stillhouse.data.dialogue import dialogue
from stillhouse.data.render import Rendered
from stillhouse.data.templates import filled, names


def template(record: Mapping[str, Any], tokenizer: Any, *, prompt: str, response: str, chat: bool = False) -> Rendered:
    """Fields put into words: ``prompt: "Q: {{ question }} A:"``, ``response: "{{ answer }}"``; the answer carries loss.

    The templates are Jinja's, as those of P3 are (Bach et al. 2022, arXiv:2202.01279), so a label becomes a word by
    ``{{ "yes" if label else "no" }}`` and a list a line by ``{{ choices | join(", ") }}``. Never cut into pieces.

    Args:
        record: a source's record.
        tokenizer: the student's.
        prompt: what is given, with the white space before the answer.
        response: what is to be answered; it and the end token carry loss.
        chat: through the tokenizer's chat template, as a turn of the user and a turn of the assistant.

    Raises:
        DataError: a template is no template, names a field that the record has not, or cannot be filled in.
    """
    question, answer = filled(prompt, record, "", "prompt"), filled(response, record, "", "response")
    if chat:
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        rendered = dialogue(messages, tokenizer)
    else:
        text = question + answer
        rendered = Rendered(text, [(len(question), len(text))], whole=True)
    named = sorted((names(prompt) | names(response)) & {name for name in record if isinstance(name, str)})
    spans = rendered.loss_spans if answer.strip() else []
    return replace(rendered, loss_spans=spans, own="\n".join(str(record[name]) for name in named))
