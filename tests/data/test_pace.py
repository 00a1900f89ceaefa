"""How long the sources still need."""

from __future__ import annotations

import gzip
import importlib
import itertools
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet as pq
from shared import make_llama, make_tokenizer

from stillhouse.data import pace, prepare, reading
from stillhouse.data.pace import Pace, left
from stillhouse.find import find, names
from stillhouse.recipe import parse

# ---- what each source tells


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[tuple[Any, ...], dict[str, Any], int]]:
    """Of each source: what it is given, its options, and the least number of different shares to be told."""
    monkeypatch.setattr(reading, "_CHUNK", 64)
    for name in ("prompts", "texts", "lines", "tables", "rows"):
        (tmp_path / name).mkdir()
    (tmp_path / "prompts" / "a.txt").write_text("\n".join(f"prompt {i}" for i in range(7)))
    (tmp_path / "texts" / "a.txt").write_text("river mill. " * 50)
    (tmp_path / "texts" / "b.txt.gz").write_bytes(gzip.compress(b"oak. " * 50))
    lines = "".join(json.dumps({"text": f"line {i}"}) + "\n" for i in range(40))
    (tmp_path / "lines" / "a.jsonl").write_text(lines)
    (tmp_path / "lines" / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    for name, rows in (("a", 700), ("b", 300)):
        pq.write_table(pa.table({"text": [f"row {i}" for i in range(rows)]}), tmp_path / "tables" / f"{name}.parquet")
    datasets.Dataset.from_dict({"text": [f"row {i}" for i in range(9)]}).save_to_disk(tmp_path / "rows" / "saved")
    teacher = make_llama(make_tokenizer())
    return {
        "text": ((), {"path": str(tmp_path / "texts")}, 10),
        "jsonl": ((), {"path": str(tmp_path / "lines")}, 10),
        "parquet": ((), {"path": str(tmp_path / "tables")}, 5),
        "hub": ((), {"dataset": str(tmp_path / "rows" / "saved")}, 9),
        "python_docs": ((), {}, 100),
        "written": ((teacher,), {"prompts": str(tmp_path / "prompts"), "new_tokens": 6, "together": 3}, 10),
    }


@pytest.mark.parametrize("name", names("source"))
def test_a_source_tells_of_its_work_from_none_to_all(name: str, examples: Any):
    given, options, least = examples[name]
    told: list[float] = []
    records = list(find("source", name)(*given, told.append, **options))
    assert records == list(find("source", name)(*given, **options))  # it changes nothing
    assert told == sorted(told)
    assert told[0] < 0.25 and told[-1] == 1.0
    assert all(0.0 <= share <= 1.0 for share in told)
    assert len(set(told)) >= least
    assert max(b - a for a, b in itertools.pairwise(told)) < 0.75  # and not all at once


def test_what_is_told_is_the_share_of_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A part counts when the next is asked for: until then it is being used."""
    monkeypatch.setattr(reading, "_CHUNK", 10)
    sizes = (30, 0, 10)
    for number, size in enumerate(sizes):
        (tmp_path / f"{number}.bin").write_bytes(b"x" * size)
    told: list[float] = []
    at: list[float] = []
    for path, tell in reading.in_turn(sorted(tmp_path.iterdir()), told.append):
        for _chunk in reading.chunks(path, tell):
            at.append(told[-1])
    assert at == [0.0, 0.25, 0.5, 0.75]
    assert told[-1] == 1.0


def test_a_stream_has_no_known_length(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": str(i)}) + "\n" for i in range(5)))
    told: list[float] = []
    assert len(list(find("source", "hub")(told.append, dataset=str(tmp_path)))) == 5
    assert told == [1.0]


# ---- the time left


class Hands:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 50.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    clock = Hands()
    monkeypatch.setattr(pace, "time", clock)
    return clock


def spend(source: Pace, hands: Hands, *steps: tuple[float, float | None]) -> None:
    """A turn of a source: seconds, and the share it tells after them."""
    with source.turn():
        for seconds, share in steps:
            hands.now += seconds
            if share is not None:
                source.tell(share)


def test_the_rest_goes_at_the_speed_since_it_first_told(hands: Hands):
    source = Pace()
    spend(source, hands, (100.0, 0.0), (3.0, 0.1))  # 100 seconds to start, then a tenth in three
    assert source.left() == pytest.approx(27.0)
    spend(source, hands, (3.0, 0.4))
    assert source.left() == pytest.approx(6.0 / 0.4 * 0.6)


def test_only_its_own_turns_count(hands: Hands):
    source, other = Pace(), Pace()
    spend(source, hands, (1.0, 0.0))
    spend(other, hands, (500.0, 0.5))
    hands.now += 70
    spend(source, hands, (2.0, 0.5))
    assert source.left() == pytest.approx(2.0)


def test_between_two_tellings_the_time_left_goes_down(hands: Hands):
    source = Pace()
    spend(source, hands, (0.0, 0.0), (5.0, 0.5), (2.0, None))
    assert source.left() == pytest.approx(3.0)
    spend(source, hands, (100.0, None))
    assert source.left() == 0.0


def test_too_little_to_judge_by(hands: Hands):
    source = Pace()
    assert source.left() is None
    spend(source, hands, (9.0, 0.2))
    assert source.left() is None  # no speed from one number
    spend(source, hands, (9.0, 0.2))
    assert source.left() is None  # it has not moved
    quick = Pace()
    spend(quick, hands, (0.0, 0.0), (0.01, 0.001))
    assert quick.left() is None  # start-up, most likely
    quick.finished = True
    assert quick.left() == 0.0


def test_sources_add_up_and_one_that_is_not_known_makes_it_a_lower_bound(hands: Hands):
    a, b, unknown = Pace(), Pace(), Pace()
    spend(a, hands, (0.0, 0.0), (1.0, 0.5))
    spend(b, hands, (0.0, 0.0), (1.0, 0.1))
    assert left([a, b], 5, None) == (pytest.approx(10.0), False)
    assert left([a, b, unknown], 5, None) == (pytest.approx(10.0), True)
    assert left([unknown], 5, None) == (None, False)
    a.finished = True
    assert left([a, unknown], 5, None) == (None, False)


def test_a_limit_on_documents_ends_it_earlier(hands: Hands):
    known, unknown = Pace(), Pace()
    spend(known, hands, (0.0, 0.0), (10.0, 0.5))
    assert left([known], 20, 30) == (pytest.approx(5.0), False)
    assert left([known], 20, 1000) == (pytest.approx(10.0), False)
    spend(unknown, hands, (10.0, None))
    assert left([unknown], 20, 30) == (pytest.approx(5.0), False)
    assert left([unknown], 0, 30) == (None, False)


def test_a_burst_among_quick_records_is_foretold(hands: Hands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A source that takes a minute before its first record, in turn with one of quick records: never wrong by a third."""
    monkeypatch.setattr(pace, "left", spied := _Spy(pace.left, hands))
    monkeypatch.setattr("stillhouse.data.building._SECONDS_BETWEEN_REPORTS", -1.0)

    def quick(tell: Callable[[float], None]) -> Any:
        for i in range(100):
            tell(i / 100)
            hands.now += 0.1
            yield {"text": f"quick quick quick {i}"}

    def slow(tell: Callable[[float], None]) -> Any:
        for i in range(1, 61):
            hands.now += 1.0
            tell(i / 60)
        yield from ({"text": f"slow slow slow slow {i}"} for i in range(4))

    module = types.ModuleType("of_mine")
    module.quick, module.slow = quick, slow  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "of_mine", module)
    sources = [{"name": f"of_mine:{name}"} for name in ("quick", "slow")]
    settings = parse({"data": {"sources": sources, "block": 8}, "teacher": "x", "student": "random"})
    tokenizer = make_tokenizer()
    texts: list[str] = []
    prepare(settings.data, tokenizer, tmp_path / "data", progress=lambda text, left, at_least: texts.append(text))
    end = hands.now
    assert end == pytest.approx(50 + 70)
    told = [(now, seconds) for now, (seconds, _) in spied.said if seconds is not None]
    assert len(told) > 100
    assert all(abs(now + seconds - end) <= 12 for now, seconds in told)  # the quick source's ten are not known at first
    assert all(abs(now + seconds - end) < 1 for now, seconds in told if now > 115)
    assert texts[-1] == "104 documents"


class _Spy:
    def __init__(self, real: Callable[..., Any], hands: Hands) -> None:
        self.real, self.hands = real, hands
        self.said: list[tuple[float, Any]] = []

    def __call__(self, *args: Any) -> Any:
        answer = self.real(*args)
        self.said.append((self.hands.now, answer))
        return answer


def test_of_a_source_that_tells_nothing_the_rate_is_shown():
    counted = importlib.import_module("stillhouse.data.building")._counted
    assert counted(1, 3.0, 2.0) == "1 document"
    assert counted(3000, None, 2.0) == "3,000 documents, 1,500 a second"
    assert counted(3000, 5.0, 2.0) == "3,000 documents"
    assert counted(1, None, 20.0) == "1 document"
