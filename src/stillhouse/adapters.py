"""Low-rank adapters: what is trained in place of a model's matrices, and merged into them when it is done.

A matrix W [O, I] becomes W + alpha / rank · B A with B [O, rank] and A [rank, I], of which only A and B learn (LoRA, Hu et al.
2021, arXiv:2106.09685). B starts at zero, so that nothing is changed at first. The layers are those of ``peft``.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from stillhouse.errors import ModelError, fail
from stillhouse.files import write_json

_FILE = "adapter.json"


@dataclass(frozen=True)
class Adapter:
    """What to train in place of a model's weights.

    Args:
        rank: of the product that is added to each matrix.
        alpha: the product is multiplied by alpha / rank.
        modules: names of the linear layers it is added to, in the network.

    """

    rank: int
    alpha: float
    modules: tuple[str, ...]

    def parameters_count(self, network: PreTrainedModel) -> int:
        """Parameters of all its products in a network that does not have it yet."""
        return sum(self.rank * sum(network.get_submodule(name).weight.shape) for name in self.modules)

    def write(self, folder: Path) -> None:
        """Keep it beside a model's weights."""
        write_json(folder / _FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Adapter | None:
        """What lies beside a model's weights, if anything does."""
        if not (folder / _FILE).is_file():
            return None
        found: dict[str, Any] = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        return cls(found["rank"], found["alpha"], tuple(found["modules"]))


def check_installed() -> None:
    """Refuse where there is no ``peft``.

    Raises:
        ModelError: it is not installed.

    """
    if importlib.util.find_spec("peft") is None:
        raise fail(
            ModelError, "student", "adapters are made by peft, which is not installed", "pip install 'stillhouse[lora]'"
        )


def attach(network: PreTrainedModel, adapter: Adapter, seed: int) -> None:
    """Put an adapter into a network, in place; nothing else of it is trained any more.

    Args:
        network: without one.
        adapter: which.
        seed: of the matrices A.

    Raises:
        ModelError: there is no ``peft``.

    """
    check_installed()
    from peft import LoraConfig, get_peft_model

    transposed = any(isinstance(network.get_submodule(name), Conv1D) for name in adapter.modules)
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        target_modules=list(adapter.modules),
        fan_in_fan_out=transposed,
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, on what peft asks it
        torch.manual_seed(seed)
        get_peft_model(network, config)


def merge(network: PreTrainedModel) -> None:
    """Add an adapter's products to the matrices and take it out, in place: an ordinary network is left.

    Args:
        network: with an adapter.

    """
    from peft.tuners.lora import LoraLayer

    for name, module in list(network.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge(safe_merge=True)
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, module.get_base_layer())
    del network.peft_config
