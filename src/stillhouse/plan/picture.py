"""A plan as a table in the terminal and as a drawing: size against what to expect of quality, and against latency."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape as xml
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stillhouse.files import write_text
from stillhouse.plan import Plan
from stillhouse.plan.candidate import TOKENS_PER_PARAMETER, Candidate, share, spoken
from stillhouse.plan.latency import TEXT, Law
from stillhouse.plan.memory import CONTEXT
from stillhouse.plan.strategy import BANDS, GUIDE, expected
from stillhouse.report.charts import style, ticks
from stillhouse.report.words import bytes_of, magnitude

# --- the table ---------------------------------------------------------------------------------------------------------


def show(plan: Plan, console: Console) -> None:
    """Print the candidates, why the first is recommended, and what to know beside."""
    teacher = f"Teacher [bold]{escape(plan.teacher)}[/]: {plan.tally.parameters:,} parameters"
    console.print(f"{teacher}. Goal: {escape(', '.join(str(g) for g in plan.goals))}.", highlight=False)
    for columns in [range(len(_columns(plan)))] if console.width >= WIDE else PARTS:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(_columns(plan)[column], justify="left" if column < 2 else "right", no_wrap=column != 1)
        for number, one in enumerate(plan.candidates, 1):
            cells = _cells(plan, number, one)
            table.add_row(*(cells[column] for column in columns), style="bold" if number == 1 else "")
        console.print(table)
    best = plan.best
    console.print(f"\n[bold]1 is recommended:[/] {escape(best.why)}", highlight=False)
    console.print(f"Strategy: {escape(best.prescription.why['strategy'])}.", highlight=False)
    if best.stages:
        console.print(
            f"By way of assistants of {' and '.join(f'{size:,}' for size in best.stages)} parameters.", highlight=False
        )
    band = best.retention
    console.print(f"Keeps {share(band)} of the teacher's quality: {band.source}.", highlight=False)
    for way, reason in plan.left_out.items():
        console.print(f"[dim]Not {way}: {escape(reason)}.[/]", highlight=False)
    for line in legend(plan):
        console.print(f"[dim]{escape(line)}[/]", highlight=False)
    for note in plan.notes:
        console.print(f"[yellow]Note:[/] {escape(note)}", highlight=False)


WIDE = 120
"""Characters that a row of the table takes."""

PARTS = (0, 1, 2, 3, 4, 8, 9), (0, 5, 6, 7, 10)
"""Columns of the two tables that are shown where there are fewer."""


def _columns(plan: Plan) -> tuple[str, ...]:
    answer = "text" if plan.classes else "token"
    numbers = (
        "parameters",
        "smaller",
        plan.precision,
        "answers in",
        "trains in",
        "FLOP",
        f"a {answer}",
        "keeps",
        "training",
    )
    return ("", "student", *numbers)


def _cells(plan: Plan, number: int, one: Candidate) -> list[str]:
    return [
        str(number),
        one.name,
        f"{one.tally.parameters:,}",
        f"{one.ratio:.1f}x",
        bytes_of(one.tally.file[plan.precision]),
        bytes_of(one.serving.total),
        bytes_of(one.training.total) if one.training else "–",
        magnitude(one.flops),
        milliseconds(one.seconds),
        share(one.retention),
        "–" if one.training_seconds is None else spoken(one.training_seconds).removeprefix("about "),
    ]


def legend(plan: Plan) -> list[str]:
    """What the columns mean, a line each."""
    unit = f"a text of {TEXT} tokens" if plan.classes else "a token"
    cache = "" if plan.classes else f" and a cache of {CONTEXT:,} tokens"
    lines = [
        f"{plan.precision}: the weights' file, scales included, without the tokenizer; answers in: the memory of these weights{cache}"
        + (
            "."
            if plan.best.training is None
            else "; trains in: float32 weights, gradients, AdamW, the teacher and a micro-batch."
        ),
        f"FLOP: of {unit}, two a weight. keeps: {GUIDE} (interpolated between its bands).",
    ]
    if plan.law is not None:
        lines.append(f"Latency of {unit}, predicted for float32 on this machine: {plan.law}.")
    best = plan.best
    if best.training is not None:
        full = (
            f" {TOKENS_PER_PARAMETER} tokens a parameter would take {spoken(best.full_seconds)}."
            if best.full_seconds
            else ""
        )
        lines.append(
            f"training: {magnitude(best.tokens)} tokens for the first, a control without the teacher included.{full}"
        )
    return lines


def milliseconds(seconds: float | None) -> str:
    """A latency as people read it."""
    return "–" if seconds is None else f"{1e3 * seconds:.3g} ms"


# --- the drawing --------------------------------------------------------------------------------------------------------

_WIDTH, _LEFT, _RIGHT, _PANEL = 760.0, 64.0, 736.0, 220.0
_Scale = Callable[[float], float]
_CSS = (
    "body{margin:0;padding:24px;background:var(--paper);color:var(--ink);font:15px/1.5 sans-serif}"
    "main{max-width:980px;margin:auto}svg{width:100%;height:auto}.ground{fill:var(--card)}"
    "text{fill:var(--ink);font:12px sans-serif}.s{fill:var(--muted)}.b{font:bold 15px sans-serif}"
    ".grid{stroke:var(--line)}.area{fill:var(--other);opacity:.2}line.i{stroke:currentColor;stroke-width:3;opacity:.45}"
    ".depth{color:var(--student)}.width{color:var(--control)}.balanced{color:var(--before)}.teacher{color:var(--teacher)}"
    "path{stroke:currentColor;stroke-width:2;fill:currentColor}path.hollow{fill:var(--card)}"
    ".scroll{overflow-x:auto}table{border-collapse:collapse;margin:16px 0;font-size:13px;white-space:nowrap}"
    "td,th{padding:3px 8px;text-align:right;border-bottom:1px solid var(--line)}td:nth-child(2),th:nth-child(2){text-align:left}"
)


def draw(plan: Plan, path: Path) -> None:
    """Write the drawing: an .svg alone, anything else as a page with the numbers below it; light and dark, no network."""
    if path.suffix == ".svg":
        write_text(path, _svg(plan, f"<style>{style()}{_CSS}</style>") + "\n")
        return
    rows = "".join(
        f"<tr>{''.join(f'<td>{xml(cell)}</td>' for cell in _cells(plan, number, one))}</tr>"
        for number, one in enumerate(plan.candidates, 1)
    )
    head = "".join(f"<th>{xml(name)}</th>" for name in _columns(plan))
    told = "".join(f"<p>{xml(line)}</p>" for line in (f"1 is recommended: {plan.best.why}", *legend(plan), *plan.notes))
    write_text(
        path,
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<meta name="color-scheme" content="light dark"><title>{xml(_title(plan))}</title><style>{style()}{_CSS}</style></head>\n'
        f'<body><main>{_svg(plan)}\n<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        f"{told}</main></body></html>\n",
    )


def _title(plan: Plan) -> str:
    return f"Students of {plan.teacher} for {', '.join(str(g) for g in plan.goals)}"


def _svg(plan: Plan, style_tag: str = "") -> str:
    """Two panels over one axis of sizes, on a logarithmic scale: what to expect of quality, and latency."""
    low = math.log10(min(c.tally.parameters for c in plan.candidates) / 1.5)
    high = math.log10(plan.tally.parameters * 1.2)

    def x(parameters: float) -> float:
        return _LEFT + (math.log10(parameters) - low) / (high - low) * (_RIGHT - _LEFT)

    panels = 1 if plan.law is None else 2
    height = 90 + panels * (_PANEL + 44) + 20
    told = "; ".join(
        f"{number}, {c.name}: {c.tally.parameters:,} parameters, keeps {share(c.retention)}, {milliseconds(c.seconds)}"
        for number, c in enumerate(plan.candidates, 1)
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:.0f} {height:.0f}" role="img">{style_tag}',
        f"<title>{xml(_title(plan))}</title><desc>{xml(told)}</desc>",
        f'<rect class="ground" width="{_WIDTH:.0f}" height="{height:.0f}" rx="8"/>',
        _text(12, 26, _title(plan), "b"),
        *_key(plan),
        *_quality(plan, x, 90.0, 10.0**low),
    ]
    bottom = 90 + _PANEL
    if plan.law is not None:
        parts += _speed(plan, plan.law, x, bottom + 44)
        bottom += 44 + _PANEL
    for value in _marks(10.0**low, 10.0**high):
        parts += [
            _line("grid", x(value), 90, x(value), bottom),
            _text(x(value), bottom + 16, magnitude(value).replace(".0", ""), "s", "middle"),
        ]
    parts.append(_text(_RIGHT, bottom + 34, "parameters, logarithmic", "s", "end"))
    return "\n".join([*parts, "</svg>"])


def _key(plan: Plan) -> Iterator[str]:
    """What each marker means: a shape and a colour a way, hollow for a trimmed vocabulary."""
    at = 18.0
    for way in dict.fromkeys(c.way for c in plan.candidates):
        yield _marker(way, at, 46, hollow=False)
        yield _text(at + 10, 50, way)
        at += 30 + 7 * len(way)
    hollow = "; hollow: vocabulary trimmed" if any(c.vocabulary for c in plan.candidates) else ""
    yield _text(at, 50, f"numbers: rows of the table{hollow}", "s")


def _quality(plan: Plan, x: _Scale, top: float, least: float) -> Iterator[str]:
    """The guide's band over all sizes, and where the candidates stand in it."""
    teacher, bottom = plan.tally.parameters, top + _PANEL
    lowest = min(c.retention.low or BANDS[-1][2] for c in plan.candidates) - 0.02

    def y(kept: float) -> float:
        return bottom - (kept - lowest) / (1.0 - lowest) * _PANEL

    for value in ticks(lowest, 1.0, 5):
        yield _line("grid", _LEFT, y(value), _RIGHT, y(value))
        yield _text(_LEFT - 8, y(value) + 4, f"{100 * value:.0f} %", "s", "end")
    ratios = [(teacher / least) ** (i / 120) for i in range(121)]
    bands = [(x(teacher / r), b.low, b.high) for r in ratios if (b := expected(r)).low is not None]
    edge = [(at, high) for at, _, high in bands] + [(at, low) for at, low, _ in reversed(bands)]
    points = " ".join(f"{at:.1f},{min(bottom, y(kept or 0.0)):.1f}" for at, kept in edge)
    yield f'<polygon class="area" points="{points}"/>'
    yield _text(_LEFT, top - 10, f"expected share of the teacher's quality: {GUIDE}", "s")
    labels = []
    for number, one in enumerate(plan.candidates, 1):
        at, middle = x(one.tally.parameters), y(((one.retention.low or lowest) + one.retention.high) / 2)
        yield _marker(one.way, at, middle, hollow=one.vocabulary is not None)
        labels.append((at, middle, str(number)))
    for at, middle, words in _together(labels):
        yield _text(at, middle - 12, words, "", "middle")
    yield _marker("teacher", x(teacher), y(1.0), hollow=False)
    yield _text(x(teacher) - 10, y(1.0) + 16, "teacher", "s", "end")


