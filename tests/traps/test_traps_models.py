"""Traps around the models: 13 (who learns), 14 (processes), 15 (tied weights), 16 (layers), 17 (export), 25 (arithmetic)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import two_processes
from safetensors.torch import load_file
from shared import LINES, make_batch, make_llama, make_tokenizer
from small import ALONE, assert_same

from stillhouse import machine, recipe
from stillhouse.find import find
from stillhouse.models import load
from stillhouse.objective import Learner, Shape
from stillhouse.recipe import Objective, Student
from stillhouse.student import build
from stillhouse.teacher import Teacher
from stillhouse.trainer.loop import take_step
from stillhouse.trainer.optim import make_optimiser, moments

TOKENIZER = make_tokenizer()


def test_trap_13_the_teacher_does_not_learn_and_does_not_forget():
    """A wrapper that holds both sets both to train(): the teacher answers through dropout, other words each time, and its weights
    go into the optimiser, the checkpoint and the student's file. It is no module of anything, and set to eval at every call."""
    model = make_llama(TOKENIZER, seed=2)
    for layer in model.layers:
        layer.self_attn.attention_dropout = 0.5
    batch = make_batch([12], 300)
    loud = [model.train()(batch)[0].detach() for _ in range(2)]
    assert not torch.equal(*loud)  # the fixture has dropout
    teacher = Teacher(model.requires_grad_(True))
    before = teacher.signal(batch).hidden_NH
    learner = Learner(make_llama(TOKENIZER, seed=1), Objective(), 2)
    learner.train()
    model.train()  # as a wrapper does
    assert torch.equal(teacher.signal(batch).hidden_NH, before)

    parameters = dict(learner.named_parameters())
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    section = recipe.Trainer(steps=2, learning_rate=0.1)
    optimiser = make_optimiser(parameters, section)
    take_step(learner, teacher, [batch], parameters, optimiser, 1, section, ALONE)
    theirs = {p.data_ptr() for p in model.parameters()}
    kept = [*learner.state_dict().values(), *parameters.values(), *moments(parameters, optimiser).values()]
    assert not theirs & {t.data_ptr() for t in kept}
    for name, p in model.named_parameters():
        assert not p.requires_grad and p.grad is None and torch.equal(p, weights[name])


def test_trap_14_gradients_meet(tmp_path: Path):
    """Sharding and reduction hang on the wrapper's forward: who calls the module inside it, or its head alone, trains one model on
    each process, and the loss still falls. Two processes with unequal micro-batches have the gradient of one that sees all."""
    file = tmp_path / "gradients.safetensors"
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *(two_processes.__file__, str(file)),
    ]
    result = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert_same(load_file(file), two_processes.step(ALONE))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "section",
    [
        Student(name="drop_layers", keep=1),
        Student(name="random", hidden=16),
        Student(name="shrink_width", hidden=16, intermediate=20),
        Student(name="trim_vocabulary", size=290),
    ],
    ids=lambda section: section.name,
)
def test_trap_15_tied_weights_count_once(tied: bool, section: Student, tmp_path: Path):
    """Embedding and head of many small models are one matrix, half of all they have: counted twice, a student looks as large as
    its teacher. What is counted is what the file holds, before and after loading."""
    student = build(section, make_llama(TOKENIZER, tied=tied), sample=lambda: LINES)
    student.save(tmp_path)
    stored = sum(t.numel() for file in tmp_path.glob("*.safetensors") for t in load_file(file).values())
    again = load(str(tmp_path))
    assert student.parameters_count == again.parameters_count == stored
    for model in (student, again):
        embedding, head = model.network.get_input_embeddings().weight, model.head_layer.weight
        assert (embedding.data_ptr() == head.data_ptr()) is tied


@pytest.mark.parametrize("tied", [True, False])
def test_trap_15_embedding_and_head_lose_the_same_channels(tied: bool):
    """Cut by two rankings, the head reads channels that the embedding no longer writes. Of each of the student's columns it is
    found which of the teacher's it was."""
    teacher = make_llama(TOKENIZER, tied=tied)
    student = build(Student(name="shrink_width", hidden=16), teacher, sample=lambda: LINES)

    def origin(mine: torch.Tensor, theirs: torch.Tensor) -> list[int]:
        return [int((theirs - mine[:, column : column + 1]).abs().sum(0).argmin()) for column in range(mine.shape[1])]

    pairs = [(m.network.get_input_embeddings().weight, m.head_layer.weight) for m in (student, teacher)]
    embedding, head = (origin(mine, theirs) for mine, theirs in zip(*pairs, strict=True))
    assert embedding == head
    assert embedding != list(range(16))  # chosen, not the first ones


