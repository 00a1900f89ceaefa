"""An inspection as a table in the terminal and as a drawing."""

from __future__ import annotations

from html import escape as escape_xml
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stillhouse.files import write_text
from stillhouse.teacher.distribution import Inspection

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
"""Colours that colour-blind people can tell apart: Okabe and Ito 2008."""


def show(found: Inspection, console: Console) -> None:
    """Print the distribution, with bars at the first temperature and the entropy at each."""
    table = Table(title=f"{escape(found.teacher)} after {escape(readable(found.prompt))}", title_justify="left")
    table.add_column("next token")
    for temperature in found.temperatures:
        table.add_column(f"T = {temperature:g}", justify="right")
    table.add_column(f"at T = {found.temperatures[0]:g}")
    first = found.probabilities[found.temperatures[0]]
    for row, token in enumerate(found.tokens):
        bar = "█" * round(30 * first[row]) or "▏"
        values = [f"{100 * found.probabilities[t][row]:.1f} %" for t in found.temperatures]
        table.add_row(escape(readable(token)), *values, f"[blue]{bar}[/]")
    table.add_row("all others", *(f"{100 * found.rest[t]:.1f} %" for t in found.temperatures), "", style="dim")
    table.add_row("entropy", *(f"{found.entropy[t]:.2f} bit" for t in found.temperatures), "", style="dim")
    console.print(table)
    console.print(
        f"A hard label would say {escape(readable(found.tokens[0]))} and nothing else: "
        f"{100 * found.hidden:.1f} % of what the teacher knows here would stay hidden.",
        highlight=False,
    )


def readable(text: str) -> str:
    """A token in quotes, its control characters made visible."""
    return "“" + "".join(c if c.isprintable() else repr(c)[1:-1] for c in text) + "”"


def draw(found: Inspection, path: Path) -> None:
    """Write the distribution as a bar chart, one group of bars a token, one colour a temperature."""
    left, width, bar, gap = 150, 700, 14, 12
    group = bar * len(found.temperatures) + gap
    height = 60 + group * len(found.tokens) + 30
    largest = max(max(p) for p in found.probabilities.values()) or 1.0
    title = f"{found.teacher} after {readable(found.prompt)}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" font-family="sans-serif" font-size="13">',
        f"<title>{escape_xml(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="10" y="22" font-size="15" font-weight="bold">{escape_xml(title)}</text>',
    ]
    for index, temperature in enumerate(found.temperatures):
        colour, x = COLOURS[index % len(COLOURS)], 10 + 190 * index
        words = f"T = {temperature:g}, {found.entropy[temperature]:.2f} bit"
        parts.append(f'<rect x="{x}" y="34" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{x + 18}" y="45">{words}</text>')
    for row, token in enumerate(found.tokens):
        y = 62 + group * row
        middle = y + bar * len(found.temperatures) / 2 + 4
        parts.append(f'<text x="{left - 8}" y="{middle:.1f}" text-anchor="end">{escape_xml(readable(token))}</text>')
        for index, temperature in enumerate(found.temperatures):
            value = found.probabilities[temperature][row]
            length = (width - left - 80) * value / largest
            colour, at = COLOURS[index % len(COLOURS)], y + bar * index
            parts.append(f'<rect x="{left}" y="{at}" width="{length:.1f}" height="{bar - 2}" fill="{colour}"/>')
            parts.append(
                f'<text x="{left + length + 5:.1f}" y="{at + bar - 3}" font-size="11">{100 * value:.1f} %</text>'
            )
    parts.append("</svg>\n")
    write_text(path, "\n".join(parts))
