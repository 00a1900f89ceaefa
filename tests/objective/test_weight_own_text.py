"""Weights by who wrote the text."""

from __future__ import annotations

from dataclasses import replace

import torch
from shared import make_batch

from stillhouse.objective.weights.own_text import own_text


def test_each_position_has_the_weight_of_its_kind():
    batch = make_batch([3, 4], 50)
    truth = torch.tensor([1.0, 0, 0, 1, 1, 0, 1])
    mixed = replace(batch, truth_N=truth)
    for inside, outside in ((1.0, 0.0), (0.0, 1.0), (0.25, 3.0)):
        found = own_text(mixed, inside=inside, outside=outside)
        assert found.tolist() == [outside if t else inside for t in truth.tolist()]
        assert own_text(batch, inside=inside, outside=outside).tolist() == [outside] * 7
    assert own_text(mixed).tolist() == (1 - truth).tolist()
