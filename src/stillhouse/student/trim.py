"""A vocabulary with only some of its tokens: which to keep, the tokenizer without the others, and the rows that go with them.

A tokenizer is edited as the JSON that it is saved as, so that what is kept of it stays as it was: normaliser, cutting into
words, template, special tokens and chat template. Kept tokens keep their order and are numbered anew from 0.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel

from stillhouse.errors import ModelError, fail
from stillhouse.vocabulary import must_be_fast

_Ints = npt.NDArray[np.int64]

KINDS = ("BPE", "WordPiece", "Unigram")
"""Tokenizers that go on without a part of their tokens. A list of words does not: what is missing there cannot be said."""

_SPACE = "▁"
"""What stands for a space where text is not read as bytes."""

_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")
"""What a fast tokenizer is loaded from; a list of its words beside them would be the untrimmed one."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a tokenizer, as far as trimming must know them.

    Args:
        ids: token → id, of all that have a row.
        always: ids that are never dropped.
        made_of: of a token that is merged, the two that it is merged of; its own id if none.
        rank: of a token, a number not below those of the tokens that it is made of: earlier merges first, else the id.

    """

    ids: dict[str, int]
    always: frozenset[int]
    made_of: dict[int, tuple[int, int]]
    rank: dict[int, int]

    @classmethod
    def of(cls, tokenizer: Any, rows: int, named: Iterable[int] = ()) -> Vocabulary:
        """Look at a tokenizer.

        Args:
            tokenizer: a fast tokenizer of transformers.
            rows: of the embedding: tokens beyond have none and are no outcomes.
            named: ids that the model's configuration names, to be kept.

        Raises:
            ModelError: tokens cannot be taken from such a tokenizer.

        """
        rules = _rules(tokenizer)
        model = rules["model"]
        all_ids: dict[str, int] = tokenizer.get_vocab()
        ids = {token: number for token, number in all_ids.items() if number < rows}
        kept = {each["content"] for each in rules["added_tokens"]} | set(tokenizer.all_special_tokens)
        kept |= _base(model, ids)
        always = {ids[token] for token in kept if token in ids} | set(named) & set(ids.values())
        made_of, rank = _merged(model, ids) if model["type"] == "BPE" else ({}, {n: n for n in ids.values()})
        return cls(ids, frozenset(_closed(always, made_of)), made_of, rank)

    def without_unseen(self, tokenizer: Any, texts: Sequence[str]) -> Vocabulary:
        """The same, with single characters kept only where they come in texts: the others become the unknown token.

        Args:
            tokenizer: the one that this is the vocabulary of.
            texts: of the domain.

        Raises:
            ModelError: it has no token for the unknown that stands for what it cannot say.

        """
        rules = _rules(tokenizer)
        if rules["model"]["type"] != "WordPiece":
            what = f"a tokenizer of the kind {rules['model']['type']} says all text in its bytes or characters"
            raise fail(ModelError, "student.characters", what, "Leave characters out.")
        prefix = str(rules["model"]["continuing_subword_prefix"])
        normaliser = tokenizer.backend_tokenizer.normalizer
        seen = {letter for text in texts for letter in (normaliser.normalize_str(text) if normaliser else text)}
        single = {
            number: name for token, number in self.ids.items() if len(name := token.removeprefix(prefix) or token) == 1
        }
        always = frozenset(number for number in self.always if number not in single or single[number] in seen)
        return replace(self, always=always)

    def count(self, tokenizer: Any, texts: Sequence[str]) -> Counter[int]:
        """How often each token is used in texts; in a merging tokenizer, how often it is merged.

        A token of length n is made by n − 1 merges, each of which makes a token that is counted too.

        Args:
            tokenizer: the one that this is the vocabulary of.
            texts: of the domain.

        """
        counts: Counter[int] = Counter()
        if texts:
            encoded = tokenizer(list(texts), add_special_tokens=False, truncation=False, padding=False, verbose=False)
            for row in encoded["input_ids"]:
                counts.update(row)
        length = {number: len(token) for token, number in self.ids.items()}
        for number in sorted(self.made_of, key=lambda n: -length[n]):  # the longest first: parts are shorter
            for part in self.made_of[number]:
                counts[part] += counts[number]
        return counts

    def choose(self, counts: Counter[int], size: int) -> _Ints:
        """The tokens to keep, rising.

        Every merge that happens saves one token of the text. So the best set of merges that holds with each the merges it is
        made of is that of those which happen most often: a part of a token happens at least as often as the token.

        Args:
            counts: how often each is used.
            size: how many to keep.

        Raises:
            ModelError: it is too small for what must be kept, or larger than what there is.

        """
        self.check(size)
        length = {number: len(token) for token, number in self.ids.items()}
        order = sorted(
            set(length) - self.always, key=lambda n: (-counts[n], self.rank.get(n, len(length)), length[n], n)
        )
        return np.asarray(sorted([*self.always, *order[: size - len(self.always)]]), dtype=np.int64)

    def check(self, size: int) -> None:
        """Refuse a size that cannot be.

        Raises:
            ModelError: it is too small for what must be kept, or larger than what there is.

        """
        smallest, largest = len(self.always), len(self.ids)
        if not smallest <= size <= largest:
            small = (
                f"cannot hold the {smallest:,} tokens without which some text could not be said (bytes, special tokens)"
            )
            what = small if size < smallest else f"is more than the {largest:,} tokens that there are"
            raise fail(
                ModelError, "student.size", f"{size:,} {what}", f"Give a number from {smallest:,} to {largest:,}."
            )


def _rules(tokenizer: Any) -> dict[str, Any]:
    """A tokenizer as JSON.

    Raises:
        ModelError: tokens cannot be taken from it.

    """
    must_be_fast(tokenizer, "student")
    rules: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    model = rules["model"]
    marked = model["type"] == "BPE" and (model["continuing_subword_prefix"] or model["end_of_word_suffix"])
    if model["type"] not in KINDS or marked:
        kind = "BPE with marked word borders" if marked else model["type"]
        what = f"its tokenizer is of the kind {kind}, of which no tokens can be dropped here"
        raise fail(ModelError, "student", what, f"Known: {', '.join(KINDS)}. Keep the vocabulary with this teacher.")
    return rules


def _base(model: dict[str, Any], ids: dict[str, int]) -> set[str]:
    """Tokens without which some text could not be said that can be said now: bytes, else single characters; and what stands
    for the unknown.
    """
    kept = {str(model["unk_token"])} if model.get("unk_token") is not None else set()
    if model.get("unk_id") is not None:
        kept.add(model["vocab"][model["unk_id"]][0])
    kept.add(_SPACE)
    bytes_ = {f"<0x{byte:02X}>" for byte in range(256)}
    if model.get("byte_fallback") and bytes_ <= ids.keys():
        return kept | bytes_
    prefix = str(model.get("continuing_subword_prefix") or "")
    for token in ids:
        text = token.removeprefix(prefix) or token
        first = prefix if text != token else ""
        alone = {first + text[0], *(prefix + character for character in text[1:])}
        # a character that is there only inside longer tokens keeps them all
        kept |= {token} if len(text) == 1 or not alone <= ids.keys() else set()
    return kept


def _merged(model: dict[str, Any], ids: dict[str, int]) -> tuple[dict[int, tuple[int, int]], dict[int, int]]:
    """What each token is merged of, and its rank.

    Several merges may give the same token. The one that happens is the last of those that merge the token's own characters;
    what is merged around it in a text changes nothing about that, since no merge crosses the border of a final token.
    """
    ranks: dict[tuple[str, str], int] = {(left, right): rank for rank, (left, right) in enumerate(model["merges"])}
    ways: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for both in ranks:
        ways["".join(both)].append(both)
    made_of: dict[int, tuple[int, int]] = {}
    rank: dict[int, int] = {}
    for token in sorted(ids, key=lambda token: (len(token), ids[token])):
        pairs = ways.get(token, [])
        pair = _last_merge(token, ranks) if len(pairs) > 1 else next(iter(pairs), None)
        if pair is None or not set(pair) <= ids.keys():
            rank[ids[token]] = -1 if len(token) == 1 else len(ranks)
            continue
        parts = (ids[pair[0]], ids[pair[1]])
        made_of[ids[token]] = parts
        rank[ids[token]] = max(ranks[pair], rank[parts[0]], rank[parts[1]])
    return made_of, rank


def _last_merge(token: str, ranks: dict[tuple[str, str], int]) -> tuple[str, str] | None:
    """The merge that completes a token, its characters merged by rank; None if they end as something else."""
    parts = list(token)
    pair = None
    while len(parts) > 1:
        first, at = min((ranks.get(each, len(ranks)), i) for i, each in enumerate(pairwise(parts)))
        if first == len(ranks):
            return None
        pair = (parts[at], parts[at + 1])
        parts[at : at + 2] = ["".join(pair)]
    return pair


def _closed(ids: Iterable[int], made_of: dict[int, tuple[int, int]]) -> set[int]:
    """The ids with all that they are made of."""
    found: set[int] = set()
    waiting = list(ids)
    while waiting:
        number = waiting.pop()
        if number not in found:
            found.add(number)
            waiting += made_of.get(number, ())
    return found


# -- the tokenizer ------------------------------------------------------------------------------------------------------


def trim_tokenizer(tokenizer: Any, keep_V: _Ints) -> Any:
    """A tokenizer with only these tokens, the i-th of which has the id i.

    Args:
        tokenizer: a fast tokenizer of transformers.
        keep_V: ids to keep, rising.

    Raises:
        ModelError: tokens cannot be taken from it, or it comes out as another than it should.

    """
    rules = _rules(tokenizer)
    names = {number: token for token, number in tokenizer.get_vocab().items()}
    kept = [names[number] for number in keep_V.tolist()]
    new = {token: number for number, token in enumerate(kept)}
    _trim_rules(rules, new)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tokenizer.save_pretrained(folder)
        for file in folder.iterdir():
            if file.name not in _FILES:
                file.unlink()
        (folder / "tokenizer.json").write_text(json.dumps(rules, ensure_ascii=False), encoding="utf-8")
        trimmed = AutoTokenizer.from_pretrained(folder)
    trimmed.name_or_path = tokenizer.name_or_path
    if trimmed.get_vocab() != new:
        differ = sorted(set(trimmed.get_vocab().items()) ^ set(new.items()), key=lambda each: each[1])
        what = f"its tokenizer cannot be trimmed: {differ[0][0]!r} would not be the token {differ[0][1]}"
        raise fail(ModelError, "student", what, "Keep the vocabulary with this teacher.")
    return trimmed


def _trim_rules(rules: dict[str, Any], new: dict[str, int]) -> None:
    """Take all but the new tokens from a tokenizer's JSON."""
    model = rules["model"]
    if model["type"] == "Unigram":
        unknown = None if model["unk_id"] is None else model["vocab"][model["unk_id"]][0]
        model["vocab"] = [[token, score] for token, score in model["vocab"] if token in new]
        model["unk_id"] = None if unknown is None else new[unknown]
    else:
        model["vocab"] = {token: new[token] for token in sorted(model["vocab"], key=model["vocab"].get) if token in new}
    if "merges" in model:
        model["merges"] = [pair for pair in model["merges"] if {*pair, "".join(pair)} <= new.keys()]
    rules["added_tokens"] = [
        each | {"id": new[each["content"]]} for each in rules["added_tokens"] if each["content"] in new
    ]
    if rules["padding"] is not None:
        rules["padding"]["pad_id"] = new[rules["padding"]["pad_token"]]
    _renumber(rules["post_processor"], new)


