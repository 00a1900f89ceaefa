"""Charts, from what a reader must be able to take from them."""

from __future__ import annotations

import json
import random
import re
from itertools import combinations, pairwise
from types import ModuleType
from typing import Any

import pytest

from stillhouse.report import charts
from stillhouse.report.charts.axes import Axis, rounded
from stillhouse.report.charts.ink import marker
from stillhouse.report.charts.parts import dash_of

KINDS = ("forest", "ladder", "reliability", "line", "bars")


def raw(kind: str, **more: Any) -> dict[str, Any]:
    names = kind in ("forest", "ladder", "bars")
    series = []
    for k, role in enumerate(("student", "teacher", "control", "before", "floor")):
        points = []
        for i in range(1 if kind in ("forest", "ladder") else 4):
            x: float | str = role if kind in ("forest", "ladder") else f"group {i}" if names else 0.2 + 0.2 * i
            y = 0.1 + 0.11 * k + 0.07 * i
            points.append({"x": x, "y": y, "low": y - 0.03, "high": y + 0.04, "n": 100 + i})
        series.append({"name": role, "role": role, "points": points})
    marks = [{"value": 0.5, "label": "asked for"}, {"value": 0.55, "label": "teacher"}]
    content = {"kind": kind, "title": f"a {kind}", "x_label": "x", "y_label": "nats", "series": series, "marks": marks}
    return content | more


def parsed(content: Any) -> charts.Chart:
    chart = charts.parse(content)
    assert chart is not None
    return chart


def scale(svg: Any, left_to_right: bool = True) -> tuple[float, float]:
    """Offset and slope from value to units, taken from two tick labels and the grid lines above them."""
    grid = sorted({float(n.attributes["x1"]) for n in svg.all("line") if n.attributes["class"] == "grid"})
    labels = sorted(
        (float(n.attributes["x"]), float(n.text.replace("−", "-")))
        for n in svg.all("text")
        if re.fullmatch(r"−?[\d.]+", n.text) and n.attributes["text-anchor"] == "middle"
    )
    assert [x for x, _ in labels] == grid
    (x1, v1), (x2, v2) = labels[0], labels[-1]
    slope = (x2 - x1) / (v2 - v1)
    return x1 - v1 * slope, slope


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [charts.WIDE, charts.NARROW])
def test_every_chart_is_named_and_described(kind: str, width: int, html: ModuleType) -> None:
    (svg,) = html.parse(str(charts.DRAW[kind](parsed(raw(kind)), "i", width))).all("svg")
    title, description = svg.children[0], svg.children[1]
    assert (title.tag, description.tag) == ("title", "desc")
    assert title.text == f"a {kind}" and "student" in description.text
    assert svg.attributes["role"] == "img"
    assert svg.attributes["aria-labelledby"].split() == [title.attributes["id"], description.attributes["id"]]
    assert svg.attributes["viewbox"].startswith(f"0 0 {width} ")


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_has_every_point_and_every_reference(kind: str) -> None:
    content = raw(kind)
    columns, rows = charts.table(parsed(content))
    points = sum(len(s["points"]) for s in content["series"])
    assert len(rows) == points + len(content["marks"])
    assert all(len(row) == len(columns) for row in rows)
    assert columns.index("interval") < columns.index("nats"), "the interval comes before its point"


@pytest.mark.parametrize("width", [charts.WIDE, charts.NARROW])
def test_bars_start_at_zero_and_are_as_long_as_their_values(width: int, html: ModuleType) -> None:
    values = [3.0, 7.5, -2.0, 0.0, 12.25]
    points = [{"x": f"p{i}", "y": v} for i, v in enumerate(values)]
    chart = parsed({"kind": "bars", "title": "t", "series": [{"name": "s", "points": points}]})
    svg = html.parse(str(charts.bars(chart, "i", width)))
    (zero,) = [float(n.attributes["x1"]) for n in svg.all("line") if n.attributes["class"] == "base"]
    rects = [n for n in svg.all("rect") if n.attributes["class"] == "bar"]
    offset, slope = scale(svg)
    assert zero == pytest.approx(offset, abs=0.2)
    for value, rect in zip(values, rects, strict=True):
        start, length = float(rect.attributes["x"]), float(rect.attributes["width"])
        assert length == pytest.approx(max(1.0, abs(value) * slope), abs=0.3)
        assert (start if value >= 0 else start + length) == pytest.approx(zero, abs=1.1)


