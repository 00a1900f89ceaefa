"""Templates in recipes: Jinja's, in its sandbox. What stands in a record is text to them, never a template."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, Undefined, UndefinedError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from stillhouse.errors import DataError, did_you_mean, fail


def filled(template: str, fields: Mapping[str, Any], where: str, option: str = "template") -> str:
    """A template with what its expressions say of a record: ``"Q: {{ question }}"``, ``"{{ choices | join(', ') }}"``.

    Args:
        template: Jinja's.
        fields: of the record, by name.
        where: the place to name in errors.
        option: the template's name there.

    Raises:
        DataError: it is no template, names a field that is not there, or what it would write is no text or number.
    """
    refuse_single_braces(template, fields, where, option)
    present = f"The record has the fields {', '.join(map(str, fields)) or 'none'}."
    try:
        return _compiled(template).render(fields)
    except UndefinedError as error:
        missing = [name for name in sorted(names(template)) if name not in fields]
        meant = f" {did_you_mean(missing[0], map(str, fields))}" if missing and fields else ""
        way_out = f"{present}{meant} Mend the option '{option}', or give this source one of its own."
        raise fail(DataError, where, f"lacks what the template asks for: {error.message}", way_out) from None
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        what = f"cannot be put into the template of '{option}': {error}"
        raise fail(DataError, where, what, f"{present} Templates are Jinja's.") from None


@cache
def names(template: str) -> frozenset[str]:
    """The fields that a template names; none if it is no template."""
    try:
        return frozenset(meta.find_undeclared_variables(_JINJA.parse(template)))
    except TemplateError:
        return frozenset()


def refuse_single_braces(template: str, fields: Iterable[Any], where: str, option: str = "template") -> None:
    """Refuse ``{name}`` where Jinja has ``{{ name }}``: it would be put into every text as it stands.

    Args:
        template: Jinja's, or not.
        fields: names that mean something; others in braces are text.
        where: the place to name in errors.
        option: the template's name there.

    Raises:
        DataError: one of the fields stands in single braces.
    """
    old = [name for name in _single(template) if name in fields]
    if old:
        what = f"the option '{option}' names {{{old[0]}}} in single braces"
        raise fail(DataError, where, what, f"Templates are Jinja's: write {{{{ {old[0]} }}}}.")


@cache
def _single(template: str) -> tuple[str, ...]:
    return tuple(re.findall(r"(?<!\{)\{(\w+)\}(?!\})", template))


def _text(value: Any) -> Any:
    """What may be written as it is: a list or null would be Python's spelling of it."""
    if isinstance(value, str | int | float | Undefined):
        return value
    raise TypeError(f"{str(value)[:60]!r} is no text or number")


_JINJA = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True, finalize=_text)


@cache
def _compiled(template: str) -> Template:
    return _JINJA.from_string(template)
