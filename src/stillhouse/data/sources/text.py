"""Plain text files."""

from __future__ import annotations

from collections.abc import Iterator

from stillhouse.data.reading import Record, Tell, decoded, files, in_turn, matching, reads, untold
from stillhouse.errors import DataError, fail

_ENDINGS = (".txt", ".txt.gz", ".md", ".text")


@reads(lambda options: matching(options["path"], _ENDINGS))
def text(tell: Tell = untold, *, path: str, separator: str | None = None, at_least: int = 0) -> Iterator[Record]:
    r"""Plain text files in UTF-8, also gzipped: each file is a document, or is cut into documents at a separator.

    Yields ``{"text": …}``. Line ends become ``\n``. With a separator, pieces of nothing but white space are left out
    and the file is read a megabyte at a time; without one, a file is held in memory while it is a document.

    Args:
        tell: called with the share of the bytes that was read.
        path: a file, a folder (its .txt, .text, .md and .txt.gz files at any depth) or a glob such as
            ``books/**/*.txt``.
        separator: cut files into documents here, such as ``"\n\n"`` for paragraphs or ``"<|endoftext|>"``; it is not
            kept.
        at_least: characters of a document: what lies between two separators is joined with what follows, separators kept
            between, until there are as many; the last of a file may be shorter. For a book whose paragraphs are too short
            to learn from one by one.

    Raises:
        DataError: no file matches, a file is empty or not UTF-8.
    """
    for file, tell_of_it in in_turn(files(path, _ENDINGS), tell):
        seen = False
        for document in _joined(_documents(decoded(file, tell_of_it), separator), separator or "", at_least):
            if document.strip():
                seen = True
                yield {"text": document}
        if not seen:
            raise fail(DataError, str(file), "is empty", "Take it out of data.sources, or put text into it.")


def _documents(parts: Iterator[str], separator: str | None) -> Iterator[str]:
    if not separator:
        yield "".join(parts)
        return
    rest: list[str] = []
    for part in parts:
        # a separator may lie across the border of two parts: only the end of what was left over can begin one
        tail = "".join(rest)[-len(separator) + 1 :] if len(separator) > 1 else ""
        if separator not in tail + part:
            rest.append(part)
            continue
        *whole, last = ("".join(rest) + part).split(separator)
        yield from whole
        rest = [last]
    yield "".join(rest)


def _joined(pieces: Iterator[str], separator: str, at_least: int) -> Iterator[str]:
    waiting: list[str] = []
    characters = 0
    for piece in pieces:
        waiting.append(piece)
        characters += len(piece) + len(separator) * (len(waiting) > 1)
        if characters >= at_least:
            yield separator.join(waiting)
            waiting, characters = [], 0
    if waiting:
        yield separator.join(waiting)
