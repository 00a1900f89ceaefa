"""Prompts in files."""

from __future__ import annotations

from collections.abc import Iterator

from stillhouse.data.reading import LINES, lines, matching, reads
from stillhouse.data.synthesis import Prompt


@reads(lambda options: matching(options["path"], LINES))
def files(*, path: str, template: str = "{{ prompt }}") -> Iterator[Prompt]:
    """Prompts in files: a line each of a text file, or an object each of JSON lines.

    Args:
        path: a file, a folder (its .txt and .jsonl files at any depth) or a glob. Of a text file, empty lines and those that
            begin with # are left out.
        template: how a prompt is made of an object's fields, Jinja's, such as "{{ instruction }} {{ input }}"; of a line of text, the field
            is ``prompt``.

    Raises:
        DataError: no such file, or no prompt in one; a line is no object, or has no such field.
    """
    for file, number, text in lines(path, template, "prompt"):
        yield Prompt(text, {"file": file.name, "line": number})
