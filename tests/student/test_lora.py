"""Adapters against their formula, what of a student they train, and the ordinary model that comes out."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from shared import LINES, make_batch, make_llama, make_tokenizer
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D
from zoo import ZOO, answers, make

import stillhouse
from stillhouse import adapters, models
from stillhouse.check import costs
from stillhouse.errors import ModelError
from stillhouse.models import Model
from stillhouse.recipe import Student
from stillhouse.student import build

pytest.importorskip("peft")
IDS = torch.tensor([[5, 9, 77, 200, 31]])


def made(teacher: Model, **options: Any) -> Model:
    return build(Student(name="lora", **options), teacher).eval()


def stirred(model: Model, seed: int = 1) -> Model:
    """Put the adapter in and give its two matrices any numbers: fresh ones change nothing."""
    model.learn(seed=0)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.normal_(0.0, 0.3)
    return model.eval()


def by_hand(model: Model, network: torch.nn.Module, scale: float) -> None:
    """Add scale · B A to the matrices of a network, entry by entry of what the adapter holds."""
    found = dict(model.network.named_parameters())
    with torch.no_grad():
        for name, value in found.items():
            if ".lora_A." not in name:
                continue
            path = name.split(".lora_A.")[0]
            down, up = value, found[name.replace("lora_A", "lora_B")]
            product = torch.stack([sum(row[k] * down[k] for k in range(len(down))) for row in up])
            module = network.get_submodule(path)
            module.weight += scale * (product.t() if isinstance(module, Conv1D) else product)


@pytest.mark.parametrize("family", ZOO)
def test_it_is_the_teacher_plus_the_products(family: str, tokenizer):
    teacher = make(family, tokenizer)
    student = made(teacher, rank=3, alpha=6.0)
    assert torch.equal(answers(student, IDS), answers(teacher, IDS))
    student.learn()
    assert torch.equal(answers(student.eval(), IDS), answers(teacher, IDS)), "fresh adapters change something"
    stirred(student := made(teacher, rank=3, alpha=6.0))
    expected = copy.deepcopy(teacher)
    by_hand(student, expected.network, scale=6.0 / 3)
    told = answers(student, IDS)
    torch.testing.assert_close(told, answers(expected, IDS), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(told, answers(teacher, IDS), atol=1e-2)
    student.settle()
    assert [name for name, _ in student.network.named_parameters()] == [
        n for n, _ in teacher.network.named_parameters()
    ]
    torch.testing.assert_close(answers(student, IDS), told, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", ZOO)
def test_only_adapters_and_a_classifiers_head_learn(family: str, tokenizer):
    teacher = make(family, tokenizer)
    student = made(teacher, rank=2)
    counted = student.trained_count
    student.learn()
    learning = {name: p for name, p in student.network.named_parameters() if p.requires_grad}
    assert counted == sum(p.numel() for p in learning.values())
    others = {name for name in learning if ".lora_" not in name}
    heads = ("score.", "classifier.", "bert.pooler.")
    assert all(name.startswith(heads) for name in others)
    assert bool(others) == ("classifier" in family)
    inside = {name.split(".lora_")[0] for name in learning if ".lora_" in name}
    assert len(inside) == sum(
        isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"
        for layer in teacher.layers
        for module in layer.modules()
    )


def test_modules_are_those_named(tokenizer):
    student = made(make("llama", tokenizer), rank=2, modules=["q_proj", "v_proj"])
    assert student.adapter is not None
    assert {name.rpartition(".")[2] for name in student.adapter.modules} == {"q_proj", "v_proj"}
    assert student.trained_count == 3 * 2 * ((32 + 32) + (32 + 16))


def test_it_keeps_its_adapter_in_its_folder(tokenizer, tmp_path: Path):
    student = made(make("llama", tokenizer), rank=2)
    student.save(tmp_path)
    again = models.load(str(tmp_path))
    assert again.adapter == student.adapter
    assert again.parameters_count == student.parameters_count
    empty = models.load(str(tmp_path), empty=True)
    assert empty.trained_count == student.trained_count
    first, second = made(make("llama", tokenizer), rank=2), again
    first.learn(seed=3)
    second.learn(seed=3)
    for (name, a), (_, b) in zip(first.network.named_parameters(), second.network.named_parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": 0}, "rank"),
        ({"rank": 17}, "17 is more than 16"),
        ({"alpha": 0.0}, "alpha"),
        ({"modules": ["q_porj"]}, "Did you mean 'q_proj'"),
        ({"modules": []}, "no linear map is named"),
    ],
)
def test_what_cannot_be_is_one_message(options: dict[str, Any], said: str, tokenizer):
    with pytest.raises(stillhouse.StillhouseError, match=said):
        made(make("llama", tokenizer), **options)


def test_nothing_comes_after_adapters(tokenizer):
    with pytest.raises(ModelError, match=r"student.then.0: comes after adapters"):
        build(Student(name="lora", then=[{"name": "drop_layers", "keep": 1}]), make("llama", tokenizer))
    cut = build(Student(name="drop_layers", keep=2, then=["lora"]), make("llama", tokenizer))
    assert cut.adapter is not None and len(cut.adapter.modules) == 14


def test_without_peft_it_is_refused_with_the_way_to_get_it(tokenizer, monkeypatch):
    monkeypatch.setattr(adapters.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"(?s)peft, which is not installed.*stillhouse\[lora\]"):
        made(make("llama", tokenizer))


def settings(folder: Path, **changes: object) -> stillhouse.Recipe:
    if not (folder / "teacher").exists():
        lines = [json.dumps({"text": f"{i} casks of oak, {i * i} litres. {LINES[i % 4]}"}) for i in range(60)]
        (folder / "text.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        make_llama(make_tokenizer(), layers=3).save(folder / "teacher")
    content = {
        "name": "tiny",
        "run": str(folder / "run"),
        "data": {"sources": {"name": "jsonl", "path": str(folder / "text.jsonl")}, "block": 64, "validation": 0.2},
        "teacher": {"name": "local", "model": str(folder / "teacher"), "dtype": "float32"},
        "student": {"name": "drop_layers", "keep": 2, "then": [{"name": "lora", "rank": 4}]},
        "trainer": {
            "steps": 6, "tokens_per_step": 128, "micro_tokens": 64, "dtype": "float32", "learning_rate": 1e-2,
            "checkpoint_every": 2, "validate_every": 3,
        },
        "evaluate": {"tokens": 300, "control": False},
        "report": {"prompts": ["still water"], "new_tokens": 4},
    }  # fmt: skip
    return stillhouse.parse({**content, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stillhouse.run(settings(tmp_path_factory.mktemp("lora")))


def test_the_student_is_an_ordinary_model_that_learned(finished: Path):
    network, info = AutoModelForCausalLM.from_pretrained(finished / "student", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert not (finished / "student" / "adapter.json").exists()
    before, after = models.load(str(finished / "before")), models.load(str(finished / "student"))
    assert before.adapter is not None and after.adapter is None
    changed = {
        n for (n, a), b in zip(before.named_parameters(), after.parameters(), strict=True) if not torch.equal(a, b)
    }
    assert {name.rpartition(".layers.")[0] for name in changed} == {"network.model"}, "more than the layers was trained"
    assert all(".self_attn." in name or ".mlp." in name for name in changed)
    assert len(changed) == 14
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0]
    assert network.config.num_hidden_layers == 2


def test_checkpoints_hold_adapters_alone(finished: Path):
    """Bytes of what is kept, against those of a student all of which learns."""
    newest = max((finished / "checkpoints").glob("step-*"))
    kept = {}
    for file in (newest / "state").glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            kept |= {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118 – no mapping
    assert all(".lora_" in name for name in kept)
    before = models.load(str(finished / "before"), empty=True)
    numbers = sum(torch.Size(shape).numel() for name, shape in kept.items() if not name.endswith(".step"))
    assert numbers == 3 * before.trained_count
    assert numbers < before.parameters_count


def test_a_run_that_was_stopped_ends_with_the_same_bits(finished: Path, tmp_path: Path, monkeypatch):
    first = settings(
        tmp_path, trainer={**settings(tmp_path).to_dict()["trainer"], "hooks": [f"{__name__}:stop_at_three"]}
    )
    monkeypatch.setenv("STOP_AT", "3")
    with pytest.raises(KeyboardInterrupt):
        stillhouse.run(first)
    assert not (tmp_path / "run" / "student").exists()
    monkeypatch.setenv("STOP_AT", "99")
    stillhouse.run(first)
    a, b = (load_file(folder / "student" / "model.safetensors") for folder in (finished, tmp_path / "run"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def stop_at_three(*, step: int, **_: Any) -> None:
    import os

    if step == int(os.environ["STOP_AT"]):
        raise KeyboardInterrupt


def test_a_teacher_is_adapted_in_a_first_stage(tmp_path: Path):
    stages = [{"name": "adapted", "student": {"name": "lora", "rank": 4}, "objective": {"alpha": 0.0}}]
    run = stillhouse.run(
        settings(tmp_path, stages=stages, student={"name": "drop_layers", "keep": 2}, evaluate={"tokens": 300, "control": False, "reference": "adapted"})
    )  # fmt: skip
    adapted, teacher = models.load(str(run / "stages" / "adapted" / "student")), models.load(str(tmp_path / "teacher"))
    assert adapted.parameters_count == teacher.parameters_count
    batch = make_batch([9], 320)
    assert not torch.equal(adapted.eval()(batch)[0], teacher.eval()(batch)[0])


def test_costs_count_what_is_trained(tmp_path: Path):
    """By hand: gradients and two averages of the adapter's numbers; two passes through all weights and one of the adapter's."""
    whole = settings(tmp_path, student={"name": "drop_layers", "keep": 2})
    thin = settings(tmp_path)
    a, b = (costs(each, measure=False) for each in (whole, thin))
    assert a.trained_parameters == a.student_parameters == b.student_parameters
    assert b.trained_parameters == 2 * 4 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 48))
    assert a.memory - b.memory == pytest.approx(12 * (a.trained_parameters - b.trained_parameters))
    used = b.student_parameters - 32  # all but the last norm: the tied matrix is looked up and multiplied with
    tokens = 6 * 128
    assert a.operations - b.operations == pytest.approx(tokens * (used - b.trained_parameters))
