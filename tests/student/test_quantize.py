"""Fake quantisation: what is seen while learning is what is written, gradients go straight through, what cannot be is told."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from classifiers import bert, word_pieces
from shared import make_batch, make_llama, make_tokenizer
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

pytest.importorskip("torchao", reason="pip install 'stillhouse[quant]'")

from stillhouse import models, recipe, student
from stillhouse.adapters import Adapter
from stillhouse.errors import ModelError, StillhouseError
from stillhouse.export.compare import logits_of
from stillhouse.models import Model
from stillhouse.objective import Learner, Shape
from stillhouse.recipe import Quantize
from stillhouse.student import quantize

SCHEMES = {
    "int4": {"weights": "int4", "embedding": "int4"},
    "int4, embedding int8": {"weights": "int4"},
    "int8": {"weights": "int8"},
    "int8, a scale a row": {"weights": "int8", "group": "row"},
    "int8 activations, int4": {"weights": "int4", "activations": "int8"},
    "int8 activations, int8": {"weights": "int8", "activations": "int8"},
    "layers alone": {"weights": "int4", "embedding": "float32"},
    "exceptions": {"weights": "int4", "exceptions": {"*.down_proj": "int8", "model.layers.1.*": "float32"}},
}
IDS = list(range(3, 40))


def section(scheme: str) -> Quantize:
    return Quantize.model_validate({"group": 16, **SCHEMES[scheme]})


def learning(scheme: str = "int4", *, tied: bool = True) -> Model:
    made = make_llama(make_tokenizer(), tied=tied)
    made.learn()
    quantize.attach(made, section(scheme))
    return made


def nearest(row: list[float], bits: int) -> tuple[list[int], float]:
    """One group by the definition: integers and the scale, which a format of few bits must hold."""
    kept = torch.bfloat16 if bits == 4 else torch.float16
    scale = float(torch.tensor(max(max(map(abs, row)) / ((2**bits - 1) / 2), 2.0**-15)).to(kept))
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return [min(max(round(float(torch.tensor(x) * torch.tensor(1 / scale))), low), high) for x in row], scale


# -- contracts: over all schemes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_was_seen_is_what_is_written_and_loaded(scheme: str, tied: bool, tmp_path: Path):
    made = learning(scheme, tied=tied)
    seen = logits_of(made, IDS)
    names = [name for name, _ in made.network.named_parameters()]
    made.settle()
    assert [name for name, _ in made.network.named_parameters()] == names
    assert float((logits_of(made, IDS) - seen).abs().max()) == 0.0
    made.save(tmp_path)
    again = models.load(str(tmp_path))
    assert float((logits_of(again, IDS) - seen).abs().max()) == 0.0
    assert again.grids.keys() == made.grids.keys()
    for name, weight in AutoModelForCausalLM.from_pretrained(tmp_path).named_parameters():
        if name in made.grids:
            assert torch.equal(weight, made.grids[name].dequantise()), name


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_grid_has_the_shape_that_was_foreseen(scheme: str):
    made, shape = learning(scheme), make_llama(make_tokenizer())
    quantize.foresee(section(scheme), shape)
    made.settle()
    assert made.grids.keys() == shape.grids.keys() and made.grids
    for name, grid in made.grids.items():
        foreseen = shape.grids[name]
        assert foreseen.values.is_meta and grid.values.dtype == torch.int8
        assert grid.values.shape == foreseen.values.shape and grid.scales.shape == foreseen.scales.shape
        assert (grid.bits, grid.group, grid.activations) == (foreseen.bits, foreseen.group, foreseen.activations)
        low, high = -(2 ** (grid.bits - 1)), 2 ** (grid.bits - 1) - 1
        assert low <= int(grid.values.min()) and int(grid.values.max()) <= high
        assert torch.equal(grid.scales.half().float(), grid.scales), "GGUF keeps scales in float16"
        if grid.bits == 4:
            assert torch.equal(grid.scales.bfloat16().float(), grid.scales), "XNNPACK keeps them in bfloat16"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_matrix_gets_a_gradient_and_parameters_stay_the_same_ones(scheme: str):
    made = make_llama(make_tokenizer())
    made.learn()
    before = {name: id(p) for name, p in made.network.named_parameters()}
    draws = torch.random.get_rng_state()
    quantize.attach(made, section(scheme))
    assert torch.equal(torch.random.get_rng_state(), draws)
    assert {name: id(p) for name, p in made.network.named_parameters()} == before
    batch = make_batch([9, 14], made.outcomes)
    loss, _ = Learner(made, recipe.Objective(alpha=0.0), 10)(batch, None, 20.0, 5)
    loss.backward()
    for name, parameter in made.network.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
        assert float(parameter.grad.abs().max()) > 0, name


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_chunked_head_agrees_with_logits_of_the_whole_network(scheme: str):
    """Loss and gradient of every weight: ours a few positions at a time, against transformers' forward and autograd."""
    batch = make_batch([12], 60)
    made = learning(scheme)
    made.train()
    loss, _ = Learner(made, recipe.Objective(alpha=0.0, chunk=5), 10)(batch, None, 1.0, 9)
    loss.backward()
    loss = loss.detach()
    ours = {name: p.grad.clone() for name, p in made.network.named_parameters()}
    made.zero_grad()
    made.network.set_attn_implementation("eager")
    logits = made.network(input_ids=batch.input_ids_P[None], use_cache=False).logits[0]
    theirs = torch.nn.functional.cross_entropy(logits[batch.select_N], batch.labels_N, reduction="sum")
    theirs.backward()
    theirs = theirs.detach()
    # a number at the border between two integers may fall to either side in another order of summation
    assert float(loss) == pytest.approx(float(theirs), rel=2e-2 if "activations" in scheme else 1e-5)
    for name, p in made.network.named_parameters():
        similar = torch.nn.functional.cosine_similarity(ours[name].flatten(), p.grad.flatten(), dim=0)
        assert float(similar) > (0.98 if "activations" in scheme else 0.99999), name


