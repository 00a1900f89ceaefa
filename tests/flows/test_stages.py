"""A student reached in stages: who is taught by whom, what is compared with what, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from shared import LINES, make_llama, make_tokenizer

import stillhouse
from stillhouse import models
from stillhouse.check import costs
from stillhouse.errors import RecipeError, StillhouseError
from stillhouse.evaluate import records


def settings(folder: Path, **changes: object) -> stillhouse.Recipe:
    if not (folder / "teacher").exists():
        lines = [json.dumps({"text": f"{i} casks of oak, {i * i} litres. {LINES[i % 4]}"}) for i in range(60)]
        (folder / "text.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        make_llama(make_tokenizer(), layers=4).save(folder / "teacher")
    content = {
        "name": "tiny",
        "run": str(folder / "run"),
        "data": {"sources": {"name": "jsonl", "path": str(folder / "text.jsonl")}, "block": 64, "validation": 0.2},
        "teacher": {"name": "local", "model": str(folder / "teacher"), "dtype": "float32"},
        "stages": [
            {
                "name": "adapted", "student": {"name": "drop_layers", "keep": 4},
                "objective": {"alpha": 0.0}, "trainer": {"steps": 3},
            },
            {"name": "assistant", "student": {"name": "drop_layers", "keep": 3}, "trainer": {"steps": 2}},
        ],
        "student": {"name": "drop_layers", "keep": 2},
        "trainer": {"steps": 4, "tokens_per_step": 128, "micro_tokens": 64, "dtype": "float32", "learning_rate": 3e-3},
        "evaluate": {"tokens": 300, "control": False, "direct": True, "reference": "adapted"},
        "report": {"prompts": ["still water"], "new_tokens": 4},
    }  # fmt: skip
    return stillhouse.parse({**content, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stillhouse.run(settings(tmp_path_factory.mktemp("stages")))


def test_each_stage_is_a_run_taught_by_the_one_before(finished: Path):
    adapted, assistant = (finished / "stages" / name for name in ("adapted", "assistant"))
    for run, layers in ((adapted, 4), (assistant, 3), (finished, 2), (finished / "direct", 2)):
        assert len(models.load(str(run / "student")).layers) == layers
        assert (run / "report.html").is_file()
    taught_by = {
        run.name: stillhouse.load(run / "recipe.yaml").teacher.options["model"] for run in (adapted, assistant)
    }
    assert taught_by == {"adapted": str(finished.parent / "teacher"), "assistant": str(adapted / "student")}
    assert stillhouse.load(finished / "direct" / "recipe.yaml").teacher.options["model"] == str(adapted / "student")
    # The student begins as layers 0 and 2 of the assistant's three, not of the teacher's four.
    before, source = models.load(str(finished / "before")), models.load(str(assistant / "student"))
    for mine, theirs in zip(before.layers, (source.layers[0], source.layers[2]), strict=True):
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(a, b)


def test_the_direct_way_gets_as_many_tokens_as_all_stages_after_the_reference(finished: Path):
    def steps(run: Path) -> int:
        return sum("loss" in json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())

    assert [steps(finished / p) for p in ("stages/adapted", "stages/assistant", ".", "direct")] == [3, 2, 4, 6]


def test_the_student_is_compared_with_the_adapted_teacher(finished: Path):
    named = json.loads((finished / "evaluation" / "models.json").read_text())
    assert named["teacher"]["name"] == "student" and named["teacher"]["parameters"] > named["student"]["parameters"]
    items = records.read(finished / "evaluation" / "items.parquet")
    adapted = records.read(finished / "stages" / "adapted" / "evaluation" / "items.parquet")
    assert items.roles["teacher"].nll == pytest.approx(adapted.roles["student"].nll, abs=1e-5)
    assert (adapted.roles["student"].nll.mean()) < adapted.roles["teacher"].nll.mean()  # labels alone taught it
    findings = {f["name"]: f for f in json.loads((finished / "evaluation.json").read_text())["findings"]}
    found = findings["route"]["estimates"][0]
    bits = {role: items.loss(role)[0].sum() / items.loss(role)[1].sum() for role in ("direct", "student")}
    assert found["value"] == pytest.approx(bits["direct"] - bits["student"])
    page = (finished / "report.html").read_text()
    assert "Did the stages on the way help?" in page
    assert all(f'href="{part}/report.html"' in page for part in ("stages/adapted", "stages/assistant", "direct"))


def test_it_goes_on_where_it_was_stopped(tmp_path: Path):
    """Stopped in the second stage: the first is not run again, and what comes out is what would have come out."""
    whole = stillhouse.run(settings(tmp_path, run=str(tmp_path / "whole"), evaluate={"control": False, "tokens": 200}))
    recipe = settings(tmp_path, evaluate={"control": False, "tokens": 200})
    stillhouse.run(recipe.stage(0))
    done = (recipe.folder / "stages" / "adapted" / "student" / "model.safetensors").stat()
    assert stillhouse.run(recipe) == recipe.folder
    again = (recipe.folder / "stages" / "adapted" / "student" / "model.safetensors").stat()
    assert (done.st_mtime_ns, done.st_ino) == (again.st_mtime_ns, again.st_ino)
    for part in ("student", "stages/assistant/student"):
        one, two = ((run / part / "model.safetensors").read_bytes() for run in (whole, recipe.folder))
        assert one == two


def test_stages_that_grow_are_refused_before_anything_is_trained(tmp_path: Path):
    stages = [{"name": "small", "student": {"name": "drop_layers", "keep": 1}}]
    recipe = settings(tmp_path, stages=stages, student={"name": "random", "layers": 3}, evaluate={})
    with pytest.raises(
        StillhouseError, match=r"student: has [\d,]+ parameters, more than the [\d,]+ of who teaches it"
    ):
        stillhouse.run(recipe)
    assert not (tmp_path / "run").exists()


def test_all_mistakes_in_stages_are_told_at_once(tmp_path: Path):
    stages = [
        {"name": "a", "student": "drop_layer", "trainer": {"stepps": 3}},
        {"name": "a", "student": {"name": "drop_layers", "keep": 3}, "objective": {"alpha": 7}},
    ]
    with pytest.raises(RecipeError) as raised:
        settings(tmp_path, stages=stages, evaluate={"reference": "adapted"})
    told = str(raised.value)
    for part in ("stages.0.trainer.stepps", "Did you mean 'steps'", "stages.1.name", "'a' is taken", "alpha is a share",
                 "there is no stage 'adapted'"):  # fmt: skip
        assert part in told, part
    stages[0] |= {"trainer": {}}
    stages[1] |= {"name": "b", "objective": {}}
    with pytest.raises(RecipeError, match=r"stages.0 \(a\), student: there is no builder 'drop_layer'"):
        stillhouse.check(settings(tmp_path, stages=stages, evaluate={}))
    with pytest.raises(RecipeError, match="the recipe has none"):
        settings(tmp_path, stages=[], evaluate={"direct": True})


def test_costs_are_those_of_all_stages(tmp_path: Path):
    recipe = settings(tmp_path, evaluate={"control": False})
    found = costs(recipe, measure=False)
    assert found.tokens == 128 * (3 + 2 + 4)
    body = [
        sum(p.numel() for p in m.layers.parameters()) for m in [make_llama(make_tokenizer(), layers=n) for n in (1,)]
    ]
    head, layer = 320 * 32, body[0]
    wanted = sum(
        128 * steps * (3 * (mine * layer + head) + theirs * layer + head)
        for steps, theirs, mine in ((3, 4, 4), (2, 4, 3), (4, 3, 2))
    )
    assert found.operations == wanted


def test_a_recipe_with_stages_can_be_written_and_read(tmp_path: Path):
    recipe = settings(tmp_path)
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe.to_yaml())
    assert stillhouse.load(file) == recipe
    assert yaml.safe_load(recipe.to_yaml())["stages"][0]["trainer"] == {"steps": 3}
