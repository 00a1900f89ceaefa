"""Beginnings of real documents."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from stillhouse.data.reading import reads, untold
from stillhouse.data.render import value_of
from stillhouse.data.synthesis import Prompt, inputs_of
from stillhouse.errors import DataError, fail
from stillhouse.find import check_options, find, holds
from stillhouse.recipe import Strategy
from stillhouse.vocabulary import encode


@holds(lambda options: [("source", options["source"], "source")])
@reads(lambda options: inputs_of("source", options["source"]))
def prefixes(
    tokenizer: Any, *, source: Strategy, field: str = "text", tokens: int = 32, count: int | None = None
) -> Iterator[Prompt]:
    """Beginnings of real documents, which the teacher goes on from: Kim and Rush 2016, arXiv:1606.07947, where no answer is given.

    Args:
        tokenizer: the teacher's.
        source: where the documents are from, as in ``data.sources``: ``{name: text, path: books/*.txt}``.
        field: of a record that holds the text.
        tokens: of each beginning; of a document no longer than twice that, its first half.
        count: documents at most.

    Raises:
        DataError: a record has no such field, or the source needs a teacher itself.
    """
    read = find("source", source.name, "source")
    given = inspect.signature(read).parameters
    if "teacher" in given:
        raise fail(DataError, "source", f"'{source.name}' writes its documents", "Take one that reads them.")
    records = read(*([untold] if "tell" in given else []), **check_options(read, source.options, "source"))
    found = 0
    for number, record in enumerate(records):
        if count is not None and found >= count:
            return
        text = value_of(record, field, str, "field")
        # a long document is not tokenised to its end for the sake of its beginning
        part = text[: 64 * tokens]
        ends = [end for start, end in encode(tokenizer, part, special=False)["offset_mapping"] if end > start]
        taken = min(tokens, len(ends) // 2)
        if taken:
            found += 1
            yield Prompt(part[: ends[taken - 1]], {"source": source.name, "record": number}, "text")
