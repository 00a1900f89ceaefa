"""The grid of a quantised student: the integers and scales that its weights are exactly, beside those weights.

A student that was trained for a grid is kept as an ordinary model: its ``model.safetensors`` holds float32 weights, each of
which is an integer times the scale of its group, so that ``from_pretrained`` gives the quantised student as it is. Rounding
such weights once more, by another rule than they were trained for, would move them; whoever writes them in few bits copies the
integers and scales that lie in ``grid.safetensors`` instead.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from stillhouse.errors import ModelError, fail
from stillhouse.files import write_bytes

FILE = "grid.safetensors"
"""Name of the file in a student's folder."""

_KEY = "grid"
_FORMAT = "stillhouse-grid-1"
_AGAIN = "Delete it if the weights were trained further since; else fetch the folder again."


@dataclass(frozen=True)
class Grid:
    """A matrix of integers with a scale for each group of neighbours in a row: the weight is integer · scale.

    There is no zero point: the integer 0 is the weight 0. All scales are numbers of float16, in which GGUF keeps them, and those of 4
    bits of bfloat16, in which XNNPACK does.

    Args:
        values: [out, in], int8, each from −2^(bits−1) to 2^(bits−1) − 1.
        scales: [out, in / group], float32.
        bits: 4 or 8.
        group: weights of a row that share a scale.
        activations: bits that the matrix's input is rounded to, token by token as it comes; None where it stays float.

    """

    values: Tensor
    scales: Tensor
    bits: int
    group: int
    activations: int | None = None

    def dequantise(self) -> Tensor:
        """The weights, [out, in], float32."""
        rows, columns = self.values.shape
        grouped = self.values.float().view(rows, columns // self.group, self.group)
        return (grouped * self.scales[:, :, None]).view(rows, columns)


def write(folder: Path, grids: Mapping[str, Grid]) -> None:
    """Keep grids beside a student's weights.

    Args:
        folder: the student's.
        grids: by name of the parameter; a matrix that is embedding and head at once has the name that ``named_parameters``
            gives it.

    Raises:
        OSError: it cannot be written.

    """
    tensors = {f"{name}.values": grid.values.contiguous() for name, grid in grids.items()}
    tensors |= {f"{name}.scales": grid.scales.contiguous() for name, grid in grids.items()}
    facts = {name: {"bits": g.bits, "group": g.group, "activations": g.activations} for name, g in grids.items()}
    # one entry: safetensors writes several in an order that differs from process to process, and files of equal runs are equal
    write_bytes(folder / FILE, save(tensors, {_KEY: json.dumps({"format": _FORMAT, "matrices": facts})}))


def read(folder: Path) -> dict[str, Grid]:
    """The grids that lie beside a student's weights, by name of the parameter; none where it was not trained for one.

    Args:
        folder: the student's.

    Raises:
        ModelError: the file is broken, or of a later version.

    """
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {}).get(_KEY, "{}"))
            if facts.get("format") != _FORMAT:
                what = f"is of the kind '{facts.get('format')}', and only {_FORMAT} is known here"
                raise fail(ModelError, str(path), what, "Read it with the version of Stillhouse that wrote it.")
            return {
                name: Grid(file.get_tensor(f"{name}.values"), file.get_tensor(f"{name}.scales"), **each)
                for name, each in facts["matrices"].items()
            }
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise fail(ModelError, str(path), f"cannot be read: {error}", _AGAIN) from error


def of_weights(folder: Path, network: nn.Module) -> dict[str, Grid]:
    """As ``read``, for weights that were loaded from the same folder.

    Args:
        folder: the student's.
        network: with its weights, float32.

    Raises:
        ModelError: the file is broken, or is not the grid of these weights.

    """
    grids = read(folder)
    weights = dict(network.named_parameters())
    for name, grid in grids.items():
        if name not in weights or not torch.equal(weights[name].detach(), grid.dequantise()):
            raise fail(ModelError, str(folder / FILE), f"is not the grid of the weights beside it ({name})", _AGAIN)
    return grids
