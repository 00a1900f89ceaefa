"""Recurrent students against a walk over the tokens, one at a time."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from shared import make_batch
from torch import Tensor
from zoo import answers, make

from stillhouse import models
from stillhouse.models import Model
from stillhouse.recipe import Student
from stillhouse.student import build
from stillhouse.student.products import split_rows

IDS = torch.tensor([[5, 9, 77, 200, 31]])


def texts() -> list[str]:
    return ["The quick brown fox jumps over the lazy dog."]


def made(family: str, tokenizer: Any, **options: Any) -> Model:
    student = build(Student(name="recurrent", **options), make(family, tokenizer), sample=texts).eval()
    with torch.no_grad():
        for parameter in student.network.model.layers.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return student


def normed(x: list[float], weight: Tensor) -> list[float]:
    size = math.sqrt(sum(value * value for value in x) / len(x) + 1e-6)
    return [value / size * w for value, w in zip(x, weight.tolist(), strict=True)]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def times(matrix: Tensor, x: list[float], bias: Tensor | None = None) -> list[float]:
    rows = [sum(m * v for m, v in zip(row, x, strict=True)) for row in matrix.tolist()]
    return rows if bias is None else [r + b for r, b in zip(rows, bias.tolist(), strict=True)]


def step(cell: Any, x: list[float], h: list[float], c: list[float], suffix: str) -> tuple[list[float], list[float]]:
    """A step of a GRU or LSTM as torch's documentation writes it."""
    a = times(getattr(cell, f"weight_ih_l0{suffix}"), x, getattr(cell, f"bias_ih_l0{suffix}"))
    b = times(getattr(cell, f"weight_hh_l0{suffix}"), h, getattr(cell, f"bias_hh_l0{suffix}"))
    n = len(h)
    if isinstance(cell, torch.nn.GRU):
        new = []
        for i in range(n):
            r, z = sigmoid(a[i] + b[i]), sigmoid(a[n + i] + b[n + i])
            candidate = math.tanh(a[2 * n + i] + r * b[2 * n + i])
            new.append((1 - z) * candidate + z * h[i])
        return new, c
    gates = [x + y for x, y in zip(a, b, strict=True)]
    c = [sigmoid(gates[n + i]) * c[i] + sigmoid(gates[i]) * math.tanh(gates[2 * n + i]) for i in range(n)]
    return [sigmoid(gates[3 * n + i]) * math.tanh(c[i]) for i in range(n)], c


def walk(student: Model, ids: list[int]) -> list[list[float]]:
    """The stream after the last norm, token by token."""
    trunk = student.network.model
    stream = [trunk.embed_tokens.weight[i].tolist() for i in ids]
    both = student.config.bidirectional
    width = student.config.state_size // (2 if both else 1)
    for layer in trunk.layers:
        inputs = [normed(x, layer.norm.weight) for x in stream]
        outs: list[list[float]] = [[] for _ in ids]
        for suffix, order in (("", range(len(ids))), ("_reverse", range(len(ids) - 1, -1, -1)))[: 2 if both else 1]:
            h, c = [0.0] * width, [0.0] * width
            for place in order:
                h, c = step(layer.cell, inputs[place], h, c, suffix)
                outs[place] += h
        stream = [[a + b for a, b in zip(x, times(layer.out.weight, o), strict=True)] for x, o in zip(stream, outs, strict=True)]  # fmt: skip
    return [normed(x, trunk.norm.weight) for x in stream]


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_language_model_is_a_walk_over_the_tokens(cell: str, tokenizer):
    student = made("llama", tokenizer, cell=cell, state=12)
    states = walk(student, IDS[0].tolist())
    expected = [times(student.network.lm_head.weight, x) for x in states]
    torch.testing.assert_close(answers(student, IDS)[0], torch.tensor(expected), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_a_classifier_reads_both_ways_and_pools(pooling: str, tokenizer):
    student = made("bert-classifier", tokenizer, cell="lstm", state=12, pooling=pooling)
    states = walk(student, IDS[0].tolist())
    pooled = [max(column) if pooling == "max" else sum(column) / len(column) for column in zip(*states, strict=True)]
    hidden = [max(x, 0.0) for x in times(student.network.dense.weight, pooled, student.network.dense.bias)]
    expected = times(student.network.score.weight, hidden, student.network.score.bias)
    torch.testing.assert_close(answers(student, IDS)[0], torch.tensor(expected), rtol=1e-3, atol=1e-3)
    assert student.classes == make("bert-classifier", tokenizer).classes


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("family", "cell"), [("llama", "gru"), ("llama", "lstm"), ("bert-classifier", "lstm")])
def test_padding_on_either_side_changes_nothing(side: str, family: str, cell: str, tokenizer):
    student = made(family, tokenizer, cell=cell)
    rows = [[5, 9, 77, 200, 31], [8, 11]]
    blank = [[0] * (5 - len(row)) for row in rows]
    filled = [b + row if side == "left" else row + b for b, row in zip(blank, rows, strict=True)]
    mask = [[0] * len(b) + [1] * len(row) if side == "left" else [1] * len(row) + [0] * len(b) for b, row in zip(blank, rows, strict=True)]  # fmt: skip
    with torch.no_grad():
        found = student.network(torch.tensor(filled), attention_mask=torch.tensor(mask)).logits
    for logits, row, kept in zip(found, rows, mask, strict=True):
        alone = answers(student, torch.tensor([row]))[0]
        torch.testing.assert_close(logits if logits.ndim == 1 else logits[torch.tensor(kept).bool()], alone)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_texts_written_together_are_those_written_alone(cell: str, tokenizer):
    student = made("llama", tokenizer, cell=cell)
    options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    together = student.network.generate(
        torch.tensor([[0, 0, 0, 8, 11], [5, 9, 77, 200, 31]]),
        attention_mask=torch.tensor([[0, 0, 0, 1, 1], [1, 1, 1, 1, 1]]), **options,
    )  # fmt: skip
    for row, start in ((0, 3), (1, 0)):
        ids = together[row : row + 1, start:5]
        alone = student.network.generate(ids, attention_mask=torch.ones_like(ids), **options)
        assert together[row, start:].tolist() == alone[0].tolist()


