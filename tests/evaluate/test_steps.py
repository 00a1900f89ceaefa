"""Written steps, parts and wholes, and what is learned from: by small examples written out."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from answer_tables import choices
from synthetic_tables import value

from stillhouse.errors import RecipeError
from stillhouse.evaluate import steps
from stillhouse.evaluate.answers import Answered, Answers
from stillhouse.evaluate.measures.reasoning import reasoning
from stillhouse.evaluate.questions import task_of
from stillhouse.evaluate.sums import worked
from stillhouse.evaluate.tasks.chains import chains
from stillhouse.evaluate.tasks.facts import facts
from stillhouse.evaluate.tasks.worked_sums import worked_sums
from stillhouse.exercises import exercises
from stillhouse.recipe import Asked


def test_a_sum_is_worked_out() -> None:
    assert worked("7 + 2 - 4") == "7 + 2 - 4: 7 + 2 = 9, 9 - 4 = 5. Answer: 5"


def test_steps_are_read_and_tried() -> None:
    chain = steps.chain_of(" 7 + 2 = 9, 9 - 4 = 6. Answer: 6")
    assert chain is not None and chain.true == (True, False)
    assert chain.first_wrong == 1 and chain.follows is True
    broken = steps.chain_of("7+2=9, 9-4=5 so the answer is 6")
    assert broken is not None and broken.true == (True, True) and broken.first_wrong is None and broken.follows is False
    silent = steps.chain_of("3 * 4 = 12 and 12 / 5 = 2")
    assert silent is not None and silent.true == (True, False) and silent.follows is None
    assert steps.chain_of("The answer is 5.") is None
    zero = steps.chain_of("4 / 0 = 0")
    assert zero is not None and zero.true == (False,)


def write(name: str, said: dict[str, list[str]], right: dict[str, list[float]], questions: list[str]) -> Answered:
    """A task in which these texts were written."""
    table = choices(name, {role: np.array(x) for role, x in right.items()}, capability="reasoning")
    roles = {
        role: replace(x, text=tuple(said[role]), score_N=np.array(right[role]), stop=("stop",) * len(questions))
        for role, x in table.roles.items()
    }
    return replace(table, kind="write", roles=roles, question=np.array(questions, dtype=object))


def test_validity_and_what_steps_are_worth_by_hand() -> None:
    questions = [f"1.{i}" for i in range(40)] + [f"2.{i}" for i in range(40)]
    good, bad = " 1 + 1 = 2. Answer: 2", " 1 + 1 = 3. Answer: 2"
    said = {"teacher": [good] * 80, "student": [good] * 60 + [bad] * 20}
    right = {"teacher": [1.0] * 80, "student": [1.0] * 60 + [0.0] * 20}
    tags = {"steps": np.array(["1"] * 40 + ["2"] * 40, dtype=object)}
    task = replace(write("worked_sums", said, right, questions), tags=tags, floor_N=np.zeros(80))
    at_once = choices("chains", {"teacher": np.ones(80), "student": np.array([1.0] * 50 + [0.0] * 30)})
    at_once = replace(at_once, question=np.array(questions, dtype=object), tags=tags, kind="choice")
    found = reasoning(Answers((task, at_once)))
    assert value(found, "worked_sums: written steps that are true", "student") == pytest.approx(75)
    assert value(found, "worked_sums: the answer is the last step's result", "student") == pytest.approx(75)
    assert value(found, "worked_sums: true steps before the first wrong one", "student") == 0
    assert value(found, "worked_sums: answers with steps", "student") == 100
    label = "worked_sums: right with steps − without (chains)"
    assert value(found, label, "student") == pytest.approx(100 * 10 / 80)
    assert value(found, f"{label}, student − teacher", "student") == pytest.approx(100 * 10 / 80)


def test_the_compositionality_gap_by_hand() -> None:
    """Of ten wholes the student knows all parts of eight, and has five of these wrong; both know seven, of which four are lost."""
    wholes = [f"2.{i}" for i in range(10)]
    questions = [q for w in wholes for q in (w, f"{w}/0", f"{w}/1")]
    right = {role: np.ones(30) for role in ("teacher", "student")}
    for i in (8, 9):
        right["student"][3 * i + 1] = 0.0
    for i in range(5):
        right["student"][3 * i] = 0.0
    right["teacher"][3 * 0 + 2] = 0.0
    table = replace(choices("facts", right), question=np.array(questions, dtype=object))
    found = {(e.label, e.role): e.value for e in steps.put_together(table)}
    assert found[("facts: the whole wrong though all parts are right", "student")] == pytest.approx(100 * 5 / 8)
    assert found[("facts: the whole wrong though all parts are right", "teacher")] == pytest.approx(0)
    assert found[("facts: the same, student − teacher, where both know all parts", "student")] == pytest.approx(400 / 7)
    assert steps.put_together(choices("other", {"teacher": np.ones(5), "student": np.ones(5)})) == []


def test_parts_are_asked_of_the_same_people_and_others_stay_as_they_were() -> None:
    plain, whole = facts(questions=3), facts(questions=3, parts=True)
    first = [q for q in whole.questions if "/" not in q.id]
    assert [q.id for q in first] == [q.id for q in plain.questions]
    three = {q.id: q for q in whole.questions if q.id.startswith("3.0")}
    assert sorted(three) == ["3.0", "3.0/0", "3.0/1", "3.0/2"]
    told = three["3.0"].contexts[0].partition(" The boss of the ")[0]
    names = [three[f"3.0/{hop}"] for hop in range(3)]
    assert all(part.contexts[0].startswith(told) for part in names)
    answers = [part.options[part.gold].strip() for part in names]
    assert names[1].contexts[0].endswith(f"The boss of {answers[0]} is")
    assert three["3.0"].options[three["3.0"].gold].strip() == answers[2]


def test_worked_sums_are_the_sums_of_chains_and_judged_by_their_answer() -> None:
    direct, written = chains(questions=5, steps=(1, 3)), worked_sums(questions=5, steps=(1, 3))
    for one, other in zip(direct.questions, written.questions, strict=True):
        asked = one.contexts[0].splitlines()[-1].removesuffix(" =")
        assert other.contexts[0].splitlines()[-1] == f"{asked}:" and one.id == other.id
        assert other.check is not None
        assert other.check(other.options[0]) == 1.0
        assert other.check(" Answer: 77") == 0.0 and other.check(" no idea") is None


def test_exercises_are_other_draws_than_what_is_asked() -> None:
    learned = list(exercises(of="chains", options={"steps": [1, 2], "questions": 50}))
    assert len(learned) == 100
    assert learned[0]["text"] == learned[0]["prompt"] + learned[0]["response"]
    asked = {q.contexts[0] for q in task_of(Asked(name="chains"), "").questions}
    assert not asked & {row["prompt"] for row in learned}
    solved = next(iter(exercises(of="worked_sums", options={"steps": [2], "questions": 3})))
    assert "Answer: " in solved["response"] and solved["response"].endswith("\n")
    with pytest.raises(RecipeError, match="does not draw"):
        next(iter(exercises(of="blimp")))
    with pytest.raises(RecipeError, match="no right words"):
        next(iter(exercises(of="instructions", options={})))


class Generator:
    """What reasoning-gym's datasets look like."""

    def __init__(self, size: int, seed: int, **settings: Any) -> None:
        if settings.pop("wrong", False):
            raise TypeError("unexpected keyword argument 'wrong'")
        self.seed = seed

    def __getitem__(self, i: int) -> dict[str, Any]:
        terms = 2 + i % 3
        return {"question": f"{'1 + ' * (terms - 1)}1 =", "answer": str(terms), "metadata": {"num_terms": terms, "name": "x"}}  # fmt: skip

    def score_answer(self, answer: str, entry: dict[str, Any]) -> float:
        return float(answer == entry["answer"])


