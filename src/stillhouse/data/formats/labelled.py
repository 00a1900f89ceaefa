"""Texts, or pairs of texts, with a class each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from stillhouse.data.render import PAIR, UNKNOWN, Rendered, value_of
from stillhouse.errors import DataError, did_you_mean, fail


def labelled(
    record: Mapping[str, Any],
    tokenizer: Any,
    *,
    classes: Annotated[int, Field(ge=2)] | Annotated[list[str], Field(min_length=2)],
    text: str = "text",
    pair: str | None = None,
    label: str | None = "label",
) -> Rendered:
    """A text with its class, for a classifier: one label a document, at the place that the tokenizer gives a class.

    That is the first token of those that put one there for it (BERT's [CLS]), else the last. Never cut into pieces: a text
    longer than a block is cut off as the tokenizer does, of a pair the longer one first.

    Args:
        record: a source's record.
        tokenizer: the student's.
        classes: their names in order; a label is one of them, or its number from 0. Or how many there are.
        text: the field of the text.
        pair: the field of a second text that the class is of too, such as a premise's hypothesis.
        label: the field of the class; null where there is none: the teacher alone says what the texts are.

    Raises:
        DataError: a field is missing or of another type, or the label is no class.
    """
    texts = [value_of(record, text, str, "text"), *([value_of(record, pair, str, "pair")] if pair is not None else [])]
    for field, value in zip((text, pair), texts, strict=False):
        if PAIR in value:
            raise fail(DataError, str(field), f"holds the character {PAIR!r}, which parts pairs here", "Take it out.")
    names = [str(number) for number in range(classes)] if isinstance(classes, int) else classes
    index = UNKNOWN if label is None else _index(value_of(record, label, object, "label"), names, label)
    return Rendered(texts[0], whole=True, pair=texts[1] if pair is not None else None, label=index)


def _index(value: Any, names: list[str], field: str) -> int:
    """The number of a class."""
    if isinstance(value, str) and value in names:
        return names.index(value)
    if isinstance(value, int) and 0 <= value < len(names):
        return int(value)
    what = f"holds {value!r}, which is none of the {len(names)} classes"
    numbers = f"Give a number from 0 to {len(names) - 1}."
    raise fail(DataError, field, what, did_you_mean(value, names) if isinstance(value, str) else numbers)
