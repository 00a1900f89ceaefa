"""llama.cpp, through llama-cpp-python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillhouse.worker import Runtime

CONTEXT = 1024
"""Tokens that fit at a time."""
_FLOAT32 = 0


def llama_cpp(path: Path, threads: int) -> Runtime:
    """A GGUF file in llama.cpp; keys and values stay in float32, so that what differs is the weights."""
    return _LlamaCpp(path, threads)


class _LlamaCpp:
    def __init__(self, path: Path, threads: int) -> None:
        from llama_cpp import Llama

        self.model: Any = Llama(
            str(path),
            n_ctx=CONTEXT,
            n_threads=threads,
            n_threads_batch=threads,
            logits_all=True,
            type_k=_FLOAT32,
            type_v=_FLOAT32,
            flash_attn=False,
            verbose=False,
        )

    def reset(self) -> None:
        self.model.reset()

    def feed(self, ids: list[int]) -> NDArray[np.float32]:
        before = self.model.n_tokens
        self.model.eval(ids)
        return np.array(self.model.scores[before : before + len(ids)], dtype=np.float32)

    def encode(self, text: str) -> list[int] | None:
        return list(self.model.tokenize(text.encode(), add_bos=False, special=True))
