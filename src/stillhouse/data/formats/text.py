"""Plain documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stillhouse.data.render import Rendered, value_of


def text(record: Mapping[str, Any], tokenizer: Any, *, field: str = "text") -> Rendered:
    """A plain document: every token carries loss; longer than a block, it is cut into pieces.

    Args:
        record: a source's record.
        tokenizer: the student's.
        field: where the text is.

    Raises:
        DataError: the field is missing or not text.
    """
    return Rendered(value_of(record, field, str, "field"))
