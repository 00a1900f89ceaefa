"""Weights of few bits that the student sees while it learns, so that writing it in few bits loses nothing more.

While it is trained, every chosen matrix W is seen rounded (fake quantisation), and the gradient goes to W itself as if it had
not been rounded (straight-through, Bengio et al. 2013, arXiv:1308.3432, §2)::

    scale_g = 2 max |W_g| / (2^bits − 1)      of each group g of neighbours in a row, as bfloat16 or float16
    W'      = clip(round(W / scale_g), −2^(bits−1), 2^(bits−1) − 1) · scale_g

and, where activations are 8 bits, each token's input likewise between its least and largest number (Jacob et al. 2018,
arXiv:1712.05877, §3). The rounding is torchao's. Afterwards the weights are what they were seen as, and their integers and
scales are the student's ``grids``.
"""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from stillhouse.errors import ModelError, Problem, did_you_mean, fail
from stillhouse.grid import Grid
from stillhouse.recipe import Quantize

if TYPE_CHECKING:
    from stillhouse.models import Model

_BITS = {"int4": 4, "int8": 8}
_SCALES = {4: torch.bfloat16, 8: torch.float16}
"""What scales are rounded to: GGUF keeps them in float16, XNNPACK those of 4 bits in bfloat16. From the least scale on, what
bfloat16 holds float16 holds too."""
_LEAST_SCALE = 2.0**-15


@dataclass(frozen=True)
class _Matrix:
    """A matrix that is to be rounded.

    Args:
        layers: names of the layers that use it, more than one if it is embedding and head at once.
        bits: 4 or 8.
        group: weights of a row that share a scale.

    """

    layers: tuple[str, ...]
    bits: int
    group: int


class Rounding:
    """The fake quantisers in a network.

    Args:
        layers: torchao's layers, by name.
        after: share of the steps that are taken before any of them rounds.

    """

    def __init__(self, layers: dict[str, Any], after: float = 0.0) -> None:
        self.layers, self.after = layers, after

    def switch(self, on: bool) -> None:
        """Let all round, or none."""
        for layer in self.layers.values():
            for quantiser in (layer.weight_fake_quantizer, getattr(layer, "activation_fake_quantizer", None)):
                if quantiser is not None:
                    quantiser.enabled = on

    @contextmanager
    def held(self) -> Iterator[None]:
        """Round all now, and matrices not again: for reading many tokens one by one with the same weights."""
        self.switch(True)
        found = _rounded(self)
        was = {id(weight): weight.data for weight, _, _ in found}
        for weight, rounded, _ in found:
            weight.data = rounded
        for layer in self.layers.values():
            if layer.weight_fake_quantizer is not None:
                layer.weight_fake_quantizer.enabled = False
        try:
            yield
        finally:
            for weight, _, _ in found:
                weight.data = was[id(weight)]
            self.switch(True)


def check_installed() -> None:
    """Refuse where there is no ``torchao``.

    Raises:
        ModelError: it is not installed.

    """
    if importlib.util.find_spec("torchao") is None:
        what = "is done by torchao, which is not installed"
        raise fail(ModelError, "student.quantize", what, "pip install 'stillhouse[quant]'")


