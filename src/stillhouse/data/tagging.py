"""What texts are sliced by: columns of their records, their class, task, length and how rare their words are.

The same function tags what is held out, where weaknesses are found, and what is learned from, where they are mended.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stillhouse import data
from stillhouse.data.grams import words
from stillhouse.data.reading import Record
from stillhouse.data.render import UNKNOWN, Rendered
from stillhouse.errors import Problem, RecipeError, did_you_mean
from stillhouse.recipe import Data, Source, classes_of

MADE = ("class", "length", "rarity", "task")
"""Tags that every text can have; all others are columns of records."""

_RARE = 0.2
"""Share of a text's words, the rarest, that its rarity is taken from: a plain question with one rare name is rare."""


@dataclass(frozen=True)
class Row:
    """A record as it was read.

    Args:
        source: number of its source in the recipe's list.
        record: its fields.
        rendered: its text.
        tags: tag → value; without those it has none of.
    """

    source: int
    record: Record
    rendered: Rendered
    tags: Mapping[str, str]

    @property
    def key(self) -> str:
        """By which its document is known in tables."""
        return self.rendered.key.hex()


class Tagger:
    """Tags of records.

    Args:
        names: which tags.
        texts: that words are counted in, for ``rarity``; the thirds are those of these texts.
    """

    def __init__(self, names: Sequence[str], texts: Sequence[str] = ()) -> None:
        self.names = tuple(names)
        self._counts: Counter[str] = Counter()
        self._edges: tuple[float, ...] = ()
        self._counted = frozenset(texts)
        if "rarity" in names:
            spoken = [words(text) for text in self._counted]
            self._counts.update(word for said in spoken for word in said)
            rare = [self._nats(said, own=True) for said in spoken if said]
            self._edges = tuple(float(x) for x in np.quantile(rare, [1 / 3, 2 / 3])) if rare else ()

    def __call__(self, record: Record, rendered: Rendered, source: Source) -> dict[str, str]:
        """The tags of one record."""
        found: dict[str, str] = {}
        for name in self.names:
            match name:
                case "class":
                    named = classes_of(source)
                    known = rendered.label is not None and rendered.label != UNKNOWN
                    value: Any = named[rendered.label] if known and named and rendered.label is not None else None
                case "length":
                    value = _length(len(words(rendered.words)))
                case "rarity":
                    value = self._rarity(rendered.words)
                case "task":
                    value = source.task or None
                case _:
                    value = record.get(name)
            if isinstance(value, str | int | bool) and value != "":
                found[name] = str(value)
        return found

    def _rarity(self, text: str) -> str | None:
        said = words(text)
        if not said or not self._edges:
            return None
        nats = self._nats(said, own=text in self._counted)
        return ("common words", "middling words", "rare words")[sum(nats > edge for edge in self._edges)]

    def _nats(self, said: Sequence[str], *, own: bool) -> float:
        """Mean surprise of the rarest words by their counts in other texts."""
        here = Counter(said) if own else Counter[str]()
        total = max(1, self._counts.total())
        nats = sorted((math.log(total / (self._counts[w] - here[w] + 1)) for w in said), reverse=True)
        rarest = nats[: max(1, round(len(nats) * _RARE))]
        return sum(rarest) / len(rarest)


def _length(count: int) -> str:
    """Words, by powers of two, so that the bins are the same for every corpus."""
    if count <= 4:
        return "1–4 words"
    top = 1 << math.ceil(math.log2(count))
    return f"{top // 2 + 1}–{top} words"


def tagger(section: Data, tokenizer: Any, names: Sequence[str]) -> Tagger:
    """A tagger whose idea of rare words comes from the held-out texts, which stay the same whatever is learned from."""
    if "rarity" not in names:
        return Tagger(names)
    plain = Tagger(())
    return Tagger(names, [row.rendered.words for row in rows(section, tokenizer, plain, held_out(section))])


def held_out(section: Data) -> str:
    """The group of sources that is evaluated on."""
    return "test_sources" if section.test_sources else "validation_sources"


def rows(section: Data, tokenizer: Any, tag: Tagger, group: str = "sources") -> Iterator[Row]:
    """The records of a group of sources that a teacher need not write, in order, with their tags.

    Args:
        section: the recipe's.
        tokenizer: whose chat template texts are rendered with.
        tag: what tags them.
        group: ``sources``, ``validation_sources`` or ``test_sources``.

    Raises:
        DataError: a source cannot be read, or a record not used.
    """
    sources: Sequence[Source] = getattr(section, group)
    for number, record, rendered in data.records(section, tokenizer, group):
        yield Row(number, record, rendered, tag(record, rendered, sources[number]))


def tags_of(section: Data, tokenizer: Any, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Document → its tags, of all that is evaluated on.

    Raises:
        DataError: a source cannot be read.
        RecipeError: no record has one of the columns.
    """
    tag = tagger(section, tokenizer, names)
    found = {row.key: dict(row.tags) for row in rows(section, tokenizer, tag, held_out(section))}
    there = {name for tags in found.values() for name in tags}
    missing = [name for name in names if name not in there]
    if missing:
        columns = {
            key for each in rows(section, tokenizer, Tagger(()), held_out(section)) for key in each.record
        } | set(MADE)
        raise RecipeError(
            *(
                Problem(f"evaluate.slices, '{name}'", "no held-out text has it", did_you_mean(name, columns))
                for name in missing
            )
        )
    return found
