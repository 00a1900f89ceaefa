"""Students with a part of the vocabulary: rows, ids, sizes and folders, for every family."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from shared import make_llama, make_tokenizer
from torch import nn
from zoo import ZOO, answers, make

from stillhouse import models
from stillhouse.errors import ModelError
from stillhouse.models import Model
from stillhouse.recipe import Student
from stillhouse.student import build
from stillhouse.student.builders.trim_vocabulary import trim_vocabulary

SAMPLE = ["The still turns mash into spirit; the quick fox jumps.", "A student keeps what a teacher knows."]
SIZE = 281


def sample() -> list[str]:
    return list(SAMPLE)


def none() -> list[str]:
    raise AssertionError("no text may be asked for where there are no weights")


def ids_of(student: Any, teacher: Any) -> list[int]:
    """The teacher's id of each of the student's tokens, by name."""
    return teacher.convert_tokens_to_ids(student.convert_ids_to_tokens(list(range(len(student)))))


@pytest.mark.parametrize("family", ZOO)
def test_the_student_says_what_the_teacher_says_of_the_kept_tokens(family: str, tokenizer):
    """Bit for bit: rows are only taken away. Classifiers say the same of everything."""
    teacher = make(family, tokenizer)
    before = {name: p.clone() for name, p in teacher.named_parameters()}
    student = trim_vocabulary(teacher, sample, size=SIZE).eval()
    keep = torch.tensor(ids_of(student.tokenizer, tokenizer))
    ids = torch.tensor([student.tokenizer("the still fox jumps").input_ids])
    theirs = answers(teacher, keep[ids])
    if "classifier" not in family:
        theirs = theirs[..., keep]
    torch.testing.assert_close(answers(student, ids), theirs, rtol=1e-5, atol=1e-5)
    for name, parameter in teacher.named_parameters():
        assert torch.equal(parameter, before[name]), f"{name} of the teacher was changed"
    assert all(p.requires_grad for p in student.parameters())


@pytest.mark.parametrize("family", ZOO)
def test_sizes_are_exact_and_what_is_saved(family: str, tokenizer, tmp_path: Path):
    teacher = make(family, tokenizer)
    student = trim_vocabulary(teacher, sample, size=SIZE)
    student.save(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        stored = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118 – not a dictionary
    assert student.parameters_count == stored
    rows = {id(p): p for p in teacher.network.parameters() if p.shape[0] == 320}
    less = sum(p.numel() // 320 for p in rows.values()) * (320 - SIZE)
    assert teacher.parameters_count - student.parameters_count == less
    loaded = Model(type(student.network).from_pretrained(tmp_path), student.tokenizer, "loaded").eval()
    ids = torch.tensor([student.tokenizer("the still fox jumps").input_ids])
    torch.testing.assert_close(answers(loaded, ids), answers(student.eval(), ids), rtol=1e-5, atol=1e-5)
    hollow = copy.deepcopy(teacher).to("meta")
    hollow.network.tie_weights()
    empty = trim_vocabulary(hollow, none, size=SIZE)
    assert all(p.is_meta for p in empty.parameters())
    assert {n: p.shape for n, p in empty.named_parameters()} == {n: p.shape for n, p in student.named_parameters()}
    assert empty.parameters_count == student.parameters_count and len(empty.tokenizer) == SIZE


@pytest.mark.parametrize("tied", [True, False])
def test_tied_stays_tied_and_untied_untied(tied: bool, tokenizer, tmp_path: Path):
    student = trim_vocabulary(make_llama(tokenizer, tied=tied), sample, size=SIZE)
    embedding = student.network.get_input_embeddings()
    assert (student.head_layer.weight is embedding.weight) == tied
    assert (
        embedding.num_embeddings
        == student.outcomes
        == student.head_layer.out_features
        == student.config.vocab_size
        == SIZE
    )
    student.save(tmp_path)
    loaded = models.load(str(tmp_path))
    assert (loaded.head_layer.weight is loaded.network.get_input_embeddings().weight) == tied


def test_it_loads_generates_and_reads_as_it_did(tokenizer, tmp_path: Path):
    student = trim_vocabulary(make_llama(tokenizer), sample, size=SIZE)
    student.save(tmp_path)
    loaded = models.load(str(tmp_path))
    assert loaded.tokenizer.chat_template == tokenizer.chat_template
    text = "a fox é 猫\n"
    assert loaded.tokenizer.decode(loaded.tokenizer(text).input_ids) == text
    ids = loaded.tokenizer("the fox", return_tensors="pt").input_ids
    said = []
    for model in (student, loaded):
        with model.generating() as network:
            said.append(network.generate(ids, max_new_tokens=5, do_sample=False, eos_token_id=None).tolist())
    assert said[0] == said[1] and max(said[0][0]) < SIZE


def test_special_ids_are_numbered_anew(tokenizer, tmp_path: Path):
    """End and padding tokens that stand high in the vocabulary, one of them an ordinary token, in both configurations."""
    teacher = make_llama(tokenizer)
    high, word = 319, 307
    names = tokenizer.convert_ids_to_tokens([high, word])
    teacher.config.eos_token_id, teacher.config.pad_token_id, teacher.config.bos_token_id = [0, high], word, None
    generation = teacher.network.generation_config
    generation.eos_token_id, generation.pad_token_id, generation.suppress_tokens = [high, 2], word, [high]
    teacher.network.get_input_embeddings().padding_idx = word
    student = trim_vocabulary(teacher, sample, size=SIZE)
    new = student.tokenizer.convert_tokens_to_ids(names)
    assert max(new) < SIZE
    student.save(tmp_path)
    loaded = models.load(str(tmp_path))
    for model in (student, loaded):
        assert model.config.eos_token_id == [0, new[0]] and model.config.pad_token_id == new[1]
        assert model.config.bos_token_id is None
        found = model.network.generation_config
        assert found.eos_token_id == [new[0], 2] and found.pad_token_id == new[1] and found.suppress_tokens == [new[0]]
        assert model.network.get_input_embeddings().padding_idx == new[1]
    assert teacher.config.eos_token_id == [0, high]


def test_the_whole_vocabulary_is_the_teacher_bit_for_bit(tokenizer):
    teacher = make_llama(tokenizer).eval()
    student = trim_vocabulary(teacher, sample, size=320).eval()
    ids = torch.tensor([[5, 9, 77, 200, 319]])
    assert torch.equal(answers(student, ids), answers(teacher, ids))
    assert student.tokenizer.get_vocab() == tokenizer.get_vocab()


def test_a_head_padded_to_a_round_size_loses_what_no_token_has():
    tokenizer = make_tokenizer(300)
    teacher = make_llama(make_tokenizer(320))
    teacher.tokenizer = tokenizer
    student = trim_vocabulary(teacher, sample, size=300)
    assert student.outcomes == 300
    assert torch.equal(student.head_layer.weight, teacher.head_layer.weight[:300])
    with pytest.raises(ModelError, match="more than the 300 tokens"):
        trim_vocabulary(teacher, sample, size=310)


def test_a_head_with_a_bias(tokenizer):
    teacher = make_llama(tokenizer, tied=False)
    teacher.network.lm_head.bias = nn.Parameter(torch.arange(320.0))
    student = trim_vocabulary(teacher, sample, size=SIZE)
    assert student.head_layer.bias.tolist() == [float(n) for n in ids_of(student.tokenizer, tokenizer)]


def test_builders_follow_one_another(tokenizer):
    """Which are cut first changes nothing."""
    teacher = make_llama(tokenizer, layers=4)
    first = {"name": "drop_layers", "keep": 2}
    second = {"name": "trim_vocabulary", "size": SIZE}
    one = build(Student(**first, then=[second]), teacher, sample=sample)
    other = build(Student(**second, then=[first]), teacher, sample=sample)
    assert one.outcomes == SIZE and len(one.layers) == 2
    for a, b in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        assert a[0] == b[0] and torch.equal(a[1], b[1])
    smaller = build(Student(**second, then=[{**second, "size": 270}]), teacher, sample=sample)
    at_once = build(Student(**{**second, "size": 270}), teacher, sample=sample)
    assert torch.equal(smaller.head_layer.weight, at_once.head_layer.weight)


def test_the_same_sample_gives_the_same_student(tokenizer):
    teacher = make_llama(tokenizer)
    one, other = (trim_vocabulary(teacher, sample, size=SIZE) for _ in range(2))
    assert one.tokenizer.backend_tokenizer.to_str() == other.tokenizer.backend_tokenizer.to_str()
    different = trim_vocabulary(teacher, lambda: ["def add(a, b):\n    return a + b\n"] * 3, size=SIZE)
    assert ids_of(different.tokenizer, tokenizer) != ids_of(one.tokenizer, tokenizer)


def test_texts_count_not_their_order(tokenizer):
    teacher = make_llama(tokenizer)
    one = trim_vocabulary(teacher, sample, size=SIZE)
    other = trim_vocabulary(teacher, lambda: SAMPLE[::-1], size=SIZE)
    assert ids_of(one.tokenizer, tokenizer) == ids_of(other.tokenizer, tokenizer)


@pytest.mark.parametrize("size", [10, 258, 321])
def test_a_size_that_cannot_be_is_refused_before_any_text_is_read(size: int, tokenizer):
    with pytest.raises(ModelError, match="Give a number from 259 to 320"):
        trim_vocabulary(make_llama(tokenizer), none, size=size)


@pytest.mark.teacher
def test_the_real_teacher_keeps_its_words(demo_teacher: Model, tmp_path: Path):
    text = "Once upon a time there was a little girl who lived in a village near the forest."
    student = trim_vocabulary(demo_teacher, lambda: [text], size=4000).eval()
    assert student.parameters_count == demo_teacher.parameters_count - (49152 - 4000) * 576
    ids = student.tokenizer(text).input_ids
    assert student.tokenizer.tokenize(text) == demo_teacher.tokenizer.tokenize(text)
    keep = np.asarray(ids_of(student.tokenizer, demo_teacher.tokenizer))
    mine = answers(student, torch.tensor([ids]))
    theirs = answers(demo_teacher, torch.from_numpy(keep[ids])[None])
    torch.testing.assert_close(mine, theirs[..., torch.from_numpy(keep)], rtol=1e-4, atol=1e-3)
