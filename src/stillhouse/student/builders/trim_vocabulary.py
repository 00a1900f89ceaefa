"""A student that knows only the tokens its domain uses."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field

from stillhouse.models import Model
from stillhouse.student.trim import Vocabulary, named_ids, trim_network, trim_tokenizer


def trim_vocabulary(
    teacher: Model,
    sample: Callable[[], list[str]],
    *,
    size: Annotated[int, Field(gt=0)],
    characters: Literal["all", "seen"] = "all",
) -> Model:
    """The teacher with only the tokens that its domain uses; any text can still be said, in more tokens where it is another.

    Bytes (or single characters) and special tokens are always kept; of the others those that save the most tokens on the
    sample, each with the parts that it is merged of. See docs/trimmed_vocabularies.md.

    Args:
        teacher: what to cut.
        sample: gives texts of the domain; not asked where there are no weights: then only the sizes are right.
        size: how many tokens to keep.
        characters: ``all`` can still be said; or only those ``seen`` in the sample, for a tokenizer that has a token for the
            unknown: of BERT's word pieces, 1,994 are single characters, nearly all of other scripts.

    """
    rows = teacher.network.get_input_embeddings().weight.shape[0]
    empty = next(teacher.parameters()).is_meta
    vocabulary = Vocabulary.of(teacher.tokenizer, rows, named_ids(teacher.network))
    if characters == "all":
        vocabulary.check(size)  # before any text is read
    texts = [] if empty else sample()
    if characters == "seen":
        vocabulary = vocabulary.without_unseen(teacher.tokenizer, texts)
        vocabulary.check(size)
    counts = Counter() if empty else vocabulary.count(teacher.tokenizer, texts)
    keep_V = vocabulary.choose(counts, size)
    network = copy.deepcopy(teacher.network)
    trim_network(network, keep_V)
    student = Model(network, trim_tokenizer(teacher.tokenizer, keep_V), f"{teacher.name}-{size}-tokens")
    return student.requires_grad_(True)
