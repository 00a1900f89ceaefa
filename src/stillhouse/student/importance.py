"""How much each part of a teacher matters, measured on sample texts: channels, heads, layers.

Forward passes only, one document at a time. Widths after Muralidharan et al. 2024 (Minitron, arXiv:2407.14679), layers after Men
et al. 2024 (ShortGPT, arXiv:2403.03853) or by what their absence does to the perplexity (Minitron).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillhouse.errors import DataError, ModelError, fail
from stillhouse.models import Model
from stillhouse.student.families import family_of, parts_of

TOKENS = 4096
"""That channels, heads and block influence are measured on."""

PERPLEXITY_TOKENS = 1024
"""That every layer's absence is measured on: as many passes as there are layers."""

LONGEST = 512
"""Tokens of a document that are read."""

Sample = Callable[[], list[str]]
"""Gives some hundred training texts."""


@dataclass(frozen=True)
class Widths:
    """How much every part of the width matters; larger is more.

    Args:
        hidden_H: hidden channels, over all layers: they are one stream.
        groups_LG: key-value heads with the query heads that they serve, in each layer.
        intermediate_LF: feed-forward channels, in each layer.

    """

    hidden_H: Tensor
    groups_LG: Tensor
    intermediate_LF: Tensor


def widths(teacher: Model, texts: Sequence[str]) -> Widths:
    """Rank channels and heads by how strongly they are active.

    Each score is a mean over a document's tokens and an L2 norm over documents. Of a hidden channel: the absolute value that
    the norms give it, summed over all norms as in the paper, plus the absolute value in the embedding, both scaled to a mean
    of 1 (measured: ``docs/student.md``). Of a feed-forward channel: the root mean square of what it hands to the down
    projection; the paper takes it before the gate, but after it is what the layer uses. Of a head: the L2 norm of its output;
    of a group, the sum of its heads.

    Args:
        teacher: of a known family, with its weights.
        texts: what it is to be good at.

    Raises:
        ModelError: the family is not known.
        DataError: there is no text.

    """
    network = teacher.network
    family, size = family_of(network), family_of(network).size(network.config)
    totals: dict[str, Tensor] = {}
    norms = norms_of(teacher)
    layers = {f"{kind} {i}": layer.get_submodule(path) for i, layer in enumerate(teacher.layers)
              for kind, path in (("heads", family.attention_out), ("ffn", family.ffn_out))}  # fmt: skip

    def add(name: str, score: Tensor) -> None:
        totals[name] = totals.get(name, torch.zeros(())) + score.double().square()

    def leaving(name: str, _args: Any, out: Tensor) -> None:
        add(name, out.abs().float().mean((0, 1)))

    def entering(name: str, args: Any, _out: Tensor) -> None:
        x = args[0].float()
        if name.startswith("ffn"):
            add(name, x.square().mean((0, 1)).sqrt())
        else:
            heads = x.unflatten(-1, (size.groups, -1, size.head_width)).norm(dim=-1).mean((0, 1))
            add(name, heads.sum(-1))

    embedding = {"embedding": network.get_input_embeddings()}
    with watching({**norms, **embedding}, leaving), watching(layers, entering):
        for ids_1P in documents(teacher, texts, TOKENS):
            teacher.trunk(input_ids=ids_1P, use_cache=False)
    scores = {name: total.sqrt() for name, total in totals.items()}
    normed_H = torch.stack([scores[name] for name in norms if name in scores]).sum(0)
    return Widths(
        normed_H / normed_H.mean() + scores["embedding"] / scores["embedding"].mean(),
        torch.stack([scores[f"heads {i}"] for i in range(size.layers)]),
        torch.stack([scores[f"ffn {i}"] for i in range(size.layers)]),
    )


def norm_gains(teacher: Model, texts: Sequence[str], hidden: Tensor) -> dict[str, float]:
    """What each norm must be multiplied by when only some hidden channels are left.

    A norm divides by the root mean square (or standard deviation) of what is there. The channels kept are the strong ones, so
    theirs is larger than that of all, and everything behind the norm would read smaller numbers than it was trained on. The
    gain is the least-squares factor from the kept channels normalised among themselves to the same channels normalised
    among all, over the sample.

    Args:
        teacher: of a known family, with its weights.
        texts: the sample.
        hidden: channels kept.

    Returns:
        by the norm's name.

    Raises:
        DataError: there is no text.

    """
    sums: dict[str, list[float]] = {}
    norms = norms_of(teacher)

    def leaving(name: str, args: Any, _out: Tensor) -> None:
        x = args[0].float()
        centred = isinstance(norms[name], nn.LayerNorm)
        all_H, kept_H = _normalised(x, centred)[..., hidden], _normalised(x[..., hidden], centred)
        found = sums.setdefault(name, [0.0, 0.0])
        found[0] += float((all_H * kept_H).sum())
        found[1] += float(kept_H.square().sum())

    with watching(norms, leaving):
        for ids_1P in documents(teacher, texts, TOKENS):
            teacher.trunk(input_ids=ids_1P, use_cache=False)
    return {name: both / square for name, (both, square) in sums.items()}


