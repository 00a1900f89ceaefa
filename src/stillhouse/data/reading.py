"""What the sources share: finding files, opening them, and saying which byte of them is wrong."""

from __future__ import annotations

import codecs
import glob
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from stillhouse.data.templates import filled
from stillhouse.errors import DataError, did_you_mean, fail

Record = dict[str, Any]
"""What a source yields: one example's fields."""

Tell = Callable[[float], None]
"""What a source calls with the share of its work that is done, from 0 to 1."""

_CHUNK = 1 << 20
_F = TypeVar("_F", bound=Callable[..., Any])


def reads(inputs: Callable[[dict[str, Any]], list[Path] | None]) -> Callable[[_F], _F]:
    """Mark a strategy with the files it would read, given its options: if their size or time changes, so does the data.

    None where these options read none; no file at all where they should is a mistake that the check tells.
    """

    def mark(function: _F) -> _F:
        function.inputs = inputs  # type: ignore[attr-defined]
        return function

    return mark


def untold(share: float) -> None:
    """Nobody wants to know how far a source has come."""


def in_turn(paths: list[Path], tell: Tell) -> Iterator[tuple[Path, Tell]]:
    """Each file with what to call with the share of it that is done; of all files together, by size, ``tell`` is told."""
    sizes = [path.stat().st_size for path in paths]
    total, before = max(sum(sizes), 1), 0
    for path, size in zip(paths, sizes, strict=True):

        def tell_of_it(share: float, before: int = before, size: int = size) -> None:
            tell((before + share * size) / total)

        yield path, tell_of_it
        before += size
    tell(1.0)


def matching(path: str, endings: tuple[str, ...]) -> list[Path]:
    """The files meant by a path, sorted: the file, a folder's files of these endings (at any depth), or a glob's."""
    place = Path(path).expanduser()
    if place.is_file():
        return [place]
    if place.is_dir():
        return sorted(p for p in place.rglob("*") if p.name.lower().endswith(endings) and p.is_file())
    found = glob.glob(str(place), recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)
    return sorted(p for p in map(Path, found) if p.is_file())


def files(path: str, endings: tuple[str, ...]) -> list[Path]:
    """As ``matching``, but at least one.

    Raises:
        DataError: nothing is there.
    """
    found = matching(path, endings)
    if found:
        return found
    place = Path(path).expanduser()
    if place.is_dir():
        raise fail(
            DataError, path, f"this folder has no file that ends in {', '.join(endings)}", "Name files by a glob."
        )
    if glob.has_magic(path):
        raise fail(DataError, path, "no file matches", "'**' stands for folders at any depth, '*' for names in one.")
    near = did_you_mean(place.name, [p.name for p in place.parent.iterdir()]) if place.parent.is_dir() else ""
    raise fail(DataError, path, "there is no such file or folder", near if near.startswith("Did") else "")


def opened(path: Path) -> BinaryIO:
    """The bytes of a file, unpacked if its name ends in .gz."""
    try:
        if path.suffix == ".gz":
            return gzip.open(path, "rb")  # type: ignore[return-value]
        return path.open("rb")
    except OSError as error:
        raise fail(DataError, str(path), f"cannot be read: {error.strerror}") from None


def chunks(path: Path, tell: Tell = untold) -> Iterator[bytes]:
    """A file's bytes, a megabyte at a time; ``tell`` is told of a part when the next is asked for, as it is used then.

    Raises:
        DataError: a .gz file is damaged.
    """
    with opened(path) as file:
        packed = getattr(file, "fileobj", file)  # of a .gz, how far its packed bytes were read
        size, used = max(path.stat().st_size, 1), 0
        while True:
            tell(min(used / size, 1.0))
            try:
                chunk = file.read(_CHUNK)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise fail(DataError, str(path), f"is not a whole gzip file: {error}", "Fetch it again.") from None
            if not chunk:
                return
            used = packed.tell()
            yield chunk


def decoded(path: Path, tell: Tell = untold) -> Iterator[str]:
    r"""A file's text in parts, a megabyte at a time; ``\r\n`` becomes ``\n``, a byte order mark is left out.

    Raises:
        DataError: it is not UTF-8; says at which byte.
    """
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8-sig")(), translate=True)
    read = 0
    try:
        for chunk in chunks(path, tell):
            read += len(chunk)
            yield decoder.decode(chunk)
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        # error.object is what was left of the chunk before, and this chunk
        raise not_utf8(path, read - len(error.object) + error.start, error) from None


def not_utf8(path: Path, offset: int, error: UnicodeDecodeError) -> Exception:
    """The error of a file that is not UTF-8."""
    byte = error.object[error.start]
    return fail(
        DataError,
        str(path),
        f"is not UTF-8: byte {offset} (0x{byte:02x}) {error.reason}",
        "Convert it first, for example: iconv -f latin1 -t utf-8.",
    )


def lines(path: str, template: str, field: str) -> Iterator[tuple[Path, int, str]]:
    """What the lines of files say: a text file's each for itself, an object of JSON lines through a template of its fields.

    Args:
        path: a file, a folder (its .txt and .jsonl files at any depth) or a glob. Of a text file, empty lines and those that
            begin with # are left out.
        template: how a text is made of an object's fields: "{{ instruction }} {{ input }}".
        field: what the template calls a line of a text file.

    Yields:
        the file, the number of the line, the text.

    Raises:
        DataError: no file; nothing in one; a line is no object, or has no such field.
    """
    for file in files(path, LINES):
        empty = True
        for number, line in enumerate("".join(decoded(file)).split("\n"), 1):
            text, where = line.strip(), f"{file}, line {number}"
            if not text or (file.suffix == ".txt" and text.startswith("#")):
                continue
            empty = False
            fields: Any = {field: text}
            if file.suffix == ".jsonl":
                try:
                    fields = json.loads(text)
                except ValueError as error:
                    way_out = "One line holds one whole JSON object."
                    raise fail(DataError, where, f"is not JSON: {error}", way_out) from None
                if not isinstance(fields, dict):
                    what = f"holds a {type(fields).__name__}, not an object"
                    raise fail(DataError, where, what, f'Write {{"{field}": …}}.')
            yield file, number, filled(template, fields, where).strip()
        if empty:
            raise fail(DataError, str(file), f"holds no {field}", "Write one a line.")


LINES = (".txt", ".jsonl")
"""Endings of files that are read line by line."""
