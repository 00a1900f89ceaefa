"""Which of several answers is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from stillhouse.data.selections.agreement import agreement
from stillhouse.data.selections.likelihood import likelihood
from stillhouse.data.selections.verified import verified
from stillhouse.errors import DataError, RecipeError
from stillhouse.find import check_options


def answer(text: str, tokens: int = 4, logprob: float | None = -2.0):
    from stillhouse.writing import Answer

    return Answer(text, tokens, "end", logprob)


def test_likelihood_is_per_token():
    assert likelihood("?", [answer("a", 4, -2.0), answer("b", 10, -4.0)]) == [-0.5, -0.4]
    with pytest.raises(DataError, match="does not tell how likely"):
        likelihood("?", [answer("a", 4, None)])


def test_agreement_counts_what_most_say():
    said = ["so the answer is 7", "I think 3? the answer is 7", "the answer is 9", "no idea"]
    assert agreement("?", [answer(s) for s in said], pattern=r"answer is (\d+)") == [1 / 3, 1 / 3, 0.0, None]
    assert agreement("?", [answer("1 and 2"), answer("2")], pattern=r"\d") == [1.0, 1.0]  # the last match
    assert agreement("?", [answer("7")], pattern=r"\d") == [0.0]


def test_agreement_without_a_pattern_is_words_in_common():
    one, two, three = agreement("?", [answer("The cat sat."), answer("the cat sat"), answer("a dog")])
    assert (one, two, three) == (0.5, 0.5, 0.0)


def test_a_pattern_that_is_none_is_told_by_the_check():
    with pytest.raises(RecipeError, match="no regular expression"):
        check_options(agreement, {"pattern": "("}, "select")


def test_a_function_of_ones_own(tmp_path: Path):
    file = tmp_path / "right.py"
    file.write_text(
        "def even(prompt, response):\n    return int(response) % 2 == 0\n"
        "def scored(prompt, response):\n    return len(response) - len(prompt)\n"
        "def wrong(prompt, response):\n    return 'yes'\n"
    )
    answers = [answer("4"), answer("7"), answer("10")]
    assert verified("?", answers, function=f"{file}:even") == [1.0, None, 1.0]
    assert verified("?", answers, function=f"{file}:scored") == [0.0, 0.0, 1.0]
    with pytest.raises(DataError, match="neither true"):
        verified("?", answers, function=f"{file}:wrong")
    with pytest.raises(DataError, match="ValueError: invalid literal"):
        verified("?", [answer("four")], function=f"{file}:even")


def test_a_function_that_is_not_there_is_told_by_the_check(tmp_path: Path):
    (tmp_path / "right.py").write_text("raise OSError('no disk')\n")
    cases = {
        f"{tmp_path}/none.py:f": "FileNotFound",
        f"{tmp_path}/right.py:f": "no disk",
        "math:f": "AttributeError",
        "f": "is no function",
    }
    for named, says in cases.items():
        with pytest.raises(RecipeError, match=says):
            check_options(verified, {"function": named}, "select")
