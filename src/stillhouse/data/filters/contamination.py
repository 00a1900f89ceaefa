"""What is learned from must not hold what is evaluated on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from stillhouse.data.evaluation_sets import KINDS, Index, texts_of, wrong_files
from stillhouse.data.judging import Filter, Measured, Removed, Several
from stillhouse.data.reading import matching, reads
from stillhouse.data.render import Rendered
from stillhouse.errors import DataError, RecipeError, fail

HELD_OUT = "held-out "
"""Before the place of a text that is held out in this run, where it is named."""

_ROW = np.dtype([("score", "<f4"), ("text", "<i4")])
_NAMED = 3


def _inputs(options: dict[str, Any]) -> list[Path]:
    return [file for path in options.get("files", ()) for file in matching(path, tuple(KINDS))]


@reads(_inputs)
def contamination(
    held_out: Callable[[], Iterable[tuple[str, Rendered]]],
    *,
    files: Several = (),
    validation: bool = True,
    run: Annotated[int, Field(ge=3)] = 13,
    shortest: Annotated[int, Field(ge=1)] = 8,
    share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2,
    action: Literal["remove", "refuse"] = "remove",
) -> Filter:
    """Documents to learn from that hold text of an evaluation set: held out in this run, or in the files listed.

    Runs of 13 words are what Brown et al. 2020 (appendix C) looked for. A document is taken for contaminated if it shares
    ``share`` of the runs of an evaluation text with it, or of its own runs if the document is the shorter one; or if it is
    equal to the text, word for word, however short. Held-out documents stay as they are. A run of words that more than
    ten evaluation texts have is a turn of phrase and does not count.

    Args:
        held_out: goes through the held-out documents of this run.
        files: files of evaluation sets (.txt, .jsonl, .parquet; text and JSON lines also .gz), or globs: every text in every
            record, at any depth, is an evaluation text.
        validation: compare with the held-out documents of this run, too.
        run: words of a run.
        shortest: words of the shortest evaluation text that is looked for within longer documents.
        share: the share of the runs from which a document is removed.
        action: remove such documents, or refuse to go on if there is one.

    Raises:
        RecipeError: there is nothing to compare with, or a file is missing or of no known kind.
    """
    if problems := wrong_files(files):
        raise RecipeError(*problems)
    if not files and not validation:
        raise fail(RecipeError, "files", "names no evaluation set, and validation is false", "List files.")

    @cache
    def index() -> Index:
        def texts() -> Iterator[tuple[str, str]]:
            for where, rendered in held_out() if validation else ():
                yield HELD_OUT + where, rendered.words
            yield from texts_of(files)

        return Index(texts(), run, shortest)

    def measure(documents: Sequence[Rendered]) -> npt.NDArray[Any]:
        found = index().overlap([document.words for document in documents])
        rows = np.zeros(len(documents), dtype=_ROW)
        rows["score"], rows["text"] = found.score_D, found.text_D
        return rows

    def guilty(measured: Measured) -> Iterator[tuple[int, float, int]]:
        before = 0
        for rows in measured.parts():
            found = (rows["text"] >= 0) & (rows["score"] >= share) & ~measured.held_out[before : before + len(rows)]
            for i in np.flatnonzero(found).tolist():
                yield before + i, float(rows["score"][i]), int(rows["text"][i])
            before += len(rows)

    def judge(measured: Measured) -> Iterator[Removed]:
        count, named = 0, []
        for row, score, text in guilty(measured):
            why = f"shares {score:.0%} of the runs of {run} words with {index().where[text]}"
            if action == "remove":
                yield Removed(row, why)
            else:
                count += 1
                named += [f"{measured.where(row)} {why}"] if count <= _NAMED else []
        if count:
            what = f"{count:,} documents to learn from hold evaluation text: {'; '.join(named)}{' …' if count > _NAMED else ''}"
            raise fail(DataError, "data.filters, contamination", what, "Take them out, or set action: remove.")

    def facts(measured: Measured) -> dict[str, Any]:
        sets: dict[str, dict[str, int]] = {}
        for where in index().where:
            sets.setdefault(_set(where), {"texts": 0, "documents removed": 0})["texts"] += 1
        for _, _, text in guilty(measured):
            sets[_set(index().where[text])]["documents removed"] += 1
        return {"compared with": sets}

    return Filter(measure, judge, facts)


def _set(where: str) -> str:
    """The evaluation set of a text, by its place."""
    return "held-out documents" if where.startswith(HELD_OUT) else where.rpartition(", record ")[0]
