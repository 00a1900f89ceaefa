"""Planted defects: the measure that should see one does, and the others do not."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from answer_tables import every_kind
from synthetic_tables import OUTCOMES, World, softmax, value

from stillhouse.evaluate import statistics as st
from stillhouse.evaluate.measures.benefit import benefit
from stillhouse.evaluate.measures.calibration import calibration
from stillhouse.evaluate.measures.fidelity import expected_tokens, fidelity
from stillhouse.evaluate.measures.performance import performance
from stillhouse.evaluate.records import Finding, Items, Scores
from stillhouse.find import check_options, find, names

ALL: list[Callable[..., Finding]] = [performance, fidelity, calibration, benefit]


def verdicts(items: Items) -> dict[str, str]:
    return {f.name: f.verdict for f in (measure(items) for measure in ALL)}


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def healthy(world: World) -> Items:
    return world.items(student=world.noisy(0.25), control=world.noisy(0.8), before=world.noisy(5.0))


def without(items: Items, *roles: str) -> Items:
    return replace(items, roles={r: s for r, s in items.roles.items() if r not in roles})


# --------------------------------------------------------------------------------------------------- which measure fires


def test_healthy_student_passes_everything(healthy: Items) -> None:
    assert verdicts(healthy) == {
        "performance": "PASS",
        "fidelity": "DESCRIPTIVE",
        "calibration": "PASS",
        "benefit": "PASS",
    }


def test_teacher_as_student_keeps_everything(world: World) -> None:
    items = world.items(student=world.logits, control=world.noisy(0.8))
    assert verdicts(items) == verdicts(world.items(student=world.noisy(0.2), control=world.noisy(0.8)))
    assert value(performance(items), "skill kept above the floor", "student") == 100.0
    assert value(fidelity(items), "same first choice as the teacher", "student") == 100.0
    assert value(fidelity(items), "KL from the teacher, mean", "student") == pytest.approx(0.0, abs=1e-12)
    assert value(fidelity(items), "acceptance rate", "student") == pytest.approx(100.0)
    assert value(calibration(items), "confidence − accuracy, student − teacher", "student") == 0.0
    assert value(benefit(items), "performance gap recovered", "student") == pytest.approx(100.0)


def test_bounds_of_a_teacher_that_names_some_outcomes_are_told_as_bounds(healthy: Items) -> None:
    """What lies among the outcomes not named is not seen: the KL is a lower bound, the acceptance an upper one."""
    whole, part = fidelity(healthy).sentence, fidelity(replace(healthy, partly=True)).sentence
    assert "at least" not in whole and "at most" not in whole
    assert part.replace("at least ", "").replace("at most ", "") == whole
    assert part.index("at most") < part.index("of its tokens accepted") < part.index("KL from the teacher is at least")


@pytest.mark.parametrize("sharpness", [1.35, 0.7])
def test_sharpened_or_flattened_logits_only_fail_calibration(world: World, sharpness: float) -> None:
    """The first choices stay what they were."""
    items = world.items(student=world.noisy(0.2) * sharpness, control=world.noisy(1.5))
    assert verdicts(items) == {
        "performance": "PASS",
        "fidelity": "DESCRIPTIVE",
        "calibration": "FAIL",
        "benefit": "PASS",
    }
    gap = value(calibration(items), "confidence − accuracy", "student")
    assert gap > 5 if sharpness > 1 else gap < -5
    assert ("over" if sharpness > 1 else "under") + "-confident" in calibration(items).sentence


def test_lost_knowledge_only_fails_performance(world: World) -> None:
    """A student that does not know half of what the teacher knows, and says so: the mean over what it does not know."""
    rng = np.random.default_rng(5)
    known = world.logits * 0.7
    rest = np.zeros_like(known)
    for _ in range(60):
        rest += softmax(known + rng.normal(0, 3.0 * math.sqrt(1 - 0.7**2), known.shape))
    # known is what is left of the teacher's logits after regression: logits = known + independent rest
    independent = World()
    independent.logits = known + rng.normal(0, 3.0 * math.sqrt(1 - 0.7**2), known.shape)
    independent.labels = np.array([rng.choice(OUTCOMES, p=p) for p in softmax(independent.logits)])
    items = independent.items(student=np.log(rest / 60), control=independent.noisy(4.0))
    assert verdicts(items) == {
        "performance": "FAIL",
        "fidelity": "DESCRIPTIVE",
        "calibration": "PASS",
        "benefit": "PASS",
    }


def test_control_as_student_leaves_benefit_open(world: World) -> None:
    student = world.noisy(0.25)
    got = benefit(world.items(student=student, control=student))
    assert got.verdict == "INCONCLUSIVE"
    assert "same model" in got.reason


def test_control_as_good_as_the_student_leaves_benefit_open() -> None:
    """Equally skilled, not equal: wrongly decided (two-sided 5 %) in few of 40 worlds."""
    decided = 0
    for seed in range(40):
        world = World(documents=30, seed=seed, length=30)
        decided += benefit(world.items(student=world.noisy(0.5), control=world.noisy(0.5))).verdict != "INCONCLUSIVE"
    assert decided <= 6


def test_student_worse_than_control_fails_benefit(world: World) -> None:
    got = benefit(world.items(student=world.noisy(0.8), control=world.noisy(0.25)))
    assert got.verdict == "FAIL"
    assert "did harm" in got.sentence


def test_half_of_the_labels_shuffled_fails(world: World) -> None:
    """The teacher's own scores, on half of the items those of another item."""
    items = world.items(student=world.logits)
    rng = np.random.default_rng(0)
    nll = items.roles["teacher"].nll.copy()
    broken = np.flatnonzero(rng.random(items.size) < 0.5)
    p = softmax(world.logits)
    nll[broken] = -np.log(p[rng.permutation(broken), world.labels[broken]])
    assert performance(items.with_role("student", Scores(nll))).verdict == "FAIL"


