"""Classification is the same flow: N sequences with C classes go through the same types, losses and loop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from shared import make_tokenizer

from stillhouse.models import Model
from stillhouse.objective import Learner
from stillhouse.recipe import Objective, Trainer
from stillhouse.student.builders.drop_layers import drop_layers
from stillhouse.teacher import Teacher
from stillhouse.trainer import train
from stillhouse.types import Batch

CLASSES = 3


class Sequences:
    """Sequences whose class is their last token modulo three, as the data stage would hand them on."""

    def step(
        self, step: int, *, tokens_per_step: int, micro_tokens: int, rank: int, world: int, seed: int
    ) -> list[Batch]:
        return [self.batch(100 * step + j) for j in range(tokens_per_step // micro_tokens)]

    def all(self, micro_tokens: int, max_tokens: int | None = None) -> Iterator[Batch]:
        yield from (self.batch(10_000 + j) for j in range(4))

    @staticmethod
    def batch(seed: int) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(3, 9, (8,), generator=generator).tolist()
        ids = torch.randint(3, 60, (sum(lengths),), generator=generator)
        borders = torch.tensor([0, *lengths]).cumsum(0)
        last = borders[1:] - 1
        return Batch(
            input_ids_P=ids,
            position_ids_P=torch.cat([torch.arange(n) for n in lengths]),
            borders_D1=tuple(borders.tolist()),
            select_N=last,
            labels_N=ids[last] % CLASSES,
            weight_N=torch.ones(8),
            document_N=torch.arange(8),
        )


def accuracy(model: Model) -> float:
    hits = [
        (model.head.logits(model(batch)[0]).argmax(-1) == batch.labels_N).float().mean().item()
        for batch in Sequences().all(64)
    ]
    return sum(hits) / len(hits)


def test_a_classifier_learns_its_task_and_then_teaches_it(tmp_path: Path):
    config = transformers.LlamaConfig(
        vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_labels=CLASSES, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    teacher = Model(transformers.LlamaForSequenceClassification(config), make_tokenizer(), "teacher")
    section = Trainer(
        steps=80,
        tokens_per_step=64,
        micro_tokens=32,
        dtype="float32",
        learning_rate=1e-2,
        validate_every=None,
        threads=1,
    )
    learner = Learner(teacher, Objective(), section.steps, teacher=False)
    train(learner, None, Sequences(), None, section, tmp_path / "teacher", fingerprint="teacher")
    with torch.no_grad():
        assert accuracy(teacher) > 0.9

    student = drop_layers(teacher, list, keep=1)
    torch.nn.init.normal_(student.head_layer.weight, std=0.02)
    with torch.no_grad():
        before = accuracy(student)
    learner = Learner(student, Objective(alpha=1.0, temperature=2.0), section.steps)  # the teacher's word alone
    train(learner, Teacher(teacher), Sequences(), Sequences(), section, tmp_path / "student", fingerprint="student")
    with torch.no_grad():
        assert before < 0.7 < 0.85 < accuracy(student)


def test_the_loss_is_the_definition_over_classes():
    torch.manual_seed(1)
    config = transformers.LlamaConfig(vocab_size=320, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_labels=CLASSES, pad_token_id=0)  # fmt: skip
    teacher, student = (Model(transformers.LlamaForSequenceClassification(config), make_tokenizer(), n) for n in "ts")
    batch = Sequences.batch(0)
    loss, parts = Learner(student, Objective(alpha=0.5, temperature=3.0), 10)(
        batch, Teacher(teacher).signal(batch), 8.0, 0
    )
    s, t = (m.head.logits(m(batch)[0]).double() for m in (student, teacher))
    kl = ce = 0.0
    for n in range(8):
        p, q = torch.softmax(t[n] / 3, -1), torch.softmax(s[n] / 3, -1)
        kl += 9 * sum((p[c] * torch.log(p[c] / q[c])).item() for c in range(CLASSES))
        ce -= torch.log(torch.softmax(s[n], -1)[batch.labels_N[n]]).item()
    assert parts == pytest.approx({"forward_kl": kl, "cross_entropy": ce}, rel=1e-4)
    assert loss.item() == pytest.approx((0.5 * kl + 0.5 * ce) / 8, rel=1e-4)
