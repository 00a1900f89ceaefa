"""The same texts of the other gender."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from stillhouse.refinement.draft import Case, Draft, write_rows

_PAIRS = (
    ("he", "she"), ("himself", "herself"), ("man", "woman"), ("men", "women"), ("boy", "girl"), ("boys", "girls"),
    ("father", "mother"), ("son", "daughter"), ("brother", "sister"), ("husband", "wife"), ("king", "queen"),
    ("uncle", "aunt"), ("actor", "actress"), ("mr", "mrs"), ("sir", "madam"),
)  # fmt: skip
_OTHER = {**dict(_PAIRS), **{b: a for a, b in _PAIRS}, "his": "her", "him": "her", "her": "his"}
_WORD = re.compile(r"[A-Za-z]+")


def counterfactual(draft: Draft, case: Case, *, count: Annotated[int, Field(ge=1)] = 2000) -> tuple[Draft, str]:
    """English texts with words of gender are learned from a second time with these words swapped.

    Zhao et al. 2018, arXiv:1804.06876, §3.1. The teacher judges them as any text. ``her`` becomes ``his``, which is wrong where it is an object.

    Args:
        draft: of the round.
        case: what is weak.
        count: texts, at most.

    """
    if any("counterfactual" in str(source.get("path", "")) for source in draft.added):
        return draft, "swapped texts are learned from already"
    added = []
    left = count
    for number, source in enumerate(case.settings.data.sources):
        swapped: list[dict[str, Any]] = []
        for row in case.learned:
            if row.source == number and len(swapped) < left:
                other = _swapped(row.record, str(source.format.options.get("label", "label")))
                if other != dict(row.record):
                    swapped.append(other)
        left -= len(swapped)
        if swapped:
            path = write_rows(case.folder / f"counterfactual-{number}.jsonl", swapped)
            form = source.format.model_dump(mode="json")
            size = sum(len(str(v)) for each in swapped for v in each.values())
            added.append({"name": "jsonl", "path": path, "format": form, "task": source.task, "characters": size})
    if not added:
        return draft, "no text that is learned from has a word of gender"
    said = f"{count - left:,} texts a second time with words of gender swapped"
    return replace(draft, added=(*draft.added, *added)), said


def _swapped(record: Mapping[str, Any], label: str) -> dict[str, Any]:
    return {
        key: _WORD.sub(_swap, value) if isinstance(value, str) and key != label else value
        for key, value in record.items()
    }


def _swap(found: re.Match[str]) -> str:
    word = found[0]
    other = _OTHER.get(word.lower(), word.lower())
    if other == word.lower():
        return word
    return other.upper() if word.isupper() and len(word) > 1 else other.capitalize() if word[0].isupper() else other
