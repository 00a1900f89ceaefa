"""Which pieces each sampler reads, from its definition."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
from mixed import ASKED, make_pieces, make_stream

PIECES = make_pieces({"a": 60, "b": 20})


def difficulty(key: str) -> float:
    return int(key[:4], 16) / 65536


def of_task(keys_and_tasks: list[tuple[str, str]], task: str) -> list[str]:
    return [key for key, mine in keys_and_tasks if mine == task]


def keys_read(
    folder: Path, sampler: str, options: dict, steps: int, of: int | None = None
) -> list[list[tuple[str, str]]]:
    """Of each step the documents that are begun, with their tasks."""
    stream = make_stream(PIECES, "equal", [(sampler, options)], folder=folder, steps=of or steps)
    found = []
    for step in range(steps):
        found.append([pair for b in stream.step(step, **ASKED) for pair in zip(b.keys, b.tasks, strict=True)])
    return found


def all_keys(task: int) -> list[str]:
    return [row["key"].tobytes().hex() for row in PIECES._documents[PIECES._documents["task"] == task]]


def test_focused_reads_the_hardest_part_and_all_of_it(tmp_path):
    read = Counter(pair for step in keys_read(tmp_path, "focused", {"keep": 0.25}, 30) for pair in step)
    for index, task in enumerate("ab"):
        ranked = sorted(all_keys(index), key=difficulty, reverse=True)
        assert {key for key, mine in read if mine == task} == set(ranked[: math.ceil(0.25 * len(ranked))])


def test_confident_leaves_out_what_is_least_sure(tmp_path):
    read = {pair for step in keys_read(tmp_path, "confident", {"keep": 0.5}, 40) for pair in step}
    for index, task in enumerate("ab"):
        ranked = sorted(all_keys(index), key=difficulty)
        assert {key for key, mine in read if mine == task} == set(ranked[: math.ceil(0.5 * len(ranked))])


def test_hard_first_begins_with_the_hardest(tmp_path):
    steps = keys_read(tmp_path, "hard_first", {}, 2)
    for index, task in enumerate("ab"):
        ranked = sorted(all_keys(index), key=difficulty, reverse=True)
        read = list(dict.fromkeys(of_task([pair for step in steps for pair in step], task)))
        assert set(read) == set(ranked[: len(read)])


def test_a_curriculum_grows_from_easy_to_all(tmp_path):
    steps = keys_read(tmp_path, "curriculum", {"begin": 0.2, "until": 0.5}, 64)
    ranked = sorted(all_keys(0), key=difficulty)
    for step, pairs in enumerate(steps):
        progress = (step // 16 * 16) / 64
        in_play = min(1.0, math.sqrt(progress * (1 - 0.04) / 0.5 + 0.04))
        allowed = set(ranked[: math.ceil(in_play * len(ranked))])
        assert set(of_task(pairs, "a")) <= allowed
    late = {key for pairs in steps[32:] for key in of_task(pairs, "a")}
    assert len(late) > 0.9 * len(ranked)


def test_dynamic_draws_the_harder_the_more_often(tmp_path):
    steps = keys_read(tmp_path, "dynamic", {"every": 1, "power": 4.0}, 60)
    read = Counter(key for pairs in steps for key in of_task(pairs, "a"))
    ranked = sorted(all_keys(0), key=difficulty)
    easy, hard = (sum(read[key] for key in part) for part in (ranked[:20], ranked[-20:]))
    assert hard > 3 * easy


def test_dynamic_of_no_power_draws_all_alike(tmp_path):
    steps = keys_read(tmp_path, "dynamic", {"every": 1, "power": 0.0}, 100)
    read = Counter(key for pairs in steps for key in of_task(pairs, "a"))
    ranked = sorted(all_keys(0), key=difficulty)
    easy, hard = (sum(read[key] for key in part) for part in (ranked[:30], ranked[-30:]))
    draws = easy + hard
    assert abs(easy / draws - 0.5) < 4 * 0.5 / math.sqrt(draws)  # four standard deviations


@pytest.mark.parametrize("sampler", ["focused", "hard_first", "curriculum", "confident"])
def test_what_is_chosen_is_read_as_often_as_the_rest_of_it(tmp_path, sampler):
    steps = keys_read(tmp_path, sampler, {"keep": 0.5} if sampler in ("focused", "confident") else {}, 96, 96)
    read = Counter(key for pairs in steps[64:] for key in of_task(pairs, "a"))
    assert max(read.values()) - min(read.values()) <= 2
