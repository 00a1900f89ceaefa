"""Any task of lm-evaluation-harness, or of your own files for it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stillhouse.errors import RecipeError, fail
from stillhouse.evaluate.questions import Question, Task, choice, split, text, word


def lm_eval(
    *, task: str, include: str | None = None, shots: int = 0, capability: str = "own", dev_questions: int = 200
) -> Task:
    """How well does it do in a task of lm-evaluation-harness?

    Its task library makes the questions, this engine asks them: tasks of options, of a likeliest continuation and of texts; those
    in which a model writes are refused. Needs ``pip install 'stillhouse[lm-eval]'``. A task's data comes from where its file says, so
    offline give a folder of task files over local data.

    Args:
        task: its name there.
        include: a folder with more task files.
        shots: examples before each question.
        capability: what the questions are about.
        dev_questions: how many questions the normalisation is chosen on, a fifth at most; they are not scored.
    """
    try:
        library = importlib.import_module("lm_eval.tasks")
    except ImportError as error:
        what = f"lm-evaluation-harness is not installed: {error}"
        raise fail(RecipeError, "task", what, "pip install 'stillhouse[lm-eval]'") from None
    if include is not None and not Path(include).is_dir():
        raise fail(RecipeError, "include", f"'{include}' is no folder", "Give the folder of your task files.")
    manager = library.TaskManager(include_path=include)
    if task not in manager.all_tasks:
        raise fail(RecipeError, "task", f"there is no task '{task}' there", "lm-eval ls tasks shows all.")
    try:
        found = manager.load(task)["tasks"]
        questions = [question for name, each in found.items() for question in _questions(name, each, shots)]
    except (OSError, ValueError, ImportError) as error:
        raise fail(RecipeError, "task", f"'{task}' cannot be read: {error}", "Give local data files.") from error
    if questions[0].kind != "choice":
        return Task(tuple(questions), capability)
    scored, dev = split(questions, dev_questions)
    return Task(scored, capability, dev)


def _questions(name: str, task: Any, shots: int) -> Iterator[Question]:
    """The harness' requests as questions."""
    kind = task.OUTPUT_TYPE
    if kind not in ("multiple_choice", "loglikelihood", "loglikelihood_rolling"):
        raise fail(RecipeError, "task", f"'{name}' asks for {kind}, which is not asked here", "Take another task.")
    docs = task.test_docs() if task.has_test_docs() else task.validation_docs()
    for number, doc in enumerate(docs):
        context = task.fewshot_context(doc, num_fewshot=shots)
        asked = task.construct_requests(doc, context)
        place = f"{name}.{number}"
        if kind == "loglikelihood_rolling":
            yield text(place, asked.args[0])
        elif kind == "loglikelihood":
            yield word(place, *asked.args[:2])
        else:
            options = task.doc_to_choice(doc)
            several = bool(task.multiple_input)
            gold = task.doc_to_text(doc) if several else task.doc_to_target(doc)
            pairs = [one.args[:2] for one in asked[: len(options)]]
            contexts = [before for before, _ in pairs] if several else context
            right = gold if isinstance(gold, int) else options.index(gold)
            yield choice(place, contexts, [after for _, after in pairs], right, tags={"task": name})
