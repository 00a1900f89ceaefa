"""A teacher without weights here, and several teachers, through the whole flow."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from server import Server, serving
from shared import LINES, make_llama, make_tokenizer

import stillhouse
from stillhouse import recipe
from stillhouse.check import costs
from stillhouse.errors import ModelError, RecipeError
from stillhouse.evaluate import records
from stillhouse.evaluate.part import compare_itself, compare_part
from stillhouse.rows import compare
from stillhouse.types import Signal


def settings(folder: Path, teacher: dict[str, Any], student: Any, **more: Any) -> stillhouse.Recipe:
    lines = [json.dumps({"text": f"{i} casks of oak, {i * i} litres. {LINES[i % 4]}"}) for i in range(60)]
    (folder / "text.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    content: dict[str, Any] = {
        "name": "tiny",
        "run": str(folder / "run"),
        "data": {"sources": {"name": "jsonl", "path": str(folder / "text.jsonl")}, "block": 64, "validation": 0.2},
        "teacher": teacher,
        "student": student,
        "trainer": {"steps": 4, "tokens_per_step": 128, "micro_tokens": 64, "dtype": "float32", "validate_every": 2},
        "evaluate": {"tokens": 200, "control": False},
        "report": {"prompts": ["still water"], "new_tokens": 4},
    }
    return stillhouse.parse(content | more)


def test_a_served_teacher(tmp_path: Path):
    model = make_llama(make_tokenizer())
    model.save(tmp_path / "like")
    with serving(Server(model)) as server:
        teacher = {
            "name": "served", "url": server.url, "model": "far", "like": str(tmp_path / "like"), "k": 8,
            "keep": str(tmp_path / "kept"),
        }  # fmt: skip
        run = stillhouse.run(settings(tmp_path, teacher, {"name": "random", "layers": 1}))
        with pytest.raises(ModelError, match="weights of far, which are not here"):
            stillhouse.run(settings(tmp_path, teacher, {"name": "drop_layers", "keep": 1}, run=str(tmp_path / "other")))
    items = records.read(run / "evaluation" / "items.parquet")
    assert {"teacher", "before", "student", "floor"} <= set(items.roles) and items.partly
    taught, before, student = (items.roles[role] for role in ("teacher", "before", "student"))
    assert taught.kl is not None and (taught.kl == 0).all()
    assert student.kl is not None and before.kl is not None and 0 < student.kl.mean() < before.kl.mean()
    sample = json.loads((run / "samples.json").read_text())[0]
    with model.generating() as network:
        ids = model.tokenizer("still water", return_tensors="pt").input_ids
        out = network.generate(ids, max_new_tokens=4, do_sample=False)[0, ids.shape[1] :]
    assert sample["texts"]["teacher"] == model.tokenizer.decode(out, skip_special_tokens=True)
    assert (run / "report.html").is_file()


def test_an_ensemble(tmp_path: Path):
    tokenizer = make_tokenizer()
    for seed in (0, 1):
        make_llama(tokenizer, seed=seed).save(tmp_path / f"m{seed}")
    teacher = {"name": "ensemble", "members": [str(tmp_path / "m0"), str(tmp_path / "m1")]}
    run = stillhouse.run(settings(tmp_path, teacher, {"name": "drop_layers", "keep": 1}))
    items = records.read(run / "evaluation" / "items.parquet")
    assert items.roles["student"].kl.mean() < items.roles["before"].kl.mean()  # type: ignore[union-attr]
    assert not items.partly
    told = json.loads((run / "evaluation" / "models.json").read_text())["teacher"]
    sizes = [sum(t.numel() for t in load_file(tmp_path / name / "model.safetensors").values()) for name in ("m0", "m1")]
    assert (told["name"], told["parameters"], told["bytes"]) == ("m0 + m1", sum(sizes), 4 * sum(sizes))
    said = costs(recipe.load(run / "recipe.yaml"), measure=False)
    assert (said.teacher, said.teacher_parameters) == ("m0 + m1", sum(sizes))


def test_scores_against_a_part_bound_those_against_the_whole():
    torch.manual_seed(0)
    N, V, K = 6, 40, 5
    student_NV, teacher_NV = torch.randn(N, V) * 2, torch.randn(N, V) * 2
    labels_N = torch.randint(V, (N,))
    log_p_NV = torch.log_softmax(teacher_NV.double(), -1)
    whole = compare(student_NV, teacher_NV, labels_N)
    last = None
    for k in (K, 20, V):
        logp_NK, ids_NK = log_p_NV.topk(k)
        rest_N = torch.log1p(-logp_NK.exp().sum(-1).clamp_max(1.0)) if k < V else torch.full((N,), -math.inf)
        signal = Signal(ids_NK=ids_NK, logp_NK=logp_NK, rest_N=rest_N)
        found = compare_part(student_NV, signal, labels_N)
        for n in range(N):
            p = logp_NK[n].exp().tolist()
            q = torch.softmax(student_NV[n].double(), -1)[ids_NK[n]].tolist()
            pairs = list(zip([*p, max(1 - sum(p), 0.0)], [*q, max(1 - sum(q), 2.0**-23)], strict=True))
            assert float(found.kl_N[n]) == pytest.approx(
                sum(a * math.log(a / b) for a, b in pairs if a > 1e-12), abs=1e-6
            )
            assert float(found.accept_N[n]) == pytest.approx(sum(min(a, b) for a, b in pairs), abs=1e-6)
        assert (found.kl_N <= whole.kl_N + 1e-6).all() and (found.accept_N >= whole.accept_N - 1e-6).all()
        assert torch.equal(found.top_N, whole.top_N) and torch.equal(found.teacher_top_N, whole.teacher_top_N)
        assert torch.allclose(found.nll_N, whole.nll_N, atol=1e-5)
        assert torch.allclose(found.conf_N, whole.conf_N, atol=1e-5)
        last = found
    assert last is not None and torch.allclose(last.kl_N, whole.kl_N, atol=1e-5)


def test_the_teachers_own_scores():
    log_p = torch.log(torch.tensor([[0.5, 0.2], [0.6, 0.1]]))
    signal = Signal(ids_NK=torch.tensor([[3, 4], [1, -1]]), logp_NK=log_p, rest_N=torch.log(torch.tensor([0.3, 0.4])))
    signal.logp_NK[1, 1] = -math.inf  # type: ignore[index]
    found = compare_itself(signal, torch.tensor([4, 2]), 8)
    assert found.nll_N.tolist() == pytest.approx([-math.log(0.2), -math.log(0.4 / 7)])
    assert found.conf_N.tolist() == pytest.approx([0.5, 0.6]) and found.top_N.tolist() == [3, 1]
    assert found.kl_N.tolist() == [0, 0] and found.accept_N.tolist() == [1, 1]


def test_a_black_box_teaches_by_its_text_alone(tmp_path: Path):
    model = make_llama(make_tokenizer())
    model.save(tmp_path / "like")
    (tmp_path / "prompts.txt").write_text("\n".join(f"cask number {i} of {i * 3}" for i in range(40)))
    source = {"name": "written", "prompts": str(tmp_path / "prompts.txt"), "new_tokens": 24, "format": "chat"}
    with serving(Server(model, "silent")) as server:
        teacher = {
            "name": "served", "url": server.url, "model": "far", "like": str(tmp_path / "like"), "text_only": True,
            "keep": str(tmp_path / "kept"),
        }  # fmt: skip
        data = {"sources": source, "block": 64, "validation": 0.2}
        with pytest.raises(RecipeError, match="which far does not give"):
            stillhouse.run(settings(tmp_path, teacher, "random", data=data))
        made = settings(tmp_path, teacher, "random", data=data, objective={"alpha": 0.0}, run=str(tmp_path / "two"))
        run = stillhouse.run(made)
    items = records.read(run / "evaluation" / "items.parquet")
    assert "teacher" not in items.roles and items.roles["student"].kl is None
    assert items.roles["student"].nll.mean() < items.roles["before"].nll.mean()
    verdicts = {f["name"]: f["verdict"] for f in json.loads((run / "evaluation.json").read_text())["findings"]}
    assert verdicts["fidelity"] == "NOT MEASURED"
    assert "teacher" not in json.loads((run / "samples.json").read_text())[0]["texts"]
    assert (run / "report.html").is_file()
