"""The vocabulary a few positions at a time, around any loss: no [N, V] tensor ever exists.

The gradient is made in the same pass as the loss: a chunk's logits are computed, turned into loss and gradient, and dropped,
so that the backward pass recomputes nothing. For the two losses of nearly every run there is a closed form that works in
place (``rows``); any other loss gets autograd over its chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stillhouse.objective.losses.cross_entropy import cross_entropy
from stillhouse.objective.losses.forward_kl import forward_kl
from stillhouse.objective.support import tempered
from stillhouse.rows import kl_ce_, topk_kl_ce_
from stillhouse.types import Batch, Head, Loss, Output, Signal, learns_from_teacher

BUFFER_BYTES = 48 * 2**20
"""What one buffer of a chunk's logits may take, unless the recipe says how long a chunk is."""


Weight = Callable[[Output, Signal | None, Batch], Tensor]
"""How much each position counts, [N]."""


@dataclass(frozen=True)
class WeightedLoss:
    """A loss over outcomes as it is at one step.

    Args:
        name: what its value is logged as.
        loss: the function.
        weight: what it is multiplied by.
        options: its options.
        weights: what each position's part is multiplied by.

    """

    name: str
    loss: Loss
    weight: float
    options: dict[str, Any] = field(default_factory=dict)
    weights: tuple[Weight, ...] = ()

    def values(self, output: Output, signal: Signal | None, batch: Batch) -> Tensor:
        """The loss at each position, [N], in float64 for the sums."""
        return self.loss(output, signal, batch, **self.options).double()

    @torch.no_grad()
    def counts(self, output: Output, signal: Signal | None, batch: Batch) -> Tensor:
        """How much each position counts in this loss, [N]: the batch's weights, times who may speak there, times its own.

        A loss on labels learns nothing from labels that are no truth, one on the teacher nothing where it has no word.
        """
        count_N = batch.weight_N
        if not learns_from_teacher(self.loss):
            count_N = count_N if batch.truth_N is None else count_N * batch.truth_N
        elif signal is not None and signal.weight_N is not None:
            count_N = count_N * signal.weight_N
        for weight in self.weights:
            count_N = count_N * weight(output, signal, batch)
        return count_N


def chunk_length(outcomes: int, itemsize: int = 4) -> int:
    """How many positions' logits fit the buffer: a power of two from 16 to 1,024."""
    fits = BUFFER_BYTES // (itemsize * outcomes)
    return max(16, min(1024, 1 << max(fits, 1).bit_length() - 1))


@dataclass(frozen=True)
class Span:
    """Positions that have losses of their own.

    Args:
        start: the first of them.
        stop: one after the last.
        losses: as those of the whole batch, by number and name, with other options.

    """

    start: int
    stop: int
    losses: Sequence[WeightedLoss]


def chunked(
    losses: Sequence[WeightedLoss],
    hidden_NH: Tensor,
    head: Head,
    teacher: Signal | None,
    batch: Batch,
    denominator: float,
    chunk: int | None = None,
    *,
    spans: Sequence[Span] = (),
    group_N: Tensor | None = None,
    groups: int = 1,
) -> tuple[Tensor, Tensor]:
    """Σ over positions and losses of ``weight · count_N · loss`` divided by ``denominator``, differentiable.

    Args:
        losses: what to add up.
        hidden_NH: student's hidden states before the head.
        head: the student's.
        teacher: what the teacher says of the same positions; None where no loss needs it.
        batch: for labels and weights per position.
        denominator: what the sum is divided by: the step's count of positions over all micro-batches and processes.
        chunk: positions at a time.
        spans: positions that have losses of their own, which together are all; none if all have the same.
        group_N: number of the group that each position belongs to.
        groups: how many groups there are.

    Returns:
        the scalar, and each loss's own sum over positions as they count in it, [losses]; of each group if there are groups,
        [groups, losses].

    """
    spans = spans or (Span(0, hidden_NH.shape[0], losses),)
    length = chunk or chunk_length(head.weight_VH.shape[0], hidden_NH.element_size())
    if not (torch.is_grad_enabled() and (hidden_NH.requires_grad or head.weight_VH.requires_grad)):
        sums = hidden_NH.new_zeros(groups, len(losses), dtype=torch.float64)
        for start, stop, own in _parts(spans, length):
            output, rows = Output(head.logits(hidden_NH[start:stop])), batch.rows(start, stop)
            signal = None if teacher is None else teacher.rows(start, stop)
            found = [(w.values(output, signal, rows), w.counts(output, signal, rows)) for w in own]
            sums += _sums(found, None if group_N is None else group_N[start:stop], groups)
        weights = sums.new_tensor([w.weight for w in losses])
        return (sums * weights).sum().float() / denominator, sums[0] if group_N is None else sums
    total, sums = _Chunked.apply(  # type: ignore[no-untyped-call]
        hidden_NH, head.weight_VH, head.bias_V, (spans, head, teacher, batch, denominator, length, group_N, groups)
    )
    return total, sums[0] if group_N is None else sums


def _parts(spans: Sequence[Span], length: int) -> Iterator[tuple[int, int, Sequence[WeightedLoss]]]:
    """The spans in chunks of at most so many positions."""
    for span in spans:
        for start in range(span.start, span.stop, length):
            yield start, min(start + length, span.stop), span.losses


