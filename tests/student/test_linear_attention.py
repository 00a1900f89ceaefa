"""Linear attention behind a window, against the formula by loops and against the teacher."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache
from zoo import answers, make

from stillhouse import models
from stillhouse.architectures.linear_attention import LinearAttention
from stillhouse.models import Model
from stillhouse.recipe import Student
from stillhouse.student import build

IDS = torch.tensor([[5, 9, 77, 200, 31, 8, 11, 250, 4, 90, 61]])


def made(teacher: Model, **options: Any) -> Model:
    student = build(Student(name="linear_attention", **options), teacher).eval()
    with torch.no_grad():
        for name, parameter in student.network.named_parameters():
            if name.endswith(("query_map", "key_map", "share")):
                parameter += 0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return student


def formula(
    layer: LinearAttention, q: list[Any], k: list[Any], v: list[Any], head: int, group: int
) -> list[list[float]]:
    """LoLCATs' attention of one head, one query and key at a time."""

    def dot(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    def features(x: list[float], matrix: torch.Tensor) -> list[float]:
        mapped = [dot(x, column) for column in matrix.t().tolist()]
        both = []
        for sign in (1, -1):
            exp = [math.exp(sign * value) for value in mapped]
            both += [value / sum(exp) for value in exp]
        return both

    share = 1 / (1 + math.exp(-float(layer.share[head])))
    out = []
    for n in range(len(q)):
        near = [dot(q[n], k[j]) / math.sqrt(len(q[n])) for j in range(n + 1)]
        largest = max(near[max(0, n - layer.window + 1) :])
        weights = []
        for j in range(n + 1):
            if j > n - layer.window:
                weights.append(share * math.exp(near[j] - largest))
            else:
                weights.append(dot(features(q[n], layer.query_map[head]), features(k[j], layer.key_map[group])))
        out.append([sum(w * v[j][d] for j, w in enumerate(weights)) / sum(weights) for d in range(len(v[0]))])
    return out


@pytest.mark.parametrize("length", [1, 3, 4, 5, 8, 11, 12, 13])
def test_blocks_give_the_formula(length: int, llama: Model):
    layer = made(llama, window=4, features=5).layers[0].self_attn
    generator = torch.Generator().manual_seed(length)
    q, k, v = (torch.randn(2, heads, length, 8, generator=generator) for heads in (4, 2, 2))
    found = layer.attend(q, k, v)
    for text in range(2):
        for head in range(4):
            slow = formula(layer, q[text, head].tolist(), k[text, head // 2].tolist(), v[text, head // 2].tolist(), head, head // 2)  # fmt: skip
            torch.testing.assert_close(found[text, head], torch.tensor(slow), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "llama-untied", "mistral-whole"])
def test_a_window_as_long_as_the_text_is_the_teacher(family: str, tokenizer):
    teacher = make(family, tokenizer)
    torch.testing.assert_close(answers(made(teacher, window=11), IDS), answers(teacher, IDS), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(answers(made(teacher, window=4), IDS), answers(teacher, IDS), rtol=1e-2, atol=1e-2)


def test_layers_that_keep_their_attention_are_the_teachers(tokenizer):
    teacher = make("llama", tokenizer)
    assert torch.equal(answers(made(teacher, window=2, attention=[0, 1, 2]), IDS), answers(teacher, IDS))


@pytest.mark.parametrize("attention", [[], [1]])
@pytest.mark.parametrize("pieces", [[1] * 11, [5, 6], [2, 7, 1, 1], [11]])
def test_a_text_read_in_pieces_is_the_text(attention: list[int], pieces: list[int], tokenizer):
    student = made(make("llama", tokenizer), window=4, features=5, attention=attention)
    cache = DynamicCache(config=student.config)
    start, found = 0, []
    with student.generating() as network, torch.no_grad():
        for length in pieces:
            found.append(network(IDS[:, start : start + length], past_key_values=cache, use_cache=True).logits)
            start += length
    torch.testing.assert_close(torch.cat(found, 1), answers(student, IDS), rtol=1e-4, atol=1e-4)
    for layer, kept in enumerate(cache.layers):
        assert layer in attention or kept.keys.shape[2] == 3, "more is kept than a window"


@pytest.mark.parametrize("attention", [[], [0], [2]])
def test_texts_written_together_are_those_written_alone(attention: list[int], tokenizer):
    student = made(make("llama", tokenizer), window=4, features=5, attention=attention)
    options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    rows = torch.cat([torch.zeros(1, 11, dtype=torch.int64), IDS])
    rows[0, 8:] = torch.tensor([8, 11, 30])
    mask = torch.ones_like(rows)
    mask[0, :8] = 0
    with student.generating() as network:
        together = network.generate(rows, attention_mask=mask, **options)
        for row, start in ((0, 8), (1, 0)):
            ids = rows[row : row + 1, start:]
            alone = network.generate(ids, attention_mask=torch.ones_like(ids), **options)
            assert together[row, start:].tolist() == alone[0].tolist()


def test_gradients_reach_the_maps_and_agree_with_differences(llama: Model):
    layer = made(llama, window=3, features=4).layers[0].self_attn.double()
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, heads, 7, 8, generator=generator).double() for heads in (4, 2, 2))
    direction = torch.randn(1, 4, 7, 8, generator=generator).double()

    def value() -> torch.Tensor:
        return (layer.attend(q, k, v).double() * direction).sum()

    value().backward()
    for parameter in (layer.query_map, layer.key_map, layer.share):
        assert parameter.grad is not None and parameter.grad.isfinite().all()
        index = tuple(0 for _ in parameter.shape)
        with torch.no_grad():
            parameter[index] += 1e-2
            above = value()
            parameter[index] -= 2e-2
            below = value()
            parameter[index] += 1e-2
        assert float(parameter.grad[index]) == pytest.approx(float(above - below) / 2e-2, rel=2e-2, abs=1e-3)


def test_it_loads_with_stillhouse_and_without(llama: Model, tmp_path: Path):
    student = made(llama, window=4, attention=[1])
    student.save(tmp_path)
    loaded = models.load(str(tmp_path))
    assert type(loaded.network) is type(student.network)
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
