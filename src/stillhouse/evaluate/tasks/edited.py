"""Another task in other words that mean the same."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from stillhouse.evaluate.questions import Task, task_of
from stillhouse.find import check_options, find
from stillhouse.recipe import Asked, Strategy


def edited(*, of: str, edit: str | dict[str, Any], options: dict[str, Any] | None = None, seed: int = 0) -> Task:
    """Does it answer the same where the words change and the meaning does not?

    The questions of another task, their contexts edited and their options as they were. The measure ``generalisation`` compares the two
    question by question: which answers changed, and what is kept in the worst of all wordings. Ask the other task too, under its own
    name. Trap: an edit may change the meaning after all (a key that must be found letter by letter): read some.

    Args:
        of: the task.
        edit: a strategy of the kind ``edit``.
        options: of the task.
        seed: of the edit.
    """
    whole = task_of(Asked.model_validate({**(options or {}), "name": of}), "options")
    chosen = Strategy.model_validate(edit)
    change = find("edit", chosen.name, "edit")
    settings = check_options(change, chosen.options, "edit")
    questions = tuple(
        replace(
            question,
            contexts=tuple(
                change(text, random.Random(f"{seed}/{question.id}/{place}"), **settings) if text else text
                for place, text in enumerate(question.contexts)
            ),
        )
        for question in whole.questions
    )
    return replace(whole, questions=questions, outside=of)
