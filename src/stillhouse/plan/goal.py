"""What a user wants of a student, in the words people use: ``10x``, ``20M``, ``200 MB int4``, ``p50 30 ms per token``, ``4 h``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from stillhouse.errors import Problem, RecipeError

KINDS: dict[str, str] = {
    "ratio": "10x",
    "parameters": "20M",
    "file": "200 MB int8",
    "memory": "512 MB of memory",
    "latency": "30 ms per token",
    "tokens": "8M tokens",
    "time": "4 h",
}
"""Kind of goal → an example of how to write it."""

TIERS: dict[str, float] = {"edge": 512e6, "phone": 2e9, "laptop": 8e9}
"""Name of a memory tier → bytes that a model may take there while it answers. Conventions of this project, not of any maker."""

PRECISIONS: dict[str, tuple[int, int]] = {"f32": (1, 4), "f16": (1, 2), "int8": (32, 34), "int4": (32, 18)}
"""Precision → weights of a block and bytes that a block takes, its float16 scale included (GGUF's Q8_0 and Q4_0)."""

DEFAULT_PRECISION = "int8"
"""Of a file size or memory that names none: the smallest that is nearly free of loss without training for it."""

_PRECISION_WORDS = {
    "f32": "f32", "fp32": "f32", "float32": "f32",
    "f16": "f16", "fp16": "f16", "float16": "f16", "bf16": "f16", "bfloat16": "f16",
    "int8": "int8", "q8": "int8", "q8_0": "int8", "8bit": "int8", "8-bit": "int8",
    "int4": "int4", "q4": "int4", "q4_0": "int4", "4bit": "int4", "4-bit": "int4",
}  # fmt: skip
_COUNTS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9}
_BYTES = {"k": 1e3, "m": 1e6, "g": 1e9, "ki": 2.0**10, "mi": 2.0**20, "gi": 2.0**30}
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

_NUMBER = r"(?P<number>\d+(?:\.\d+)?(?:[eE]\d+)?)"
_SIZE = _NUMBER + r" ?(?P<unit>(?i:[kmg]i?))(?i:b|bytes)"
_PRECISION = r"(?: (?i:in |at |as )?(?P<precision>[\w-]+))?"
_PATTERNS: tuple[tuple[str, str], ...] = (
    ("ratio", _NUMBER + r" ?(?i:x|×|times|fold)(?: (?i:smaller|fewer|fewer parameters))?"),
    ("tokens", _NUMBER + r" ?(?P<unit>[kKMBG]?) ?(?i:tokens|tok)"),
    ("latency", r"(?i:p50 )?" + _NUMBER + r" ?(?P<unit>(?i:ms|s|us|µs))(?: ?(?i:per|/|a|each) ?(?i:token|tok|text))?"),
    ("speed", _NUMBER + r" ?(?i:tokens|tok|texts) ?(?i:per|/|a) ?(?i:second|sec|s)"),
    ("memory", _SIZE + r"(?i: of)? (?i:memory|ram)" + _PRECISION),
    ("memory", r"(?i:memory|ram) " + _SIZE + _PRECISION),
    ("file", _SIZE + r"(?i: file)?" + _PRECISION),
    ("time", _NUMBER + r" ?(?P<unit>(?i:sec|min|h|d))(?i:ond|onds|s|ute|utes|our|ours|rs|ay|ays)?(?i: of training)?"),
    ("parameters", _NUMBER + r" ?(?P<unit>[kKMBG]?)(?: ?(?i:parameters|params|weights))?"),
)


@dataclass(frozen=True)
class Goal:
    """One thing that a student must hold.

    Args:
        kind: one of ``KINDS``.
        value: how many times fewer parameters; parameters; bytes; seconds a token (a text, for an encoder); tokens; seconds.
        text: as it was written.
        precision: of a file or memory, the weights'.

    """

    kind: str
    value: float
    text: str
    precision: str = DEFAULT_PRECISION

    def __str__(self) -> str:
        if self.kind not in ("file", "memory"):
            return self.text
        return self.text if _names_precision(self.text) else f"{self.text} as {self.precision}"


def parse(text: str) -> Goal:
    """Read a goal.

    Args:
        text: such as ``10x``, ``20M``, ``200 MB``, ``500 MB int4``, ``phone``, ``1 GB of memory``, ``p50 30 ms per token``,
            ``50 tokens/s``, ``8M tokens``, ``4 h``.

    Raises:
        RecipeError: it is none, or not more than zero.

    """
    plain = " ".join(re.sub(r"(?<=\d)[,_](?=\d{3})", "", text).split())
    tier, _, precision = plain.partition(" ")
    if tier.lower() in TIERS:
        return Goal("memory", TIERS[tier.lower()], text, _precision(precision, text))
    for kind, pattern in _PATTERNS:
        if not (match := re.fullmatch(pattern, plain)):
            continue
        found = match.groupdict()
        number, unit = float(found["number"]), found.get("unit") or ""
        if kind == "parameters" and not unit and number < 1000:
            raise _unclear(text, f"Write '{text}x' for so many times fewer parameters, '{text}M' for millions of them.")
        if kind == "latency" and unit.lower() == "s" and plain == f"{found['number']}{' ' * (' ' in plain)}{unit}":
            kind, unit = "time", "sec"  # "30 s" alone is a budget; an answer's latency is per token
        if not 0.0 < number < math.inf:
            raise _unclear(text, "A goal is more than zero.")
        value = number * _scale(kind, unit)
        if kind == "speed":
            kind, value = "latency", 1.0 / number
        if kind in ("file", "memory"):
            return Goal(kind, value, text, _precision(found.get("precision") or "", text))
        return Goal(kind, value, text)
    if re.fullmatch(_NUMBER + r" ?m", plain):
        digits = plain.rstrip("m ")
        raise _unclear(text, f"Write '{digits}M' for millions of parameters, '{digits} min' for minutes.")
    raise _unclear(text, f"Goals look like {', '.join(KINDS.values())}; memory also {', '.join(TIERS)}.")


def _scale(kind: str, unit: str) -> float:
    """What a number in this unit is multiplied by."""
    if kind in ("parameters", "tokens"):
        return _COUNTS[unit]
    if kind in ("file", "memory"):
        return _BYTES[unit.lower()]
    if kind == "latency":
        return {"ms": 1e-3, "us": 1e-6, "µs": 1e-6, "s": 1.0}[unit.lower()]
    return _SECONDS[unit.lower()[0]] if kind == "time" else 1.0


def _precision(word: str, text: str) -> str:
    if not word:
        return DEFAULT_PRECISION
    if word.lower() not in _PRECISION_WORDS:
        raise _unclear(text, f"Precisions: {', '.join(PRECISIONS)}.")
    return _PRECISION_WORDS[word.lower()]


def _names_precision(text: str) -> bool:
    return any(word.lower() in _PRECISION_WORDS for word in text.split())


def _unclear(text: str, way_out: str) -> RecipeError:
    return RecipeError(Problem("goal", f"'{text}' cannot be understood", way_out))
