"""The grid beside a student: what is written is read, the weights lie on it, and it leaves with weights that are trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from shared import make_llama, make_tokenizer
from transformers import AutoModelForCausalLM

from stillhouse import models, recipe, student
from stillhouse.errors import ModelError
from stillhouse.grid import FILE, Grid, read, write
from stillhouse.models import Model


def drawn(bits: int = 4, group: int = 8, seed: int = 0) -> Grid:
    draw = torch.Generator().manual_seed(seed)
    values = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (6, 4 * group), generator=draw, dtype=torch.int8)
    scales = (torch.rand(6, 4, generator=draw) / 64 + 1e-4).half().float()
    return Grid(values, scales, bits, group)


def on_a_grid() -> Model:
    """A tiny model one of whose matrices lies on a grid."""
    made = make_llama(make_tokenizer())
    weight = made.layers[0].mlp.down_proj.weight
    rows, columns = weight.shape
    values = torch.randint(-8, 8, (rows, columns), dtype=torch.int8)
    of = Grid(values, torch.full((rows, columns // 8), 2.0**-6), 4, 8, 8)
    with torch.no_grad():
        weight.copy_(of.dequantise())
    made.grids = {"model.layers.0.mlp.down_proj.weight": of}
    return made


def test_a_weight_is_its_integer_times_the_scale_of_its_group():
    grid = drawn()
    weights = grid.dequantise()
    assert weights.dtype == torch.float32
    for row in range(6):
        for column in range(32):
            assert weights[row, column] == float(grid.values[row, column]) * float(grid.scales[row, column // 8])


def test_what_is_written_is_read(tmp_path: Path):
    grids = {"a.weight": drawn(), "b.weight": drawn(8, 16, seed=1)}
    write(tmp_path, grids)
    found = read(tmp_path)
    assert found.keys() == grids.keys()
    for name, grid in grids.items():
        assert torch.equal(found[name].values, grid.values) and torch.equal(found[name].scales, grid.scales)
        assert (found[name].bits, found[name].group, found[name].activations) == (grid.bits, grid.group, None)
    assert read(tmp_path / "elsewhere") == {}


def test_a_model_carries_it_through_save_and_load_and_stays_an_ordinary_one(tmp_path: Path):
    made = on_a_grid()
    made.save(tmp_path)
    loaded = models.load(str(tmp_path))
    (name,) = loaded.grids
    assert torch.equal(loaded.grids[name].values, made.grids[name].values)
    assert loaded.grids[name].activations == 8
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(plain.get_parameter(name), loaded.grids[name].dequantise())
    assert models.load(str(tmp_path), empty=True).grids == {}


def test_weights_that_are_trained_leave_it(tmp_path: Path):
    made = on_a_grid()
    made.save(tmp_path)
    loaded = models.load(str(tmp_path))
    loaded.learn()
    assert loaded.grids == {}
    cut = student.build(recipe.Student(name="drop_layers", keep=1), models.load(str(tmp_path)))
    assert cut.grids == {}


def test_a_grid_of_other_weights_is_refused(tmp_path: Path):
    made = on_a_grid()
    made.save(tmp_path)
    (grid,) = made.grids.values()
    write(tmp_path, {"model.layers.0.mlp.down_proj.weight": Grid(grid.values, grid.scales * 2, 4, 8)})
    with pytest.raises(ModelError, match=r"(?s)is not the grid of the weights beside it.*Delete it if"):
        models.load(str(tmp_path))


@pytest.mark.parametrize("damage", ["cut", "foreign", "later"])
def test_a_broken_file_is_one_message(damage: str, tmp_path: Path):
    write(tmp_path, {"a.weight": drawn()})
    path = tmp_path / FILE
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    else:
        save_file({"x": torch.zeros(1)}, path, metadata={"format": "stillhouse-grid-9"} if damage == "later" else None)
    with pytest.raises(ModelError, match=r"cannot be read|only stillhouse-grid-1"):
        read(tmp_path)
