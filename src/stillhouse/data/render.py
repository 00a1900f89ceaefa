"""From text to inputs and labels: tokenised once, shifted once; here and nowhere else.

A format turns a record into ``Rendered``: one text and the spans of it that carry loss. This module tokenises the text
whole, so no token depends on where a format thought a border was, and finds the tokens of a span by their offsets. A text
with a class has its one label where its tokenizer gives a class a place, and no shift.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from stillhouse.errors import DataError, did_you_mean, fail
from stillhouse.vocabulary import encode, must_be_fast, pools_first

Ints = npt.NDArray[np.int64]

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


@dataclass(frozen=True)
class Examples(Sequence[Example]):
    """Examples one after another.

    Args:
        inputs_P: of all of them, as ``Example.inputs``.
        labels_P: likewise.
        bytes_P: likewise.
        borders_D1: where each begins, and the end.
        first_bytes_D: of each.
        truncated_D: of each.
    """

    inputs_P: npt.NDArray[np.int32]
    labels_P: npt.NDArray[np.int32]
    bytes_P: npt.NDArray[np.uint32]
    borders_D1: Ints
    first_bytes_D: npt.NDArray[np.uint32]
    truncated_D: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.truncated_D)

    def __getitem__(self, d: Any) -> Any:
        """One of them, the arrays being views."""
        if not 0 <= d < len(self):
            raise IndexError(d)
        mine = slice(self.borders_D1[d], self.borders_D1[d + 1])
        arrays = self.inputs_P[mine], self.labels_P[mine], self.bytes_P[mine]
        return Example(*arrays, int(self.first_bytes_D[d]), bool(self.truncated_D[d]))


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


def tokenise(batch: Sequence[Rendered], tokenizer: Any, end: int) -> Examples:
    """Tokenise texts, append the end token, shift, and find which labels carry loss.

    A label carries loss if any character of it lies in a span. The end token does if the text's last character does. It
    is not appended where a text already ends with it (white space aside), as many chat templates do.

    Args:
        batch: texts, none empty.
        tokenizer: a fast tokenizer.
        end: the end token's id.
    """
    ids: list[list[int]] = [[]] * len(batch)
    offsets: list[list[tuple[int, int]]] = [[]] * len(batch)
    added: list[list[int]] = [[]] * len(batch)
    for special in (False, True):
        rows = [i for i, r in enumerate(batch) if r.special is special]
        if rows:
            encoded = encode(tokenizer, [batch[i].text for i in rows], special=special)
            for whole, name in ((ids, "input_ids"), (offsets, "offset_mapping"), (added, "special_tokens_mask")):
                for i, found in zip(rows, encoded[name], strict=True):
                    whole[i] = found
    count_D = np.fromiter(map(len, ids), np.int64, len(ids))
    total = int(count_D.sum())
    offsets_P2 = np.fromiter(chain.from_iterable(chain.from_iterable(offsets)), np.int64, 2 * total).reshape(-1, 2)
    return _shifted(
        batch,
        np.fromiter(chain.from_iterable(ids), np.int64, total),
        offsets_P2,
        np.fromiter(chain.from_iterable(added), np.bool_, total),
        _borders(count_D),
        end,
        tokenizer,
    )


def classified(batch: Sequence[Rendered], tokenizer: Any, block: int) -> Examples:
    """Tokenise texts that have a class, and put it where the tokenizer gives it a place.

    Args:
        batch: texts with their labels, none empty.
        tokenizer: a fast tokenizer.
        block: tokens of the longest example.
    """
    read = read_whole([r.content for r in batch], tokenizer, block)
    borders_D1 = _borders(np.array([len(ids) for ids, _ in read], dtype=np.int64))
    labels_P = np.full(borders_D1[-1], NO_LOSS, dtype=np.int32)
    for d, rendered in enumerate(batch):
        assert rendered.label is not None
        if read[d][0]:
            labels_P[borders_D1[d] if pools_first(tokenizer) else borders_D1[d + 1] - 1] = rendered.label
    return Examples(
        inputs_P=np.fromiter(chain.from_iterable(ids for ids, _ in read), np.int32, len(labels_P)),
        labels_P=labels_P,
        bytes_P=np.zeros(len(labels_P), dtype=np.uint32),
        borders_D1=borders_D1,
        first_bytes_D=np.zeros(len(batch), dtype=np.uint32),
        truncated_D=np.array([truncated for _, truncated in read], dtype=bool),
    )


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


def _shifted(
    batch: Sequence[Rendered],
    ids_P: Ints,
    offsets_P2: Ints,
    added_P: npt.NDArray[np.bool_],
    borders_D1: Ints,
    end: int,
    tokenizer: Any,
) -> Examples:
    """Texts as their tokenizer cut them → examples; all texts at once, since most are short.

    Args:
        batch: the texts.
        ids_P: their tokens, one text after another.
        offsets_P2: first character of each token in its text, and the one after its last.
        added_P: which tokens stand for no text.
        borders_D1: where each text begins among the tokens, and the end.
        end: the end token's id.
        tokenizer: whose tokens they are.
    """
    count_D = np.diff(borders_D1)
    document_P = np.repeat(np.arange(len(batch)), count_D)
    # characters of all texts in one row, with a place between two texts that belongs to neither
    length_D = np.fromiter((len(each.text) for each in batch), np.int64, len(batch))
    base_D = _borders(length_D + 1)[:-1]
    base_P = base_D[document_P]
    # Tokens share out the characters: each has those up to its end that no token before it had. So what a normaliser
    # drops or an offset leaves out (trimmed spaces) goes to the next token, and a character split over tokens counts
    # once.
    stop_P = np.maximum.accumulate(np.where(added_P, 0, offsets_P2[:, 1]) + base_P)
    # the last token that stands for text has what is left of it
    own = np.flatnonzero(~added_P)
    last_D = np.concatenate([[-1], own])[np.searchsorted(own, borders_D1[1:])]
    last_D = np.where(last_D < borders_D1[:-1], len(ids_P), last_D)
    stop_P = np.where(np.arange(len(ids_P)) >= last_D[document_P], base_P + length_D[document_P], stop_P)
    before_P = np.concatenate([[0], stop_P[:-1]])
    begins_D = borders_D1[:-1][count_D > 0]
    before_P[begins_D] = base_P[begins_D]
    at = _byte_positions("\0".join(each.text for each in batch))
    bytes_P = stop_P - before_P if at is None else at[stop_P] - at[before_P]

    loss_P, loss_at_end_D = np.ones(len(ids_P), dtype=bool), np.ones(len(batch), dtype=bool)
    for d, each in enumerate(batch):
        if each.loss_spans is not None:
            mine = slice(borders_D1[d], borders_D1[d + 1])
            stop_L, before_L = stop_P[mine] - base_D[d], before_P[mine] - base_D[d]
            # the pieces of a split character all lie in a span that holds the character
            first_L = np.where(added_P[mine], before_L, np.minimum(offsets_P2[mine, 0], before_L))
            loss_P[mine] = False
            for a, b in each.loss_spans:
                loss_P[mine] |= (first_L < b) & (stop_L > a) & (first_L < stop_L)
            loss_at_end_D[d] = bool(each.loss_spans) and each.loss_spans[-1][1] >= len(each.text)

    finals = [int(ids_P[stop - 1]) if count else None for count, stop in zip(count_D, borders_D1[1:], strict=True)]
    ends_D = np.array([_ends(*each, end, tokenizer) for each in zip(batch, finals, strict=True)], dtype=bool)
    own_end = (borders_D1[1:] - 1)[
        ends_D
    ]  # where the end token is the tokenizer's own, the text says whether it carries loss
    loss_P[own_end] = np.where(added_P[own_end], loss_at_end_D[ends_D], loss_P[own_end])
    # put the end token behind the others
    borders_out_D1 = _borders(count_D + ~ends_D)
    to_P = np.arange(len(ids_P)) + (borders_out_D1[:-1] - borders_D1[:-1])[document_P]
    final_D = borders_out_D1[1:] - 1
    ids_Q = np.full(int(borders_out_D1[-1]), end, dtype=np.int32)
    bytes_Q, loss_Q = np.zeros(len(ids_Q), dtype=np.uint32), np.zeros(len(ids_Q), dtype=bool)
    loss_Q[final_D] = loss_at_end_D
    ids_Q[to_P], bytes_Q[to_P], loss_Q[to_P] = ids_P, bytes_P, loss_P
    # The shift: from here on a position and its label have the same index.
    read_Q, said_Q = np.ones(len(ids_Q), dtype=bool), np.ones(len(ids_Q), dtype=bool)
    read_Q[final_D] = said_Q[borders_out_D1[:-1]] = False
    return Examples(
        inputs_P=ids_Q[read_Q],
        labels_P=np.where(loss_Q, ids_Q, np.int32(NO_LOSS))[said_Q],
        bytes_P=bytes_Q[said_Q],
        borders_D1=borders_out_D1 - np.arange(len(batch) + 1),
        first_bytes_D=bytes_Q[borders_out_D1[:-1]],
        truncated_D=np.zeros(len(batch), dtype=bool),
    )


def _borders(length_D: Ints) -> Ints:
    """Where each of several things one after another begins, and the end."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(length_D, dtype=np.int64)])


def _ends(rendered: Rendered, final: int | None, end: int, tokenizer: Any) -> bool:
    """Whether a text, whose last token is given, already ends with the end token."""
    if final is None or not rendered.special:
        return final == end
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
