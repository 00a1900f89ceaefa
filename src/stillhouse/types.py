"""The things that travel between stages, and the legend of the shape letters.

Shape letters, written at the end of a tensor's name:

====== ==========================================================================================
``P``  tokens in a micro-batch: documents one after another, nothing padded
``D``  documents (or pieces of them) in a micro-batch
``N``  positions that carry loss: next tokens of a language model, or whole sequences of a classifier
``V``  outcomes at a position: the vocabulary, or the classes
``H``  width of the hidden states
``K``  outcomes that a truncated teacher names
``S``  outcomes of the support that teacher and student were put on
====== ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """What one micro-batch holds. The causal shift is already done: ``labels_N[i]`` is the outcome at ``select_N[i]``.

    Args:
        input_ids_P: token ids of all documents, one after another; int64.
        position_ids_P: position of each token within its document; starts at 0 at each border; int64.
        borders_D1: where documents start, and the end: ``[0, …, P]``; D + 1 ints, on the CPU.
        select_N: indices into P of the positions that carry loss; int64.
        labels_N: index of the true outcome at each; int64.
        weight_N: how much each counts; float32; ones by default.
        document_N: which of the D documents each position belongs to; int64.
        keys: content key of each of the D documents' examples.
        offsets_D: token of its example that each of the D documents begins with: 0 unless it is a later part.
        tasks: name of the task of each of the D documents; "" where there are no tasks.
        seen_D: which tokens of its document each token sees, [T, T] booleans for each of the D documents of T tokens; None
            where it sees all before it. The whole is None if that is so of all. For documents that branch: answers to one
            question, whose text is read once.
        truth_N: 1 where the label is a true outcome, 0 where it is the student's own sample or not known, which no loss on
            labels may learn from; float32; None if all are true.
    """

    input_ids_P: Tensor
    position_ids_P: Tensor
    borders_D1: tuple[int, ...]
    select_N: Tensor
    labels_N: Tensor
    weight_N: Tensor
    document_N: Tensor
    keys: tuple[str, ...] = ()
    offsets_D: tuple[int, ...] = ()
    tasks: tuple[str, ...] = ()
    truth_N: Tensor | None = None
    seen_D: tuple[Tensor | None, ...] | None = None

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on a device."""
        moved: dict[str, Any] = {
            k: v.to(device, non_blocking=True) for k, v in vars(self).items() if isinstance(v, Tensor)
        }
        if self.seen_D is not None:
            moved["seen_D"] = tuple(None if seen is None else seen.to(device) for seen in self.seen_D)
        return replace(self, **moved)

    def of_task(self, task: str) -> Batch:
        """The documents of one task alone; its documents lie together."""
        mine = [d for d, name in enumerate(self.tasks) if name == task]
        first, last = (mine[0], mine[-1] + 1) if mine else (0, 0)
        assert len(mine) == last - first, "the documents of a task lie together"
        start, stop = self.borders_D1[first], self.borders_D1[last]
        positions = torch.nonzero((self.select_N >= start) & (self.select_N < stop))[:, 0].tolist()
        a, b = (positions[0], positions[-1] + 1) if positions else (0, 0)
        rows = self.rows(a, b)
        return replace(
            rows,
            input_ids_P=self.input_ids_P[start:stop],
            position_ids_P=self.position_ids_P[start:stop],
            borders_D1=tuple(border - start for border in self.borders_D1[first : last + 1]),
            select_N=rows.select_N - start,
            document_N=rows.document_N - first,
            keys=self.keys[first:last],
            offsets_D=self.offsets_D[first:last],
            tasks=self.tasks[first:last],
        )

    def rows(self, start: int, stop: int) -> Batch:
        """The batch with only the loss positions ``start:stop``; the tokens stay."""
        part = slice(start, stop)
        return replace(
            self,
            select_N=self.select_N[part],
            labels_N=self.labels_N[part],
            weight_N=self.weight_N[part],
            document_N=self.document_N[part],
            truth_N=None if self.truth_N is None else self.truth_N[part],
        )


