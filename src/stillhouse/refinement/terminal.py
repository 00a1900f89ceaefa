"""What is told in the terminal while rounds go by, and at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table


def tell_plan(entry: dict[str, Any], say: Any) -> None:
    """What a round is about to do."""
    say(f"[bold]Round {entry['number']}[/]" + (": the recipe as it is" if not entry["number"] else ""))
    if entry["weak"]:
        weak = ", ".join(f"{w['name']} ({w['gap'] * 100:.0f} points short)" for w in entry["weak"])
        say(f"Weakest: {escape(weak)}; at most {entry['predicted'] * 100:.1f} % of the teacher's skill to win back")
    for change in entry["changes"]:
        say(f"  {escape(change)}", highlight=False)
    for reason in entry["tried"]:
        say(f"  not done: {escape(reason)}", highlight=False)


def tell_round(entry: dict[str, Any], say: Any) -> None:
    """What a round bought."""
    _tell_bought(entry["bought"], say)
    gates_told = ", ".join(f"{gate['name']} {gate['verdict']}" for gate in entry["gates"])
    said = f"{entry['said']}; " if entry.get("said") else ""
    say(f"Round {entry['number']}: {said}{gates_told}", highlight=False)


def _tell_bought(bought: list[dict[str, Any]], say: Any) -> None:
    for each in bought:
        numbers = f"{each['value'] * 100:+.1f} [{each['low'] * 100:+.1f}, {each['high'] * 100:+.1f}]"
        say(f"  {escape(each['name'])}: {numbers} points", highlight=False)


def tell_end(state: Mapping[str, Any], say: Any) -> None:
    """Why it ended."""
    say(f"[bold]Stopped[/] ({state['stopped']['why']}): {escape(state['stopped']['said'])}")


def tell_sealed(state: Mapping[str, Any], say: Any) -> None:
    """Round by round what was kept, the one verdict, and what could be served."""
    table = Table(box=None, pad_edge=False)
    for name in ("round", "kept of all", "weakest", "of it", "gates that hold", ""):
        table.add_column(name)
    for each in state["rounds"]:
        kept = {one["name"]: one["value"] for one in each["slices"]}
        weak = each["weak"][0]["name"] if each["weak"] else ""
        shares = [f"{kept[name]:.1%}" if name in kept else "" for name in ("all", weak)]
        holding = sum(gate["verdict"] == "PASS" for gate in each["gates"])
        table.add_row(str(each["number"]), shares[0], escape(weak), shares[1], f"{holding} of {len(each['gates'])}", each.get("said", ""))  # fmt: skip
    say(table)
    sealed, served = state["sealed"], (state.get("router") or {}).get("served")
    say(f"[bold]{sealed['verdict']}[/] on the sealed part: {escape(sealed['sentence'])}", highlight=False)
    if sealed.get("bought"):  # not of refinements that an earlier version ended
        say("There, against the student before all rounds:")
        _tell_bought(sealed["bought"], say)
        broken = [each["name"] for each in sealed["guard"] if not each["held"]]
        say(
            f"  not shown to cost little: {escape(', '.join(broken))}" if broken else "  shown to cost little elsewhere"
        )
    if served and served[0] > 0:
        say(f"The student could serve {served[0]:.0%} at its teacher's accuracy and defer the rest.", highlight=False)
