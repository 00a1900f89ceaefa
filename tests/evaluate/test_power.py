"""What items can decide, against what simulated students get decided."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from answer_tables import OPTIONS, choices, less, right
from synthetic_tables import World

from stillhouse.evaluate import statistics
from stillhouse.evaluate.answers import Answered, Answers
from stillhouse.evaluate.power import power
from stillhouse.evaluate.records import nothing

FLOOR = 1 / OPTIONS


def asked(n: int, kept: float, seed: int = 0) -> Answered:
    rng = np.random.default_rng(seed)
    teacher = right(rng, n, 0.8)
    return choices("exam", {"teacher": teacher, "student": less(rng, teacher, kept, FLOOR)}, seed=seed)


def test_what_it_says_is_needed_passes_four_times_of_five():
    """At the number of questions told, a student as good as the teacher, that errs elsewhere, passes in about 80 %."""

    def sibling(n: int, seed: int) -> Answered:
        rng = np.random.default_rng(seed)
        teacher = right(rng, n, 0.8)
        swap = rng.random(n) < 0.3
        return choices("exam", {"teacher": teacher, "student": np.where(swap, right(rng, n, 0.8), teacher)}, seed=seed)

    (told,) = power(nothing(), Answers((sibling(20_000, 0),)))
    assert told.needed is not None and told.passes and 150 < told.needed < 1500
    passed = 0
    for seed in range(200):
        table = sibling(told.needed, seed + 1)
        got = statistics.retention(table.score("teacher"), table.score("student"), FLOOR, table.cluster, threshold=0.9)
        passed += got.verdict == "PASS"
    assert 0.7 < passed / 200 < 0.9


def test_few_questions_are_called_impossible_and_many_possible():
    few, many = (power(nothing(), Answers((asked(n, 0.93),)))[0] for n in (60, 6000))
    assert not few.passes and many.passes
    assert few.seen is not None and many.seen is not None and few.seen > 5 * many.seen


def test_before_there_is_a_student_the_table_of_plans_is_used():
    table = asked(2000, 1.0)
    alone = replace(table, roles={"teacher": table.roles["teacher"]})
    (told,) = power(nothing(), Answers((alone,)))
    share = float(table.score("teacher").mean())
    floor = max(FLOOR, np.bincount(table.gold).max() / 2000, (table.characters_NK.argmax(1) == table.gold).mean())
    assert told.needed == statistics.items_needed(teacher=share, floor=float(floor), threshold=0.9, correlation=0.7)


def test_a_teacher_at_the_floor_is_said_and_text_has_its_rows():
    rng = np.random.default_rng(2)
    guess = choices("guess", {"teacher": right(rng, 400, FLOOR), "student": right(rng, 400, FLOOR)})
    world = World(documents=30)
    items = world.items(teacher=world.logits, student=world.noisy(0.5), floor=world.logits)
    rows = {
        row.gate: row for row in power(items, Answers((guess, replace(asked(300, 0.9), task="probe", skill=False))))
    }
    assert rows["tasks"].why and not rows["tasks"].passes
    assert rows["performance"].one == "document" and rows["performance"].clusters == 30
    assert rows["calibration"].unit == "pp" and rows["bias"].unit == "pp"
    assert rows["bias"].to_dict()["possible"] in (True, False)


@pytest.mark.parametrize("roles", [("teacher",), ("student",)])
def test_half_a_table_is_no_error(roles: tuple[str, ...]):
    table = asked(100, 0.9)
    power(nothing(), Answers((replace(table, roles={r: table.roles[r] for r in roles}),)))
