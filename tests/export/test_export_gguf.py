"""GGUF: what is in the file, by gguf's own reader, by transformers' and, where it is installed, by llama.cpp itself."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from shared import CHAT, LINES, make_llama, make_tokenizer
from tokenizers import Regex, pre_tokenizers
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from stillhouse import models
from stillhouse.check import match_exports
from stillhouse.errors import ModelError, RecipeError
from stillhouse.export.compare import logits_of
from stillhouse.export.formats.gguf import _turned, _turned_back, gguf, pre_tokenizer
from stillhouse.models import Model
from stillhouse.recipe import Deploy, Export
from stillhouse.student.builders.trim_vocabulary import trim_vocabulary
from stillhouse.worker import Worker

QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""As Qwen2's tokenizer.json has it."""
RUNS = importlib.util.find_spec("llama_cpp") is not None
needs_runtime = pytest.mark.skipif(not RUNS, reason="llama.cpp is not installed: pip install 'stillhouse[llama-cpp]'")


def field(reader: GGUFReader, name: str) -> object:
    return reader.get_field(name).contents()


def make(kind: str) -> Model:
    tokenizer = make_tokenizer()
    if kind in ("llama", "untied"):
        return make_llama(tokenizer, tied=kind == "llama")
    torch.manual_seed(0)
    shape = {
        "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256,
        "initializer_range": 0.2, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None,
    }  # fmt: skip
    network = Qwen2ForCausalLM(Qwen2Config(**shape)) if kind == "qwen2" else Qwen3ForCausalLM(Qwen3Config(**shape))
    for name, parameter in network.named_parameters():
        if name.endswith((".bias", "norm.weight")):
            torch.nn.init.normal_(parameter, 1.0, 0.1)  # else a bias or norm left out would not be seen
    return Model(network, tokenizer, kind)


@pytest.mark.parametrize("kind", ["llama", "untied"])
def test_transformers_reads_the_student_back(kind: str, tmp_path: Path):
    student = make(kind)
    made = gguf(student, tmp_path, precision="f32")
    read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=made.path.name, dtype=torch.float32).eval()
    ids = list(range(3, 40))
    with torch.no_grad():
        torch.testing.assert_close(read(torch.tensor([ids])).logits[0], logits_of(student, ids), atol=1e-4, rtol=1e-4)


