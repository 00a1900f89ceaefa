"""A look in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from stillhouse.look import Histogram, Look, Part, Row
from stillhouse.report.words import visible

LOSS = ("⟦", "⟧")
"""Stand around what carries loss: it is not told by colour alone."""
_BAR = 30


def show(found: Look, console: Console) -> None:
    """Print proportions, lengths, difficulty and rows."""
    console.print(proportions(found.parts))
    for histogram in (*found.lengths, *found.difficulty):
        console.print(f"\n[bold]{escape(visible(histogram.title))}[/]", highlight=False)
        console.print(bars(histogram), highlight=False, markup=False)
    console.print(
        f"\n[bold]The first micro-batch of the step: {found.positions:,} positions[/], nothing padded; {LOSS[0]}what the student "
        f"learns to say{LOSS[1]}",
        highlight=False,
    )
    for row in found.rows:
        console.print(f"── {heading(row)}", highlight=False, markup=False, style="bold")
        console.print(words(row))
    if found.left_out:
        console.print(f"… and {found.left_out} more documents in it", highlight=False)
    for note in found.notes:
        console.print(f"[yellow]Note:[/] {escape(visible(note))}", highlight=False)


COLUMNS = ("task", "documents", "held out", "tokens", "with loss", "share", "of the loss", "readings", "weight", "T")


def cells(part: Part) -> tuple[str, ...]:
    """A task's line of the table of proportions."""
    return (
        visible(part.name) or "all",
        f"{part.documents:,}",
        f"{part.held_out:,}",
        f"{part.tokens:,}",
        f"{part.positions:,}",
        f"{part.share:.1%}",
        f"{part.counts:.1%}",
        f"{part.epochs:.2f}",
        f"{part.weight:g}",
        "–" if part.temperature is None else f"{part.temperature:g}",
    )


def proportions(parts: tuple[Part, ...]) -> Table:
    """What each task has of the text, of the run and of the loss."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(COLUMNS):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for part in parts:
        table.add_row(*(Text(cell) for cell in cells(part)))
    return table


def bars(histogram: Histogram) -> str:
    """A histogram in letters."""
    most = max((count for _, count in histogram.bars), default=0) or 1
    wide = max((len(label) for label, _ in histogram.bars), default=0)
    return "\n".join(
        f"{label:>{wide}} {'█' * round(_BAR * count / most):<{_BAR}} {count:,}" for label, count in histogram.bars
    )


def heading(row: Row) -> str:
    """Where a row lies and what it counts."""
    parts = [f"{row.place:,} to {row.place + len(row.tokens):,}"]
    parts += [visible(row.task)] if row.task else []
    parts += [f"document {row.key[:8]}{f' from token {row.offset:,}' if row.offset else ''}"]
    parts += [f"class {visible(row.label)}"] if row.label else [f"{row.losses} of {len(row.tokens)} tokens with loss"]
    parts += [f"weight {row.weight:g}"] if row.weight != 1.0 else []
    return " · ".join(parts)


def words(row: Row) -> Text:
    """The tokens of a row; those with loss in brackets and bold, every second one underlined so that borders are seen."""
    text = Text()
    inside = False
    for number, token in enumerate(row.tokens):
        if token.loss != inside:
            text.append(LOSS[0] if token.loss else LOSS[1], "bold green")
            inside = token.loss
        shown = visible(token.text).replace("\n", "⏎\n").replace("\t", "⇥")
        text.append(shown, f"{'bold green' if token.loss else 'dim'}{' underline' if number % 2 else ''}")
    if inside:
        text.append(LOSS[1], "bold green")
    return text