def test_teacher_that_knows_nothing_is_uninformative() -> None:
    world = World(documents=40)
    world.logits = world.rng.normal(0, 0.01, world.logits.shape)
    got = performance(world.items(student=world.logits))
    assert got.verdict == "UNINFORMATIVE"
    estimate = next(e for e in got.estimates if e.label == "skill kept above the floor")
    assert estimate.value is not None and math.isnan(estimate.value)
    plain = next(e for e in got.to_dict()["estimates"] if e["label"] == "skill kept above the floor")
    assert (plain["value"], plain["low"], plain["high"]) == (None, None, None)


def test_unigram_student_keeps_nothing(world: World) -> None:
    items = world.items(student=world.logits)
    got = performance(items.with_role("student", Scores(items.roles["floor"].nll)))
    assert got.verdict == "FAIL"
    assert value(got, "skill kept above the floor", "student") == 0.0


# ------------------------------------------------------------------------------------------------ numbers in slow style


def test_numbers_by_their_definitions(healthy: Items) -> None:
    teacher, student, floor = (healthy.roles[r].nll.tolist() for r in ("teacher", "student", "floor"))
    assert healthy.bytes is not None
    bits = [sum(x) / math.log(2) / sum(healthy.bytes.tolist()) for x in (teacher, student, floor)]
    got = performance(healthy)
    assert value(got, "bits per byte", "teacher") == pytest.approx(bits[0])
    assert value(got, "bits per byte", "student") == pytest.approx(bits[1])
    assert value(got, "skill kept above the floor", "student") == pytest.approx(
        100 * (bits[2] - bits[1]) / (bits[2] - bits[0])
    )
    assert value(got, "raw ratio of bits per byte, student ÷ teacher", "student") == pytest.approx(bits[1] / bits[0])
    assert value(got, "nats per token", "student") == pytest.approx(sum(student) / len(student))
    correct = healthy.roles["student"].column("correct").tolist()
    assert value(got, "top-1 accuracy", "student") == pytest.approx(100 * sum(correct) / len(correct))
    near = fidelity(healthy, draft=3)
    kl = sorted(healthy.roles["student"].column("kl").tolist())
    assert value(near, "KL from the teacher, mean", "student") == pytest.approx(sum(kl) / len(kl))
    assert value(near, "KL from the teacher, 99th percentile", "student") == kl[math.ceil(0.99 * len(kl)) - 1]
    curve = next(c for c in near.charts if c.x_label == "percentile").series[0]
    for p in curve.points:
        assert p.y == kl[math.ceil(float(p.x) / 100 * len(kl) - 1e-9) - 1]
    alpha = value(near, "acceptance rate", "student") / 100
    assert value(near, "tokens per check of 3 drafted", "student") == pytest.approx((1 - alpha**4) / (1 - alpha))
    help_ = benefit(healthy)
    control = sum(healthy.roles["control"].nll.tolist()) / math.log(2) / sum(healthy.bytes.tolist())
    assert value(help_, "bits per byte saved against control", "student") == pytest.approx(control - bits[1])
    assert value(help_, "performance gap recovered", "student") == pytest.approx(
        100 * (control - bits[1]) / (control - bits[0])
    )


