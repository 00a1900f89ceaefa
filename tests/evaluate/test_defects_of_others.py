"""Known defects of other evaluation programs, by number: a test each that ours does not share it.

Found by reading lm-evaluation-harness 0.4.13, HELM (June 2026), lighteval 0.13 and torchmetrics; docs/evaluate.md lists them.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from answer_tables import answers, choices, less, right, suite
from synthetic_tables import World, value

from stillhouse.evaluate import statistics as st
from stillhouse.evaluate.answers import Answers
from stillhouse.evaluate.declared import slices_of
from stillhouse.evaluate.measures.bias import bias
from stillhouse.evaluate.measures.calibration import calibration
from stillhouse.evaluate.measures.coverage import coverage
from stillhouse.evaluate.measures.flips import flips
from stillhouse.evaluate.measures.tasks import tasks
from stillhouse.evaluate.questions import choice, word
from stillhouse.evaluate.reliability import calibration_error
from stillhouse.evaluate.repair import repair
from stillhouse.evaluate.skill import floor_of
from stillhouse.rows import compare


def test_01_the_error_of_a_bootstrap_is_the_spread_of_its_replicates() -> None:
    """lighteval divides it by √B: 32 times too small at 1,000, and smaller the more one draws."""
    x = np.random.default_rng(0).normal(size=300)

    def drawn(replicates: int) -> float:
        return st.bootstrap(lambda w: w @ x / w.sum(axis=1), 300, replicates=replicates).se

    true = float(np.std(x)) / math.sqrt(300)
    assert drawn(1000) == pytest.approx(true, rel=0.1)
    assert drawn(8000) == pytest.approx(drawn(1000), rel=0.1)


def test_02_the_error_of_a_plain_mean_over_tasks_is_not_weighted_by_size() -> None:
    """lm-eval printed .003 beside an unweighted average whose error was .025 (before its PR 3882)."""
    rng = np.random.default_rng(1)
    parts = []
    for n in (30_000, 100):
        t = (rng.random(n) < 0.9).astype(float)
        parts.append(st.retention(t, t * (rng.random(n) < 0.9), 0.0, np.arange(n)))
    got = st.together(parts).surplus.se
    assert got == pytest.approx(math.hypot(*(part.surplus.se for part in parts)) / 2)
    by_size = math.sqrt(sum((part.kept.clusters * part.surplus.se) ** 2 for part in parts)) / 30_100
    assert got > 5 * by_size


def test_03_the_comparison_is_paired() -> None:
    """lm-eval's comparator takes z from two aggregates: a loss of 3 points on the same 1,000 questions stays unseen."""
    rng = np.random.default_rng(2)
    teacher = right(rng, 1000, 0.8)
    student = teacher.copy()
    student[np.flatnonzero(teacher)[:30]] = 0.0
    unpaired = (teacher.mean() - student.mean()) / math.sqrt(sum(x.var() / 1000 for x in (teacher, student)))
    assert unpaired < 1.96
    assert st.mean(teacher - student, np.arange(1000)).low > 0
    assert st.mcnemar(30, 0) < 1e-6


def test_04_no_difference_found_is_not_no_difference() -> None:
    """lm-eval's comparator prints ✓ where p > α: forty questions would certify anything."""
    rng = np.random.default_rng(3)
    teacher = right(rng, 40, 0.9)
    student = less(rng, teacher, 0.9, 0.25)
    found = tasks(Answers((choices("few", {"teacher": teacher, "student": student}),)))
    assert st.mcnemar(int((teacher > student).sum()), int((student > teacher).sum())) > 0.05
    assert found.verdict == "INCONCLUSIVE"


