"""Counts by formula against models that are really made, and the shapes that are proposed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from zoo import ZOO, make

from stillhouse.errors import ModelError
from stillhouse.models import Model
from stillhouse.student.families import family_of, parts_of
from stillhouse.student.shapes import WAYS, Counter, candidates, choose, smallest, step_of, target


def counted(model: Model, size) -> int:
    """Parameters of a model that is made in that size, each storage once."""
    config = family_of(model.network).resized(model.config, size)
    config.num_hidden_layers, config.vocab_size = size.layers, size.vocabulary
    if getattr(config, "layer_types", None):
        config.layer_types = ["full_attention"] * size.layers
    with torch.device("meta"):
        network = type(model.network)(config)
    seen: dict[int, int] = {}
    for parameter in network.parameters():
        seen[id(parameter)] = parameter.numel()
    return sum(seen.values())


@pytest.mark.parametrize("name", ZOO)
def test_the_formula_counts_what_a_model_has(name: str, tokenizer):
    teacher = make(name, tokenizer)
    counter = Counter(teacher.network)
    assert counter(counter.size) == teacher.parameters_count
    own = counter.family.own_head_width
    smaller = replace(counter.size, layers=2, hidden=20 if own else 16, heads=2, groups=counter.size.groups // 2, intermediate=29, vocabulary=77)  # fmt: skip
    assert counter(smaller) == counted(teacher, smaller)


def big() -> LlamaForCausalLM:
    with torch.device("meta"):
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
                num_key_value_heads=3, tie_word_embeddings=True, bos_token_id=None, eos_token_id=None,
            )
        )  # fmt: skip


@pytest.mark.parametrize("ratio", [1, 1.5, 2, 3, 5, 10, 20])
def test_candidates_fit_and_keep_proportions(ratio: float):
    network = big()
    old = Counter(network).size
    most = target(network, ratio=ratio, parameters=None)
    found = candidates(network, most)
    assert "balanced" in found and "width" in found
    for way, candidate in found.items():
        size = candidate.size
        assert candidate.parameters == Counter(network)(size) <= most
        assert way == "depth" or candidate.parameters >= 0.9 * most
        assert (size.hidden == old.hidden) or way != "depth"
        assert (size.layers == old.layers) or way != "width"
        assert size.heads % size.groups == 0 and size.heads // size.groups == old.heads // old.groups
        assert size.hidden % size.heads == 0 and size.head_width == old.head_width
        assert size.vocabulary == old.vocabulary
    if 1.5 <= ratio <= 10:  # neither depth nor width pays alone
        size = found["balanced"].size
        factors = [old.layers / size.layers, old.hidden / size.hidden, old.intermediate / size.intermediate]
        assert max(factors) / min(factors) < 2


def test_nothing_is_cut_where_nothing_must_be():
    network = big()
    counter = Counter(network)
    for way in WAYS:
        found = choose(network, counter(counter.size), way)
        assert found is not None and found.size == counter.size


def test_depth_is_the_most_layers_that_fit():
    network = big()
    counter = Counter(network)
    found = choose(network, 70_000_000, "depth")
    assert found is not None
    assert found.parameters <= 70_000_000 < counter(replace(found.size, layers=found.size.layers + 1))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "bert-masked"])
def test_the_smallest_is_where_the_choice_ends(name: str, way: str, tokenizer):
    network = make(name, tokenizer).network
    least = smallest(network, way)
    assert choose(network, least - 1, way) is None
    found = choose(network, least, way)
    assert found is not None and found.parameters == least


@pytest.mark.parametrize(("width", "step"), [(576, 32), (1536, 32), (32, 4), (48, 4), (100, 4), (7, 1)])
def test_steps_are_powers_of_two_that_divide(width: int, step: int):
    assert step_of(width) == step


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        ({"ratio": None, "parameters": None}, "give ratio or parameters"),
        ({"ratio": 2.0, "parameters": 5}, "give ratio or parameters"),
        ({"ratio": 0.5, "parameters": None}, "larger than its teacher"),
        ({"ratio": None, "parameters": 10**12}, "not between 1 and the teacher's 134,515,008"),
        ({"ratio": None, "parameters": 0}, "not between 1"),
    ],
)
def test_goals_that_are_none(goal: dict, message: str):
    with pytest.raises(ModelError, match=message):
        target(big(), **goal)


def test_an_unknown_family_is_refused_with_those_known(llama: Model):
    llama.network.config.model_type = "phi"
    with pytest.raises(ModelError, match=r"(?s)of the type 'phi'.*Known: bert, gemma2, .* qwen3, roberta"):
        family_of(llama.network)


def test_a_part_that_a_family_does_not_have_is_refused(llama: Model):
    llama.network.adapter = torch.nn.Linear(2, 2)
    with pytest.raises(ModelError, match=r"a part 'adapter.weight' that is not known of the family Llama"):
        parts_of(llama.network)


def test_layers_that_depend_on_their_number_are_refused(tokenizer):
    model = make("gpt2", tokenizer)
    model.config.scale_attn_by_inverse_layer_idx = True
    with pytest.raises(ModelError, match="scale_attn_by_inverse_layer_idx"):
        parts_of(model.network)
