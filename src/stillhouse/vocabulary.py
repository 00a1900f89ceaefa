"""What token ids mean: the bytes of each token, two vocabularies compared by them, and where tokens lie in a text.

Ids and sizes say nothing: vocabularies of one size may number their tokens differently, and ``Ġthe``, ``▁the`` and the ``the``
of a word list are one and the same piece of text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from stillhouse.errors import ModelError, fail

_Ints = npt.NDArray[np.int64]

Content = bytes | str | None
"""What a token stands for: its bytes; for a special token its name; None for an id that no token has."""


@dataclass(frozen=True)
class Comparison:
    """How the ids of two vocabularies relate.

    Args:
        kind: ``same``: every id means the same. ``padded``: so does every id that both have, and one has more.
            ``permuted``: the same tokens under other ids. ``different``: other tokens.
        student: ids of the student.
        teacher: ids of the teacher.
        shared: how many ids from 0 on mean the same in both.
        example: the first id that does not, and what it means in each; "" if there is none.
    """

    kind: Literal["same", "padded", "permuted", "different"]
    student: int
    teacher: int
    shared: int
    example: str = ""

    @property
    def comparable(self) -> bool:
        """Whether distributions can be compared id by id, on the ids that both have."""
        return self.kind in ("same", "padded")


def fingerprint(tokenizer: Any) -> str:
    """A hash of what a tokenizer does: vocabulary, rules, special tokens and chat template, not its name or size."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    for state in ("truncation", "padding"):  # of its last call, not of the tokenizer
        content.pop(state, None)
    parts = [content, tokenizer.chat_template, dict(tokenizer.special_tokens_map)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode("utf-8", "surrogatepass")).hexdigest()


def compare_vocabularies(student_tokenizer: Any, teacher_tokenizer: Any) -> Comparison:
    """Compare two vocabularies id by id, by what the tokens stand for and never by size.

    Args:
        student_tokenizer: a fast tokenizer of transformers.
        teacher_tokenizer: another.
    """
    ours = contents(student_tokenizer)
    theirs = ours if teacher_tokenizer is student_tokenizer else contents(teacher_tokenizer)
    both = min(len(ours), len(theirs))
    shared = next((i for i in range(both) if ours[i] != theirs[i]), both)
    if shared == both:
        return Comparison("same" if len(ours) == len(theirs) else "padded", len(ours), len(theirs), shared)
    example = f"id {shared} is {ours[shared]!r} for the student and {theirs[shared]!r} for the teacher"
    permuted = sorted(map(repr, ours)) == sorted(map(repr, theirs))
    return Comparison("permuted" if permuted else "different", len(ours), len(theirs), shared, example)


def pools_first(tokenizer: Any) -> bool:
    """Whether a classifier reads what it says of a text off its first token, made for that, and not off its last."""
    return tokenizer.cls_token_id is not None


def shared_ids(student_tokenizer: Any, teacher_tokenizer: Any) -> tuple[_Ints, _Ints]:
    """Ids of the tokens with equal bytes in both vocabularies: the student's [M], rising, and the teacher's [M].

    Special tokens are no text and are left out. Of several tokens with the same bytes the first counts.
    """
    ours, theirs = (_first(contents(tokenizer)) for tokenizer in (student_tokenizer, teacher_tokenizer))
    pairs = sorted((number, theirs[content]) for content, number in ours.items() if content in theirs)
    ids_M2 = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    return ids_M2[:, 0], ids_M2[:, 1]


def _first(meaning: list[Content]) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    for number, content in enumerate(meaning):
        if isinstance(content, bytes) and content:
            found.setdefault(content, number)
    return found


