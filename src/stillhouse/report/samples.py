"""What the models wrote behind the same prompts, side by side, and whether the student can end a text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stillhouse.report import words
from stillhouse.report.read import at, mapping
from stillhouse.report.words import number, quantity

TEXT_LIMIT = 3000
"""Characters of one model text that the page shows; the rest is counted and stays in samples.json."""

SHOWN_ROLES = ("teacher", "before", "student", "control", "direct")
"""The roles whose texts stand side by side, in this order."""


@dataclass(frozen=True)
class Said:
    """One model's text after a prompt."""

    role: str
    text: str
    left_out: int
    ended: str


@dataclass(frozen=True)
class Sample:
    """A prompt and what each model wrote after it."""

    prompt: str
    prompt_left_out: int
    texts: list[Said]


@dataclass(frozen=True)
class Manner:
    """How a model's samples end and repeat."""

    role: str
    ended: str
    words: str
    repeated: str


def sample_of(raw: Mapping[str, Any]) -> Sample:
    """A prompt and its texts as the page shows them."""
    full = str(raw.get("prompt") or "")
    prompt, left_out = words.shorten(full, TEXT_LIMIT)
    texts, stops = mapping(raw.get("texts")), mapping(raw.get("stop"))
    said = []
    for role in (*SHOWN_ROLES, *(r for r in texts if r not in SHOWN_ROLES)):
        if texts.get(role) is None:
            continue
        text = str(texts[role])
        text, more = words.shorten(text.removeprefix(full).removeprefix(" "), TEXT_LIMIT)
        ended = {"eos": "ended by itself", "length": "cut at the length limit"}.get(str(stops.get(role) or ""), "")
        said.append(Said(role, text, more, ended))
    return Sample(prompt, left_out, said)


def manners(samples: Sequence[Mapping[str, Any]]) -> list[Manner]:
    """How often each model ended by itself, and how much it repeated itself, over all samples."""
    out = []
    for role in SHOWN_ROLES:
        texts = [str(t) for s in samples if (t := at(s, "texts", role)) is not None]
        stops = [stop for s in samples if (stop := at(s, "stop", role)) is not None]
        if not texts:
            continue
        ended = f"{sum(s == 'eos' for s in stops)} of {len(stops)}" if stops else words.NOTHING
        lengths = [len(t.split()) for t in texts]
        out.append(Manner(role, ended, number(sum(lengths) / len(lengths)), quantity(repeated(texts), "share")))
    return out


def endless(samples: Sequence[Mapping[str, Any]]) -> str:
    """A warning where the teacher ends its texts and the student none of them; "" if there is no cause."""
    stops = {role: [at(s, "stop", role) for s in samples].count("eos") for role in ("teacher", "student")}
    written = sum(at(s, "stop", "student") is not None for s in samples)
    if written < 2 or stops["student"] or not stops["teacher"]:
        return ""
    return (
        f"The student ended none of {written} texts by itself, its teacher {stops['teacher']}: where it is used it may write "
        "without end. See that data.end_token is the token that the teacher ends with, and that the answers carry it."
    )


def repeated(texts: Iterable[str]) -> float | None:
    """Share of the runs of three words that stood before in the same text; None if no text is that long."""
    total = again = 0
    for text in texts:
        parts = text.split()
        runs = [tuple(parts[i : i + 3]) for i in range(len(parts) - 2)]
        total += len(runs)
        again += len(runs) - len(set(runs))
    return again / total if total else None
