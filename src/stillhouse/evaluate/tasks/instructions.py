"""Instructions whose keeping a program can see."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from stillhouse.evaluate.questions import Task, write

_ABOUT = [
    "dogs",
    "the sea",
    "winter",
    "a market",
    "music",
    "trains",
    "bread",
    "the moon",
    "gardens",
    "school",
    "rain",
    "a bicycle",
    "birds",
    "tea",
    "the city",
    "horses",
]


def instructions(*, questions: int = 20, new_tokens: int = 48, seed: int = 0) -> Task:
    """Does it do what it is told, where that can be checked?

    Twelve kinds of constraints on a short text (after IFEval, Zhou et al. 2023, arXiv:2311.07911). An empty text keeps none. What an
    answer to another instruction would score is the floor, measured on the teacher's own.

    Args:
        questions: of each kind of constraint.
        new_tokens: of an answer, at most.
        seed: another one makes other questions.
    """
    found = []
    for kind, (told, kept) in _CONSTRAINTS.items():
        rng = random.Random(f"{seed}/{kind}")
        for number in range(questions):
            about, word_ = rng.choice(_ABOUT), rng.choice(["never", "always", "friend", "morning", "little"])
            count = rng.randint(2, 4)
            prompt = f"Instruction: Write about {about}. {told.format(word=word_, count=count)}\nAnswer:"
            check = _Kept(kept, word_, count)
            found.append(
                write(
                    f"{kind}.{number}",
                    prompt,
                    check,
                    stop=("Instruction:",),
                    new_tokens=new_tokens,
                    tags={"constraint": kind},
                )
            )
    return Task(tuple(found), "instructions")


class _Kept:
    """Whether a text keeps a constraint."""

    def __init__(self, kept: Callable[[str, str, int], bool], word_: str, count: int) -> None:
        self.kept, self.word, self.count = kept, word_, count

    def __call__(self, text: str) -> float | None:
        """1 or 0; None where nothing was written."""
        text = text.strip()
        return float(self.kept(text, self.word, self.count)) if re.search(r"\w", text) else None


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'’]+", text)


_CONSTRAINTS: dict[str, tuple[str, Callable[[str, str, int], bool]]] = {
    "capitals": ("Use capital letters only.", lambda t, w, n: t == t.upper()),
    "small letters": ("Use small letters only, no capitals.", lambda t, w, n: t == t.lower()),
    "no comma": ("Do not use any comma.", lambda t, w, n: "," not in t),
    "with a word": ("Use the word {word}.", lambda t, w, n: w in map(str.lower, _words(t))),
    "without a word": ("Do not use the word the.", lambda t, w, n: "the" not in map(str.lower, _words(t))),
    "at most": ("Use at most ten words.", lambda t, w, n: len(_words(t)) <= 10),
    "at least": ("Use at least twenty words.", lambda t, w, n: len(set(map(str.lower, _words(t)))) >= 20),
    "list": ("Make a list of {count} lines, each with a - first.", lambda t, w, n: _list(t) == n),
    "question": ("End with a question mark.", lambda t, w, n: t.endswith("?")),
    "begins": ("Begin with the word {word}.", lambda t, w, n: [x.lower() for x in _words(t)[:1]] == [w]),
    "quotes": ("Put the whole answer in double quotation marks.", lambda t, w, n: len(t) > 2 and t[0] == t[-1] == '"'),
    "number": ("Use the number {count} as a digit.", lambda t, w, n: str(n) in re.findall(r"\d+", t)),
}


def _list(text: str) -> int:
    """Lines of a list, 0 where others stand between them."""
    lines = [line for line in text.splitlines() if line.strip()]
    return len(lines) if all(line.lstrip().startswith("-") for line in lines) else 0
