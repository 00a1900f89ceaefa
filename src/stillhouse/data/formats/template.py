"""Records of any fields, through templates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, UndefinedError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from stillhouse.data.dialogue import dialogue
from stillhouse.data.render import Rendered
from stillhouse.errors import DataError, fail


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
    question, answer = _filled(prompt, record, "prompt"), _filled(response, record, "response")
    if chat:
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        rendered = dialogue(messages, tokenizer)
    else:
        text = question + answer
        rendered = Rendered(text, [(len(question), len(text))], whole=True)
    named = sorted((_named(prompt) | _named(response)) & {name for name in record if isinstance(name, str)})
    spans = rendered.loss_spans if answer.strip() else []
    return replace(rendered, loss_spans=spans, own="\n".join(str(record[name]) for name in named))


def _filled(text: str, record: Mapping[str, Any], option: str) -> str:
    present = ", ".join(map(str, record)) or "none"
    try:
        return _compiled(text).render(record)
    except UndefinedError as error:
        what = f"lacks what the template asks for: {error.message}"
        way_out = f"The record has the fields {present}. Mend the format's option '{option}', or give this source one of its own."
        raise fail(DataError, "", what, way_out) from None
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        what = f"cannot be put into the template of '{option}': {error}"
        raise fail(DataError, "", what, f"The record has the fields {present}. Templates are Jinja's.") from None


_JINJA = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)


@cache
def _compiled(text: str) -> Template:
    return _JINJA.from_string(text)


@cache
def _named(text: str) -> frozenset[str]:
    """The fields that a template names."""
    return frozenset(meta.find_undeclared_variables(_JINJA.parse(text)))
