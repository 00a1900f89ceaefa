"""A factorised student against the teacher with its matrices replaced by their product, and against the least error."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from zoo import answers, make

from stillhouse import models
from stillhouse.errors import ModelError, StillhouseError
from stillhouse.models import Model
from stillhouse.recipe import Student
from stillhouse.student import build
from stillhouse.student.products import moments_of, split_map, split_rows

KINDS = ["llama", "llama-untied", "mistral", "qwen2", "qwen3"]
IDS = torch.tensor([[5, 9, 77, 200, 31]])


def texts() -> list[str]:
    return ["The quick brown fox jumps over the lazy dog."]


def made(teacher: Model, rank: int) -> Model:
    return build(Student(name="low_rank", embedding=rank), teacher, sample=texts).eval()


@pytest.mark.parametrize("name", KINDS)
def test_it_is_the_teacher_with_the_products_in_place(name: str, tokenizer):
    teacher = make(name, tokenizer)
    student = made(teacher, 6)
    network = student.network
    changed = copy.deepcopy(teacher)
    with torch.no_grad():
        table, up = network.model.embed_tokens.table.weight, network.model.embed_tokens.up.weight
        changed.network.model.embed_tokens.weight.copy_(torch.stack([up @ row for row in table]))
        if name in ("llama-untied", "mistral", "qwen2"):
            down = network.model.norm[1].weight
            changed.network.lm_head.weight.copy_(torch.stack([down.t() @ row for row in network.lm_head.weight]))
    torch.testing.assert_close(answers(student, IDS), answers(changed, IDS), rtol=1e-4, atol=1e-4)


def test_embedding_and_head_are_each_split_by_how_often_tokens_come(tokenizer):
    teacher = make("llama-untied", tokenizer)
    counts = torch.ones(320)
    for token in tokenizer(texts()[0])["input_ids"]:
        counts[token] += 1
    assert counts.sum() > 330
    network = made(teacher, 6).network
    for product, theirs in (
        (
            network.model.embed_tokens.table.weight @ network.model.embed_tokens.up.weight.t(),
            teacher.network.model.embed_tokens,
        ),
        (network.lm_head.weight @ network.model.norm[1].weight, teacher.network.lm_head),
    ):
        table, up = split_rows(theirs.weight, counts, 6)
        torch.testing.assert_close(product, table @ up, rtol=1e-4, atol=1e-5)


def test_a_full_rank_loses_nothing_but_rounding(tokenizer):
    teacher = make("llama-untied", tokenizer)
    table, up = split_rows(teacher.network.lm_head.weight, torch.ones(320), 32)
    torch.testing.assert_close(table @ up, teacher.network.lm_head.weight.detach(), rtol=1e-5, atol=1e-5)


def test_no_other_product_is_nearer(tokenizer):
    """The weighted error is what weighted singular values leave over, and moving either matrix only makes it larger."""
    generator = torch.Generator().manual_seed(0)
    matrix, counts = torch.randn(40, 8, generator=generator), torch.randint(1, 50, (40,), generator=generator)

    def error(a: torch.Tensor, b: torch.Tensor) -> float:
        return sum(float(n) * float((row - x @ b).square().sum()) for n, row, x in zip(counts, matrix, a, strict=True))

    table, up = split_rows(matrix, counts, 3)
    left_over = torch.linalg.svdvals(counts.sqrt()[:, None] * matrix)[3:].square().sum()
    assert error(table, up) == pytest.approx(float(left_over), rel=1e-4)
    for _ in range(20):
        a, b = torch.randn(40, 3, generator=generator), torch.randn(3, 8, generator=generator)
        assert error(table + 0.01 * a, up) > error(table, up)
        assert error(table, up + 0.01 * b) > error(table, up)
    plain = split_rows(matrix, torch.ones(40), 3)
    assert error(*plain) > error(table, up)


@pytest.mark.parametrize("name", KINDS)
def test_it_survives_its_folder(name: str, tokenizer, tmp_path: Path):
    student = made(make(name, tokenizer), 6)
    student.save(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        stored = sum(file.get_tensor(key).numel() for key in file.keys())  # noqa: SIM118 – not a dictionary
    assert student.parameters_count == stored
    loaded = models.load(str(tmp_path))  # which checks that the logits are the head applied to the trunk
    assert type(loaded.network) is type(student.network)
    torch.testing.assert_close(answers(loaded, IDS), answers(student, IDS))
    with loaded.generating() as network:
        out = network.generate(
            IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=5, do_sample=False, eos_token_id=None
        )
    ids = IDS
    for _ in range(5):
        ids = torch.cat([ids, answers(student, ids)[:, -1:].argmax(-1)], 1)
    assert out.tolist() == ids.tolist()


def test_it_loads_without_stillhouse_from_the_file_beside_it(tokenizer, tmp_path: Path):
    student = made(make("llama", tokenizer), 6)
    student.save(tmp_path)
    assert alone(tmp_path, "AutoModelForCausalLM", "logits[0, -1]") == str(int(answers(student, IDS)[0, -1].argmax()))


def alone(folder: Path, auto: str, of: str) -> str:
    """The likeliest outcome by a process that has no Stillhouse."""
    script = (
        "import sys, torch\n"
        "sys.modules['stillhouse'] = None\n"
        f"from transformers import {auto}\n"
        f"network = {auto}.from_pretrained({str(folder)!r}, trust_remote_code=True)\n"
        f"print(network(torch.tensor({IDS.tolist()})).{of}.argmax().item())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env={"HF_HOME": str(folder), "PATH": ""}
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", KINDS)
def test_an_empty_one_has_the_real_ones_size(name: str, tokenizer):
    teacher = make(name, tokenizer)
    hollow = copy.deepcopy(teacher).to("meta")
    hollow.network.tie_weights()
    empty = build(Student(name="low_rank", embedding=6), hollow, empty=True)
    assert empty.parameters_count == made(teacher, 6).parameters_count
    tied = name in ("llama", "qwen3")
    assert teacher.parameters_count - empty.parameters_count == (1 if tied else 2) * (320 * 32 - 320 * 6) - (2 * 32 * 6)


@pytest.mark.parametrize("rank", [0, -1, 27, 32, 400])
def test_ranks_that_save_nothing(rank: int, tokenizer):
    with pytest.raises(ModelError, match=r"student.embedding: -?\d+ is not between 1 and 26"):
        made(make("llama", tokenizer), rank)


@pytest.mark.parametrize("name", ["gpt2", "neox", "bert-masked", "gemma3", "llama-classifier"])
def test_others_are_refused(name: str, tokenizer):
    for options in ({"embedding": 6}, {"linear": 0.5}):
        with pytest.raises(
            ModelError, match=r"(?s)cannot be factorised here.*Known: LlamaForCausalLM, Mistral.*Roberta"
        ):
            build(Student(name="low_rank", **options), make(name, tokenizer), sample=texts)


# -- the linear maps of the layers --------------------------------------------------------------------------------------

CLASSIFIERS = ["bert-classifier", "roberta-classifier"]
MAPS = {
    "llama": 7,
    "llama-untied": 7,
    "mistral": 7,
    "qwen2": 7,
    "qwen3": 7,
    "bert-classifier": 6,
    "roberta-classifier": 6,
}
"""Family → linear maps of a layer."""


def thin(teacher: Model, share: float, **options: Any) -> Model:
    return build(Student(name="low_rank", linear=share, **options), teacher, sample=texts).eval()


@pytest.mark.parametrize("name", [*KINDS, *CLASSIFIERS])
@pytest.mark.parametrize("weighted", [True, False])
def test_it_is_the_teacher_with_its_maps_replaced_by_products(name: str, weighted: bool, tokenizer):
    teacher = make(name, tokenizer)
    student = thin(teacher, 0.5, weighted=weighted)
    changed, replaced = copy.deepcopy(teacher), 0
    with torch.no_grad():
        for mine, theirs in zip(student.layers, changed.layers, strict=True):
            for path, module in theirs.named_modules():
                if not isinstance(module, torch.nn.Linear):
                    continue
                down, up = mine.get_submodule(path)
                assert len(down.weight) == int(0.5 * module.weight.numel() / sum(module.weight.shape))
                columns = [up.weight @ down.weight[:, i] for i in range(module.in_features)]
                module.weight.copy_(torch.stack(columns, 1))
                assert (up.bias is None) == (module.bias is None)
                assert up.bias is None or torch.equal(up.bias, module.bias)
                replaced += 1
    assert replaced == 3 * MAPS[name]
    torch.testing.assert_close(answers(student, IDS), answers(changed, IDS), rtol=1e-3, atol=1e-3)
    assert student.parameters_count < teacher.parameters_count


@pytest.mark.parametrize("name", [*KINDS, *CLASSIFIERS])
def test_one_with_thin_maps_survives_its_folder(name: str, tokenizer, tmp_path: Path):
    student = thin(make(name, tokenizer), 0.4, **({"embedding": 6} if name in KINDS else {}))
    student.save(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        stored = sum(file.get_tensor(key).numel() for key in file.keys())  # noqa: SIM118 – not a dictionary
    assert student.parameters_count == stored
    loaded = models.load(str(tmp_path))
    assert type(loaded.network) is type(student.network)
    torch.testing.assert_close(answers(loaded, IDS), answers(student, IDS))


def test_a_classifier_loads_without_stillhouse(tokenizer, tmp_path: Path):
    student = thin(make("bert-classifier", tokenizer), 0.4)
    student.save(tmp_path)
    assert alone(tmp_path, "AutoModelForSequenceClassification", "logits[0]") == str(
        int(answers(student, IDS)[0].argmax())
    )


@pytest.mark.parametrize("name", [*KINDS, *CLASSIFIERS])
def test_an_empty_one_with_thin_maps_has_the_real_ones_size(name: str, tokenizer):
    teacher = make(name, tokenizer)
    hollow = copy.deepcopy(teacher).to("meta")
    hollow.network.tie_weights()
    empty = build(Student(name="low_rank", linear=0.3), hollow, empty=True)
    assert all(p.is_meta for p in empty.parameters())
    assert empty.parameters_count == thin(teacher, 0.3).parameters_count


@pytest.mark.parametrize("wide", [True, False])
def test_no_other_product_changes_less_of_what_is_said(wide: bool):
    """The error on the sample is what the eigenvalues left out add up to, and moving either matrix only makes it larger."""
    generator = torch.Generator().manual_seed(0)
    outputs, inputs = (12, 7) if wide else (7, 12)
    weight = torch.randn(outputs, inputs, generator=generator)
    heard = torch.randn(60, inputs, generator=generator) * torch.linspace(3.0, 0.1, inputs)
    said = torch.stack([weight @ x for x in heard])

    def error(up: torch.Tensor, down: torch.Tensor) -> float:
        return sum(float((y - up @ (down @ x)).square().sum()) for x, y in zip(heard, said, strict=True))

    rows = heard if wide else said
    moments = torch.stack([torch.outer(row, row) for row in rows]).sum(0)
    up, down = split_map(weight, moments, 3)
    assert error(up, down) == pytest.approx(float(torch.linalg.svdvals(said)[3:].square().sum()), rel=1e-3)
    for _ in range(20):
        moved_up = up + 0.01 * torch.randn(up.shape, generator=generator)
        moved_down = down + 0.01 * torch.randn(down.shape, generator=generator)
        assert error(moved_up, down) > error(up, down) < error(up, moved_down)
    plain = split_map(weight, None, 3)
    assert error(*plain) > error(up, down)
    left = torch.linalg.svdvals(weight)[3:].square().sum()
    torch.testing.assert_close((weight - plain[0] @ plain[1]).square().sum(), left, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["llama-untied", "bert-classifier"])
def test_moments_are_of_what_is_said_or_heard(name: str, tokenizer):
    teacher = make(name, tokenizer)
    maps = {n: m for n, m in teacher.network.named_modules() if isinstance(m, torch.nn.Linear) and ".0." in n}
    kept: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {n: [] for n in maps}
    handles = [
        m.register_forward_hook(lambda _m, x, y, n=n: kept[n].append((x[0].detach(), y.detach())))
        for n, m in maps.items()
    ]
    found = moments_of(teacher, list(maps), texts())
    for handle in handles:
        handle.remove()
    for n, module in maps.items():
        (x, y), *more = kept[n]
        assert not more
        bias = 0.0 if module.bias is None else module.bias.detach()
        rows = [r - bias for r in y[0]] if module.out_features <= module.in_features else list(x[0])
        expected = sum(torch.outer(row, row) for row in rows)
        torch.testing.assert_close(found[n], expected, rtol=1e-3, atol=1e-3)


# -- one table for embedding and head -----------------------------------------------------------------------------------


def test_one_table_serves_both_with_a_map_each(tokenizer, tmp_path: Path):
    teacher = make("llama-untied", tokenizer)
    student = build(Student(name="low_rank", embedding=40, shared=True), teacher, sample=texts).eval()
    network = student.network
    assert network.lm_head.weight is network.model.embed_tokens.table.weight
    assert teacher.parameters_count - student.parameters_count == 2 * 320 * 32 - 40 * (320 + 2 * 32)
    both = torch.cat([teacher.network.model.embed_tokens.weight, teacher.network.lm_head.weight], 1).detach()
    counts = torch.ones(320)
    for token in tokenizer(texts()[0])["input_ids"]:
        counts[token] += 1
    table, maps = (
        network.model.embed_tokens.table.weight,
        (network.model.embed_tokens.up.weight.t(), network.model.norm[1].weight),
    )
    error = (counts[:, None] * (both - table @ torch.cat(maps, 1)).square()).sum()
    left = torch.linalg.svdvals(counts.sqrt()[:, None] * both)[40:].square().sum()
    torch.testing.assert_close(error, left, rtol=1e-3, atol=1e-3)
    student.save(tmp_path)
    loaded = models.load(str(tmp_path))
    assert loaded.parameters_count == student.parameters_count
    torch.testing.assert_close(answers(loaded, IDS), answers(student, IDS))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("llama", {}, "neither embedding nor linear"),
        ("llama", {"embedding": 6, "shared": True}, "are one matrix already"),
        ("llama", {"linear": 0.5, "shared": True}, "is about the embedding"),
        ("llama", {"linear": 1.0}, "student.linear"),
        ("llama", {"linear": 0.0}, "student.linear"),
        ("llama", {"linear": 0.01}, "no rank at all"),
        ("llama-untied", {"embedding": 54, "shared": True}, "54 is not between 1 and 53"),
        ("bert-classifier", {"embedding": 6}, "cannot be factorised here"),
    ],
)
def test_what_cannot_be_factorised(name: str, options: dict[str, Any], said: str, tokenizer):
    with pytest.raises(StillhouseError, match=said):
        build(Student(name="low_rank", **options), make(name, tokenizer), sample=texts)


def test_it_comes_last_but_adapters(tokenizer):
    once = thin(make("llama", tokenizer), 0.5)
    with pytest.raises(ModelError, match="FactorisedLlamaForCausalLM cannot be factorised"):
        thin(once, 0.5)
