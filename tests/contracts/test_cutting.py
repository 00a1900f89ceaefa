"""What holds for every builder and every family: sizes, saving, loading, speaking, and that nothing cut means nothing changed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from zoo import DECODERS, ZOO, answers, make

from stillhouse.errors import StillhouseError
from stillhouse.find import names
from stillhouse.models import Model
from stillhouse.recipe import Student
from stillhouse.student import build

CUTS: dict[str, dict[str, Any]] = {
    "drop_layers": {"keep": 2, "by": "block_influence"},
    "copy_layers": {"layers": [0, 2, 2]},
    "shrink_width": {"hidden": 16, "heads": 2, "intermediate": 20},
    "balanced": {"ratio": 1.7},
    "trim_vocabulary": {"size": 290},
}
"""Builder → options that really cut; those of fresh weights or other models have tests of their own."""

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


def test_every_builder_that_cuts_is_here():
    assert set(CUTS) == set(WHOLE) <= set(names("builder"))


@pytest.mark.parametrize("family", ZOO)
@pytest.mark.parametrize("builder", CUTS)
def test_a_student_survives_its_folder(builder: str, family: str, tokenizer, tmp_path: Path):
    teacher = make(family, tokenizer)
    before = {name: p.clone() for name, p in teacher.named_parameters()}
    student = made(builder, CUTS[builder], teacher)
    student.save(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        stored = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118 – not a dictionary
    assert student.parameters_count == stored
    assert student.parameters_count < teacher.parameters_count or builder == "copy_layers"
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


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("builder", CUTS)
def test_it_says_the_same_with_a_cache_without_and_loaded(builder: str, family: str, tokenizer, tmp_path: Path):
    student = made(builder, CUTS[builder], make(family, tokenizer))
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


@pytest.mark.parametrize("family", ZOO)
@pytest.mark.parametrize("builder", CUTS)
def test_an_empty_one_has_the_real_ones_size(builder: str, family: str, tokenizer):
    teacher = make(family, tokenizer)
    hollow = copy.deepcopy(teacher).to("meta")
    hollow.network.tie_weights()

    def none() -> list[str]:
        raise AssertionError("no text may be asked for where there are no weights")

    empty = build(Student(name=builder, **CUTS[builder]), hollow, sample=none, empty=True)
    real = made(builder, CUTS[builder], teacher)
    assert all(p.is_meta for p in empty.parameters())
    assert empty.parameters_count == real.parameters_count
    assert [tuple(p.shape) for p in empty.parameters()] == [tuple(p.shape) for p in real.parameters()]


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