@pytest.mark.parametrize("kind", ["forest", "ladder"])
@pytest.mark.parametrize("width", [charts.WIDE, charts.NARROW])
def test_intervals_points_and_references_lie_where_the_axis_says(kind: str, width: int, html: ModuleType) -> None:
    content = raw(kind)
    svg = html.parse(str(charts.DRAW[kind](parsed(content), "i", width)))
    offset, slope = scale(svg)
    bands = [n for n in svg.all("line") if n.attributes["class"] == "band"]
    by_role = {}
    for group in svg.all("g"):
        (band,) = [n for n in group.all("line") if n.attributes["class"] == "band"]
        by_role[group.attributes["class"]] = band
    assert len(bands) == 5
    for series in content["series"]:
        band, point = by_role[f"r-{series['role']}"], series["points"][0]
        assert float(band.attributes["x1"]) == pytest.approx(offset + slope * point["low"], abs=0.3)
        assert float(band.attributes["x2"]) == pytest.approx(offset + slope * point["high"], abs=0.3)
    lines = sorted(float(n.attributes["x1"]) for n in svg.all("line") if n.attributes["class"] == "ref")
    assert lines == pytest.approx([offset + slope * 0.5, offset + slope * 0.55], abs=0.3)


def test_the_ladder_is_in_order_whatever_order_came(html: ModuleType) -> None:
    svg = html.parse(str(charts.ladder(parsed(raw("ladder")), "i")))
    heights = {
        g.attributes["class"]: float(n.attributes["y1"])
        for g in svg.all("g")
        for n in g.all("line")
        if n.attributes["class"] == "band"
    }
    order = sorted(heights, key=lambda role: heights[role])
    assert order == ["r-floor", "r-before", "r-control", "r-student", "r-teacher"]
    assert len([n for n in svg.all("path") if n.attributes["class"] == "step"]) == 4


def test_lines_break_at_gaps_and_follow_values(html: ModuleType) -> None:
    ys = [5.0, 4.0, None, 3.0, float("nan"), 2.5, 2.0]
    points = [{"x": i * 10, "y": y} for i, y in enumerate(ys)]
    chart = parsed({"kind": "line", "title": "t", "series": [{"name": "s", "role": "student", "points": points}]})
    svg = html.parse(str(charts.line(chart, "i")))
    curves = [n.attributes["d"] for n in svg.all("path") if n.attributes["class"] == "curve"]
    assert [len(d[1:].split("L")) for d in curves] == [2, 1, 2]
    pairs = [tuple(float(v) for v in p.split(",")) for d in curves for p in d[1:].split("L")]
    known = [(i * 10, y) for i, y in enumerate(ys) if y is not None and y == y]
    for (xa, ya), (xb, yb), (va, wa), (vb, wb) in zip(pairs, pairs[1:], known, known[1:], strict=False):
        assert (xb - xa) / (pairs[-1][0] - pairs[0][0]) == pytest.approx((vb - va) / 60, abs=0.01)
        assert (yb - ya) / (pairs[-1][1] - pairs[0][1]) == pytest.approx((wb - wa) / (2.0 - 5.0), abs=0.01)


@pytest.mark.parametrize("last", [1, 2, 3, 7, 12])
def test_curves_over_whole_numbers_have_no_ticks_between_them(last: int, html: ModuleType) -> None:
    points = [{"x": i, "y": 50.0 + i / 10} for i in range(last + 1)]
    chart = parsed({"kind": "line", "title": "t", "series": [{"name": "s", "role": "student", "points": points}]})
    svg = html.parse(str(charts.line(chart, "i")))
    said = [n.text for n in svg.all("text") if n.attributes["text-anchor"] == "middle"]
    assert len(said) >= 2
    assert all(text.isdigit() for text in said), said


