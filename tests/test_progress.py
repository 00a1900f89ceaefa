"""What is shown of work and of the time it takes."""

from __future__ import annotations

import io
import re
import sys
import time
import types

import pytest
from rich.console import Console

from stillhouse import progress
from stillhouse.progress import bar, takes, timed
from stillhouse.recipe import parse
from stillhouse.run import load_teacher
from stillhouse.teacher.sources import gguf as module


class Hands:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    clock = Hands()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def plain() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=200)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def until(console: Console, pattern: str) -> str:
    """What is shown as soon as it has the pattern; the thread that shows it runs by the real clock."""
    give_up = time.monotonic() + 10
    while not re.search(pattern, shown(console)):
        assert time.monotonic() < give_up, f"{pattern} never came: {shown(console)}"
        time.sleep(0.005)
    return shown(console)


def last_line(console: Console) -> str:
    """The newest line that was begun after this call."""
    seen = len(shown(console))
    until(console, rf"(?s)^.{{{seen}}}.*\n.+\n")
    return shown(console).splitlines()[-1]


# ---- without a terminal


def test_it_says_what_it_does_and_how_long_it_takes_before_it_starts():
    console = plain()
    with timed(console, "Loading [it]", 23.4):
        assert shown(console) == "Loading [it] … about 23 seconds\n"
    other = plain()
    with timed(other, "Reading"):
        assert shown(other) == "Reading …\n"


def test_lines_come_while_the_work_is_silent_and_the_time_left_counts_down(hands, monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.01)
    console = plain()
    with timed(console, "Loading", 23.0):
        hands.now += 5
        assert last_line(console) == "Loading: 5 seconds, about 18 seconds left"
        hands.now += 17
        assert last_line(console) == "Loading: 22 seconds, about 1 second left"
        hands.now += 2
        assert last_line(console) == "Loading: 24 seconds, nearly done"
        hands.now += 30
        assert last_line(console) == "Loading: 54 seconds, longer than expected"
    lines = shown(console)
    time.sleep(0.05)
    assert shown(console) == lines  # nothing comes after the end


def test_what_is_told_replaces_what_was_said_before(hands, monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.01)
    console = plain()
    with timed(console, "Preparing") as tell:
        hands.now += 3
        assert last_line(console) == "Preparing: 3 seconds"
        tell("7 documents", 40.0, True)
        hands.now += 10
        assert last_line(console) == "Preparing: 7 documents, 13 seconds, at least 30 seconds left"
        tell("[9] documents", 600.0)
        assert last_line(console) == "Preparing: [9] documents, 13 seconds, about 10 minutes left"
        tell("11 documents")
        assert last_line(console) == "Preparing: 11 documents, 13 seconds"


def test_a_bar_goes_by_the_work_done(hands, monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.01)
    console = plain()
    with bar(console, "Writing", 1200, "texts") as tick:
        hands.now += 2
        assert last_line(console) == "Writing: 0 of 1,200 texts, 2 seconds"
        hands.now += 8
        tick(100)
        tick(200)
        assert last_line(console) == "Writing: 300 of 1,200 texts, 10 seconds, about 30 seconds left"
        hands.now += 10
        tick(900)
    assert shown(console).splitlines()[-1] == "Writing: 1,200 texts in 20 seconds"


def test_nothing_to_do_is_no_division_by_zero():
    console = plain()
    with bar(console, "Writing", 0, "texts"):
        pass
    assert "Writing: 0 texts in 0 seconds" in shown(console)


def test_silence_without_a_console(capsys):
    with timed(None, "Loading", 5.0) as tell, bar(None, "Writing", 3, "texts") as tick:
        tell("something", 3.0)
        tick(1)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("terminal", [True, False])
def test_an_error_goes_through_and_ends_what_is_shown(terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    with pytest.raises(ValueError, match="mine"), bar(console, "Writing", 3, "texts"):
        raise ValueError("mine")
    before = shown(console)
    assert "Writing: 3 texts" not in before
    time.sleep(0.05)
    assert shown(console) == before


# ---- in a terminal


def test_a_terminal_shows_a_bar_with_the_time_left(hands, monkeypatch):
    monkeypatch.setattr(progress, "_TERMINAL_SECONDS", 0.01)
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with timed(console, "Loading [it]", 20.0) as tell:
        hands.now += 5
        until(console, r"5 seconds, about 15 seconds left")
        assert "Loading [it]" in shown(console)
        tell("[3] parts")
        until(console, r"\[3\] parts, 5 seconds")


def test_the_bar_is_as_full_as_the_time_is_gone(hands, monkeypatch):
    monkeypatch.setattr(progress, "_TERMINAL_SECONDS", 0.01)
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    with timed(console, "Loading", 20.0):
        hands.now += 5
        text = until(console, r"5 seconds, about 15 seconds left")
        full = text.split("Loading")[-1].split("5 seconds")[0]
        assert full.count("━") == 5  # a quarter of 20


# ---- loading


def test_a_teacher_that_says_how_long_it_takes(monkeypatch, llama):
    def slow(*, weight: float = 2.0, empty: bool = False):
        return llama

    mine = types.ModuleType("of_mine")
    mine.slow = takes(lambda options: 10 * options["weight"])(slow)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "of_mine", mine)
    data = {"sources": {"name": "python_docs"}}
    for options, line in (({}, "… about 20 seconds"), ({"weight": 3}, "… about 30 seconds")):
        console = plain()
        settings = parse({"data": data, "teacher": {"name": "of_mine:slow", **options}, "student": "random"})
        assert load_teacher(settings.teacher, console).model is llama
        assert shown(console) == f"Loading the teacher {line}\n"


def test_a_gguf_takes_long_once(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    small, large = tmp_path / "small.gguf", tmp_path / "large.gguf"
    small.write_bytes(b"GGUF")
    with large.open("wb") as file:
        file.truncate(98_000_000)
    expected = module.gguf.takes  # type: ignore[attr-defined]
    assert 10 < expected({"model": str(small)}) < expected({"model": str(large)}) == pytest.approx(23, abs=1)
    assert expected({"model": str(tmp_path / "none.gguf")}) is None
    assert expected({"model": "pkg:no_such_package"}) is None
    kept = module._kept(small)
    kept.mkdir(parents=True)
    (kept / "config.json").write_text("{}")
    assert expected({"model": str(small)}) is None  # read before
