"""Each filter that looks at one document, from its definition."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shared import make_llama, make_tokenizer

from stillhouse.data.filters.boilerplate import PHRASES, boilerplate
from stillhouse.data.filters.language import language
from stillhouse.data.filters.length import length
from stillhouse.data.filters.perplexity import perplexity
from stillhouse.data.filters.pii import pii
from stillhouse.data.filters.repetition import repetition
from stillhouse.data.judging import Filter, band
from stillhouse.data.render import Rendered
from stillhouse.errors import DataError, RecipeError


def values(filter_: Filter, *texts: str) -> list[float]:
    return [float(v) for v in filter_.measure([Rendered(text) for text in texts])]


class Values:
    def __init__(self, *parts: list[float]) -> None:
        self.lists = parts

    def __len__(self) -> int:
        return sum(map(len, self.lists))

    def parts(self) -> Any:
        yield from (np.array(part, dtype=np.float64) for part in self.lists)


# ---- the band


@given(
    st.lists(st.lists(st.floats(-10, 10) | st.just(math.nan), max_size=5), max_size=4),
    st.none() | st.floats(-10, 0),
    st.none() | st.floats(0, 10),
)
def test_a_band_keeps_what_lies_in_it(parts: list[list[float]], least: float | None, most: float | None) -> None:
    made = band(lambda _: np.zeros(0), str, least=least, most=most)
    flat = [v for part in parts for v in part]
    expected = [i for i, v in enumerate(flat) if (least is not None and v < least) or (most is not None and v > most)]
    assert [removed.row for removed in made.judge(Values(*parts))] == expected


def test_a_band_says_what_was_found_and_what_is_kept() -> None:
    made = band(lambda _: np.zeros(0), lambda v: f"{v:.0f} words", least=5, most=9)
    assert [r.why for r in made.judge(Values([3, 7, 12]))] == [
        "3 words, at least 5 words is kept",
        "12 words, at most 9 words is kept",
    ]
    told = made.facts(Values(list(range(1, 51)), list(range(51, 101)), [math.nan]))
    assert told == {
        "measured": {"5%": "5 words", "25%": "25 words", "50%": "50 words", "75%": "75 words", "95%": "95 words"}
    }
    assert made.facts(Values([math.nan])) == {}


# ---- length, repetition, boilerplate


def test_length() -> None:
    assert values(length(), "", "one", "one, two... three!", "漢字です") == [0, 1, 3, 4]
    assert values(length(unit="characters"), "", "a b", "🙂") == [0, 3, 1]
    with pytest.raises(RecipeError, match="least: is 3, above most"):
        length(least=3, most=2)


def repeated(parts: list[str], run: int) -> float:
    """The definition, word by word."""
    covered = set()
    for i in range(len(parts) - run + 1):
        if any(parts[j : j + run] == parts[i : i + run] for j in range(i)):
            covered |= set(range(i, i + run))
    return len(covered) / len(parts) if parts else 0.0


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=20), max_size=6), st.integers(1, 5))
def test_repetition_is_the_share_of_words_in_runs_that_came_before(texts: list[list[str]], run: int) -> None:
    found = values(repetition(run=run), *(" ".join(t) for t in texts))
    assert found == pytest.approx([repeated(t, run) for t in texts])


def test_loops_are_seen_and_prose_is_not() -> None:
    loop = "I am sorry, I do not know that. " * 8
    prose = (
        "The still stood in a corner of the barn, and nobody had lit a fire under it for as long as anyone could say."
    )
    found = values(repetition(), loop, "na " * 30, prose)
    assert found[0] > 0.8 and found[1] > 0.8 and found[2] == 0.0


def test_boilerplate_is_counted_by_line() -> None:
    page = "We use COOKIES to improve.\nA fox ran over the hill and was gone.\n\nPrivacy Policy"
    lines = page.splitlines()
    assert values(boilerplate(), page) == [(len(lines[0]) + len(lines[3])) / sum(map(len, lines))]
    assert values(boilerplate(), "", "\n\n", "The cookie jar was empty.") == [0, 0, 0]
    assert values(boilerplate(phrases=("Fußnote",)), "FUSSNOTE eins\nzwei") == [pytest.approx(13 / 17)]
    assert all(phrase == phrase.casefold() for phrase in PHRASES)


# ---- personal data


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("write to jo.bloggs+x@mail.example.co.uk today", "email"),
        ("ring +44 20 7946 0958 or not", "phone"),
        ("ring +1 (212) 555-0100.", "phone"),
        ("card 4111 1111 1111 1111", "card"),
        ("card 5500-0000-0000-0004,", "card"),
        ("to GB82 WEST 1234 5698 7654 32 please", "iban"),
        ("to DE89370400440532013000", "iban"),
        ("from 8.8.8.8 at noon", "ip"),
    ],
)
def test_personal_items_are_found(text: str, kind: Any) -> None:
    assert values(pii(kinds=(kind,)), text) == [1]
    assert values(pii(), text) == [1]


@pytest.mark.parametrize(
    "text",
    [
        "a@b, @name, me@localhost",
        "2 + 2 = 4, +1, ISBN 978-3-16-148410-0",
        "4111 1111 1111 1112 has a wrong check digit; 0000 0000 0000 0000 is nobody's",
        "GB82 WEST 1234 5698 7654 33",
        "127.0.0.1, 192.168.1.1, 300.1.1.1, version 1.2.3.4.5",
        "in 1234567890123 atoms; 3.14159265358979",
        "@property\ndef f(x): return x ** 2",
    ],
)
def test_what_only_looks_like_it_is_left_alone(text: str) -> None:
    assert values(pii(), text) == [0]


def test_personal_text_is_never_shown() -> None:
    assert not pii().quotes
    (removed,) = pii().judge(Values([2.0]))
    assert removed.why == "2 personal items, at most 0 personal items is kept"


# ---- language


SENTENCES = {
    "en": "The children walked slowly down to the river because the evening was warm.",
    "de": "Die Kinder gingen langsam zum Fluss hinunter, weil der Abend warm war.",
    "fr": "Les enfants descendaient lentement vers la rivière parce que la soirée était douce.",
    "es": "Los niños bajaban despacio hacia el río porque la tarde era cálida.",
    "it": "I bambini scendevano lentamente verso il fiume perché la sera era calda.",
    "nl": "De kinderen liepen langzaam naar de rivier omdat de avond warm was.",
    "pl": "Dzieci szły powoli w stronę rzeki, ponieważ wieczór był ciepły.",
    "ru": "Дети медленно шли к реке, потому что вечер был тёплым.",
    "ja": "夕方は暖かかったので、子どもたちはゆっくりと川へ歩いて行きました。",
    "zh": "因为傍晚很暖和，孩子们慢慢地走到河边去了。",
}


def test_languages_are_told_apart() -> None:
    pytest.importorskip("py3langid")
    for code in SENTENCES:
        found = values(language(keep=(code,), shortest=10), *SENTENCES.values())
        assert [v > 0.5 for v in found] == [other == code for other in SENTENCES], code
    both = values(language(keep=("de", "fr"), shortest=10), *SENTENCES.values())
    assert [v > 0.5 for v in both] == [other in ("de", "fr") for other in SENTENCES]


def test_too_short_a_text_is_kept() -> None:
    pytest.importorskip("py3langid")
    assert all(math.isnan(v) for v in values(language(), "", "Bonjour", "   oui et non   "))


def test_an_unknown_language_is_refused() -> None:
    pytest.importorskip("py3langid")
    with pytest.raises(RecipeError, match="keep: 'english' is no language"):
        language(keep=("english",))


@pytest.mark.parametrize(("package", "make"), [("py3langid", language), ("rensa", None)])
def test_a_missing_package_is_one_message(
    package: str, make: Callable[[], Filter] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stillhouse.data.filters.near_duplicates import near_duplicates

    for name in list(sys.modules):
        if name.partition(".")[0] == package:
            monkeypatch.delitem(sys.modules, name)
    importlib.import_module("stillhouse.data.filters.language")._identifier.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.langid", None)
    with pytest.raises(RecipeError, match=r"pip install 'stillhouse\[filters\]'"):
        (make or near_duplicates)()


# ---- perplexity


def by_hand(model: Any, text: str, tokens: int) -> float:
    """exp of the mean −log p of each next token, one forward pass of transformers."""
    ids = model.tokenizer(text, split_special_tokens=True, return_tensors="pt").input_ids[:, : tokens + 1]
    with torch.no_grad(), model.generating() as network:
        logp = torch.log_softmax(network(ids).logits[0].float(), -1)
    nll = [-float(logp[i, ids[0, i + 1]]) for i in range(ids.shape[1] - 1)]
    return math.exp(sum(nll) / len(nll)) if nll else math.nan


def test_perplexity_is_the_teachers() -> None:
    tokenizer = make_tokenizer()
    model = make_llama(tokenizer)
    texts = ["The quick brown fox jumps over the lazy dog.", "x", "zzz qqq " * 30, "漢字", "Still waters run deep"]
    found = values(perplexity(model, tokens=12), *texts)
    assert found == pytest.approx([by_hand(model, t, 12) for t in texts], rel=1e-4, nan_ok=True)


def test_perplexity_of_an_answer_is_that_of_its_loss_positions() -> None:
    tokenizer = make_tokenizer()
    model = make_llama(tokenizer)
    prompt, answer = "The quick brown", " fox jumps over"
    document = Rendered(prompt + answer, [(len(prompt), len(prompt + answer))], whole=True)
    found = float(perplexity(model).measure([document])[0])
    ids = tokenizer(prompt + answer).input_ids
    start = len(tokenizer(prompt).input_ids)
    assert tokenizer.decode(ids[:start]) == prompt
    with torch.no_grad(), model.generating() as network:
        logp = torch.log_softmax(network(torch.tensor([ids])).logits[0].float(), -1)
    nll = [-float(logp[i - 1, ids[i]]) for i in range(start, len(ids))]
    assert found == pytest.approx(math.exp(sum(nll) / len(nll)), rel=1e-4)
    silent = Rendered(prompt, [], whole=True)
    assert math.isnan(float(perplexity(model).measure([silent])[0]))


def test_perplexity_needs_a_language_model_that_is_here() -> None:
    with pytest.raises(DataError, match="whose weights are not here"):
        perplexity(object()).measure([Rendered("a text")])