# -- the rounding by its definition -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [4, 8])
def test_integers_and_scales_are_those_of_the_definition(bits: int):
    made = learning("int4" if bits == 4 else "int8")
    weight = made.layers[0].mlp.up_proj.weight.detach().clone()
    made.settle()
    grid = made.grids["model.layers.0.mlp.up_proj.weight"]
    for row in range(0, weight.shape[0], 7):
        for group in range(weight.shape[1] // 16):
            integers, scale = nearest(weight[row, 16 * group : 16 * group + 16].tolist(), bits)
            assert grid.values[row, 16 * group : 16 * group + 16].tolist() == integers
            assert float(grid.scales[row, group]) == scale


def test_torchao_itself_converts_to_nearly_the_same_grid():
    """It differs in that it does not keep scales in few bits."""
    from torchao.quantization import IntxWeightOnlyConfig, PerGroup, quantize_

    made = learning("int4")
    linear = torch.nn.Linear(32, 48, bias=False)
    weight = made.layers[0].mlp.up_proj.weight.detach()
    linear.weight = torch.nn.Parameter(weight.clone())
    quantize_(
        linear, IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(16), scale_dtype=torch.float16)
    )
    made.settle()
    grid = made.grids["model.layers.0.mlp.up_proj.weight"]
    torch.testing.assert_close(linear.weight.scale.reshape(48, 2).float(), grid.scales, rtol=2**-8, atol=0)
    assert (linear.weight.qdata != grid.values).float().mean() < 0.02


def test_the_gradient_goes_straight_through_where_nothing_is_clipped():
    """d loss / d W is d loss / d W' of the rounded matrix W', but 0 where a number is beyond the last integer."""
    made = learning("int4")
    layer = made.layers[1].mlp.gate_proj
    x = torch.randn(5, 32)
    out = layer(x)
    pull = torch.randn_like(out)
    out.backward(pull)
    rounded = layer.weight_fake_quantizer(layer.weight.detach())
    want = pull.T @ x
    scale = layer.weight_fake_quantizer.scale.repeat_interleave(16, 1)
    clipped = (layer.weight.detach() * (1.0 / scale)).round() > 7
    assert bool(clipped.any()) and torch.equal(rounded[clipped], (7 * scale)[clipped])
    torch.testing.assert_close(layer.weight.grad, torch.where(clipped, 0.0, want))


def test_a_tied_matrix_is_rounded_once_and_learns_from_both_ends():
    made = learning("int4")
    embedding, head = made.network.get_input_embeddings(), made.head_layer
    assert embedding.weight is head.weight
    table = head.weight_fake_quantizer(head.weight).detach()
    assert torch.equal(embedding(torch.arange(made.outcomes)).detach(), table)
    made.settle()
    assert made.head_layer.weight is made.network.get_input_embeddings().weight
    assert torch.equal(made.head_layer.weight, table)
    assert "lm_head.weight" not in made.grids


def test_inputs_are_rounded_between_their_least_and_largest():
    made = learning("int8 activations, int8")
    layer = made.layers[0].mlp.up_proj
    x = torch.randn(3, 32) * torch.tensor([[1.0], [100.0], [0.01]])
    rounded = layer.activation_fake_quantizer(x)
    for row, seen in zip(x, rounded, strict=True):
        step = (max(float(row.max()), 0.0) - min(float(row.min()), 0.0)) / 255
        assert float((row - seen).abs().max()) <= step * 0.51
        assert all(math.isclose(v, round(v), abs_tol=1e-2) for v in (seen / step).tolist())


# -- when ---------------------------------------------------------------------------------------------------------------


def test_it_rounds_after_its_share_of_the_steps_and_always_where_it_is_measured():
    plain = make_llama(make_tokenizer())
    made = copy.deepcopy(plain)
    made.learn()
    quantize.attach(made, Quantize(group=16, after=0.5))
    learner, exact = Learner(made, recipe.Objective(alpha=0.0), 11), Learner(plain, recipe.Objective(alpha=0.0), 11)
    batch = make_batch([12, 8], made.outcomes)

    def value(of: Learner, step: int, training: bool) -> float:
        of.train(training)
        return float(of(batch, None, 20.0, step)[0].detach())

    assert value(learner, 0, True) == value(learner, 4, True) == value(exact, 0, True)
    assert value(learner, 5, True) == value(learner, 10, True) != value(exact, 0, True)
    assert value(learner, 0, False) == value(learner, 10, False) == value(learner, 5, True)