def _renumber(step: dict[str, Any] | None, new: dict[str, int]) -> None:
    """New ids for the special tokens that a tokenizer adds around a text."""
    if step is None:
        return
    for inner in step.get("processors", []):
        _renumber(inner, new)
    if step["type"] == "TemplateProcessing":
        for each in step["special_tokens"].values():
            each["ids"] = [new[token] for token in each["tokens"]]
    for name in ("sep", "cls"):  # a pair of token and id
        if name in step:
            step[name] = [step[name][0], new[step[name][0]]]


# -- the network --------------------------------------------------------------------------------------------------------

_LISTS = ("suppress_tokens", "begin_suppress_tokens")


def named_ids(network: PreTrainedModel) -> set[int]:
    """All token ids that a network's configurations name."""
    return {n for _, _, ids in _named(network) for n in ids if n >= 0}


def _named(network: PreTrainedModel) -> list[tuple[Any, str, list[int]]]:
    """Where a network's configurations name token ids: the configuration, its key, the ids."""
    found = []
    for config in (network.config, getattr(network, "generation_config", None)):
        for key, value in vars(config).items() if config is not None else ():
            listed = value if isinstance(value, list) else [value]
            if (key.endswith(("token_id", "token_ids")) or key in _LISTS) and all(type(n) is int for n in listed):
                found.append((config, key, listed))
    return found


