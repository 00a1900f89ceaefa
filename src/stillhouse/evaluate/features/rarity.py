"""Rarity: of words."""

from __future__ import annotations

import math
import re
from collections import Counter

import numpy as np

from stillhouse.evaluate.answers import Answered
from stillhouse.evaluate.records import FloatArray, Items

_WORD = re.compile(r"\w+")


def rarity(table: Answered | Items) -> FloatArray | None:
    """How rare the words are: nats of a token by its count in training, or of a question's rarest words by the task's own.

    Of a question the mean of its rarest fifth of words counts: a common question with one rare name is rare.
    """
    if isinstance(table, Items):
        return table.roles["floor"].nll if table.bytes is not None and "floor" in table.roles else None
    if not table.contexts:
        return None
    spoken = [
        _WORD.findall(" ".join((*contexts, *options)).lower())
        for contexts, options in zip(table.contexts, table.options, strict=True)
    ]
    counts = Counter(word for words in spoken for word in words)
    whole = max(1, counts.total())
    found = []
    for words in spoken:
        nats = sorted((math.log(whole / counts[word]) for word in words), reverse=True)
        rarest = nats[: max(1, len(nats) // 5)]
        found.append(sum(rarest) / len(rarest) if rarest else 0.0)
    return np.array(found, dtype=np.float64)
