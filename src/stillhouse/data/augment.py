"""More texts to learn from, made of those there are; what they say is for the teacher to judge."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from stillhouse.data.render import UNKNOWN, Rendered
from stillhouse.find import check_options, find
from stillhouse.recipe import Augmentation

Maker = Callable[[str, random.Random], str]
"""A text and where chance comes from → another text."""


def augmented(
    section: Sequence[Augmentation], originals: Sequence[tuple[str, bytes, Rendered]], seed: int
) -> Iterator[tuple[str, Rendered]]:
    """Texts made of others, without a class; the same ones each time, whatever the order of the others.

    Args:
        section: the recipe's ``data.augment``.
        originals: where each came from, the hash of its text, and itself.
        seed: of the recipe's data.

    Yields:
        where the original came from, and a text; it may be equal to the original.
    """
    parts = [part for _, _, each in originals for part in (each.text, each.pair) if part is not None]
    for number, strategy in enumerate(section):
        where = f"data.augment.{number}"
        function = find("augmentation", strategy.name, where)
        make: Maker = function(parts, **check_options(function, strategy.options, where))
        for place, key, original in originals:
            for copy in range(strategy.copies):
                draw = random.Random(_seed(key, seed, number, copy))
                text = make(original.text, draw)
                pair = None if original.pair is None else make(original.pair, draw)
                yield f"{place}, {where} ({strategy.name})", replace(original, text=text, pair=pair, label=UNKNOWN)


def _seed(key: bytes, *numbers: int) -> int:
    said = key + b"".join(number.to_bytes(16, "little", signed=True) for number in numbers)
    return int.from_bytes(hashlib.blake2b(said, digest_size=8).digest(), "little")