@dataclass(frozen=True)
class Head:
    """The last linear map, from hidden states to logits over V outcomes.

    Args:
        weight_VH: the matrix.
        bias_V: added, if any.
        scale: logits are multiplied by it (Cohere, Granite).
        softcap: logits become ``softcap · tanh(logits / softcap)``, if any (Gemma 2).
    """

    weight_VH: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    @property
    def plain(self) -> bool:
        """Whether logits are the linear map and nothing else."""
        return self.scale == 1.0 and self.softcap is None

    def logits(self, hidden_NH: Tensor, out: Tensor | None = None) -> Tensor:
        """Logits [N, V]; written into ``out`` if it is given (then without a graph)."""
        weight_HV = self.weight_VH.t()
        if hidden_NH.dtype != weight_HV.dtype:
            hidden_NH = hidden_NH.to(weight_HV.dtype)
        logits_NV = torch.mm(hidden_NH, weight_HV, out=out) if out is not None else hidden_NH @ weight_HV
        return self.finish(logits_NV, inplace=out is not None)

    def finish(self, logits_NV: Tensor, inplace: bool = False) -> Tensor:
        """What follows the matrix product: bias, scale, cap."""
        if self.bias_V is not None:
            logits_NV = logits_NV.add_(self.bias_V) if inplace else logits_NV + self.bias_V
        if self.scale != 1.0:
            logits_NV = logits_NV.mul_(self.scale) if inplace else logits_NV * self.scale
        if self.softcap is not None:
            cap = self.softcap
            logits_NV = logits_NV.div_(cap).tanh_().mul_(cap) if inplace else torch.tanh(logits_NV / cap) * cap
        return logits_NV


