"""A user's mistake: one clear message with a way out, exit code 2, no traceback, nothing half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from shared import LINES, make_llama, make_tokenizer
from transformers import PreTrainedTokenizerFast

from stillhouse.cli import main


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("material")
    make_llama(make_tokenizer(), layers=2).save(folder / "teacher")
    lines = [
        json.dumps({"text": f"{i} {LINES[i % 4]}", "prompt": f"{i}?", "response": LINES[i % 4]}) for i in range(60)
    ]
    (folder / "text.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def content(material: Path, tmp_path: Path) -> dict:
    return {
        "run": str(tmp_path / "run"),
        "data": {"sources": {"name": "jsonl", "path": str(material / "text.jsonl")}, "block": 32, "validation": 0.2},
        "teacher": str(material / "teacher"),
        "student": {"name": "drop_layers", "keep": 1},
        "trainer": {"steps": 1, "tokens_per_step": 64, "micro_tokens": 64, "dtype": "float32", "threads": 1},
        "evaluate": {"tokens": 100, "control": False},
    }  # fmt: skip


def told(
    content: dict | str, tmp_path: Path, capfd: pytest.CaptureFixture[str], *overrides: str, verb: str = "run"
) -> str:
    """Run the command line on a recipe that cannot run; what it says on stderr."""
    path = tmp_path / "recipe.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(SystemExit) as exit_:
        main([verb, str(path), *overrides])
    assert exit_.value.code == 2
    error = capfd.readouterr().err
    assert "Traceback" not in error
    assert "✗" in error
    return " ".join(error.split())


def test_five_mistakes_are_told_at_once(content, tmp_path, capfd):
    content["trainer"]["stpes"] = 5
    content["trainer"]["steps"] = 0
    content["objective"] = {"alpha": 3}
    content["data"]["blok"] = 1
    del content["student"]
    said = told(content, tmp_path, capfd)
    assert "5 things are wrong" in said
    for words in (
        "trainer.stpes: unknown key",
        "Did you mean 'steps'",
        "trainer.steps",
        "alpha",
        "data.blok",
        "student: is needed",
    ):
        assert words in said
    assert not (tmp_path / "run").exists()


def test_mistakes_in_options_of_strategies_are_told_at_once(content, tmp_path, capfd):
    content["student"] = {"name": "drop_layers", "kepe": 3}
    content["objective"] = {"soft": "foward_kl"}
    content["evaluate"]["measures"] = ["performance", "honesty"]
    content["export"] = {"formats": "gguff"}
    said = told(content, tmp_path, capfd)
    for words in (
        "student.kepe",
        "Did you mean 'keep'",
        "Did you mean 'forward_kl'",
        "no measure 'honesty'",
        "no export 'gguff'",
    ):
        assert words in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"teacher": None}, "teacher"),
        ({"teacher": "./no/such/folder"}, "there is no such folder"),
        ({"teacher": "no-such.gguf"}, "there is no file 'no-such.gguf'"),
        ({"teacher": "pkg:no_such_package"}, "pip install --no-deps no-such-package"),
        ({"data": {"sources": {"name": "text", "path": "nowhere/*.txt"}}}, "no file matches 'nowhere/*.txt'"),
        ({"data": {"sources": []}}, "data.sources"),
    ],
)
def test_what_is_not_there(content, tmp_path, capfd, change, words):
    content.update(change)
    assert words in told(content, tmp_path, capfd)


def text_recipe(content: dict, tmp_path: Path, raw: bytes, **more: object) -> dict:
    (tmp_path / "text.txt").write_bytes(raw)
    content["data"] = {
        "sources": {"name": "text", "path": str(tmp_path / "text.txt"), "separator": "\n"},
        "block": 32,
        **more,
    }
    return content


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "is empty"),
        (b"good\n\xff\xfe bad\n", "UTF-8"),
        (b"only one line\n", "one document only"),
        (b"a\nb\nc\n", "fewer than one block"),
    ],
)
def test_text_that_cannot_be_learned_from(content, tmp_path, capfd, raw, words):
    assert words in told(text_recipe(content, tmp_path, raw), tmp_path, capfd)
    assert not (tmp_path / "run" / "data").exists()


def test_a_prompt_longer_than_the_block(content, tmp_path, capfd, material):
    (tmp_path / "long.jsonl").write_text(json.dumps({"prompt": "still " * 90, "response": "water"}) + "\n")
    content["data"]["sources"] = {"name": "jsonl", "path": str(tmp_path / "long.jsonl"), "format": "prompt_response"}
    said = told(content, tmp_path, capfd)
    assert "long_prompts" in said or "data.block" in said


def test_labels_all_masked(content, tmp_path, capfd):
    rows = [{"messages": [{"role": "user", "content": f"hello {i}"}]} for i in range(9)]
    (tmp_path / "asked.jsonl").write_text("\n".join(map(json.dumps, rows)))
    content["data"]["sources"] = {"name": "jsonl", "path": str(tmp_path / "asked.jsonl"), "format": "chat"}
    assert "loss" in told(content, tmp_path, capfd)


def test_a_tokenizer_without_an_end(content, tmp_path, capfd):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=make_tokenizer().backend_tokenizer)
    make_llama(make_tokenizer()).save(tmp_path / "teacher")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / "teacher" / name).unlink(missing_ok=True)
    tokenizer.save_pretrained(tmp_path / "teacher")
    content["teacher"] = str(tmp_path / "teacher")
    assert "data.end_token" in told(content, tmp_path, capfd)


def test_a_gguf_cut_in_half(content, tmp_path, capfd):
    import numpy as np
    from gguf import GGUFWriter

    writer = GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tensor("token_embd.weight", np.zeros((64, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    whole = (tmp_path / "model.gguf").read_bytes()
    for part in (len(whole) // 2, 40):
        (tmp_path / "model.gguf").write_bytes(whole[:part])
        content["teacher"] = str(tmp_path / "model.gguf")
        assert "cut short" in told(content, tmp_path, capfd)
    (tmp_path / "model.gguf").write_bytes(b"not a model at all")
    assert "not a GGUF file" in told(content, tmp_path, capfd)


def test_a_run_folder_that_cannot_be(content, tmp_path, capfd):
    (tmp_path / "file").write_text("x")
    content["run"] = str(tmp_path / "file")
    assert "is a file, not a folder" in told(content, tmp_path, capfd)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_run_folder_that_cannot_be_written(content, tmp_path, capfd):
    (tmp_path / "shut").mkdir(mode=0o500)
    content["run"] = str(tmp_path / "shut" / "run")
    assert "cannot be written" in told(content, tmp_path, capfd)


def test_two_runs_in_one_folder(content, tmp_path, capfd):
    """Another process holds the folder; it is named."""
    code = (
        "import sys, time; from pathlib import Path; from stillhouse.lock import lock\n"
        "with lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, content["run"]], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        assert f"process {other.pid}" in told(content, tmp_path, capfd)
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data: [", "is not YAML"),
        ("just words", "holds no recipe"),
        ("", "holds no recipe"),
        ("a: b: c", "is not YAML"),
    ],
)
def test_a_recipe_that_is_none(tmp_path, capfd, text, words):
    assert words in told(text, tmp_path, capfd)


def test_a_recipe_that_is_not_there(tmp_path, capfd):
    (tmp_path / "demo.yaml").write_text("x: 1")
    with pytest.raises(SystemExit) as exit_:
        main(["run", str(tmp_path / "demi.yaml")])
    assert exit_.value.code == 2
    assert "Did you mean 'demo.yaml'" in capfd.readouterr().err


@pytest.mark.parametrize("override", ["steps", "trainer.stpes=4", "trainer.steps=many", "trainer.steps.more=1"])
def test_overrides_that_cannot_be(content, tmp_path, capfd, override):
    told(content, tmp_path, capfd, override)


def test_a_disk_that_is_full(content, tmp_path, capfd, monkeypatch):
    """The write fails as the system says it; what was there stays, the message says what to do."""
    import errno

    from stillhouse.trainer import checkpoint

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "save_tensors", full)
    said = told(content, tmp_path, capfd)
    assert "No space left" in said
    assert not list((tmp_path / "run").rglob("*.tmp"))


def test_no_run_no_evaluation(tmp_path, capfd):
    for verb in ("evaluate", "report"):
        with pytest.raises(SystemExit) as exit_:
            main([verb, str(tmp_path / "nothing")])
        assert exit_.value.code == 2
        assert "Traceback" not in capfd.readouterr().err


def test_help_is_instant_and_loads_no_torch():
    code = "import sys; sys.argv = ['stillhouse', '--help']\ntry:\n import stillhouse.cli as c; c.main()\nexcept SystemExit: pass\nprint('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip().endswith("False")
    assert "run" in out and "inspect" in out


def test_list_and_schema(capfd):
    for arguments, words in ((["list"], "drop_layers"), (["list", "loss"], "forward_kl"), (["schema"], "temperature")):
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert exit_.value.code == 0
        assert words in capfd.readouterr().out


def test_check_tells_exact_sizes(content, tmp_path, capfd):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(SystemExit) as exit_:
        main(["check", str(path), "--no-measure"])
    assert exit_.value.code == 0
    out = capfd.readouterr().out
    assert "18,016 parameters" in out.replace("\n", " ") or "parameters" in out
    assert "64 tokens in 1 steps" in out
