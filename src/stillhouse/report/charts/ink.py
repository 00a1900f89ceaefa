"""Elements of SVG: text, lines, the markers of the roles, a legend, the frame with its description."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from stillhouse.report.charts.parts import ROLES, WIDE, Chart
from stillhouse.report.words import interval, number, one_line, visible

_CHAR = 6.5  # a generous mean width of one character at 12 units


def tag(name: str, attributes: Mapping[str, Any], *children: str | Markup) -> Markup:
    """One element. Attribute names have ``_`` for ``-``; numbers are cut to one decimal; children are escaped."""
    parts = [f"<{name}"]
    for key, value in attributes.items():
        shown = f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value
        parts.append(f' {key.replace("_", "-")}="{escape(shown)}"')
    inner = "".join(c if isinstance(c, Markup) else escape(visible(c)) for c in children)
    alone = name in ("circle", "line", "path", "rect")
    return Markup("".join(parts) + ("/>" if alone else f">{inner}</{name}>"))


def words(x: float, y: float, text: str, anchor: str = "start", kind: str = "t") -> Markup:
    """A line of text; its class is ``kind``."""
    return tag("text", {"x": x, "y": y, "text_anchor": anchor, "class": kind}, text)


def plate(x: float, y: float, width: float) -> Markup:
    """Clear ground for text that lies on top of a plot."""
    return tag("rect", {"x": x, "y": y, "width": width, "height": 16, "class": "plate"})


def rule(x1: float, y1: float, x2: float, y2: float, kind: str = "grid") -> Markup:
    """A straight line; its class is ``kind``."""
    return tag("line", {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "class": kind})


def join(parts: Iterable[Markup]) -> Markup:
    """Elements one after another."""
    return Markup("").join(parts)


def svg(chart: Chart, ident: str, width: float, height: float, parts: Iterable[Markup]) -> Markup:
    """The frame: a role, a title and a description that tells the numbers to those who do not see the picture."""
    head = (
        tag("title", {"id": f"{ident}-t"}, one_line(chart.title)),
        tag("desc", {"id": f"{ident}-d"}, description(chart)),
    )
    return tag(
        "svg",
        {
            "viewBox": f"0 0 {width:.0f} {height:.0f}",
            "role": "img",
            "aria_labelledby": f"{ident}-t {ident}-d",
            "class": "chart wide" if width >= WIDE else "chart narrow",
            "xmlns": "http://www.w3.org/2000/svg",
        },
        *head,
        *parts,
    )


def description(chart: Chart) -> str:
    """A chart in a few sentences: what each series begins and ends with, or what each row says."""
    told = []
    for series in chart.series[:8]:
        known = [p for p in series.points if p.y is not None]
        if not known:
            told.append(f"{series.name}: no values")
        elif chart.kind == "line" and len(known) > 1:
            told.append(f"{series.name}: from {number(known[0].y)} to {number(known[-1].y)}")
        else:
            rows = []
            for p in known[:6]:
                bounds = interval(p.low, p.high)
                place = f"{p.x} " if isinstance(p.x, str) and p.x != series.name else ""
                rows.append(f"{place}{number(p.y)}" + (f" (interval {bounds})" if bounds else ""))
            told.append(f"{series.name}: " + ", ".join(rows) + (" and more" if len(known) > 6 else ""))
    told += [f"Reference {m.label}: {number(m.value)}" for m in chart.marks[:6]]
    return one_line(". ".join(told) + ". The table below has all numbers.", 900)


def marker(role: str, x: float, y: float, size: float = 5.0) -> Markup:
    """The role's own shape, so that it is known without its colour."""
    s = size
    if role == "teacher":
        return tag("circle", {"cx": x, "cy": y, "r": s, "class": "dot"})
    shapes = {
        "student": f"M{x - s:.1f},{y - s:.1f}h{2 * s:.1f}v{2 * s:.1f}h{-2 * s:.1f}z",
        "control": f"M{x:.1f},{y - 1.2 * s:.1f}l{1.2 * s:.1f},{2.1 * s:.1f}h{-2.4 * s:.1f}z",
        "direct": f"M{x - 1.2 * s:.1f},{y:.1f}l{1.2 * s:.1f},{-1.2 * s:.1f}l{1.2 * s:.1f},{1.2 * s:.1f}v{0.8 * s:.1f}h{-2.4 * s:.1f}z",
        "before": f"M{x:.1f},{y + 1.2 * s:.1f}l{1.2 * s:.1f},{-2.1 * s:.1f}h{-2.4 * s:.1f}z",
        "floor": f"M{x - 1.4:.1f},{y - 1.4 * s:.1f}h2.8v{2.8 * s:.1f}h-2.8z",
        "other": f"M{x:.1f},{y - 1.3 * s:.1f}l{1.3 * s:.1f},{1.3 * s:.1f}l{-1.3 * s:.1f},{1.3 * s:.1f}"
        f"l{-1.3 * s:.1f},{-1.3 * s:.1f}z",
    }
    return tag("path", {"d": shapes.get(role, shapes["other"]), "class": "dot"})


def key(role: str) -> Markup:
    """A role's marker alone, to stand before its name in text. Decorative: the name follows."""
    return tag(
        "svg",
        {"viewBox": "0 0 16 16", "class": f"key r-{role if role in ROLES else 'other'}", "aria_hidden": "true"},
        tag("title", {}, role),
        marker(role, 8.0, 8.0, 5.0),
    )


def fit(text: str, width: float) -> str:
    """The text cut to what fits a width in units, estimated."""
    return one_line(text, max(4, int(width / _CHAR)))


def wide(text: str) -> float:
    """The width of a text in units, estimated."""
    return len(text) * _CHAR


def nothing(chart: Chart, ident: str, width: float) -> Markup:
    """A chart that has no numbers."""
    return svg(chart, ident, width, 60.0, [words(width / 2, 34.0, "No numbers to draw", "middle")])


def legend_of(items: Sequence[tuple[str, str, str]], left: float, width: float, top: float) -> tuple[Markup, float]:
    """Line, marker and name of each (role, dash, name), wrapped; and the height they take."""
    parts = []
    x, y = left, top
    for role, dash, name in items:
        label = fit(name, width - 40)
        room = 36 + wide(label) + 14
        if x > left and x + room > left + width:
            x, y = left, y + 20
        line = tag(
            "line", {"x1": x, "y1": y + 8, "x2": x + 26, "y2": y + 8, "class": "curve", "stroke_dasharray": dash}
        )
        parts.append(tag("g", {"class": f"r-{role}"}, line, marker(role, x + 13, y + 8, 4.0)))
        parts.append(words(x + 32, y + 12, label))
        x += room
    return join(parts), (y - top + 24 if items else 0.0)