def test_what_is_kept_does_not_grow_with_the_text(tokenizer):
    student = made("llama", tokenizer, state=12)
    sizes = []
    for length in (3, 30):
        out = student.network(torch.ones(1, length, dtype=torch.int64), use_cache=True)
        sizes.append([layer.recurrent_states[0].shape for layer in out.past_key_values.layers])
    assert sizes[0] == sizes[1] == [(1, 24)] * 2


@pytest.mark.parametrize("family", ["llama", "llama-untied", "gpt2", "gemma2", "bert-classifier"])
def test_embedding_and_head_are_the_teachers(family: str, tokenizer):
    teacher = make(family, tokenizer)
    student = build(Student(name="recurrent"), teacher)
    assert torch.equal(student.network.get_input_embeddings().weight, teacher.network.get_input_embeddings().weight)
    if "classifier" not in family:
        assert torch.equal(student.head_layer.weight, teacher.head_layer.weight)
        tied = student.head_layer.weight is student.network.get_input_embeddings().weight
        assert tied == (teacher.head_layer.weight is teacher.network.get_input_embeddings().weight)


def test_a_thinner_table_is_the_best_of_its_rank(tokenizer):
    teacher = make("llama-untied", tokenizer)
    student = build(Student(name="recurrent", embedding=6), teacher, sample=texts)
    counts = torch.ones(320)
    for token in tokenizer(texts()[0])["input_ids"]:
        counts[token] += 1
    for mine, theirs in ((student.network.model.embed_tokens, teacher.network.model.embed_tokens), (student.head_layer, teacher.head_layer)):  # fmt: skip
        torch.testing.assert_close(mine.weight, split_rows(theirs.weight, counts, 6)[0])


def test_hidden_states_are_those_after_each_layer(tokenizer):
    student = made("llama", tokenizer)
    batch = make_batch([5, 3], 290)
    hidden_NH, layers = student(batch, frozenset({"hidden"}))
    assert [tuple(x.shape) for x in layers["hidden"]] == [(8, 32)] * 2
    torch.testing.assert_close(layers["hidden"][-1], hidden_NH)
    assert student.shows == {"hidden"}


def test_low_precision_around_it_leaves_the_cell_alone(tokenizer):
    student = made("llama", tokenizer)
    batch = make_batch([5, 3], 290)
    exact = student(batch)[0]
    student.set_compute_dtype(torch.bfloat16)
    low = student(batch)[0]
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, exact, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("family", ["llama", "bert-classifier"])
def test_it_loads_with_stillhouse_and_without(family: str, tokenizer, tmp_path: Path):
    student = made(family, tokenizer)
    student.save(tmp_path)
    loaded = models.load(str(tmp_path))  # which checks that the logits are the head applied to the trunk
    assert type(loaded.network) is type(student.network)
    kind = "AutoModelForCausalLM" if family == "llama" else "AutoModelForSequenceClassification"
    script = (
        "import sys, torch\n"
        "sys.modules['stillhouse'] = None\n"
        f"from transformers import {kind}\n"
        f"network = {kind}.from_pretrained({str(tmp_path)!r}, trust_remote_code=True)\n"
        f"print(network(torch.tensor({IDS.tolist()})).logits.flatten()[-1].item())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env={"HF_HOME": str(tmp_path), "PATH": ""}
    )  # fmt: skip
    assert float(done.stdout) == pytest.approx(float(answers(student, IDS).flatten()[-1]), abs=1e-4), done.stderr
