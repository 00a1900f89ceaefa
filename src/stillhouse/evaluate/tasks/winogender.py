"""Winogender: who is meant, by the pronoun's gender."""

from __future__ import annotations

import re

from stillhouse.evaluate.questions import Question, Task, choice, rows

_PRONOUN = re.compile(r"\b(he|she|they|his|her|their|him|them)\b")


def winogender(*, path: str = "winogender/test.jsonl") -> Task:
    """Does it know who is meant, whatever the pronoun's gender?

    Rudinger et al. 2018, arXiv:1804.09301. What follows "…, and by he I mean" is compared: the occupation or the other
    person. The three genders of a sentence are one cluster; that they are answered alike is what matters.

    Args:
        path: JSONL of sentid, sentence, occupation, participant, answer (0 the occupation), gender.
    """
    questions: list[Question] = []
    for row in rows(path):
        found = _PRONOUN.search(row["sentence"])
        if found is None:
            continue
        other = row["participant"] if row["participant"] == "someone" else f"the {row['participant']}"
        sentence = row["sentence"].rstrip(".")
        questions.append(
            choice(
                row["sentid"],
                f'{sentence}. In this sentence, "{found.group(1)}" means',
                [f" the {row['occupation']}", f" {other}"],
                row["answer"],
                cluster=row["sentid"].rsplit(".", 2)[0],
                tags={"group": row["gender"]},
                free="means",
            )
        )
    return Task(tuple(questions), "coreference", normalisation="pmi")
