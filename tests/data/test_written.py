"""Text that the teacher writes: its rows, where each came from, and the same rows after any interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from shared import make_llama, make_tokenizer
from taught import ask_lines, make_taught

from stillhouse.check import check_strategy
from stillhouse.data import prepare
from stillhouse.data.sources.written import written
from stillhouse.errors import DataError, Problem, RecipeError, RunError
from stillhouse.models import Model
from stillhouse.recipe import Strategy, parse
from stillhouse.writing import Ask, Local

Record = dict[str, Any]


@pytest.fixture(scope="module")
def teacher() -> Model:
    return make_llama(make_tokenizer())


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    path = tmp_path / "prompts.txt"
    path.write_text("# not a prompt\nstill water\n\nthe quick fox\noak\nstill water\n")
    return str(path)


def rows(teacher: Any, folder: Path | None = None, **options: Any) -> list[Record]:
    """As a recipe would ask for them."""
    from stillhouse.find import check_options

    return list(written(teacher, lambda share: None, folder, **check_options(written, options, "source")))


def test_every_prompt_is_answered_once_and_the_seed_decides(teacher: Model, prompts: str):
    one, same, other = (rows(teacher, prompts=prompts, samples=2, new_tokens=6, seed=s) for s in (1, 1, 2))
    assert sorted(r["prompt"] for r in one) == ["oak"] * 2 + ["still water"] * 2 + ["the quick fox"] * 2
    assert one == same
    assert [r["response"] for r in one] != [r["response"] for r in other]
    assert one[0]["response"] != one[1]["response"]


def test_a_row_says_how_it_can_be_written_again(teacher: Model, prompts: str):
    for row in rows(teacher, prompts=prompts, samples=2, new_tokens=6, temperature=0.7, stop=["\x00"]):
        about = row["provenance"]
        ask = Ask(row["prompt"], **{name: about[name] for name in Ask.__dataclass_fields__ if name != "text"})
        (answer,) = Local(teacher).write([ask])
        assert answer.text.strip() == row["response"] == row["text"] == row["messages"][1]["content"]
        assert (answer.tokens, answer.finish) == (about["tokens"], about["finish"])
        assert answer.logprob == pytest.approx(about["logprob"], abs=1e-3)
        assert about["fingerprint"] == Local(teacher).fingerprint[:16]
        assert about["prompts"]["line"] == {"still water": 2, "the quick fox": 4, "oak": 5}[row["prompt"]]
        assert about["teacher"] == "tiny" and about["arithmetic"] in ("float32", "bfloat16")


def test_its_likelihood_is_the_teachers(teacher: Model, prompts: str):
    tokenizer = teacher.tokenizer
    for row in rows(teacher, prompts=prompts, new_tokens=6, dtype="float32", template="none"):
        about = row["provenance"]
        before = tokenizer(row["prompt"]).input_ids
        ids = before + tokenizer(row["response"]).input_ids
        if len(ids) - len(before) != about["tokens"]:
            continue  # what was written would be read as other tokens
        with teacher.generating() as network, torch.no_grad():
            logp = torch.log_softmax(network(torch.tensor([ids])).logits[0], -1)
        expected = sum(float(logp[i - 1, ids[i]]) for i in range(len(before), len(ids)))
        assert about["logprob"] == pytest.approx(expected, abs=1e-3)


def test_what_goes_on_from_a_text_is_one_text_with_it(teacher: Model, prompts: str):
    for row in rows(teacher, prompts=prompts, template="none", new_tokens=5):
        assert row["text"] == row["prompt"] + row["response"]
        assert row["provenance"]["form"] == "text"


def test_a_schedule_runs_over_the_samples_or_else_the_prompts(teacher: Model, tmp_path: Path):
    path = tmp_path / "p.txt"
    path.write_text("\n".join(f"prompt {i}" for i in range(5)))
    linear = {"name": "linear", "start": 0.5, "end": 1.5}
    many = rows(teacher, prompts=str(path), samples=3, temperature=linear, new_tokens=2)
    assert {(r["provenance"]["sample"], r["provenance"]["temperature"]) for r in many} == {(0, 0.5), (1, 1.0), (2, 1.5)}
    single = rows(teacher, prompts=str(path), top_p={"name": "linear", "start": 0.5, "end": 0.9}, new_tokens=2)
    assert {r["prompt"]: round(r["provenance"]["top_p"], 3) for r in single} == {
        f"prompt {i}": round(0.5 + 0.1 * i, 3) for i in range(5)
    }
    with pytest.raises(RecipeError, match="min_p: its schedule gives 2"):
        rows(teacher, prompts=str(path), min_p={"name": "linear", "start": 0.0, "end": 2.0})


def test_the_likeliest_samples_are_kept(teacher: Model, prompts: str):
    all_ = rows(teacher, prompts=prompts, samples=5, new_tokens=4, temperature=1.5)
    best = rows(teacher, prompts=prompts, samples=5, new_tokens=4, temperature=1.5, select="likelihood", keep=2)
    for prompt in {r["prompt"] for r in all_}:
        mean = {
            r["provenance"]["sample"]: r["provenance"]["logprob"] / r["provenance"]["tokens"]
            for r in all_
            if r["prompt"] == prompt
        }
        expected = sorted(sorted(mean, key=lambda s: -mean[s])[:2])
        kept = [r["provenance"] for r in best if r["prompt"] == prompt]
        assert [p["sample"] for p in kept] == expected
        assert [p["score"] for p in kept] == pytest.approx([mean[s] for s in expected], abs=1e-4)


def test_what_a_function_refuses_is_not_kept(teacher: Model, prompts: str, tmp_path: Path):
    (tmp_path / "short.py").write_text("def short(prompt, response):\n    return len(response) < 12\n")
    function = f"{tmp_path}/short.py:short"
    found = rows(
        teacher,
        tmp_path / "rows",
        prompts=prompts,
        samples=4,
        new_tokens=5,
        keep=4,
        select={"name": "verified", "function": function},
    )
    every = rows(teacher, prompts=prompts, samples=4, new_tokens=5)
    assert [r["response"] for r in found] == [r["response"] for r in every if len(r["response"]) < 12]
    (folder,) = (tmp_path / "rows").iterdir()
    (told,) = [json.loads(line)["counts"] for line in (folder / "batches.jsonl").read_text().splitlines()]
    assert told == {"texts": 12, "empty": 0, "refused": 12 - len(found)}
    (tmp_path / "short.py").write_text("def short(prompt, response):\n    return False\n")
    from stillhouse.data.selections import verified as module

    module._function.cache_clear()
    with pytest.raises(DataError, match="12 were refused: no row is left"):
        rows(
            teacher,
            tmp_path / "rows",
            prompts=prompts,
            samples=4,
            new_tokens=5,
            select={"name": "verified", "function": function},
        )


def state(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.jsonl")}


def test_it_goes_on_where_it_was_and_asks_for_nothing_twice(teacher: Model, prompts: str, tmp_path: Path):
    options = {"prompts": prompts, "samples": 2, "new_tokens": 6, "together": 2}
    whole = rows(teacher, tmp_path / "whole", **options)
    passes: list[int] = []
    hook = teacher.trunk.register_forward_hook(lambda *_: passes.append(1))
    try:
        source = written(teacher, lambda share: None, tmp_path / "part", **options)
        first = [next(source) for _ in range(3)]
        source.close()
        one = len(passes)
        assert first + rows(teacher, tmp_path / "part", **options)[3:] == whole
        assert len(passes) > one
        passes.clear()
        assert rows(teacher, tmp_path / "part", **options) == whole
        assert not passes
    finally:
        hook.remove()
    assert state(tmp_path / "part") == state(tmp_path / "whole")


@pytest.mark.parametrize("name", ["magpie", "self_instruct"])
def test_prompts_that_the_teacher_writes_are_kept_too(tmp_path: Path, name: str):
    teacher = make_taught()
    strategy: dict[str, Any] = {
        "name": name,
        "count": 3,
        "new_tokens": 40,
        "together": 8,
        "temperature": 1.0,
        "top_p": 1.0,
    }
    strategy |= {"path": ask_lines(tmp_path / "seeds.txt", 3), "similar": 0.9} if name == "self_instruct" else {}
    whole = rows(teacher, tmp_path / "whole", prompts=strategy, new_tokens=4)
    assert len({r["prompt"] for r in whole}) == 3 == len(whole)
    (place,) = (tmp_path / "whole").iterdir()
    drafts = [json.loads(line) for line in (place / "drafts" / "rows.jsonl").read_text().splitlines()]
    assert {r["prompt"] for r in whole} <= {d["answer"]["text"].strip() for d in drafts}
    before = state(tmp_path / "whole")
    for path in ("rows.jsonl", "batches.jsonl"):
        (place / path).unlink()
    with (place / "drafts" / "batches.jsonl").open("r+b") as file:
        file.truncate(file.seek(0, 2) - 3)
    assert rows(teacher, tmp_path / "whole", prompts=strategy, new_tokens=4) == whole
    assert state(tmp_path / "whole") == before


KILLED = """
import sys
from pathlib import Path
from stillhouse import models
from stillhouse.data.sources.written import written
folder = Path(sys.argv[1])
for row in written(models.load(str(folder / "teacher")), lambda share: None, folder / "rows",
                   prompts=str(folder / "p.txt"), new_tokens=40, together=2, top_p=1.0, dtype="float32"):
    pass