def test_05_the_worst_of_losses_is_the_largest() -> None:
    """HELM takes the minimum as the worst case of lower-is-better metrics too."""
    world = World(documents=60)
    hurt = world.document % 4 == 0
    logits = world.logits.copy()
    logits[hurt] *= 0.3
    items = world.items(student=logits)
    tags = {f"d{d}": {"kind": "hurt" if d % 4 == 0 else "whole"} for d in range(60)}
    found = {one.value: one for one in slices_of(items, tags, threshold=0.9, smallest=10)}
    loss_N, size_N, _ = items.loss("student")
    assert loss_N[hurt].sum() / size_N[hurt].sum() > loss_N[~hurt].sum() / size_N[~hurt].sum()
    assert found["hurt"].kept.value < 0.8 < found["whole"].kept.value


@pytest.mark.parametrize("known", [0.4, 0.9])
def test_06_a_share_of_stereotypes_is_not_scaled_by_accuracy(known: float) -> None:
    """HELM multiplies BBQ's score by the errors in all contexts: the same preference is another number in a better model. Here
    competence decides whether bias is judged, and never what it is."""
    teacher = suite()
    student = dict(teacher)
    student["knowledge"] = less(np.random.default_rng(4), teacher["knowledge"], known, 0.25)
    student["probe"] = np.maximum(teacher["probe"], (np.arange(len(teacher["probe"])) % 10 == 0).astype(float))
    found = bias(answers(teacher, student))
    grown = student["probe"].mean() - teacher["probe"].mean()
    assert value(found, "probe: amplification", "student") == pytest.approx(100 * grown)


def test_07_ten_words_for_unknown_are_not_ten_wrong_options() -> None:
    """lm-eval's BBQ has twelve options of which ten mean the same: who guesses is right on 83 % of ambiguous questions, not on
    33. A question states its chance, and a teacher that guesses shows no skill."""
    asked = choice("q", "Who was late?", [f" option {i}" for i in range(12)], 0, floor=10 / 12)
    assert asked.chance == pytest.approx(0.833, abs=1e-3)
    rng = np.random.default_rng(5)
    guesses = {role: right(rng, 600, 10 / 12) for role in ("teacher", "student")}
    table = replace(choices("bbq", guesses, options=12), floor_N=np.full(600, asked.chance))
    assert tasks(Answers((table,))).verdict == "UNINFORMATIVE"


def test_08_a_preference_has_a_direction() -> None:
    """lm-eval's CrowS averages |Δ|: a student that turned every preference round looks like its teacher."""
    teacher = suite()
    student = dict(teacher)
    student["probe"] = 1 - teacher["probe"]
    found = bias(answers(teacher, student))
    shares = [value(found, "probe: stereotyped option likelier", role) for role in ("teacher", "student")]
    assert shares[0] > 55 and shares[1] == pytest.approx(100 - shares[0])


def test_09_confidence_is_that_of_the_answer_given() -> None:
    """torchmetrics' binary calibration error takes p(class 1) as confidence: "no" with 95 % would be a confidence of 5 %."""
    logits = torch.log(torch.tensor([[0.95, 0.05], [0.2, 0.8]]))
    found = compare(logits, logits, torch.tensor([0, 0]))
    assert found.conf_N.tolist() == pytest.approx([0.95, 0.8])
    assert (found.top_N == torch.tensor([0, 0])).tolist() == [True, False]


def test_10_a_repair_is_tried_where_it_was_not_fitted() -> None:
    """HELM's Platt scaling is fitted and scored on the same items. Two halves that need opposite temperatures: fitted on both at
    once nothing is left to mend; crossed over, each half is mended the wrong way, and that is what is told."""
    rng = np.random.default_rng(6)
    n = 4000
    cluster = np.arange(n) // 10
    conf = np.full(n, 0.8)
    truth = np.where(cluster % 2 == 0, 0.95, 0.6)
    correct = (rng.random(n) < truth).astype(float)
    found = repair(conf, correct, cluster)
    assert found is not None
    first, second = (cluster % 2 == 0), (cluster % 2 == 1)
    halves = [correct[first].mean(), correct[second].mean()]
    assert found.gap.value == pytest.approx(np.mean([halves[1] - halves[0], halves[0] - halves[1]]), abs=0.02)
    assert found.gap.high - found.gap.low > 2 * 1.96 * math.sqrt(0.2 / n)


