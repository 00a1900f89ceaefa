"""A teacher's own loss on the text, told before training."""

from __future__ import annotations

import math

import pytest
import torch
from shared import make_batch, make_llama, make_tokenizer

from stillhouse.teacher import Teacher
from stillhouse.teacher.quality import quality


def test_quality_equals_its_definition():
    teacher = Teacher(make_llama(make_tokenizer(), layers=1, seed=4))
    batch = make_batch([9, 5], 300)
    counts = torch.arange(len(teacher.tokenizer)).float()
    sizes = torch.arange(1, 15)
    found = quality(teacher, [(batch, sizes)], counts)
    logits = teacher.signal(batch).rows(0, 14).logits_NV
    bits, floor, top, right = 0.0, 0.0, 0.0, 0
    for n, label in enumerate(batch.labels_N.tolist()):
        p = [math.exp(x) for x in logits[n].tolist()]
        bits -= math.log2(p[label] / sum(p))
        floor -= math.log2((counts[label].item() + 1) / (counts.sum().item() + len(counts)))
        top += max(p) / sum(p)
        right += p[label] == max(p)
    assert found.positions == 14
    assert found.bits_per_byte == pytest.approx(bits / sizes.sum().item(), rel=1e-4)
    assert found.floor_bits_per_byte == pytest.approx(floor / sizes.sum().item(), rel=1e-4)
    assert found.confidence == pytest.approx(top / 14, rel=1e-4)
    assert found.accuracy == pytest.approx(right / 14)
    assert not found.useful  # it was never trained: worse than counts


def test_a_truncated_teacher_is_not_judged():
    teacher = Teacher(make_llama(make_tokenizer(), layers=1))
    teacher.forms = frozenset({"topk"})
    assert quality(teacher, [], torch.ones(3)) is None
