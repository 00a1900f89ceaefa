"""ExecuTorch, through its Python runtime, with the kernels of XNNPACK."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillhouse.running import Beside
from stillhouse.worker import Runtime


def executorch(path: Path, threads: int) -> Runtime:
    """A folder with model.pte, and the tokenizer beside it, in ExecuTorch."""
    return _ExecuTorch(path, threads)


class _ExecuTorch:
    def __init__(self, path: Path, threads: int) -> None:
        import torch
        from executorch.runtime import Runtime as Library

        importlib.import_module("executorch.kernels.quantized")  # registers the kernels of embeddings in integers
        torch.set_num_threads(threads)
        self.torch: Any = torch
        self.beside = Beside(path)
        self.program: Any = Library.get().load_program(path / "model.pte")
        self.forward: Any = self.program.load_method("forward")
        self.reset()

    def reset(self) -> None:
        self.length = 0

    def feed(self, ids: list[int]) -> NDArray[np.float32]:
        begin, self.length = self.length, self.length + len(ids)
        tokens = self.torch.tensor([ids])
        if self.beside.facts["classifies"]:
            types = [self.torch.from_numpy(self.beside.types(ids))] if self.beside.facts["types"] else []
            classes: NDArray[np.float32] = self.forward.execute([tokens, *types])[0].numpy().copy()
            return classes
        # the program keeps keys and values itself, and begins to write them at the first of the positions
        logits: NDArray[np.float32] = self.forward.execute([tokens, self.torch.arange(begin, self.length)])[0][
            0
        ].numpy()
        return logits.copy()

    def encode(self, text: str) -> list[int] | None:
        return self.beside.encode(text)
