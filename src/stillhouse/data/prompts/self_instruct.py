"""New tasks after the pattern of some."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from stillhouse.data.reading import LINES, lines, matching, reads
from stillhouse.data.synthesis import Draft, Prompt
from stillhouse.errors import DataError, fail

_WORDS = (3, 150)
"""Fewest and most words of a task, as in the paper's code."""


@reads(lambda options: matching(options["path"], LINES))
def self_instruct(
    draft: Draft,
    *,
    path: str,
    count: int,
    template: str = "{{ instruction }}",
    shots: int = 8,
    own: int = 2,
    similar: float = 0.7,
    new_tokens: int = 64,
    temperature: float = 0.8,
    top_p: float = 0.95,
    together: int = 16,
    seed: int = 0,
) -> Iterator[Prompt]:
    """New tasks that the teacher writes after some of the seed tasks and of its own (Self-Instruct, arXiv:2212.10560, §2.2).

    A new task is taken if it has a sensible length and its ROUGE-L with every task so far is below ``similar``.

    Args:
        draft: has the teacher write.
        path: the seed tasks: JSON lines, or a text file with one a line.
        count: new tasks wanted.
        template: of an object's fields, the task.
        shots: tasks that each new one is written after.
        own: how many of these are the teacher's own, once there are so many.
        similar: ROUGE-L from which on a task is taken for one that is there already.
        new_tokens: of a task, at most.
        temperature: of the tasks.
        top_p: of the tasks.
        together: written at the same time.
        seed: of the choice of the tasks shown.

    Raises:
        DataError: no seed task, or the teacher writes hardly any that differ.
    """
    seeds = [" ".join(text.split()) for _, _, text in lines(path, template, "instruction")]
    pool = [_words(task) for task in seeds]
    mine: list[str] = []
    chance = random.Random(seed)
    drafts = 0
    while len(mine) < count:
        if drafts >= 20 * count + 200:
            what = f"{drafts} drafts gave only {len(mine)} of {count} tasks that differ from the others"
            raise fail(DataError, "prompts", what, "Raise temperature or similar, or ask for fewer (count).")
        drafts += together
        texts = [_pattern(chance, seeds, mine, shots, own) for _ in range(together)]
        settings: dict[str, Any] = {"new_tokens": new_tokens, "temperature": temperature, "top_p": top_p}
        for answer in draft(texts, stop=("\n",), done=len(mine) / count, **settings):
            task = answer.text.strip()
            words = _words(task)
            fits = answer.finish != "length" and _WORDS[0] <= len(words) <= _WORDS[1] and len(mine) < count
            if fits and all(rouge_l(words, other, similar) < similar for other in pool):
                mine.append(task)
                pool.append(words)
                yield Prompt(task, {"number": len(mine)})


def _pattern(chance: random.Random, seeds: Sequence[str], mine: Sequence[str], shots: int, own: int) -> str:
    """A list of tasks whose next line is a new one."""
    fresh = chance.sample(list(mine), min(own, len(mine)))
    shown = chance.sample(list(seeds), min(shots - len(fresh), len(seeds))) + fresh
    chance.shuffle(shown)
    listed = "".join(f"Task {n}: {task}\n" for n, task in enumerate(shown, 1))
    return f"Come up with a series of tasks:\n\n{listed}Task {len(shown) + 1}:"


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def rouge_l(one: Sequence[str], other: Sequence[str], least: float = 0.0) -> float:
    """ROUGE-L, the F-measure of the longest common subsequence of words (Lin 2004); 0 if it is surely below ``least``."""
    total = len(one) + len(other)
    if not total or 2.0 * sum((Counter(one) & Counter(other)).values()) / total < least:
        return 0.0  # no subsequence has more words in common than the bags have
    before = [0] * (len(other) + 1)
    for word in one:
        row = [0]
        for place, theirs in enumerate(other):
            row.append(before[place] + 1 if word == theirs else max(before[place + 1], row[place]))
        before = row
    return 2.0 * before[-1] / total
