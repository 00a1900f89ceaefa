"""Teacher: what is said of a batch by the model that knows more."""

from __future__ import annotations

import torch

from stillhouse import recipe
from stillhouse.errors import ModelError, fail
from stillhouse.find import check_options, find
from stillhouse.models import Model
from stillhouse.types import Batch, Signal


class Teacher:
    """A model that answers and never learns. Not a module: it cannot become a part of the student by accident.

    Args:
        model: the network; its gradients are switched off.

    """

    def __init__(self, model: Model) -> None:
        self.model = model.requires_grad_(False).eval()

    @torch.no_grad()
    def signal(self, batch: Batch, want: frozenset[str] = frozenset()) -> Signal:
        """What the teacher says of the batch's positions: its hidden states and head, from which any distribution follows."""
        self.model.eval()
        hidden_NH, layers = self.model(batch, want)
        return Signal(hidden_NH=hidden_NH, head=self.model.head, layers=layers)


def load(section: recipe.Teacher, *, empty: bool = False) -> Model:
    """Load the model that a recipe names; ``empty`` only its shapes.

    Raises:
        ModelError: it cannot be had or used.
        RecipeError: no such source, or options it does not take.

    """
    source = find("teacher", section.name, "teacher")
    options = check_options(source, section.options, "teacher") | {"empty": empty}
    model = source(**options)
    if not isinstance(model, Model):
        raise fail(
            ModelError, "teacher", f"'{section.name}' gave a {type(model).__name__}, not a stillhouse.models.Model"
        )
    return model
