"""PyTorch with transformers: the reference."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from stillhouse.running import Network
from stillhouse.worker import Runtime


def pytorch(path: Path, threads: int) -> Runtime:
    """A model folder in PyTorch, in float32."""
    return _PyTorch(path, threads)


class _PyTorch(Network):
    def __init__(self, path: Path, threads: int) -> None:
        from stillhouse import models

        self.model = models.load(str(path)).eval()
        self._ready = self.model.generating()
        network = self._ready.__enter__()
        super().__init__(network, classifies=self.model.classifies, tokenizer=self.model.tokenizer, threads=threads)

    def timed_batch(self, ids: list[int], count: int, tokens: int) -> list[float]:
        """Seconds of each step in which ``count`` texts with the same prompt grow by a token each."""
        torch, steps = self.torch, []
        with torch.inference_mode():
            out = self.network(input_ids=torch.tensor([ids] * count), use_cache=True)
            for _ in range(tokens):
                began = time.perf_counter()
                token_B1 = out.logits[:, -1:].argmax(-1)
                out = self.network(input_ids=token_B1, past_key_values=out.past_key_values, use_cache=True)
                steps.append(time.perf_counter() - began)
        return steps

    def timed_parts(self, ids: list[int], tokens: int) -> dict[str, float]:
        """Median seconds of a token: in the head, in the matrices of the layers, and in all."""
        spent = {"head": 0.0, "matrices": 0.0}
        began: dict[int, float] = {}

        def start(module: Any, _: Any) -> None:
            began[id(module)] = time.perf_counter()

        def stop(module: Any, _inputs: Any, _output: Any) -> None:
            part = "head" if module is self.model.head_layer else "matrices"
            spent[part] += time.perf_counter() - began[id(module)]

        linear = [m for m in self.model.layers.modules() if isinstance(m, self.torch.nn.Linear)]
        hooks = []
        for module in (*linear, self.model.head_layer):
            hooks += [module.register_forward_pre_hook(start), module.register_forward_hook(stop)]
        self.reset()
        token = int(self.feed(ids)[-1].argmax())
        rows = []
        for _ in range(tokens):
            spent.update(head=0.0, matrices=0.0)
            before = time.perf_counter()
            token = int(self.feed([token])[-1].argmax())
            rows.append({"all": time.perf_counter() - before, **spent})
        for hook in hooks:
            hook.remove()
        return {name: float(np.median([row[name] for row in rows])) for name in rows[0]}
