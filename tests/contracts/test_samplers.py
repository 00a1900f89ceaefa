"""What holds for every sampler that chooses text, and for every mixture: a new file is checked from the start."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from mixed import ASKED, NEEDED, Scale, make_pieces, make_stream, read

from stillhouse import recipe
from stillhouse.data import options_of, writes
from stillhouse.data.choosing import TaskSize
from stillhouse.errors import RunError
from stillhouse.find import check_options, find, names

CHOOSING = [name for name in names("sampler") if not writes(recipe.Strategy(name=name))]
SHORT = {"dynamic": {"every": 6}}
"""Options that make something happen within a short run."""
STEPS = 24


def stream_of(name: str, folder: Path, *, mixture: str = "equal", student: Scale | None = None, **options):
    pieces = make_pieces({"a": 60, "b": 30, "c": 7})
    samplers = [(name, SHORT.get(name, {}))]
    return make_stream(pieces, mixture, samplers, folder=folder, student=student, steps=STEPS, **options)


def learning(stream, student: Scale, steps, die_at: int | None = None):
    """Read as the loop does, with weights that move at every step."""
    found = {}
    for step in steps:
        student.learned = float(step)
        batches = stream.step(step, **ASKED)
        if step == die_at:
            break
        found[step] = ([batch.keys for batch in batches], stream.facts())
    return found


@pytest.mark.parametrize("name", CHOOSING)
@pytest.mark.parametrize("mixture", ["equal", "adaptive"])
def test_killed_in_the_middle_it_goes_on_with_the_same_text(name: str, mixture: str, tmp_path: Path):
    options = {"every": 4} if mixture == "adaptive" else {}
    student = Scale()
    whole = learning(
        stream_of(name, tmp_path / "whole", mixture=mixture, student=student, **options), student, range(STEPS)
    )
    for at in (0, 3, 6, 7, 13, 18):
        folder = tmp_path / f"killed-{at}"
        first = Scale()
        before = learning(stream_of(name, folder, mixture=mixture, student=first, **options), first, range(at + 1), at)
        again = max(0, at - 2)  # the last checkpoint was two steps ago
        second = Scale()
        after = learning(
            stream_of(name, folder, mixture=mixture, student=second, **options), second, range(again, STEPS)
        )
        for step in range(STEPS):
            keys, facts = after.get(step) or before[step]
            assert keys == whole[step][0], (at, step)
            assert {k: v for k, v in facts.items() if k != "measured_seconds"} == {
                k: v for k, v in whole[step][1].items() if k != "measured_seconds"
            }
        for step, (_, facts) in after.items():
            if step in before:  # what it took is told as it was then
                assert facts == before[step][1]


@pytest.mark.parametrize("name", CHOOSING)
def test_it_keeps_the_proportions_of_the_mixture(name: str, tmp_path: Path):
    stream = stream_of(name, tmp_path, mixture="fixed")
    tokens: Counter[str] = Counter()
    for step in range(STEPS):
        for batch in stream.step(step, **ASKED):
            for task, a, b in zip(batch.tasks, batch.borders_D1, batch.borders_D1[1:], strict=False):
                tokens[task] += b - a
    total = sum(tokens.values())
    shares = NEEDED["fixed"]["shares"]
    for task, share in shares.items():
        assert tokens[task] / total == pytest.approx(share / sum(shares.values()), abs=0.04)


@pytest.mark.parametrize("name", CHOOSING)
def test_the_control_reads_what_the_student_read(name: str, tmp_path: Path):
    student = Scale()
    whole = learning(stream_of(name, tmp_path, student=student), student, range(STEPS))
    other = Scale(learned=99.0)
    control = stream_of(name, tmp_path, student=other, measures=False)
    assert [batches for batches, _ in whole.values()] == read(control, range(STEPS))
    assert not other.asked


@pytest.mark.parametrize("name", CHOOSING)
def test_what_was_measured_and_is_gone_stops_the_run(name: str, tmp_path: Path):
    stream = stream_of(name, tmp_path)
    read(stream, range(3))
    for file in (tmp_path / "sampling").iterdir():
        file.write_bytes(file.read_bytes()[:-40])  # cut off
    with pytest.raises(RunError, match="missing or damaged"):
        read(stream_of(name, tmp_path), range(2, 4))


@pytest.mark.parametrize("name", CHOOSING)
def test_what_it_costs_is_told_where_it_is_measured_and_nowhere_else(name: str, tmp_path: Path):
    student = Scale()
    told = learning(stream_of(name, tmp_path, student=student), student, range(STEPS))
    due = set(range(0, STEPS, SHORT[name]["every"])) if name in SHORT else {0}
    assert {step for step, (_, facts) in told.items() if "measured_tokens" in facts} == due
    assert len(student.asked) == len(due)
    tokens = stream_of(name, tmp_path).pieces.tokens
    assert all(facts["measured_tokens"] == tokens for step, (_, facts) in told.items() if step in due)


@pytest.mark.parametrize("one", CHOOSING)
@pytest.mark.parametrize("two", CHOOSING)
def test_any_two_can_stand_one_after_the_other(one: str, two: str, tmp_path: Path):
    pieces = make_pieces({"a": 60, "b": 30})
    both = make_stream(pieces, "equal", [one, two], folder=tmp_path / "both", steps=STEPS)
    alone = make_stream(pieces, "equal", [one], folder=tmp_path / "one", steps=200)
    for step in range(STEPS):
        assert all(batch.labels_N.numel() for batch in both.step(step, **ASKED))
    if one in ("focused", "confident"):  # what the first left out the second cannot bring back
        first = {key for step in range(200) for batch in alone.step(step, **ASKED) for key in batch.keys}
        assert {key for step in range(STEPS) for batch in both.step(step, **ASKED) for key in batch.keys} <= first


@pytest.mark.parametrize("name", names("mixture"))
def test_shares_are_positive_numbers_for_any_sizes(name: str):
    function = find("mixture", name)
    options = check_options(function, NEEDED.get(name, {}), "data.mixture")
    draw = np.random.default_rng(0)
    for _ in range(20):
        tokens = draw.integers(1, 10**9, 3).tolist()
        tasks = [TaskSize(n, t, 1, float(draw.exponential(2.0))) for n, t in zip("abc", tokens, strict=True)]
        raw = function(tasks, **options)
        assert len(raw) == 3 and all(np.isfinite(value) and value > 0 for value in raw)


@pytest.mark.parametrize("name", names("mixture"))
def test_a_mixture_resumes_as_it_was(name: str, tmp_path: Path):
    pieces = make_pieces({"a": 60, "b": 30, "c": 7})
    options = {"every": 5} if name == "adaptive" else {}
    student = Scale()
    whole = learning(make_stream(pieces, name, folder=tmp_path, student=student, **options), student, range(20))
    other = Scale(learned=7.0)
    rest = learning(make_stream(pieces, name, folder=tmp_path, student=other, **options), other, range(11, 20))
    assert rest == {step: whole[step] for step in range(11, 20)}


def test_options_of_a_strategy_have_their_defaults():
    assert options_of(recipe.Strategy(name="dynamic"), "data.sampler") == {"every": 100, "power": 1.0, "by": "gap"}
