"""The student as transformers keeps models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from stillhouse import models
from stillhouse.errors import RunError, fail
from stillhouse.export.artefact import Artefact, format_of
from stillhouse.models import Model
from stillhouse.types import Batch


def _size(model: Model, options: dict[str, Any]) -> int:
    """Bytes of the weights in float32; of a student with a tokenizer of megabytes, a little more."""
    return 4 * model.parameters_count


@format_of(runtime_package="torch", extra="", refuses=lambda model, options: None, size=_size)
def hf(student: Model, folder: Path) -> Artefact:
    """Safetensors, tokenizer and configuration for from_pretrained, loaded again and compared.

    A language model for AutoModelForCausalLM, a classifier with the names of its classes for AutoModelForSequenceClassification.

    Raises:
        RunError: what was written does not give the student's logits bit for bit.

    """
    student.save(folder)
    again = models.load(str(folder))
    difference = largest_difference(student, again)
    if difference != 0.0:
        raise fail(
            RunError,
            str(folder),
            f"the saved student differs from the trained one by {difference:.3g} in its logits; nothing was written",
            "This is a fault of Stillhouse or of transformers: please report it with the recipe.",
        )
    return Artefact(folder, "pytorch", student, 0.0)


@torch.no_grad()
def largest_difference(one: Model, other: Model) -> float:
    """The largest difference of two models' logits at a few tokens.

    At several positions also of a classifier: a product with one row alone may round otherwise for weights that lie elsewhere.
    """
    tokens = int(one.config.get_text_config().vocab_size)
    length = min(16, tokens)
    ids = torch.linspace(0, tokens - 1, length).long()
    position, nothing = torch.arange(length), torch.zeros(length, dtype=torch.int64)
    batch = Batch(ids, position, (0, length), position, nothing, torch.ones(length), nothing)
    logits = []
    for model in (one, other):
        model.eval()
        dtype = model.compute_dtype
        model.set_compute_dtype(torch.float32)
        logits.append(model.head.logits(model(batch)[0]))
        model.set_compute_dtype(dtype)
    return float((logits[0] - logits[1]).abs().max())
