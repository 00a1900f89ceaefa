"""Tasks on a run, from the recipe, from the command line, and judged by a policy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_flow import material, recipe_for  # noqa: F401 – a fixture

import stillhouse
from stillhouse.cli import main
from stillhouse.errors import RecipeError
from stillhouse.evaluate import answers


@pytest.fixture(scope="module")
def asked(material: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A run whose recipe asks a task."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    tasks = "evaluate.tasks=[{name: recall, pairs: [2], questions: 24}]"
    yield stillhouse.run(recipe_for(material, tmp_path_factory.mktemp("runs") / "asked", tasks))
    monkeypatch.undo()


def findings(folder: Path) -> dict[str, dict]:
    return {f["name"]: f for f in json.loads((folder / "evaluation.json").read_text())["findings"]}


def test_a_recipe_asks_tasks(asked: Path):
    found = answers.read(asked / "evaluation" / "answers.parquet")
    assert [task.task for task in found.tasks] == ["recall"]
    assert set(found.tasks[0].roles) == {"teacher", "before", "student", "control"}
    told = findings(asked)
    assert {"performance", "tasks", "coverage", "collapse", "flips", "soundness"} <= set(told)
    assert told["tasks"]["verdict"] == "UNINFORMATIVE"  # so small a teacher recalls nothing
    assert "recall" in (asked / "report.html").read_text(encoding="utf-8")


def test_more_tasks_are_asked_without_reading_text_again(asked: Path):
    items = asked / "evaluation" / "items.parquet"
    before = items.stat().st_mtime_ns
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(asked), "--task", "facts", "--limit", "25"])
    assert ended.value.code == 0
    assert items.stat().st_mtime_ns == before
    found = answers.read(asked / "evaluation" / "answers.parquet")
    assert [(task.task, task.size) for task in found.tasks] == [("recall", 24), ("facts", 25)]
    assert "facts: right" in {e["label"] for e in findings(asked)["tasks"]["estimates"]}


def test_a_policy_judges_the_stored_tables(asked: Path, tmp_path: Path):
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "retention: 0.01\nmeasures:\n  - {name: tasks, required: false}\n  - fidelity\n  - {name: performance}\n"
    )
    found = stillhouse.evaluate(asked, judge_only=True, policy=policy)
    assert [f["name"] for f in found["findings"]] == ["tasks", "fidelity", "performance"]
    assert found["policy"]["retention"] == 0.01
    assert found["verdict"] == next(f for f in found["findings"] if f["name"] == "performance")["verdict"] or (
        found["verdict"] == "INCONCLUSIVE"
    )
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", str(asked), "--judge", "--policy", str(policy), "--gate"])
    assert stopped.value.code == {"PASS": 0, "FAIL": 1}.get(found["verdict"], 2)


def test_a_suite_asks_its_own_tasks_and_is_judged_by_these_alone(asked: Path, tmp_path: Path):
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        "retention: 0.5\ntasks: [{name: recall, title: few, pairs: [2], questions: 25}]\nmeasures: [tasks, soundness]\n",
        encoding="utf-8",
    )
    before = (asked / "evaluation" / "items.parquet").stat().st_mtime_ns
    found = stillhouse.evaluate(asked, policy=suite)
    assert found["counts"]["questions"] == 25
    assert {f["name"] for f in found["findings"]} == {"tasks", "soundness"}
    assert found["policy"]["tasks"][0]["title"] == "few"
    assert (asked / "evaluation" / "items.parquet").stat().st_mtime_ns == before, "text was read again"
    again = stillhouse.evaluate(asked, judge_only=True)
    assert again["counts"]["questions"] > 25


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("retention: 2", "retention: .*less than or equal to 1"),
        ("retentoin: 0.9", "retentoin: unknown key.*Did you mean 'retention'"),
        ("- 1", "holds no policy"),
        ("measures: [a: b: c]", "is not YAML"),
        ("measures: [perfomance]", "Did you mean 'performance'"),
        ("measures: [{name: tasks, retained: 1}]", "retained: unknown key"),
    ],
)
def test_a_wrong_policy_is_one_message(asked: Path, tmp_path: Path, content: str, message: str):
    policy = tmp_path / "policy.yaml"
    policy.write_text(content)
    with pytest.raises(RecipeError, match=f"(?s){message}"):
        stillhouse.evaluate(asked, judge_only=True, policy=policy)


def test_a_task_that_does_not_exist_is_told_before_any_work(asked: Path, material: Path):  # noqa: F811
    with pytest.raises(RecipeError, match=r"(?s)--task\.0.*Did you mean 'recall'"):
        stillhouse.evaluate(asked, tasks=["recal"])
    wrong = ["evaluate.tasks=[{name: recall, pairs: [99]}, {name: nothing}, {name: from_jsonl, path: nowhere.jsonl}]"]
    with pytest.raises(RecipeError) as told:
        stillhouse.check(recipe_for(material, asked, *wrong))
    text = str(told.value)
    assert "evaluate.tasks.0.pairs" in text and "nothing" in text and "nowhere.jsonl" in text
