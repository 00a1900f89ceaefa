"""Charts as inline SVG: small pure functions from plain numbers to markup.

Each chart is drawn twice, for wide and for narrow screens, so that its text stays readable on a phone instead of shrinking
with the picture; the page shows one of the two. No chart speaks by colour alone: a role also has a marker, a dash and its
name. Colours are CSS variables (``style()`` makes them for light and dark), so charts follow the page into dark mode.

Grammar: an interval is a bar and comes before its point; bars start at zero; at most two decimals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from markupsafe import Markup, escape

from stillhouse.report.words import NOTHING, finite, interval, number, one_line, visible

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
_EXTRA_DASHES = ("", "7 4", "2 4", "10 3 2 3", "4 2", "1 5")
_CHAR = 6.5  # a generous mean width of one character at 12 units
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


# --- reading -----------------------------------------------------------------------------------------------------------


def parse(raw: Any) -> Chart | None:
    """A chart from the plain values of evaluation.json; None if they are no chart. Values that are no numbers are gaps."""
    if not isinstance(raw, Mapping):
        return None
    series = []
    for item in _maps(raw.get("series")):
        points = tuple(_point(p) for p in _maps(item.get("points")))
        name = str(item.get("name") or item.get("role") or "values")
        series.append(Series(name, points, _role(item.get("role"), name)))
    marks = [
        Mark(value, str(m.get("label") or ""))
        for m in _maps(raw.get("marks"))
        if (value := finite(m.get("value"))) is not None
    ]
    kind = str(raw.get("kind") or "")
    return Chart(
        kind if kind in _DRAW else "bars",
        str(raw.get("title") or "Chart"),
        str(raw.get("x_label") or ""),
        str(raw.get("y_label") or ""),
        tuple(_tell_apart(series)),
        tuple(marks[:12]),
    )


def _maps(value: Any) -> list[Mapping[str, Any]]:
    return [v for v in value if isinstance(v, Mapping)] if isinstance(value, list | tuple) else []


def _point(raw: Mapping[str, Any]) -> Point:
    x, y = raw.get("x"), raw.get("y")
    if isinstance(y, str) and not isinstance(x, str):  # an interval plot may have its names on the y axis
        x, y = y, x
    place = x if isinstance(x, str) else finite(x)
    return Point(place, finite(y), finite(raw.get("low")), finite(raw.get("high")), finite(raw.get("n")))


def _tell_apart(series: Sequence[Series]) -> list[Series]:
    """Give series of one role different dashes."""
    seen: dict[str, int] = {}
    out = []
    for one in series:
        count = seen.get(one.role, 0)
        seen[one.role] = count + 1
        out.append(replace(one, dash=_EXTRA_DASHES[count % len(_EXTRA_DASHES)]) if count else one)
    return out


def figure(chart: Chart, ident: str) -> Figure:
    """Draw a chart in both widths and lay out its table. ``ident`` makes the ids unique on the page."""
    draw = _DRAW[chart.kind]
    columns, rows = table(chart)
    return Figure(
        chart.title, chart.kind, draw(chart, f"{ident}w", WIDE), draw(chart, f"{ident}n", NARROW), columns, rows
    )


def table(chart: Chart) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """The numbers of a chart: column names and rows. Columns that would be empty are left out."""
    names = ["series", one_line(chart.x_label or "at", 40), "interval", one_line(chart.y_label or "value", 40), "n"]
    rows = []
    for series in chart.series:
        for p in series.points:
            place = visible(p.x) if isinstance(p.x, str) else _place(p.x)
            rows.append([visible(series.name), place, interval(p.low, p.high), number(p.y), _whole(p.n)])
    rows += [[f"reference: {visible(m.label)}", NOTHING, "", number(m.value), NOTHING] for m in chart.marks]
    keep = [i for i in range(5) if i in (0, 3) or any(r[i] not in ("", NOTHING) for r in rows)]
    rows = rows or [["no numbers", "", "", NOTHING, ""]]
    return tuple(names[i] for i in keep), tuple(tuple(r[i] or NOTHING for i in keep) for r in rows)


def _place(x: float | None) -> str:
    return number(int(x) if x is not None and x == int(x) else x)


def _whole(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.0f}"


# --- building blocks ---------------------------------------------------------------------------------------------------


def _tag(name: str, attributes: Mapping[str, Any], *children: str | Markup) -> Markup:
    """One element. Attribute names have ``_`` for ``-``; numbers are cut to one decimal; children are escaped."""
    parts = [f"<{name}"]
    for key, value in attributes.items():
        shown = f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value
        parts.append(f' {key.replace("_", "-")}="{escape(shown)}"')
    inner = "".join(c if isinstance(c, Markup) else escape(visible(c)) for c in children)
    alone = name in ("circle", "line", "path", "rect")
    return Markup("".join(parts) + ("/>" if alone else f">{inner}</{name}>"))


def _words(x: float, y: float, text: str, anchor: str = "start", kind: str = "t") -> Markup:
    return _tag("text", {"x": x, "y": y, "text_anchor": anchor, "class": kind}, text)


def _plate(x: float, y: float, width: float) -> Markup:
    """Clear ground for text that lies on top of a plot."""
    return _tag("rect", {"x": x, "y": y, "width": width, "height": 16, "class": "plate"})


def _rule(x1: float, y1: float, x2: float, y2: float, kind: str = "grid") -> Markup:
    return _tag("line", {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "class": kind})


def _join(parts: Iterable[Markup]) -> Markup:
    return Markup("").join(parts)


def _svg(chart: Chart, ident: str, width: float, height: float, parts: Iterable[Markup]) -> Markup:
    """The frame: a role, a title and a description that tells the numbers to those who do not see the picture."""
    head = (
        _tag("title", {"id": f"{ident}-t"}, one_line(chart.title)),
        _tag("desc", {"id": f"{ident}-d"}, description(chart)),
    )
    return _tag(
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


def _marker(role: str, x: float, y: float, size: float = 5.0) -> Markup:
    """The role's own shape, so that it is known without its colour."""
    s = size
    if role == "teacher":
        return _tag("circle", {"cx": x, "cy": y, "r": s, "class": "dot"})
    shapes = {
        "student": f"M{x - s:.1f},{y - s:.1f}h{2 * s:.1f}v{2 * s:.1f}h{-2 * s:.1f}z",
        "control": f"M{x:.1f},{y - 1.2 * s:.1f}l{1.2 * s:.1f},{2.1 * s:.1f}h{-2.4 * s:.1f}z",
        "direct": f"M{x - 1.2 * s:.1f},{y:.1f}l{1.2 * s:.1f},{-1.2 * s:.1f}l{1.2 * s:.1f},{1.2 * s:.1f}v{0.8 * s:.1f}h{-2.4 * s:.1f}z",
        "before": f"M{x:.1f},{y + 1.2 * s:.1f}l{1.2 * s:.1f},{-2.1 * s:.1f}h{-2.4 * s:.1f}z",
        "floor": f"M{x - 1.4:.1f},{y - 1.4 * s:.1f}h2.8v{2.8 * s:.1f}h-2.8z",
        "other": f"M{x:.1f},{y - 1.3 * s:.1f}l{1.3 * s:.1f},{1.3 * s:.1f}l{-1.3 * s:.1f},{1.3 * s:.1f}"
        f"l{-1.3 * s:.1f},{-1.3 * s:.1f}z",
    }
    return _tag("path", {"d": shapes.get(role, shapes["other"]), "class": "dot"})


