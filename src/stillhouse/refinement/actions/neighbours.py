"""New texts near the lost ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from stillhouse.refinement.draft import Case, Draft, write_rows
from stillhouse.refinement.nearest import nearest


def neighbours(draft: Draft, case: Case, *, count: Annotated[int, Field(ge=1)] = 500) -> tuple[Draft, str]:
    """Texts of the pool that are nearest to what the student lost are learned from; the teacher says what they are.

    Near by the words that they share. What was lost is looked up among the texts that rounds may look at, and never learned from.

    Args:
        draft: of the round.
        case: what is weak.
        count: texts that are taken.

    """
    if not case.pool:
        return draft, "there is no pool to choose from (refine.pool)"
    if not case.lost:
        return draft, "nothing was lost there that texts could be near to"
    taken = {key for source in draft.added for key in source.get("keys", ())}
    fresh = [row for row in case.pool if row.key not in taken]
    chosen = [fresh[i] for i in nearest(case.lost, [row.rendered.words for row in fresh], count)]
    if not chosen:
        return draft, "no text of the pool shares a word with what was lost"
    assert case.settings.refine is not None
    added = []
    for number, source in enumerate(case.settings.refine.pool):
        mine = [row for row in chosen if row.source == number]
        if mine:
            path = write_rows(case.folder / f"pool-{number}.jsonl", (row.record for row in mine))
            size = sum(len(row.rendered.content) for row in mine)
            form = source.format.model_dump(mode="json")
            added.append({"name": "jsonl", "path": path, "format": form, "task": source.task, "characters": size, "keys": [row.key for row in mine]})  # fmt: skip
    said = (
        f"{len(chosen):,} texts of the pool that are nearest to {len(case.lost):,} lost ones, for the teacher to judge"
    )
    return replace(draft, added=(*draft.added, *added)), said
