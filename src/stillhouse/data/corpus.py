"""A corpus: what is learned from and what is held out, mapped from its folder."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stillhouse.data.readers import share_of
from stillhouse.data.store import TEST, TRAIN, VALIDATION, column
from stillhouse.recipe import Data

if TYPE_CHECKING:
    from stillhouse.data.pieces import Pieces


@dataclass(frozen=True)
class Corpus:
    """What is learned from and what is held out.

    Args:
        train: documents to learn from.
        labelled: those of them whose labels are known, which can be learned from without a teacher.
        validation: held-out documents, none of whose texts is in ``train``.
        test: those that are evaluated on, none of whose texts is in ``train`` either: the recipe's, else ``validation``.
        facts: what was read, kept and left out, as plain values.
        text_of: an example's key → its text, whole, as it was tokenised.
    """

    train: Pieces
    labelled: Pieces
    validation: Pieces
    test: Pieces
    facts: dict[str, Any]
    text_of: Callable[[str], str]


def open_corpus(folder: Path, section: Data, facts: dict[str, Any]) -> Corpus:
    """Map what lies in a folder. Documents lie there in the order in which they are read: side by side, each by its hash."""
    from stillhouse.data.pieces import Pieces

    documents = column(folder, "documents")
    weights = {name: section.tasks[name].weight if name in section.tasks else 1.0 for name in section.task_names}
    arrays = (column(folder, "inputs"), column(folder, "labels"), column(folder, "bytes"))
    borders = [bisect_left(documents, side, key=itemgetter("side")) for side in (TRAIN, VALIDATION, TEST, TEST + 1)]

    def pieces(rows: Any) -> Pieces:
        return Pieces(*arrays, rows, section.block, weights)

    rows, *others = (documents[a:b] for a, b in pairwise(borders))
    train, (validation, test) = pieces(rows), (pieces(_in_turn(each)) for each in others)
    labelled = pieces(rows[rows["truth"]]) if facts["without_label"] else train
    text_of = partial(_text_of, column(folder, "texts"), documents, borders, section.seed)
    return Corpus(train, labelled, validation, test if test.documents else validation, facts, text_of)


def _in_turn(rows: Any) -> Any:
    """The documents so ordered that any beginning holds about as many tokens of each task, as long as they last."""
    before = np.empty(len(rows), dtype=np.int64)
    for task in np.unique(rows["task"]):
        mine = rows["task"] == task
        before[mine] = np.cumsum(rows["length"][mine]) - rows["length"][mine]
    return rows[np.argsort(before, kind="stable")]


def _text_of(texts: Any, documents: Any, borders: Sequence[int], seed: int, key: str) -> str:
    """The text of a document by its key: found by its hash, by which each side is in order."""
    raw = bytes.fromhex(key)
    share = share_of(raw, seed)
    for start, stop in pairwise(borders):
        for row in range(bisect_left(documents, share, start, stop, key=itemgetter("share")), stop):
            found = documents[row]
            if found["share"] != share:
                break
            if found["key"].tobytes() == raw:
                return str(texts[found["text"] : found["text"] + found["text_bytes"]].tobytes().decode())
    raise KeyError(key)
