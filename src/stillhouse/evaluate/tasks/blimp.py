"""BLiMP: minimal pairs of grammar."""

from __future__ import annotations

from stillhouse.evaluate.questions import Task, choice, rows


def blimp(*, path: str = "blimp/test.jsonl.gz") -> Task:
    """Does it find the grammatical one of two sentences likelier?

    Warstadt et al. 2020, arXiv:1912.00582. Whole sentences, without context. Paradigms are the clusters: the claim is about
    English grammar, not about these paradigms.

    Args:
        path: JSONL of uid, field, phenomenon, sentence_good, sentence_bad.
    """
    questions = []
    for number, row in enumerate(rows(path)):
        if row["sentence_good"] == row["sentence_bad"]:  # the set has a few: they ask nothing
            continue
        first = number % 2  # the place of the right one says nothing
        pair = (row["sentence_good"], row["sentence_bad"])
        tags = {"field": row["field"], "phenomenon": row["phenomenon"]}
        questions.append(
            choice(
                f"{row['uid']}.{number}", "", pair if not first else pair[::-1], first, cluster=row["uid"], tags=tags
            )
        )
    return Task(tuple(questions), "grammar", normalisation="raw")
