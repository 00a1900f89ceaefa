"""Several teachers as one: both means against loops in probability space, shares, routes, and whose ids may be averaged."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from server import Server, serving
from shared import make_batch, make_llama, make_tokenizer

from stillhouse.errors import ModelError, RecipeError
from stillhouse.objective.losses.forward_kl import forward_kl
from stillhouse.teacher import Teacher
from stillhouse.teacher.sources.ensemble import Ensemble, ensemble
from stillhouse.types import Output, Signal


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three teachers of one tokenizer."""
    tokenizer = make_tokenizer()
    paths = [tmp_path_factory.mktemp(f"member{seed}") for seed in range(3)]
    for seed, path in enumerate(paths):
        make_llama(tokenizer, layers=1 + seed % 2, seed=seed).save(path)
    return [str(path) for path in paths]


@torch.no_grad()
def probabilities(member: Teacher, batch) -> list[list[float]]:
    signal = member.signal(batch)
    assert signal.hidden_NH is not None and signal.head is not None
    rows = []
    for logits_V in signal.head.logits(signal.hidden_NH).double().tolist():
        weights = [math.exp(x - max(logits_V)) for x in logits_V]
        rows.append([w / sum(weights) for w in weights])
    return rows


def mean_of(rows: list[list[float]], shares: list[float], mean: str) -> list[float]:
    """In probability space: a vote, or the normalised product of powers."""
    V = len(rows[0])
    if mean == "probabilities":
        return [sum(s * row[v] for s, row in zip(shares, rows, strict=True)) for v in range(V)]
    products = [math.prod(row[v] ** s for s, row in zip(shares, rows, strict=True)) for v in range(V)]
    return [p / sum(products) for p in products]


def found_in(signal: Signal, n: int) -> list[float]:
    logits_NV = signal.rows(n, n + 1).logits_NV
    assert logits_NV is not None
    return torch.softmax(logits_NV[0].double(), -1).tolist()


@pytest.mark.parametrize("mean", ["probabilities", "logits"])
@pytest.mark.parametrize("shares", [None, [0.2, 0.5, 0.3], [0.0, 0.4, 0.6]])
def test_the_mean(folders: list[str], mean: Any, shares: list[float] | None):
    teacher = ensemble(members=list(folders), mean=mean, shares=shares)
    assert isinstance(teacher, Ensemble)
    batch = make_batch([5, 3], 300)
    signal = teacher.signal(batch)
    assert signal.form == "dense" and signal.vocabulary == teacher.model.outcomes
    each = [probabilities(member, batch) for member in teacher.members]
    for n in range(len(batch.select_N)):
        expected = mean_of([rows[n] for rows in each], shares or [1 / 3] * 3, mean)
        assert found_in(signal, n) == pytest.approx(expected, abs=1e-6)


def test_the_two_means_differ_and_a_loss_sees_the_mean(folders: list[str]):
    batch = make_batch([4], 300)
    teachers = [ensemble(members=list(folders), mean=mean) for mean in ("probabilities", "logits")]
    student = make_llama(teachers[0].tokenizer, seed=9)
    with torch.no_grad():
        logits_NV = student.head.logits(student(batch)[0])
    losses = [forward_kl(Output(logits_NV), t.signal(batch).rows(0, 4), batch) for t in teachers]
    assert not torch.allclose(*losses, rtol=1e-3)
    p = found_in(teachers[0].signal(batch), 2)
    q = torch.log_softmax(logits_NV[2].double(), -1).tolist()
    assert float(losses[0][2]) == pytest.approx(sum(a * (math.log(a) - b) for a, b in zip(p, q, strict=True)), abs=1e-4)


def test_each_task_has_shares_of_its_own(folders: list[str]):
    route = {"code": [0.0, 1.0, 0.0], "both": [0.25, 0.75, 0.0]}
    teacher = ensemble(members=list(folders), shares=[0.5, 0.0, 0.5], route=route)
    assert isinstance(teacher, Ensemble)
    batch = replace(make_batch([3, 2, 4, 2], 300), tasks=("code", "both", "unknown", "code"))
    signal = teacher.signal(batch)
    each = [probabilities(member, batch) for member in teacher.members]
    for n, document in enumerate(batch.document_N.tolist()):
        shares = route.get(batch.tasks[document], [0.5, 0.0, 0.5])
        expected = mean_of([rows[n] for rows in each], shares, "probabilities")
        assert found_in(signal, n) == pytest.approx(expected, abs=1e-6)