def test_reliability_draws_the_given_band_or_else_the_binomial_one(html: ModuleType) -> None:
    points = [{"x": x, "y": x - 0.02, "n": 400} for x in (0.1, 0.5, 0.9)]
    models = [{"name": "student", "role": "student", "points": points}]
    given = [{"x": x, "y": None, "low": x - 0.2, "high": x + 0.1} for x in (0.2, 0.5, 0.8)]
    heights = {}
    for name, series in (("own", models), ("given", [*models, {"name": "chance alone", "points": given}])):
        svg = html.parse(str(charts.reliability(parsed({"kind": "reliability", "title": "t", "series": series}), "i")))
        (area,) = [n for n in svg.all("path") if n.attributes["class"] == "area"]
        corners = [tuple(map(float, p.split(","))) for p in area.attributes["d"][1:-1].split("L")]
        assert len(corners) == 6
        heights[name] = corners[4][1] - corners[1][1]  # low and high at x = 0.5
        strips = [n for n in svg.all("rect") if n.attributes["class"] == "bar"]
        assert len(strips) == 3
    assert heights["given"] == pytest.approx(330 * 0.3, abs=0.3)
    assert heights["own"] == pytest.approx(330 * 2 * 1.96 * (0.25 / 400) ** 0.5, abs=0.3)


@pytest.mark.parametrize(
    ("largest", "end"), [(0.07, "0.10"), (0.17, "0.20"), (0.4, "0.50"), (0.7, "1.00"), (1.0, "1.00")]
)
def test_reliability_looks_closer_at_models_that_are_never_sure(largest: float, end: str, html: ModuleType) -> None:
    points = [{"x": largest * i / 20, "y": largest * i / 20, "n": 10**7} for i in range(1, 20)]
    content = {
        "kind": "reliability",
        "title": "t",
        "series": [{"name": "student", "role": "student", "points": points}],
    }
    svg = html.parse(str(charts.reliability(parsed(content), "i")))
    numbers = [n.text for n in svg.all("text") if re.fullmatch(r"\d\.\d\d", n.text)]
    assert max(numbers) == end and numbers.count(end) == 2, "one end for both axes"
    bars = sorted((float(n.attributes["x"]), float(n.attributes["width"])) for n in svg.all("rect"))
    assert len(bars) == 19
    assert all(x + width <= right + 0.15 for (x, width), (right, _) in pairwise(bars)), "bars overlap"


def test_roles_differ_by_shape_and_dash_not_only_by_colour() -> None:
    shapes = {role: str(marker(role, 8.0, 8.0)) for role in (*charts.ROLES, "other")}
    assert len(set(shapes.values())) == len(shapes)
    same_role = [{"name": str(i), "role": "student", "points": [{"x": 0, "y": 1}]} for i in range(5)]
    dashes = [dash_of(s) for s in parsed({"kind": "line", "series": same_role}).series]
    assert len(set(dashes)) == 5


