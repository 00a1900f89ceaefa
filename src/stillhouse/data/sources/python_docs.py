"""English that every Python ships."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stillhouse.data.reading import Record, Tell, reads, untold

_SKIPPED = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"}
"""Not the standard library, or its tests: their docstrings are short, and many installations leave them out."""

_SHORTEST = 200
"""Characters of a document worth having."""

_REPEATABLE = 40
"""Characters below which a paragraph may come again: signatures, headings, "For example:"."""


def _modules() -> list[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    return sorted(p for p in root.rglob("*.py") if not _SKIPPED.intersection(p.relative_to(root).parts))


@reads(lambda _: _modules())
def python_docs(tell: Tell = untold) -> Iterator[Record]:
    """About two megabytes of technical English that every Python ships: needs no network and no file.

    One document for each topic of ``help()`` (the language reference, shortest first, as the long ones repeat the
    short), and one for each module of the standard library: its docstring, then those of its classes and functions in
    the order of the source, each under its name. The modules are parsed, never imported. A paragraph that came before
    is left out, so that held-out documents are not quoted in the others; then documents below 200 characters are left
    out too. Another version of Python has other text. Yields ``{"text": …, "name": …}``.

    Args:
        tell: called with the share of the work that is done.

    """
    seen: set[str] = set()
    for name, text in _texts(tell):
        fresh = []
        for paragraph in re.split(r"\n{2,}", _tidy(text)):
            key = " ".join(paragraph.split())
            if len(key) < _REPEATABLE or key not in seen:
                fresh.append(paragraph)
                seen.add(key)
        document = "\n\n".join(fresh)
        if len(document) >= _SHORTEST:
            yield {"text": document, "name": name}


def _texts(tell: Tell) -> Iterator[tuple[str, str]]:
    try:
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    except ImportError:  # some distributions leave it out
        topics = {}
    root = Path(sysconfig.get_path("stdlib"))
    modules = _modules()
    sizes = [len(text) for text in topics.values()] + [path.stat().st_size for path in modules]
    total, done = max(sum(sizes), 1), 0
    for topic in sorted(topics, key=lambda t: (len(topics[t]), t)):
        tell(done / total)
        yield f"help:{topic}", topics[topic]
        done += len(topics[topic])
    for path in modules:
        tell(done / total)
        done += path.stat().st_size
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes in old modules
            try:
                tree = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError, OSError):
                continue
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        yield name, "\n\n".join(_docstrings(tree, name))
    tell(1.0)


def _docstrings(node: Any, name: str) -> Iterator[str]:
    """The docstrings of a module or class and of all within it, each under the name of what it describes."""
    text = ast.get_docstring(node)
    if text:
        yield f"{name}\n\n{text}"
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            yield from _docstrings(child, child.name)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(child)
            if text:
                yield f"{child.name}({ast.unparse(child.args)})\n\n{text}"


def _tidy(text: str) -> str:
    """Without indentation common to all lines, white space at line ends, and the rules drawn under headings."""
    text = re.sub(r"[ \t]+$", "", inspect.cleandoc(text), flags=re.MULTILINE)
    return re.sub(r"^[*=~^-]{4,}\n", "", text, flags=re.MULTILINE).strip()
