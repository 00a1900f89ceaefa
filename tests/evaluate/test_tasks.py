"""The tasks: those over files where the files are, those made up here, and what a user's own file may hold."""

from __future__ import annotations

import inspect
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from shared import data_folder

from stillhouse import recipe
from stillhouse.errors import DataError, RecipeError
from stillhouse.evaluate.questions import DATA, Task, split, tasks_of
from stillhouse.evaluate.tasks.chains import chains
from stillhouse.evaluate.tasks.facts import facts
from stillhouse.evaluate.tasks.from_jsonl import from_jsonl
from stillhouse.evaluate.tasks.gsm8k import _Last
from stillhouse.evaluate.tasks.instructions import instructions
from stillhouse.evaluate.tasks.plain_text import plain_text
from stillhouse.evaluate.tasks.recall import recall
from stillhouse.find import find, names

OVER_FILES = [n for n in names("task") if "path" in inspect.signature(find("task", n)).parameters]
OWN_FILES = ("from_jsonl", "plain_text", "lm_eval", "edited", "reasoning_gym")
MADE_UP = sorted(set(names("task")) - {*OVER_FILES, *OWN_FILES})
ROWS = {"arc_easy": 2376, "blimp": 12499, "boolq": 3270, "commonsenseqa": 1221, "crows_pairs": 1508, "gsm8k": 660,
        "lambada": 5153, "mmlu": 4500, "openbookqa": 500, "piqa": 1838, "winobias": 792, "winogender": 720,
        "winogrande": 1267}  # fmt: skip


def sound(task: Task) -> None:
    """What holds for every task."""
    ids = [q.id for q in task.questions]
    assert len(set(ids)) == len(ids)
    assert not {q.fingerprint for q in task.dev} & {q.fingerprint for q in task.questions}
    for q in (*task.questions, *task.dev):
        assert len(q.contexts) in (1, len(q.options)) or q.kind == "write"
        assert all(isinstance(v, str) for v in q.tags.values())
        assert 0 <= q.chance <= 1
        if q.kind == "choice":
            assert len(q.options) >= 2 and 0 <= q.gold < len(q.options) and all(q.options)
            pairs = list(
                zip(q.contexts * len(q.options) if len(q.contexts) == 1 else q.contexts, q.options, strict=False)
            )
            assert len(set(pairs)) > 1
        if q.kind == "write":
            assert q.check is not None and q.check("") is None


@pytest.mark.parametrize("name", [n for n in OVER_FILES if n not in OWN_FILES])
def test_a_task_over_a_file(name: str, monkeypatch: pytest.MonkeyPatch):
    folder = data_folder()
    if folder is None:
        pytest.skip("the evaluation sets are not on this machine (STILLHOUSE_DATA)")
    monkeypatch.setenv(DATA, str(folder))
    (task,) = tasks_of(recipe.Evaluate.model_validate({"tasks": name}).tasks).values()
    sound(task)
    if name in ROWS:
        assert len(task.questions) == ROWS[name]
    if task.questions[0].kind == "choice" and len(task.questions) > 300:
        places = Counter(q.gold for q in task.questions)
        assert max(places.values()) < 0.8 * len(task.questions), "the right option's place tells it"


@pytest.mark.parametrize("name", MADE_UP)
def test_a_made_up_task(name: str):
    make = find("task", name)
    task: Task = make()
    sound(task)
    again, other = make(), make(seed=1)
    assert [q.fingerprint for q in again.questions] == [q.fingerprint for q in task.questions]
    same = sum(a.fingerprint == b.fingerprint for a, b in zip(other.questions, task.questions, strict=True))
    assert same < 0.2 * len(task.questions)


def test_recall_asks_for_a_value_that_is_there_once():
    for q in recall(pairs=(4, 16), questions=40).questions:
        lines = dict(line.split(": ") for line in q.contexts[0].splitlines()[:-1])
        assert len(lines) == int(q.tags["pairs"]) == round(1 / q.chance)
        asked = q.contexts[0].splitlines()[-1]
        assert f" {lines[asked.removesuffix(':')]}" == q.options[0]
        assert list(lines.values()).count(q.options[0].strip()) == 1
        assert q.end == "\n"


def test_chains_are_true_and_stay_small():
    for q in chains(questions=50).questions:
        shown = [*q.contexts[0].splitlines()[:-1], f"{q.contexts[0].splitlines()[-1]}{q.options[0]}"]
        for line in shown:
            sum_, result = line.split(" = ")
            terms = re.findall(r"([+-]?) ?(\d+)", sum_)
            value, path = 0, []
            for sign, digits in terms:
                value += -int(digits) if sign == "-" else int(digits)
                path.append(value)
            assert value == int(result)
            assert all(0 <= x <= 9 for x in path)
            assert len(terms) == int(q.tags["steps"]) + 1
    every = chains(questions=50).questions
    for level in {q.tags["steps"] for q in every}:
        asked = [q for q in every if q.tags["steps"] == level]
        commonest = Counter(q.options[0] for q in asked).most_common(1)[0][1] / len(asked)
        assert asked[0].chance == pytest.approx(commonest)


def test_facts_follow_from_the_context():
    for q in facts(questions=40).questions:
        boss = dict(re.findall(r"The boss of (\w+) is (\w+)\.", q.contexts[0]))
        asked = q.contexts[0].rsplit(". ", 1)[1]
        person = asked.removesuffix(" is").split()[-1]
        for _ in range(asked.count("boss")):
            person = boss[person]
        assert q.options[q.gold].strip() == person
        assert asked.count("boss") == int(q.tags["steps"])


