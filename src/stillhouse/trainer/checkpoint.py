"""The whole state of the loop on disk, so that a run that was interrupted anywhere ends as if it had not been.

A checkpoint is one folder that needs nothing outside itself (but weights that are not trained, where adapters are: those
are in the run's ``before/``)::

    checkpoints/step-00000050/
      state/*.safetensors    weights (trained ones, tied ones once) and optimiser moments: model.<name>, optim.<name>.exp_avg …
      best/*.safetensors     weights of the best validation so far: best.<name>; only if they are kept
      rng-00000.safetensors  the random generators of each process
      state.json             where the loop stands, what it was made from, how it computes
      manifest.json          size and SHA-256 of every other file; written last

It is filled under a temporary name, made durable, and then renamed; the last two are kept. No file is a pickle.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from stillhouse.errors import RunError, fail
from stillhouse.files import sha256_file, sync_folder, write_json
from stillhouse.trainer.distributed import Ranks, barrier, from_main, load_tensors, save_tensors, stored, together

SCHEMA = 1
"""Version of the layout above."""
KEEP = 2
"""Checkpoints kept: one more than needed, so that a damaged one costs only the steps since the one before."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was verified.

    Args:
        folder: where it lies.
        state: what ``state.json`` says.
    """

    folder: Path
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they lie; made if it is not there.
        fingerprint: of all in the recipe that decides the weights.
        ranks: which process this is. All of them must see the same disk.
        warn: told, in a sentence, of what was found damaged.
    """

    def __init__(self, folder: Path, fingerprint: str, ranks: Ranks, warn: Callable[[str], None]) -> None:
        self.folder = folder
        self.fingerprint = fingerprint
        self.ranks = ranks
        self.warn = warn
        self._good: list[Path] = []
        self._best: Path | None = None
        self._fresh_best = folder / ".best.tmp"

    def newest(self, needed: Mapping[str, Tensor]) -> Saved | None:
        """The newest checkpoint that is whole and fits, or None. Damaged ones are named in a warning and passed over.

        Args:
            needed: the tensors that will be read from it.

        Raises:
            RunError: it was made by another recipe.
        """
        found: dict[str, Any] = {}
        if self.ranks.main:
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in self.folder.glob(".*.tmp"):  # of a process that was killed
                shutil.rmtree(leftover, ignore_errors=True)
            found = self._search(needed)
        found = from_main(found)
        if "foreign" in found:
            raise fail(
                RunError,
                found["foreign"],
                "this checkpoint was made by another recipe than the one given",
                "Give the new recipe its own folder (run: <folder>), or restore the old recipe, "
                f"or delete {self.folder} to start anew.",
            )
        if "folder" not in found:
            return None
        saved = Saved(Path(found["folder"]), found["state"])
        self._good = [Path(p) for p in found["good"]]
        self._best = saved.folder / "best" if found["best"] else None
        return saved

    def _search(self, needed: Mapping[str, Tensor]) -> dict[str, Any]:
        folders = sorted(self.folder.glob("step-*"), key=lambda p: p.name)
        for index in range(len(folders) - 1, -1, -1):
            folder = folders[index]
            problem = verify(folder)
            state: dict[str, Any] = {}
            if problem is None:
                state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
                if state["schema"] != SCHEMA:
                    problem = f"has layout {state['schema']}; this version reads layout {SCHEMA}"
                elif state["fingerprint"] != self.fingerprint:
                    return {"foreign": str(folder)}
                else:
                    problem = _misfit(folder, needed)
            if problem is None:
                good = [str(p) for p in folders[max(0, index + 1 - KEEP) : index + 1]]
                return {"folder": str(folder), "state": state, "good": good, "best": (folder / "best").is_dir()}
            before = folders[index - 1].name if index else None
            self.warn(f"{folder}: {problem}. " + (f"Trying {before}, the one before." if before else "Starting anew."))
        return {}

    def restore(self, saved: Saved, tensors: Mapping[str, Tensor]) -> None:
        """Fill tensors in place, and set this process's random generators (if it had any then)."""
        load_tensors(saved.folder / "state", tensors)
        file = saved.folder / f"rng-{self.ranks.rank:05d}.safetensors"
        if file.exists():
            set_generators(safetensors.torch.load_file(file))

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Write a checkpoint, then drop all but the last two. Collective.

        Raises:
            RunError: it could not be written; what stood before still stands.
        """
        final = self.folder / f"step-{step:08d}"
        temporary = self.folder / f".{final.name}.tmp"
        content = {"schema": SCHEMA, "fingerprint": self.fingerprint, "world": self.ranks.world, **state}

        def begin() -> None:
            if self.ranks.main:
                _remove(temporary)
                temporary.mkdir(parents=True)
                if self._best is not None and self._best == self._fresh_best:
                    os.replace(self._best, temporary / "best")
                elif self._best is not None:
                    # A copy and no link: one damaged file must not damage two checkpoints.
                    shutil.copytree(self._best, temporary / "best")

        def generators() -> None:
            content = safetensors.torch.save(get_generators(self.ranks.device))
            (temporary / f"rng-{self.ranks.rank:05d}.safetensors").write_bytes(content)

        def finish() -> None:
            if self.ranks.main:
                write_json(temporary / "state.json", content)
                _seal(temporary)
                _remove(final)  # there only if it was found damaged
                os.replace(temporary, final)
                sync_folder(self.folder)

        try:
            together(begin)
            save_tensors(temporary / "state", tensors)
            together(generators)
            together(finish)
        except OSError as error:
            self._give_up(temporary, f"the checkpoint of step {step} could not be written", error)
        self._good = [*(p for p in self._good if p != final), final][-KEEP:]
        self._best = final / "best" if self._best is not None else None
        if self.ranks.main:
            for folder in self.folder.glob("step-*"):
                if folder not in self._good:
                    _remove(folder)
        barrier()

    def save_best(self, weights: Mapping[str, Tensor]) -> None:
        """Keep these weights as the best so far; the next checkpoint takes them in. Collective.

        Raises:
            RunError: they could not be written.
        """
        try:
            together(lambda: shutil.rmtree(self._fresh_best, ignore_errors=True) if self.ranks.main else None)
            save_tensors(self._fresh_best, {f"best.{name}": tensor for name, tensor in weights.items()})
        except OSError as error:
            self._give_up(self._fresh_best, "the best weights could not be written", error)
        self._best = self._fresh_best

    def restore_best(self, weights: Mapping[str, Tensor]) -> bool:
        """Fill weights in place with the best ones; False if none were kept. Collective."""
        if self._best is None:
            return False
        load_tensors(self._best, {f"best.{name}": tensor for name, tensor in weights.items()})
        return True

    def stands(self) -> str:
        """What is safe on disk, as a sentence."""
        return f"{self._good[-1]} stands." if self._good else "No checkpoint of this run stands yet."

    def _give_up(self, temporary: Path, what: str, error: OSError) -> None:
        barrier()
        if self.ranks.main:
            shutil.rmtree(temporary, ignore_errors=True)
        raise fail(
            RunError,
            str(self.folder),
            f"{what}: {error.strerror or error}. {self.stands()}",
            "Make room or give write access, then run the same command again: it continues from there.",
        ) from error


def verify(folder: Path) -> str | None:
    """Why a checkpoint cannot be trusted, or None if every file is as it was written."""
    try:
        files: dict[str, dict[str, Any]] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
        for name, facts in files.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != facts["bytes"]:
                return f"{name} has {path.stat().st_size} bytes instead of {facts['bytes']}"
            if sha256_file(path) != facts["sha256"]:
                return f"{name} is damaged: its SHA-256 is not the one written down"
    except FileNotFoundError:
        return "manifest.json is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "manifest.json cannot be read"
    listed = {"manifest.json", *files}
    extra = sorted(n for p in folder.rglob("*.safetensors") if (n := p.relative_to(folder).as_posix()) not in listed)
    if extra:
        return f"{extra[0]} does not belong to it"
    return None if "state.json" in files else "state.json is missing"


def _seal(folder: Path) -> None:
    """Make all files durable and write the manifest over them."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    write_json(folder / "manifest.json", {"schema": SCHEMA, "files": files})
    for inner in (p for p in folder.rglob("*") if p.is_dir()):
        sync_folder(inner)
    sync_folder(folder)


