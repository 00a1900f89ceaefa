"""COPA: the more plausible cause or effect."""

from __future__ import annotations

from stillhouse.evaluate.questions import Task, choice, rows, split


def copa(*, path: str = "copa/validation.jsonl") -> Task:
    """Does it find the plausible cause or effect likelier?

    Roemmele et al. 2011; the mirrored half: Kavumba et al. 2019, arXiv:1911.00225. A question and its mirror are one cluster.

    Args:
        path: JSONL of id, premise, choices, question (cause or effect), answer, mirrored.
    """
    questions = []
    for row in rows(path):
        link = {"cause": "because", "effect": "so"}[row["question"]]
        options = [f" {text[0].lower()}{text[1:]}" for text in row["choices"]]
        tags = {"asks": row["question"], "mirrored": "yes" if row["mirrored"] else "no"}
        questions.append(
            choice(
                str(row["id"]),
                f"{row['premise'].rstrip('. ')} {link}",
                options,
                row["answer"],
                cluster=str(row["id"] % 1000),
                tags=tags,
                free=link,
            )
        )
    scored, dev = split(questions, 150)
    return Task(scored, "common sense", dev)
