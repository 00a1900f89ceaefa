"""The rounds of a refinement as the page shows them: what each changed, what it bought, what it cost, and what was kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stillhouse.report import charts, words
from stillhouse.report.charts import Chart, Figure, Mark, Point, Series
from stillhouse.report.words import finite

_LINES = 6


@dataclass(frozen=True)
class Round:
    """One round, in words.

    Args:
        number: 0 is the first run.
        link: its own report, in the refinement's folder.
        weak: the slices that it worked on.
        changes: what it changed.
        bought: of each of them, and of all text, the paired difference with its interval.
        cost: what the guard found.
        gates: name and verdict of each gate, on the part that confirms.
        kept: whether its student was taken, in words.
    """

    number: int
    link: str
    weak: str
    changes: list[str]
    bought: list[str]
    cost: str
    gates: list[tuple[str, str]]
    kept: str


@dataclass(frozen=True)
class Refinement:
    """All of it.

    Args:
        sentence: why it ended, and what the sealed part says.
        sealed: what all kept rounds together bought there, and what they cost elsewhere; empty if none was kept.
        router: what could be served, in a sentence; empty if nothing is known.
        diagnosis: of a student that is too small, or of too little text; likewise.
        figure: what is kept of the slices, round by round.
        rounds: the rounds.
    """

    sentence: str
    sealed: list[str]
    router: str
    diagnosis: str
    figure: Figure | None
    rounds: list[Round]


def refinement_of(state: Mapping[str, Any]) -> Refinement | None:
    """What the page shows of ``refinement.json``; None where there is none."""
    listed = [each for each in _list(state.get("rounds")) if each.get("verdict")]
    if not listed:
        return None
    stopped, sealed = _map(state.get("stopped")), _map(state.get("sealed"))
    sentence = (
        f"Stopped after round {len(listed) - 1}: {stopped.get('said', 'not yet')}."
        if stopped
        else "Not at its end yet."
    )
    if sealed.get("verdict"):
        sentence += f" The sealed part was opened once, on {sealed.get('opened')}, for the student of round {sealed.get('round')}."
    return Refinement(sentence, _gained(sealed), _router(_map(state.get("router"))), _diagnosis(_map(state.get("diagnosis"))), _figure(listed), [_round(each) for each in listed])  # fmt: skip


def _gained(sealed: Mapping[str, Any]) -> list[str]:
    bought = [f"{b.get('name')}: {_points(b)}" for b in _list(sealed.get("bought"))]
    return [*bought, f"cost elsewhere: {_cost(sealed)}"] if bought else []


def _cost(found: Mapping[str, Any]) -> str:
    """What the guard found, in words."""
    checked = _list(found.get("guard"))
    broken = [str(g.get("name")) for g in checked if not g.get("held")]
    if broken:
        return f"too much, or not shown to be little: {', '.join(broken)}"
    return f"nothing in {len(checked)} comparisons"


def _round(each: Mapping[str, Any]) -> Round:
    number = int(finite(each.get("number")) or 0)
    weak = ", ".join(str(w.get("name")) for w in _list(each.get("weak")))
    changes = [str(change) for change in each.get("changes") or []]
    bought = [f"{b.get('name')}: {_points(b)}" for b in _list(each.get("bought"))]
    cost = _cost(each) if number else ""
    gates = [(str(g.get("name")), str(g.get("verdict"))) for g in _list(each.get("gates"))]
    kept = str(each.get("said") or ("the recipe as it is" if number == 0 else ""))
    return Round(number, f"rounds/{number}/report.html", weak, changes, bought, cost, gates, kept)


def _points(change: Mapping[str, Any]) -> str:
    """A difference in points, interval before point."""
    value, low, high = (100 * (finite(change.get(key)) or 0.0) for key in ("value", "low", "high"))
    return f"[{low:+.1f}, {high:+.1f}] {value:+.1f} points"


def _figure(rounds: list[Mapping[str, Any]]) -> Figure | None:
    """Lines of what is kept: of all text, and of the slices that rounds worked on."""
    aimed = dict.fromkeys(str(w.get("name")) for each in rounds for w in _list(each.get("weak")))
    names = ["all", *(name for name in aimed if name != "all")][:_LINES]
    series = []
    for index, name in enumerate(names):
        points = []
        for each in rounds:
            found = next((s for s in _list(each.get("slices")) if s.get("name") == name), None)
            numbers = [finite(found.get(key)) if found else None for key in ("value", "low", "high")]
            scaled = [None if x is None else 100 * x for x in numbers]
            points.append(
                Point(float(each.get("number") or 0), scaled[0], *(scaled[1:] if index == 0 else (None, None)))
            )
        role = "student" if index == 0 else "other"
        series.append(Series("all text" if index == 0 else name, tuple(points), role, ("", "7 4", "2 4", "10 3 2 3", "4 2", "1 5")[index]))  # fmt: skip
    chart = Chart("line", "Skill kept, round by round", "round", "% of the teacher's, on the part that confirms", tuple(series), (Mark(100.0, "teacher"),))  # fmt: skip
    return charts.figure(chart, "rounds") if len(rounds) > 1 else None


def _router(advice: Mapping[str, Any]) -> str:
    served = [finite(x) for x in advice.get("served") or []]
    if len(served) != 3 or any(x is None for x in served) or not served[0]:
        return ""
    share, low, high = (100 * (x or 0.0) for x in served)
    saved = finite(advice.get("saved"))
    words_of = (
        f"Answering itself where it is surest (confidence {finite(advice.get('threshold')) or 0.0:.3f} and above, chosen on texts that rounds "
        f"looked at), the student serves {share:.0f} % [{low:.0f}, {high:.0f}] of the sealed texts and defers the rest to the teacher."
    )
    right, theirs = finite(advice.get("right_where_served")), finite(advice.get("teacher_right"))
    if right is not None and theirs is not None:
        words_of += f" It is right on {100 * right:.1f} % of those, the teacher on {100 * theirs:.1f} % of all."
    both = [finite(x) for x in advice.get("both_minus_teacher") or []]
    if len(both) == 3 and all(x is not None for x in both):
        value, low, high = (100 * (x or 0.0) for x in both)
        words_of += f" Both together are right on [{low:+.1f}, {high:+.1f}] {value:+.1f} points of the texts against the teacher alone."
    if saved is not None and saved > 0:
        words_of += (
            f" That saves about {100 * saved:.0f} % of what the teacher alone would cost, if cost goes with parameters."
        )
    return words_of


def _diagnosis(found: Mapping[str, Any]) -> str:
    kept, learned = finite(found.get("kept_held_out")), finite(found.get("kept_of_what_it_learned"))
    if kept is None or learned is None:
        return ""
    size = finite(found.get("enough"))
    enough = f" Estimated to be enough: {words.magnitude(size)} parameters." if size else ""
    return (
        f"{str(found.get('diagnosis')).capitalize()} in {found.get('slice')}: taught this slice alone, from labels, the student keeps "
        f"{100 * kept:.0f} % of the teacher's skill on held-out texts of it and {100 * learned:.0f} % on those it learned from.{enough}"
    )


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []
