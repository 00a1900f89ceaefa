from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mixed import ASKED, Scale, make_pieces, make_stream, read

from stillhouse.data.choosing import TaskSize
from stillhouse.data.pieces import Pieces
from stillhouse.errors import RunError
from stillhouse.find import find

SIZES = [TaskSize("a", 900, 30, 2.0), TaskSize("b", 90, 3, 0.5), TaskSize("c", 10, 1, 0.0)]


def shares(name: str, **options) -> list[float]:
    raw = find("mixture", name)(SIZES, **options)
    return [value / sum(raw) for value in raw]


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("proportional", {}, [0.9, 0.09, 0.01]),
        ("proportional", {"tau": 0.0}, [1 / 3] * 3),
        ("proportional", {"tau": 0.5}, [30 / 42.649, 9.4868 / 42.649, 3.1623 / 42.649]),
        ("capped", {"most": 90}, [90 / 190, 90 / 190, 10 / 190]),
        ("equal", {}, [1 / 3] * 3),
        ("fixed", {"shares": {"a": 1, "b": 3, "c": 4}}, [1 / 8, 3 / 8, 1 / 2]),
        ("adaptive", {"power": 0.0}, [1 / 3] * 3),
        ("adaptive", {"power": 1.0, "least": 0.03}, [0.8 / 1.01, 0.2 / 1.01, 0.01 / 1.01]),
    ],
)
def test_shares_are_those_of_the_definition(name, options, expected):
    assert shares(name, **options) == pytest.approx(expected, rel=1e-4)


def test_a_gap_of_none_is_shared_out_evenly():
    raw = find("mixture", "adaptive")([TaskSize("a", 5, 1), TaskSize("b", 50, 1)])
    assert raw[0] == raw[1]


def tokens_by_task(stream, steps: int) -> list[Counter[str]]:
    """Tokens of each task after each step."""
    total: Counter[str] = Counter()
    found = []
    for step in range(steps):
        for batch in stream.step(step, **ASKED):
            for task, a, b in zip(batch.tasks, batch.borders_D1, batch.borders_D1[1:], strict=False):
                total[task] += b - a
        found.append(Counter(total))
    return found


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(2, 60), min_size=1, max_size=5),
    tau=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    whole=st.booleans(),
    seed=st.integers(0, 5),
)
def test_each_task_has_its_share_of_the_tokens_at_every_step(counts, tau, whole, seed):
    names = [chr(ord("a") + i) for i in range(len(counts))]
    pieces = make_pieces(dict(zip(names, counts, strict=True)), seed=seed, whole=whole)
    stream = make_stream(pieces, "proportional", tau=tau, steps=50)
    size = np.array([float(pieces.parts[1][pieces.task_of == i].sum()) for i in range(len(names))]) ** tau
    for step, seen in enumerate(tokens_by_task(stream, 50)):
        total = sum(seen.values())
        rounds = step // 16 + 1
        for name, share in zip(names, size / size.sum(), strict=True):
            # A piece too many or too few, what a cut at the end of a round leaves unread, and the pieces of a micro-batch
            # that is not filled yet; never something that grows with the number of tokens.
            assert abs(seen[name] - share * total) <= 2 * 40 + 40 * rounds, (step, name)


def test_long_runs_hold_the_shares_to_a_part_in_a_hundred():
    stream = make_stream(
        make_pieces({"a": 300, "b": 20, "c": 5}), "fixed", shares={"a": 50, "b": 49, "c": 1}, steps=400
    )
    seen = tokens_by_task(stream, 400)[-1]
    total = sum(seen.values())
    assert {name: seen[name] / total for name in "abc"} == pytest.approx({"a": 0.5, "b": 0.49, "c": 0.01}, abs=0.01)


@settings(max_examples=30, deadline=None)
@given(counts=st.lists(st.integers(2, 30), min_size=1, max_size=4), seed=st.integers(0, 3))
def test_no_document_is_read_twice_before_all_of_its_task_are_read_once(counts, seed):
    names = [chr(ord("a") + i) for i in range(len(counts))]
    pieces = make_pieces(dict(zip(names, counts, strict=True)), seed=seed)
    stream = make_stream(pieces, "equal", steps=40)
    times: Counter[str] = Counter()
    task_of: dict[str, str] = {}
    for step in range(40):
        for batch in stream.step(step, **ASKED):
            times.update(batch.keys)
            task_of.update(zip(batch.keys, batch.tasks, strict=True))
    for index, name in enumerate(names):
        counted = [times[key] for key in task_of if task_of[key] == name]
        counted += [0] * (counts[index] - len(counted))
        # two rounds may lay a document's two readings next to each other, never more
        assert max(counted) - min(counted) <= 2


