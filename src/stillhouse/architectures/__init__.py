"""Models that transformers does not have, a file each, and how layers without attention read documents laid back to back.

A file here is copied beside the weights when such a model is saved, with the files that it imports from this folder, so that
``from_pretrained(folder, trust_remote_code=True)`` loads it where there is no Stillhouse. So these files import nothing but
torch, transformers and each other. Where their module is imported, transformers knows their classes and runs no such copy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OURS = {
    "factorised_": "stillhouse.factorised",
    "stillhouse_recurrent": "stillhouse.architectures.recurrent",
    "stillhouse_linear_attention": "stillhouse.architectures.linear_attention",
}
"""How a model type begins → the module whose import makes transformers know it."""


def make_known(model_type: str) -> None:
    """Make transformers know a model type, if it is one of ours; nothing for others.

    Args:
        model_type: as a configuration names it.

    """
    for beginning, module in OURS.items():
        if model_type.startswith(beginning):
            importlib.import_module(module)


def take_borders(network: PreTrainedModel) -> bool:
    """Whether a network's layers without attention can be told where documents begin; makes those of Mamba-2 able to.

    Args:
        network: any.

    Returns:
        False where state would leak from a document into the next one: then each must have a row of its own.

    """
    if network.config.model_type == "granitemoehybrid":
        from stillhouse.architectures.state_space import pack

        pack(network)
        return True
    return bool(getattr(network, "takes_borders", False))
