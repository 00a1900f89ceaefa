"""Logs of other programs: what they say is right is right here, and what was not asked of both is refused with counts.

``lm_eval_logs/`` holds real logs of lm-evaluation-harness 0.4.13 (a small model and a damaged copy of it, questions made up here). Those of
lighteval and HELM are written by hand from their formats.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stillhouse.cli import main
from stillhouse.errors import DataError, RecipeError, RunError
from stillhouse.evaluate import answers, foreign
from stillhouse.find import names
from stillhouse.run import import_logs

LOGS = Path(__file__).parent / "lm_eval_logs"
RNG = np.random.default_rng(0)


def lighteval_log(path: Path, right: list[bool], *, query: str = "Which?") -> Path:
    rows = []
    for i, ok in enumerate(right):
        likely = [-9.0, -8.0, -7.5, -9.5]
        likely[i % 4] = -1.0 if ok else -20.0
        rows.append(
            {
                "doc": {"query": f"{query} {i}", "choices": [" a", " bb", " ccc", " dddd"], "gold_index": [i % 4]},
                "model_response": {"logprobs": likely, "text": [], "output_tokens": [[1], [2], [3, 4], [5, 6]]},
                "metric": {"acc": float(ok)},
            }
        )
    path.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), path / "details_exam|0_2026-11-24T10-00-00.123456.parquet")
    return path


def helm_log(path: Path, right: list[bool], *, mapping: bool = True) -> Path:
    run = path / "exam:subject=law,model=x"
    run.mkdir(parents=True)
    states, stats = [], []
    for i, ok in enumerate(right):
        instance = {"input": {"text": f"Which? {i}"}, "references": [], "split": "test", "id": f"id{i}"}
        state = {
            "instance": instance,
            "train_trial_index": 0,
            "request": {"prompt": f"Question: Which? {i}\nAnswer:"},
            "result": {"success": True, "completions": [{"text": " A" if ok else " B", "logprob": -1.0, "tokens": []}]},
        }
        if mapping:
            state["output_mapping"] = {"A": "a", "B": "b", "C": "c", "D": "d"}
        name = {"name": "exact_match", "split": "test"}
        stats.append({"instance_id": f"id{i}", "train_trial_index": 0, "stats": [
            {"name": {"name": "num_prompt_tokens"}, "mean": 9.0}, {"name": name, "count": 1, "sum": float(ok), "mean": float(ok)}]})  # fmt: skip
        states.append(state)
    typo = {"name": "typo", "robustness": True}
    states.append(states[0] | {"instance": states[0]["instance"] | {"perturbation": typo}})
    stats.append(stats[0] | {"perturbation": typo})
    stats.append(stats[0] | {"train_trial_index": 1})
    (run / "scenario_state.json").write_text(json.dumps({"adapter_spec": {}, "request_states": states}))
    (run / "per_instance_stats.json").write_text(json.dumps(stats))
    return path


MADE = {"lighteval": lighteval_log, "helm": helm_log}


def test_real_logs_of_lm_evaluation_harness(tmp_path: Path):
    """Question by question what the harness itself called right, by both of its measures."""
    found = import_logs("lm-eval", LOGS / "teacher", LOGS / "student", tmp_path / "out")
    table = answers.read(tmp_path / "out" / "evaluation" / "answers.parquet")
    assert {t.task: (t.kind, t.normalisation) for t in table.tasks} == {
        "small_facts": ("choice", "character"),
        "small_chains": ("write", "raw"),
        "small_written": ("write", "raw"),
    }
    for task in table.tasks:
        for role in ("teacher", "student"):
            (file,) = (LOGS / role).rglob(f"samples_{task.task}_*.jsonl")
            rows = sorted(map(json.loads, file.read_text(encoding="utf-8").splitlines()), key=lambda row: row["doc_id"])
            last = "acc_norm" if task.kind == "choice" else rows[0]["metrics"][0]
            assert task.score(role).tolist() == [float(row[last]) for row in rows]
            if task.kind == "choice":
                assert task.score(role, "raw").tolist() == [float(row["acc"]) for row in rows]
        assert task.task == "small_written" or task.score("teacher").sum() > 0  # it writes " 9", never "9"
    assert found["imported"]["reader"] == "lm-eval"
    assert {f["name"] for f in found["findings"]} >= {"tasks", "flips", "collapse", "discovered"}
    facts = table.named("small_facts")
    assert facts is not None and len(facts.options[0]) == 4 and facts.contexts[0][0].endswith(" is")


@pytest.mark.parametrize("reader", MADE)
def test_a_student_worse_than_its_teacher_is_judged(reader: str, tmp_path: Path):
    teacher = (RNG.random(400) < 0.85).tolist()
    student = [ok and RNG.random() > 0.5 for ok in teacher]
    make = MADE[reader]
    found = import_logs(reader, make(tmp_path / "t", teacher), make(tmp_path / "s", student), tmp_path / "out")
    (task,) = answers.read(tmp_path / "out" / "evaluation" / "answers.parquet").tasks
    assert task.score("teacher").sum() == sum(teacher) and task.score("student").sum() == sum(student)
    assert task.floor_N.mean() == 0.25
    assert found["verdict"] == "FAIL"
    assert import_logs(reader, tmp_path / "t", tmp_path / "t", tmp_path / "same")["verdict"] in ("PASS", "INCONCLUSIVE")


def test_written_answers_have_no_floor(tmp_path: Path):
    helm_log(tmp_path / "t", [True, False] * 20, mapping=False)
    (logged,) = foreign.read("helm", tmp_path / "t").values()
    assert {one.question.chance for one in logged} == {0.0} and len(logged) == 40


def test_what_differs_is_refused_with_counts(tmp_path: Path):
    lighteval_log(tmp_path / "t", [True] * 30)
    lighteval_log(tmp_path / "s", [True] * 27)
    with pytest.raises(DataError, match="of 30 questions 3 only in t"):
        import_logs("lighteval", tmp_path / "t", tmp_path / "s", tmp_path / "out")
    lighteval_log(tmp_path / "w", [True] * 30, query="Say which:")
    with pytest.raises(DataError, match="30 asked in other words or with other options"):
        import_logs("lighteval", tmp_path / "t", tmp_path / "w", tmp_path / "out")
    assert not (tmp_path / "out" / "evaluation.json").exists()


@pytest.mark.parametrize("reader", names("log"))
def test_contract_what_is_no_log_is_one_message(reader: str, tmp_path: Path):
    """Contract of logs/: nothing, rubbish and another format are refused, never a traceback."""
    with pytest.raises(DataError, match="no folder with files"):
        foreign.read(reader, tmp_path)
    for name in ("samples_x.jsonl", "details_x.parquet", "scenario_state.json", "per_instance_stats.json"):
        (tmp_path / name).write_text('{"a": 1}\n')
    with pytest.raises(DataError):
        foreign.read(reader, tmp_path)


def test_a_question_twice_is_refused(tmp_path: Path):
    shutil.copytree(LOGS / "teacher", tmp_path / "t")
    for file in list((tmp_path / "t").rglob("samples_small_chains_*.jsonl")):
        shutil.copy(file, file.with_name("samples_small_chains_2020-01-01T00-00-00.000000.jsonl"))
    with pytest.raises(DataError, match="more than once"):
        foreign.read("lm_eval", tmp_path / "t")


def test_a_runs_folder_and_unknown_readers_are_refused(tmp_path: Path):
    with pytest.raises(RecipeError, match="there is no log 'lm_evil'"):
        import_logs("lm-evil", LOGS, LOGS, tmp_path / "out")
    (tmp_path / "recipe.yaml").write_text("x")
    with pytest.raises(RunError, match="is a run's folder"):
        import_logs("helm", LOGS, LOGS, tmp_path)


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """One line from two logs to a page; its exit code serves a script."""
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "--import", "lm-eval", str(LOGS / "teacher"), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2 and "two logs are needed" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "--import", "lm-eval", str(LOGS / "teacher"), str(LOGS / "student"), "--out", str(tmp_path / "out"), "--gate"])  # fmt: skip
    assert stop.value.code in (1, 2)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "small_facts" in page
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(tmp_path / "out"), "--plan"])
    told = capsys.readouterr().out
    assert stop.value.code == 0 and "a PASS takes" in told and "small_written: the teacher scores 0.0 %" in told
