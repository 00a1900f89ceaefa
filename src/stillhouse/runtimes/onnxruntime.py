"""ONNX Runtime, on the CPU."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillhouse.running import Beside
from stillhouse.worker import Runtime


def onnxruntime(path: Path, threads: int) -> Runtime:
    """A folder with model.onnx, and the tokenizer beside it, in ONNX Runtime."""
    return _OnnxRuntime(path, threads)


class _OnnxRuntime:
    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self.session: Any = onnxruntime.InferenceSession(
            str(path / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self.beside = Beside(path)
        self.inputs = {node.name: node for node in self.session.get_inputs()}
        self.outputs = [node.name for node in self.session.get_outputs()]
        self.reset()

    def reset(self) -> None:
        empty = {n: np.zeros((1, i.shape[1], 0, i.shape[3]), np.float32) for n, i in self.inputs.items() if "." in n}
        self.past: dict[str, NDArray[np.float32]] = empty
        self.length = 0

    def feed(self, ids: list[int]) -> NDArray[np.float32]:
        begin, self.length = self.length, self.length + len(ids)
        given = {
            "input_ids": np.array([ids]),
            "attention_mask": np.ones((1, self.length), np.int64),
            "position_ids": np.arange(begin, self.length)[None],
            "token_type_ids": self.beside.types(ids),
        }
        given = {name: value for name, value in given.items() if name in self.inputs}
        logits, *present = self.session.run(None, given | self.past)
        self.past = {
            name.replace("present", "past"): value for name, value in zip(self.outputs[1:], present, strict=True)
        }
        found: NDArray[np.float32] = logits[0] if self.past else logits
        return found

    def timed_batch(self, ids: list[int], count: int, tokens: int) -> list[float]:
        """Seconds of each step in which ``count`` texts with the same prompt grow by a token each."""
        self.reset()
        past = {name: np.repeat(value, count, 0) for name, value in self.past.items()}
        fed, begin, steps = np.array([ids] * count), 0, []
        for _ in range(tokens + 1):
            began = time.perf_counter()
            end = begin + fed.shape[1]
            given = {
                "input_ids": fed,
                "attention_mask": np.ones((count, end), np.int64),
                "position_ids": np.repeat(np.arange(begin, end)[None], count, 0),
            }
            given = {name: value for name, value in given.items() if name in self.inputs}
            logits, *present = self.session.run(None, given | past)
            past = dict(zip((n.replace("present", "past") for n in self.outputs[1:]), present, strict=True))
            fed, begin = logits[:, -1:].argmax(-1), end
            steps.append(time.perf_counter() - began)
        return steps[1:]

    def encode(self, text: str) -> list[int] | None:
        return self.beside.encode(text)
