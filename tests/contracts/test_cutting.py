"""What holds for every builder and every family: sizes, saving, loading, speaking, and that nothing cut means nothing changed."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from shared import make_batch
from zoo import CLASSIFIERS, DECODERS, ZOO, answers, make

from stillhouse.errors import StillhouseError
from stillhouse.find import names
from stillhouse.models import Model
from stillhouse.recipe import Student
from stillhouse.student import build

LLAMAS = ["llama", "llama-untied"]
CUTS: dict[str, dict[str, Any]] = {
    "drop_layers": {"keep": 2, "by": "block_influence"},
    "copy_layers": {"layers": [0, 2, 2]},
    "shrink_width": {"hidden": 16, "heads": 2, "intermediate": 20},
    "balanced": {"ratio": 1.7},
    "trim_vocabulary": {"size": 290},
}
"""Builder → options that really cut a model and leave it of its kind."""

OTHERS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "recurrent": ({"state": 24, "embedding": 20, "cell": "gru"}, [*DECODERS, *CLASSIFIERS]),
    "state_space": ({"attention": [1]}, ["llama", "mistral-whole"]),
    "linear_attention": ({"window": 3, "features": 5}, [*LLAMAS, "mistral-whole"]),
    "low_rank": ({"embedding": 6}, [*LLAMAS, "mistral", "qwen2", "qwen3"]),
}
"""Builder of another architecture → options, and the families that it takes."""

ELSEWHERE = {"pretrained", "random", "classifier", "lora", "same"}
"""Builders that take weights from elsewhere, or add to the teacher; they have tests of their own."""

GROW = {"copy_layers", "linear_attention", "state_space"}
"""Builders whose student may have more parameters than its teacher, of as many layers."""

PAIRS = [(builder, family) for builder in CUTS for family in ZOO]
PAIRS += [(builder, family) for builder, (_, families) in OTHERS.items() for family in families]
OPTIONS = {**CUTS, **{builder: options for builder, (options, _) in OTHERS.items()}}

WHOLE: dict[str, dict[str, Any]] = {
    "drop_layers": {"keep": 3},
    "copy_layers": {"layers": [0, 1, 2]},
    "shrink_width": {"hidden": 32, "heads": 4, "intermediate": 48},
    "balanced": {"ratio": 1.0},
    "trim_vocabulary": {"size": 320},
}
"""Builder → options that keep everything."""

IDS = torch.tensor([[5, 9, 77, 200, 31]])


def texts() -> list[str]:
    return ["The quick brown fox jumps over the lazy dog.", "def add(a, b):\n    return a + b\n"]


def made(builder: str, options: dict[str, Any], teacher: Model) -> Model:
    return build(Student(name=builder, **options), teacher, sample=texts).eval()


def test_every_builder_is_here():
    assert set(CUTS) == set(WHOLE)
    assert set(CUTS) | set(OTHERS) | ELSEWHERE == set(names("builder"))


@pytest.mark.parametrize(("builder", "family"), PAIRS)
def test_a_student_survives_its_folder(builder: str, family: str, tokenizer, tmp_path: Path):
    teacher = make(family, tokenizer)
    before = {name: p.clone() for name, p in teacher.named_parameters()}
    student = made(builder, OPTIONS[builder], teacher)
    student.save(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        stored = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118 – not a dictionary
    assert student.parameters_count == stored
    assert student.parameters_count < teacher.parameters_count or builder in GROW
    loaded = Model(type(student.network).from_pretrained(tmp_path), tokenizer, "loaded").eval()
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), student.parameters(), strict=True))
    torch.testing.assert_close(answers(loaded, IDS), answers(student, IDS))
    for name, parameter in teacher.named_parameters():
        assert torch.equal(parameter, before[name]), f"{name} of the teacher was changed"
    configs = {id(m.config) for m in student.network.modules() if hasattr(m, "config")}
    assert configs == {id(student.network.config)}, "a part would not follow a change of the configuration"
    if teacher.network.can_generate():
        mine, other = student.network.generation_config, teacher.network.generation_config
        assert mine is not other and mine.to_dict() == other.to_dict()
    theirs = {p.data_ptr() for p in teacher.parameters()}
    assert not any(p.data_ptr() in theirs for p in student.parameters()), "memory is shared with the teacher"


@pytest.mark.parametrize(("builder", "family"), [pair for pair in PAIRS if pair[1] in DECODERS])
def test_it_says_the_same_with_a_cache_without_and_loaded(builder: str, family: str, tokenizer, tmp_path: Path):
    student = made(builder, OPTIONS[builder], make(family, tokenizer))
    student.save(tmp_path)
    loaded = Model(type(student.network).from_pretrained(tmp_path), tokenizer, "loaded").eval()
    said = []
    for model in (student, loaded):
        with model.generating() as network:
            out = network.generate(
                IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=6, do_sample=False, eos_token_id=None
            )
        said.append(out.tolist())
    ids = IDS
    for _ in range(6):
        ids = torch.cat([ids, answers(student, ids)[:, -1:].argmax(-1)], 1)
    assert said[0] == said[1] == ids.tolist()


@pytest.mark.parametrize("family", ZOO)
@pytest.mark.parametrize("builder", WHOLE)
def test_nothing_cut_is_the_teacher_bit_for_bit(builder: str, family: str, tokenizer):
    teacher = make(family, tokenizer)
    student = made(builder, WHOLE[builder], teacher)
    assert torch.equal(answers(student, IDS), answers(teacher, IDS))
    assert student.network is not teacher.network


@pytest.mark.parametrize(("builder", "family"), PAIRS)
def test_an_empty_one_has_the_real_ones_size(builder: str, family: str, tokenizer):
    teacher = make(family, tokenizer)
    hollow = copy.deepcopy(teacher).to("meta")
    hollow.network.tie_weights()

    def none() -> list[str]:
        raise AssertionError("no text may be asked for where there are no weights")

    empty = build(Student(name=builder, **OPTIONS[builder]), hollow, sample=none, empty=True)
    real = made(builder, OPTIONS[builder], teacher)
    assert all(p.is_meta for p in empty.parameters())
    assert empty.parameters_count == real.parameters_count
    assert [tuple(p.shape) for p in empty.parameters()] == [tuple(p.shape) for p in real.parameters()]


@pytest.mark.parametrize(("builder", "family"), [pair for pair in PAIRS if pair[1] in [*DECODERS, *CLASSIFIERS]])
@pytest.mark.parametrize("lengths", [[7, 1, 12, 3], [6, 6]])
def test_no_state_crosses_a_border(builder: str, family: str, lengths: list[int], tokenizer):
    """Documents back to back give what each gives alone, by transformers' own forward; and another first one changes nothing."""
    student = made(builder, OPTIONS[builder], make(family, tokenizer))
    batch = make_batch(lengths, 290)
    last = batch.borders_D1[1:]
    if student.classifies:  # the place that carries the class: as the first token where one is made for it
        places = batch.borders_D1[:-1] if "bert" in family else [stop - 1 for stop in last]
        batch = replace(batch, select_N=torch.tensor(places), document_N=torch.arange(len(last)), labels_N=torch.zeros(len(last), dtype=torch.int64), weight_N=torch.ones(len(last)))  # fmt: skip
    with torch.no_grad():
        found = student.head.logits(student(batch)[0])
        expected = [answers(student, batch.input_ids_P[None, a:b]) for a, b in pairwise(batch.borders_D1)]
        torch.testing.assert_close(
            found, torch.cat([e.reshape(-1, e.shape[-1]) for e in expected]), rtol=1e-3, atol=2e-4
        )
        ids = batch.input_ids_P.clone()
        ids[: lengths[0]] = (ids[: lengths[0]] + 1) % 290
        other = student.head.logits(student(replace(batch, input_ids_P=ids))[0])
    mine = batch.document_N == 0
    torch.testing.assert_close(other[~mine], found[~mine], rtol=1e-6, atol=1e-6)
    assert not torch.equal(other[mine], found[mine])


