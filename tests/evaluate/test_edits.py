"""The same questions in other words: what edits do, and what is told of answers that change."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from answer_tables import choices
from synthetic_tables import value

from stillhouse.errors import RecipeError
from stillhouse.evaluate.answers import Answers
from stillhouse.evaluate.measures.generalisation import generalisation
from stillhouse.evaluate.questions import task_of
from stillhouse.find import find, names
from stillhouse.recipe import Asked

TEXT = "The Doctor did not know that Somebody was waiting there: 42 words, it is said."


def edit(name: str, text: str = TEXT, seed: int = 0, **options: float) -> str:
    changed: str = find("edit", name)(text, random.Random(seed), **options)
    return changed


def test_typos_keep_the_letters_of_each_word() -> None:
    changed = edit("typos", share=1.0)
    assert changed != TEXT and len(changed) == len(TEXT)
    for one, other in zip(TEXT.split(), changed.split(), strict=True):
        assert sorted(one) == sorted(other)
        assert one[0] == other[0] and one[-1] == other[-1]
        assert one == other or len(one.strip(".,:")) >= 5
    assert edit("typos", share=0.0) == TEXT


def test_the_others_by_hand() -> None:
    assert edit("lower_case") == TEXT.lower()
    assert edit("spaces", share=1.0).split() == TEXT.split() and "  " in edit("spaces", share=1.0)
    assert edit("contractions") == TEXT.replace("did not", "didn't").replace("it is", "it's")
    assert edit("contractions", "It is not. I will. Cannot.") == "It's not. I'll. Can't."
    assert edit("filler").endswith(TEXT) and edit("filler") != TEXT


@pytest.mark.parametrize("name", names("edit"))
def test_an_edit_draws_from_what_it_is_given(name: str) -> None:
    assert edit(name) == edit(name)
    assert edit(name, "") in ("", edit(name, ""))


def test_an_edited_task_is_the_other_one_but_for_the_contexts() -> None:
    plain = task_of(Asked(name="facts", questions=4), "")
    changed = task_of(Asked(name="edited", of="facts", edit="filler", options={"questions": 4}), "")
    assert changed.outside == "facts"
    for one, other in zip(plain.questions, changed.questions, strict=True):
        assert (one.id, one.options, one.gold, one.tags) == (other.id, other.options, other.gold, other.tags)
        assert one.contexts != other.contexts
    with pytest.raises(RecipeError, match="Did you mean 'typos'"):
        task_of(Asked(name="edited", of="facts", edit="typoes"), "")


def test_what_changes_is_told_question_by_question() -> None:
    """Of 200 questions the teacher changes 10 answers and the student 40; in the worst wording it has 130 right of 160."""
    n = 200
    teacher = np.array([1.0] * 170 + [0.0] * 30)
    student = teacher.copy()
    inside = choices("plain", {"teacher": teacher, "student": student}, seed=1)
    moved_t, moved_s = teacher.copy(), student.copy()
    moved_t[:10], moved_s[:40] = 0.0, 0.0
    outside = choices("edited", {"teacher": moved_t, "student": moved_s}, seed=1)
    roles = dict(outside.roles)
    for role, right in (("teacher", moved_t), ("student", moved_s)):  # what stays right or wrong stays the same answer
        ll = inside.roles[role].ll_NK.copy()
        for i in np.flatnonzero(right != inside.score(role)):
            ll[i] = np.roll(ll[i], 1)
        roles[role] = replace(inside.roles[role], ll_NK=ll)
    outside = replace(outside, roles=roles, gold=inside.gold, outside="plain", question=inside.question)
    found = generalisation(Answers((inside, outside)))
    label = "plain → edited: answered the same"
    assert value(found, label, "teacher") == pytest.approx(100 * 190 / n)
    assert value(found, label, "student") == pytest.approx(100 * 160 / n)
    assert value(found, f"{label}, student − teacher", "student") == pytest.approx(-15)
    floor = max(0.25, np.bincount(inside.gold).max() / n, (inside.characters_NK.argmax(1) == inside.gold).mean())
    kept = (130 / n - floor) / (160 / n - floor)
    assert value(found, "plain: kept in the worst of 2 wordings", "student") == pytest.approx(100 * kept)
