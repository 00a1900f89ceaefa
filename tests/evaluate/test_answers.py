"""The table of answers: what was written is read, and what follows from it follows from the definition."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stillhouse.errors import RunError
from stillhouse.evaluate import answers
from stillhouse.evaluate.questions import Question, Reply, Task, choice, text, word, write

QUESTIONS = (
    choice(
        "a",
        "Question: one\nAnswer:",
        [" yes", " no", " perhaps so"],
        2,
        cluster="x",
        tags={"field": "f"},
        free="Answer:",
    ),
    choice("b", "Question: two\nAnswer:", [" left", " right"], 0, cluster="x", free="Answer:"),
    choice("c", "Question: drei\nAnswer:", [" ä", " öö"], 1, free="Answer:"),
)
REPLIES = [
    Reply((-3.0, -2.0, -6.0), (1, 1, 2), (False, False, False), (-1.0, -1.5, -9.0)),
    Reply((-1.0, -1.0), (1, 1), (False, False), (-2.0, -1.0)),
    Reply((-4.0, -5.0), (1, 2), (False, False), (-1.0, -8.0)),
]
TASK = Task(QUESTIONS, "knowledge")


def test_written_is_read(tmp_path: Path):
    path = tmp_path / "answers.parquet"
    for role in ("student", "teacher"):
        answers.append(path, answers.table(role, "quiz", TASK, "character", REPLIES))
    answers.append(path, answers.table("teacher", "other", TASK, "raw", REPLIES))
    found = answers.read(path)
    assert [task.task for task in found.tasks] == ["quiz", "other"]
    quiz = found.named("quiz")
    assert quiz is not None and list(quiz.roles) == ["teacher", "student"]
    assert quiz.normalisation == "character" and quiz.capability == "knowledge" and quiz.skill
    assert quiz.tags["field"].tolist() == ["f", "", ""]
    assert quiz.cluster[0] == quiz.cluster[1] != quiz.cluster[2]
    assert quiz.floor_N.tolist() == [pytest.approx(1 / 3), 0.5, 0.5]
    assert math.isnan(quiz.roles["student"].ll_NK[1, 2])
    assert not [p for p in tmp_path.iterdir() if ".tmp" in p.name]


def test_the_same_rows_again_replace_the_old(tmp_path: Path):
    path = tmp_path / "answers.parquet"
    answers.append(path, answers.table("teacher", "quiz", TASK, "raw", REPLIES))
    first = path.read_bytes()
    answers.append(path, answers.table("teacher", "quiz", TASK, "raw", REPLIES))
    assert answers.read(path).tasks[0].size == 3
    answers.append(path, answers.table("teacher", "quiz", TASK, "raw", REPLIES))
    assert path.read_bytes() == first or pq.read_table(path).equals(pq.read_table(pa.BufferReader(first)))


@pytest.mark.parametrize(
    ("normalisation", "chosen"),
    [
        ("raw", [1, 0, 0]),  # −2 of −3 −2 −6; equal: the first; −4 of −4 −5
        ("character", [2, 1, 1]),  # −3/3 −2/2 −6/10; −1/4 −1/5; −4/1 −5/2: letters, not bytes
        ("token", [1, 0, 1]),  # −3 −2 −3; −1 −1; −4 −5/2
        ("pmi", [2, 0, 1]),  # −2 −0.5 +3; +1 0; −3 +3
    ],
)
def test_normalisations_by_hand(normalisation: str, chosen: list[int]):
    quiz = answers.together(answers.table("teacher", "quiz", TASK, "raw", REPLIES))
    assert quiz.chosen("teacher", normalisation).tolist() == chosen  # type: ignore[arg-type]
    gold = [2, 0, 1]
    assert quiz.score("teacher", normalisation).tolist() == [float(a == b) for a, b in zip(chosen, gold, strict=True)]  # type: ignore[arg-type]


def test_shares_add_up_and_follow_the_temperature():
    quiz = answers.together(answers.table("teacher", "quiz", TASK, "raw", REPLIES))
    by_hand = [math.exp(x) / sum(math.exp(y) for y in (-3, -2, -6)) for x in (-3, -2, -6)]
    assert quiz.shares("teacher")[0].tolist() == pytest.approx(by_hand)
    assert quiz.shares("teacher", 2.0)[1].tolist() == [0.5, 0.5, 0.0]


def test_words_texts_and_what_is_written():
    def check(said: str) -> float | None:
        return None if not said.strip() else float("yes" in said)

    asked = Task((write("a", "?", check), write("b", "?", check), write("c", "?", check)), "instructions")
    told = [Reply(text="yes", stop="eos"), Reply(text=" ", stop="length"), Reply(text="no \ud83d", stop="stop")]
    found = answers.together(answers.table("teacher", "w", asked, "raw", told))
    assert found.score("teacher").tolist() == [1, 0, 0]
    assert math.isnan(found.roles["teacher"].score_N[1])
    assert found.roles["teacher"].stop == ("eos", "length", "stop")

    words = Task((word("a", "x", " y"), word("b", "x", " z")), "recall")
    found = answers.together(
        answers.table("teacher", "g", words, "raw", [Reply((-1.0,), (1,), (True,)), Reply((-1.0,), (1,), (False,))])
    )
    assert found.score("teacher").tolist() == [1, 0]
    assert found.floor_N.tolist() == [0, 0]

    texts = Task((text("a", "ä" * 8),), "language")
    found = answers.together(
        answers.table("teacher", "t", texts, "raw", [Reply((-16 * math.log(2) * 2,), (3,), (False,))])
    )
    assert found.score("teacher").tolist() == [pytest.approx(2.0)]  # bits per byte of 16 bytes


def other(question: Question) -> Question:
    return choice(question.id, question.contexts[0] + " now", question.options, question.gold)


def test_roles_that_answered_other_questions_are_refused(tmp_path: Path):
    path = tmp_path / "answers.parquet"
    answers.append(path, answers.table("teacher", "quiz", TASK, "raw", REPLIES))
    answers.append(
        path, answers.table("student", "quiz", Task(tuple(map(other, QUESTIONS)), "knowledge"), "raw", REPLIES)
    )
    with pytest.raises(RunError, match="did not answer the same questions of 'quiz' as teacher: its prompt differs"):
        answers.read(path)


@pytest.mark.parametrize("content", [b"", b"not parquet", None])
def test_a_broken_file_is_told(tmp_path: Path, content: bytes | None):
    path = tmp_path / "answers.parquet"
    if content is None:
        pq.write_table(pa.table({"a": [1]}), path)
    else:
        path.write_bytes(content)
    with pytest.raises(RunError, match=r"answers\.parquet"):
        answers.read(path)
