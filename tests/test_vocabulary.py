"""Vocabularies are compared by what their tokens stand for."""

from __future__ import annotations

import json

import pytest
from shared import make_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from stillhouse.errors import ModelError
from stillhouse.vocabulary import compare_vocabularies, contents, locate, shared_ids


def renumbered(tokenizer: PreTrainedTokenizerFast, number) -> PreTrainedTokenizerFast:
    """The same tokens and rules, with other ids for those that are not special."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    special = {each["id"] for each in rules["added_tokens"]}
    vocabulary = rules["model"]["vocab"]
    rules["model"]["vocab"] = {t: i if i in special else number(i, len(vocabulary)) for t, i in vocabulary.items()}
    inner = Tokenizer.from_str(json.dumps(rules))
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|endoftext|>")


def sentencepiece(tokens: list[str]) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, [], byte_fallback=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=inner)


def words(tokens: list[str]) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.add_special_tokens(["[UNK]"])
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]")


def byte_level(tokens: list[str]) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=inner)


def test_equal_vocabularies_are_the_same():
    found = compare_vocabularies(make_tokenizer(), make_tokenizer())
    assert (found.kind, found.shared, found.example) == ("same", 320, "")
    assert found.comparable


@pytest.mark.parametrize("swap", [False, True])
def test_a_longer_one_with_the_same_beginning_is_padded(swap: bool):
    short, long = make_tokenizer(), make_tokenizer()
    long.add_tokens([AddedToken("<|tool|>", special=True), "wörter"])
    found = compare_vocabularies(*((long, short) if swap else (short, long)))
    assert found.kind == "padded"
    assert found.shared == 320
    assert {found.student, found.teacher} == {320, 322}


def test_the_same_tokens_under_other_ids_are_permuted_and_seen_by_content():
    """Equal sizes, equal sets of strings: only a look at each id sees it."""
    one = make_tokenizer()
    other = renumbered(one, lambda i, n: n - 1 - (i - 3))
    assert len(one) == len(other)
    assert one.get_vocab().keys() == other.get_vocab().keys()
    found = compare_vocabularies(one, other)
    assert found.kind == "permuted"
    assert not found.comparable
    assert found.shared == 3
    assert "id 3 is" in found.example


def test_two_ids_swapped_are_enough():
    swapped = renumbered(make_tokenizer(), lambda i, n: {200: 201, 201: 200}.get(i, i))
    found = compare_vocabularies(make_tokenizer(), swapped)
    assert (found.kind, found.shared) == ("permuted", 200)


def test_equal_sizes_with_other_tokens_are_different():
    found = compare_vocabularies(byte_level(["a", "b", "c"]), byte_level(["a", "b", "d"]))
    assert (found.kind, found.shared) == ("different", 2)


def test_a_space_is_a_space_however_it_is_written():
    gpt = byte_level(["Ġthe", "ing", "Ã©", "Ġ", "."])
    llama = sentencepiece(["▁the", "ing", "é", "▁", "."])
    bert = words(["the", "##ing", "##é", "[UNK]", "."])
    assert contents(gpt) == [b" the", b"ing", "é".encode(), b" ", b"."]
    assert contents(llama) == contents(gpt)
    assert contents(bert) == [b" the", b"ing", "é".encode(), "[UNK]", b"."]
    assert compare_vocabularies(gpt, llama).kind == "same"
    ours, theirs = shared_ids(gpt, bert)
    assert list(zip(ours.tolist(), theirs.tolist(), strict=True)) == [(0, 0), (1, 1), (2, 2), (4, 4)]


def test_bytes_that_stand_for_themselves_are_bytes():
    assert contents(sentencepiece(["<0xC3>", "<0x0A>", "▁a"])) == [b"\xc3", b"\n", b" a"]


def test_a_special_token_is_not_the_text_of_its_name():
    plain, special = make_tokenizer(), make_tokenizer()
    plain.add_tokens(["<|tool|>"])
    special.add_tokens([AddedToken("<|tool|>", special=True)])
    assert compare_vocabularies(plain, special).kind == "different"
    assert 320 not in shared_ids(plain, special)[0]


def test_every_byte_is_one_token_of_a_byte_level_alphabet():
    assert {bytes([b]) for b in range(256)} <= {c for c in contents(make_tokenizer()) if isinstance(c, bytes)}


def test_split_characters_are_counted_in_bytes():
    tokenizer = make_tokenizer()
    text = "a é 猫 😀 fox"
    meaning = contents(tokenizer)
    found = locate(tokenizer, text, meaning)
    at = found.borders_L1.tolist()
    assert len(found.ids_L) > len(text.split())
    for i, a, b in zip(found.ids_L.tolist(), at[:-1], at[1:], strict=True):
        assert text.encode()[a:b] == meaning[i]
    assert at[-1] == found.text == len(text.encode())


def test_a_slow_tokenizer_is_refused():
    with pytest.raises(ModelError, match="cannot say which characters"):
        contents(object())