def norms_of(teacher: Model) -> dict[str, nn.Module]:
    """The norms over hidden channels, by their name in the network."""
    names = [name for name, part in parts_of(teacher.network).items() if part.axes == "H" and part.norm]
    return {name.removesuffix(".weight"): teacher.network.get_submodule(name.removesuffix(".weight")) for name in names}


def block_influence(teacher: Model, texts: Sequence[str]) -> Tensor:
    """How much each layer turns what it reads: 1 − cosine between a layer's input and output, mean over tokens.

    Men et al. 2024 (ShortGPT), arXiv:2403.03853.

    Args:
        teacher: any model whose layers are known.
        texts: the sample.

    Returns:
        [layers].

    Raises:
        DataError: there is no text.

    """
    turned = [0.0] * len(teacher.layers)
    tokens = 0

    def passed(name: str, args: Any, out: Any) -> None:
        cosine = F.cosine_similarity(args[0].float(), _states(out).float(), dim=-1)
        turned[int(name)] += float((1.0 - cosine).sum())

    with watching({str(i): layer for i, layer in enumerate(teacher.layers)}, passed):
        for ids_1P in documents(teacher, texts, TOKENS):
            teacher.trunk(input_ids=ids_1P, use_cache=False)
            tokens += ids_1P.shape[1]
    return torch.tensor(turned) / tokens


def perplexity_change(teacher: Model, texts: Sequence[str]) -> Tensor:
    """What the loss rises by, in nats a token, when a layer alone is skipped: the logarithm of the perplexity's factor.

    Muralidharan et al. 2024 (Minitron), arXiv:2407.14679; Kim et al. 2024 (Shortened LLaMA), arXiv:2402.02834.

    Args:
        teacher: a causal language model.
        texts: the sample.

    Returns:
        [layers]; negative where the teacher is better without.

    Raises:
        ModelError: the teacher predicts no next tokens.
        DataError: there is no text.

    """
    if not teacher.network.can_generate():
        what = f"a {type(teacher.network).__name__} predicts no next tokens, so it has no perplexity"
        raise fail(ModelError, "student.by", what, "Take by=block_influence.")

    def loss() -> float:
        total, tokens = 0.0, 0
        for ids_1P in documents(teacher, texts, PERPLEXITY_TOKENS):
            logits_PV = teacher.network(input_ids=ids_1P, use_cache=False).logits[0, :-1].float()
            total += float(F.cross_entropy(logits_PV, ids_1P[0, 1:], reduction="sum"))
            tokens += ids_1P.shape[1] - 1
        return total / tokens

    def skip(_name: str, args: Any, out: Any) -> Any:
        return args[0] if isinstance(out, Tensor) else (args[0], *out[1:])

    whole = loss()
    rises = []
    for layer in teacher.layers:
        with watching({"": layer}, skip):
            rises.append(loss() - whole)
    return torch.tensor(rises)


def token_counts(teacher: Model, texts: Sequence[str], vocabulary: int) -> Tensor:
    """How often each token comes in the texts, and once more, [V].

    Args:
        teacher: whose tokens.
        texts: the sample.
        vocabulary: V.

    """
    ids = [i for text in texts for i in teacher.tokenizer(text, verbose=False)["input_ids"]]
    return torch.bincount(torch.tensor(ids, dtype=torch.int64), minlength=vocabulary) + 1


def documents(teacher: Model, texts: Sequence[str], tokens: int) -> Iterator[Tensor]:
    """Token ids [1, P] of the texts, document by document, while the teacher is ready to read them.

    Args:
        teacher: whose tokenizer reads them; in eval mode with no gradients meanwhile.
        texts: the sample.
        tokens: how many to give in all; every document is cut to ``LONGEST``.

    Raises:
        DataError: no text has two tokens.

    """
    longest = min(LONGEST, getattr(teacher.config, "max_position_embeddings", LONGEST) - 2)  # RoBERTa's begin at 2
    device = next(teacher.parameters()).device
    given = 0
    with teacher.generating(), torch.no_grad():
        for text in texts:
            room = min(longest, tokens - given)
            ids = teacher.tokenizer(text, truncation=True, max_length=room)["input_ids"] if room > 1 else []
            if len(ids) < 2:
                continue
            yield torch.tensor([ids], device=device)
            given += len(ids)
    if not given:
        raise fail(DataError, "student", "there is no text to measure importance on", "Check data.sources.")


@contextmanager
def watching(modules: dict[str, nn.Module], look: Callable[[str, Any, Any], Any]) -> Iterator[None]:
    """Call ``look(name, arguments, output)`` whenever a module has run; what it returns, if anything, replaces the output."""
    handles = [
        module.register_forward_hook(lambda _module, args, out, name=name: look(name, args, out))
        for name, module in modules.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _states(out: Any) -> Tensor:
    """A layer's hidden states, which some return in a tuple."""
    states: Tensor = out if isinstance(out, Tensor) else out[0]
    return states


def _normalised(x: Tensor, centred: bool) -> Tensor:
    """What a norm makes of x before its weight."""
    x = x - x.mean(-1, keepdim=True) if centred else x
    return x * x.square().mean(-1, keepdim=True).clamp_min(1e-12).rsqrt()
