"""Where the student wrote the text itself."""

from __future__ import annotations

from torch import Tensor

from stillhouse.types import Batch


def own_text(batch: Batch, *, inside: float = 1.0, outside: float = 0.0) -> Tensor:
    """Different weights on the student's own text and on given text: each divergence where it belongs.

    For ``soft: {name: forward_kl, weights: {name: own_text, inside: 0, outside: 1}}`` with
    ``terms: {name: reverse_kl, weights: own_text}``: forward KL where the text is given, reverse KL where the student wrote.

    Args:
        batch: with ``truth_N``; without it all text is given.
        inside: weight on positions of the student's own text.
        outside: weight on all others.

    Returns:
        the weights, [N].

    """
    if batch.truth_N is None:
        return batch.weight_N.new_full(batch.weight_N.shape, outside)
    return inside + (outside - inside) * batch.truth_N
