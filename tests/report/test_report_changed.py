"""Lost and gained: which questions are shown, in whose words, and that what models wrote stays text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from stillhouse.evaluate import answers
from stillhouse.evaluate.examples import EACH, LONGEST, examples
from stillhouse.evaluate.questions import Question, Reply, Task, choice, word, write
from stillhouse.report import report


def asked(kind: str, n: int = 40) -> tuple[Task, dict[str, list[Reply]]]:
    """Questions of which the teacher has all right and the student every second one wrong; with the first the other way."""
    rng = np.random.default_rng(0)
    questions: list[Question] = []
    replies: dict[str, list[Reply]] = {"teacher": [], "student": []}
    for i in range(n):
        good = {"teacher": i != 0, "student": i % 2 == 0}
        if kind == "choice":
            questions.append(choice(str(i), f"Which is it, {i}?", [" red", " blue"], i % 2))
            for role, right in good.items():
                ll = [-1.0, -1.0]
                ll[i % 2 if right else 1 - i % 2] = -0.1
                replies[role].append(Reply(ll=tuple(ll), tokens=(1, 1), greedy=(False, False)))
        elif kind == "word":
            questions.append(word(str(i), f"{i} is", f" {i}"))
            for role, right in good.items():
                replies[role].append(Reply(ll=(-1.0,), tokens=(1,), greedy=(right,)))
        else:
            questions.append(write(str(i), f"Say {i}. " * 400, lambda text: float("yes" in text)))
            for role, right in good.items():
                replies[role].append(Reply(text=f"{'yes' if right else 'no'} {rng.random()}", stop="eos"))
    return Task(tuple(questions), "talk"), replies


def table(kind: str, path: Path) -> answers.Answers:
    task, replies = asked(kind)
    for role, given in replies.items():
        answers.append(path, answers.table(role, kind, task, "raw", given))
    return answers.read(path)


@pytest.mark.parametrize("kind", ["choice", "word", "write"])
def test_what_is_shown_is_what_was_said(kind: str, tmp_path: Path):
    (found,) = examples(table(kind, tmp_path / "answers.parquet"))
    assert (found["capability"], found["of"], found["lost"], found["gained"]) == ("talk", 40, 20, 1)
    shown = {change: [row for row in found["shown"] if row["change"] == change] for change in ("lost", "gained")}
    assert (len(shown["lost"]), len(shown["gained"])) == (EACH, 1)
    assert shown["gained"][0]["question"] == "0"
    for row in shown["lost"]:
        i = int(row["question"])
        assert i % 2 == 1
        if kind == "choice":
            assert (row["right"], row["teacher"], row["student"]) == (" blue", " blue", " red")
        elif kind == "word":
            assert (row["right"], row["teacher"], row["student"]) == (f" {i}", f" {i}", "something else")
        else:
            assert row["teacher"].startswith("yes") and row["student"].startswith("no")
            assert len(row["asked"]) == LONGEST + 2 and row["asked"].endswith(f"Say {i}. ")


def test_the_same_table_shows_the_same_and_without_words_nothing(tmp_path: Path):
    found = table("choice", tmp_path / "answers.parquet")
    assert examples(found) == examples(found)
    bare = answers.Answers(tuple(replace(task, contexts=(), options=()) for task in found.tasks))
    assert examples(bare) == []


def test_the_page_shows_both_and_what_could_be_detected(run: Path, html: ModuleType):
    tree = html.parse(report(run).read_text(encoding="utf-8"))
    section = tree.by_id("changed")
    assert "31 lost and 12 gained of 300 questions" in section.text
    assert "− lost" in section.text and "something" not in section.text
    power = tree.by_id("unmeasured").text
    assert "± 4.20 %" in power and "38 documents" in power and "✗ no: at the floor" in power


def test_hostile_answers_stay_text(hostile: Path, html: ModuleType, example: Any):
    text = report(hostile).read_text(encoding="utf-8")
    tree = html.parse(text)
    assert not tree.all("script", "img", "iframe")
    assert "window.hacked=1" in tree.by_id("changed").text
    assert "\u202e" not in text and "⟨U+202E⟩" in tree.by_id("changed").text
