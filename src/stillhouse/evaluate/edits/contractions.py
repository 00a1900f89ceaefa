"""Contractions."""

from __future__ import annotations

import random
import re

_SHORT = {
    "do not": "don't", "does not": "doesn't", "did not": "didn't", "is not": "isn't", "are not": "aren't", "was not": "wasn't",
    "were not": "weren't", "has not": "hasn't", "have not": "haven't", "had not": "hadn't", "can not": "can't", "cannot": "can't",
    "could not": "couldn't", "would not": "wouldn't", "should not": "shouldn't", "will not": "won't", "it is": "it's", "that is": "that's",
    "what is": "what's", "who is": "who's", "there is": "there's", "I am": "I'm", "you are": "you're", "they are": "they're",
    "we are": "we're", "I will": "I'll", "I have": "I've",
}  # fmt: skip
_LONG = re.compile(rf"\b({'|'.join(sorted(_SHORT, key=len, reverse=True))})\b", re.IGNORECASE)
_KNOWN = {long.lower(): short for long, short in _SHORT.items()}


def contractions(text: str, rng: random.Random) -> str:
    """What English may contract is contracted: "do not" is "don't".

    Args:
        text: what is edited.
        rng: of edits that draw.
    """

    def short(found: re.Match[str]) -> str:
        word = _KNOWN[found[0].lower()]
        return word[0].upper() + word[1:] if found[0][0].isupper() else word

    return _LONG.sub(short, text)
