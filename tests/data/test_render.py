from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.data.render import NO_LOSS, Example, Rendered, end_token, fit, tokenise, value_of
from stillhouse.errors import DataError, ModelError
from stillhouse.vocabulary import fingerprint

from .tiny import make, make_lossy, make_pieced

TEXTS = st.text(
    alphabet=st.one_of(
        st.sampled_from("the dog\n  quick"), st.sampled_from("é漢字🙂👩\u200d👧e\u0301ß"), st.characters(codec="utf-8")
    ),
    min_size=1,
    max_size=60,
)
TOKENIZERS = {
    "plain": make(),
    "bos": make(bos=True),
    "trimmed offsets": make(trim=True),
    "own end": make(bos=True, own_end=True),
}


def one(rendered: Rendered, tokenizer: Any) -> Example:
    (example,) = tokenise([rendered], tokenizer, tokenizer.eos_token_id)
    return example


OTHERS = {"pieced": make_pieced(), "lossy": make_lossy()}


# ---- the shift


def test_the_shift_is_done_once(tokenizer: Any) -> None:
    ids = tokenizer("the quick dog")["input_ids"]
    assert len(set(ids)) > 2  # else shifted and unshifted would be alike
    example = one(Rendered("the quick dog"), tokenizer)
    full = [*ids, tokenizer.eos_token_id]
    assert [(i, t) for i, t in zip(example.inputs, example.labels, strict=True)] == [
        (full[k], full[k + 1]) for k in range(len(full) - 1)
    ]


def test_the_mask_is_that_of_the_label_not_of_the_input(tokenizer: Any) -> None:
    """The first position with loss is the last token of the prompt, which predicts the answer's first token."""
    prompt, answer = "question", " fox"
    ids = tokenizer(prompt + answer)["input_ids"]
    p = len(tokenizer(prompt)["input_ids"])
    assert ids[:p] == tokenizer(prompt)["input_ids"]  # here no token crosses the border
    example = one(Rendered(prompt + answer, [(len(prompt), len(prompt + answer))], whole=True), tokenizer)
    assert example.labels.tolist() == [NO_LOSS] * (p - 1) + ids[p:] + [tokenizer.eos_token_id]
    unshifted = [NO_LOSS] * p + ids[p:]
    assert example.labels.tolist() != unshifted


def test_a_token_across_the_border_carries_loss(tokenizer: Any) -> None:
    ids = tokenizer("the quick")["input_ids"]
    offsets = tokenizer("the quick", return_offsets_mapping=True)["offset_mapping"]
    crossing = next(i for i, (a, b) in enumerate(offsets) if b - a > 1 and i > 0)
    a, b = offsets[crossing]
    example = one(Rendered("the quick", [(b - 1, len("the quick"))], whole=True), tokenizer)
    assert example.labels[crossing - 1] == ids[crossing]
    assert crossing < 2 or example.labels[crossing - 2] == NO_LOSS


@settings(max_examples=150, deadline=None)
@given(text=TEXTS, data=st.data(), which=st.sampled_from(sorted(TOKENIZERS)))
def test_loss_lies_on_the_tokens_of_the_spans(text: str, data: st.DataObject, which: str) -> None:
    tokenizer = TOKENIZERS[which]
    a = data.draw(st.integers(0, len(text)))
    b = data.draw(st.integers(a, len(text)))
    example = one(Rendered(text, [(a, b)] if a < b else []), tokenizer)
    everything = one(Rendered(text), tokenizer)
    assert example.inputs.tolist() == everything.inputs.tolist()
    # by the bytes of each character: which character does each byte of the byte-level text belong to?
    owner = [i for i, c in enumerate(text) for _ in c.encode()]
    tokens = [*example.inputs.tolist(), everything.labels.tolist()[-1]]
    place = 0
    expected = []
    for token in tokens[:-1] if tokens[-1] == tokenizer.eos_token_id else tokens:
        if token == tokenizer.bos_token_id and not expected:
            expected.append(False)
            continue
        size = len(tokenizer.convert_ids_to_tokens(token))  # one letter a byte in byte-level BPE
        expected.append(any(a <= owner[k] < b for k in range(place, place + size)))
        place += size
    assert place == len(owner)
    expected.append(a < b == len(text))
    assert [label != NO_LOSS for label in example.labels] == expected[1:]


# ---- bytes


@settings(max_examples=200, deadline=None)
@given(text=TEXTS, which=st.sampled_from(sorted(TOKENIZERS | OTHERS)))
def test_bytes_add_up_to_the_text(text: str, which: str) -> None:
    if which == "lossy" and not text.strip().isalnum():
        return  # it may make no token of the text at all
    example = one(Rendered(text), (TOKENIZERS | OTHERS)[which])
    assert example.first_bytes + int(example.bytes.sum()) == len(text.encode("utf-8"))
    assert example.bytes[-1] == 0  # the end token


def test_a_character_split_over_tokens_counts_once(tokenizer: Any) -> None:
    example = one(Rendered("a🙂漢"), tokenizer)
    assert example.first_bytes == 1
    assert len(example.bytes) == 4 + 3 + 1
    assert example.bytes.tolist() == [4, 0, 0, 0, 3, 0, 0, 0]