def trim_network(network: PreTrainedModel, keep_V: _Ints) -> None:
    """Cut the rows of embedding and head to those kept, in place, and number the tokens anew in the configurations.

    What was one matrix before is one after. On the meta device only shapes are cut.

    Args:
        network: a copy of the teacher's.
        keep_V: ids to keep, rising.

    """
    embedding, head = network.get_input_embeddings(), network.get_output_embeddings()
    whole = [embedding.weight] + ([head.weight, head.bias] if isinstance(head, nn.Linear) else [])
    cut = {id(each): _rows(each, keep_V) for each in whole if each is not None}
    new = {old: number for number, old in enumerate(keep_V.tolist())}
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in cut:
                setattr(module, name, cut[id(parameter)])
        if isinstance(module, nn.Embedding) and id(module.weight) in {id(each) for each in cut.values()}:
            module.num_embeddings = len(keep_V)
            module.padding_idx = None if module.padding_idx is None else new.get(module.padding_idx)
        if module is head:
            head.out_features = len(keep_V)
        if isinstance(vars(module).get("vocab_size"), int):
            module.vocab_size = len(keep_V)
    network.config.get_text_config().vocab_size = len(keep_V)
    for config, key, ids in _named(network):
        mapped = [new.get(n, n) for n in ids if n in new or n < 0]
        setattr(config, key, mapped if isinstance(getattr(config, key), list) else next(iter(mapped), None))


def _rows(parameter: nn.Parameter, keep_V: _Ints) -> nn.Parameter:
    """The rows of a parameter that are kept."""
    if parameter.is_meta:
        data = parameter.new_empty((len(keep_V), *parameter.shape[1:]))
    else:
        data = parameter.detach()[torch.from_numpy(keep_V).to(parameter.device)]
    return nn.Parameter(data, requires_grad=parameter.requires_grad)
