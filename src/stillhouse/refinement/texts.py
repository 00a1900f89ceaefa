"""What is learned from, what could be, and what is held out, as a refinement sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from stillhouse import models, recipe
from stillhouse.data.tagging import Row, Tagger, held_out, rows, tagger


@dataclass(frozen=True)
class Texts:
    """Rows with their tags, read when they are first needed.

    Args:
        settings: the recipe.
        folder: the refinement's.
    """

    settings: recipe.Recipe
    folder: Path

    @cached_property
    def tokenizer(self) -> Any:
        """The student's, whose chat template texts are rendered with."""
        return models.load(str(self.folder / "rounds" / "0" / "before"), empty=True).tokenizer

    @cached_property
    def tag(self) -> Tagger:
        """What tags a text."""
        return tagger(self.settings.data, self.tokenizer, self.settings.evaluate.slices)

    @cached_property
    def learned(self) -> list[Row]:
        """Rows of the sources."""
        return list(rows(self.settings.data, self.tokenizer, self.tag))

    @cached_property
    def pool(self) -> list[Row]:
        """Rows of the pool."""
        refine = self.settings.refine or recipe.Refine()
        section = self.settings.data.model_copy(update={"sources": refine.pool})
        return list(rows(section, self.tokenizer, self.tag)) if refine.pool else []

    def words_of(self, keys: Sequence[str]) -> tuple[str, ...]:
        """The texts of held-out documents."""
        wanted = set(keys)
        section = self.settings.data
        found = {
            row.key: row.rendered.words
            for row in rows(section, self.tokenizer, Tagger(()), held_out(section))
            if row.key in wanted
        }
        return tuple(found[key] for key in keys if key in found)