def must_be_fast(tokenizer: Any, where: str = "tokenizer") -> None:
    """Refuse a tokenizer that works in Python alone: it keeps no offsets and no rules that could be read.

    Args:
        tokenizer: of transformers.
        where: what the message names.

    Raises:
        ModelError: the tokenizer is not a fast one.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise fail(
            ModelError,
            where,
            f"{type(tokenizer).__name__} cannot say which characters a token stands for",
            "Use a model whose folder has a tokenizer.json.",
        )


def contents(tokenizer: Any) -> list[Content]:
    """What each id from 0 on stands for.

    Bytes of the text that a token adds inside a text. Where a tokenizer cuts at spaces and drops them, a token that begins
    a word stands for the space before it too, as ``Ġthe`` does: ``the`` for " the", ``##ing`` for "ing"; signs stand alone.

    Args:
        tokenizer: a fast tokenizer of transformers.

    Raises:
        ModelError: the tokenizer is not a fast one.
    """
    must_be_fast(tokenizer)
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    parts = {each["type"] for name in ("normalizer", "pre_tokenizer", "decoder") for each in _steps(rules[name])}
    continuing = rules["model"].get("continuing_subword_prefix") if rules["model"]["type"] == "WordPiece" else None
    special = {each.content for each in tokenizer.added_tokens_decoder.values() if each.special}
    added = {each.content for each in tokenizer.added_tokens_decoder.values()}
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    meaning: list[Content] = [None] * (max(vocabulary.values(), default=-1) + 1)
    for token, number in vocabulary.items():
        if token in special:
            meaning[number] = token
        elif token in added:
            meaning[number] = token.encode()
        elif "ByteLevel" in parts:
            meaning[number] = _of_byte_level(token)
        elif "Metaspace" in parts or "ByteFallback" in parts or "▁" in str(rules["decoder"]):
            meaning[number] = _of_metaspace(token)
        elif continuing and token.startswith(continuing) and token != continuing:
            meaning[number] = token[len(continuing) :].encode()
        elif parts & {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"} and token[:1].isalnum():
            meaning[number] = b" " + token.encode()
        else:
            meaning[number] = token.encode("utf-8", "surrogatepass")
    return meaning


def _steps(step: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """A tokenizer's processing step, or those that a sequence is made of."""
    if step is None:
        return
    inner = [part for name in ("normalizers", "pretokenizers", "decoders") for part in step.get(name, [])]
    yield step
    for part in inner:
        yield from _steps(part)


@cache
def _byte_of_character() -> dict[str, int]:
    """The 256 visible characters that byte-level tokenizers write bytes as (GPT-2): printable ones as they are, others moved."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(moved)}


def _of_byte_level(token: str) -> bytes:
    table = _byte_of_character()
    if all(character in table for character in token):
        return bytes(table[character] for character in token)
    return token.encode("utf-8", "surrogatepass")


def _of_metaspace(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace("▁", " ").encode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class Tokens:
    """A text as tokens.

    Args:
        ids_L: their ids.
        borders_L1: bytes of the text where each begins, and the text's end: token l has ``borders_L1[l]:borders_L1[l + 1]``.
            Nothing, for a token that is no text.
        text: bytes of the whole text.
    """

    ids_L: _Ints
    borders_L1: _Ints
    text: int


def encode(tokenizer: Any, text: str | list[str], *, special: bool) -> Any:
    """Tokenise, whole, with the offset of each token and whether it was added.

    Args:
        tokenizer: a fast tokenizer.
        text: a text, or several.
        special: the text brings its own special tokens: they are read as such and none is added. If not, the text is data, and
            the tokenizer adds what it always adds.

    Returns:
        what transformers gives: input_ids, offset_mapping, special_tokens_mask.
    """
    return tokenizer(
        text,
        add_special_tokens=not special,
        split_special_tokens=not special,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        truncation=False,
        padding=False,
        verbose=False,
    )


def locate(tokenizer: Any, text: str, meaning: list[Content], *, special: bool = False) -> Tokens:
    """Tokenise a text and say which bytes of it each token adds.

    Where the tokens' own bytes make up the text, these lengths hold, even for the parts of a split character. Else the tokens
    share out the characters: each has those up to its end that no token before it had, so that what a normaliser drops (the
    spaces of a word list) goes to the next token.

    Args:
        tokenizer: a fast tokenizer.
        text: the text.
        meaning: the ``contents`` of the tokenizer.
        special: the text brings its own special tokens: they are read as such and none is added.
    """
    encoded = encode(tokenizer, text, special=special)
    ids_L = np.asarray(encoded["input_ids"], dtype=np.int64)
    # A special token that the text brings has characters; one that the tokenizer adds has none.
    stop_L = np.asarray(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)[:, 1]
    own_L = ~np.asarray(encoded["special_tokens_mask"], dtype=bool) | (stop_L > 0)
    own = [_as_bytes(meaning[i]) if mine else b"" for i, mine in zip(ids_L.tolist(), own_L.tolist(), strict=True)]
    raw = text.encode()
    if b"".join(own) == raw:
        stop_L = np.cumsum([len(part) for part in own], dtype=np.int64)
    else:
        stop_L = np.maximum.accumulate(np.where(own_L, stop_L, 0)) if len(ids_L) else stop_L
        stop_L = _bytes_before(text)[stop_L]
        last = np.flatnonzero(own_L)
        if len(last):
            stop_L[last[-1] :] = len(raw)
    return Tokens(ids_L, np.concatenate([[0], stop_L]).astype(np.int64), len(raw))


def _as_bytes(content: Content) -> bytes:
    return content.encode() if isinstance(content, str) else content or b""


def _bytes_before(text: str) -> _Ints:
    """UTF-8 bytes before each character, and of all."""
    return np.cumsum([0, *(len(character.encode()) for character in text)], dtype=np.int64)
