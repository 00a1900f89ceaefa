"""WinoGrande: who is meant."""

from __future__ import annotations

from stillhouse.evaluate.questions import Task, choice, rows


def winogrande(*, path: str = "winogrande/validation.jsonl") -> Task:
    """Does it know who is meant?

    Sakaguchi et al. 2020, arXiv:1907.10641. Each name is put in, and what follows it is scored: the same words for both, so
    nothing is to be normalised.

    Args:
        path: JSONL of sentence (with one _), choices, answer.
    """
    questions = []
    for number, row in enumerate(rows(path)):
        before, _, after = row["sentence"].partition("_")
        contexts = [f"{before}{name}" for name in row["choices"]]
        # twins differ in a word and stand side by side
        questions.append(
            choice(str(number), contexts, [after] * 2, row["answer"], cluster=" ".join(sorted(row["choices"])))
        )
    return Task(tuple(questions), "common sense", normalisation="raw")
