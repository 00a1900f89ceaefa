"""Texts that go round in circles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from stillhouse.data.grams import inside, mixed, own_words, windows
from stillhouse.data.judging import Filter, band
from stillhouse.data.render import Rendered


def repetition(*, run: Annotated[int, Field(ge=1)] = 5, most: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5) -> Filter:
    """Documents that repeat themselves: loops of a model, lists of one line, boilerplate pasted many times.

    What is measured is the share of a document's words that stand in a run of words which came before in the same document
    (near to the duplicate n-gram shares of Rae et al. 2021, appendix A.1.1, which count characters).

    Args:
        run: words of a run.
        most: the highest share that is kept.
    """

    def measure(documents: Sequence[Rendered]) -> npt.NDArray[np.float64]:
        words_W, borders_D1 = own_words(documents)
        first_R, document_R = inside(borders_D1, run)
        for n, window in windows(words_W, run):
            if n == run:
                # the same run in two documents is no repetition: each document's runs are made numbers of their own
                own_R = mixed(window[first_R]) + document_R.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
                _, new = np.unique(own_R, return_index=True)
                first_R = np.delete(first_R, new)
        edges = np.zeros(len(words_W) + 1, dtype=np.int64)
        np.add.at(edges, first_R, 1)
        np.add.at(edges, np.minimum(first_R + run, len(words_W)), -1)
        repeated_W = np.cumsum(edges)[:-1] > 0
        before = np.concatenate([[0], np.cumsum(repeated_W)])
        count = np.diff(borders_D1)
        found: npt.NDArray[np.float64] = (before[borders_D1[1:]] - before[borders_D1[:-1]]) / np.maximum(count, 1)
        return found

    return band(
        measure, lambda value: f"{value:.0%} of the words in runs of {run} that came before", most=most, quick=True
    )