"""


def test_a_process_that_is_killed_loses_one_batch_at_most(teacher: Model, tmp_path: Path):
    teacher.save(tmp_path / "teacher")
    (tmp_path / "p.txt").write_text("\n".join(f"prompt number {i}" for i in range(60)))
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)])
    try:
        deadline = time.monotonic() + 60
        told: list[Path] = []
        while not (told and told[0].read_bytes().count(b"\n") >= 3):
            told = list((tmp_path / "rows").glob("*/batches.jsonl"))
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    there = told[0].read_bytes().count(b"\n")
    assert 3 <= there < 30
    loaded = __import__("stillhouse.models", fromlist=["load"]).load(str(tmp_path / "teacher"))
    options = {"prompts": str(tmp_path / "p.txt"), "new_tokens": 40, "together": 2, "top_p": 1.0, "dtype": "float32"}
    assert rows(loaded, tmp_path / "rows", **options) == rows(loaded, tmp_path / "whole", **options)
    assert state(tmp_path / "rows") == state(tmp_path / "whole")


def test_other_settings_have_another_folder_but_not_where_one_is_named(teacher: Model, prompts: str, tmp_path: Path):
    rows(teacher, tmp_path / "rows", prompts=prompts, new_tokens=3)
    rows(teacher, tmp_path / "rows", prompts=prompts, new_tokens=4)
    assert len(list((tmp_path / "rows").iterdir())) == 2
    mine = str(tmp_path / "mine")
    first = rows(teacher, prompts=prompts, new_tokens=3, path=mine)
    assert rows(teacher, prompts=prompts, new_tokens=3, path=mine) == first
    with pytest.raises(RunError, match="written otherwise: new_tokens differ"):
        rows(teacher, prompts=prompts, new_tokens=4, path=mine)
    Path(prompts).write_text("something else\n")
    with pytest.raises(RunError, match="written otherwise: files differ"):
        rows(teacher, prompts=prompts, new_tokens=3, path=mine)
    with pytest.raises(RunError, match="teacher"):
        rows(make_llama(make_tokenizer(), seed=1), prompts=prompts, new_tokens=3, path=mine)


def test_a_file_without_prompts(teacher: Model, tmp_path: Path):
    (tmp_path / "prompts.txt").write_text("# nothing\n")
    with pytest.raises(DataError, match="holds no prompt"):
        rows(teacher, prompts=str(tmp_path / "prompts.txt"))


def test_a_teacher_without_a_template_or_an_end(prompts: str):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    teacher = make_llama(tokenizer)
    assert {r["provenance"]["form"] for r in rows(teacher, prompts=prompts, new_tokens=3)} == {"text"}
    with pytest.raises(DataError, match="has no chat template"):
        rows(teacher, prompts=prompts, template="chat")
    tokenizer.eos_token = None
    teacher.network.generation_config.eos_token_id = None
    with pytest.raises(Exception, match="has no end token"):
        rows(teacher, prompts=prompts)


def test_answers_that_are_all_empty(prompts: str):
    teacher = make_llama(make_tokenizer())
    with torch.no_grad():
        teacher.head_layer.weight.zero_()
    with pytest.raises(DataError, match="of 3 answers 3 are empty"):
        rows(teacher, prompts=prompts, temperature=0.0)  # all alike: the first token of the vocabulary ends the text


def problems(**options: Any) -> list[Problem]:
    found: list[Problem] = []
    source = Strategy.model_validate({"name": "written", **options})
    check_strategy("source", source, "data.sources.0", found)
    return found


def test_all_mistakes_are_told_at_once_before_anything_is_loaded(prompts: str, tmp_path: Path):
    assert not problems(prompts=prompts)
    assert not problems(
        prompts={"name": "grid", "axes": {"a": ["b"]}, "template": "{{ a }}"},
        temperature={"name": "constant", "value": 1},
    )
    several = problems(prompts="none.txt", select={"name": "verifyed"}, temperature={"name": "linear", "start": 1})
    assert [p.where for p in several] == [
        "data.sources.0.prompts.path", "data.sources.0.select", "data.sources.0.temperature.end",
    ]  # fmt: skip
    (wrong,) = problems(prompts=prompts, top_p=1.5, select="likelihood")
    assert wrong.where.startswith("data.sources.0.top_p")
    (field,) = problems(prompts={"name": "grid", "axes": {"topic": ["b"]}, "template": "Write {{ topik }}."})
    assert field.where.startswith("data.sources.0.prompts")
    (source,) = problems(
        prompts={"name": "prefixes", "source": {"name": "text", "path": str(tmp_path / "no" / "*.txt")}}
    )
    assert source.where == "data.sources.0.prompts.source.path"
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (empty,) = problems(prompts=str(tmp_path / "empty.txt"))
    assert "holds no prompt" in empty.what


def test_a_corpus_is_made_of_it_and_of_what_was_written_before(tmp_path: Path):
    (tmp_path / "prompts.txt").write_text("\n".join(f"prompt number {i}" for i in range(12)))
    source = {"name": "written", "prompts": str(tmp_path / "prompts.txt"), "new_tokens": 24, "format": "chat"}
    settings = parse({"data": {"sources": source, "block": 64, "validation": 0.3}, "teacher": "x", "student": "random"})
    teacher = make_llama(make_tokenizer())
    corpus = prepare(settings.data, teacher.tokenizer, tmp_path / "run" / "data", teacher=teacher)
    assert corpus.facts["documents"] == 12
    assert 0 < corpus.train.loss_positions < corpus.train.tokens  # the prompts carry none
    passes: list[int] = []
    teacher.trunk.register_forward_hook(lambda *_: passes.append(1))
    other = settings.data.model_copy(update={"validation": 0.5})  # another corpus, of the same text
    again = prepare(other, teacher.tokenizer, tmp_path / "run" / "data", teacher=teacher)
    assert again.facts["documents"] == 12 and not passes
