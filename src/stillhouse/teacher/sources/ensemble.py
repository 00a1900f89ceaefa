"""Several teachers as one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from stillhouse import recipe
from stillhouse.errors import ModelError, RecipeError, fail
from stillhouse.find import problems_of
from stillhouse.models import Model
from stillhouse.teacher import Teacher, load
from stillhouse.types import Batch, Signal

SEGMENTED = "The 3rd of 1,234 naïve cafés — “quoted”, 東京 and 😀:\n\tdef f(x_1):  return x_1**2  # ok\r\n"
"""What two tokenizers must cut alike: digits, quotes, scripts, code, white space."""


def ensemble(
    *,
    members: list[Any],
    mean: Literal["probabilities", "logits"] = "probabilities",
    shares: list[float] | None = None,
    route: dict[str, list[float]] | None = None,
    empty: bool = False,
) -> Teacher:
    """Several teachers with one tokenizer, averaged; each task may have shares of its own.

    Args:
        members: teachers as a recipe names them: a hub id, folder or file, or {name: gguf, model: …}.
        mean: of what. A mean of probabilities says what a vote would; a mean of logits what all can agree on.
        shares: of the members, adding up to 1; equal if not given.
        route: task → shares for its documents; a member without a share is not asked.
        empty: only the shapes, no weights.

    """
    if len(members) < 2:
        raise fail(RecipeError, "teacher.members", f"has {len(members)} of them", "Name two teachers or more.")
    _check_shares(shares, len(members), "teacher.shares")
    for task, own in (route or {}).items():
        _check_shares(own, len(members), f"teacher.route.{task}")
    teachers: list[Teacher] = []
    for index, member in enumerate(members):
        where = f"teacher.members.{index}"
        teachers.append(load(_section(member, where), empty=empty))
        if teachers[-1].forms != {"dense"}:
            what = "gives only its likeliest outcomes, and a mean needs whole distributions"
            raise fail(ModelError, where, what, "Take members whose weights are here.")
        _check_tokenizer(teachers[0].tokenizer, teachers[-1].tokenizer, where)
    return Ensemble(teachers, mean=mean, shares=shares, route=route or {})


class Ensemble(Teacher):
    """Teachers averaged position by position.

    Args:
        members: dense teachers of one tokenizer; the first one's model stands for all.
        mean: ``probabilities`` or ``logits``.
        shares: of the members; equal if None.
        route: task → shares.

    """

    shows = frozenset()
    alone = False

    def __init__(
        self,
        members: Sequence[Teacher],
        *,
        mean: str,
        shares: Sequence[float] | None = None,
        route: dict[str, list[float]] | None = None,
    ) -> None:
        super().__init__(members[0].model)
        self.members = tuple(members)
        self.mean, self.route = mean, route or {}
        self.shares = tuple(shares) if shares is not None else (1.0 / len(members),) * len(members)

    @property
    def name(self) -> str:
        """The members' names."""
        return " + ".join(member.name for member in self.members)

    @property
    def networks(self) -> tuple[Model, ...]:
        """All the members'."""
        return tuple(network for member in self.members for network in member.networks)

    def placed(self, place: Callable[[Model], Model]) -> Ensemble:
        """The same ensemble with every member's networks put where training wants them."""
        members = [member.placed(place) for member in self.members]
        return Ensemble(members, mean=self.mean, shares=self.shares, route=self.route)

    @torch.no_grad()
    def signal(self, batch: Batch, want: frozenset[str] = frozenset()) -> Signal:
        """What the members say, with each one's share; those without a share in any of the positions are not asked."""
        if want:
            what = f"has no {', '.join(sorted(want))}: the members' are not comparable"
            raise fail(ModelError, "teacher", f"an ensemble {what}", "Take losses on outcomes, or one teacher.")
        asked = [
            (member.signal(batch), share)
            for member, share in zip(self.members, self._shares(batch), strict=True)
            if (bool((share > 0.0).any()) if isinstance(share, Tensor) else share > 0.0)
        ]
        signals, shares = zip(*asked, strict=True)
        return Signal(members=signals, shares=shares, mean_of=self.mean)

    def _shares(self, batch: Batch) -> Sequence[float | Tensor]:
        """One number for each member, or [N] where the tasks have shares of their own."""
        if not self.route or not batch.tasks:
            return self.shares
        share_DM = torch.tensor([self.route.get(task, self.shares) for task in batch.tasks])
        share_NM = share_DM.to(batch.document_N.device)[batch.document_N]
        return share_NM.unbind(-1)


def _section(member: Any, where: str) -> recipe.Teacher:
    if isinstance(member, str):
        return recipe.as_teacher(member)
    try:
        return recipe.Teacher.model_validate(member)
    except ValidationError as error:
        raise RecipeError(*problems_of(error, where, list(recipe.Teacher.model_fields))) from None


def _check_shares(shares: Sequence[float] | None, members: int, where: str) -> None:
    if shares is None:
        return
    if len(shares) != members:
        raise fail(RecipeError, where, f"has {len(shares)} shares for {members} members", "Give one each.")
    if min(shares) < 0.0 or not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
        raise fail(RecipeError, where, f"{list(shares)} are no shares", "Give numbers from 0 that add up to 1.")


def _check_tokenizer(first: Any, other: Any, where: str) -> None:
    """Refuse members that do not mean the same by the same ids; sizes prove nothing."""
    if first is other:
        return
    ours, theirs = first.get_vocab(), other.get_vocab()
    if ours != theirs:
        differ = sorted(set(ours.items()) ^ set(theirs.items()), key=lambda item: (item[1], item[0]))
        token, number = differ[0]
        what = f"has another tokenizer than the first member: {len(differ):,} entries differ, such as {token!r} as {number}"
        raise fail(ModelError, where, what, "Members must share a tokenizer; distil from them one after another.")
    cut = [t(SEGMENTED, add_special_tokens=False).input_ids for t in (first, other)]
    if cut[0] != cut[1]:
        what = "has the first member's vocabulary but cuts text into other tokens"
        raise fail(ModelError, where, what, "Members must share a tokenizer; distil from them one after another.")
