"""Several tasks, chosen by difficulty: through the command, killed and continued, looked at and reported."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from shared import make_llama, make_tokenizer

from stillhouse import recipe
from stillhouse.check import check
from stillhouse.chosen import sampled
from stillhouse.data import prepare
from stillhouse.errors import RecipeError
from stillhouse.look import _texts, look
from stillhouse.look.page import render
from stillhouse.run import run
from stillhouse.trainer.distributed import start

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
WORDS = ["still", "water", "grain", "malt", "mash", "oak", "cask"]


def content(folder: Path) -> dict:
    for task, count in (("talk", 60), ("sums", 20)):
        rows = [
            {"q": " ".join(WORDS[(i + j) % 7] for j in range(4)) + f" {task} {i}", "a": [" ".join(WORDS[(i * j) % 7] for j in range(9))]}
            for i in range(count)
        ]  # fmt: skip
        (folder / f"{task}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    make_llama(make_tokenizer(), layers=3).save(folder / "teacher")
    form = {"name": "template", "prompt": "{{ q }}\n", "response": "{{ a[0] }}"}
    return {
        "data": {
            "sources": [
                {"name": "jsonl", "path": str(folder / f"{task}.jsonl"), "format": form, "task": task} for task in ("talk", "sums")
            ],
            "tasks": {"sums": {"weight": 2.0, "temperature": 3.0}},
            "mixture": {"name": "adaptive", "every": 3},
            "sampler": ["confident", {"name": "dynamic", "every": 6, "by": "student_loss"}],
            "block": 128, "validation": 0.2,
        },
        "teacher": {"name": "local", "model": str(folder / "teacher"), "dtype": "float32"},
        "student": {"name": "drop_layers", "keep": 2},
        "trainer": {
            "steps": 8, "tokens_per_step": 512, "micro_tokens": 256, "dtype": "float32", "checkpoint_every": 2,
            "validate_every": 4, "validation_tokens": 256, "threads": 1, "learning_rate": 3e-3, "task_gradients_every": 4,
        },
        "evaluate": {"tokens": 200},
        "report": {"prompts": ["still"], "new_tokens": 2},
    }  # fmt: skip


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("material")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content(folder)))
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def whole(asked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(recipe.load(asked, [f"run={tmp_path_factory.mktemp('runs') / 'whole'}"]))


def lines(run: Path) -> list[dict]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "measured_seconds")} for line in found]


def test_each_task_is_told_of_while_training(whole: Path):
    steps = [line for line in lines(whole) if "loss" in line]
    for line in steps:
        assert line["share/talk"] + line["share/sums"] == pytest.approx(1.0)
        total = sum(line[f"share/{task}"] * line[f"loss/{task}"] for task in ("talk", "sums"))
        assert total == pytest.approx(line["loss"], rel=1e-3)
    assert steps[-1]["epochs/sums"] > steps[0]["epochs/sums"] > 0
    assert [line["step"] for line in steps if "gradient_norm/talk" in line] == [1, 5]
    assert [line["step"] for line in steps if "measured_tokens" in line] == [1, 4, 7]
    held_out = [line["validation"] for line in lines(whole) if "validation" in line]
    assert all({"loss/talk", "loss/sums"} <= set(values) for values in held_out)


def test_the_control_read_the_same_text(whole: Path):
    ours, theirs = lines(whole), lines(whole / "control")
    for task in ("talk", "sums"):
        assert [x.get(f"epochs/{task}") for x in ours] == [x.get(f"epochs/{task}") for x in theirs]
    assert not any("measured_tokens" in line for line in theirs)


def test_the_report_tells_of_the_tasks(whole: Path):
    page = (whole / "report.html").read_text()
    assert "Task by task" in page and "Loss of each task on held-out text" in page
    assert page.count(">talk<") > 1


def test_killed_after_a_measurement_it_ends_with_the_same_bits(asked: Path, whole: Path, tmp_path: Path):
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "stillhouse", "run", str(asked), f"run={killed}", "evaluate.control=false"]
    for wanted in ("sampling/gaps-00000003.npz", "sampling/student_loss-00000006.npz"):
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (killed / wanted).exists():
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    run(recipe.load(asked, [f"run={killed}", "evaluate.control=false"]))
    one, two = (load_file(folder / "student" / "model.safetensors") for folder in (whole, killed))
    assert all((one[name] == two[name]).all() for name in one)
    assert lines(whole) == lines(killed)


def test_a_look_before_and_after_the_run(asked: Path, whole: Path, tmp_path: Path):
    before = look(recipe.load(asked, [f"run={tmp_path / 'new'}"]), rows=4)
    assert [part.name for part in before.parts] == ["talk", "sums"]
    assert any("measured when the run starts" in note for note in before.notes) and not before.difficulty
    assert {row.task for row in before.rows} == {"talk", "sums"}
    for row in before.rows:
        text = "".join(token.text for token in row.tokens)
        said = "".join(token.text for token in row.tokens if token.loss)
        assert text.partition("\n")[2] == said and said.endswith("<|endoftext|>")
        assert row.weight == {"talk": 1.0, "sums": 2.0}[row.task]
    after = look(recipe.load(asked, [f"run={whole}"]))
    assert {h.title.split(",")[0] for h in after.difficulty} == {
        "Difficulty by teacher entropy",
        "Difficulty by student loss",
    }
    assert sum(part.share for part in after.parts) == pytest.approx(1.0)
    assert sum(part.counts for part in after.parts) == pytest.approx(1.0)
    for histogram, part in zip(after.lengths, after.parts, strict=True):
        assert sum(count for _, count in histogram.bars) == part.documents


def test_a_character_of_several_tokens_is_shown_whole():
    tokenizer = make_tokenizer()
    text = "an 誰 and 🐈"
    ids = tokenizer(text)["input_ids"]
    shown = list(_texts(tokenizer, ids))
    assert len(shown) == len(ids) and "".join(shown) == text and "" in shown


def test_the_command_looks_in_the_terminal_and_writes_a_page(asked: Path, tmp_path: Path):
    page = tmp_path / "look.html"
    command = [
        sys.executable,
        "-m",
        "stillhouse",
        "data",
        "look",
        str(asked),
        f"run={tmp_path / 'run'}",
        "--html",
        str(page),
    ]
    done = subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, text=True, timeout=120)
    assert "⟦" in done.stdout and "talk" in done.stdout and "█" in done.stdout
    content = page.read_text()
    assert "<script" not in content and "http" not in content.replace("http-equiv", "").replace(
        "http://www.w3.org/2000/svg", ""
    )
    assert content.count("<mark>") > 10


def test_hostile_text_is_shown_and_does_nothing(tmp_path: Path, asked: Path):
    rows = [
        {"q": "<script>alert(1)</script>\u202e" + str(i), "a": ["</div><img src=x onerror=1>\x07"]} for i in range(20)
    ]
    (tmp_path / "bad.jsonl").write_text("\n".join(map(json.dumps, rows)))
    text = yaml.safe_load(asked.read_text())
    text["data"]["sources"] = [{**text["data"]["sources"][0], "path": str(tmp_path / "bad.jsonl"), "task": "<b>bad"}]
    text["data"] |= {"tasks": {}, "mixture": "equal", "sampler": []}
    text |= {"name": "<i>name", "run": str(tmp_path / "run")}
    page = render(look(recipe.parse(text), rows=3))
    assert "<script" not in page and "<img" not in page and "<b>bad" not in page and "<i>name" not in page
    assert "\u202e" not in page and "\x07" not in page and "⟨U+202E⟩" in page


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.sampler.1.by=gpa"], "Did you mean 'gap'"),
        (["data.sampler.1.every=0"], "greater than or equal to 1"),
        (["data.mixture=nothing"], "there is no mixture"),
        (["data.mixture={name: fixed, shares: {talk: 0, sums: 1}}"], "greater than 0"),
        (["data.tasks.sums.weight=0"], "greater than 0"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(asked: Path, overrides: list[str], words: str):
    with pytest.raises(RecipeError, match=words):
        check(recipe.load(asked, overrides))


def test_limits_on_epochs_that_are_too_low_are_told_before_training(asked: Path, tmp_path: Path):
    text = yaml.safe_load(asked.read_text())
    text["data"]["tasks"] = {"talk": {"epochs": 1}, "sums": {"epochs": 1}}
    text |= {"run": str(tmp_path / "run")}
    with pytest.raises(RecipeError, match="the run asks for 4,096"):
        run(recipe.parse(text))


def test_a_student_without_probabilities_to_learn_from_cannot_be_measured_by_them(asked: Path, tmp_path: Path):
    text = yaml.safe_load(asked.read_text())
    text["data"] |= {"mixture": "equal", "sampler": "focused"}
    settings = recipe.parse(text | {"run": str(tmp_path / "run")})
    corpus = prepare(settings.data, make_tokenizer(), tmp_path / "data")
    with pytest.raises(RecipeError, match="student_loss"):
        sampled(settings, corpus, make_tokenizer(), tmp_path, None, None, start("cpu"), control=False)