def test_it_writes_with_rounded_matrices_and_learns_on_with_its_own():
    made = learning("int4")
    weights = {name: p.detach().clone() for name, p in made.network.named_parameters()}
    made.train()
    made.progress, made.rounding.after = 0.0, 0.9  # still warming up
    with made.generating() as network, torch.no_grad():
        written = network(input_ids=torch.tensor([IDS])).logits[0]
    for name, p in made.network.named_parameters():
        assert torch.equal(p, weights[name]), name
    made.settle()
    torch.testing.assert_close(written, logits_of(made, IDS), atol=1e-4, rtol=1e-4)


# -- other models -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activations", ["float32", "int8"])
def test_a_classifier_too(activations: str, tmp_path: Path):
    tokenizer = word_pieces()
    made = Model(bert(tokenizer, "ForSequenceClassification", num_labels=3), tokenizer, "reader")
    made.learn()
    quantize.attach(made, Quantize(group=16, activations=activations))
    seen = logits_of(made, [2, 5, 6, 7, 3])
    made.settle()
    made.save(tmp_path)
    torch.testing.assert_close(logits_of(models.load(str(tmp_path)), [2, 5, 6, 7, 3]), seen, atol=1e-6, rtol=1e-6)
    assert {"bert.embeddings.word_embeddings.weight", "classifier.weight"} <= made.grids.keys()


def test_hidden_states_are_matched_through_rounded_layers():
    teacher = make_llama(make_tokenizer(), seed=1)
    made = learning("int8 activations, int4")
    objective = recipe.Objective(terms=({"name": "hidden_mse", "weight": 1.0, "layers": "uniform"},), alpha=0.0)
    learner = Learner(made, objective, 5, shape=Shape.of(teacher))
    batch = make_batch([9], made.outcomes)
    hidden_NH, layers = teacher(batch, frozenset({"hidden"}))
    from stillhouse.types import Signal

    loss, _ = learner(batch, Signal(layers=layers, logits_NV=teacher.head.logits(hidden_NH)), 9.0, 3)
    loss.backward()
    assert float(made.layers[0].mlp.up_proj.weight.grad.abs().max()) > 0


def test_what_is_made_from_a_quantised_student_is_free_again(tmp_path: Path):
    made = learning("int8 activations, int4")
    made.settle()
    made.save(tmp_path)
    base = models.load(str(tmp_path))
    assert base.rounding is not None
    cut = student.build(recipe.Student(name="drop_layers", keep=1), base)
    assert cut.rounding is None and cut.grids == {}
    assert type(cut.layers[0].mlp.up_proj) is torch.nn.Linear
    again = models.load(str(tmp_path))
    again.learn()
    assert again.rounding is None and again.grids == {}


# -- what cannot be -----------------------------------------------------------------------------------------------------


def refused(model: Model, **options: object) -> str:
    with pytest.raises(ModelError) as caught:
        quantize.foresee(Quantize.model_validate(options), model)
    return str(caught.value)


def test_all_that_cannot_be_quantised_is_told_at_once():
    text = refused(make_llama(make_tokenizer()), group=64, exceptions={"*.dwn_proj": "int8", "lm_head": "int4"})
    assert "64 does not divide the 32 inputs of" in text and "64 does not divide the 48 inputs of" in text
    assert "Take 16, or keep them" in text
    assert "no matrix is called '*.dwn_proj'" in text and "*.down_proj" in text
    assert "lm_head'" not in text


def test_models_and_adapters_that_cannot_be_rounded_are_refused():
    tokenizer = make_tokenizer()
    gpt2 = Model(
        GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2)), tokenizer, "old"
    )
    assert "keeps its matrices turned around" in refused(gpt2, group=16)
    adapted = make_llama(tokenizer)
    adapted.adapter = Adapter(2, 4.0, ("model.layers.0.mlp.up_proj",))
    assert "adapters are products" in refused(adapted, group=16)
    everything = {"weights": "float32", "embedding": "float32"}
    assert "rounds nothing" in refused(make_llama(tokenizer), **everything)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"weights": "int3"}, "student.quantize.weights"),
        ({"groups": 32}, "did you mean"),
        ({"group": 1}, "group is a number from 2, or row, not 1"),
        ({"group": "x"}, "student.quantize.group: cannot be 'x'"),
        ({"after": 1.0}, "student.quantize.after"),
        ({"exceptions": {"a": "int5"}}, "student.quantize.exceptions"),
    ],
)
def test_a_wrong_option_is_told_before_anything_is_loaded(options: dict, says: str):
    content = {
        "data": {"sources": {"name": "python_docs"}},
        "teacher": "somewhere",
        "student": {"name": "drop_layers", "keep": 2, "quantize": options},
    }
    with pytest.raises(StillhouseError) as caught:
        recipe.parse(content)
    assert says.lower() in str(caught.value).lower()


def test_without_torchao_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(quantize.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"stillhouse\[quant\]"):
        quantize.check_installed()