def test_who_has_no_share_is_not_asked(folders: list[str], monkeypatch: pytest.MonkeyPatch):
    teacher = ensemble(members=list(folders), shares=[0.5, 0.5, 0.0], route={"a": [1.0, 0.0, 0.0]})
    assert isinstance(teacher, Ensemble)
    asked: list[int] = []
    for index, member in enumerate(teacher.members):
        own = member.signal
        monkeypatch.setattr(member, "signal", lambda batch, own=own, index=index: asked.append(index) or own(batch))
    batch = make_batch([3, 2], 300)
    teacher.signal(replace(batch, tasks=("a", "a")))
    assert asked == [0]
    teacher.signal(batch)
    assert asked == [0, 0, 1]


def test_the_first_member_stands_for_all_and_each_network_is_placed(folders: list[str]):
    teacher = ensemble(members=[folders[0], {"name": "local", "model": folders[1]}])
    assert isinstance(teacher, Ensemble)
    assert teacher.model is teacher.members[0].model
    assert teacher.name == " + ".join(Path(f).name for f in folders[:2])
    seen = []
    placed = teacher.placed(lambda model: seen.append(model.name) or model)
    assert len(seen) == 2 and isinstance(placed, Ensemble) and placed.mean == teacher.mean
    assert ensemble(members=list(folders), empty=True).model.head_layer.weight.is_meta


def test_permuted_ids_are_refused_though_the_sizes_agree(folders: list[str], tmp_path: Path):
    import json

    make_llama(make_tokenizer(), seed=4).save(tmp_path)
    file = tmp_path / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    one, two = "a", "b"
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    file.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"members\.1.*another tokenizer.*2? *entries differ"):
        ensemble(members=[folders[0], str(tmp_path)])


def test_other_merges_are_refused_though_the_vocabulary_agrees(folders: list[str], tmp_path: Path):
    import json

    make_llama(make_tokenizer(), seed=4).save(tmp_path)
    file = tmp_path / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["merges"] = []
    file.write_text(json.dumps(content))
    with pytest.raises(ModelError, match="cuts text into other tokens"):
        ensemble(members=[folders[0], str(tmp_path)])


def test_a_member_that_names_only_some_outcomes_is_refused(folders: list[str], tmp_path: Path):
    with serving(Server(make_llama(make_tokenizer()))) as server:
        member = {"name": "served", "url": server.url, "model": "x", "like": folders[0], "k": 3, "keep": str(tmp_path)}
        with pytest.raises(ModelError, match="whole distributions"):
            ensemble(members=[folders[0], member])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"members": []}, "Name two"),
        ({"shares": [0.5]}, "1 shares for 2"),
        ({"shares": [0.5, 0.6]}, "add up to 1"),
        ({"shares": [1.5, -0.5]}, "add up to 1"),
        ({"route": {"code": [1.0]}}, r"teacher\.route\.code"),
        ({"members": ["a", {"model": "b"}]}, r"teacher\.members"),
        ({"members": ["a", {"name": "lokal"}]}, "Did you mean 'local'"),
    ],
)
def test_options_that_cannot_be(folders: list[str], options: dict[str, Any], says: str):
    members = [folders[0], folders[1]]
    if options.get("members"):
        options = options | {"members": [folders[0], options["members"][1]]}
    with pytest.raises(RecipeError, match=says):
        ensemble(**({"members": members} | options))


def test_a_mean_of_inner_lives_is_refused(folders: list[str]):
    teacher = ensemble(members=folders[:2])
    assert not teacher.shows
    with pytest.raises(ModelError, match="attention"):
        teacher.signal(make_batch([3], 300), frozenset({"attention"}))