def test_one_task_is_one_without_a_mixture(tmp_path: Path):
    """What is read does not depend on how many processes share a step, and documents of a task lie together."""
    pieces = make_pieces({"a": 40, "b": 10})
    stream = make_stream(pieces, "equal", folder=tmp_path)
    for step in (0, 5, 17):
        whole = stream.step(step, **ASKED)
        parts = [stream.step(step, **ASKED, rank=rank, world=2)[0] for rank in (0, 1)]
        assert [b.keys for b in whole] == [b.keys for b in parts]
        for batch in whole:
            assert list(batch.tasks) == sorted(batch.tasks)


@pytest.mark.parametrize("at", [0, 7, 15, 16, 33])
def test_a_stream_of_no_samplers_is_a_function_of_the_step(at):
    pieces = make_pieces({"a": 40, "b": 10})
    through = read(make_stream(pieces, "equal"), range(40))
    assert read(make_stream(pieces, "equal"), range(at, 40)) == through[at:]
    stream = make_stream(pieces, "equal")
    assert read(stream, [30, at, 39]) == [through[30], through[at], through[39]]  # also backwards


def test_other_seeds_read_in_another_order():
    pieces = make_pieces({"a": 40, "b": 10})
    one, two = (make_stream(pieces, "equal").step(0, **{**ASKED, "seed": seed})[0].keys for seed in (1, 2))
    assert one != two


def test_limits_on_epochs_hold_and_others_take_the_place():
    pieces = make_pieces({"a": 100, "b": 10})
    stream = make_stream(pieces, "equal", epochs={"b": 2}, steps=32)
    times: Counter[str] = Counter()
    tasks: Counter[str] = Counter()
    for step in range(32):
        for batch in stream.step(step, **ASKED):
            times.update(key for key, task in zip(batch.keys, batch.tasks, strict=True) if task == "b")
            tasks.update(batch.tasks)
    assert set(times.values()) == {2} and len(times) == 10
    assert tasks["a"] > 5 * tasks["b"]
    assert stream.facts()["epochs/b"] == pytest.approx(2.0)


def test_a_run_that_the_limits_do_not_allow_is_told():
    pieces = make_pieces({"a": 20, "b": 10})
    stream = make_stream(pieces, "equal", epochs={"a": 1, "b": 1}, steps=100)
    assert stream.most == pieces.tokens
    with pytest.raises(RunError, match="limits on epochs"):
        read(stream, range(100))
    assert make_stream(pieces, "equal", epochs={"a": 1}).most == math.inf


def test_epochs_are_counted():
    pieces = make_pieces({"a": 50, "b": 25})
    stream = make_stream(pieces, "equal", steps=30)
    for step in range(30):
        stream.step(step, **ASKED)
    tokens = tokens_by_task(make_stream(pieces, "equal", steps=30), 30)[-1]
    for index, name in enumerate("ab"):
        mine = pieces.parts[1][pieces.task_of == index].sum()
        assert stream.facts()[f"epochs/{name}"] == pytest.approx(tokens[name] / mine, abs=3 * 40 / mine)


def test_an_adaptive_mixture_follows_the_gap_and_is_exact_after_a_kill(tmp_path: Path):
    pieces = make_pieces({"a": 30, "b": 30})

    class Lagging(Scale):
        def measure(self, student, names, batches, tokens):
            sums, counts = super().measure(student, names, batches, tokens)
            return sums * (3.0 if len(self.asked) % 2 == 0 else 1.0), counts  # every second task lags behind

    stream = make_stream(pieces, "adaptive", folder=tmp_path, student=Lagging(), every=10)
    through = read(stream, range(25))
    share = stream.shares(20, 20)
    assert share[1] == pytest.approx(0.75, abs=0.1)
    assert len(list((tmp_path / "sampling").glob("gaps-*.npz"))) == 3
    other = make_stream(pieces, "adaptive", folder=tmp_path, student=Lagging(), measures=False, every=10)
    assert read(other, range(13, 25)) == through[13:]
    (tmp_path / "sampling" / "gaps-00000010.npz").write_bytes(b"damaged")
    late = make_stream(pieces, "adaptive", folder=tmp_path, student=Lagging(), every=10)
    with pytest.raises(RunError, match="of steps after 10"):
        late.step(13, **ASKED)


def test_weights_of_tasks_are_weights_of_positions():
    pieces = make_pieces({"a": 5, "b": 5})
    heavy = Pieces(pieces._inputs, pieces._labels, pieces._bytes, pieces._documents, 64, {"a": 1.0, "b": 2.5})
    for batch, _ in heavy.all(64):
        for d, weight in zip(batch.document_N.tolist(), batch.weight_N.tolist(), strict=True):
            assert weight == {"a": 1.0, "b": 2.5}[batch.tasks[d]]
