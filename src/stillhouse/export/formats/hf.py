"""The student as transformers keeps models."""

from __future__ import annotations

from pathlib import Path

import torch

from stillhouse import models
from stillhouse.errors import RunError, fail
from stillhouse.export.artefact import Artefact
from stillhouse.export.compare import logits_of
from stillhouse.models import Model


def hf(student: Model, folder: Path) -> Artefact:
    """Safetensors, tokenizer and configuration for from_pretrained, loaded again and compared.

    A language model for AutoModelForCausalLM, a classifier with the names of its classes for AutoModelForSequenceClassification.

    Raises:
        RunError: what was written does not give the student's logits bit for bit.

    """
    student.save(folder)
    again = models.load(str(folder))
    tokens = int(student.config.get_text_config().vocab_size)
    ids = torch.linspace(0, tokens - 1, min(16, tokens)).long().tolist()
    difference = float((logits_of(student, ids) - logits_of(again, ids)).abs().max())
    if difference != 0.0:
        raise fail(
            RunError,
            str(folder),
            f"the saved student differs from the trained one by {difference:.3g} in its logits; nothing was written",
            "This is a fault of Stillhouse or of transformers: please report it with the recipe.",
        )
    return Artefact(folder, "pytorch", student, 0.0)