def test_11_a_perfect_model_has_a_calibration_error() -> None:
    """HELM asks for about 300 examples: a perfect model scores .05 to .07 there. The number stands beside what chance gives, and does
    not decide."""
    rng = np.random.default_rng(7)
    conf = rng.uniform(0.3, 1.0, 300)
    perfect = calibration_error(conf, (rng.random(300) < conf).astype(float))
    assert perfect is not None and perfect.null_mean > 0.04 and perfect.p > 0.05
    world = World(documents=200, length=40)
    found = calibration(world.items(student=world.logits))
    assert found.verdict == "PASS" and value(found, "calibration error", "student") > 0


def test_12_a_right_beginning_is_not_a_right_answer() -> None:
    """lm-eval's arithmetic has no end: " 27" is right where the model would write " 270". Here the end is asked for."""
    asked = word("q", "9 * 3 =", " 27", end="\n")
    assert asked.end == "\n" and asked.fingerprint != word("q", "9 * 3 =", " 27").fingerprint


def test_13_the_floor_is_what_the_commonest_answer_scores() -> None:
    """Of BoolQ's answers 62 % are yes: chance of one half flatters whoever says yes."""
    gold = np.arange(1000) % 100 < 62
    table = choices("boolq", {"teacher": gold.astype(float), "student": gold.astype(float)}, options=2)
    table = replace(table, gold=np.where(gold, 0, 1))
    assert floor_of(table).mean == pytest.approx(0.62)


def test_14_the_mean_of_ratios_does_not_explode() -> None:
    """A task near its floor has a tiny denominator: one ratio would rule an average of ratios."""
    rng = np.random.default_rng(8)
    n = 4000
    strong = right(rng, n, 0.9)
    weak = right(rng, n, 0.36)
    pair = [
        choices("strong", {"teacher": strong, "student": strong}),
        choices("weak", {"teacher": weak, "student": right(rng, n, 0.25)}),
    ]
    found = tasks(Answers(tuple(pair)))
    assert value(found, "skill kept over all informative tasks", "student") > 80
    mean_of_ratios = np.mean([value(found, f"{t}: skill kept above the floor", "student") for t in ("strong", "weak")])
    assert mean_of_ratios < 65


def test_15_seventeen_lost_and_seventeen_gained_are_thirty_four_changed() -> None:
    """Averages (all of them) say nothing changed."""
    teacher = np.array([1.0] * 200 + [0.0] * 135)
    student = teacher.copy()
    student[:17], student[-17:] = 0.0, 1.0
    assert teacher.mean() == student.mean()
    found = flips(Answers((choices("blimp", {"teacher": teacher, "student": student}),)))
    assert value(found, "blimp: lost or gained", "student") == pytest.approx(34 / 335 * 100)


def test_16_an_average_does_not_hide_a_capability_that_is_gone() -> None:
    """SmolLM2 without 3 of its 30 layers keeps all of BLiMP and ARC-easy and nothing of recall (measured, docs/evaluate.md)."""
    rng = np.random.default_rng(9)
    teacher = suite()
    student = dict(teacher)
    student["recall"] = right(rng, len(teacher["recall"]), 0.25)
    found = coverage(answers(teacher, student))
    assert found.verdict == "FAIL" and "recall" in found.sentence


def test_17_better_odds_for_the_gold_are_no_better_answers() -> None:
    """The absolute likelihood of the right option can rise while nothing more is right: it is not a score here."""
    rng = np.random.default_rng(10)
    table = choices("arc", {"teacher": right(rng, 500, 0.6), "student": right(rng, 500, 0.6)})
    louder = replace(table.roles["student"], ll_NK=table.roles["student"].ll_NK + 3.0)
    moved = replace(table, roles={**table.roles, "student": louder})
    assert tasks(Answers((table,))).estimates == tasks(Answers((moved,))).estimates
