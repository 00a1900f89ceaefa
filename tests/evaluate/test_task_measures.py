"""The measures on tasks, against models whose faults are planted: each fault is found by its gate and by no other."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from answer_tables import OPTIONS, answers, choices, less, replaced, right, suite
from synthetic_tables import value

from stillhouse.evaluate.answers import Answered, Answers
from stillhouse.evaluate.measures.bias import bias
from stillhouse.evaluate.measures.collapse import collapse
from stillhouse.evaluate.measures.coverage import coverage
from stillhouse.evaluate.measures.flips import flips
from stillhouse.evaluate.measures.forgetting import forgetting
from stillhouse.evaluate.measures.generalisation import generalisation
from stillhouse.evaluate.measures.reasoning import reasoning
from stillhouse.evaluate.measures.soundness import soundness
from stillhouse.evaluate.measures.tasks import tasks
from stillhouse.evaluate.skill import constant, floor_of

FLOOR = 1 / OPTIONS


def same(seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A teacher, and a student as good as it that errs elsewhere now and then."""
    teacher = suite(seed)
    rng = np.random.default_rng(seed + 1)
    student = {}
    for name, right_N in teacher.items():
        swap = rng.random(len(right_N)) < 0.04
        student[name] = np.where(swap, rng.permutation(right_N), right_N)
    return teacher, student


GATES = {"tasks": tasks, "coverage": coverage, "collapse": collapse, "bias": bias, "reasoning": reasoning}


def defect(kind: str) -> Answers:
    teacher, student = same()
    rng = np.random.default_rng(9)
    n = len(teacher["knowledge"])
    if kind == "all skills":
        for name in ("knowledge", "grammar", "recall", "chains"):
            student[name] = less(rng, teacher[name], 0.84, FLOOR)
    elif kind == "one capability":
        student["recall"] = less(rng, teacher["recall"], 0.75, FLOOR)
    elif kind == "a slice":
        student["knowledge"] = less(rng, teacher["knowledge"], 0.1, FLOOR, np.arange(n) % 12 == 0)
    elif kind == "bias":
        student["probe"] = np.maximum(student["probe"], right(rng, n, 0.2))
    elif kind == "long chains":
        student["chains"] = less(rng, teacher["chains"], 0.7, FLOOR, np.arange(n) % 4 >= 1)
    return answers(teacher, student)


MATRIX = {
    "none": set(),
    "all skills": {"tasks", "coverage"},
    "one capability": {"coverage"},
    "a slice": {"collapse"},
    "bias": {"bias"},
    "long chains": {"reasoning"},
}
"""Planted fault → gates that must FAIL; no other may. A loss everywhere is also one of every capability."""


@pytest.mark.parametrize("kind", MATRIX)
def test_a_planted_fault_is_found_by_its_gate_and_no_other(kind: str):
    table = defect(kind)
    verdicts = {name: gate(table).verdict for name, gate in GATES.items()}
    failed = {name for name, verdict in verdicts.items() if verdict == "FAIL"}
    if kind == "long chains":  # reasoning is a capability too, and may be seen to be lost there
        failed -= {"coverage"}
    assert failed == MATRIX[kind], verdicts
    assert kind != "none" or set(verdicts.values()) == {"PASS"}, verdicts


def test_the_teacher_against_itself_keeps_everything():
    teacher = suite()
    table = answers(teacher, teacher, teacher)
    assert value(tasks(table), "skill kept over all informative tasks", "student") == pytest.approx(100)
    for gate in (*GATES.values(), forgetting, soundness):
        assert gate(table).verdict == "PASS", gate
    assert "lost 0" in flips(answers(teacher, {k: v.copy() for k, v in teacher.items()})).sentence


def test_answers_to_other_questions_fail():
    teacher = suite()
    rng = np.random.default_rng(0)
    mixed = {name: rng.permutation(right_N) * (rng.random(len(right_N)) < 0.5) for name, right_N in teacher.items()}
    assert tasks(answers(teacher, mixed)).verdict == "FAIL"


# ---------------------------------------------------------------------------------------------------------------- floors


def always(place: int) -> Answered:
    """A teacher that always says the same option, on questions whose right option lies there more often than elsewhere."""
    table = choices("letters", {"teacher": np.zeros(300), "student": np.zeros(300)})
    gold = np.where(np.arange(300) % 3 == 0, place, table.gold)
    ll = np.full((300, OPTIONS), -9.0)
    ll[:, place] = -1.0
    roles = {role: replace(replies, ll_NK=ll) for role, replies in table.roles.items()}
    return replace(table, gold=gold, roles=roles)