def _sums(values_and_counts: Sequence[tuple[Tensor, Tensor]], group_N: Tensor | None, groups: int) -> Tensor:
    parts = [value_N.double() * count_N for value_N, count_N in values_and_counts]
    if group_N is None:
        return torch.stack([part_N.sum() for part_N in parts])[None]
    sums = parts[0].new_zeros(groups, len(parts))
    return sums.index_add_(0, group_N, torch.stack(parts, -1))


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, plan: Any) -> Any:
        spans, head, teacher, batch, denominator, length, group_N, groups = plan
        losses = spans[0].losses
        N, V = hidden_NH.shape[0], weight_VH.shape[0]
        hidden_NH, weight_VH = hidden_NH.detach(), weight_VH.detach()
        grad_hidden_NH = torch.empty_like(hidden_NH)
        grad_weight_VH = torch.empty_like(weight_VH) if ctx.needs_input_grad[1] else None
        begun = False  # the first product is written, others are added to it
        grad_bias_V = torch.zeros_like(bias_V) if bias_V is not None and ctx.needs_input_grad[2] else None
        sums = hidden_NH.new_zeros(groups, len(losses), dtype=torch.float64)
        head = Head(weight_VH, None if bias_V is None else bias_V.detach(), head.scale, head.softcap)
        closed = _closed_form(losses, head, teacher)
        length = min(length, max(N, 1))
        buffer_NV = hidden_NH.new_empty(length, V)
        teacher_NV = None
        if closed and teacher is not None and teacher.hidden_NH is not None:
            teacher_NV = teacher.hidden_NH.new_empty(length, teacher.vocabulary)

        for start, stop, own in _parts(spans, length):
            rows = batch.rows(start, stop)
            out = None if teacher_NV is None else teacher_NV[: stop - start]
            signal = None if teacher is None else teacher.rows(start, stop, out=out)
            logits_NV = torch.mm(hidden_NH[start:stop], weight_VH.t(), out=buffer_NV[: stop - start])
            if closed:
                output = Output(head.finish(logits_NV, inplace=True))
                counts = [w.counts(output, signal, rows) for w in own]
                values = closed(own, logits_NV, signal, rows, [count_N / denominator for count_N in counts])
            else:
                with torch.enable_grad():
                    leaf_NV = logits_NV.detach().requires_grad_()
                    output = Output(head.finish(leaf_NV))
                    counts = [w.counts(output, signal, rows) for w in own]
                    values = [w.values(output, signal, rows) for w in own]
                    parts = [w.weight * (v * c).sum() for w, v, c in zip(own, values, counts, strict=True)]
                    (grad_NV,) = torch.autograd.grad(torch.stack(parts).sum() / denominator, leaf_NV)
                values = [v.detach() for v in values]
                logits_NV.copy_(grad_NV)
            # from here on the buffer holds the gradient of the loss with respect to the product hidden · weightᵀ
            torch.mm(logits_NV, weight_VH, out=grad_hidden_NH[start:stop])
            if grad_weight_VH is not None:
                torch.addmm(grad_weight_VH, logits_NV.t(), hidden_NH[start:stop], beta=float(begun), out=grad_weight_VH)
                begun = True
            if grad_bias_V is not None:
                grad_bias_V += logits_NV.sum(0)
            found = list(zip(values, counts, strict=True))
            sums += _sums(found, None if group_N is None else group_N[start:stop], groups)

        if grad_weight_VH is not None and not begun:  # no positions
            grad_weight_VH.zero_()
        ctx.grads = (grad_hidden_NH, grad_weight_VH, grad_bias_V)
        ctx.mark_non_differentiable(sums)
        weights = sums.new_tensor([w.weight for w in losses])
        return ((sums * weights).sum() / denominator).float(), sums

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, _grad_sums: Any) -> Any:
        grads = ctx.grads
        del ctx.grads
        if float(grad_total) != 1.0:  # the usual case is one: spare a pass over the weight's gradient
            grads = tuple(None if g is None else g.mul_(grad_total.to(g.dtype)) for g in grads)
        return *grads, None


def _closed_form(losses: Sequence[WeightedLoss], head: Head, teacher: Signal | None) -> Any:
    """The in-place kernel, where the losses are one forward KL, one cross-entropy, or both, and the head is linear."""
    by_function = {w.loss: (index, w) for index, w in enumerate(losses)}
    soft, hard = by_function.get(forward_kl), by_function.get(cross_entropy)
    known = (soft is not None) + (hard is not None)
    if known != len(losses) or not head.plain or (soft and (teacher is None or teacher.shared is not None)):
        return None
    ours = teacher is not None and teacher.logits_NV is None  # logits of rows are made for us, and may be used up

    def kernel(
        own: Sequence[WeightedLoss], logits_NV: Tensor, signal: Signal | None, batch: Batch, counts: list[Tensor]
    ) -> list[Tensor]:
        temperature = float(own[soft[0]].options.get("temperature", 1.0)) if soft else 1.0
        nothing_N = torch.zeros_like(batch.weight_N)
        soft_N = counts[soft[0]] * soft[1].weight if soft else nothing_N
        hard_N = counts[hard[0]] * hard[1].weight if hard else nothing_N
        if soft is None or signal is None:
            kl_N, ce_N = kl_ce_(logits_NV, None, batch.labels_N, 1.0, soft_N, hard_N)
        elif signal.ids_NK is not None:
            logp_NS = tempered(signal, logits_NV.shape[-1], temperature)
            if signal.sampled:
                logp_NS = F.pad(logp_NS, (0, 1), value=-math.inf)
            kl_N, ce_N = topk_kl_ce_(logits_NV, signal.ids_NK, logp_NS, batch.labels_N, temperature, soft_N, hard_N)
        else:
            assert signal.logits_NV is not None
            theirs_NV = signal.logits_NV if ours else signal.logits_NV.clone()
            kl_N, ce_N = kl_ce_(logits_NV, theirs_NV, batch.labels_N, temperature, soft_N, hard_N)
        values: list[Tensor] = [kl_N] * len(losses)
        if hard is not None:
            values[hard[0]] = ce_N
        return values

    return kernel
