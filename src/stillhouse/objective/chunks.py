"""The vocabulary a few positions at a time, around any loss: no [N, V] tensor ever exists.

The gradient is made in the same pass as the loss: a chunk's logits are computed, turned into loss and gradient, and dropped,
so that the backward pass recomputes nothing. For the two losses of nearly every run there is a closed form that works in
place (``rows``); any other loss gets autograd over its chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from stillhouse.objective.losses.cross_entropy import cross_entropy
from stillhouse.objective.losses.forward_kl import forward_kl
from stillhouse.rows import kl_ce_
from stillhouse.types import Batch, Head, Loss, Output, Signal

BUFFER_BYTES = 48 * 2**20
"""What one buffer of a chunk's logits may take, unless the recipe says how long a chunk is."""


@dataclass(frozen=True)
class WeightedLoss:
    """A loss over outcomes as it is at one step.

    Args:
        name: what its value is logged as.
        loss: the function.
        weight: what it is multiplied by.
        options: its options.

    """

    name: str
    loss: Loss
    weight: float
    options: dict[str, Any] = field(default_factory=dict)


def chunk_length(outcomes: int, itemsize: int = 4) -> int:
    """How many positions' logits fit the buffer: a power of two from 16 to 1,024."""
    fits = BUFFER_BYTES // (itemsize * outcomes)
    return max(16, min(1024, 1 << max(fits, 1).bit_length() - 1))


def chunked(
    losses: Sequence[WeightedLoss],
    hidden_NH: Tensor,
    head: Head,
    teacher: Signal | None,
    batch: Batch,
    denominator: float,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Σ over positions and losses of ``weight · weight_N · loss`` divided by ``denominator``, differentiable.

    Args:
        losses: what to add up.
        hidden_NH: student's hidden states before the head.
        head: the student's.
        teacher: what the teacher says of the same positions; None where no loss needs it.
        batch: for labels and weights per position.
        denominator: what the sum is divided by: the step's count of positions over all micro-batches and processes.
        chunk: positions at a time.

    Returns:
        the scalar, and each loss's own sum over positions (weighted by ``weight_N`` only), [losses].

    """
    length = chunk or chunk_length(head.weight_VH.shape[0], hidden_NH.element_size())
    if not (torch.is_grad_enabled() and (hidden_NH.requires_grad or head.weight_VH.requires_grad)):
        sums = hidden_NH.new_zeros(len(losses), dtype=torch.float64)
        for start in range(0, hidden_NH.shape[0], length):
            stop = min(start + length, hidden_NH.shape[0])
            values = _losses(losses, head.logits(hidden_NH[start:stop]), teacher, batch, start, stop)
            sums += torch.stack([(v * batch.weight_N[start:stop]).sum() for v in values])
        weights = sums.new_tensor([w.weight for w in losses])
        return (sums * weights).sum().float() / denominator, sums
    total, sums = _Chunked.apply(  # type: ignore[no-untyped-call]
        hidden_NH, head.weight_VH, head.bias_V, (losses, head, teacher, batch, denominator, length)
    )
    return total, sums


def _losses(
    losses: Sequence[WeightedLoss], logits_NV: Tensor, teacher: Signal | None, batch: Batch, start: int, stop: int
) -> list[Tensor]:
    """Each loss at positions ``start:stop``, [stop − start] each, in float64 for the sums."""
    output = Output(logits_NV)
    signal = teacher.rows(start, stop) if teacher is not None else None
    rows = batch.rows(start, stop)
    return [w.loss(output, signal, rows, **w.options).double() for w in losses]


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, plan: Any) -> Any:
        losses, head, teacher, batch, denominator, length = plan
        N, V = hidden_NH.shape[0], weight_VH.shape[0]
        hidden_NH, weight_VH = hidden_NH.detach(), weight_VH.detach()
        grad_hidden_NH = torch.empty_like(hidden_NH)
        grad_weight_VH = torch.zeros_like(weight_VH) if ctx.needs_input_grad[1] else None
        grad_bias_V = torch.zeros_like(bias_V) if bias_V is not None and ctx.needs_input_grad[2] else None
        sums = hidden_NH.new_zeros(len(losses), dtype=torch.float64)
        head = Head(weight_VH, None if bias_V is None else bias_V.detach(), head.scale, head.softcap)
        closed = _closed_form(losses, head, teacher)
        length = min(length, max(N, 1))
        buffer_NV = hidden_NH.new_empty(length, V)
        teacher_NV = None
        if closed and teacher is not None and teacher.hidden_NH is not None:
            teacher_NV = teacher.hidden_NH.new_empty(length, teacher.vocabulary)

        for start in range(0, N, length):
            stop = min(start + length, N)
            weight_N = batch.weight_N[start:stop] / denominator
            logits_NV = torch.mm(hidden_NH[start:stop], weight_VH.t(), out=buffer_NV[: stop - start])
            if closed:
                out = None if teacher_NV is None else teacher_NV[: stop - start]
                values = closed(head.finish(logits_NV, inplace=True), teacher, batch, start, stop, weight_N, out)
            else:
                with torch.enable_grad():
                    leaf_NV = logits_NV.detach().requires_grad_()
                    values = _losses(losses, head.finish(leaf_NV), teacher, batch, start, stop)
                    total = sum((w.weight * (v * weight_N).sum() for w, v in zip(losses, values, strict=True)))
                    (grad_NV,) = torch.autograd.grad(total, leaf_NV)
                values = [v.detach() for v in values]
                logits_NV.copy_(grad_NV)
            # from here on the buffer holds the gradient of the loss with respect to the product hidden · weightᵀ
            torch.mm(logits_NV, weight_VH, out=grad_hidden_NH[start:stop])
            if grad_weight_VH is not None:
                grad_weight_VH.addmm_(logits_NV.t(), hidden_NH[start:stop])
            if grad_bias_V is not None:
                grad_bias_V += logits_NV.sum(0)
            sums += torch.stack([(v.double() * batch.weight_N[start:stop]).sum() for v in values])

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
    if known != len(losses) or not head.plain or (soft and (teacher is None or not teacher.dense)):
        return None

    def kernel(
        logits_NV: Tensor,
        signal: Signal | None,
        batch: Batch,
        start: int,
        stop: int,
        weight_N: Tensor,
        out: Tensor | None,
    ) -> list[Tensor]:
        teacher_NV = None
        if soft is not None and signal is not None:
            teacher_NV = signal.rows(start, stop, out=out).logits_NV
            if out is None and teacher_NV is not None:
                teacher_NV = teacher_NV.clone()  # the kernel uses it up, and it is not ours
        temperature = float(soft[1].options.get("temperature", 1.0)) if soft else 1.0
        soft_N = weight_N * (soft[1].weight if soft else 0.0)
        hard_N = weight_N * (hard[1].weight if hard else 0.0)
        kl_N, ce_N = kl_ce_(logits_NV, teacher_NV, batch.labels_N[start:stop], temperature, soft_N, hard_N)
        values: list[Tensor] = [kl_N] * len(losses)
        if hard is not None:
            values[hard[0]] = ce_N
        return values

    return kernel
