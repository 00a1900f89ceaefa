"""What holds for every filter: a new one gets these checks for free."""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from shared import make_llama, make_tokenizer

from stillhouse.data.judging import Filter
from stillhouse.data.render import Rendered
from stillhouse.data.screening import GIVEN
from stillhouse.find import find, names

NEEDS = {"near_duplicates": "rensa", "language": "py3langid"}
OPTIONS: dict[str, dict[str, Any]] = {"perplexity": {"tokens": 16}, "contamination": {"run": 4, "shortest": 3}}
WORDS = [
    "the",
    "a",
    "still",
    "fox",
    "mash",
    "spirit",
    "student",
    "teacher",
    "keeps",
    "says",
    "runs",
    "over",
    "under",
    "deep",
    "lazy",
    "quick",
]


def text(number: int) -> str:
    draw = random.Random(number)
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(0, 25)))


DOCUMENTS = [
    *(Rendered(text(i)) for i in range(12)),
    Rendered(text(3).upper() + "!"),
    Rendered("the fox " * 20),
    Rendered("写 a letter to jo@example.org, +44 20 7946 0958"),
    Rendered("We use cookies.\nA line."),
    Rendered("<|im_start|>user\nthe fox<|im_end|>", special=True, whole=True, own="the fox"),
    Rendered("one of", pair="a pair", whole=True, label=1),
    Rendered("."),
]


class Table:
    """Measurements in memory, as a filter is shown them."""

    def __init__(self, rows: np.ndarray, cut: int) -> None:
        self.rows, self.cut = rows, cut
        self.held_out = np.arange(len(rows)) % 5 == 0
        self.stays = np.zeros(len(rows), dtype=bool)

    def __len__(self) -> int:
        return len(self.rows)

    def parts(self) -> Iterator[np.ndarray]:
        yield from (self.rows[i : i + self.cut] for i in range(0, len(self.rows), self.cut))

    def column(self, index: int) -> np.ndarray:
        return self.rows[:, index]

    def document(self, row: int) -> Rendered:
        return DOCUMENTS[row]

    def where(self, row: int) -> str:
        return f"record {row}"


@pytest.fixture(params=names("filter"))
def filter_(request: pytest.FixtureRequest) -> Filter:
    name = request.param
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    function = find("filter", name)
    tokenizer = make_tokenizer()
    possible = {
        "teacher": make_llama(tokenizer),
        "held_out": lambda: [(f"record {i}", d) for i, d in enumerate(DOCUMENTS) if i % 5 == 0],
    }
    given = [possible[p] for p in inspect.signature(function).parameters if p in possible]
    made = function(*given, **OPTIONS.get(name, {}))
    assert isinstance(made, Filter)
    return made


def same(one: np.ndarray, other: np.ndarray) -> bool:
    if one.dtype.kind == "f":
        return bool(np.allclose(one, other, rtol=1e-5, equal_nan=True))
    return bool(np.array_equal(one, other))


def test_nothing_but_a_document_decides_its_row(filter_: Filter) -> None:
    """So any process may measure any part."""
    together = filter_.measure(DOCUMENTS)
    assert len(together) == len(DOCUMENTS)
    for i, document in enumerate(DOCUMENTS):
        assert same(filter_.measure([document])[0:1], together[i : i + 1]), i
    order = list(reversed(range(len(DOCUMENTS))))
    assert same(filter_.measure([DOCUMENTS[i] for i in order]), together[order])


def test_no_document_is_no_row(filter_: Filter) -> None:
    assert len(filter_.measure([])) == 0


def test_the_judgement_does_not_depend_on_the_parts(filter_: Filter) -> None:
    rows = filter_.measure(DOCUMENTS)
    found = [list(filter_.judge(Table(rows, cut))) for cut in (1, 7, 100)]
    assert found[0] == found[1] == found[2]
    numbers = [each.row for each in found[0]]
    assert numbers == sorted(set(numbers)) and all(0 <= n < len(DOCUMENTS) for n in numbers)
    assert all(each.why and each.why[0] != " " for each in found[0])
    assert filter_.facts(Table(rows, 7)) == filter_.facts(Table(rows, 100))


@pytest.mark.parametrize("name", names("filter"))
def test_what_it_is_given_comes_before_its_options(name: str) -> None:
    for parameter in inspect.signature(find("filter", name)).parameters.values():
        given = parameter.kind is not inspect.Parameter.KEYWORD_ONLY
        assert given == (parameter.name in GIVEN), parameter.name


@pytest.mark.parametrize("name", names("filter"))
def test_it_does_nothing_while_it_is_made(name: str) -> None:
    """A recipe's check makes it with nothing to see whether its options make sense."""
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    function = find("filter", name)
    function(*[None for p in inspect.signature(function).parameters if p in GIVEN])