def linear(colour: str) -> list[float]:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, relative luminance."""
    a, b = (0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in (linear(one), linear(other)))
    return (max(a, b) + 0.05) / (min(a, b) + 0.05)


@pytest.mark.parametrize("scheme", [0, 1])
def test_text_in_every_colour_is_readable(scheme: int) -> None:
    for ground in ("paper", "card"):
        for name, pair in charts.PALETTE.items():
            if name not in ("paper", "card", "line"):
                assert contrast(pair[scheme], charts.PALETTE[ground][scheme]) >= 4.5, (name, ground)


def seen_by(colour: str, lacking: str) -> list[float]:
    """What a dichromat sees, in CIELAB: Viénot, Brettel, Mollon 1999."""
    r, g, b = linear(colour)
    if lacking == "protan":
        r, g, b = 0.11238 * r + 0.88762 * g, 0.11238 * r + 0.88762 * g, 0.00401 * r - 0.00401 * g + b
    elif lacking == "deutan":
        r, g, b = 0.29275 * r + 0.70725 * g, 0.29275 * r + 0.70725 * g, -0.02234 * r + 0.02234 * g + b
    x, y, z = (
        (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505,
        0.2126 * r + 0.7152 * g + 0.0722 * b,
        (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089,
    )
    fx, fy, fz = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, y, z))
    return [116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)]


@pytest.mark.parametrize("lacking", ["nothing", "protan", "deutan"])
@pytest.mark.parametrize("scheme", [0, 1])
def test_roles_can_be_told_apart_by_the_colour_blind(lacking: str, scheme: int) -> None:
    for one, other in combinations(charts.ROLES, 2):
        a, b = (seen_by(charts.PALETTE[name][scheme], lacking) for name in (one, other))
        distance = sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5
        assert distance >= 12, (one, other, distance)


def test_ticks_are_round_few_and_at_most_two_decimals() -> None:
    noise = random.Random(1)
    for _ in range(2000):
        low = noise.uniform(-1, 1) * 10 ** noise.uniform(-6, 6)
        high = low + abs(low) * noise.uniform(0.01, 3) + 10 ** noise.uniform(-6, 5)
        values = charts.ticks(low, high)
        assert 2 <= len(values) <= 11
        assert low - 1e-6 * (high - low) <= values[0] and values[-1] <= high + 1e-6 * (high - low)
        for _, text in Axis(low, high, 0.0, 100.0).marks():
            assert len(text.partition(".")[2]) <= 2, (low, high, text)


def test_rounded_axes_enclose_and_begin_and_end_at_a_tick() -> None:
    noise = random.Random(2)
    for _ in range(2000):
        low = noise.uniform(-5, 5)
        high = low + 10 ** noise.uniform(-2, 3)
        first, last = rounded((low, high), 5)
        values = charts.ticks(first, last, 5)
        near = 1e-5 * (last - first)
        assert first <= low + near and high <= last + near
        assert abs(values[0] - first) < near and abs(values[-1] - last) < near
        assert last - first < 4 * (high - low)


def test_tiny_and_huge_axes_say_their_power_of_ten(html: ModuleType) -> None:
    for top, said in ((5e-4, "×10⁻⁴"), (2.5e7, "×10⁶")):
        points = [{"x": i, "y": top * i / 4} for i in range(5)]
        chart = parsed({"kind": "line", "title": "t", "y_label": "rate", "series": [{"name": "s", "points": points}]})
        svg = html.parse(str(charts.line(chart, "i")))
        assert any(said in n.text for n in svg.all("text"))
        numbers = [n.text for n in svg.all("text") if n.attributes["text-anchor"] == "end" and n.text != "s"]
        assert len(set(numbers)) == len(numbers), "tick labels repeat"


def test_labels_at_line_ends_never_overlap(html: ModuleType) -> None:
    series = [{"name": f"curve {i}", "points": [{"x": 0, "y": 1}, {"x": 1, "y": 1 + i * 1e-4}]} for i in range(9)]
    svg = html.parse(str(charts.line(parsed({"kind": "line", "title": "t", "series": series}), "i")))
    heights = sorted(float(n.attributes["y"]) for n in svg.all("text") if "own" in n.attributes["class"])
    assert len(heights) == 9
    assert all(b - a >= 14 for a, b in pairwise(heights))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [charts.WIDE, charts.NARROW])
def test_hostile_names_stay_text_and_inside(kind: str, width: int, html: ModuleType, example: ModuleType) -> None:
    for text in example.NASTY.values():
        content = raw(kind, title=text, x_label=text, y_label=text)
        content["marks"] = [{"value": 0.3, "label": text}]
        content["series"][0]["name"] = text
        if kind in ("forest", "ladder", "bars"):
            content["series"][0]["points"][0]["x"] = text
        drawn = str(charts.DRAW[kind](parsed(content), "i", width))
        tree = html.parse(drawn)
        assert {n.tag for n in tree.walk()} <= {
            "root",
            "svg",
            "title",
            "desc",
            "text",
            "line",
            "path",
            "rect",
            "g",
            "circle",
        }
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", drawn)
        for node in tree.all("text"):
            room = len(node.text) * 5.6  # a typical mean width; the code reckons with more
            x, anchor = float(node.attributes["x"]), node.attributes["text-anchor"]
            left = x - {"start": 0.0, "middle": room / 2, "end": room}[anchor]
            assert left >= -8 and left + room <= width + 8, (node.text, left, room)


@pytest.mark.parametrize("kind", KINDS)
def test_charts_without_numbers_say_so(kind: str, html: ModuleType) -> None:
    gone: list[Any] = [
        {"kind": kind},
        {"kind": kind, "series": None, "marks": 3},
        {"kind": kind, "series": [{"name": None, "points": None}, 3, {"points": [{}, None, {"x": None, "y": "z"}]}]},
        raw(kind, series=[{"name": "s", "points": [{"x": "a", "y": None}, {"x": 1, "y": float("inf")}]}]),
    ]
    for content in gone:
        made = charts.figure(parsed(content), "i")
        for drawn in (made.wide, made.narrow):
            assert "No numbers to draw" in html.parse(str(drawn)).text


def test_one_point_one_value_and_equal_values_are_drawn(html: ModuleType) -> None:
    for kind in KINDS:
        for values in ([1.0], [2.0, 2.0], [0.0], [-3.0], [1e12], [1e-12]):
            points = [{"x": 0.5, "y": v} for v in values]
            content = {"kind": kind, "title": "t", "series": [{"name": "s", "points": points}]}
            made = charts.figure(parsed(content), "i")
            assert "nan" not in made.wide.lower() and "inf" not in made.wide.lower()
            html.parse(str(made.wide)), html.parse(str(made.narrow))


def test_no_json_value_breaks_a_chart(html: ModuleType) -> None:
    noise = random.Random(0)

    def anything(depth: int) -> Any:
        kind = noise.randrange(9 if depth else 6)
        if kind < 6:
            return [None, True, noise.uniform(-9, 9), "text", noise.randrange(-3, 10**9), float("nan")][kind]
        if kind < 8:
            return [anything(depth - 1) for _ in range(noise.randrange(4))]
        return {k: anything(depth - 1) for k in ("x", "y", "low", "high", "n", "name", "value") if noise.random() < 0.7}

    for i in range(400):
        content = raw(KINDS[i % 5])
        for key in ("title", "x_label", "series", "marks", "kind"):
            if noise.random() < 0.3:
                content[key] = anything(3)
        for series in content["series"] if isinstance(content["series"], list) else []:
            if isinstance(series, dict) and isinstance(series.get("points"), list):
                series["points"] = [anything(2) if noise.random() < 0.4 else p for p in series["points"]]
        chart = charts.parse(json.loads(json.dumps(content)))
        assert chart is not None
        made = charts.figure(chart, "i")
        html.parse(str(made.wide)), html.parse(str(made.narrow))
    assert charts.parse(None) is None and charts.parse([1]) is None


def scattered(points: list[tuple[float, float]], front: list[tuple[float, float]] = []) -> dict[str, Any]:  # noqa: B006
    series = [
        {"name": f"{i} thing", "points": [{"x": x, "y": y, "low": y - 2, "high": y + 2}]}
        for i, (x, y) in enumerate(points)
    ]
    border = [{"name": "front", "points": [{"x": x, "y": y} for x, y in front]}] if front else []
    return {"kind": "scatter", "title": "t", "x_label": "MB", "y_label": "%", "series": series + border}


@pytest.mark.parametrize("width", [charts.WIDE, charts.NARROW])
def test_a_wide_range_of_costs_is_drawn_by_its_logarithm(width: int, html: ModuleType) -> None:
    """From 10 to 100 is as far as from 100 to 1,000; a narrow range stays as it is."""

    def places(values: list[float]) -> list[float]:
        svg = html.parse(str(charts.scatter(parsed(scattered([(x, 50.0) for x in values])), "i", width)))
        return [float(n.attributes["x1"]) for n in svg.all("line") if n.attributes["class"] == "whisker"]

    a, b, c = places([10.0, 100.0, 1000.0])
    assert b - a == pytest.approx(c - b, abs=0.3) and b > a
    a, b, c = places([10.0, 15.0, 25.0])
    assert 2 * (b - a) == pytest.approx(c - b, abs=0.3) and b > a


def test_each_thing_of_a_scatter_has_a_number_and_its_name_in_the_key(html: ModuleType) -> None:
    svg = html.parse(str(charts.scatter(parsed(scattered([(1, 50), (1, 50), (9, 70)], [(1, 50), (9, 70)])), "i")))
    texts = [n.text for n in svg.all("text")]
    assert all(str(i) in texts and f"{i} thing" in texts for i in (0, 1, 2))
    heights = sorted(
        float(n.attributes["y"]) for n in svg.all("text") if n.text in ("0", "1") and n.attributes["class"] == "t name"
    )
    assert heights[1] - heights[0] >= 12  # two in one place: their numbers do not cover each other