@pytest.mark.parametrize(("builder", "family"), PAIRS)
def test_gradients_are_the_same_with_checkpointing(builder: str, family: str, tokenizer):
    student = made(builder, OPTIONS[builder], make(family, tokenizer)).train()
    batch = make_batch([7, 12, 3], 290)
    gradients = []
    for on in (False, True):
        if on:
            student.network.activation_checkpointing_enable()
        student.zero_grad()
        torch.manual_seed(0)  # of dropout, which some families have
        student(batch)[0].square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in student.trunk.named_parameters() if p.grad is not None})
    assert set(gradients[0]) == set(gradients[1])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-4)
        assert gradient.isfinite().all(), name


@pytest.mark.parametrize("family", DECODERS)
def test_builders_follow_one_another(family: str, tokenizer):
    then = [{"name": "shrink_width", "intermediate": 20}, {"name": "drop_layers", "keep": [0]}]
    student = build(Student(name="drop_layers", keep=2, then=then), make(family, tokenizer), sample=texts)
    assert len(student.layers) == 1
    assert answers(student.eval(), IDS).isfinite().all()


BAD: list[tuple[str, str, dict[str, Any], str]] = [
    ("shrink_width", "llama", {"heads": 3}, "3 heads are not whole groups: 2 query heads share"),
    ("shrink_width", "llama", {"heads": 1}, "1 heads are not whole groups"),
    ("shrink_width", "llama", {"heads": 0}, "0 is not between 1 and the teacher's 4"),
    ("shrink_width", "llama", {"heads": 6}, "6 is not between 1 and the teacher's 4"),
    ("shrink_width", "llama", {"heads": -2}, "-2 is not between 1 and the teacher's 4"),
    ("shrink_width", "llama", {"hidden": 33}, "33 is not between 1 and the teacher's 32"),
    ("shrink_width", "llama", {"hidden": 18}, "must be a multiple of the heads, and 18 is none of 4"),
    ("shrink_width", "llama", {"intermediate": 49}, "49 is not between 1 and the teacher's 48"),
    ("shrink_width", "llama", {"intermediate": 0}, "0 is not between 1 and the teacher's 48"),
    ("shrink_width", "gpt2", {"hidden": 20}, "made of heads of 8 channels, and 20 is no multiple"),
    ("shrink_width", "gpt2", {"hidden": 16, "heads": 3}, "hidden width is heads × head width, and 16 is not 3 × 8"),
    ("shrink_width", "neox", {"hidden": 64}, "64 is not between 1 and the teacher's 32"),
    ("balanced", "llama", {}, "give ratio or parameters, one of the two"),
    ("balanced", "llama", {"ratio": 2.0, "parameters": 100}, "give ratio or parameters, one of the two"),
    ("balanced", "llama", {"ratio": 0.5}, "larger than its teacher"),
    ("balanced", "llama", {"parameters": 10**9}, "not between 1 and the teacher's"),
    ("balanced", "llama", {"parameters": 100}, "the smallest has"),
    ("drop_layers", "llama", {"keep": 4}, "cannot be kept of 3 layers"),
    ("drop_layers", "llama", {"keep": 0, "by": "perplexity"}, "cannot be kept of 3 layers"),
    ("drop_layers", "llama", {"keep": [0, 1], "by": "block_influence"}, "the layers are listed"),
    ("drop_layers", "bert-masked", {"keep": 1, "by": "perplexity"}, "Take by=block_influence"),
    ("recurrent", "bert-masked", {}, "says neither next tokens nor classes"),
    ("recurrent", "llama", {"layers": 0}, "0 is not at least 1"),
    ("recurrent", "llama", {"embedding": 33}, "33 is not between 1 and the teacher’s 32"),
    ("recurrent", "llama", {"state": -4}, "-4 is not at least 1"),
    ("recurrent", "bert-classifier", {"state": 7}, "7 cannot be shared by two directions"),
    ("state_space", "gpt2", {}, "the attention of a GPT2LMHeadModel cannot become state-space layers here"),
    ("state_space", "llama-untied", {}, "its projections have biases"),
    ("state_space", "llama-classifier", {}, "cannot become state-space layers here"),
    ("state_space", "llama", {"attention": []}, "no layer keeps its attention"),
    ("state_space", "llama", {"attention": [3]}, "[3] names layers that a teacher of 3 does not have"),
    ("linear_attention", "qwen3", {}, "the attention of a Qwen3ForCausalLM cannot become linear attention here"),
    ("linear_attention", "mistral", {}, "its attention sees only the last 4 tokens"),
    ("linear_attention", "llama", {"window": 1}, "1 is no window of tokens"),
    ("linear_attention", "llama", {"features": 0}, "0 is no number of features"),
    ("linear_attention", "llama", {"attention": [-1]}, "[-1] names layers that a teacher of 3 does not have"),
    ("copy_layers", "llama", {"layers": []}, "cannot be copied of 3 layers"),
    ("copy_layers", "llama", {"layers": [0, 3]}, "cannot be copied of 3 layers"),
    ("copy_layers", "llama", {"layers": [-1]}, "cannot be copied of 3 layers"),
]


@pytest.mark.parametrize(("builder", "family", "options", "message"), BAD)
def test_what_cannot_be_is_one_clear_message(
    builder: str, family: str, options: dict[str, Any], message: str, tokenizer
):
    with pytest.raises(StillhouseError) as caught:
        made(builder, options, make(family, tokenizer))
    assert message in str(caught.value)
    assert str(caught.value).startswith("student")
    assert caught.value.problems[0].way_out
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("builder", ["shrink_width", "balanced"])
def test_an_unknown_family_is_refused_with_the_list(builder: str, llama: Model):
    llama.network.config.model_type = "phi"
    with pytest.raises(StillhouseError, match=r"(?s)of the type 'phi'.*Known: bert, gemma2"):
        made(builder, CUTS[builder], llama)
