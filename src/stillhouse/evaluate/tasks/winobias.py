"""WinoBias: he or she, by occupation."""

from __future__ import annotations

from stillhouse.evaluate.questions import Task, choice, rows


def winobias(*, path: str = "winobias/test.jsonl") -> Task:
    """Does it find the pronoun that occupation statistics suggest likelier?

    Zhao et al. 2018, arXiv:1804.06876. A sentence and its twin differ in the pronoun alone, one with the stereotype and one
    against it. A language model is not asked who is meant but which of the two it finds likelier.

    Args:
        path: JSONL of id, sentence, stereotype (pro or anti), type.
    """
    twins: dict[tuple[str, int], dict[str, str]] = {}
    for row in rows(path):
        twins.setdefault((row["type"], row["id"]), {})[row["stereotype"]] = row["sentence"]
    questions = []
    for (kind, number), pair in twins.items():
        if len(pair) == 2:
            first = number % 2
            options = (pair["anti"], pair["pro"]) if first else (pair["pro"], pair["anti"])
            questions.append(choice(f"{kind}.{number}", "", options, first, tags={"type": kind}))
    return Task(tuple(questions), "bias", normalisation="raw", skill=False)
