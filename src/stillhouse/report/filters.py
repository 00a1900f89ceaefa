"""What the filters took out of the text, and how diverse it was before and is now, as the page shows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stillhouse.report import words


@dataclass(frozen=True)
class Example:
    """A document that a filter removed.

    Args:
        record: where it came from.
        why: what the filter found.
        text: how it begins; "" where that may not be shown.
    """

    record: str
    why: str
    text: str


@dataclass(frozen=True)
class Taken:
    """What a filter did.

    Args:
        name: of the filter.
        options: as the recipe has them, in a line.
        seen: documents it was shown.
        removed: those it took out, with their share, and how many of them for being like a held-out one.
        measured: quantiles of what it measured, or what it compared with; in a line.
        examples: some of what it took out.
    """

    name: str
    options: str
    seen: str
    removed: str
    measured: str
    examples: list[Example]


def taken(facts: Mapping[str, Any], private: Callable[[str], str]) -> list[Taken]:
    """What each filter did, in their order; what is not as it should be is left out.

    Args:
        facts: of the data stage.
        private: takes a machine's own paths out of a text.
    """
    found = []
    for each in _maps(facts.get("filters")):
        seen, removed = (words.finite(each.get(key)) or 0.0 for key in ("seen", "removed"))
        measured = each.get("measured") or each.get("compared with")
        alike = words.finite(each.get("like a held-out document")) or 0.0
        found.append(
            Taken(
                str(each.get("name") or words.NOTHING),
                private(words.plain(each.get("options"))),
                f"{seen:,.0f}",
                f"{removed:,.0f}"
                + (f" ({removed / seen:.1%})" if seen else "")
                + (f", {alike:,.0f} like a held-out one" if alike else ""),
                private(words.plain(measured)),
                [_example(example) for example in _maps(each.get("examples"))],
            )
        )
    return found


def diversity(facts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Each measure of diversity before and after."""
    content = facts.get("diversity")
    sides = [content.get(side) if isinstance(content, Mapping) else None for side in ("before", "after")]
    before, after = (side if isinstance(side, Mapping) else {} for side in sides)
    return [(str(name).replace("_", "-"), words.plain(before[name]), words.plain(after.get(name))) for name in before]


def others(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of the data stage that are not told here."""
    return {name: value for name, value in facts.items() if name not in ("filters", "diversity")}


def _example(each: Mapping[str, Any]) -> Example:
    return Example(*(str(each.get(key) or "") for key in ("record", "why", "text")))


def _maps(value: Any) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []
