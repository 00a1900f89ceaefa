"""What other programs logged of teacher and student, as our table of answers: their runs, our statistics.

A reader of ``logs/`` turns a file or folder into ``Logged`` questions with their replies. What teacher and student were not both
asked, in the same words, cannot be compared, and is refused with counts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillhouse.errors import DataError, Problem, fail
from stillhouse.evaluate import answers
from stillhouse.evaluate.questions import Normalisation, Question, Reply, Task, choice, write
from stillhouse.files import write_json
from stillhouse.find import find


@dataclass(frozen=True)
class Logged:
    """One question as a log has it.

    Args:
        task: what it is of.
        question: as it was asked.
        reply: what was answered.
        normalisation: by which the log compares options.
    """

    task: str
    question: Question
    reply: Reply
    normalisation: Normalisation = "raw"


def options(
    task: str, id: str, contexts: Sequence[str], texts: Sequence[str], gold: int, ll: Sequence[float], *,
    tokens: Sequence[int] = (), free: Sequence[float] | None = None, normalisation: Normalisation = "raw",
) -> Logged:  # fmt: skip
    """A question of which a log has the log-likelihood of each option.

    Args:
        task: what it is of.
        id: which it is.
        contexts: what stood before each option; one for all of them, or one each.
        texts: the options.
        gold: index of the right one.
        ll: log-likelihoods, nats.
        tokens: of each option; ones where the log does not tell.
        free: likelihoods of the options on their own.
        normalisation: by which the log compares options.
    """
    context: str | Sequence[str] = contexts[0] if len(set(contexts)) == 1 else contexts
    reply = Reply(
        ll=tuple(map(float, ll)),
        tokens=tuple(tokens) or (1,) * len(ll),
        greedy=(False,) * len(ll),
        free=None if free is None else tuple(map(float, free)),
    )
    return Logged(task, choice(id, context, texts, gold), reply, normalisation)


def scored(task: str, id: str, prompt: str, text: str, score: float, *, possible: int = 1) -> Logged:
    """A question of which a log has what was written, or the likeliest words, and a score from 0 to 1.

    Args:
        task: what it is of.
        id: which it is.
        prompt: what was asked.
        text: what was answered.
        score: the log's.
        possible: answers that could be given: of four letters a quarter is right by chance.
    """
    floor = 1.0 / possible if possible > 1 else None
    return Logged(task, write(id, prompt, lambda _: score, floor=floor), Reply(text=text, stop="eos"))


def files(path: Path, pattern: str, what: str) -> list[Path]:
    """A log's files: the file itself, or those in a folder and its folders.

    Args:
        path: what the user named.
        pattern: of the files' names.
        what: what they are called, for the error.

    Raises:
        DataError: there is none.
    """
    found = [path] if path.is_file() else sorted(path.rglob(pattern))
    if not found:
        raise fail(DataError, str(path), f"is no {what}, and no folder with files {pattern}", "Name the file itself.")
    return found


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file.

    Raises:
        DataError: a line is no object.
    """
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise fail(DataError, f"{path}, line {number}", f"is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise fail(DataError, f"{path}, line {number}", "is not an object")
        found.append(row)
    return found


def read(reader: str, path: Path) -> dict[str, list[Logged]]:
    """A log's questions by task.

    Args:
        reader: a strategy of the kind ``log``; hyphens may be written for underscores.
        path: a file or a folder.

    Raises:
        RecipeError: no such reader.
        DataError: the log is not what the reader reads, holds nothing, or holds a question twice.
    """
    load: Callable[[Path], Iterable[Logged]] = find("log", reader.replace("-", "_"), "--import")
    found: dict[str, list[Logged]] = {}
    try:
        for one in load(path):
            found.setdefault(one.task, []).append(one)
    except (AttributeError, KeyError, IndexError, StopIteration, TypeError, ValueError, ZeroDivisionError) as error:
        what = f"is no log that '{reader}' reads: {type(error).__name__} {error}"
        raise fail(DataError, str(path), what, "See docs/evaluate.md for the versions whose logs are read.") from None
    if not found:
        raise fail(DataError, str(path), "holds no questions")
    for task, logged in found.items():
        often = [id for id, n in Counter(one.question.id for one in logged).items() if n > 1]
        if often:
            what = f"holds {len(often):,} questions of '{task}' more than once, first {often[0]}"
            raise fail(DataError, str(path), what, "Name the log of one run, not a folder of several.")
    return found


def bring_in(reader: str, teacher: Path, student: Path, folder: Path) -> None:
    """Read two logs and write ``evaluation/answers.parquet`` and who was compared into a folder.

    Args:
        reader: a strategy of the kind ``log``.
        teacher: the teacher's log.
        student: the student's.
        folder: where the table is written.

    Raises:
        DataError: a log cannot be read, or the two were not asked the same.
    """
    logs = {"teacher": read(reader, teacher), "student": read(reader, student)}
    _check_same(logs["teacher"], logs["student"], teacher, student)
    table = folder / "evaluation" / "answers.parquet"
    table.unlink(missing_ok=True)
    for role, log in logs.items():
        for name, logged in sorted(log.items()):
            ordered = sorted(logged, key=lambda one: one.question.id)
            task = Task(tuple(one.question for one in ordered), capability=name)
            rows = answers.table(role, name, task, ordered[0].normalisation, [one.reply for one in ordered])
            answers.append(table, rows)
    named = {"teacher": teacher, "student": student}
    write_json(folder / "evaluation" / "models.json", {role: {"name": path.stem} for role, path in named.items()})


def _check_same(
    teacher: Mapping[str, Sequence[Logged]], student: Mapping[str, Sequence[Logged]], one: Path, other: Path
) -> None:
    """Refuse what was not asked of both in the same words, with counts."""
    problems = []
    for task in sorted(set(teacher) | set(student)):
        asked = [{x.question.id: x for x in log.get(task, ())} for log in (teacher, student)]
        both = sorted(set(asked[0]) & set(asked[1]))
        counts = {
            f"only in {one.name}": len(set(asked[0]) - set(asked[1])),
            f"only in {other.name}": len(set(asked[1]) - set(asked[0])),
            "asked in other words or with other options": sum(
                asked[0][id].question.fingerprint != asked[1][id].question.fingerprint for id in both
            ),
            "with another right answer": sum(asked[0][id].question.gold != asked[1][id].question.gold for id in both),
            "compared by another normalisation": sum(asked[0][id].normalisation != asked[1][id].normalisation for id in both),
        }  # fmt: skip
        told = [f"{n:,} {what}" for what, n in counts.items() if n]
        if told:
            what = f"of {len(set(asked[0]) | set(asked[1])):,} questions {'; '.join(told)}"
            problems.append(
                Problem(f"task '{task}'", what, "Run both models on the same task, version and few-shot examples.")
            )
    if problems:
        raise DataError(*problems)
