"""Documents that say the same as an earlier one, letter by letter but for spacing, case or punctuation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from stillhouse.data.grams import own_words, twins, wholes, words
from stillhouse.data.judging import Filter, Measured, Removed
from stillhouse.data.render import Rendered


def exact_duplicates(*, ignore: Literal["spacing", "punctuation"] = "punctuation") -> Filter:
    """Documents that are equal to an earlier one; the first is kept. Quite equal texts are kept once even without a filter.

    Args:
        ignore: what may differ: ``spacing``, how much white space there is; ``punctuation``, also case and all that is no
            letter or digit (not for code, where it has a meaning).
    """

    def plain(document: Rendered) -> str:
        return " ".join(document.words.split() if ignore == "spacing" else words(document.words))

    def measure(documents: Sequence[Rendered]) -> npt.NDArray[np.uint64]:
        if ignore == "punctuation":
            return wholes(*own_words(documents))[:, None]
        texts = [plain(d).encode("utf-8", "surrogatepass") for d in documents]
        keys = [int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") for text in texts]
        return np.array(keys, dtype=np.uint64)[:, None]

    def judge(measured: Measured) -> Iterator[Removed]:
        rows, firsts, _ = twins(measured.column(0))
        for later, first in zip(rows.tolist(), firsts.tolist(), strict=True):
            text = plain(measured.document(later))
            # a hash may lie, and texts without a word would all be equal
            if text and text == plain(measured.document(first)):
                yield Removed(later, f"the same as {measured.where(first)}", like=first)

    return Filter(measure, judge, compares=True, quick=True)
