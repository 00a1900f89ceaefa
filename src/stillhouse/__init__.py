"""Stillhouse: distil large language models into small ones, and know what was kept and what was lost.

The command line and Python do the same: ``stillhouse run recipe.yaml`` is ``stillhouse.run(stillhouse.load("recipe.yaml"))``.
"""

from __future__ import annotations

import importlib
import logging
import re
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from stillhouse.errors import DataError, ModelError, RecipeError, RunError, StillhouseError
from stillhouse.recipe import Recipe, load, parse

if TYPE_CHECKING:
    from stillhouse.check import check
    from stillhouse.compare import compare
    from stillhouse.plan import plan
    from stillhouse.profile import profile
    from stillhouse.refine import refine
    from stillhouse.report import report
    from stillhouse.run import evaluate, run
    from stillhouse.teacher.distribution import inspect

__version__ = "0.1.0"
__all__ = [
    "DataError",
    "ModelError",
    "Recipe",
    "RecipeError",
    "RunError",
    "StillhouseError",
    "check",
    "compare",
    "evaluate",
    "inspect",
    "load",
    "parse",
    "plan",
    "profile",
    "refine",
    "report",
    "run",
]

_OTHER_MACHINES = re.compile("Failed to load .*torchao|is an Enum subclass")

_VERBS = {
    "check": "stillhouse.check",
    "compare": "stillhouse.compare",
    "evaluate": "stillhouse.run",
    "inspect": "stillhouse.teacher.distribution",
    "plan": "stillhouse.plan",
    "profile": "stillhouse.profile",
    "refine": "stillhouse.refine",
    "report": "stillhouse.report",
    "run": "stillhouse.run",
}


def __getattr__(name: str) -> Any:
    """Load the verbs when they are first used: importing the package stays instant."""
    if name in _VERBS:
        return getattr(importlib.import_module(_VERBS[name]), name)
    raise AttributeError(f"module 'stillhouse' has no attribute '{name}'")


class _Package(ModuleType):
    """Keeps ``stillhouse.run`` the function: importing the module of the same name would otherwise take its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _VERBS and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

# transformers imports torchao where it is installed, which then tells of kernels for other machines that it does not find.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).addFilter(lambda record: not _OTHER_MACHINES.search(record.getMessage()))
