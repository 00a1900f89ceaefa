"""What the models write when they are let: the same prompts, side by side, greedily."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from stillhouse.models import Model, writing_by
from stillhouse.types import Batch, Signal


@torch.no_grad()
def samples(
    prompts: Sequence[str],
    models: Mapping[str, Model],
    new_tokens: int,
    end: Callable[[Any], int],
    tick: Callable[[int], None],
    signal: Callable[[Batch], Signal] | None = None,
) -> list[dict[str, Any]]:
    """Continue each prompt with each model, taking the likeliest token each time.

    Args:
        prompts: texts to continue.
        models: role → model.
        new_tokens: of each continuation, at most.
        end: a tokenizer → the id of the token that ends a text.
        tick: called with 1 after each continuation.
        signal: how the teacher speaks, where it is not its model alone that does: token by token.

    Returns:
        for each prompt the texts by role, and whether the model ended it (``eos``) or the length did.

    """
    found: list[dict[str, Any]] = [{"prompt": prompt, "texts": {}, "stop": {}} for prompt in prompts]
    for role, model in models.items():
        last = end(model.tokenizer)
        ends = [last] if model.tokenizer.eos_token_id in (None, last) else [last, model.tokenizer.eos_token_id]
        if role == "teacher" and signal is not None:
            for entry in found:
                out = _greedily(signal, model.tokenizer(entry["prompt"]).input_ids or [last], new_tokens, ends)
                _enter(entry, role, model, out, ends)
                tick(1)
            continue
        config = GenerationConfig(max_new_tokens=new_tokens, do_sample=False, eos_token_id=ends, pad_token_id=last)
        with model.generating() as network, writing_by(network, config):
            for entry in found:
                given = model.tokenizer(entry["prompt"], return_tensors="pt")
                ids = given.input_ids if given.input_ids.numel() else torch.tensor([[last]])
                ids = ids.to(network.device)
                out = network.generate(ids, attention_mask=torch.ones_like(ids))[0, ids.shape[1] :].tolist()
                _enter(entry, role, model, out, ends)
                tick(1)
    return found


def _enter(entry: dict[str, Any], role: str, model: Model, out: list[int], ends: list[int]) -> None:
    stopped = bool(out) and out[-1] in ends
    entry["texts"][role] = model.tokenizer.decode(out[:-1] if stopped else out)
    entry["stop"][role] = "eos" if stopped else "length"


def _greedily(signal: Callable[[Batch], Signal], given: list[int], new_tokens: int, ends: list[int]) -> list[int]:
    """The likeliest next token by the teacher's signal, again and again."""
    out: list[int] = []
    while len(out) < new_tokens and not (out and out[-1] in ends):
        ids_P = torch.tensor(given + out)
        last_N = torch.tensor([len(ids_P) - 1])
        none_N = torch.zeros(1, dtype=torch.int64)
        batch = Batch(ids_P, torch.arange(len(ids_P)), (0, len(ids_P)), last_N, none_N, torch.ones(1), none_N, ("",))
        said = signal(batch).rows(0, 1)
        if said.dense:
            assert said.logits_NV is not None
            out.append(int(said.logits_NV[0].argmax()))
        else:
            assert said.ids_NK is not None and said.logp_NK is not None
            out.append(int(said.ids_NK[0, said.logp_NK[0].argmax()]))
    return out
