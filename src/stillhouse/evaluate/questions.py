"""What a model is asked, and what a task is: questions with their answers. No model, no torch."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from stillhouse import recipe
from stillhouse.errors import DataError, Problem, RecipeError, fail
from stillhouse.find import check_options, find

Kind = Literal["choice", "word", "write", "text"]
"""choice: the likeliest of some continuations. word: one continuation, right if every token of it is the likeliest. write:
what the model writes, judged by a program. text: the bits that a text costs."""

Normalisation = Literal["raw", "character", "token", "pmi"]
"""What log-likelihoods of options are divided by before they are compared; pmi: what the option's own likelihood is taken off."""

DATA = "STILLHOUSE_DATA"
"""Environment variable that names the folder in which tasks look for their files."""


@dataclass(frozen=True)
class Question:
    """One item.

    Args:
        id: which it is; unique in its task.
        kind: how it is asked.
        contexts: what stands before each option; one for all of them, or one each.
        options: continuations, their leading space included; of a ``word`` the one that is right, of a ``text`` the text, of a ``write``
            one that would be right, where one is known.
        gold: index of the right option.
        cluster: what items depend on each other by (a paradigm, a template); the item itself if empty.
        tags: what it is sliced by: steps, domain, group …
        floor: what is scored without any skill; one over the number of options if None (0 where there is one).
        free: what stands before an option when its own likelihood is asked for, for ``pmi``.
        end: text behind a ``word`` that must be the likeliest too; without it "27" is right where "270" would be written.
        check: of a ``write``: the text → its score from 0 to 1, or None where nothing in it can be read as an answer.
        stop: a ``write`` ends before any of these.
        new_tokens: of a ``write``, at most.
    """

    id: str
    kind: Kind
    contexts: tuple[str, ...]
    options: tuple[str, ...] = ()
    gold: int = 0
    cluster: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    floor: float | None = None
    free: str = ""
    end: str = ""
    check: Callable[[str], float | None] | None = None
    stop: tuple[str, ...] = ()
    new_tokens: int = 32

    def context(self, option: int) -> str:
        """What stands before an option."""
        return self.contexts[option if len(self.contexts) > 1 else 0]

    @property
    def chance(self) -> float:
        """What is scored without any skill."""
        if self.floor is not None:
            return self.floor
        return 1.0 / len(self.options) if self.kind == "choice" else 0.0

    @property
    def fingerprint(self) -> str:
        """A hash of all that a model is given."""
        asked = [self.kind, self.contexts, self.options, self.free, self.end, self.stop, self.new_tokens]
        return hashlib.sha256(json.dumps(asked).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def choice(
    id: str,
    context: str | Sequence[str],
    options: Sequence[str],
    gold: int,
    *,
    cluster: str = "",
    tags: Mapping[str, str] | None = None,
    floor: float | None = None,
    free: str = "",
) -> Question:
    """A question with some options; see ``Question``."""
    contexts = (context,) if isinstance(context, str) else tuple(context)
    return Question(id, "choice", contexts, tuple(options), gold, cluster, tags or {}, floor, free)


def word(
    id: str,
    context: str,
    answer: str,
    *,
    end: str = "",
    cluster: str = "",
    tags: Mapping[str, str] | None = None,
    floor: float | None = None,
) -> Question:
    """A question with one continuation that must be the likeliest, its end included; see ``Question``."""
    return Question(id, "word", (context,), (answer,), 0, cluster, tags or {}, floor, end=end)


def write(
    id: str,
    prompt: str,
    check: Callable[[str], float | None],
    *,
    stop: Sequence[str] = (),
    new_tokens: int = 32,
    cluster: str = "",
    tags: Mapping[str, str] | None = None,
    floor: float | None = None,
    solution: str = "",
) -> Question:
    """A prompt whose continuation a program judges; see ``Question``. A solution is shown, and may be learned from."""
    shown = (solution,) if solution else ()
    return Question(
        id,
        "write",
        (prompt,),
        shown,
        0,
        cluster,
        tags or {},
        floor,
        check=check,
        stop=tuple(stop),
        new_tokens=new_tokens,
    )


def text(id: str, content: str, *, cluster: str = "", tags: Mapping[str, str] | None = None) -> Question:
    """A text whose bits are counted; see ``Question``."""
    return Question(id, "text", ("",), (content,), 0, cluster, tags or {})


@dataclass(frozen=True)
class Reply:
    """What a model answered to one question.

    Args:
        ll: log-likelihood of each option after its context, nats.
        tokens: tokens of each option, as this model reads it.
        greedy: whether all tokens of the option (and of the end behind it) were the likeliest.
        free: log-likelihood of each option after ``Question.free``; None if it was not asked for.
        text: what was written.
        stop: what ended it: ``eos``, ``stop`` (one of the question's) or ``length``.
        truncated: the beginning of the context did not fit.
    """

    ll: tuple[float, ...] = ()
    tokens: tuple[int, ...] = ()
    greedy: tuple[bool, ...] = ()
    free: tuple[float, ...] | None = None
    text: str | None = None
    stop: str = ""
    truncated: bool = False


@dataclass(frozen=True)
class Task:
    """A set of questions about one thing.

    Args:
        questions: those that are scored.
        capability: what they are about: language, knowledge, recall, reasoning, instructions, bias …
        dev: questions on which the normalisation is chosen for the teacher; never scored.
        normalisation: the one to use; chosen on ``dev`` if None (``raw`` where there is nothing to choose on).
        skill: whether being right is a skill; of a bias probe it is not: ``gold`` is then the stereotyped option.
        outside: title of the task of which this is the same skill on other data (out of distribution).
    """

    questions: tuple[Question, ...]
    capability: str
    dev: tuple[Question, ...] = ()
    normalisation: Normalisation | None = None
    skill: bool = True
    outside: str = ""

    def taken(self, limit: int | None, seed: int = 0) -> Task:
        """The task with so many questions at most, the same ones for everybody, in their order."""
        if limit is None or limit >= len(self.questions):
            return self
        order = sorted(range(len(self.questions)), key=lambda i: _draw(seed, self.questions[i].id))
        kept = tuple(self.questions[i] for i in sorted(order[:limit]))
        return replace(self, questions=kept)

    def only(self, wanted: Callable[[str], bool]) -> Task:
        """The task with the questions of some of its clusters; a question without one is a cluster of its own."""
        return replace(self, questions=tuple(q for q in self.questions if wanted(q.cluster or q.id)))


def split(questions: Iterable[Question], dev: int) -> tuple[tuple[Question, ...], tuple[Question, ...]]:
    """Take some questions out, to choose the normalisation on, where there is no file of them; whole clusters, by hash.

    Args:
        questions: all.
        dev: how many to take out, about; a fifth of them at most.

    Returns:
        those to score, those to choose on.
    """
    listed = list(questions)
    share = min(0.2, dev / max(1, len(listed)))
    scored: list[Question] = []
    chosen: list[Question] = []
    for question in listed:
        (chosen if _draw(0, question.cluster or question.id) < share else scored).append(question)
    return tuple(scored), tuple(chosen)


def _draw(seed: int, name: str) -> float:
    """A number from 0 to 1 that follows from a name."""
    return int(hashlib.sha256(f"{seed}\x1f{name}".encode("utf-8", "surrogatepass")).hexdigest()[:13], 16) / 16**13


def find_file(path: str) -> Path:
    """A task's file: as it is given, or inside the folder that ``STILLHOUSE_DATA`` names.

    Raises:
        DataError: it is in neither place.
    """
    places = [Path(path), *([Path(os.environ[DATA]) / path] if DATA in os.environ else [])]
    for place in places:
        if place.is_file():
            return place
    what = f"no such file{f', nor in {os.environ[DATA]}' if DATA in os.environ else ''}"
    raise fail(DataError, path, what, f"Set {DATA} to the folder that holds it, or give the task's path.")


def rows(path: str) -> list[dict[str, Any]]:
    """The objects of a JSONL file, gzipped or not.

    Raises:
        DataError: there is none, or a line of it is no object.
    """
    file = find_file(path)
    found = []
    with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise fail(DataError, f"{path}, line {number}", f"is not JSON: {error}") from None
            if not isinstance(row, dict):
                raise fail(DataError, f"{path}, line {number}", "is not an object", "A line is {…}.")
            found.append(row)
    return found


def task_of(asked: recipe.Asked, where: str) -> Task:
    """The task that one entry of a recipe names.

    Args:
        asked: the entry.
        where: the recipe key to name in errors.

    Raises:
        RecipeError: no such task, or options it does not take.
        DataError: its file is missing or broken.
    """
    make = find("task", asked.name, where)
    options = check_options(make, asked.options, where)
    try:
        task: Task = make(**options)
    except RecipeError as error:  # an option that only the task can judge
        raise RecipeError(*(Problem(f"{where}.{p.where}", p.what, p.way_out) for p in error.problems)) from None
    if not task.questions:
        raise fail(RecipeError, where, f"'{asked.name}' holds no questions", "Look at its file.")
    scored = {question.fingerprint for question in task.questions}
    apart = tuple(question for question in task.dev if question.fingerprint not in scored)  # files do overlap
    return replace(task, dev=apart, outside=asked.outside or task.outside).taken(asked.limit)


def name_of(asked: recipe.Asked) -> str:
    """What a task of a recipe is called."""
    return asked.title or asked.name.rpartition(":")[2]


def tasks_of(asked: Sequence[recipe.Asked], where: str = "evaluate.tasks") -> dict[str, Task]:
    """The tasks that a recipe names, by what they are called.

    Args:
        asked: the recipe's list.
        where: the recipe key to name in errors.

    Raises:
        RecipeError: all that is wrong with them, missing and broken files included.
    """
    found: dict[str, Task] = {}
    problems: list[Problem] = []
    for index, each in enumerate(asked):
        place = f"{where}.{index}"
        title = name_of(each)
        if title in found:
            problems.append(Problem(place, f"there are two tasks '{title}'", "Give one of them a title of its own."))
            continue
        try:
            found[title] = task_of(each, place)
        except (RecipeError, DataError) as error:
            problems += error.problems
    if problems:
        raise RecipeError(*problems)
    return found
