"""Any generator of reasoning-gym."""

from __future__ import annotations

import importlib
from collections import Counter
from typing import Any

from stillhouse.errors import RecipeError, fail
from stillhouse.evaluate.questions import Task, write


def reasoning_gym(
    *,
    generator: str,
    settings: dict[str, Any] | None = None,
    steps: str = "",
    shots: int = 3,
    questions: int = 300,
    new_tokens: int = 32,
    seed: int = 0,
) -> Task:
    """How well does it do in a generator of reasoning-gym?

    The generator draws questions and judges what is written behind "Answer:"; a score below 1 counts as it is. The floor of a question is
    the share of the commonest answer. Needs ``pip install 'stillhouse[reasoning-gym]'``.

    Args:
        generator: such as chain_sum, leg_counting, number_sorting.
        settings: its own, such as {min_terms: 2, max_terms: 4}.
        steps: which of its numbers tells how many steps a question takes, such as num_terms; one fewer is counted.
        shots: solved questions before each, of other draws.
        questions: how many.
        new_tokens: of an answer, at most.
        seed: another one draws other questions.
    """
    try:
        library = importlib.import_module("reasoning_gym")
    except ImportError as error:
        what = f"reasoning-gym is not installed: {error}"
        raise fail(RecipeError, "generator", what, "pip install 'stillhouse[reasoning-gym]'") from None
    try:
        made = library.create_dataset(generator, size=questions + shots, seed=seed, **(settings or {}))
        entries = [made[i] for i in range(questions + shots)]
    except (ValueError, TypeError, AssertionError) as error:
        raise fail(RecipeError, "generator", f"'{generator}' cannot draw: {error}", "Look at its settings.") from None
    if any(entry["answer"] is None for entry in entries):
        what = f"'{generator}' names no answers: only its own program can judge them"
        raise fail(RecipeError, "generator", what, "Take a generator with one right answer.")
    before = "".join(f"{entry['question']}\nAnswer: {entry['answer']}\n\n" for entry in entries[questions:])
    asked = entries[:questions]
    stop = "\n\n" if any("\n" in entry["answer"] for entry in entries) else "\n"
    commonest = Counter(entry["answer"] for entry in asked).most_common(1)[0][1] / questions
    found = []
    for number, entry in enumerate(asked):
        told = entry["metadata"].get(steps) if steps else None
        if steps and not isinstance(told, int):
            what = f"'{generator}' tells no number '{steps}' of its questions"
            raise fail(RecipeError, "steps", what, f"It tells: {', '.join(sorted(entry['metadata']))}.")
        found.append(
            write(
                str(number),
                f"{before}{entry['question']}\nAnswer:",
                _Judge(made, entry),
                stop=(stop,),
                new_tokens=new_tokens,
                tags={"steps": str(max(1, told - 1))} if told else {},
                floor=commonest,
                solution=f" {entry['answer']}{stop}",
            )
        )
    return Task(tuple(found), "reasoning")


class _Judge:
    """The generator's own judgement of what was written."""

    def __init__(self, made: Any, entry: dict[str, Any]) -> None:
        self.made = made
        self.entry = entry

    def __call__(self, text: str) -> float | None:
        """From 0 to 1, or None where nothing was written."""
        said = text.strip()
        return float(self.made.score_answer(said, self.entry)) if said else None
