"""A student that exists already."""

from __future__ import annotations

from stillhouse import models
from stillhouse.models import Model


def pretrained(teacher: Model, *, model: str, revision: str | None = None, trust_remote_code: bool = False) -> Model:
    """A smaller model of the same vocabulary, from a folder or the hub.

    Args:
        teacher: whose vocabulary it must have.
        model: a folder, or org/name.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run code that lies beside the weights; only if you trust its author.

    """
    return models.load(
        model,
        revision=revision,
        trust_remote_code=trust_remote_code,
        where="student.model",
        empty=next(teacher.parameters()).is_meta,
    )