def key(role: str) -> Markup:
    """A role's marker alone, to stand before its name in text. Decorative: the name follows."""
    return _tag(
        "svg",
        {"viewBox": "0 0 16 16", "class": f"key r-{role if role in ROLES else 'other'}", "aria_hidden": "true"},
        _tag("title", {}, role),
        _marker(role, 8.0, 8.0, 5.0),
    )


def _fit(text: str, width: float) -> str:
    """The text cut to what fits a width in units, estimated."""
    return one_line(text, max(4, int(width / _CHAR)))


def _wide(text: str) -> float:
    return len(text) * _CHAR


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers, about ``count`` of them, that enclose or fill the range."""
    if not high > low:
        low, high = low - 0.5, low + 0.5
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1.0, 2.0, 2.5, 5.0, 10.0) if power * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


@dataclass(frozen=True)
class _Axis:
    """Values to units. ``power`` is the power of ten that tick labels are divided by, so that two decimals are enough."""

    low: float
    high: float
    start: float
    stop: float
    count: int = 5

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    @property
    def power(self) -> int:
        size = max(abs(self.low), abs(self.high))
        step = (self.high - self.low) / self.count
        if size >= 1e5:
            return 3 * (math.floor(math.log10(size)) // 3)
        return math.floor(math.log10(size)) if step < 0.009 and size < 1 else 0

    def marks(self) -> list[tuple[float, str]]:
        """Where ticks stand and what they say."""
        values = ticks(self.low, self.high, self.count)
        step = (values[1] - values[0] if len(values) > 1 else 1.0) / 10.0**self.power
        digits = next((d for d in (0, 1) if abs(step - round(step, d)) < 1e-6 * step), 2)
        return [(v, f"{v / 10.0**self.power + 0.0:.{digits}f}".replace("-", "−")) for v in values]

    def label(self, text: str) -> str:
        """The axis' name, with the power of ten if there is one."""
        raised = str(self.power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return f"{text} (×10{raised})" if self.power else text


def _domain(values: Iterable[float | None], include: Iterable[float] = (), pad: float = 0.05) -> tuple[float, float]:
    known = [v for v in (*values, *include) if v is not None]
    if not known:
        return 0.0, 1.0
    low, high = min(known), max(known)
    if high - low < 1e-9 * max(1.0, abs(high)):
        grow = abs(high) * 0.1 or 0.5
        return low - grow, high + grow
    room = (high - low) * pad
    return low - room, high + room


def _round(domain: tuple[float, float], count: int) -> tuple[float, float]:
    """The domain widened until it begins and ends at its own ticks."""
    low, high = domain if domain[1] > domain[0] else (domain[0], domain[0] + 1.0)
    for _ in range(4):  # a wider domain may have a wider step
        values = ticks(low, high, count)
        if len(values) < 2:
            return low, high
        step = values[1] - values[0]
        before = (low, high)
        low = values[0] - step if values[0] - low > 1e-6 * step else values[0]
        high = values[-1] + step if high - values[-1] > 1e-6 * step else values[-1]
        if (low, high) == before:
            break
    return low, high


def _nothing(chart: Chart, ident: str, width: float) -> Markup:
    return _svg(chart, ident, width, 60.0, [_words(width / 2, 34.0, "No numbers to draw", "middle")])


def _reference_lines(
    marks: Sequence[Mark], axis: _Axis, top: float, bottom: float, left: float, right: float
) -> tuple[Markup, float]:
    """Vertical dashed lines with their names above, on as many levels as needed; and the height the names take."""
    taken: list[float] = []
    parts = []
    placed = []
    for mark in sorted(marks, key=lambda m: m.value):
        label = _fit(mark.label, 150)
        half = _wide(label) / 2
        centre = min(max(axis(mark.value), left + half), right - half)
        level = next((i for i, end in enumerate(taken) if centre - half > end + 8), len(taken))
        if level == len(taken):
            taken.append(0.0)
        taken[level] = centre + half
        placed.append((mark, label, centre, level))
    height = 16.0 * len(taken)
    for mark, label, centre, level in placed:
        y = top + height - 16.0 * level
        parts.append(_rule(axis(mark.value), y + 1, axis(mark.value), bottom, "ref"))
        parts.append(_words(centre, y - 4, label, "middle", "t small"))
    return _join(parts), height


def _horizontal_axis(axis: _Axis, top: float, bottom: float, label: str, right: float) -> Markup:
    """Grid lines and numbers below a plot, and the axis' name."""
    parts = []
    for value, text in axis.marks():
        parts.append(_rule(axis(value), top, axis(value), bottom))
        parts.append(_words(axis(value), bottom + 16, text, "middle", "t small"))
    if label:
        parts.append(_words(right, bottom + 33, _fit(axis.label(label), right - 8), "end", "t small"))
    elif axis.power:
        parts.append(_words(right, bottom + 33, axis.label("").strip(), "end", "t small"))
    return _join(parts)


def _legend(items: Sequence[tuple[str, str, str]], left: float, width: float, top: float) -> tuple[Markup, float]:
    """Line, marker and name of each (role, dash, name), wrapped; and the height they take."""
    parts = []
    x, y = left, top
    for role, dash, name in items:
        label = _fit(name, width - 40)
        room = 36 + _wide(label) + 14
        if x > left and x + room > left + width:
            x, y = left, y + 20
        line = _tag(
            "line", {"x1": x, "y1": y + 8, "x2": x + 26, "y2": y + 8, "class": "curve", "stroke_dasharray": dash}
        )
        parts.append(_tag("g", {"class": f"r-{role}"}, line, _marker(role, x + 13, y + 8, 4.0)))
        parts.append(_words(x + 32, y + 12, label))
        x += room
    return _join(parts), (y - top + 24 if items else 0.0)


# --- rows: forest, ladder, bars -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    label: str
    role: str
    point: Point


def _role(*candidates: Any) -> str:
    """The first of the candidates that names a role."""
    words = (c.strip().lower() for c in candidates if isinstance(c, str))
    return next((w for w in words if w in ROLES), "other")


def _rows_of(chart: Chart) -> list[_Row]:
    rows = []
    for series in chart.series:
        for p in series.points:
            label = p.x if isinstance(p.x, str) and p.x else series.name
            if len(chart.series) > 1 and isinstance(p.x, str) and p.x and p.x != series.name and len(series.points) > 1:
                label = f"{p.x} · {series.name}"
            rows.append(_Row(label, _role(series.role, p.x, series.name), p))
    return rows


def _value_text(p: Point) -> str:
    """Interval before point: ``0.9 to 0.96 · 0.93``."""
    bounds = interval(p.low, p.high)
    return f"[{bounds.replace(' to ', ', ')}]  {number(p.y)}" if " to " in bounds else number(p.y)


def _row_chart(chart: Chart, ident: str, width: float, mode: str, order: Sequence[_Row]) -> Markup:
    """What forest, ladder and bars share: a row each, names left (or above, where narrow), numbers right."""
    rows = [r for r in order if r.point.y is not None or r.point.low is not None or r.point.high is not None]
    if not rows:
        return _nothing(chart, ident, width)
    stacked = width < WIDE
    grouped = len({r.point.x for r in rows}) < len(rows)
    texts = [_value_text(r.point) for r in rows]
    right_room = 12.0 if stacked else max(_wide(t) for t in texts) + 22
    left_room = 10.0 if stacked else min(210.0, max(_wide(visible(r.label)) for r in rows) + 40)
    left, right = left_room, width - right_room
    values = [v for r in rows for v in (r.point.y, r.point.low, r.point.high)]
    domain = _domain(values, [m.value for m in chart.marks] + ([0.0] if mode == "bars" else []))
    if mode == "bars":  # a bar's length is its value: it starts at zero, and zero is at the edge or inside
        known = [0.0, *(v for v in values if v is not None)]
        domain = _round((min(known), max(known)), 4)
    axis = _Axis(*domain, left + 6, right - 6, 4 if stacked else 6)
    row_height = 46.0 if stacked else 34.0
    marks, mark_height = _reference_lines(chart.marks, axis, 2.0, 0.0, left, right)
    top = mark_height + 8
    gaps = [0.0]
    for above, below in pairwise(rows):  # a little air between groups of bars
        gaps.append(gaps[-1] + (9.0 if mode == "bars" and above.point.x != below.point.x and grouped else 0.0))
    bottom = top + row_height * len(rows) + gaps[-1] + 2
    marks, _ = _reference_lines(chart.marks, axis, 2.0, bottom, left, right)
    parts = [_horizontal_axis(axis, top, bottom, chart.y_label or chart.x_label, width - 8), marks]
    if axis.low <= 0 <= axis.high and mode == "bars":
        parts.append(_rule(axis(0.0), top, axis(0.0), bottom, "base"))
    middle = row_height - 13 if stacked else row_height / 2
    centres = [top + row_height * i + gap + middle for i, gap in enumerate(gaps)]
    if mode == "ladder":
        parts += _steps(rows, centres, axis)
    for row, y, text in zip(rows, centres, texts, strict=True):
        p = row.point
        drawn = []
        if mode == "bars" and p.y is not None:
            start, stop = sorted((axis(0.0), axis(p.y)))
            drawn.append(
                _tag("rect", {"x": start, "y": y - 7, "width": max(1.0, stop - start), "height": 14, "class": "bar"})
            )
        drawn += _whisker(p, axis, y, mode)
        if p.y is not None and mode != "bars":
            drawn.append(_marker(row.role, axis(p.y), y))
        label = _fit(row.label, (right - left - _wide(text)) if stacked else left_room - 32)
        if stacked:
            parts += [_plate(left + 13, y - 29, _wide(label)), _plate(width - 8 - _wide(text), y - 29, _wide(text))]
            drawn.append(_marker(row.role, left + 6, y - 21, 4.0))
            parts.append(_words(left + 16, y - 17, label, kind="t name"))
            parts.append(_words(width - 8, y - 17, text, "end", "t num"))
        else:
            drawn.append(_marker(row.role, 10.0, y, 4.0))
            parts.append(_words(22.0, y + 4, label, kind="t name"))
            parts.append(_words(width - 4, y + 4, text, "end", "t num"))
        parts.append(_tag("g", {"class": f"r-{row.role}"}, *drawn))
    return _svg(chart, ident, width, bottom + (40 if chart.y_label or chart.x_label or axis.power else 24), parts)


def _whisker(p: Point, axis: _Axis, y: float, mode: str) -> list[Markup]:
    """The interval: a thick translucent bar with end caps; on top of a bar chart's bar, a thin line."""
    if p.low is None and p.high is None:
        return []
    low = axis.low if p.low is None else p.low
    high = axis.high if p.high is None else p.high
    a, b = axis(low), axis(high)
    kind = "whisker" if mode == "bars" else "band"
    out = [_tag("line", {"x1": a, "y1": y, "x2": b, "y2": y, "class": kind})]
    caps = [x for x, known in ((a, p.low), (b, p.high)) if known is not None]
    return out + [_rule(x, y - 5, x, y + 5, "cap") for x in caps]


def _steps(rows: Sequence[_Row], centres: Sequence[float], axis: _Axis) -> list[Markup]:
    """The staircase from each row's value to the next one's."""
    known = [(axis(r.point.y), y) for r, y in zip(rows, centres, strict=True) if r.point.y is not None]
    return [
        _tag("path", {"d": f"M{x1:.1f},{y1:.1f}V{y2:.1f}H{x2:.1f}", "class": "step"})
        for (x1, y1), (x2, y2) in pairwise(known)
    ]


def forest(chart: Chart, ident: str, width: float = WIDE) -> Markup:
    """An interval plot: one row each, its interval as a bar, its point as the role's marker, references as dashed lines."""
    return _row_chart(chart, ident, width, "forest", _rows_of(chart))


def ladder(chart: Chart, ident: str, width: float = WIDE) -> Markup:
    """The rungs floor, before, control, student, teacher, joined by the steps between them."""

    def rung(row: _Row) -> int:
        return ROLES.index(row.role) if row.role in ROLES else len(ROLES)

    return _row_chart(chart, ident, width, "ladder", sorted(_rows_of(chart), key=rung))


def bars(chart: Chart, ident: str, width: float = WIDE) -> Markup:
    """Horizontal bars from zero, one a point; points of several series with the same name lie together."""
    rows = _rows_of(chart)
    places: dict[Any, int] = {}
    for row in rows:
        places.setdefault(row.point.x, len(places))
    return _row_chart(chart, ident, width, "bars", sorted(rows, key=lambda r: places[r.point.x]))


# --- plots with two axes --------------------------------------------------------------------------------------------------


def line(chart: Chart, ident: str, width: float = WIDE) -> Markup:
    """Curves over a number; a missing value is a gap; intervals are a pale band; references are level dashed lines."""
    curves = [(s, _runs(s)) for s in chart.series]
    curves = [(s, runs) for s, runs in curves if runs]
    if not curves:
        return _nothing(chart, ident, width)
    narrow = width < WIDE
    all_points = [p for _, runs in curves for run in runs for p in run]
    xs = [p[0] for p in all_points]
    ys = [v for _, y, low, high in all_points for v in (y, low, high)]
    room = 8.0 if narrow else min(170.0, max(_wide(visible(s.name)) for s, _ in curves) + 34)
    left, right = 46.0, width - room
    legend, legend_height = (
        _legend([(s.role, _dash(s), s.name) for s, _ in curves], 6.0, width - 12, 2.0) if narrow else (Markup(), 0.0)
    )
    top = legend_height + (28.0 if chart.y_label else 10.0)
    bottom = top + (190.0 if narrow else 240.0)
    x_axis = _Axis(*_domain(xs, pad=0.0), left, right - 4, 4 if narrow else 7)
    y_axis = _Axis(*_round(_domain(ys, [m.value for m in chart.marks], pad=0.0), 5), bottom, top, 5)
    parts = [legend]
    for value, text in y_axis.marks():
        parts.append(_rule(left, y_axis(value), right, y_axis(value)))
        parts.append(_words(left - 6, y_axis(value) + 4, text, "end", "t small"))
    for value, text in x_axis.marks():
        parts.append(_rule(x_axis(value), bottom, x_axis(value), bottom + 4, "base"))
        parts.append(_words(x_axis(value), bottom + 18, text, "middle", "t small"))
    parts.append(_rule(left, bottom, right, bottom, "base"))
    if chart.y_label:
        parts.append(_words(6.0, top - 15, _fit(y_axis.label(chart.y_label), width - 10), kind="t small"))
    parts.append(_words(right, bottom + 35, _fit(x_axis.label(chart.x_label), right - left), "end", "t small"))
    for mark in chart.marks:
        y = y_axis(mark.value)
        parts.append(_rule(left, y, right, y, "ref"))
        parts.append(_words(left + 6, y - 5, _fit(mark.label, right - left - 12), kind="t small halo"))
    ends = []
    for series, runs in curves:
        drawn = []
        for run in runs:
            drawn += _band(run, x_axis, y_axis)
            path = "M" + "L".join(f"{x_axis(x):.1f},{y_axis(y):.1f}" for x, y, _, _ in run)
            drawn.append(_tag("path", {"d": path, "class": "curve", "stroke_dasharray": _dash(series)}))
            if len(run) <= 12:
                drawn += [_marker(series.role, x_axis(x), y_axis(y), 3.6) for x, y, _, _ in run]
            else:
                drawn.append(_marker(series.role, x_axis(run[-1][0]), y_axis(run[-1][1]), 3.6))
        ends.append((y_axis(runs[-1][-1][1]), series))
        parts.append(_tag("g", {"class": f"r-{series.role}"}, *drawn))
    if not narrow:
        for y, series in _spread(ends, 17.0, top, bottom):
            label = _fit(series.name, room - 30)
            stroke = _tag(
                "line",
                {
                    "x1": right + 4,
                    "y1": y,
                    "x2": right + 20,
                    "y2": y,
                    "class": "curve",
                    "stroke_dasharray": _dash(series),
                },
            )
            name = _words(right + 25, y + 4, label, kind="t own")
            parts.append(_tag("g", {"class": f"r-{series.role}"}, stroke, name))
    return _svg(chart, ident, width, bottom + 42, parts)


_Run = list[tuple[float, float, float | None, float | None]]


def _runs(series: Series) -> list[_Run]:
    """The series cut at its gaps: lists of (x, y, low, high), in order of x."""
    numbered = [p for p in series.points if isinstance(p.x, int | float)]
    numbered.sort(key=lambda p: float(p.x))  # type: ignore[arg-type]
    runs: list[_Run] = [[]]
    for p in numbered:
        if p.y is None:
            runs.append([])
        else:
            runs[-1].append((float(p.x), p.y, p.low, p.high))  # type: ignore[arg-type]
    return [r for r in runs if r]


def _dash(series: Series) -> str:
    return series.dash if series.dash is not None else _DASHES.get(series.role, "")


def _band(run: _Run, x_axis: _Axis, y_axis: _Axis) -> list[Markup]:
    known = [(x, low, high) for x, _, low, high in run if low is not None and high is not None]
    if len(known) < 2:
        return []
    there = [f"{x_axis(x):.1f},{y_axis(high):.1f}" for x, _, high in known]
    back = [f"{x_axis(x):.1f},{y_axis(low):.1f}" for x, low, _ in reversed(known)]
    return [_tag("path", {"d": "M" + "L".join(there + back) + "Z", "class": "area"})]


def _spread(items: Sequence[tuple[float, Series]], gap: float, top: float, bottom: float) -> list[tuple[float, Series]]:
    """Move labels apart until none overlaps, as little as needed."""
    placed = sorted(items, key=lambda i: i[0])
    ys: list[float] = []
    for y, _ in placed:
        ys.append(max(y, ys[-1] + gap) if ys else max(y, top))
    for i in range(len(ys) - 1, -1, -1):
        limit = bottom if i == len(ys) - 1 else ys[i + 1] - gap
        ys[i] = min(ys[i], limit)
    return [(y, series) for y, (_, series) in zip(ys, placed, strict=True)]


def reliability(chart: Chart, ident: str, width: float = WIDE) -> Markup:
    """Confidence against how often it was right, over a diagonal, with the band that chance alone explains and a strip of
    how many tokens each bin holds.

    A series without role whose points have bounds is taken as the band. If there is none, the band is the binomial one of
    the first role's bins (95 %, tokens taken as independent).
    """
    band = next((s for s in chart.series if _is_band(s)), None)
    models = [s for s in chart.series if s is not band and any(_numbered(p) for p in s.points)]
    if not models:
        return _nothing(chart, ident, width)
    models.sort(key=lambda s: s.role != "student")  # the student leads: its bounds, its counts, drawn on top
    narrow = width < WIDE
    side = 270.0 if narrow else 330.0
    left = 46.0
    items = [(s.role, _dash(s), s.name) for s in models]
    legend, legend_height = _legend(items, 6.0, width - 12, 2.0) if narrow else (Markup(), 0.0)
    top = legend_height + 28.0
    bottom = top + side
    edge = _null_band(models[0]) if band is None else [_bounds(p) for p in band.points]
    outline: _Run = [(x, x, low, high) for x, low, high in sorted(e for e in edge if e is not None)]
    seen = [v for s in models for p in s.points if _numbered(p) for v in (_unit(p.x), _unit(p.y))]
    seen += [_unit(p.high) for p in models[0].points] + [v for x, _, _, high in outline for v in (x, _unit(high))]
    end = next(e for e in (0.1, 0.2, 0.5, 1.0) if max(seen) <= e)  # a small model may never be sure: look closer
    values = [end * i / 5 for i in range(6)]
    x_axis, y_axis = _Axis(0.0, end, left, left + side), _Axis(0.0, end, bottom, top)
    parts = [legend, _words(6.0, top - 15, _fit(chart.y_label or "share correct", width - 10), kind="t small")]
    for value in values:
        parts.append(_rule(left, y_axis(value), left + side, y_axis(value)))
        parts.append(_words(left - 6, y_axis(value) + 4, f"{value:.2f}", "end", "t small"))
        parts.append(_rule(x_axis(value), top, x_axis(value), bottom))
    parts += [_tag("g", {"class": "r-floor"}, *_band(outline, x_axis, y_axis))]
    parts.append(_tag("line", {"x1": left, "y1": bottom, "x2": left + side, "y2": top, "class": "ref"}))
    for series in reversed(models):
        drawn = []
        lead = series is models[0]
        run = [p for p in series.points if _numbered(p)]
        coordinates = [(x_axis(_unit(p.x)), y_axis(_unit(p.y))) for p in run]
        if len(coordinates) > 1:
            path = "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in coordinates)
            drawn.append(_tag("path", {"d": path, "class": "curve", "stroke_dasharray": _dash(series)}))
        for p, (x, y) in zip(run, coordinates, strict=True):
            if lead and p.low is not None and p.high is not None:
                drawn.append(_rule(x, y_axis(_unit(p.low)), x, y_axis(_unit(p.high)), "whisker"))
            drawn.append(_marker(series.role, x, y, 4.6 if lead else 3.4))
        parts.append(_tag("g", {"class": f"r-{series.role}" + ("" if lead else " aside-curve")}, *drawn))
    strip_top, strip_bottom = bottom + 30, bottom + 72
    parts += _count_strip(models[0], x_axis, strip_top, strip_bottom, left)
    parts.append(_words(left + side, strip_bottom + 33, _fit(chart.x_label or "confidence", side), "end", "t small"))
    for value in values:
        parts.append(_words(x_axis(value), strip_bottom + 16, f"{value:.2f}", "middle", "t small"))
    if not narrow:
        x = left + side + 28
        side_legend, height = _legend(items, x, width - x, top + 4)
        notes = ["dashed: says what it knows", "below it: over-confident", "above it: under-confident"]
        notes += ["pale band: chance alone"] if outline else []
        parts.append(side_legend)
        parts += [_words(x, top + height + 18 + 19 * i, note, kind="t small") for i, note in enumerate(notes)]
    return _svg(chart, ident, width, strip_bottom + 42, parts)


def _numbered(p: Point) -> bool:
    return isinstance(p.x, int | float) and p.y is not None


def _unit(value: float | str | None) -> float:
    return min(1.0, max(0.0, float(value))) if isinstance(value, int | float) else 0.0


def _is_band(series: Series) -> bool:
    bounded = bool(series.points) and all(p.low is not None and p.high is not None for p in series.points)
    name = series.name.lower()
    named = any(word in name for word in ("null", "band", "chance", "perfect"))
    return series.role == "other" and bounded and (named or all(p.y is None for p in series.points))


def _bounds(p: Point) -> tuple[float, float, float] | None:
    if not isinstance(p.x, int | float) or p.low is None or p.high is None:
        return None
    return _unit(p.x), _unit(p.low), _unit(p.high)


def _null_band(series: Series) -> list[tuple[float, float, float] | None]:
    out: list[tuple[float, float, float] | None] = []
    for p in series.points:
        if isinstance(p.x, int | float) and p.n:
            x = _unit(p.x)
            half = 1.96 * math.sqrt(x * (1 - x) / p.n)
            out.append((x, _unit(x - half), _unit(x + half)))
    return out


def _count_strip(series: Series, x_axis: _Axis, top: float, bottom: float, left: float) -> list[Markup]:
    """Small bars from zero: how many tokens stand behind each point of a series."""
    known = [(x_axis(_unit(p.x)), p.n) for p in series.points if p.n and isinstance(p.x, int | float)]
    if not known:
        return []
    largest = max(n for _, n in known)
    places = sorted(x for x, _ in known)
    thick = max(1.5, min(12.0, *(0.85 * (b - a) for a, b in pairwise(places)), 12.0))  # neighbours do not overlap
    rects = []
    for x, n in known:
        tall = max(1.0, (bottom - top) * n / largest)
        rects.append(
            _tag("rect", {"x": x - thick / 2, "y": bottom - tall, "width": thick, "height": tall, "class": "bar"})
        )
    return [
        _words(left, top - 6, _fit(f"tokens per bin, {series.name}: at most {largest:,.0f}", 270), kind="t small"),
        _rule(x_axis.start, bottom, x_axis.stop, bottom, "base"),
        _tag("g", {"class": f"r-{series.role}"}, *rects),
    ]


def scatter(chart: Chart, ident: str, width: float = WIDE) -> Markup:
    """Things by two numbers: each series of one point is a numbered marker with its interval, named in the key below.

    A series of more points is a border in steps, as a Pareto front has it: level to the next point, then up to it. The
    horizontal axis is logarithmic where the largest value is more than three times the smallest.
    """
    named = [(s, [p for p in s.points if isinstance(p.x, int | float) and p.y is not None]) for s in chart.series]
    things = [(s, points[0]) for s, points in named if len(s.points) == 1 and points]
    if not things:
        return _nothing(chart, ident, width)
    narrow = width < WIDE
    xs = [float(p.x) for _, p in things]  # type: ignore[arg-type]
    logarithmic = min(xs) > 0 and max(xs) > 3 * min(xs)

    def place(x: Any) -> float:
        return math.log10(float(x)) if logarithmic else float(x)

    left, right, top = 46.0, width - 16.0, 28.0
    bottom = top + (210.0 if narrow else 260.0)
    x_axis = _Axis(*_domain(map(place, xs), pad=0.08), left, right, 4 if narrow else 7)
    ys = [v for _, p in things for v in (p.y, p.low, p.high)]
    y_axis = _Axis(*_round(_domain(ys, [m.value for m in chart.marks], pad=0.0), 5), bottom, top, 5)
    parts = [_words(6.0, top - 15, _fit(y_axis.label(chart.y_label), width - 10), kind="t small")]
    for value, text in y_axis.marks():
        parts.append(_rule(left, y_axis(value), right, y_axis(value)))
        parts.append(_words(left - 6, y_axis(value) + 4, text, "end", "t small"))
    for value, text in _powers(x_axis, 3 if narrow else 8) if logarithmic else x_axis.marks():
        parts.append(_rule(x_axis(value), bottom, x_axis(value), bottom + 4, "base"))
        parts.append(_words(x_axis(value), bottom + 18, text, "middle", "t small"))
    parts.append(_rule(left, bottom, right, bottom, "base"))
    label = f"{chart.x_label}, logarithmic" if logarithmic else x_axis.label(chart.x_label)
    parts.append(_words(right, bottom + 35, _fit(label, right - left), "end", "t small"))
    for mark in chart.marks:
        parts.append(_rule(left, y_axis(mark.value), right, y_axis(mark.value), "ref"))
        parts.append(_words(left + 6, y_axis(mark.value) - 5, _fit(mark.label, right - left - 12), kind="t small halo"))
    for series, points in named:
        if len(points) > 1:
            steps = [(x_axis(place(p.x)), y_axis(p.y)) for p in sorted(points, key=lambda p: float(p.x))]  # type: ignore[arg-type]
            path = f"M{steps[0][0]:.1f},{steps[0][1]:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in steps[1:])
            drawn = _tag("path", {"d": path, "class": "curve", "stroke_dasharray": _dash(series)})
            parts.append(_tag("g", {"class": f"r-{series.role}"}, drawn))
    taken: list[tuple[float, float]] = []
    for count, (series, p) in enumerate(things, 1):
        x, y = x_axis(place(p.x)), y_axis(p.y or 0.0)
        shape = []
        if p.low is not None and p.high is not None:
            shape.append(_rule(x, y_axis(max(p.low, y_axis.low)), x, y_axis(min(p.high, y_axis.high)), "whisker"))
        shape.append(_marker(series.role, x, y))
        parts.append(_tag("g", {"class": f"r-{series.role}"}, *shape))
        at = y - 8
        while any(abs(x - other) < 16 and abs(at - beside) < 13 for other, beside in taken):
            at -= 13
        taken.append((x, at))
        parts.append(_words(x + 7, at, str(count), kind="t name"))
    items = [(s.role, "0 99", f"{n}  {s.name}") for n, (s, _) in enumerate(things, 1)]
    legend, height = _legend(items, 6.0, width - 12, bottom + 46)
    return _svg(chart, ident, width, bottom + 46 + height, [*parts, legend])


def _powers(axis: _Axis, most: int) -> list[tuple[float, str]]:
    """Ticks of a logarithmic axis at 1, 2 and 5 of each power of ten, or at fewer of them: logarithm, words."""
    powers = range(math.floor(axis.low), math.ceil(axis.high) + 1)
    found: list[float] = []
    for digits in ((1, 2, 5), (1, 3), (1,)):
        found = [m * 10.0**p for p in powers for m in digits if axis.low <= math.log10(m * 10.0**p) <= axis.high]
        if len(found) <= most:
            break
    return [(math.log10(v), f"{v:,.0f}" if v >= 1 else f"{v:g}") for v in found]


_DRAW: dict[str, Callable[[Chart, str, float], Markup]] = {
    "forest": forest,
    "ladder": ladder,
    "reliability": reliability,
    "line": line,
    "bars": bars,
    "scatter": scatter,
}

HOW: dict[str, str] = {
    "forest": "Each bar is an interval: values inside it are compatible with what was measured; the marker is the best "
    "single guess. A bar that crosses a dashed line has not decided on which side of it the truth lies.",
    "ladder": "Each rung is a model on the same tokens. The step from control to student is what the teacher's signal "
    "bought; the step from student to teacher is what is still lost.",
    "reliability": "A point on the dashed diagonal is right as often as it claims. Points inside the pale band are no "
    "evidence of a fault; the strip shows how many tokens stand behind each.",
    "line": "Same colour, same model. Solid, dashed and dotted lines of one colour are different quantities; the vertical axis need "
    "not start at zero.",
    "scatter": "Higher is better, further left is cheaper. The stepped line joins what nothing else beats in both; the upright bars are "
    "intervals, and where they overlap the order is not shown.",
    "bars": "Bars start at zero, so their lengths can be compared. The thin line over a bar is its interval.",
}
"""How to read each kind of chart."""
