"""Students against what their teacher says they are."""

from __future__ import annotations

import copy

import pytest
import torch
from shared import make_batch, make_llama

from stillhouse.errors import ModelError
from stillhouse.models import Model
from stillhouse.recipe import Student
from stillhouse.student import build


def test_an_uncut_student_is_its_teacher_bit_for_bit(llama: Model):
    student = build(Student(name="drop_layers", keep=2), llama)
    batch = make_batch([5, 9], 320)
    assert torch.equal(student.eval()(batch)[0], llama.eval()(batch)[0])
    assert student.network is not llama.network


def test_kept_layers_are_the_teachers(tokenizer):
    teacher = make_llama(tokenizer, layers=6)
    student = build(Student(name="drop_layers", keep=[0, 2, 5]), teacher)
    for mine, theirs in zip(student.layers, [teacher.layers[i] for i in (0, 2, 5)], strict=True):
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(a, b)
    # the slow reference: the teacher with its other layers made to pass their input on
    skipping = copy.deepcopy(teacher)
    for index in (1, 3, 4):
        skipping.layers[index].self_attn.o_proj.weight.data.zero_()
        skipping.layers[index].mlp.down_proj.weight.data.zero_()
    batch = make_batch([11], 320)
    torch.testing.assert_close(student.eval()(batch)[0], skipping.eval()(batch)[0])


@pytest.mark.parametrize(("depth", "keep", "expected"), [(30, 10, [0, 3, 6, 10, 13, 16, 19, 23, 26, 29]), (4, 2, [0, 3]), (6, 1, [5]), (3, 3, [0, 1, 2])])  # fmt: skip
def test_layers_are_spread_evenly(depth: int, keep: int, expected: list[int]):
    from stillhouse.student.builders.drop_layers import even

    assert even(depth, keep) == expected


def test_a_cut_student_generates_as_it_reads(tokenizer):
    """Layer numbers of the cache are mended: generating with a cache equals reading without."""
    student = build(Student(name="drop_layers", keep=[0, 3]), make_llama(tokenizer, layers=4))
    ids = torch.tensor([[5, 9, 77, 200]])
    with student.generating() as network, torch.no_grad():
        cached = network.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, eos_token_id=None
        )
        for _ in range(6):
            ids = torch.cat([ids, network(ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    assert cached.tolist() == ids.tolist()


@pytest.mark.parametrize("keep", [0, 5, [], [0, 4], [2, 1], [1, 1], [-1, 2]])
def test_layers_that_cannot_be_kept(keep, tokenizer):
    with pytest.raises(ModelError, match="cannot be kept of 4 layers"):
        build(Student(name="drop_layers", keep=keep), make_llama(tokenizer, layers=4))


def test_fresh_weights_are_the_seeds(llama: Model):
    one, same, other = (build(Student(name="random", hidden=16), llama, seed) for seed in (1, 1, 2))
    assert one.config.hidden_size == 16
    weights = [m.layers[0].mlp.up_proj.weight for m in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_sizes_that_do_not_divide(llama: Model):
    with pytest.raises(ModelError, match="no multiple of heads"):
        build(Student(name="random", hidden=30, heads=4), llama)


def test_an_empty_student_has_the_real_ones_size(llama: Model):
    empty_teacher = copy.deepcopy(llama).to("meta")
    empty_teacher.network.tie_weights()
    for section in (Student(name="drop_layers", keep=1), Student(name="random", hidden=16, layers=3)):
        real, empty = build(section, llama), build(section, empty_teacher, empty=True)
        assert next(empty.parameters()).is_meta
        assert real.parameters_count == empty.parameters_count


def test_a_smaller_model_of_the_same_tokens_may_learn(llama: Model, tmp_path):
    make_llama(llama.tokenizer, layers=1, seed=7).save(tmp_path)
    assert len(build(Student(name="pretrained", model=str(tmp_path)), llama).layers) == 1


def test_all_that_is_wrong_in_a_chain_is_told_at_once(tokenizer):
    section = Student(
        name="drop_layers",
        keep=9,
        then=[
            {"name": "shrink_width", "heads": 99},
            {"name": "trim_vocabulary", "size": 3},
            {"name": "drop_layers", "keep": 2},
        ],
    )
    with pytest.raises(ModelError) as refused:
        build(section, make_llama(tokenizer, layers=4), empty=True)
    places = [problem.where for problem in refused.value.problems]
    assert [place.partition(".")[0] for place in places] == ["student", "student", "student"]
    assert len(set(refused.value.problems)) == 3
