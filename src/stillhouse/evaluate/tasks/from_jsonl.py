"""Your own questions, from a file."""

from __future__ import annotations

from stillhouse.errors import DataError, fail
from stillhouse.evaluate.questions import Normalisation, Task, choice, rows, split


def from_jsonl(
    *,
    path: str,
    context: str = "Question: {question}\nAnswer:",
    choices: str = "choices",
    answer: str = "answer",
    cluster: str | None = None,
    tags: tuple[str, ...] = (),
    capability: str = "own",
    normalisation: Normalisation | None = None,
    free: str = "",
    dev_questions: int = 200,
) -> Task:
    """How well does it answer questions of your own?

    Args:
        path: JSONL, an object a line.
        context: what stands before the answers; {name} is replaced by the row's value of that name.
        choices: name of the list of answers.
        answer: name of the right one's index.
        cluster: name of what rows depend on each other by.
        tags: names of what rows are sliced by.
        capability: what the questions are about.
        normalisation: by which answers are compared; chosen on some of the questions if not given.
        free: what stands before an answer when its own likelihood is asked for, for pmi.
        dev_questions: how many questions the normalisation is chosen on, a fifth at most; they are not scored.
    """
    questions = []
    for number, row in enumerate(rows(path)):
        try:
            options, gold = [f" {text}" for text in row[choices]], int(row[answer])
            before = context.format_map(row)
            sliced = {tag: str(row[tag]) for tag in tags}
            group = "" if cluster is None else str(row[cluster])
        except KeyError as error:
            raise fail(
                DataError, f"{path}, row {number + 1}", f"has no {error}", f"It has: {', '.join(row)}."
            ) from None
        if not 0 <= gold < len(options):
            what = f"answer is {gold}, and there are {len(options)} choices"
            raise fail(DataError, f"{path}, row {number + 1}", what, "Count the choices from 0.")
        questions.append(choice(str(number), before, options, gold, cluster=group, tags=sliced, free=free))
    scored, dev = (tuple(questions), ()) if normalisation else split(questions, dev_questions)
    return Task(scored, capability, dev, normalisation)
