"""Students and goals that cannot be: refused by ``check`` and by ``run`` before any work, with a way out and exit code 2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file
from shared import LINES, make_llama, make_tokenizer

from stillhouse.cli import main


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Teachers of four layers (4 heads in 2 groups, 320 tokens): tied, untied, and three that contradict themselves."""
    folder = tmp_path_factory.mktemp("material")
    for tied in (True, False):
        make_llama(make_tokenizer(), layers=4, tied=tied).save(folder / ("tied" if tied else "untied"))
    for name, source, says in (("two", "untied", True), ("one", "tied", False)):
        make_llama(make_tokenizer(), layers=4, tied=source == "tied").save(folder / name)
        config = json.loads((folder / name / "config.json").read_text())
        (folder / name / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": says}))
    make_llama(make_tokenizer(), layers=4).save(folder / "holes")
    weights = load_file(folder / "holes" / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "holes" / "model.safetensors", metadata={"format": "pt"})
    mute = make_llama(make_tokenizer(), layers=2)
    mute.tokenizer.chat_template = None
    mute.save(folder / "mute")
    rows = [
        {"messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": LINES[i % 4]}]}
        for i in range(40)
    ]
    (folder / "chats.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    texts = [json.dumps({"text": f"{i} {LINES[i % 4]}"}) for i in range(60)]
    (folder / "text.jsonl").write_text("\n".join(texts) + "\n", encoding="utf-8")
    return folder


def content(material: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "run": str(folder / "run"),
        "data": {"sources": {"name": "jsonl", "path": str(material / "text.jsonl")}, "block": 32, "validation": 0.2},
        "teacher": str(material / changes.pop("master", "tied")),
        "student": {"name": "drop_layers", "keep": 1},
        "trainer": {"steps": 1, "tokens_per_step": 64, "micro_tokens": 64, "dtype": "float32", "threads": 1},
        "evaluate": {"tokens": 100, "control": False},
        **changes,
    }  # fmt: skip


def refused(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    """What a command says that must not do anything."""
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    said = capfd.readouterr().err
    assert "Traceback" not in said and "✗" in said and "→" in said, said
    return " ".join(said.split())


STUDENTS: list[tuple[dict[str, Any], str]] = [
    ({"name": "balanced", "ratio": 0.5}, "student.ratio: 0.5 would make a student larger than its teacher"),
    ({"name": "balanced", "parameters": 10**9}, "are not between 1 and the teacher's"),
    (
        {"name": "balanced", "parameters": 100},
        "no student of this teacher has at most 100 parameters: the smallest has",
    ),
    ({"name": "shrink_width", "heads": 1}, "1 heads are not whole groups: 2 query heads share"),
    ({"name": "shrink_width", "heads": 3}, "3 heads are not whole groups"),
    ({"name": "shrink_width", "hidden": 64}, "64 is not between 1 and the teacher's 32"),
    ({"name": "random", "heads": 1, "groups": 2}, "heads is no multiple of groups: 1 and 2"),
    ({"name": "random", "hidden": 30}, "hidden is no multiple of heads: 30 and 4"),
    ({"name": "drop_layers", "keep": [0, 4]}, "[0, 4] cannot be kept of 4 layers"),
    ({"name": "drop_layers", "keep": [-1, 2]}, "cannot be kept of 4 layers"),
    ({"name": "drop_layers", "keep": 5}, "5 cannot be kept of 4 layers"),
    ({"name": "copy_layers", "layers": [0, 4]}, "[0, 4] cannot be copied of 4 layers"),
    ({"name": "low_rank", "embedding": 6, "shared": True}, "embedding and head of this teacher are one matrix already"),
    ({"name": "trim_vocabulary", "size": 258}, "cannot hold the 259 tokens without which some text could not be said"),
    ({"name": "trim_vocabulary", "size": 321}, "is more than the 320 tokens that there are"),
    ({"name": "drop_layers", "keep": 2, "then": [{"name": "drop_layers", "keep": 3}]}, "3 cannot be kept of 2 layers"),
]


@pytest.mark.parametrize("verb", ["check", "run"])
@pytest.mark.parametrize(("student", "words"), STUDENTS)
def test_a_student_that_cannot_be(
    verb: str, student: dict[str, Any], words: str, material: Path, tmp_path: Path, capfd
):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content(material, tmp_path, student=student)), encoding="utf-8")
    assert words in refused([verb, str(path)], capfd)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("verb", ["check", "run"])