def foresee(section: Quantize | None, model: Model) -> None:
    """Give a model that is not trained yet the grids that it will have, without their numbers.

    Args:
        section: the recipe's; None for none.
        model: it may be without weights.

    Raises:
        ModelError: all that cannot be quantised as asked.

    """
    model.grids = {}
    if section is None:
        return
    names = _names(model.network)
    for matrix in _plan(section, model):
        weight = model.network.get_submodule(matrix.layers[0]).weight
        rows, columns = weight.shape
        with torch.device("meta"):
            values = torch.empty(rows, columns, dtype=torch.int8)
            scales = torch.empty(rows, columns // matrix.group)
        inputs = 8 if section.activations == "int8" and _multiplies(model, matrix) else None
        model.grids[names[id(weight)]] = Grid(values, scales, matrix.bits, matrix.group, inputs)


def attach(model: Model, section: Quantize) -> None:
    """Put fake quantisers into a model that is about to learn, in place; its parameters stay what and where they are.

    Args:
        model: with its weights in float32.
        section: what to round, and how.

    Raises:
        ModelError: there is no ``torchao``, or something cannot be quantised as asked.

    """
    plan = _plan(section, model)
    check_installed()
    torchao = _torchao()
    layers = {}
    for matrix in plan:
        weights = torchao.IntxFakeQuantizeConfig(
            torch.int8 if matrix.bits == 8 else torch.int4,  # type: ignore[attr-defined]
            group_size=matrix.group,
            is_symmetric=True,
            is_dynamic=False,  # scales are given to it
        )
        for name in matrix.layers:
            layers[name] = _replaced(model, name, weights, inputs=section.activations == "int8")
    model.rounding = Rounding(layers, section.after)


@torch.no_grad()
def convert(model: Model) -> None:
    """Let a model be what it was seen as, in place: its weights lie on their grids, which it carries.

    Args:
        model: with fake quantisers.

    """
    rounding = model.rounding
    assert rounding is not None
    rounding.switch(True)
    names = _names(model.network)
    grids = {}
    for weight, rounded, layers in _rounded(rounding):
        scales = layers[0].weight_fake_quantizer.scale.detach().float().clone()
        rows, columns = weight.shape
        group = columns // scales.shape[1]
        integers = (rounded.view(rows, -1, group) / scales[:, :, None]).round().to(torch.int8).view(rows, columns)
        bits = 8 if layers[0].weight_fake_quantizer.config.dtype == torch.int8 else 4
        inputs = 8 if any(getattr(each, "activation_fake_quantizer", None) for each in layers) else None
        grid = Grid(integers, scales, bits, group, inputs)
        assert torch.equal(grid.dequantise(), rounded)
        weight.copy_(grid.dequantise())  # a zero has no sign on the grid
        grids[names[id(weight)]] = grid
    strip(model)
    model.grids = grids
    round_inputs(model)


def round_inputs(model: Model) -> None:
    """Let a model whose weights lie on their grids round the inputs of those matrices that were trained so, in place.

    Args:
        model: with its grids.

    Raises:
        ModelError: there is no ``torchao``, and inputs are to be rounded.

    """
    rounded = {name for name, grid in model.grids.items() if grid.activations is not None}
    if not rounded:
        return
    check_installed()
    names = _names(model.network)
    linear = [name for name, layer in model.network.named_modules() if isinstance(layer, nn.Linear)]
    layers = {
        name: _replaced(model, name, None, inputs=True)
        for name in linear
        if names[id(model.network.get_submodule(name).weight)] in rounded
    }
    model.rounding = Rounding(layers)


def strip(model: Model) -> None:
    """Take all fake quantisers out of a model, in place; weights and grids stay.

    Args:
        model: with fake quantisers or without.

    """
    with torch.random.fork_rng(devices=[]):  # torchao draws weights, which are thrown away
        for name, layer in list(model.network.named_modules()):
            if hasattr(layer, "weight_fake_quantizer"):
                ordinary = layer.to_embedding() if isinstance(layer, nn.Embedding) else layer.to_linear()  # type: ignore[operator]
                model.network.set_submodule(name, ordinary.train(layer.training))
    model.rounding = None


def _plan(section: Quantize, model: Model) -> list[_Matrix]:
    """What is rounded to how many bits.

    Raises:
        ModelError: all that cannot be.

    """
    where = "student.quantize"
    problems = []
    if model.adapter is not None:
        what = "rounds matrices, and adapters are products that are added to them afterwards"
        problems.append(Problem(where, what, "Train the adapters in a stage before: {teaches: false}."))
    if any(isinstance(layer, Conv1D) for layer in model.network.modules()):
        what = f"a {type(model.network).__name__} keeps its matrices turned around, which torchao does not round"
        problems.append(Problem(where, what, "Leave quantize out."))
    last = None if model.bare else model.head_layer
    users: defaultdict[int, list[str]] = defaultdict(list)
    known = {n: layer for n, layer in model.network.named_modules() if isinstance(layer, nn.Linear | nn.Embedding)}
    for name, layer in known.items():
        users[id(layer.weight)].append(name)
    for pattern in section.exceptions:
        if not any(fnmatchcase(name, pattern) for name in known):
            shown = did_you_mean(pattern, sorted({f"*.{name.rpartition('.')[2]}" for name in known} | set(known)))
            problems.append(Problem(f"{where}.exceptions", f"no matrix is called '{pattern}'", shown))
    plan = []
    odd: defaultdict[int, list[str]] = defaultdict(list)
    for names in users.values():
        layers = [known[name] for name in names]
        outer = any(isinstance(layer, nn.Embedding) or layer is last for layer in layers)
        precision = section.embedding if outer else section.weights
        for pattern, exception in section.exceptions.items():
            precision = exception if any(fnmatchcase(name, pattern) for name in names) else precision
        if precision == "float32":
            continue
        columns = layers[0].weight.shape[1]
        group = columns if section.group == "row" else section.group
        if columns % group:
            odd[columns] += names
        for name, layer in zip(names, layers, strict=True):
            if type(layer) not in (nn.Linear, nn.Embedding):
                what = f"'{name}' is a {type(layer).__name__}, which computes more than the layers that torchao rounds"
                problems.append(Problem(where, what, f"Write exceptions: {{{name}: float32}}."))
        plan.append(_Matrix(tuple(names), _BITS[precision], group))
    for columns, names in odd.items():
        fitting = [size for size in (16, 32, 64, 128, 256) if all(width % size == 0 for width in odd)]
        what = f"{section.group} does not divide the {columns} inputs of '{names[0]}'"
        what += f" and {len(names) - 1} more" if len(names) > 1 else ""
        way_out = f"Take {' or '.join(map(str, fitting)) or 'row'}, or keep them: exceptions: {{{names[0]}: float32}}."
        problems.append(Problem(f"{where}.group", what, way_out))
    if not plan and not problems:
        problems.append(Problem(where, "rounds nothing: all matrices are exceptions", "Leave quantize out."))
    if problems:
        raise ModelError(*problems)
    return plan


def _multiplies(model: Model, matrix: _Matrix) -> bool:
    """Whether it multiplies something, and is not only looked up in."""
    return any(isinstance(model.network.get_submodule(name), nn.Linear) for name in matrix.layers)


def _names(network: nn.Module) -> dict[int, str]:
    return {id(parameter): name for name, parameter in network.named_parameters()}


def _rounded(rounding: Rounding) -> list[tuple[nn.Parameter, Tensor, list[Any]]]:
    """Of each matrix that is rounded, once: itself, as it is seen, and the layers that use it."""
    users: defaultdict[int, list[Any]] = defaultdict(list)
    for layer in rounding.layers.values():
        if layer.weight_fake_quantizer is not None:
            users[id(layer.weight)].append(layer)
    with torch.no_grad():
        return [(each[0].weight, each[0].weight_fake_quantizer(each[0].weight), each) for each in users.values()]


def _replaced(model: Model, name: str, weights: Any, *, inputs: bool) -> nn.Module:
    """Put torchao's layer in the place of an ordinary one; it has the same parameters."""
    torchao = _torchao()
    old = model.network.get_submodule(name)
    with torch.random.fork_rng(devices=[]):  # torchao draws weights, which are thrown away
        if isinstance(old, nn.Embedding):
            new = torchao.Embedding(*old.weight.shape, old.padding_idx, weight_config=weights, _weight=old.weight)
        else:
            tokens = torchao.IntxFakeQuantizeConfig(torch.int8, "per_token", is_symmetric=False) if inputs else None
            new = torchao.FakeQuantizedLinear.from_linear(old, tokens, weights)
    new.weight = old.weight
    if weights is not None:
        new.weight_fake_quantizer = torchao.Weights(weights)
    new.train(old.training)
    model.network.set_submodule(name, new)
    return new  # type: ignore[no-any-return]


@cache
def _torchao() -> SimpleNamespace:
    """What is used of torchao."""
    from torchao.quantization.qat import (
        FakeQuantizedEmbedding,
        FakeQuantizedLinear,
        IntxFakeQuantizeConfig,
        IntxFakeQuantizer,
    )
    from torchao.quantization.utils import get_group_qparams_symmetric

    class Weights(IntxFakeQuantizer):  # type: ignore[misc]
        """torchao's, with scales that formats of few bits hold exactly; torchao would divide by them in their own precision."""

        def forward(self, weight: Tensor) -> Tensor:
            if self.enabled:
                bits = 8 if self.config.dtype == torch.int8 else 4
                scale, zero = get_group_qparams_symmetric(weight, bits, self.config.group_size, eps=_LEAST_SCALE)
                self.scale, self.zero_point = scale.to(_SCALES[bits]).float(), zero.int()
            rounded: Tensor = super().forward(weight)
            return rounded

    class Embedding(FakeQuantizedEmbedding):  # type: ignore[misc]
        """torchao's, but of a table of all words it rounds only the rows that are looked up: no group is in two rows."""

        def forward(self, ids: Tensor) -> Tensor:
            rows_PH = nn.functional.embedding(ids.flatten(), self.weight, self.padding_idx)
            rounded_PH: Tensor = self.weight_fake_quantizer(rows_PH)
            return rounded_PH.view(*ids.shape, -1)

    return SimpleNamespace(
        IntxFakeQuantizeConfig=IntxFakeQuantizeConfig,
        FakeQuantizedLinear=FakeQuantizedLinear,
        Embedding=Embedding,
        Weights=Weights,
    )
