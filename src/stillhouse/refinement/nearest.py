"""Which texts are nearest to others: by the words they share, rare ones counting most. No model."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from stillhouse.data.grams import words


def nearest(wanted: Sequence[str], texts: Sequence[str], count: int) -> list[int]:
    """The texts nearest to any of those that are wanted: the nearest to each first, then the second to each, and so on.

    Cosine of word counts weighted by inverse document frequency (Salton and Buckley 1988), words and pairs of words.

    Args:
        wanted: what is to be come near to.
        texts: to choose from.
        count: how many, at most; texts that share no word with any are not taken.

    Returns:
        their numbers, the nearest first.
    """
    counted = [_terms(text) for text in texts]
    frequency = Counter(term for terms in counted for term in terms)
    idf = {term: math.log((1 + len(texts)) / (1 + n)) + 1.0 for term, n in frequency.items()}
    norms = np.array([math.sqrt(sum((n * idf[t]) ** 2 for t, n in terms.items())) or 1.0 for terms in counted])
    places: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for number, terms in enumerate(counted):
        for term, n in terms.items():
            places[term].append((number, n * idf[term]))
    queues: list[list[int]] = []
    for text in dict.fromkeys(wanted):
        score = np.zeros(len(texts))
        for term, n in _terms(text).items():
            for number, weight in places.get(term, ()):
                score[number] += n * idf[term] * weight
        score /= norms
        order = np.argsort(-score, kind="stable")[:count]
        queues.append([int(number) for number in order if score[number] > 0.0])
    taken: dict[int, None] = {}
    for rank in range(max(map(len, queues), default=0)):
        for queue in queues:
            if rank < len(queue) and len(taken) < count:
                taken[queue[rank]] = None
    return list(taken)


def _terms(text: str) -> Counter[str]:
    said = words(text)
    return Counter([*said, *(f"{a} {b}" for a, b in pairwise(said))])
