"""What a user is told when something cannot be done: where, what came, what was possible, the way out.

Imports nothing heavy: it is used before torch is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TypeVar


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Args:
        where: the place as its user would name it, such as ``student.keep`` or a file's path.
        what: what came and why it cannot be used.
        way_out: what to do instead, as an imperative sentence; may be empty.
    """

    where: str
    what: str
    way_out: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n    → {self.way_out}" if self.way_out else text


class StillhouseError(Exception):
    """A mistake or a limit the user can act on. The command line prints it and exits with 2, without a traceback."""

    exit_code = 2
    """What the command line exits with."""

    def __init__(self, *problems: Problem) -> None:
        self.problems: tuple[Problem, ...] = problems
        super().__init__("\n".join(str(p) for p in problems))


class RecipeError(StillhouseError):
    """The recipe cannot be run as it is; carries every mistake found, not only the first."""


class DataError(StillhouseError):
    """The text to learn from cannot be used."""


class ModelError(StillhouseError):
    """A model, tokenizer or weight file cannot be used."""


class RunError(StillhouseError):
    """A run cannot start, continue or be saved."""


Kind = TypeVar("Kind", bound=StillhouseError)


def fail(kind: type[Kind], where: str, what: str, way_out: str = "") -> Kind:
    """Make an error of one problem: ``raise fail(DataError, "data.path", "no such file", "Check the spelling.")``."""
    return kind(Problem(where, what, way_out))


def did_you_mean(word: str, possible: Iterable[str]) -> str:
    """A sentence naming the nearest of the possible words, else all of them."""
    names = sorted(possible)
    near: Sequence[str] = get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f"Did you mean '{near[0]}'?"
    return f"Possible: {', '.join(names)}." if names else "Nothing is possible here."
