"""From text to inputs and labels: tokenised once, shifted once; here and nowhere else.

A format turns a record into ``Rendered``: one text and the spans of it that carry loss. This module tokenises the text
whole, so no token depends on where a format thought a border was, and finds the tokens of a span by their offsets. A text
with a class has its one label where its tokenizer gives a class a place, and no shift.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stillhouse.errors import DataError, did_you_mean, fail
from stillhouse.vocabulary import encode, must_be_fast, pools_first

NO_LOSS = -1
"""In place of a label that carries no loss."""

UNKNOWN = -2
"""In place of a label that carries loss and is not known: only a teacher can say it."""

PAIR = "\x1e"
"""Stands between the two texts of a pair where they are kept as one (U+001E, the record separator)."""


@dataclass(frozen=True)
class Rendered:
    """A record as text, before it is tokenised.

    Args:
        text: all of it.
        loss_spans: (start, end) in characters of what carries loss, ascending; None for all.
        whole: never cut: an example of prompt and answer, which cannot begin in the middle.
        special: the text brings its own special tokens. If so, they are read as tokens and the tokenizer adds none; if
            not, the text is data: ``<|im_end|>`` in it is eight letters, and the tokenizer adds what it always adds.
        pair: a second text that the label is of too.
        label: number of the class, or ``UNKNOWN``; None where next tokens are the labels.
        own: the record's own words where the text has more: those of a template, which all records share.
        task: number of the task that its source names.
        weight: what it counts in the loss.
    """

    text: str
    loss_spans: list[tuple[int, int]] | None = None
    whole: bool = False
    special: bool = False
    pair: str | None = None
    label: int | None = None
    own: str | None = None
    task: int = 0
    weight: float = 1.0

    @property
    def words(self) -> str:
        """What filters look at: the record's own words."""
        return self.content if self.own is None else self.own

    @property
    def content(self) -> str:
        """All that it is tokenised from: the text, or both texts."""
        return self.text if self.pair is None else self.text + PAIR + self.pair

    @property
    def key(self) -> bytes:
        """A hash of the content, by which it is known in the corpus and in stores of signals.

        Raises:
            UnicodeEncodeError: the content is no text.
        """
        return hashlib.blake2b(self.content.encode(), digest_size=16).digest()


@dataclass(frozen=True)
class Example:
    """A document after the shift: position i has seen ``inputs[:i + 1]`` and is to say ``labels[i]``.

    Args:
        inputs: n token ids; int32.
        labels: the next tokens, ``NO_LOSS`` where they carry none; int32.
        bytes: UTF-8 bytes of the text that each next token adds, 0 for the end token; uint32. With the bytes of the
            first token, ``first_bytes``, they add up to the bytes of the text.
        first_bytes: bytes of the token that is nobody's label.
        truncated: of a text with a class, whether its end was cut off.
    """

    inputs: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int32]
    bytes: npt.NDArray[np.uint32]
    first_bytes: int
    truncated: bool = False


def value_of(record: Mapping[str, Any], field: str, kind: type, option: str) -> Any:
    """A field of a record.

    Args:
        record: the record.
        field: the field's name.
        kind: the type it must have.
        option: the format's option that names the field, for the error.

    Raises:
        DataError: the field is missing (names the nearest) or of another type.
    """
    if field not in record:
        hint = did_you_mean(field, [k for k in record if isinstance(k, str)])
        raise fail(DataError, "", f"has no field '{field}'", f"{hint} Name it by the format's option '{option}'.")
    value = record[field]
    if not isinstance(value, kind):
        came = "nothing (null)" if value is None else f"{type(value).__name__} {str(value)[:60]!r}"
        wanted = {"str": "text", "list": "a list"}.get(kind.__name__, kind.__name__)
        raise fail(
            DataError, "", f"field '{field}' holds {came}, not {wanted}", "Filter such records out of the source."
        )
    return value


def end_token(tokenizer: Any, wanted: str | None) -> int:
    """The id of the token that ends a document.

    Args:
        tokenizer: a fast tokenizer of transformers.
        wanted: the recipe's ``data.end_token``; the tokenizer's own if None.

    Raises:
        ModelError: the tokenizer is not a fast one.
        DataError: there is no end token, or the wanted one is not a single token of the vocabulary.
    """
    must_be_fast(tokenizer)
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    special = [
        t for t in dict.fromkeys([*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()]) if t in vocabulary
    ]
    example = next(
        (t for t in special if "end" in t or "eo" in t or t == "</s>"), special[0] if special else "<|endoftext|>"
    )
    if wanted is None:
        if tokenizer.eos_token_id is None:
            raise fail(
                DataError,
                "data.end_token",
                "the tokenizer has no end token, so a student could not learn to stop",
                f"Name one, for example data.end_token={example!r}."
                + (f" Its special tokens: {', '.join(special[:20])}." if special else ""),
            )
        return int(tokenizer.eos_token_id)
    if wanted not in vocabulary:
        raise fail(
            DataError,
            "data.end_token",
            f"{wanted!r} is not a single token of the vocabulary",
            did_you_mean(wanted, special) if special else "Name a token of its vocabulary.",
        )
    return vocabulary[wanted]


