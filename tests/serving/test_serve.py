"""A student behind a real engine, asked over HTTP by a client as people have it; and what is said where there is none."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from shared import make_llama, make_tokenizer

from stillhouse.errors import RunError
from stillhouse.export.formats.gguf import gguf
from stillhouse.find import find, names
from stillhouse.serve import Order, Served, plan, serving

PACKAGES = find("engine", "llama_cpp").packages
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
needs_llama_cpp = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (stillhouse[serve])")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama as a run leaves it: its own folder and one GGUF file."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    student = make_llama(make_tokenizer())
    student.save(folder / "student")
    (folder / "exports" / "gguf-q8_0").mkdir(parents=True)
    made = gguf(student, folder / "exports" / "gguf-q8_0")
    records = [
        {"name": "gguf-q8_0", "format": "gguf", "path": str(made.path.relative_to(folder))},
        {"name": "gguf-q4_0", "refused": "loses too much"},
        {"name": "onnx-int8", "format": "onnx", "path": "student"},
    ]
    (folder / "exports.json").write_text(json.dumps(records), encoding="utf-8")
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: dict[str, Any] = json.loads(answer.read())
        return found


@needs_llama_cpp
def test_a_client_completes_against_it(run: Path) -> None:
    """By plain HTTP, and by OpenAI's own client where it is installed."""
    planned = plan(run, port=free_port(), threads=1)
    assert planned.artefact == "gguf-q8_0" and planned.model == "tiny"
    with serving(planned) as process:
        body = {"model": planned.model, "prompt": "The quick", "max_tokens": 5, "temperature": 0.0}
        said = ask(f"{planned.url}/completions", body)
        assert said["usage"]["completion_tokens"] == 5 and said["model"] == "tiny"
        assert ask(f"{planned.url}/completions", body)["choices"][0]["text"] == said["choices"][0]["text"]
        told = json.loads(subprocess.run(_words(planned.call), capture_output=True, check=True, text=True).stdout)
        assert told["choices"][0]["message"]["role"] == "assistant"
        if importlib.util.find_spec("openai") is not None:
            from openai import OpenAI

            with OpenAI(base_url=planned.url, api_key="none") as client:
                assert [model.id for model in client.models.list()] == ["tiny"]
                message = [{"role": "user", "content": "still"}]
                answer = client.chat.completions.create(model="tiny", messages=message, max_tokens=4, temperature=0)
                assert answer.choices[0].message.role == "assistant" and answer.usage.completion_tokens <= 4
        with pytest.raises(RunError, match="listens on port"), serving(planned):
            pass
    assert process.poll() is not None


def _words(command: str) -> list[str]:
    import shlex
    import shutil

    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    return [*shlex.split(command), "--silent"]


@needs_llama_cpp
def test_an_engine_that_dies_is_one_message(run: Path) -> None:
    broken = Served(
        "gguf-q8_0",
        "llama_cpp",
        (sys.executable, "-c", "raise SystemExit(7)"),
        f"http://127.0.0.1:{free_port()}/v1",
        "tiny",
    )
    with pytest.raises(RunError, match="llama_cpp ended with 7"), serving(broken):
        pass


def test_what_is_missing_is_told_with_the_line_that_installs_it(run: Path, tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n', encoding="utf-8")  # sees no installed package
    bare.chmod(0o755)
    with pytest.raises(RunError) as stop:
        plan(run, python=str(bare))
    text = str(stop.value)
    assert "stillhouse[serve]" in text and "pip install vllm" in text and "onnx-int8: no engine" in text
    with pytest.raises(RunError, match="does not run"):
        plan(run, python=str(tmp_path / "nowhere"))


def test_a_wrong_name_is_told_with_the_right_one(run: Path) -> None:
    with pytest.raises(RunError, match=r"(?s)no 'gguf-q8'.*Did you mean 'gguf-q8_0'"):
        plan(run, artefact="gguf-q8")
    with pytest.raises(RunError, match="no 'gguf-q4_0'"):
        plan(run, artefact="gguf-q4_0")  # it was refused: there is no such file
    with pytest.raises(RunError, match="no finished student"):
        plan(run / "student")


def test_classifiers_are_not_served(tmp_path: Path) -> None:
    (tmp_path / "student").mkdir()
    shape = {"architectures": ["BertForSequenceClassification"]}
    (tmp_path / "student" / "config.json").write_text(json.dumps(shape), encoding="utf-8")
    with pytest.raises(RunError, match="is a classifier"):
        plan(tmp_path)


@pytest.mark.parametrize("name", names("engine"))
def test_every_engine_is_told_what_is_asked(name: str, tmp_path: Path) -> None:
    engine: Any = find("engine", name)
    order = Order(tmp_path / "model", "tiny", "127.0.0.1", 8123, 512, 3)
    command = engine(order)
    assert command[0] == "-m" and all(isinstance(word, str) for word in command)
    for wanted in (str(order.path), order.name, order.host, str(order.port), str(order.context)):
        assert wanted in command, wanted
    assert engine.form and engine.packages and "pip install" in engine.install
