"""Name → function: the folder is the registry.

A strategy is one small file that holds a function of the file's own name. Its options are the function's keyword-only
arguments, so the signature is the schema: nothing is registered, and a new strategy touches no other file. A name of the
form ``package.module:function`` brings in a user's own.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from stillhouse.errors import Problem, RecipeError, did_you_mean, fail

KINDS: dict[str, str] = {
    "source": "data/sources",
    "format": "data/formats",
    "filter": "data/filters",
    "augmentation": "data/augmentations",
    "prompt": "data/prompts",
    "selection": "data/selections",
    "teacher": "teacher/sources",
    "builder": "student/builders",
    "mixture": "data/mixtures",
    "sampler": "data/samplers",
    "difficulty": "objective/difficulty",
    "loss": "objective/losses",
    "layers": "objective/layers",
    "weight": "objective/weights",
    "schedule": "objective/schedules",
    "logger": "trainer/loggers",
    "task": "evaluate/tasks",
    "measure": "evaluate/measures",
    "feature": "evaluate/features",
    "edit": "evaluate/edits",
    "log": "evaluate/logs",
    "export": "export/formats",
    "action": "refinement/actions",
    "runtime": "runtimes",
    "engine": "engines",
}
"""Kind of strategy → its folder inside the package."""

_PACKAGE = Path(__file__).parent
_F = TypeVar("_F", bound=Callable[..., Any])


def names(kind: str) -> list[str]:
    """The names of all strategies of a kind, sorted."""
    return sorted(p.stem for p in (_PACKAGE / KINDS[kind]).glob("*.py") if not p.stem.startswith("_"))


def describe(kind: str, name: str) -> str:
    """The docstring of a strategy's function, read without importing it (so without torch)."""
    tree = ast.parse((_PACKAGE / KINDS[kind] / f"{name}.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return ast.get_docstring(node) or ""
    return ""


def find(kind: str, name: str, where: str = "") -> Callable[..., Any]:
    """The function of a strategy.

    Args:
        kind: one of ``KINDS``.
        name: a file's name in the kind's folder, or ``package.module:function``.
        where: the recipe key to name in the error.

    Raises:
        RecipeError: there is none of that name; names the nearest.
    """
    if ":" in name:
        module_name, _, function_name = name.partition(":")
        try:
            function = getattr(importlib.import_module(module_name), function_name)
        except (ImportError, AttributeError) as error:
            raise fail(
                RecipeError,
                where or kind,
                f"'{name}' cannot be imported: {error}",
                "Write package.module:function, and install the package in this environment.",
            ) from error
        return function  # type: ignore[no-any-return]
    if name not in names(kind):
        raise fail(RecipeError, where or kind, f"there is no {kind} '{name}'", did_you_mean(name, names(kind)))
    module = importlib.import_module(f"stillhouse.{KINDS[kind].replace('/', '.')}.{name}")
    return getattr(module, name)  # type: ignore[no-any-return]


def holds(held: Callable[[dict[str, Any]], list[tuple[str, Any, str]]]) -> Callable[[_F], _F]:
    """Mark a strategy whose options name other strategies; given its options: of each the kind, the strategy, the option."""

    def mark(function: _F) -> _F:
        function.held = held  # type: ignore[attr-defined]
        return function

    return mark


def options_model(function: Callable[..., Any]) -> type[BaseModel]:
    """A pydantic model of a strategy's keyword-only arguments, with their types and defaults."""
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            default = ... if parameter.default is inspect.Parameter.empty else parameter.default
            fields[parameter.name] = (hints.get(parameter.name, Any), default)
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    return create_model(function.__name__, __config__=config, **fields)


def check_options(function: Callable[..., Any], options: dict[str, Any], where: str) -> dict[str, Any]:
    """Check options against the function's signature and return them with their types converted, defaults filled in.

    Raises:
        RecipeError: with one problem for each option that is unknown, missing or of the wrong type.
    """
    model = options_model(function)
    try:
        checked = model.model_validate(options)
    except ValidationError as error:
        raise RecipeError(*problems_of(error, where, list(model.model_fields))) from None
    return {name: getattr(checked, name) for name in model.model_fields}


def problems_of(error: ValidationError, where: str, possible: list[str]) -> list[Problem]:
    """Word pydantic's findings as problems: the key, what came, what was possible."""
    problems = []
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"])
        key = f"{where}.{path}" if where and path else where or path
        if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            problems.append(Problem(key, "unknown key", did_you_mean(str(item["loc"][-1]), possible)))
        elif item["type"] == "missing":
            problems.append(Problem(key, "is needed and missing"))
        else:
            message = item["msg"].removeprefix("Value error, ")
            problems.append(Problem(key, f"{message} (came: {item['input']!r})"))
    return problems