@pytest.mark.parametrize(
    ("master", "words"),
    [
        ("two", "says that embedding and head are one matrix, and holds two that differ"),
        ("one", "says that embedding and head are two matrices, and holds no 'lm_head.weight'"),
    ],
)
def test_tied_and_untied_mixed(verb: str, master: str, words: str, material: Path, tmp_path: Path, capfd):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content(material, tmp_path, master=master)), encoding="utf-8")
    said = refused([verb, str(path)], capfd)
    assert words in said and "tie_word_embeddings" in said
    student = {"name": "pretrained", "model": str(material / master)}
    path.write_text(yaml.safe_dump(content(material, tmp_path, student=student)), encoding="utf-8")
    said = refused([verb, str(path)], capfd)
    assert words in said and "student.model" in said
    assert not (tmp_path / "run").exists()


def test_a_file_with_a_matrix_missing_is_no_teacher(material: Path, tmp_path: Path, capfd):
    """Transformers would draw it at random and go on."""
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content(material, tmp_path, master="holes")), encoding="utf-8")
    assert "'model.layers.1.mlp.up_proj.weight' among them" in refused(["run", str(path)], capfd)


@pytest.mark.parametrize("verb", ["check", "run"])
@pytest.mark.parametrize(
    "how", ["chat", {"name": "prompt_response", "prompt": "p", "response": "r", "template": "chat"}]
)
def test_a_student_whose_tokenizer_lost_its_template(verb: str, how: Any, material: Path, tmp_path: Path, capfd):
    path = tmp_path / "recipe.yaml"
    recipe = content(material, tmp_path, student={"name": "pretrained", "model": str(material / "mute")})
    recipe["data"]["sources"] = {"name": "jsonl", "path": str(material / "chats.jsonl"), "format": how}
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    said = refused([verb, str(path)], capfd)
    assert "has a tokenizer without a chat template, and data.sources.0 holds conversations" in said
    assert "copy chat_template.jinja" in said
    assert not (tmp_path / "run").exists()


def test_without_conversations_no_template_is_needed(material: Path, tmp_path: Path, capfd):
    path = tmp_path / "recipe.yaml"
    student = {"name": "pretrained", "model": str(material / "mute")}
    path.write_text(yaml.safe_dump(content(material, tmp_path, student=student)), encoding="utf-8")
    with pytest.raises(SystemExit) as exit_:
        main(["check", str(path), "--no-measure"])
    assert exit_.value.code == 0


@pytest.mark.parametrize("verb", ["check", "run"])
def test_stages_whose_sizes_grow(verb: str, material: Path, tmp_path: Path, capfd):
    path = tmp_path / "recipe.yaml"
    stages = [
        {"name": "small", "student": {"name": "drop_layers", "keep": 2}},
        {"name": "large", "student": {"name": "copy_layers", "layers": [0, 1, 1]}},
    ]
    recipe = content(material, tmp_path, stages=stages, student={"name": "drop_layers", "keep": 1})
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    said = refused([verb, str(path)], capfd)
    assert "stages.1 (large), student: has" in said and "more than the" in said and "of who teaches it" in said
    assert not (tmp_path / "run").exists()


def test_a_stage_that_cannot_be_is_named(material: Path, tmp_path: Path, capfd):
    path = tmp_path / "recipe.yaml"
    stages = [{"name": "small", "student": {"name": "drop_layers", "keep": 9}}]
    path.write_text(yaml.safe_dump(content(material, tmp_path, stages=stages)), encoding="utf-8")
    assert "stages.0 (small), student.keep: 9 cannot be kept of 4 layers" in refused(["check", str(path)], capfd)


@pytest.mark.parametrize(
    ("goal", "words"),
    [
        ("0.5x", "is no smaller than the teacher, which has"),
        ("1x", "is no smaller than the teacher"),
        ("1B", "is no smaller than the teacher"),
        ("10 MB int4", "the teacher itself holds '10 MB int4'"),
        ("100000x", "the nearest possible is"),
        ("1 kB int4", "the nearest possible is"),
        ("soon", "cannot be understood"),
    ],
)
def test_a_goal_that_cannot_be(goal: str, words: str, material: Path, tmp_path: Path, capfd):
    recipe = tmp_path / "recipe.yaml"
    arguments = ["plan", str(material / "tied"), "--goal", goal, "--no-measure", "--write", str(recipe)]
    assert words in refused(arguments, capfd)
    assert not recipe.exists()


@pytest.mark.parametrize(
    ("labelled", "words"),
    [
        ("text", "is no mapping"),
        ("{text: [}", "is no mapping"),
        ("{text: sentence}", "labelled.classes: is needed and missing"),
        ("{classes: [no, yes], lable: x}", "Did you mean 'label'"),
    ],
)
def test_labels_that_cannot_be(labelled: str, words: str, material: Path, capfd):
    arguments = ["plan", str(material / "tied"), "--goal", "2x", "--no-measure", "--labelled", labelled]
    assert words in refused([*arguments, "--data", str(material / "text.jsonl")], capfd)