def test_reasoning_gym_draws_and_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    from stillhouse.evaluate.tasks.reasoning_gym import reasoning_gym

    monkeypatch.setitem(sys.modules, "reasoning_gym", None)  # as if it were not installed
    with pytest.raises(RecipeError, match="not installed"):
        reasoning_gym(generator="chain_sum")
    library = ModuleType("reasoning_gym")
    library.create_dataset = lambda name, **given: Generator(**given)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "reasoning_gym", library)
    task = reasoning_gym(generator="chain_sum", steps="num_terms", questions=30, shots=2)
    first = task.questions[0]
    assert first.contexts[0].endswith("1 + 1 =\nAnswer:") and first.contexts[0].count("Answer:") == 3
    assert first.tags == {"steps": "1"} and first.floor == pytest.approx(1 / 3)
    assert first.check is not None
    assert (first.check(" 2"), first.check(" 3"), first.check(" ")) == (1.0, 0.0, None)
    with pytest.raises(RecipeError, match="tells no number 'digits'"):
        reasoning_gym(generator="chain_sum", steps="digits")
    with pytest.raises(RecipeError, match="cannot draw"):
        reasoning_gym(generator="chain_sum", settings={"wrong": True})


@pytest.mark.parametrize("generator", ["chain_sum", "leg_counting", "number_sorting", "tower_of_hanoi"])
def test_the_generators_of_the_real_library_have_their_own_answers_right(generator: str) -> None:
    """Of one line and of several: what ends an answer must not stand within it."""
    pytest.importorskip("reasoning_gym", reason="the extra reasoning-gym is not installed")
    from stillhouse.evaluate.tasks.reasoning_gym import reasoning_gym

    for question in reasoning_gym(generator=generator, questions=5, shots=1).questions:
        written = question.options[0].partition(question.stop[0])[0]
        assert question.check is not None
        assert question.check(written) == 1.0
        assert (question.check("nothing of the kind") or 0.0) < 1.0
