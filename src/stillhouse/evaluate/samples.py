"""What the models write when they are let: the same prompts, side by side, greedily."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from stillhouse.models import Model


@torch.no_grad()
def samples(
    prompts: Sequence[str], models: Mapping[str, Model], new_tokens: int, end: int, tick: Callable[[int], None]
) -> list[dict[str, Any]]:
    """Continue each prompt with each model, taking the likeliest token each time.

    Args:
        prompts: texts to continue.
        models: role → model.
        new_tokens: of each continuation, at most.
        end: id of the token that ends a text.
        tick: called with 1 after each continuation.

    Returns:
        for each prompt the texts by role, and whether the model ended it (``eos``) or the length did.

    """
    found: list[dict[str, Any]] = [{"prompt": prompt, "texts": {}, "stop": {}} for prompt in prompts]
    for role, model in models.items():
        ends = [end] if model.tokenizer.eos_token_id in (None, end) else [end, model.tokenizer.eos_token_id]
        with model.generating() as network:
            for entry in found:
                given = model.tokenizer(entry["prompt"], return_tensors="pt")
                ids = given.input_ids if given.input_ids.numel() else torch.tensor([[end]])
                ids = ids.to(network.device)
                out = network.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=new_tokens,
                    do_sample=False,
                    eos_token_id=ends,
                    pad_token_id=end,
                )[0, ids.shape[1] :].tolist()
                stopped = bool(out) and out[-1] in ends
                entry["texts"][role] = model.tokenizer.decode(out[:-1] if stopped else out)
                entry["stop"][role] = "eos" if stopped else "length"
                tick(1)
    return found
