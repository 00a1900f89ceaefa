"""Talking to models: replies are what the model says, token by token, and what it says cannot harm a terminal."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
import torch
import zoo
from rich.console import Console
from shared import make_llama, make_tokenizer

from stillhouse.chat import Manner, Speaker, Token, speakers
from stillhouse.chat.terminal import _told, converse, turn
from stillhouse.cli import main
from stillhouse.errors import ModelError, RunError
from stillhouse.models import Model

GREEDY = Manner(new_tokens=12, temperature=0.0)


def console() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=200), out


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    make_llama(make_tokenizer(), seed=1).save(folder / "teacher")
    make_llama(make_tokenizer(), layers=1).save(folder / "student")
    text = f"name: tiny\ndata: {{sources: python_docs}}\nteacher: {folder / 'teacher'}\nstudent: {{name: drop_layers, keep: 1}}\n"
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    return folder


def test_the_likeliest_tokens_are_those_of_the_whole_text_read_anew(llama: Model):
    """Each step again without a cache, from the whole text: same token, same probability."""
    tokens = list(Speaker("model", llama, GREEDY).reply("still waters"))
    given = llama.tokenizer.apply_chat_template(
        [{"role": "user", "content": "still waters"}], add_generation_prompt=True, tokenize=False
    )
    assert given.endswith("<|im_start|>assistant\n")
    ids = llama.tokenizer(given, add_special_tokens=False).input_ids
    for token in tokens:
        p = torch.softmax(zoo.answers(llama, torch.tensor([ids]))[0, -1], -1)
        best = int(p.argmax())
        assert token.piece == llama.tokenizer.decode([best])
        assert token.probability == pytest.approx(float(p.max()), rel=1e-3)
        assert token.others[0] == (token.piece, pytest.approx(token.probability, rel=1e-3)) and len(token.others) == 4
        ids = [*ids, best]
    assert len(tokens) == 12 or tokens[-1].ends


def test_without_a_template_a_text_is_continued(llama: Model):
    plain = Speaker("model", llama, Manner(new_tokens=1, temperature=0.0, template=False))
    (token,) = plain.reply("still")
    p = torch.softmax(zoo.answers(llama, llama.tokenizer("still", return_tensors="pt").input_ids)[0, -1], -1)
    assert token.probability == pytest.approx(float(p.max()), rel=1e-3)
    assert plain.messages == []


def test_a_conversation_is_remembered_and_forgotten(llama: Model):
    speaker = Speaker("model", llama, GREEDY)
    first = "".join(token.text for token in speaker.reply("one"))
    assert speaker.messages == [{"role": "user", "content": "one"}, {"role": "assistant", "content": first}]
    list(speaker.reply("two"))
    assert len(speaker.messages) == 4
    speaker.forget()
    assert "".join(token.text for token in speaker.reply("one")) == first


def say(model: Model, monkeypatch: pytest.MonkeyPatch, text: str, new_tokens: int = 40) -> list[Token]:
    """What comes of it when a model's tokens are those of a text."""
    ids = iter(model.tokenizer(text, add_special_tokens=False).input_ids)
    monkeypatch.setattr("stillhouse.chat.draw", lambda logits, asks, chances: ([next(ids)], [-1.0]))
    return list(Speaker("model", model, Manner(new_tokens=new_tokens), end="<|im_end|>").reply("x"))


@pytest.mark.parametrize("end", ["<|im_end|>", "<|endoftext|>"])
def test_it_ends_where_an_end_token_is_chosen(llama: Model, end: str, monkeypatch: pytest.MonkeyPatch):
    tokens = say(llama, monkeypatch, f"done{end}more")
    assert "".join(token.text for token in tokens) == "done"
    assert [token.ends for token in tokens] == [False] * (len(tokens) - 1) + [True] and tokens[-1].piece == end


def test_characters_of_several_tokens_come_whole(llama: Model, monkeypatch: pytest.MonkeyPatch):
    """Each byte of an emoji is a token of its own here: nothing of it is shown before the last one."""
    tokens = say(llama, monkeypatch, "a🙂é東 b<|im_end|>")
    assert "".join(token.text for token in tokens) == "a🙂é東 b" and len(tokens) > 9
    assert not any("\ufffd" in token.text for token in tokens)
    cut = say(llama, monkeypatch, "a🙂", new_tokens=2)
    assert "".join(token.text for token in cut) == "a\ufffd"  # cut inside: said, and not dropped


