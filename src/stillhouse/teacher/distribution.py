"""What a teacher knows that a label does not: its distribution after a prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from stillhouse import recipe
from stillhouse.models import Model
from stillhouse.teacher import load


@dataclass(frozen=True)
class Inspection:
    """A teacher's next-token distribution at several temperatures.

    Args:
        prompt: the text before.
        teacher: its name.
        temperatures: as asked.
        tokens: the likeliest next tokens as text, likeliest first.
        ids: their ids.
        probabilities: temperature → probability of each of the tokens.
        rest: temperature → probability of all others together.
        entropy: temperature → entropy of the whole distribution, in bits.
        hidden: share of the probability that a hard label, which names only the first token, would have hidden, at T = 1.

    """

    prompt: str
    teacher: str
    temperatures: tuple[float, ...]
    tokens: tuple[str, ...]
    ids: tuple[int, ...]
    probabilities: dict[float, tuple[float, ...]]
    rest: dict[float, float]
    entropy: dict[float, float]
    hidden: float


@torch.no_grad()
def inspect(
    teacher: Model | recipe.Teacher | str,
    prompt: str,
    *,
    temperatures: Sequence[float] = (1.0, 2.0, 4.0),
    top: int = 10,
) -> Inspection:
    """Look at what a teacher would say after a prompt: soft targets made visible.

    Args:
        teacher: the model, a recipe's section that names it, or what a recipe may say in a word: hub id, folder, file.
        prompt: the text before; empty for the start of a document.
        temperatures: logits are divided by each.
        top: how many tokens to name.

    Raises:
        ModelError: the teacher cannot be loaded.

    """
    section = recipe.as_teacher(teacher) if isinstance(teacher, str) else teacher
    model = section if isinstance(section, Model) else load(section).model
    ids = model.tokenizer(prompt, return_tensors="pt").input_ids
    if not ids.numel():
        start = model.tokenizer.bos_token_id or model.tokenizer.eos_token_id or 0
        ids = torch.tensor([[start]])
    with model.generating() as network:
        logits_V = network(input_ids=ids, use_cache=False).logits[0, -1].double()
    chosen = logits_V.topk(min(top, len(logits_V))).indices
    probabilities, rest, entropy = {}, {}, {}
    for temperature in temperatures:
        p_V = torch.softmax(logits_V / temperature, -1)
        probabilities[temperature] = tuple(p_V[chosen].tolist())
        rest[temperature] = max(0.0, 1.0 - float(p_V[chosen].sum()))
        entropy[temperature] = float(-(p_V * torch.log(p_V.clamp_min(1e-300))).sum() / math.log(2))
    hidden = 1.0 - float(torch.softmax(logits_V, -1).max())
    tokens = tuple(model.tokenizer.decode([i]) for i in chosen.tolist())
    return Inspection(
        prompt, model.name, tuple(temperatures), tokens, tuple(chosen.tolist()), probabilities, rest, entropy, hidden
    )