def _speed(plan: Plan, law: Law, x: _Scale, top: float) -> Iterator[str]:
    """Predicted latency with the error of the fit; the teacher's too."""
    shown = [(str(n), c.way, c.vocabulary is not None, c.tally) for n, c in enumerate(plan.candidates, 1)]
    shown.append(("teacher", "teacher", False, plan.tally))
    values = [1e3 * law.seconds(each[3]) for each in shown]
    bottom, most = top + _PANEL, max(values) * 1.15

    def y(milli: float) -> float:
        return bottom - max(0.0, min(most, milli)) / most * _PANEL

    for value in ticks(0.0, most, 5):
        yield _line("grid", _LEFT, y(value), _RIGHT, y(value))
        yield _text(_LEFT - 8, y(value) + 4, f"{value:g} ms", "s", "end")
    unit = "a text" if plan.classes else "a token"
    told = f"predicted for {unit} here, float32; bars: ± {100 * law.error:.0f} %, the error of the fit"
    yield _text(_LEFT, top - 10, told, "s")
    labels = []
    for (name, way, hollow, counted), value in zip(shown, values, strict=True):
        at, above = x(counted.parameters), y(value * (1 + law.error))
        yield _line(f"i {way}", at, y(value * (1 - law.error)), at, above)
        yield _marker(way, at, y(value), hollow=hollow)
        if way == "teacher":
            yield _text(at - 10, y(value) + 4, name, "s", "end")
        else:
            labels.append((at, above, name))
    for at, above, words in _together(labels):
        yield _text(at, above - 6, words, "", "middle")


