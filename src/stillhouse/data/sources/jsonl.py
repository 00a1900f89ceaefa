"""JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator

from stillhouse.data.reading import Record, Tell, chunks, files, in_turn, matching, not_utf8, reads, untold
from stillhouse.errors import DataError, fail

_ENDINGS = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")


@reads(lambda options: matching(options["path"], _ENDINGS))
def jsonl(tell: Tell = untold, *, path: str) -> Iterator[Record]:
    """JSON lines, also gzipped: one object a line is one record. Blank lines are skipped.

    Args:
        tell: called with the share of the bytes that was read.
        path: a file, a folder (its .jsonl, .ndjson files, also .gz, at any depth) or a glob.

    Raises:
        DataError: no file matches; a line is not JSON, not an object or not UTF-8 (says file and line).
    """
    for file, tell_of_it in in_turn(files(path, _ENDINGS), tell):
        offset = 0
        for number, line in enumerate(_lines(chunks(file, tell_of_it)), 1):
            start, offset = offset, offset + len(line) + 1
            if not line.strip():
                continue
            where = f"{file}, line {number}"
            try:
                record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                raise not_utf8(file, start + error.start, error) from None
            except json.JSONDecodeError as error:
                what = f"is not JSON: {error.msg} at column {error.colno}"
                raise fail(DataError, where, what, "One line holds one whole JSON object.") from None
            if not isinstance(record, dict):
                what = f"holds a {type(record).__name__}, not an object"
                raise fail(DataError, where, what, 'Write each record as {"field": …}.')
            yield record


def _lines(parts: Iterator[bytes]) -> Iterator[bytes]:
    rest: list[bytes] = []
    for part in parts:
        first, *more = part.split(b"\n")
        rest.append(first)
        if more:
            yield b"".join(rest)
            yield from more[:-1]
            rest = [more[-1]]
    yield b"".join(rest)
