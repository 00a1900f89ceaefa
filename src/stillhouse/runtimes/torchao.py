"""PyTorch with torchao's tensors, as from_pretrained loads them."""

from __future__ import annotations

import json
from pathlib import Path

from stillhouse.running import Network
from stillhouse.worker import Runtime


def torchao(path: Path, threads: int) -> Runtime:
    """A folder that torchao's export wrote, in PyTorch."""
    return _TorchAo(path, threads)


class _TorchAo(Network):
    def __init__(self, path: Path, threads: int) -> None:
        import transformers

        classifies = json.loads((path / "artefact.json").read_text(encoding="utf-8"))["classifies"]
        kind = transformers.AutoModelForSequenceClassification if classifies else transformers.AutoModelForCausalLM
        tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        super().__init__(kind.from_pretrained(path).eval(), classifies=classifies, tokenizer=tokenizer, threads=threads)
