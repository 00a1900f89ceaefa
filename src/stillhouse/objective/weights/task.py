"""How much a task counts."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from stillhouse.types import Batch


def task(
    batch: Batch, *, weights: dict[str, Annotated[float, Field(ge=0)]], default: Annotated[float, Field(ge=0)] = 1.0
) -> Tensor:
    """What a position counts by the task its document belongs to: ``weights: {translation: 2.0, chat: 0.5}``.

    Per position, [N].

    Args:
        batch: for the documents' tasks.
        weights: of tasks by name.
        default: of documents whose task is not named there, and of those of no task.

    """
    of_document = [float(weights.get(name, default)) for name in batch.tasks]
    if not of_document:
        return torch.full_like(batch.weight_N, default)
    return torch.tensor(of_document, device=batch.document_N.device)[batch.document_N]