def test_offsets_that_overlap_or_leave_gaps_share_out_all_bytes() -> None:
    def odd(texts: list[str], **_: Any) -> dict[str, Any]:
        offsets = [(1, 3), (0, 2), (4, 5), (5, 5)]  # of six characters
        return {"input_ids": [[5, 6, 7, 8]], "offset_mapping": [offsets], "special_tokens_mask": [[0] * 4]}

    (example,) = tokenise([Rendered("é12345", [(3, 4)])], odd, 9)
    assert [example.first_bytes, *example.bytes.tolist()] == [4, 0, 2, 1, 0]
    assert example.labels.tolist() == [NO_LOSS, 7, NO_LOSS, NO_LOSS]  # what no offset covers goes to the next token


def test_bytes_of_words_are_those_of_their_tokens(tokenizer: Any) -> None:
    text = "the quick brown fox"
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
    example = one(Rendered(text), tokenizer)
    assert [example.first_bytes, *example.bytes.tolist()] == [*(len(t) for t in tokens), 0]


# ---- special tokens


def test_special_strings_in_documents_are_data(tokenizer: Any) -> None:
    example = one(Rendered("stop <|im_end|> here"), tokenizer)
    assert tokenizer.eos_token_id not in example.inputs
    assert example.labels.tolist().count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(example.inputs) == "stop <|im_end|> here"


def test_special_strings_of_a_template_are_tokens(tokenizer: Any) -> None:
    example = one(Rendered("hi<|im_end|>\n", special=True), tokenizer)
    assert example.inputs.tolist()[-1] == tokenizer.eos_token_id
    assert example.labels.tolist()[-1] == tokenizer("\n")["input_ids"][0]  # nothing is appended: it ends already


def test_the_end_token_is_appended_once(tokenizer: Any) -> None:
    end = tokenizer.eos_token_id
    assert one(Rendered("dog<|im_start|>", special=True), tokenizer).labels.tolist()[-1] == end
    for name, other in TOKENIZERS.items():
        labels = one(Rendered("the dog"), other).labels.tolist()
        assert labels.count(end) == 1 and labels[-1] == end, name


def test_a_tokenizers_own_first_token_is_kept_for_plain_text_only() -> None:
    tokenizer = TOKENIZERS["bos"]
    assert one(Rendered("dog"), tokenizer).inputs[0] == tokenizer.bos_token_id
    assert one(Rendered("dog"), tokenizer).first_bytes == 0
    assert one(Rendered("dog", special=True), tokenizer).inputs[0] != tokenizer.bos_token_id


def test_a_batch_gives_what_each_gives_alone(tokenizer: Any) -> None:
    batch = [Rendered("the dog"), Rendered("<|im_start|>fox", [(5, 15)], special=True), Rendered("🙂"), Rendered("end")]
    for together, rendered in zip(tokenise(batch, tokenizer, tokenizer.eos_token_id), batch, strict=True):
        alone = one(rendered, tokenizer)
        for name in ("inputs", "labels", "bytes"):
            assert np.array_equal(getattr(together, name), getattr(alone, name))


# ---- end token, fingerprint, fields, fitting


def test_no_end_token_names_the_way_out() -> None:
    with pytest.raises(
        DataError, match=r"data\.end_token: the tokenizer has no end token(.|\n)*data\.end_token='<\|endoftext\|>'"
    ):
        end_token(make(eos=None), None)
    assert end_token(make(eos=None), "<|endoftext|>") == 0
    with pytest.raises(DataError, match=r"'<\|endtext\|>' is not a single token(.|\n)*Did you mean '<\|endoftext\|>'"):
        end_token(make(), "<|endtext|>")


def test_a_slow_tokenizer_is_refused() -> None:
    with pytest.raises(ModelError, match="cannot say which characters"):
        end_token(object(), None)


def test_a_fingerprint_is_of_the_content(tokenizer: Any) -> None:
    assert fingerprint(tokenizer) == fingerprint(make())
    used = make()
    used(["a", "b c d"], padding=True, truncation=True, max_length=2) if used.pad_token else used(
        "a", truncation=True, max_length=1
    )
    assert fingerprint(used) == fingerprint(tokenizer)
    others = [make(template=None), make(eos="<|endoftext|>"), make(bos=True)]
    assert len({fingerprint(t) for t in [tokenizer, *others]}) == 4


def test_fields() -> None:
    assert value_of({"text": "x"}, "text", str, "field") == "x"
    with pytest.raises(
        DataError, match=r"has no field 'text'\n    → Did you mean 'texts'\? Name it by the format's option 'field'"
    ):
        value_of({"texts": "x", "id": 1}, "text", str, "field")
    with pytest.raises(DataError, match=r"field 'text' holds int '7', not text"):
        value_of({"text": 7}, "text", str, "field")
    with pytest.raises(DataError, match=r"holds nothing \(null\)"):
        value_of({"text": None}, "text", str, "field")


def test_fitting_a_block(tokenizer: Any) -> None:
    prompt, answer = "the dog and the fox", " sleeps and jumps over the dog"
    rendered = Rendered(prompt + answer, [(len(prompt), len(prompt + answer))], whole=True)
    example = one(rendered, tokenizer)
    n, first = len(example.inputs), int(np.flatnonzero(example.labels != NO_LOSS)[0])
    assert fit(example, n) == (example, False)
    cut, truncated = fit(example, n - 1)
    assert truncated and cut is not None and cut.inputs.tolist() == example.inputs.tolist()[:-1]
    assert cut.labels.tolist() == example.labels.tolist()[:-1]
    cut, truncated = fit(example, first + 1)
    assert truncated and cut is not None and (cut.labels != NO_LOSS).sum() == 1
    assert fit(example, first) == (None, False)