def test_expected_tokens_by_drafting() -> None:
    """Accept drafted tokens until one is refused; the teacher adds one."""
    rng = np.random.default_rng(0)
    total = 0
    for _ in range(20_000):
        taken = 0
        while taken < 4 and rng.random() < 0.7:
            taken += 1
        total += taken + 1
    assert expected_tokens(0.7, 4) == pytest.approx(total / 20_000, rel=0.02)
    assert expected_tokens(1.0, 4) == 5.0


@pytest.mark.parametrize(("teacher_gap", "student_gap"), [(0.0, 0.03), (-0.01, 0.04), (0.002, -0.032), (0.05, -0.08)])
def test_gap_beyond_the_teacher_is_seldom_allowed_wrongly(teacher_gap: float, student_gap: float) -> None:
    """True |g_S| − |g_T| is the limit itself: PASS and FAIL are both wrong, be the signs plain or not."""
    rng = np.random.default_rng(0)
    passed = failed = 0
    n, reps = 2000, 800
    none = np.zeros(n, int)
    for _ in range(reps):
        conf, luck = rng.uniform(0.3, 0.9, n), rng.random(n)
        over = [(conf - (luck < conf - gap)) * 100 for gap in (teacher_gap, student_gap)]
        roles = {"teacher": Scores(np.ones(n))}
        items = Items(np.arange(n), np.full(n, "", object), none, none, None, roles)
        _, low, high = st.further(over[1], over[0], items.document)
        passed += high <= 3.0
        failed += low > 3.0
    assert passed / reps <= 0.065
    assert failed / reps <= 0.065


# ------------------------------------------------------------------------------------------------ few documents, no bytes


@pytest.mark.parametrize("documents", [2, 3, 5])
def test_few_documents_are_answered_and_warned_of(documents: int) -> None:
    world = World(documents=documents)
    items = world.items(student=world.noisy(0.25), control=world.noisy(0.8), before=world.noisy(4))
    for measure in ALL:
        got = measure(items)
        assert any("document" in limit for limit in got.limits)
        json.dumps(got.to_dict(), allow_nan=False)
    if documents < 5:
        assert performance(items).verdict not in ("PASS", "FAIL")
    wide, narrow = (
        next(e for e in performance(i).estimates if e.label == "bits per byte" and e.role == "student")
        for i in (items, World(documents=60).items(student=World(documents=60).noisy(0.25)))
    )
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)  # type: ignore[operator]


@pytest.mark.parametrize("measure", ALL)
def test_one_document_is_not_measured(measure: Callable[..., Finding]) -> None:
    world = World(documents=1)
    got = measure(world.items(student=world.noisy(0.2), control=world.noisy(0.5)))
    assert got.verdict == "NOT MEASURED"
    assert "two documents" in got.reason


@pytest.mark.parametrize("measure", ALL)
def test_nothing_at_all_is_not_measured(measure: Callable[..., Finding]) -> None:
    none = np.zeros(0, int)
    empty = Items(
        none, np.zeros(0, object), none, none, none, {r: Scores(np.zeros(0)) for r in ("teacher", "student", "floor")}
    )
    assert measure(empty).verdict == "NOT MEASURED"


@pytest.mark.parametrize("measure", ALL)
def test_missing_student_is_not_measured(measure: Callable[..., Finding], healthy: Items) -> None:
    got = measure(without(healthy, "student"))
    assert got.verdict == "NOT MEASURED"
    assert "student" in got.sentence


def test_what_is_missing_is_named(healthy: Items) -> None:
    assert "floor" in performance(without(healthy, "floor")).sentence
    got = benefit(without(healthy, "control"))
    assert got.verdict == "NOT MEASURED"
    assert "evaluate.control" in got.reason
    assert "before training it saves" in got.sentence
    bare = healthy.with_role("student", Scores(healthy.roles["student"].nll))
    assert fidelity(bare).verdict == calibration(bare).verdict == "NOT MEASURED"
    assert performance(bare).verdict == "PASS"


