"""A model in a folder or on the hub."""

from __future__ import annotations

from stillhouse import models


def local(
    *,
    model: str,
    revision: str | None = None,
    trust_remote_code: bool = False,
    empty: bool = False,
) -> models.Model:
    """A transformers model in a folder or on the hub (org/name); only safetensors are loaded.

    Args:
        model: the folder, or org/name.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run code that lies beside the weights; only if you trust its author.
        empty: only the shapes, no weights.

    """
    return models.load(
        model, revision=revision, trust_remote_code=trust_remote_code, where="teacher.model", empty=empty
    )
