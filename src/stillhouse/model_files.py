"""What a model folder's files hold, checked against what was read of them, before anything is made of the weights.

A folder may lie in ways that no loader notices: pickled weights, a rope base that this version of transformers reads as its
default, an embedding that is tied in the configuration and not in the file. Such a model would run, and talk nonsense.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from stillhouse.errors import ModelError, fail


def check_folder(folder: Path, where: str) -> None:
    """Refuse a folder that holds no model, or only pickled weights."""
    if not (folder / "config.json").is_file():
        raise fail(ModelError, where, f"'{folder}' holds no config.json", "Give the folder that save_pretrained wrote.")
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise fail(ModelError, f"{folder}/config.json", f"is not JSON: {error}") from None
    if not list(folder.glob("*.safetensors")):
        pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in folder.glob(pattern))
        what = f"holds its weights as a pickle ({pickles[0]}), which can run code" if pickles else "holds no weights"
        raise fail(
            ModelError,
            where,
            f"'{folder}' {what}",
            "Save it with save_pretrained, which writes model.safetensors, on a machine where you trust the file.",
        )


def _rope_bases(values: Any) -> set[float]:
    """All rope bases that nested settings name, under the names that old and new versions give them."""
    if isinstance(values, list):
        return set().union(*(_rope_bases(v) for v in values))
    if not isinstance(values, dict):
        return set()
    names = ("rope_theta", "rotary_emb_base", "rope_local_base_freq")
    found = {float(values[name]) for name in names if isinstance(values.get(name), int | float)}
    return found.union(*(_rope_bases(v) for v in values.values()))


def check_rope(folder: Path, config: PreTrainedConfig, where: str) -> None:
    """Refuse a model whose rope base on disk is not the one that was read: it would run, and talk nonsense."""
    written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    on_disk, read = _rope_bases(written), _rope_bases(getattr(config, "rope_parameters", None))
    if on_disk and not on_disk <= read:
        raise fail(
            ModelError,
            where,
            f"'{folder}' was written by transformers {written.get('transformers_version', '?')} with the rope base "
            f"{sorted(on_disk)}, but this version reads {sorted(read) or 'none'}",
            "Load and save it once with the version that wrote it, or write rope_parameters: {rope_theta: …} into config.json.",
        )


def check_tie(folder: Path, network: PreTrainedModel, where: str) -> None:
    """Refuse a file with other matrices for embedding and head than its configuration says: one would be dropped or drawn."""
    embedding, head = network.get_input_embeddings(), network.get_output_embeddings()
    names = {id(module): f"{name}.weight" for name, module in network.named_modules()}
    if id(embedding) not in names or id(head) not in names or not hasattr(head, "weight"):
        return
    files = {name: file for file in folder.glob("*.safetensors") for name in _names_in(file)}
    first, last = names[id(embedding)], names[id(head)]
    if first not in files:  # named otherwise, as files of some other versions and of trunks alone are
        return
    tied = bool(network.config.get_text_config().tie_word_embeddings)
    renamed = files.keys() - network.state_dict().keys()  # some other versions' files name the head otherwise
    if not tied and last not in files and not renamed:
        what = f"'{folder}' says that embedding and head are two matrices, and holds no '{last}'"
        raise fail(ModelError, where, what, 'Write "tie_word_embeddings": true into config.json if they are one.')
    if tied and last in files and not torch.equal(_read(files[first], first), _read(files[last], last)):
        what = f"'{folder}' says that embedding and head are one matrix, and holds two that differ"
        raise fail(ModelError, where, what, 'Write "tie_word_embeddings": false into config.json if they are two.')


def _names_in(file: Path) -> list[str]:
    with safe_open(file, "pt") as opened:
        return list(opened.keys())


def _read(file: Path, name: str) -> Tensor:
    with safe_open(file, "pt") as opened:
        found: Tensor = opened.get_tensor(name)
        return found


def write_old_rope_keys(path: Path) -> None:
    """Write the rope base the old way too: transformers 4 looks only there and would silently take 10,000."""
    written = json.loads(path.read_text(encoding="utf-8"))
    parameters = written.get("rope_parameters")
    if isinstance(parameters, dict) and "rope_theta" in parameters and "rope_theta" not in written:
        written["rope_theta"] = parameters["rope_theta"]
        path.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n", encoding="utf-8")
