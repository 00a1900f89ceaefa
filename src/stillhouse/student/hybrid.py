"""What students that keep a Llama but for its attention have in common: which teachers will do, and what is inherited."""

from __future__ import annotations

from typing import Any

from stillhouse.errors import ModelError, fail
from stillhouse.models import Model

ALIKE = ("llama", "mistral")
"""Model types that compute the same, given the same configuration."""

OWN_KEYS = ("model_type", "architectures", "transformers_version", "dtype", "sliding_window", "auto_map")
"""Of a configuration, that a student of another class does not inherit."""


def refuse_unlike_llama(teacher: Model, wanted: str) -> None:
    """Refuse a teacher that is no language model of the Llama kind.

    Args:
        teacher: who would be replaced in part.
        wanted: what in place of its attention.

    Raises:
        ModelError: it is another kind.

    """
    config, way_out = (
        teacher.config,
        f"Take a language model of the types {', '.join(ALIKE)}, or the student recurrent.",
    )
    if config.model_type not in ALIKE or not teacher.network.can_generate():
        what = f"the attention of a {type(teacher.network).__name__} cannot become {wanted} here"
        raise fail(ModelError, "student", what, way_out)
    if config.model_type == "mistral" and config.sliding_window is not None:
        what = f"its attention sees only the last {config.sliding_window} tokens, and {wanted} would see all"
        raise fail(ModelError, "student", what, way_out)


def kept_layers(teacher: Model, layers: list[int]) -> set[int]:
    """The layers that keep their attention.

    Args:
        teacher: whose.
        layers: counted from 0.

    Raises:
        ModelError: there is no such layer.

    """
    depth = len(teacher.layers)
    if any(not 0 <= index < depth for index in layers):
        what = f"{layers} names layers that a teacher of {depth} does not have"
        raise fail(ModelError, "student.attention", what, f"Give numbers from 0 to {depth - 1}.")
    return set(layers)


def inherited(teacher: Model) -> dict[str, Any]:
    """What of the teacher's configuration the student's begins with."""
    return {key: value for key, value in teacher.config.to_dict().items() if key not in OWN_KEYS}