def _together(labels: Sequence[tuple[float, float, str]]) -> Iterator[tuple[float, float, str]]:
    """Names whose places would overlap, as one above the highest."""
    joined: list[list[tuple[float, float, str]]] = []
    for label in sorted(labels):
        if joined and label[0] - joined[-1][-1][0] < 14 * (1 + len(joined[-1])):
            joined[-1].append(label)
        else:
            joined.append([label])
    for group in joined:
        middle = sum(at for at, _, _ in group) / len(group)
        yield middle, min(y for _, y, _ in group), ", ".join(sorted((words for _, _, words in group), key=int))


def _marks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each power of ten between two values."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{xml(words)}</text>'


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _marker(way: str, x: float, y: float, *, hollow: bool) -> str:
    """Each way's own shape, so that it is known without its colour."""
    shape = {
        "depth": "h10v10h-10z",
        "width": "l5,-8l5,8l-5,8z",
        "balanced": "a5,5 0 1,0 10,0a5,5 0 1,0 -10,0z",
        "teacher": "l5,-10l5,10z",
    }[way]
    top = y - 5 if way == "depth" else y + 5 if way == "teacher" else y
    return f'<path class="{way}{" hollow" if hollow else ""}" d="M{x - 5:.1f},{top:.1f}{shape}"/>'
