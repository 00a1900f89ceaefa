"""A text with some of its words replaced by others of their kind."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from pydantic import Field

_WORD = re.compile(r"[^\W\d_]{2,}")
_AT_ONCE = 1024
"""Words whose neighbours are looked up at one time."""


def replace_words(
    texts: Sequence[str],
    *,
    model: str,
    share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.4,
    among: Annotated[int, Field(ge=1)] = 15,
) -> Callable[[str, random.Random], str]:
    """Each word, with some probability, becomes one of its nearest in a model's embedding (TinyBERT, arXiv:1909.10351, Alg. 1).

    The paper asks BERT's head for masked words in the sentence for words that are one token, and takes neighbours in GloVe
    for the others. Here no head is needed: neighbours are those of highest cosine in the embedding of the tokens, wherever
    the word stands, so they fit the sentence less well; words that are several tokens stay.

    Args:
        texts: all that will be asked for, to look their words up at once.
        model: whose embedding: a folder, pkg:NAME or a hub id; the teacher's, as a rule.
        share: probability that a word is replaced, p_t in the paper.
        among: neighbours to choose from, K in the paper.

    Returns:
        a text and where chance comes from → the text with words replaced. Words are runs of two letters or more.
    """
    near = _neighbours({word for text in texts for word in _WORD.findall(text)}, model, among)

    def make(text: str, draw: random.Random) -> str:
        def other(found: re.Match[str]) -> str:
            possible = near.get(found[0], ())
            replaced, place = draw.random() < share, draw.random()
            return possible[int(place * len(possible))] if replaced and possible else found[0]

        return _WORD.sub(other, text)

    return make


def _neighbours(words: set[str], model: str, among: int) -> dict[str, tuple[str, ...]]:
    """The nearest words of each word that is one token; none of the others."""
    import torch

    from stillhouse import models

    loaded = models.load(model, where="data.augment")
    known = _whole_words(loaded.tokenizer)
    single = {word: ids[0] for word, ids in _encoded(loaded.tokenizer, sorted(words)) if len(ids) == 1}
    single = {word: number for word, number in single.items() if number in known}
    if not single:
        return {}
    ids_C = torch.tensor(sorted(known))
    with torch.no_grad():
        table_VH = torch.nn.functional.normalize(loaded.network.get_input_embeddings().weight.float(), dim=-1)
        candidates_CH = table_VH[ids_C]
        found: dict[int, tuple[str, ...]] = {}
        asked = sorted(set(single.values()))
        for start in range(0, len(asked), _AT_ONCE):
            part = asked[start : start + _AT_ONCE]
            cosine_BC = table_VH[part] @ candidates_CH.T
            for number, row in zip(part, cosine_BC.topk(min(among + 1, len(ids_C))).indices.tolist(), strict=True):
                nearest = [int(ids_C[place]) for place in row]
                found[number] = tuple(known[n] for n in nearest if n != number)[:among]
    return {word: found[number] for word, number in single.items()}


def _whole_words(tokenizer: Any) -> dict[int, str]:
    """Token → word, of those that stand for a whole word of letters."""
    candidates = {
        word: number
        for token, number in tokenizer.get_vocab().items()
        if _WORD.fullmatch(word := token.lstrip("Ġ▁")) and number not in tokenizer.all_special_ids
    }
    return {ids[0]: word for word, ids in _encoded(tokenizer, sorted(candidates)) if len(ids) == 1}


def _encoded(tokenizer: Any, words: list[str]) -> list[tuple[str, list[int]]]:
    """Each word's tokens as they are inside a text."""
    settings = {"add_special_tokens": False, "verbose": False}
    ids = tokenizer([f" {word}" for word in words], **settings)["input_ids"] if words else []
    return list(zip(words, ids, strict=True))
