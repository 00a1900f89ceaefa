"""A factorised student against the teacher with its matrices replaced by their product, and against the least error."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from zoo import answers, make

from stillhouse import factorised
from stillhouse.errors import ModelError
from stillhouse.models import Model
from stillhouse.recipe import Student
from stillhouse.student import build

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
        table, up = factorised.split(theirs.weight, counts, 6)
        torch.testing.assert_close(product, table @ up, rtol=1e-4, atol=1e-5)


def test_a_full_rank_loses_nothing_but_rounding(tokenizer):
    teacher = make("llama-untied", tokenizer)
    table, up = factorised.split(teacher.network.lm_head.weight, torch.ones(320), 32)
    torch.testing.assert_close(table @ up, teacher.network.lm_head.weight.detach(), rtol=1e-5, atol=1e-5)


def test_no_other_product_is_nearer(tokenizer):
    """The weighted error is what weighted singular values leave over, and moving either matrix only makes it larger."""
    generator = torch.Generator().manual_seed(0)
    matrix, counts = torch.randn(40, 8, generator=generator), torch.randint(1, 50, (40,), generator=generator)

    def error(a: torch.Tensor, b: torch.Tensor) -> float:
        return sum(float(n) * float((row - x @ b).square().sum()) for n, row, x in zip(counts, matrix, a, strict=True))

    table, up = factorised.split(matrix, counts, 3)
    left_over = torch.linalg.svdvals(counts.sqrt()[:, None] * matrix)[3:].square().sum()
    assert error(table, up) == pytest.approx(float(left_over), rel=1e-4)
    for _ in range(20):
        a, b = torch.randn(40, 3, generator=generator), torch.randn(3, 8, generator=generator)
        assert error(table + 0.01 * a, up) > error(table, up)
        assert error(table, up + 0.01 * b) > error(table, up)
    plain = factorised.split(matrix, torch.ones(40), 3)
    assert error(*plain) > error(table, up)


@pytest.mark.parametrize("name", KINDS)
def test_it_survives_its_folder(name: str, tokenizer, tmp_path: Path):
    from stillhouse import models

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
    script = (
        "import sys, torch\n"
        "sys.modules['stillhouse'] = None\n"
        "from transformers import AutoModelForCausalLM\n"
        f"network = AutoModelForCausalLM.from_pretrained({str(tmp_path)!r}, trust_remote_code=True)\n"
        f"print(network(torch.tensor({IDS.tolist()})).logits[0, -1].argmax().item())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env={"HF_HOME": str(tmp_path), "PATH": ""}
    )  # fmt: skip
    assert done.stdout.strip() == str(int(answers(student, IDS)[0, -1].argmax())), done.stderr


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
    with pytest.raises(ModelError, match=r"(?s)cannot be factorised here.*llama, mistral, qwen2, qwen3"):
        made(make(name, tokenizer), 6)
