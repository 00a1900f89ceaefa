"""Where prompts come from."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from shared import make_tokenizer

from stillhouse.data.prompts.files import files
from stillhouse.data.prompts.grid import grid
from stillhouse.data.prompts.magpie import magpie
from stillhouse.data.prompts.prefixes import prefixes
from stillhouse.data.prompts.self_instruct import rouge_l, self_instruct
from stillhouse.errors import DataError, ModelError
from stillhouse.recipe import Strategy
from stillhouse.writing import Answer

Write = Callable[[str, str], str]


def test_lines_and_objects(write: Write):
    path = write("asks/a.txt", "# no prompt\nWhy {x}?\n\n  How?  \n")
    write(
        "asks/b.jsonl",
        json.dumps({"prompt": "What?", "n": 3}) + "\n\n" + json.dumps({"prompt": "# Who?", "n": 4}) + "\n",
    )
    folder = str(Path(path).parent)
    assert [(p.text, p.about["file"], p.about["line"]) for p in files(path=folder)] == [
        ("Why {x}?", "a.txt", 2), ("How?", "a.txt", 4), ("What?", "b.jsonl", 1), ("# Who?", "b.jsonl", 3),
    ]  # fmt: skip
    assert [p.text for p in files(path=f"{folder}/b.jsonl", template="{{ n }}: {{ prompt }}")] == [
        "3: What?",
        "4: # Who?",
    ]


@pytest.mark.parametrize(
    ("name", "content", "template", "says"),
    [
        ("a.txt", "# only this\n", "{{ prompt }}", "holds no prompt"),
        ("a.txt", "", "{{ prompt }}", "holds no prompt"),
        ("a.jsonl", "{not json}\n", "{{ prompt }}", "line 1: is not JSON"),
        ("a.jsonl", '{"prompt": "x"}\n[1]\n', "{{ prompt }}", "line 2: holds a list"),
        ("a.jsonl", '{"instruction": "x"}\n', "{{ instruktion }}", "Did you mean 'instruction'"),
        ("a.jsonl", '{"prompt": null}\n', "{{ prompt }}", "no text"),
        ("a.jsonl", '{"prompt": ["x"]}\n', "{{ prompt }}", "no text"),
        ("a.jsonl", '{"prompt": "x"}\n', "Say {prompt}", r"Jinja's: write \{\{ prompt \}\}"),
        ("a.txt", "x\n", "{{ prompt", "unexpected end"),
    ],
)
def test_files_that_are_none(write: Write, name: str, content: str, template: str, says: str):
    with pytest.raises(DataError, match=says):
        list(files(path=write(name, content), template=template))


def test_a_grid_holds_each_combination_once(write: Write):
    topics = write("topics.txt", "rain\nbread\nstars\n")
    axes: dict[str, Any] = {"style": ["a letter", "a poem"], "topic": topics}
    found = list(grid(axes=axes, template="Write {{ style }} about {{ topic }}."))
    assert sorted(p.text for p in found) == sorted(
        f"Write {s} about {t}." for s in axes["style"] for t in ("rain", "bread", "stars")
    )
    assert all(p.text == f"Write {p.about['style']} about {p.about['topic']}." for p in found)
    few = list(grid(axes=axes, template="Write {{ style }} about {{ topic }}.", count=2, seed=1))
    assert few == list(grid(axes=axes, template="Write {{ style }} about {{ topic }}.", seed=1))[:2]


@pytest.mark.parametrize(
    ("axes", "template", "says"),
    [
        ({"topic": ["rain"], "style": ["a poem"]}, "Write about {{ topic }}.", r"does not name \{\{ style"),
        ({"topic": ["rain"]}, "Write {{ style }} about {{ topic }}.", "'style' is undefined"),
        ({"topic": []}, "Write about {{ topic }}.", "is empty"),
        ({"topic": ["rain"]}, "Write about {topic}.", "single braces"),
    ],
)
def test_a_grid_whose_template_does_not_fit(axes: dict[str, Any], template: str, says: str):
    with pytest.raises(DataError, match=says):
        list(grid(axes=axes, template=template))


def test_prefixes_are_beginnings_of_documents(write: Write):
    tokenizer = make_tokenizer()
    texts = ["The quick brown fox jumps over the lazy dog. " * 9, "short one", "é" * 40, "x"]
    path = write("documents.jsonl", "".join(json.dumps({"body": t}) + "\n" for t in texts))
    source = Strategy.model_validate({"name": "jsonl", "path": path})
    found = list(prefixes(tokenizer, source=source, field="body", tokens=10))
    assert [p.about["record"] for p in found] == [0, 1, 2]  # one token has no half
    for prompt in found:
        text = texts[prompt.about["record"]]
        assert text.startswith(prompt.text)
        assert prompt.form == "text"
        count = len(tokenizer(text).input_ids)
        assert len(tokenizer(prompt.text).input_ids) == min(10, count // 2)
    assert len(list(prefixes(tokenizer, source=source, field="body", count=1))) == 1


def test_documents_are_read_not_written():
    source = Strategy.model_validate({"name": "written", "prompts": "x.txt"})
    with pytest.raises(DataError, match="writes its documents"):
        next(prefixes(make_tokenizer(), source=source))


class Told:
    """Says what it was told to, in turn; remembers what it was asked. (That a teacher drafts is tested with one elsewhere.)"""

    def __init__(self, *says: str | Answer) -> None:
        self.says = [s if isinstance(s, Answer) else Answer(s, 3, "stop", -1.0) for s in says]
        self.asked: list[str] = []
        self.settings: dict[str, Any] = {}
        self.done: list[float] = []

    def __call__(self, texts: Sequence[str], *, done: float, **settings: Any) -> list[Answer]:
        self.asked += texts
        self.settings = settings
        self.done.append(done)
        return [self.says[(len(self.asked) - len(texts) + i) % len(self.says)] for i in range(len(texts))]


def test_magpie_gives_what_comes_before_a_users_words():
    tokenizer = make_tokenizer()
    told = Told("Why is it wet?", "", "Why is it wet?", Answer("How does a ste", 9, "length"), "Who made it?")
    found = list(magpie(told, tokenizer, count=2, together=2))
    assert [p.text for p in found] == ["Why is it wet?", "Who made it?"]
    assert {p.form for p in found} == {"chat"}
    assert set(told.asked) == {"<|im_start|>user\n"}
    assert told.settings["stop"] == ("<|im_end|>",)
    assert told.done == sorted(told.done) and told.done[0] == 0.0


def test_magpie_gives_up_on_a_teacher_that_repeats_itself():
    with pytest.raises(DataError, match="only 1 of 2 different questions"):
        list(magpie(Told("Why?"), make_tokenizer(), count=2))


def test_magpie_wants_a_chat_template():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="no chat template"):
        next(magpie(Told("Why?"), tokenizer, count=2))


def test_new_tasks_differ_from_all_others(write: Write):
    path = write(
        "seeds.jsonl", "".join(json.dumps({"instruction": f"Describe the {w} in a few words."}) + "\n" for w in "abc")
    )
    says = [
        "Describe the d in a few words.",  # six of seven words in this order: too near a seed task
        "Translate this line into Old Norse.",
        "Translate that line into Old Norse.",  # too near the one before
        "Hi.",
        Answer("Count the sheep that jump over the", 9, "length"),
        "Name five rivers that flow north.",
    ]
    told = Told(*says)
    found = list(self_instruct(told, path=path, count=2, shots=3, own=1, together=3))
    assert [p.text for p in found] == ["Translate this line into Old Norse.", "Name five rivers that flow north."]
    assert told.settings["stop"] == ("\n",)
    first, second = told.asked[0], told.asked[-1]
    assert all(f"Describe the {w} in a few words.\n" in first for w in "abc")
    assert first.endswith("Task 4:")
    assert "Old Norse.\n" in second  # what it wrote itself is shown to it


def subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """The longest common subsequence, by trying."""
    if not one or not other:
        return 0
    if one[0] == other[0]:
        return 1 + subsequence(one[1:], other[1:])
    return max(subsequence(one[1:], other), subsequence(one, other[1:]))


def test_rouge_l_is_the_f_measure_of_the_longest_common_subsequence():
    chance = random.Random(0)
    for _ in range(200):
        one, other = ([chance.choice("abc") for _ in range(chance.randrange(1, 7))] for _ in range(2))
        common = subsequence(one, other)
        precision, recall = common / len(other), common / len(one)
        expected = 2 * precision * recall / (precision + recall) if common else 0.0
        assert rouge_l(one, other) == pytest.approx(expected)
        least = chance.random()
        assert rouge_l(one, other, least) == pytest.approx(expected) or expected < least
