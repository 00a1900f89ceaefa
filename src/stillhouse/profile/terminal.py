"""A profile in the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from stillhouse.profile import Profile
from stillhouse.profile.speculative import Speculation
from stillhouse.profile.tiers import next_down, tier
from stillhouse.quantiles import quantile
from stillhouse.report.words import NOTHING

TAILS = (0.9, 0.95, 0.99)


def show(found: Profile, console: Console) -> None:
    """Print what was found."""
    table = Table(box=None, pad_edge=False)
    for column in ("", "first token, ms: p50", "a token, ms: p50", "tokens/s", "cold start, s"):
        table.add_column(column)
    tails = Table(box=None, pad_edge=False)
    for column in ("", *(f"a token, ms: p{100 * share:g}" for share in TAILS)):
        tails.add_column(column)
    for row in found.models:
        first = quantile(row.prefill, 0.5).words(1e3)
        token = quantile(row.steps, 0.5).words(1e3) if row.steps else NOTHING
        rate = f"{len(row.steps) / sum(row.steps):.1f}" if row.steps else NOTHING
        table.add_row(row.name, first, token, rate, f"{row.cold:.2f}")
        tails.add_row(row.name, *(quantile(row.steps or row.prefill, share).words(1e3) for share in TAILS))
    console.print(table)
    console.print(tails)
    memory = Table(box=None, pad_edge=False)
    for column in ("", "memory when loaded, MB", "most, MB", "fits"):
        memory.add_column(column)
    for row in found.models:
        loaded, most = f"{row.loaded['load_bytes'] / 1e6:,.0f}", f"{row.peak / 1e6:,.0f}"
        memory.add_row(row.name, loaded, most, tier(row.peak))
    console.print(memory)
    _energy(found, console)
    _rates(found, console)
    lines = [*found.explained, *(speculation_words(found.speculation) if found.speculation else ())]
    lines += [f"Distilling took {found.spent:,.0f} s; {each.words()}." for each in found.paybacks]
    lines += [
        f"{row.name}, one step down the ladder: {next_down(row.peak, size_of(row.path), row.parameters)}."
        for row in found.models
        if row.name != "teacher"
    ]
    for line in (*lines, *found.notes):
        console.print(f"• {line}", highlight=False, markup=False)
    if found.fit is not None:
        console.print(f"{found.fit.verdict} {found.fit.sentence}", highlight=False, markup=False, style="bold")
        for gate in found.fit.gates:
            told = f"  {gate.verdict} {gate.artefact}, {gate.budget}: {gate.sentence}"
            console.print(told, highlight=False, markup=False)


def size_of(path: str) -> float:
    """Bytes of a file, or of what lies in a folder; 0 of a model that lies elsewhere."""
    place = Path(path)
    files = [place] if place.is_file() else place.rglob("*") if place.is_dir() else []
    return float(sum(file.stat().st_size for file in files if file.is_file()))


def _energy(found: Profile, console: Console) -> None:
    """Joules where they are known, with their source; else why they are not."""
    sources = dict.fromkeys(str(each["source"]) for each in found.energy.values())
    if any(each["joules"] is not None for each in found.energy.values()):
        table = Table(box=None, pad_edge=False)
        for column in ("", "W", "J a token", "J a request", "J a right token"):
            table.add_column(column)
        for name, each in found.energy.items():
            values = [each.get(key) for key in ("watts", "joules", "request", "right")]
            table.add_row(name, *(f"{value:.3g}" if isinstance(value, float) else NOTHING for value in values))
        console.print(table)
    for source in sources:
        console.print(f"Energy: {source}.", highlight=False, markup=False)


def _rates(found: Profile, console: Console) -> None:
    """Throughput over texts in one process, and over processes."""
    if not found.rates:
        return
    table = Table(box=None, pad_edge=False)
    for column in ("", "texts at once", "tokens/s", "a step, ms: p50", "p95"):
        table.add_column(column)
    for rate in found.rates:
        way = f"{rate.count} in one process" if rate.way == "batch" else f"{rate.count} processes"
        steps = [quantile(rate.steps, share).words(1e3) for share in (0.5, 0.95)]
        table.add_row(rate.name, way, f"{rate.rate:,.1f}", *steps)
    console.print(table)


def speculation_words(found: Speculation) -> list[str]:
    """Speculative decoding in sentences."""
    held_out = "" if found.held_out is None else f"; {found.held_out:.1%} on held-out text"
    same = "the same texts" if found.same_words else "texts that differ (float32 adds up in another order)"
    return [
        f"As a draft of {found.draft} tokens for its teacher: {found.accepted:.1%} of {found.tested:,} drafted tokens are kept "
        f"(Σ min(p, q) predicts {found.predicted:.1%} at these positions{held_out}), {found.per_check:.2f} tokens a check "
        f"({found.expected:.2f} expected at this share).",
        f"With drafts a text is {found.speed_up.words()} times as fast, the likeliest tokens {found.greedy.words()} times, "
        f"{same}; a drafted token costs {found.cost:.0%} of one of the teacher's, at which {found.predicted_speed_up:.2f} are expected.",
    ]