def tokenise(batch: Sequence[Rendered], tokenizer: Any, end: int) -> list[Example]:
    """Tokenise texts, append the end token, shift, and find which labels carry loss.

    A label carries loss if any character of it lies in a span. The end token does if the text's last character does. It
    is not appended where a text already ends with it (white space aside), as many chat templates do.

    Args:
        batch: texts, none empty.
        tokenizer: a fast tokenizer.
        end: the end token's id.
    """
    examples: list[Example | None] = [None] * len(batch)
    for special in (False, True):
        rows = [i for i, r in enumerate(batch) if r.special is special]
        if not rows:
            continue
        encoded = encode(tokenizer, [batch[i].text for i in rows], special=special)
        columns = (encoded["input_ids"], encoded["offset_mapping"], encoded["special_tokens_mask"])
        for i, ids, offsets, added in zip(rows, *columns, strict=True):
            examples[i] = _example(batch[i], ids, offsets, added, end, tokenizer)
    return [e for e in examples if e is not None]


def classified(batch: Sequence[Rendered], tokenizer: Any, block: int) -> list[Example]:
    """Tokenise texts that have a class, and put it where the tokenizer gives it a place.

    Args:
        batch: texts with their labels, none empty.
        tokenizer: a fast tokenizer.
        block: tokens of the longest example.
    """
    examples = []
    for rendered, (ids, truncated) in zip(batch, read_whole([r.content for r in batch], tokenizer, block), strict=True):
        assert rendered.label is not None
        labels = np.full(len(ids), NO_LOSS, dtype=np.int32)
        if ids:
            labels[0 if pools_first(tokenizer) else -1] = rendered.label
        nothing = np.zeros(len(ids), dtype=np.uint32)
        examples.append(Example(np.asarray(ids, dtype=np.int32), labels, nothing, 0, truncated))
    return examples


def read_whole(contents: Sequence[str], tokenizer: Any, longest: int) -> list[tuple[list[int], bool]]:
    """Token ids of texts or pairs as a classifier reads them, and whether the end of one was cut off.

    Args:
        contents: each as ``Rendered.content``.
        tokenizer: a fast tokenizer.
        longest: how many tokens are read; what the tokenizer adds stays.
    """
    found = []
    for content in contents:
        texts = content.split(PAIR, 1)
        settings = {"split_special_tokens": True, "verbose": False, "return_token_type_ids": False}
        ids = tokenizer(*texts, **settings)["input_ids"]
        truncated = len(ids) > longest
        if truncated:
            ids = tokenizer(*texts, truncation=True, max_length=longest, **settings)["input_ids"]
        found.append((ids, truncated))
    return found


def _example(
    rendered: Rendered, ids: list[int], offsets: list[tuple[int, int]], added: list[int], end: int, tokenizer: Any
) -> Example:
    text = rendered.text
    ids_L = np.asarray(ids, dtype=np.int64)
    start_L, stop_L = np.asarray(offsets, dtype=np.int64).reshape(-1, 2).T
    added_L = np.asarray(added, dtype=bool)
    # Tokens share out the characters: each has those up to its end that no token before it had. So what a normaliser
    # drops or an offset leaves out (trimmed spaces) goes to the next token, and a character split over tokens counts
    # once.
    stop_L = np.maximum.accumulate(np.where(added_L, 0, stop_L)) if len(ids) else stop_L
    own = np.flatnonzero(~added_L)
    if len(own):
        stop_L[own[-1] :] = len(text)
    before_L = np.concatenate([[0], stop_L[:-1]])
    at = _byte_positions(text)
    bytes_L = at[stop_L] - at[before_L] if at is not None else stop_L - before_L

    if rendered.loss_spans is None:
        loss_L, loss_at_end = np.ones(len(ids), dtype=bool), True
    else:
        # the pieces of a split character all lie in a span that holds the character
        first_L = np.where(added_L, before_L, np.minimum(start_L, before_L))
        loss_L = np.zeros(len(ids), dtype=bool)
        for a, b in rendered.loss_spans:
            loss_L |= (first_L < b) & (stop_L > a) & (first_L < stop_L)
        loss_at_end = bool(rendered.loss_spans) and rendered.loss_spans[-1][1] >= len(text)

    if not _ends(rendered, ids, end, tokenizer):
        ids_L, bytes_L, loss_L = np.append(ids_L, end), np.append(bytes_L, 0), np.append(loss_L, loss_at_end)
    elif added_L[-1]:  # the tokenizer's own end token
        loss_L[-1] = loss_at_end
    # The shift: from here on a position and its label have the same index.
    return Example(
        inputs=ids_L[:-1].astype(np.int32),
        labels=np.where(loss_L[1:], ids_L[1:], NO_LOSS).astype(np.int32),
        bytes=bytes_L[1:].astype(np.uint32),
        first_bytes=int(bytes_L[0]),
    )


def _ends(rendered: Rendered, ids: list[int], end: int, tokenizer: Any) -> bool:
    """Whether a text already ends with the end token."""
    if not ids:
        return False
    if not rendered.special:
        return ids[-1] == end
    return rendered.text.rstrip().endswith(tokenizer.convert_ids_to_tokens(end))


def _byte_positions(text: str) -> npt.NDArray[np.int64] | None:
    """Where each character (and the end) lies in the UTF-8 text; None if that is its index."""
    if text.isascii():
        return None
    code = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    width = 1 + (code >= 0x80).astype(np.int64) + (code >= 0x800) + (code >= 0x10000)
    return np.concatenate([[0], np.cumsum(width)])


def fit(example: Example, block: int) -> tuple[Example | None, bool]:
    """Make an example that cannot be cut into pieces fit a block.

    Returns:
        The example, None if its prompt alone fills a block; and whether its end was cut off.
    """
    if len(example.inputs) <= block:
        return example, False
    if not (example.labels[:block] != NO_LOSS).any():
        return None, False
    cut = Example(example.inputs[:block], example.labels[:block], example.bytes[:block], example.first_bytes)
    return cut, True
