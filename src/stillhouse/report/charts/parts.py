"""What charts are made of: plain values, and the colours, dashes and widths that all of them share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

ROLES: tuple[str, ...] = ("floor", "before", "control", "direct", "student", "teacher")
"""The roles from worst to best, as a ladder shows them."""


PALETTE: dict[str, tuple[str, str]] = {
    "paper": ("#f6f7f9", "#0f1318"),
    "card": ("#ffffff", "#171c23"),
    "ink": ("#1a212b", "#e4e8ee"),
    "muted": ("#566070", "#9ba6b4"),
    "line": ("#dce1e8", "#2c343f"),
    "teacher": ("#1a212b", "#e4e8ee"),
    "student": ("#0a5cc2", "#6db3ff"),
    "control": ("#a84a00", "#ffa45c"),
    "before": ("#7a1f6b", "#f29bd6"),
    "floor": ("#697080", "#8b96a5"),
    "direct": ("#00775a", "#d9d24a"),
    "other": ("#0b6e63", "#5fcdbd"),
    "pass": ("#17703a", "#5fce86"),
    "fail": ("#b3261e", "#ff8f85"),
    "open": ("#835500", "#eab54d"),
}
"""Name → colour on the light and on the dark page. As text each has a contrast of at least 4.5 on paper and card."""


_DASHES = {"teacher": "", "student": "", "control": "7 4", "direct": "10 3 2 3", "before": "2 4", "floor": "1 5"}


EXTRA_DASHES = ("", "7 4", "2 4", "10 3 2 3", "4 2", "1 5")


NARROW, WIDE = 340, 680
"""Widths in units of the two drawings; a unit is about a pixel where they are shown."""


@dataclass(frozen=True)
class Point:
    """One thing that is drawn: a place (a number or a name), a value, its interval and what it rests on."""

    x: float | str | None
    y: float | None
    low: float | None = None
    high: float | None = None
    n: float | None = None


@dataclass(frozen=True)
class Series:
    """Points that belong together. The role decides colour, marker and dash; ``dash`` overrides the last."""

    name: str
    points: tuple[Point, ...]
    role: str = "other"
    dash: str | None = None


@dataclass(frozen=True)
class Mark:
    """A reference line at a value."""

    value: float
    label: str


@dataclass(frozen=True)
class Chart:
    """A chart as evaluation.json has it: ``kind`` is forest, ladder, reliability, line, bars or scatter."""

    kind: str
    title: str
    x_label: str = ""
    y_label: str = ""
    series: tuple[Series, ...] = ()
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True)
class Figure:
    """A chart ready for the page: its two drawings and its numbers as a table."""

    title: str
    kind: str
    wide: Markup
    narrow: Markup
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def style() -> Markup:
    """CSS that defines the palette's variables for both colour schemes."""
    light = ";".join(f"--{name}:{pair[0]}" for name, pair in PALETTE.items())
    dark = ";".join(f"--{name}:{pair[1]}" for name, pair in PALETTE.items())
    roles = "".join(f".r-{role}{{color:var(--{role})}}" for role in (*ROLES, "other"))
    return Markup(f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}{roles}")


def role_of(*candidates: Any) -> str:
    """The first of the candidates that names a role."""
    words = (c.strip().lower() for c in candidates if isinstance(c, str))
    return next((w for w in words if w in ROLES), "other")


def dash_of(series: Series) -> str:
    """How a series' line is broken: its own way, or its role's."""
    return series.dash if series.dash is not None else _DASHES.get(series.role, "")