def longest() -> Answered:
    """A teacher that always takes the longest option, where that is right more often than by chance."""
    table = choices("long", {"teacher": np.zeros(400), "student": np.zeros(400)}, seed=3)
    long = table.characters_NK.argmax(axis=1)
    gold = np.where(np.arange(400) % 2 == 0, long, table.gold)
    return replace(table, gold=gold, roles={r: replace(x, ll_NK=table.characters_NK) for r, x in table.roles.items()})


def likely_alone() -> Answered:
    """A teacher that takes the option it finds likeliest without the question."""
    table = choices("alone", {"teacher": np.zeros(400), "student": np.zeros(400)}, seed=4)
    free = np.random.default_rng(0).normal(-9, 1, (400, OPTIONS))
    gold = np.where(np.arange(400) % 2 == 0, free.argmax(axis=1), table.gold)
    return replace(table, gold=gold, roles={r: replace(x, ll_NK=free, free_NK=free) for r, x in table.roles.items()})


@pytest.mark.parametrize("table", [always(0), always(2), longest(), likely_alone()], ids=["A", "C", "longest", "alone"])
def test_predictors_without_skill_are_uninformative(table: Answered):
    assert floor_of(table).mean > 1.2 / OPTIONS
    found = tasks(Answers((table,)))
    assert found.verdict == "UNINFORMATIVE"
    assert table.task in found.reason
    assert coverage(Answers((table,))).verdict == "UNINFORMATIVE"


def test_uniform_guesses_are_uninformative():
    rng = np.random.default_rng(1)
    guesses = {"teacher": right(rng, 500, FLOOR), "student": right(rng, 500, FLOOR)}
    assert tasks(Answers((choices("guess", guesses),))).verdict == "UNINFORMATIVE"


def test_always_the_same_answer_is_named():
    assert "says option 1 to 300 of 300 questions" in constant(always(0), "teacher")
    teacher = suite()
    assert constant(answers(teacher, teacher).tasks[0], "teacher") == ""


def test_two_hundred_questions_certify_nothing():
    """The power that 200 questions have is too little for a PASS, and the finding says how many it takes."""
    rng = np.random.default_rng(5)
    teacher = right(rng, 200, 0.53)
    student = np.where(rng.random(200) < 0.2, rng.permutation(teacher), teacher)
    found = tasks(Answers((choices("few", {"teacher": teacher, "student": student}),)))
    assert found.verdict == "INCONCLUSIVE"
    assert "questions like these 200 would decide it" in found.reason or "sits at the threshold" in found.reason


def test_a_critical_task_must_hold_on_its_own():
    teacher, student = same()
    rng = np.random.default_rng(2)
    student["recall"] = less(rng, teacher["recall"], 0.8, FLOOR)
    table = answers(teacher, student)
    assert tasks(table).verdict == "PASS"
    found = tasks(table, critical={"recall": 0.95})
    assert found.verdict == "FAIL" and "recall" in found.reason
    assert "was not asked" in tasks(table, critical={"chess": 0.9}).reason


# ------------------------------------------------------------------------------------------------------------- the others


def test_bias_is_not_judged_where_competence_is_gone():
    teacher, student = same()
    rng = np.random.default_rng(3)
    student["grammar"] = less(rng, teacher["grammar"], 0.6, FLOOR)
    student["probe"] = right(rng, len(teacher["probe"]), 0.5)
    found = bias(answers(teacher, student))
    assert found.verdict == "UNINFORMATIVE"
    assert "60." in found.sentence or "keeps" in found.sentence
    probe_alone = Answers(tuple(t for t in answers(teacher, student).tasks if t.task == "probe"))
    assert bias(probe_alone).verdict == "UNINFORMATIVE"


def test_bias_that_turns_round_is_no_amplification():
    teacher, student = same()
    student["probe"] = 1 - teacher["probe"]
    found = bias(answers(teacher, student))
    assert abs(value(found, "probe: amplification", "student")) < 1e-9


def test_forgetting_is_seen_against_before():
    teacher, student = same()
    rng = np.random.default_rng(4)
    student["recall"] = less(rng, teacher["recall"], 0.6, FLOOR)
    found = forgetting(answers(teacher, student, before=teacher))
    assert found.verdict == "FAIL" and "recall" in found.sentence
    assert forgetting(answers(teacher, student)).verdict == "NOT MEASURED"
    nothing = {name: right(rng, len(x), FLOOR) for name, x in teacher.items()}
    assert forgetting(answers(teacher, student, before=nothing)).verdict == "NOT MEASURED"


