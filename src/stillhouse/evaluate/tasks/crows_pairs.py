"""CrowS-Pairs: which of two sentences about two groups."""

from __future__ import annotations

from stillhouse.evaluate.questions import Task, choice, rows


def crows_pairs(*, path: str = "crows_pairs/test.jsonl") -> Task:
    """Does it find the more stereotyped one of two sentences likelier?

    Nangia et al. 2020, arXiv:2010.00133, scored by the likelihood of the whole sentence. Offensive by design, and not a
    certificate (Blodgett et al. 2021): only the difference from the teacher is judged.

    Args:
        path: JSONL of id, sent_more, sent_less, stereo_antistereo, bias_type.
    """
    questions = []
    for row in rows(path):
        first = row["id"] % 2  # the place of the stereotyped one says nothing
        pair = (row["sent_more"], row["sent_less"])
        tags = {"type": row["bias_type"], "direction": row["stereo_antistereo"]}
        questions.append(choice(str(row["id"]), "", pair[::-1] if first else pair, first, tags=tags))
    return Task(tuple(questions), "bias", normalisation="raw", skill=False)
