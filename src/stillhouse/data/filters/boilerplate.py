"""What web pages say around their text."""

from __future__ import annotations

import re
from typing import Annotated

import numpy as np
from pydantic import Field

from stillhouse.data.judging import Filter, Several, band

PHRASES = (
    "lorem ipsum",
    "all rights reserved",
    "privacy policy",
    "cookie policy",
    "terms of use",
    "terms of service",
    "terms and conditions",
    "we use cookies",
    "uses cookies",
    "accept cookies",
    "accept all cookies",
    "enable javascript",
    "javascript is disabled",
    "javascript enabled",
    "sign up for our newsletter",
    "subscribe to our newsletter",
    "click here to",
    "read more »",
    "back to top",
    "skip to content",
    "skip to main content",
    "share on facebook",
    "share on twitter",
    "follow us on",
    "leave a comment",
    "leave a reply",
    "powered by wordpress",
    "add to cart",
    "log in to your account",
    "page not found",
)
"""Phrases of English pages; most are also among what C4 cleans by (Raffel et al. 2020, section 2.2)."""


def boilerplate(
    *,
    most: Annotated[float, Field(ge=0.0, le=1.0)] = 0.3,
    phrases: Annotated[Several, Field(min_length=1)] = PHRASES,
) -> Filter:
    """Documents that are mostly menus, cookie banners and legal footers.

    What is measured is the share of a document's characters that stand in lines with one of the phrases.

    Args:
        most: the highest share that is kept.
        phrases: what marks a line, in any case; instead of the English ones that are built in.
    """
    marks = re.compile("|".join(re.escape(phrase.casefold()) for phrase in phrases))

    def share(text: str) -> float:
        text = text.casefold()
        if not marks.search(text):
            return 0.0
        lines = text.splitlines()
        total = sum(map(len, lines))
        return sum(len(line) for line in lines if marks.search(line)) / total if total else 0.0

    return band(
        lambda documents: np.array([share(d.words) for d in documents], dtype=np.float64),
        lambda value: f"{value:.0%} of the text in lines of boilerplate",
        most=most,
        quick=True,
    )
