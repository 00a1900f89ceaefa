"""Questions of a task with their right answers, to be learned from: a source of text, ``stillhouse.exercises:exercises``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from stillhouse.data.reading import Record, Tell, reads, untold
from stillhouse.errors import RecipeError, fail
from stillhouse.evaluate.questions import task_of
from stillhouse.find import find
from stillhouse.recipe import Asked

_OTHERS = 7919
"""Added to a task's seed: what is learned from is drawn apart from what is asked."""


@reads(lambda _: None)
def exercises(tell: Tell = untold, *, of: str, options: dict[str, Any] | None = None) -> Iterator[Record]:
    """A task's questions with the right answer behind each: a small teacher is at the floor of steps until it was taught some.

    Of tasks that draw their questions (chains, facts, recall, worked_sums), under another seed than an evaluation's; a seed that is given is
    used as it is. Yields ``{"text": …, "prompt": …, "response": …}``.

    Args:
        tell: called with the share of the questions that is written.
        of: the task.
        options: of it.

    Raises:
        RecipeError: there is no such task, or what it asks has no right words to learn from.

    """
    made = inspect.signature(find("task", of, "of")).parameters
    if "seed" not in made:
        what = f"'{of}' does not draw its questions: learned from, they could not be asked any more"
        raise fail(RecipeError, "of", what, "Take a task with a seed: chains, facts, recall, worked_sums.")
    plain = {"seed": int(made["seed"].default) + _OTHERS, **(options or {}), "name": of}
    questions = task_of(Asked.model_validate(plain), "options").questions
    for number, question in enumerate(questions):
        tell(number / len(questions))
        if not question.options:
            what = f"'{of}' has no right words to learn from: a program judges what is written"
            raise fail(RecipeError, "of", what, "Take another task.")
        prompt, answer = question.context(question.gold), question.options[question.gold] + question.end
        yield {"text": prompt + answer, "prompt": prompt, "response": answer}
    tell(1.0)