def test_trap_16_layers_are_counted_from_the_first_block():
    """transformers gives one hidden state more than there are layers: the first is the embedding, the last has gone through the
    final norm. Whoever takes them for the layers is off by one, and a student of 12 layers that learns layer i from layer i of
    48 imitates the lowest quarter of its teacher.
    """
    assert find("layers", "uniform")(12, 48) == [(3, 12), (6, 24), (9, 36), (12, 48)]
    assert find("layers", "last")(12, 48) == [(12, 48)]
    model = make_llama(TOKENIZER, layers=3).eval()
    outputs: list[torch.Tensor] = []
    hooks = [layer.register_forward_hook(lambda *a: outputs.append(a[-1][0])) for layer in model.layers]
    batch = make_batch([8], 300)
    with torch.no_grad():
        hidden, layers = model(batch, frozenset({"hidden"}))
        for hook in hooks:
            hook.remove()
        norm = model.trunk.norm
        expected = [outputs[0], outputs[1], norm(outputs[2])]
    assert len(layers["hidden"]) == 3
    for found, of_hook in zip(layers["hidden"], expected, strict=True):
        torch.testing.assert_close(found, of_hook.reshape(8, -1))
    torch.testing.assert_close(layers["hidden"][-1], hidden)


def test_trap_16_a_term_learns_from_the_layer_it_names():
    """Layer 2 of the student from layer 4 of the teacher, and no other: all other layers of the teacher are made useless."""
    student, teacher = make_llama(TOKENIZER, layers=2, seed=1), Teacher(make_llama(TOKENIZER, layers=4, seed=2))
    term = {"name": "hidden_mse", "layers": {"name": "listed", "pairs": [[2, 4]]}}
    learner = Learner(student, Objective(terms=[term]), 1, shape=Shape.of(teacher.model))
    batch = make_batch([6], 300)
    signal = teacher.signal(batch, learner.want)
    for other in (0, 1, 2):
        signal.layers["hidden"][other].fill_(float("nan"))
    _, parts = learner(batch, signal, 1.0, 0)
    with torch.no_grad():
        ours = student(batch, learner.want)[1]["hidden"][1]
    assert parts["hidden_mse"] == pytest.approx((ours - signal.layers["hidden"][3]).square().mean(1).sum().item(), rel=1e-4)  # fmt: skip


def test_trap_17_learned_projections_stay_behind(tmp_path: Path):
    """The map from the student's width to the teacher's is trained with the student and easily saved with it: files with weights
    that no model class knows. It belongs to the objective; the student is exported with the names of its own class."""
    teacher = Teacher(make_llama(TOKENIZER, seed=2))
    student = build(Student(name="random", hidden=16), teacher.model, seed=1)
    learner = Learner(student, Objective(terms=["hidden_mse"]), 1, shape=Shape.of(teacher.model))
    assert len(list(learner.projections.parameters())) > 0
    folder = find("export", "hf")(student, tmp_path / "student").path
    names = set(load_file(folder / "model.safetensors"))
    fresh = type(student.network)(student.config)
    assert names == {name for name, _ in fresh.named_parameters()}


def test_trap_25_arithmetic_is_measured(monkeypatch: pytest.MonkeyPatch):
    """bfloat16 is faster where there are instructions for it. On a CPU without them a product may take hundreds of times as long,
    nothing warns, and what was to save an hour takes a month. By default the machine is measured, and the reason is told."""
    assert recipe.Trainer().dtype == "auto"
    assert recipe.Teacher(name="local").dtype == "auto"
    speeds = {torch.float32: 100.0, torch.bfloat16: 100.0 / 600}
    monkeypatch.setattr(machine, "measure_gemm", lambda dtype, *a, **k: speeds[dtype])
    slow = machine.choose_dtype("auto", "cpu")
    assert slow.dtype == "float32" and "0.2 GFLOP/s" in slow.reason and "100.0" in slow.reason
    speeds[torch.bfloat16] = 300.0
    assert machine.choose_dtype("auto", "cpu").dtype == "bfloat16"