@dataclass(frozen=True)
class Output:
    """What the student says of N positions.

    Args:
        logits_NV: logits; in the chunked head, of the chunk's positions only; empty for a loss on layers.
        layers: of the student's inner life, where a term asked for it, one entry for each pair of layers that the term's
            map names. ``hidden``: [N, H] after a layer, projected to the teacher's width where a projection is learned.
            ``attention``: ``Attended`` of a layer.
    """

    logits_NV: Tensor
    layers: dict[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Attended:
    """What one layer's attention worked on, for all P tokens: queries and keys as they are compared (positions included).

    Args:
        query: [P, query heads, head width].
        key: [P, key heads, head width]; fewer heads than queries where they are shared in groups.
        value: [P, key heads, head width].
        scale: of the scores, 1/√(head width) as a rule.
        causal: whether tokens see only what came before.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    scale: float
    causal: bool


@dataclass(frozen=True)
class Signal:
    """What the teacher says of N positions. A loss cannot tell where it came from.

    One of three forms. Dense: ``logits_NV``; or ``hidden_NH`` with ``head``, or ``members``, from which the logits of any
    rows follow exactly. Top-k: ``ids_NK``, ``logp_NK`` and the remainder ``rest_N``. Sampled: ``ids_NK`` and ``logp_NK`` with
    ``sampled``: an unbiased estimate whose named outcomes stand for the whole distribution; only losses that are linear in
    the teacher's probabilities stay unbiased with it.

    Args:
        logits_NV: teacher logits.
        hidden_NH: teacher hidden states before the head.
        head: the teacher's head.
        ids_NK: outcomes named, each once; int64; −1 fills up a row that has fewer.
        logp_NK: their log-probabilities in nats at temperature 1, −inf where filled up; estimates where ``sampled``.
        rest_N: log of the probability that the named outcomes leave over; −inf where ``sampled``.
        sampled: the named outcomes were drawn, not picked.
        members: several dense teachers' signals, to be averaged.
        shares: of the members, adding up to 1; one number each, or [N] each.
        mean_of: what is averaged: ``probabilities`` or ``logits``.
        shared: where the vocabularies differ: ids of the outcomes that both know, the student's [M] and the teacher's [M].
        exact_N: where the vocabularies differ: whether student and teacher speak of the same piece of text.
        weight_N: how much the teacher's word counts; 0 where it has none to say; ones if None.
        layers: as in ``Output``.
    """

    logits_NV: Tensor | None = None
    hidden_NH: Tensor | None = None
    head: Head | None = None
    ids_NK: Tensor | None = None
    logp_NK: Tensor | None = None
    rest_N: Tensor | None = None
    sampled: bool = False
    members: tuple[Signal, ...] = ()
    shares: tuple[float | Tensor, ...] = ()
    mean_of: str = "probabilities"
    shared: tuple[Tensor, Tensor] | None = None
    exact_N: Tensor | None = None
    weight_N: Tensor | None = None
    layers: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def form(self) -> str:
        """``dense``, ``topk`` or ``sampled``."""
        if self.ids_NK is None:
            return "dense"
        return "sampled" if self.sampled else "topk"

    @property
    def dense(self) -> bool:
        """Whether the whole distribution is there."""
        return self.ids_NK is None

    @property
    def vocabulary(self) -> int | None:
        """How many outcomes the teacher knows; None if truncated."""
        if self.logits_NV is not None:
            return self.logits_NV.shape[-1]
        if self.members:
            return min(member.vocabulary or 0 for member in self.members)
        return self.head.weight_VH.shape[0] if self.head is not None else None

    def rows(self, start: int, stop: int, out: Tensor | None = None) -> Signal:
        """The signal of positions ``start:stop``, as logits (in ``out`` if it is given and they are computed) or truncated."""
        part = slice(start, stop)
        cut: dict[str, Any] = {
            name: None if value is None else value[part]
            for name in ("exact_N", "weight_N", "ids_NK", "logp_NK", "rest_N")
            for value in (getattr(self, name),)
        }
        if self.logits_NV is not None:
            return replace(self, logits_NV=self.logits_NV[part], **cut)
        if self.hidden_NH is not None:
            assert self.head is not None
            logits_NV = self.head.logits(self.hidden_NH[part], out=out)
            return replace(self, logits_NV=logits_NV, hidden_NH=None, head=None, **cut)
        if self.members:
            return replace(self, logits_NV=self._mean(part), members=(), shares=(), **cut)
        return replace(self, **cut)

    def _mean(self, part: slice) -> Tensor:
        """Logits of the members' mean."""
        total_NV: Tensor | None = None
        for member, share in zip(self.members, self.shares, strict=True):
            logits_NV = member.rows(part.start, part.stop).logits_NV
            assert logits_NV is not None, "only dense teachers can be averaged"
            logits_NV = torch.log_softmax(logits_NV[:, : self.vocabulary].float(), -1)
            share_N1 = share[part, None] if isinstance(share, Tensor) else share
            part_NV = (logits_NV.exp_() if self.mean_of == "probabilities" else logits_NV) * share_N1
            total_NV = part_NV if total_NV is None else total_NV.add_(part_NV)
        assert total_NV is not None
        return total_NV.log_() if self.mean_of == "probabilities" else total_NV


Loss = Callable[..., Tensor]
"""``loss(student: Output, teacher: Signal, batch: Batch, *, options…) -> [N]``, unreduced, in nats where it is a divergence."""


@dataclass
class Progress:
    """Where a training run stands; with weights and optimiser it is the whole state of the loop.

    Args:
        step: optimiser steps taken.
        tokens: loss positions learned from so far.
        best: the best validation value so far and the step it was seen at.
        waited: validations since then.
    """

    step: int = 0
    tokens: int = 0
    best: float | None = None
    best_step: int = 0
    waited: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for the checkpoint."""
        return dict(vars(self))


def needs(*what: str) -> Callable[[Loss], Loss]:
    """Mark what a strategy wants; the check refuses what cannot be had.

    ``hidden`` or ``attention``: a loss on layers. ``dense``: the teacher's whole distribution. ``topk``: the whole or its
    largest part with the remainder, but no sample of it (what every divergence wants that is not linear in the teacher).
    """

    def mark(function: Loss) -> Loss:
        function.needs = frozenset(what)  # type: ignore[attr-defined]
        return function

    return mark


def across(function: Loss) -> Loss:
    """Mark a loss that compares teacher and student although they know different outcomes (other tokenizers)."""
    function.across = True  # type: ignore[attr-defined]
    return function


@cache
def learns_from_teacher(loss: Loss) -> bool:
    """Whether a loss looks at the teacher at all: those that do not say so by taking ``Signal | None``."""
    return type(None) not in get_args(get_type_hints(loss).get("teacher", Signal))
