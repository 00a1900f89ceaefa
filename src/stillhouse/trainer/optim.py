"""The optimiser: AdamW, its learning rate, and the norm of the gradient."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from stillhouse.recipe import Trainer
from stillhouse.trainer.distributed import whole


def learning_rate(step: int, section: Trainer) -> float:
    """The learning rate of a step, counted from 0.

    Rises in a straight line over the first ``warmup`` share of the steps (the first step is not zero), then falls from
    the highest rate to ``final_learning_rate`` times it at the last step: along half a cosine (Loshchilov & Hutter
    2017, arXiv:1608.03983, without restarts), in a straight line, or not at all.
    """
    rising = round(section.warmup * section.steps)
    if step < rising:
        return section.learning_rate * (step + 1) / (rising + 1)
    done = min(1.0, (step - rising) / max(1, section.steps - 1 - rising))
    left = {
        "cosine": (1.0 + math.cos(math.pi * done)) / 2.0,
        "linear": 1.0 - done,
        "constant": 1.0,
    }[section.schedule]
    final = section.final_learning_rate
    return section.learning_rate * (final + (1.0 - final) * left)


def make_optimiser(parameters: Mapping[str, nn.Parameter], section: Trainer) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) with decay on matrices only, its whole state there at once.

    Vectors (norms, biases, gains) are not decayed. The moments are made now and not at the first step, so that a
    checkpoint has tensors to be read into.

    Args:
        parameters: name → parameter; tied ones once.
    """
    trained = [p for p in parameters.values() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": section.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    # One fused kernel is about seven times faster than the loop over tensors, on CPUs too.
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in trained)
    optimiser = torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=section.learning_rate, betas=section.betas, fused=fused
    )
    for p in trained:
        on = p.device if fused else torch.device("cpu")
        optimiser.state[p] = {
            "step": torch.zeros((), dtype=torch.float32, device=on),
            "exp_avg": torch.zeros_like(p, memory_format=torch.preserve_format).detach(),
            "exp_avg_sq": torch.zeros_like(p, memory_format=torch.preserve_format).detach(),
        }
    return optimiser


def moments(parameters: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as flat named tensors: ``optim.<parameter>.exp_avg`` and so on."""
    return {
        f"optim.{name}.{key}": optimiser.state[p][key]
        for name, p in parameters.items()
        if p.requires_grad
        for key in ("step", "exp_avg", "exp_avg_sq")
    }


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The 2-norm of all gradients as one vector, over all slices of all processes; collective if they are sharded."""
    return whole(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))


def clip(parameters: Iterable[nn.Parameter], largest: float, norm: Tensor) -> None:
    """Scale gradients down so that their norm is at most ``largest`` (Pascanu et al. 2013, arXiv:1211.5063)."""
    torch.nn.utils.clip_grads_with_norm_([p for p in parameters if p.grad is not None], largest, norm)
