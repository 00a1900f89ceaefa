"""Attention over documents laid one after another, against each document alone, weight by weight."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from stillhouse.attention import SHORT, packed_attention

HEADS, GROUPS, WIDTH = 4, 2, 8
LENGTHS = {
    "alike": [5, 5, 5],
    "short": [1, 17, 3, 16, 30, 31, 2],
    "around the bound": [SHORT, SHORT + 1, SHORT - 1, 4, SHORT + 1],
    "one": [9],
    "alike but apart": [5, SHORT + 2, 5],
    "long ones": [SHORT + 3, SHORT + 3, SHORT + 9],
}


def slowly(
    query: Tensor, key: Tensor, value: Tensor, *, causal: bool, window: int | None, softcap: float | None
) -> Tensor:
    """One document, [T, heads, width] each: every token's mean of the values it sees, by exponentials of scores."""
    length = query.shape[0]
    rows = []
    for token in range(length):
        last = token if causal else length - 1
        seen = [t for t in range(last + 1) if window is None or abs(token - t) < window]
        for head in range(HEADS):
            group = head * GROUPS // HEADS
            scores = [float(query[token, head] @ key[t, group]) / math.sqrt(WIDTH) for t in seen]
            if softcap is not None:
                scores = [softcap * math.tanh(s / softcap) for s in scores]
            weights = [math.exp(s) for s in scores]
            rows.append(sum(w * value[t, group] for w, t in zip(weights, seen, strict=True)) / sum(weights))
    return torch.stack(rows).view(length, HEADS, WIDTH)


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=list(LENGTHS))
def test_each_document_as_if_it_were_alone(
    lengths: list[int], causal: bool, window: int | None, softcap: float | None
) -> None:
    torch.manual_seed(0)
    total = sum(lengths)
    heads = (HEADS, GROUPS, GROUPS)
    query, key, value = (torch.randn(1, h, total, WIDTH, dtype=torch.float64, requires_grad=True) for h in heads)
    borders = (0, *torch.tensor(lengths).cumsum(0).tolist())
    layer = nn.Module()
    layer.is_causal = causal
    options = {"sliding_window": window, "softcap": softcap}
    near = {} if softcap is None else {"rtol": 1e-5, "atol": 1e-5}  # with a cap the softmax is float32
    out, _ = packed_attention(layer, query, key, value, None, borders=borders, **options)
    assert out.shape == (1, total, HEADS, WIDTH)
    out.square().sum().backward()
    for document in {0, len(lengths) // 2, len(lengths) - 1}:
        start, stop = borders[document], borders[document + 1]
        if stop - start > 40:  # loops are slow: their first tokens, which in a window see no others
            if not causal:
                continue
            stop = start + 20
        alone = [x[0, :, start:stop].detach().transpose(0, 1) for x in (query, key, value)]
        expected = slowly(*alone, causal=causal, window=window, softcap=softcap)
        torch.testing.assert_close(out[0, start:stop].detach(), expected, **near)
    for document in range(len(lengths)):
        start, stop = borders[document], borders[document + 1]
        parts = [x[:, :, start:stop].detach().requires_grad_() for x in (query, key, value)]
        one, _ = packed_attention(layer, *parts, None, borders=(0, stop - start), **options)
        one.square().sum().backward()
        for whole, part in zip((query, key, value), parts, strict=True):
            torch.testing.assert_close(whole.grad[:, :, start:stop], part.grad, **near)