def _misfit(folder: Path, needed: Mapping[str, Tensor]) -> str | None:
    """Why the tensors in a checkpoint are not those needed."""
    there = stored(folder / "state")
    for name, tensor in needed.items():
        if name not in there:
            return f"holds no tensor '{name}'"
        if there[name] != (tuple(tensor.shape), tensor.dtype):
            shape, dtype = there[name]
            return f"holds '{name}' as {list(shape)} {dtype} where {list(tensor.shape)} {tensor.dtype} is needed"
    extra = sorted(set(there) - set(needed))
    return f"holds a tensor that the student has no place for: '{extra[0]}'" if extra else None


def _remove(folder: Path) -> None:
    """Remove a folder so that a kill in between leaves no half of it under its own name."""
    if folder.exists():
        aside = folder.with_name(f".{re.sub(r'^[.]|[.]tmp$', '', folder.name)}.old.tmp")
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(folder, aside)
        shutil.rmtree(aside, ignore_errors=True)


def get_generators(device: torch.device) -> dict[str, Tensor]:
    """The state of Python's, NumPy's and torch's random generators, each as bytes."""
    states = {
        "python": _to_bytes(random.getstate()),
        "numpy": _to_bytes([v.tolist() if isinstance(v, np.ndarray) else v for v in np.random.get_state(legacy=True)]),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_generators(states: Mapping[str, Tensor]) -> None:
    """The opposite of ``get_generators``."""
    version, internal, gauss = _from_bytes(states["python"])
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = _from_bytes(states["numpy"])
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def seed_generators(seed: int, rank: int) -> None:
    """Start all generators of a process."""
    random.seed(seed * 1_000_003 + rank)
    np.random.seed((seed * 1_000_003 + rank) % 2**32)
    torch.manual_seed(seed * 1_000_003 + rank)


def _to_bytes(value: Any) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _from_bytes(tensor: Tensor) -> Any:
    return json.loads(tensor.numpy().tobytes())