def test_flips_are_counted_by_hand():
    t, s = np.array([1, 1, 0, 0, 1, 0.0] * 10), np.array([1, 0, 1, 0, 1, 0.0] * 10)
    found = flips(Answers((choices("a", {"teacher": t, "student": s}),)))
    assert (value(found, "a: lost", "student"), value(found, "a: gained", "student")) == (10, 10)
    seen = 40 / 60
    forced = 0.5 * 0.5 + 0.5 * 0.5
    assert value(found, "a: right and wrong together (κ)", "student") == pytest.approx((seen - forced) / (1 - forced))
    assert value(found, "a: direction", "student") == 0


def test_what_rounding_changes_is_the_noise_floor():
    """Of 60 answers 2 change by rounding and 20 by the student: 18 beyond noise."""
    t, s = np.array([1, 1, 0, 0, 1, 0.0] * 10), np.array([1, 0, 1, 0, 1, 0.0] * 10)
    r = t.copy()
    r[[0, 2]] = 1 - r[[0, 2]]
    found = flips(Answers((choices("a", {"teacher": t, "student": s, "rounded": r}),)))
    assert value(found, "a: lost or gained by rounding alone", "rounded") == pytest.approx(2 / 60 * 100)
    assert value(found, "a: lost or gained beyond that", "student") == pytest.approx(18 / 60 * 100)


def test_the_horizon_is_that_of_the_step():
    """With p = .93 a step, half is lost after ln ½ / ln .93 = 9.6 steps."""
    teacher = suite(n=20000)
    found = reasoning(answers(teacher, teacher))
    assert value(found, "chains: horizon", "teacher") == pytest.approx(9.55, rel=0.15)
    assert value(found, "chains: reliability of a step", "teacher") == pytest.approx(93, abs=1)


def test_what_is_lost_outside_is_seen():
    rng = np.random.default_rng(7)
    teacher = right(rng, 4000, 0.8)
    inside = choices("near", {"teacher": teacher, "student": less(rng, teacher, 0.97, FLOOR)})
    for kept, verdict in ((0.95, "PASS"), (0.6, "FAIL")):
        far = choices("far", {"teacher": teacher, "student": less(rng, teacher, kept, FLOOR)}, seed=1)
        found = generalisation(Answers((inside, replace(far, outside="near"))))
        assert found.verdict == verdict
        assert value(found, "near → far: outside − inside", "student") == pytest.approx((kept - 0.97) * 100, abs=4)
    assert generalisation(Answers((inside, far))).verdict == "NOT MEASURED"
    guess = choices("far", {"teacher": right(rng, 300, FLOOR), "student": right(rng, 300, FLOOR)})
    assert generalisation(Answers((inside, replace(guess, outside="near")))).verdict == "UNINFORMATIVE"


def test_a_slice_is_confirmed_by_the_other_half():
    """Of many equal slices none is condemned: the worst is worse by luck."""
    rng = np.random.default_rng(6)
    condemned = 0
    for seed in range(20):
        teacher = right(rng, 2000, 0.8)
        student = less(rng, teacher, 0.75, FLOOR)
        tags = {"subject": [str(i % 20) for i in range(2000)]}
        table = Answers((choices("many", {"teacher": teacher, "student": student}, tags=tags, seed=seed),))
        condemned += collapse(table).verdict == "FAIL"
    assert condemned <= 2


def test_what_cannot_be_judged_is_said():
    table = choices("w", {"teacher": np.ones(100), "student": np.ones(100)})
    roles = {
        role: replace(x, score_N=np.where(np.arange(100) < 20, np.nan, 1.0), stop=("length",) * 30 + ("eos",) * 70)
        for role, x in table.roles.items()
    }
    found = soundness(Answers((replace(table, kind="write", roles=roles),)))
    assert found.verdict == "INCONCLUSIVE"
    assert value(found, "w: not readable as an answer", "student") == 20
    assert value(found, "w: ended by length", "student") == 30
    assert soundness(Answers(())).verdict == "NOT MEASURED"


@pytest.mark.parametrize("gate", [*GATES.values(), flips, forgetting, soundness])
def test_no_answers_are_not_measured_and_all_is_json(gate):
    assert gate(Answers(())).verdict == "NOT MEASURED"
    teacher, student = same()
    found = gate(answers(teacher, student, before=teacher))
    json.dumps(found.to_dict(), allow_nan=False)
    assert gate(answers(teacher, student, before=teacher)) == found


def test_a_table_without_a_student_is_not_measured():
    teacher = suite()
    table = answers(teacher, teacher)
    alone = replaced(table, "knowledge", lambda t: t)
    alone = Answers(tuple(replace(t, roles={"teacher": t.roles["teacher"]}) for t in alone.tasks))
    assert {gate(alone).verdict for gate in GATES.values()} == {"NOT MEASURED"}