def test_without_bytes_losses_are_per_item(world: World) -> None:
    items = world.items(bytes_=False, student=world.noisy(0.25), control=world.noisy(0.8))
    got = performance(items)
    assert got.verdict == "PASS"
    assert value(got, "nats per item", "student") == pytest.approx(items.roles["student"].nll.mean())
    assert not [e for e in got.estimates if "byte" in e.label]


def test_all_in_one_document_of_two_is_not_measured() -> None:
    world = World(documents=2)
    items = world.items(student=world.noisy(0.2), control=world.noisy(0.5))
    assert items.bytes is not None
    lopsided = replace(items, bytes=np.where(items.document == 0, items.bytes, 0))
    assert performance(lopsided).verdict == "NOT MEASURED"
    assert benefit(lopsided).verdict == "INCONCLUSIVE"


# ---------------------------------------------------------------------------------------------------------- the contract


@pytest.mark.parametrize("name", ["performance", "fidelity", "calibration", "benefit"])
def test_same_table_same_seed_same_bytes(name: str, healthy: Items) -> None:
    measure = find("measure", name)
    one, two = (json.dumps(measure(healthy).to_dict(), sort_keys=True, allow_nan=False) for _ in range(2))
    assert one == two


def test_another_seed_moves_only_what_is_resampled(healthy: Items) -> None:
    one, two = fidelity(healthy, seed=0), fidelity(healthy, seed=1)
    moved = {a.label for a, b in zip(one.estimates, two.estimates, strict=True) if (a.low, a.high) != (b.low, b.high)}
    assert moved == {"KL from the teacher, median", "KL from the teacher, 99th percentile"}
    assert one.sentence == two.sentence


@pytest.mark.parametrize("name", names("measure"))
def test_every_measure_asks_its_question_and_says_its_numbers(name: str, healthy: Items) -> None:
    measure = find("measure", name)
    options = check_options(measure, {"outside": "3"} if name == "out_of_scope" else {}, name)
    if name == "route":
        healthy = healthy.with_role("direct", healthy.roles["control"])
    tags = {key: {"half": "first" if i % 2 else "second"} for i, key in enumerate(dict.fromkeys(healthy.key.tolist()))}
    tables = {"items": healthy, "answers": every_kind(), "classes": [str(i) for i in range(OUTCOMES)], "tags": tags}
    takes = inspect.signature(measure).parameters
    got = measure(**{key: table for key, table in tables.items() if key in takes}, **options)
    assert got.name == name
    assert (measure.__doc__ or "").splitlines()[0].endswith("?")
    assert got.question.endswith("?")
    assert got.sentence.endswith(".")
    if name == "discovered":  # a healthy student has no slices to show
        assert not got.charts
        return
    assert "[" in got.sentence or name == "soundness"
    assert "nan" not in got.sentence and "inf" not in got.sentence
    assert got.charts and got.limits
    for e in got.estimates:
        assert e.role in healthy.roles
        if e.low is not None and e.high is not None and e.value is not None:
            assert e.low <= e.value <= e.high, e
    for chart in got.charts:
        for series in chart.series:
            for p in series.points:
                assert isinstance(p.x, str) == (chart.kind in ("forest", "ladder", "bars"))


def test_the_threshold_is_an_option(healthy: Items) -> None:
    kept = value(performance(healthy), "skill kept above the floor", "student") / 100
    assert performance(healthy, retention=kept).verdict == "INCONCLUSIVE"
    assert performance(healthy, retention=1.0).verdict == "FAIL"
    gap = abs(value(calibration(healthy), "confidence − accuracy", "student"))
    assert calibration(healthy, largest=gap + 0.01).verdict == "INCONCLUSIVE"
    assert "would decide" in calibration(healthy, largest=gap + 0.3).reason


def test_intervals_are_by_document(healthy: Items) -> None:
    """Taking each token as its own document gives narrower intervals: the measures must not do that."""
    got = performance(healthy)
    e = next(x for x in got.estimates if x.label == "nats per token" and x.role == "teacher")
    alone = st.mean(healthy.roles["teacher"].nll, np.arange(healthy.size))
    assert e.high is not None and e.low is not None
    assert e.high - e.low > 1.3 * (alone.high - alone.low)
