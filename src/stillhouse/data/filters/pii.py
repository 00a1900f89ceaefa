"""What tells who somebody is."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from stillhouse.data.judging import Filter, band

Kind = Literal["email", "phone", "card", "iban", "ip"]

_PATTERNS: dict[str, re.Pattern[str]] = {
    "email": re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w-])"),
    "phone": re.compile(r"(?<![\w+])\+[1-9]\d{0,2}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d(?:[ .-]?\d){5,11}(?!\w)"),
    "card": re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w.-])"),
    "iban": re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)"),
    "ip": re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.])"),
}


def pii(
    *,
    most: Annotated[int, Field(ge=0)] = 0,
    kinds: Annotated[tuple[Kind, ...], Field(min_length=1)] = ("email", "phone", "card", "iban", "ip"),
) -> Filter:
    """Documents that hold e-mail addresses, telephone or card numbers, bank accounts, public IP addresses.

    Patterns only: names and postal addresses are not found. Numbers of cards and accounts count only if their check digits
    are right, IP addresses only if they are public, telephone numbers only if they are written internationally (+44 …). No
    text of what is removed is shown anywhere.

    Args:
        most: how many a document may hold.
        kinds: what is looked for.
    """

    def count(text: str) -> int:
        return sum(_valid(kind, found[0]) for kind in kinds for found in _PATTERNS[kind].finditer(text))

    return band(
        lambda documents: np.array([count(d.words) for d in documents], dtype=np.float64),
        lambda value: f"{value:.0f} personal item{'' if value == 1 else 's'}",
        most=most,
        quotes=False,
        quick=True,
    )


def _valid(kind: str, found: str) -> bool:
    """Whether what looks like it is one, as far as its check digits or range tell."""
    if kind == "card":
        return _luhn([int(c) for c in found if c.isdigit()])
    if kind == "iban":
        plain = found.replace(" ", "")
        return int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1
    if kind == "ip":
        try:
            return ipaddress.ip_address(found).is_global
        except ValueError:
            return False
    return True


def _luhn(digits: list[int]) -> bool:
    """Whether the check digit of a card number is right (ISO/IEC 7812-1, annex B)."""
    doubled = [d if i % 2 == 0 else sum(divmod(2 * d, 10)) for i, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0 and any(digits)
