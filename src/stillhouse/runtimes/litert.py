"""LiteRT, through its Python interpreter, with the kernels of XNNPACK."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillhouse.running import Beside
from stillhouse.worker import Runtime

_HIDDEN = -1e9
"""What is added to the score of a token that is not looked at."""


def litert(path: Path, threads: int) -> Runtime:
    """A folder with model.tflite, and the tokenizer beside it, in LiteRT."""
    return _LiteRt(path, threads)


class _LiteRt:
    def __init__(self, path: Path, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.beside = Beside(path)
        self.context, self.chunk = self.beside.facts["context"], self.beside.facts["chunk"]
        self.model: Any = Interpreter(str(path / "model.tflite"), num_threads=threads)
        self.signatures: dict[str, Any] = {
            name: self.model.get_signature_runner(name) for name in self.model.get_signature_list()
        }
        first = next(iter(self.signatures.values()))
        self.inputs: dict[str, Any] = first.get_input_details()
        self.reset()

    def reset(self) -> None:
        self.length = 0
        if not self.beside.facts["classifies"]:
            shape = tuple(self.inputs["keys"]["shape"])
            self.keys, self.values = np.zeros(shape, np.float32), np.zeros(shape, np.float32)

    def feed(self, ids: list[int]) -> NDArray[np.float32]:
        if self.length + len(ids) > self.context:
            raise ValueError(f"{self.length + len(ids)} tokens do not fit: it was written for {self.context}")
        if self.beside.facts["classifies"]:
            return self._classes(ids)
        rows, size = [], self.chunk if len(ids) > 1 else 1
        for begin in range(0, len(ids), size):
            rows.append(self._read(ids[begin : begin + size], size))
        return np.concatenate(rows)

    def _classes(self, ids: list[int]) -> NDArray[np.float32]:
        empty = self.context - len(ids)
        given = {
            "input_ids": np.array([ids]),
            "attention_mask": np.ones((1, len(ids))),
            "token_type_ids": self.beside.types(ids),
        }
        (signature,) = self.signatures.values()
        filled = {n: np.pad(v, ((0, 0), (0, empty))).astype(np.int32) for n, v in given.items() if n in self.inputs}
        logits: NDArray[np.float32] = signature(**filled)["logits"]
        return logits

    def _read(self, ids: list[int], size: int) -> NDArray[np.float32]:
        """Logits [P, V] of the next tokens; their keys and values are kept."""
        begin, new = self.length, len(ids)
        mask = np.full((size, self.context + size), _HIDDEN, np.float32)
        mask[:, :begin] = 0
        mask[:, self.context :] = np.triu(np.full((size, size), _HIDDEN, np.float32), 1)
        given = {
            "input_ids": np.pad(np.array([ids], np.int32), ((0, 0), (0, size - new))),
            "position_ids": np.arange(begin, begin + size, dtype=np.int32)[None],
            "mask": mask[None, None],
            "keys": self.keys,
            "values": self.values,
        }
        out = self.signatures["decode" if size == 1 else "prefill"](**given)
        self.length = begin + new
        self.keys[:, :, begin : self.length] = out["new_keys"][:, :, :new]
        self.values[:, :, begin : self.length] = out["new_values"][:, :, :new]
        logits: NDArray[np.float32] = out["logits"][0, :new]
        return logits.copy()

    def encode(self, text: str) -> list[int] | None:
        return self.beside.encode(text)
