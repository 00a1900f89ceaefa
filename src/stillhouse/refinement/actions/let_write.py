"""Text that the teacher writes near the weakness."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from stillhouse.refinement.draft import Case, Draft, write_rows
from stillhouse.refinement.nearest import nearest


def let_write(
    draft: Draft,
    case: Case,
    *,
    count: Annotated[int, Field(ge=1)] = 200,
    tokens: Annotated[int, Field(ge=1)] = 24,
    new_tokens: Annotated[int, Field(ge=1)] = 96,
) -> tuple[Draft, str]:
    """The teacher goes on from beginnings of learned texts near what was lost, and the student learns from what it writes.

    See docs/synthesize.md: the rows say where they came from, and an interruption costs one batch.

    Args:
        draft: of the round.
        case: what is weak.
        count: texts.
        tokens: of each beginning.
        new_tokens: of what the teacher writes after it, at most.

    """
    if case.settings.data.classes:
        return draft, "a classifier writes nothing"
    if not case.writes:
        return draft, f"the teacher '{case.settings.teacher.name}' does not write here"
    if not case.lost:
        return draft, "nothing was lost there that texts could be near to"
    own = [row.rendered.words for row in case.learned]
    mine = [
        i for i, row in enumerate(case.learned) if any(one.holds(row.tags) for one in case.weak if one.tag)
    ] or list(range(len(own)))
    chosen = [own[mine[i]] for i in nearest(case.lost, [own[i] for i in mine], count)]
    if not chosen:
        return draft, "no text that is learned from shares a word with what was lost"
    path = write_rows(case.folder / "beginnings.jsonl", ({"text": text} for text in chosen))
    prompts = {"name": "prefixes", "source": {"name": "jsonl", "path": path}, "tokens": tokens}
    source = {
        "name": "written", "prompts": prompts, "new_tokens": new_tokens, "template": "none", "seed": case.number,
        "format": {"name": "text"}, "task": "", "characters": 4 * len(chosen) * new_tokens,
    }  # fmt: skip
    said = f"the teacher writes {len(chosen):,} texts that go on from beginnings near what was lost"
    return replace(draft, added=(*draft.added, source)), said