def test_rows_of_queries_go_where_llama_cpp_looks_for_them():
    """Channel j and j + width/2 of a head are turned together in transformers; 2j and 2j + 1 in llama.cpp."""
    heads, width = 3, 8
    rows = np.arange(heads * width)[:, None] * np.ones((1, 2))
    turned = _turned(rows, heads)
    for head in range(heads):
        for j in range(width // 2):
            assert turned[head * width + 2 * j, 0] == head * width + j
            assert turned[head * width + 2 * j + 1, 0] == head * width + width // 2 + j
    assert (_turned_back(turned, heads) == rows).all()


def test_the_tokenizer_and_the_chat_template_are_inside(tmp_path: Path):
    student = make("llama")
    reader = GGUFReader(gguf(student, tmp_path).path)
    tokens, vocabulary = field(reader, "tokenizer.ggml.tokens"), student.tokenizer.get_vocab()
    assert {token: i for i, token in enumerate(tokens)} == vocabulary
    kinds = field(reader, "tokenizer.ggml.token_type")
    assert [i for i, kind in enumerate(kinds) if kind == 3] == sorted([*student.tokenizer.all_special_ids, 1, 2])
    assert field(reader, "tokenizer.chat_template") == CHAT
    assert field(reader, "tokenizer.ggml.pre") == "gpt-2"
    assert field(reader, "tokenizer.ggml.eos_token_id") == student.tokenizer.eos_token_id
    assert field(reader, "tokenizer.ggml.add_bos_token") is False


@pytest.mark.parametrize(
    ("precision", "bits"), [("f32", 32.0), ("f16", 16.0), ("q8_0", 8.5), ("q4_0", 4.5), ("mixed", None)]
)
def test_the_file_is_as_large_as_was_told(precision: str, bits: float | None, tmp_path: Path):
    student = make("qwen3")
    made = gguf(student, tmp_path, precision=precision)
    told = gguf.size(student, {"precision": precision, "pre": None})
    assert made.path.stat().st_size == pytest.approx(told, rel=0.15)
    matrices = [t for t in GGUFReader(made.path).tensors if len(t.shape) > 1]
    if bits is not None:
        assert sum(t.n_bytes for t in matrices) * 8 == bits * sum(t.n_elements for t in matrices)
    else:
        four = {t.name.split(".")[-2] for t in matrices if t.tensor_type.name == "Q4_0"}
        assert four == {"ffn_gate", "ffn_up", "ffn_down"}


def test_rounded_weights_are_the_files(tmp_path: Path):
    """Eight bits a block of 32: no weight moves by more than half a step, the largest of its block / 127."""
    student = make("qwen3")
    made = gguf(student, tmp_path)
    mine, files = student.network.requires_grad_(False), made.same_as.network.requires_grad_(False)
    for (name, was), now in zip(mine.named_parameters(), files.parameters(), strict=True):
        if was.ndim < 2:
            assert torch.equal(was, now), name
            continue
        for block, rounded in zip(was.reshape(-1, 32), now.reshape(-1, 32), strict=True):
            step = float(block.abs().max()) / 127
            assert float((block - rounded).abs().max()) <= step * 0.51 + 1e-3 * float(block.abs().max())


def test_what_cannot_be_written_is_told_before_training():
    student = make("llama")
    student.network.config.model_type = "phi"
    with pytest.raises(RecipeError, match=r"(?s)cannot be written.*Export it with hf") as caught:
        match_exports(Export(formats=("gguf",)), student)
    assert str(caught.value).startswith("export.formats.0")
    student = make("llama")
    student.network.config.rope_parameters["rope_type"] = "llama3"
    with pytest.raises(RecipeError, match="positions of the kind 'llama3'"):
        match_exports(Export(formats=("gguf",)), student)


def test_too_large_for_the_target_is_told_before_training():
    with pytest.raises(
        RecipeError, match=r"(?s)will be about 0\.0 MB, and deploy.max_file_mb allows 0\.001.*trimmed vocabulary"
    ):
        match_exports(Export(formats=("gguf",)), make("llama"), Deploy(max_file_mb=0.001))


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        ([pre_tokenizers.ByteLevel(add_prefix_space=False)], "gpt-2"),
        ([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)], "smollm"),
        ([pre_tokenizers.Split(Regex(QWEN), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)], "qwen2"),
    ],
)
def test_known_rules_of_words_have_llama_cpps_name(steps: list[object], name: str, tmp_path: Path):
    student = make("llama")
    student.tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    assert pre_tokenizer(student.tokenizer, None) == name
    if not RUNS:
        return
    with Worker("llama_cpp", gguf(student, tmp_path, precision="f16").path, 1) as worker:
        for text in ["It's 12345 of  345 cats.", "x = {'a': [1, 22]}\n\n\n  y", "WE'LL see 東京２３ ½"]:
            assert worker.ask("encode", text=text)["ids"] == student.tokenizer(text).input_ids


def test_an_unknown_rule_of_words_needs_its_name():
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("x+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    with pytest.raises(ModelError, match="none that is known"):
        pre_tokenizer(tokenizer, None)
    assert pre_tokenizer(tokenizer, "falcon") == "falcon"


@needs_runtime
@pytest.mark.parametrize("kind", ["llama", "untied", "qwen2", "qwen3"])
def test_llama_cpp_says_what_the_student_says(kind: str, tmp_path: Path):
    student = make(kind)
    made = gguf(student, tmp_path, precision="f32")
    ids = list(range(3, 60))
    with Worker("llama_cpp", made.path, 1) as worker:
        torch.testing.assert_close(torch.from_numpy(worker.logits(ids)), logits_of(student, ids), atol=2e-3, rtol=1e-3)
        for text in [*LINES[:4], "  two  spaces\n\n\t1234", "naïve 東京 🙂", "<|im_start|>user\nhi<|im_end|>"]:
            assert worker.ask("encode", text=text)["ids"] == student.tokenizer(text).input_ids


@needs_runtime
@pytest.mark.teacher
def test_a_trimmed_vocabulary_of_the_real_teacher_is_read_alike(demo_teacher: Model, tmp_path: Path):
    small = trim_vocabulary(demo_teacher, lambda: [Path(models.__file__).read_text(encoding="utf-8")], size=3000)
    del small.layers[2:]
    small.network.config.num_hidden_layers = 2
    made = gguf(small, tmp_path, precision="q8_0")
    with Worker("llama_cpp", made.path, 1) as worker:
        for text in ["It's 12 of 345 cats' tails.", "x = {'a': [1, 22]}\n\n\n  y", "Γειά σου, 世界", "<|im_start|>a"]:
            assert worker.ask("encode", text=text)["ids"] == small.tokenizer(text).input_ids
