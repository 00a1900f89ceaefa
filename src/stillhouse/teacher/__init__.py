"""Teacher: what is said of a batch by the model that knows more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from stillhouse import recipe
from stillhouse.errors import ModelError, fail
from stillhouse.find import check_options, find
from stillhouse.mapped import release
from stillhouse.models import Model
from stillhouse.types import Batch, Signal


class Teacher:
    """A model that answers and never learns. Not a module: it cannot become a part of the student by accident.

    Sources whose signals come from elsewhere (a store, a server, several models) are subclasses.

    Args:
        model: the network, its gradients switched off; only its shapes (on the meta device) where the weights are elsewhere.

    """

    forms: frozenset[str] = frozenset({"dense"})
    """Forms of its signals; see ``Signal``. None where it only writes text."""
    shows: frozenset[str] = frozenset({"hidden", "attention"})
    """What it shows of its inner life."""
    alone: bool = True
    """Whether ``model`` is all of it, weights included: what is asked of the teacher may be asked of the model."""

    same_outcomes: bool = True
    """Whether its signals are over the student's outcomes; not where the two have other tokens."""

    def __init__(self, model: Model) -> None:
        self.model = model.requires_grad_(False).eval()
        self.shows = self.shows & model.shows

    @property
    def name(self) -> str:
        """What it is called."""
        return self.model.name

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer."""
        return self.model.tokenizer

    @property
    def networks(self) -> tuple[Model, ...]:
        """All that it runs, or would run if its weights were here."""
        return (self.model,)

    @property
    def parameters_count(self) -> int:
        """Parameters of all of it."""
        return sum(network.parameters_count for network in self.networks)

    @torch.no_grad()
    def signal(self, batch: Batch, want: frozenset[str] = frozenset()) -> Signal:
        """What the teacher says of the batch's positions: its hidden states and head, from which any distribution follows."""
        self.model.eval()
        hidden_NH, layers = self.model(batch, want)
        release(self.model.parameters())  # silent from here on, but for the head
        return Signal(hidden_NH=hidden_NH, head=self.model.head, layers=layers)

    def nll(self, batch: Batch) -> Tensor | None:  # noqa: ARG002 – subclasses read it
        """−log of the probability that it gives the text of each label, [N], nats, where it reads that text as other tokens.

        None where its signal says it, because its tokens are the student's.
        """
        return None

    @property
    def own(self) -> Teacher:
        """The teacher as it reads its own tokens: itself, unless it speaks for a student of other tokens."""
        return self

    def placed(self, place: Callable[[Model], Model]) -> Teacher:
        """The same teacher with each network that it runs put where training wants it."""
        return Teacher(place(self.model))


def load(section: recipe.Teacher, *, empty: bool = False) -> Teacher:
    """Load the teacher that a recipe names; ``empty`` only its shapes.

    Raises:
        ModelError: it cannot be had or used.
        RecipeError: no such source, or options it does not take.

    """
    source = find("teacher", section.name, "teacher")
    options = check_options(source, section.options, "teacher") | {"empty": empty}
    loaded = source(**options)
    if isinstance(loaded, Teacher):
        return loaded
    if not isinstance(loaded, Model):
        what = f"'{section.name}' gave a {type(loaded).__name__}, not a stillhouse.models.Model or a Teacher"
        raise fail(ModelError, "teacher", what)
    return Teacher(loaded)