def test_the_same_seed_says_the_same(llama: Model):
    said = [
        "".join(t.text for t in Speaker("model", llama, Manner(new_tokens=8, temperature=1.0, seed=seed)).reply("a"))
        for seed in (1, 1, 2)
    ]
    assert said[0] == said[1] != said[2]


def test_too_long_a_conversation_is_told(llama: Model):
    with pytest.raises(ModelError, match=r"(?s)reads 256 tokens.*/new"):
        list(Speaker("model", llama, Manner(new_tokens=250)).reply("still waters run deep " * 5))


def test_control_characters_are_shown_and_not_sent():
    nasty = Token("\x1b[2J[red]\u202e", "\x1b[2J[red]\u202e", 0.5, (("\x07", 0.4),), False)

    class Rogue:
        role = "student"
        model = type("M", (), {"classifies": False, "name": "x"})()

        def reply(self, prompt: str):
            yield nasty

    screen, out = console()
    turn([Rogue(), Rogue()], "hello", screen, probabilities=False)
    turn([Rogue()], "hello", screen, probabilities=True)
    text = out.getvalue()
    assert "\x1b" not in text and "\x07" not in text and "\u202e" not in text
    assert "␛[2J[red]⟨U+202E⟩" in text and "␇" in str(_told(nasty))


def test_two_speak_at_the_same_time_in_a_terminal():
    """A column each; the shorter answer waits for the longer one."""

    class Counts:
        model = type("M", (), {"classifies": False, "name": "x"})()

        def __init__(self, role: str, words: list[str]) -> None:
            self.role, self.words = role, words

        def reply(self, prompt: str):
            yield from (Token(word, word, 1.0, (), False) for word in self.words)

    out = io.StringIO()
    screen = Console(file=out, width=60, force_terminal=True)
    turn(
        [Counts("student", ["one"]), Counts("teacher", ["uno ", "\x1b]0;x\x07", "due"])],
        "count",
        screen,
        probabilities=False,
    )
    last = out.getvalue().split("student")[-1]
    assert "teacher" in last and "one" in last and "uno ␛]0;x␇due" in last
    assert "\x1b]0;" not in out.getvalue()


def test_a_classifier_tells_its_classes():
    classifier = zoo.make("bert-classifier", make_tokenizer())
    found = Speaker("student", classifier, GREEDY).classes("a still day")
    assert sorted(name for name, _ in found) == sorted(classifier.classes)
    assert sum(p for _, p in found) == pytest.approx(1.0) and found[0][1] >= found[-1][1]
    screen, out = console()
    turn([Speaker("student", classifier, GREEDY)], "a still day", screen, probabilities=False)
    assert found[0][0] in out.getvalue()


def test_who_speaks(run: Path):
    assert [one.role for one in speakers(str(run), GREEDY)] == ["student"]
    assert [one.role for one in speakers(str(run), GREEDY, teacher=True)] == ["teacher"]
    both = speakers(str(run), GREEDY, side_by_side=True)
    assert [one.role for one in both] == ["student", "teacher"] and len(both[1].model.layers) == 2
    assert [one.role for one in speakers(str(run / "student"), GREEDY)] == ["model"]
    with pytest.raises(RunError, match="no teacher"):
        speakers(str(run / "student"), GREEDY, teacher=True)


def test_a_pipe_is_a_conversation(run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n\ntwo\n"))
    who = speakers(str(run), GREEDY)
    screen, out = console()
    converse(who, (), screen)
    assert [m["content"] for m in who[0].messages[::2]] == ["one", "two"]
    assert who[0].messages[1]["content"].split("\n")[0] in out.getvalue()


def test_the_command(run: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main(["chat", str(run), "--side-by-side", "-p", "still", "--tokens", "4", "-T", "0", "--probabilities"])
    assert not stop.value.code
    text = capsys.readouterr().out
    assert text.index("student:") < text.index("teacher:") and text.count("%") >= 8
    with pytest.raises(SystemExit) as stop:
        main(["chat", str(run / "nowhere"), "-p", "x"])
    assert stop.value.code == 2
