"""Numbers and foreign text as people read them: two decimals at most, and nothing invisible or able to disturb a page."""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any

NOTHING = "–"
"""Stands where a number is missing."""

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_MOST_MARKS = 6  # one letter's: no script needs more, and a pile of them covers the lines above
_JOINERS = frozenset("\u200c\u200d")  # emoji and several scripts need them
_SPOKEN_UNITS = {"": "", "share": " %", "fraction": " %", "ratio": "×", "x": "×", "×": "×"}


def visible(text: str) -> str:
    """The same text with every character that cannot be seen, or that disturbs others, replaced by a visible sign.

    Newline and tab stay. Control characters become Unicode's control pictures (NUL is ␀), what has no picture becomes its
    code point in ⟨⟩, and marks piled higher than any script does are cut. Escaping for HTML or Markdown is a later step.
    """
    if text.isascii() and text.isprintable():
        return text
    out = []
    marks = 0
    for char in text:
        marks = marks + 1 if unicodedata.category(char) in ("Mn", "Me") else 0
        if marks <= _MOST_MARKS:
            out.append(_visible(char))
        elif marks == _MOST_MARKS + 1:
            out.append("⟨more marks⟩")
    return "".join(out)


def _visible(char: str) -> str:
    code = ord(char)
    if char in "\n\t":
        return char
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    category = unicodedata.category(char)
    hidden = category in ("Cc", "Cs", "Cn", "Zl", "Zp") or (category == "Cf" and char not in _JOINERS)
    return f"⟨U+{code:04X}⟩" if hidden or char in _BIDI else char


def shorten(text: str, limit: int) -> tuple[str, int]:
    """The text's first ``limit`` characters, and how many were left out."""
    return (text, 0) if len(text) <= limit else (text[:limit], len(text) - limit)


def one_line(text: str, limit: int = 200) -> str:
    """The text on one line, cut with an ellipsis."""
    line = " ".join(visible(text).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def finite(value: Any) -> float | None:
    """The value as a number; None if it is none, not finite or no number at all."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def number(value: Any) -> str:
    """A number with two decimals at most: 3.14159 → 3.14, 93.26 → 93.3, 1234.5 → 1,234 (half to even)."""
    known = finite(value)
    if known is None:
        return NOTHING
    size = abs(known)
    if size < 0.005 and not isinstance(value, int):
        return "<0.01" if known > 0 else "0.00"
    if known == int(known) and isinstance(value, int):
        text = f"{known:,.0f}" if size < 1e15 else f"{known:.1e}"
    elif size >= 1e15:
        text = f"{known:.1e}"
    else:
        text = f"{known:,.{0 if size >= 99.95 else 1 if size >= 9.995 else 2}f}"
    return text.replace("-", "−")


def _scaled(value: Any, unit: str) -> Any:
    known = finite(value)
    return known * 100 if known is not None and unit in ("share", "fraction") else value


def _suffix(unit: str) -> str:
    return _SPOKEN_UNITS.get(unit, f"\u00a0{unit}").replace(" ", "\u00a0")


def quantity(value: Any, unit: str = "") -> str:
    """A number with its unit; a share becomes per cent."""
    text = number(_scaled(value, unit))
    return text if text == NOTHING else text + _suffix(unit)


def interval(low: Any, high: Any, unit: str = "") -> str:
    """An interval with its unit: ``90 to 96 %``; an open side is said in words; empty if both are unknown."""
    first, last = number(_scaled(low, unit)), number(_scaled(high, unit))
    if first == last == NOTHING:
        return ""
    if first == NOTHING:
        return f"up to {last}{_suffix(unit)}"
    if last == NOTHING:
        return f"{first}{_suffix(unit)} or more"
    return f"{first} to {last}{_suffix(unit)}"


def magnitude(count: Any) -> str:
    """A count in thousands, millions or billions: 134515008 → 134.5M."""
    known = finite(count)
    if known is None:
        return NOTHING
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(known) >= size:
            return f"{known / size:.1f}{letter}"
    return f"{known:.0f}"


def bytes_of(count: Any) -> str:
    """Bytes in decimal units: 538060032 → 538 MB."""
    known = finite(count)
    if known is None:
        return NOTHING
    for size, letters in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(known) >= size:
            value = known / size
            return f"{value:.{0 if value >= 100 else 1}f}\u00a0{letters}"
    return f"{known:.0f}\u00a0bytes"


def duration(seconds: Any) -> str:
    """Seconds as people say them: 4.2 s, 12 min, 1 h 05 min."""
    known = finite(seconds)
    if known is None or known < 0:
        return NOTHING
    if known < 59.95:
        return f"{known:.1f}\u00a0s"
    minutes = round(known / 60)
    if minutes < 60:
        return f"{minutes}\u00a0min"
    return f"{minutes // 60:,}\u00a0h\u00a0{minutes % 60:02d}\u00a0min"


def plain(value: Any) -> str:
    """Any JSON value as a cell of a table."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−") if abs(value) >= 10_000 else str(value).replace("-", "−")
    if isinstance(value, float):
        known = finite(value)
        return NOTHING if known is None else f"{known:.4g}".replace("-", "−")
    if isinstance(value, list | tuple):
        shown = ", ".join(plain(v) for v in value[:12])
        return shown + (f" … ({len(value)} in all)" if len(value) > 12 else "") if value else "none"
    if isinstance(value, dict):
        return ", ".join(f"{k}: {plain(v)}" for k, v in list(value.items())[:12]) or "none"
    return str(value)


def escape_markdown(text: str) -> str:
    """Foreign text as one line of Markdown that shows exactly its characters: no markup, no HTML, no links."""
    line = " ".join(visible(text).split())
    line = re.sub(r"([\\`*_{}\[\]<>#|~&!$@])", r"\\\1", line)
    line = re.sub(r"(?i)\b(https?|ftp|mailto|xmpp)(:)", r"\1\\:", line)
    line = re.sub(r"(?i)\bwww\.", r"www\\.", line)
    return re.sub(r"^([-+=]|\d+(?=[.)](?:\s|$)))", lambda m: f"\\{m[1]}" if m[1] in "-+=" else m[1] + "\\", line)


def fence(text: str) -> str:
    """Foreign text as a fenced code block whose fence the text cannot close."""
    shown = visible(text)
    longest = max((len(m) for m in re.findall(r"`+", shown)), default=0)
    marks = "`" * max(3, longest + 1)
    return f"{marks}text\n{shown}\n{marks}"