@pytest.mark.parametrize(
    ("kind", "kept", "broken"),
    [
        ("capitals", "DOGS BARK", "Dogs bark"),
        ("small letters", "dogs bark", "Dogs bark"),
        ("no comma", "dogs bark", "dogs, bark"),
        ("without a word", "dogs bark there", "The dogs bark"),
        ("at most", "one two three", "a b c d e f g h i j k"),
        ("at least", " ".join(f"w{i}" for i in range(20)), "so " * 30),
        ("question", "dogs?", "dogs."),
        ("quotes", '"dogs bark"', 'he said "dogs"'),
    ],
)
def test_constraints_are_seen(kind: str, kept: str, broken: str):
    question = next(q for q in instructions().questions if q.tags["constraint"] == kind)
    assert question.check is not None
    assert (question.check(kept), question.check(broken), question.check(" \n")) == (1.0, 0.0, None)


def test_constraints_with_a_number_or_a_word_ask_for_what_they_check():
    for q in instructions().questions:
        told = q.contexts[0]
        assert q.check is not None
        if match := re.search(r"a list of (\d) lines", told):
            assert q.check("- a\n" * int(match[1])) == 1 and q.check("- a\n" * (int(match[1]) + 1)) == 0
        if match := re.search(r"the number (\d) as", told):
            assert q.check(f"{match[1]} dogs") == 1 and q.check(f"1{match[1]}7 dogs") == 0
        if match := re.search(r"Begin with the word (\w+)", told):
            assert q.check(f"{match[1].capitalize()} again") == 1 and q.check(f"not {match[1]}") == 0


def test_the_last_number_is_the_answer():
    right = _Last("1,080")
    assert right("It is 12, so 1080.") == 1
    assert right("1080 and then 7") == 0
    assert right("none") is None
    assert _Last("-3.5")("x = -3.50") == 1


# --------------------------------------------------------------------------------------------------------------- own files


def lines(path: Path, *rows: object) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return str(path)


def test_own_questions(tmp_path: Path):
    rows = [{"q": f"is it {i}", "opts": ["a", "b"], "right": i % 2, "who": f"g{i // 2}"} for i in range(40)]
    path = lines(tmp_path / "mine.jsonl", *rows)
    task = from_jsonl(
        path=path, context="{q}?", choices="opts", answer="right", cluster="who", tags=("who",), dev_questions=8
    )
    sound(task)
    assert task.questions[0].contexts == ("is it 0?",) or task.dev
    assert len(task.questions) + len(task.dev) == 40
    assert not {q.cluster for q in task.questions} & {q.cluster for q in task.dev}
    with pytest.raises(DataError, match="row 1: has no 'choices'"):
        from_jsonl(path=path, context="{q}")
    with pytest.raises(DataError, match="answer is 5, and there are 2 choices"):
        from_jsonl(path=lines(tmp_path / "b.jsonl", {"question": "x", "choices": ["a", "b"], "answer": 5}))
    (tmp_path / "c.jsonl").write_text('{"a": 1}\nnope\n')
    with pytest.raises(DataError, match="line 2: is not JSON"):
        from_jsonl(path=str(tmp_path / "c.jsonl"))
    with pytest.raises(DataError, match="no such file"):
        from_jsonl(path="nowhere.jsonl")


def test_plain_text_is_cut_at_blank_lines(tmp_path: Path):
    paragraphs = [f"Paragraph {i} " + "words " * 30 for i in range(50)]
    (tmp_path / "book.txt").write_text("\n\n".join(paragraphs), encoding="utf-8")
    task = plain_text(path=str(tmp_path / "book.txt"), characters=400, questions=10)
    assert len(task.questions) == 10
    assert {q.tags["domain"] for q in task.questions} == {"book"}
    assert all(q.options[0].startswith("Paragraph") for q in task.questions)


def test_a_limit_takes_the_same_questions_for_everybody():
    task = recall()
    few = task.taken(100)
    assert len(few.questions) == 100
    assert few == recall().taken(100) != task.taken(100, seed=1)
    order = [q.id for q in task.questions]
    assert [q.id for q in few.questions] == sorted((q.id for q in few.questions), key=order.index)
    assert len({q.tags["pairs"] for q in few.questions}) == 3
    assert task.taken(None) is task


def test_questions_to_choose_on_are_whole_clusters():
    scored, dev = split(recall().questions, 10_000)
    assert 0.1 < len(dev) / (len(dev) + len(scored)) < 0.3


def test_a_recipe_names_tasks_and_all_mistakes_are_told():
    section = recipe.Evaluate.model_validate(
        {"tasks": ["recall", {"name": "chains", "limit": 7, "title": "sums", "steps": [1, 2]}]}
    )
    found = tasks_of(section.tasks)
    assert list(found) == ["recall", "sums"]
    assert len(found["sums"].questions) == 7
    with pytest.raises(RecipeError, match="two tasks 'recall'"):
        tasks_of(recipe.Evaluate.model_validate({"tasks": ["recall", "recall"]}).tasks)
    with pytest.raises(RecipeError, match="Did you mean 'recall'"):
        tasks_of(recipe.Evaluate.model_validate({"tasks": ["recal"]}).tasks)
    with pytest.raises(RecipeError, match="There are words for 1 to 32 pairs"):
        tasks_of(recipe.Evaluate.model_validate({"tasks": [{"name": "recall", "pairs": [99]}]}).tasks)
