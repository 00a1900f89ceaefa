"""Traps in what is concluded: 21 (a bad teacher), 22 (texts without end), 23 (losses that promise), 24 (chance)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from shared import make_batch, make_llama, make_tokenizer
from torch import nn

from stillhouse import recipe
from stillhouse.data.render import NO_LOSS, Rendered, end_token, tokenise
from stillhouse.errors import DataError
from stillhouse.evaluate.gates import combine
from stillhouse.evaluate.measures.benefit import benefit
from stillhouse.evaluate.measures.fidelity import fidelity
from stillhouse.evaluate.measures.performance import performance
from stillhouse.evaluate.records import Items, Scores
from stillhouse.evaluate.samples import samples
from stillhouse.evaluate.statistics import retention
from stillhouse.models import Model
from stillhouse.report.samples import endless, manners
from stillhouse.run import tell_quality
from stillhouse.teacher import Teacher
from stillhouse.teacher.quality import quality
from stillhouse.types import Batch, Signal

TOKENIZER = make_tokenizer()


class Knowing(Teacher):
    """Gives the true next token half of the probability."""

    def signal(self, batch: Batch, want: frozenset[str] = frozenset()) -> Signal:
        outcomes = self.model.outcomes
        logits = torch.zeros(len(batch.labels_N), outcomes)
        return Signal(logits_NV=logits.scatter_(1, batch.labels_N[:, None], float(np.log(outcomes - 1))))


def test_trap_21_a_teacher_that_does_not_know_this_text():
    """A large model may be worse on the text to be learned than a count of its words: days are spent on copying noise, and the
    method gets the blame. Its own loss and sureness on held-out text are told before training, with a warning if it is no use.
    """
    batch = make_batch([40, 30], 320)
    held_out = [(batch, torch.full((70,), 3))]
    counts = torch.zeros(320)
    said: dict[str, list[str]] = {}
    for name, kind in (("useless", Teacher), ("useful", Knowing)):
        lines = said.setdefault(name, [])
        found = quality(kind(make_llama(TOKENIZER, seed=5)), held_out, counts)
        assert found.useful is (name == "useful")
        tell_quality(found, lambda line, lines=lines, **_: lines.append(line))
        assert f"{found.bits_per_byte:.2f} bits per byte" in lines[0] and f"{found.confidence:.0%}" in lines[0]
    assert len(said["useful"]) == 1
    assert "no better than token counts" in said["useless"][1]


def writer(token: int) -> Model:
    """A model that says one token, for ever."""
    model = make_llama(TOKENIZER, tied=False)
    model.network.lm_head.bias = nn.Parameter(torch.zeros(len(TOKENIZER)).index_fill(0, torch.tensor(token), 1e4))
    return model


def test_trap_22_texts_that_never_end():
    """A student whose end token is not the teacher's, or was masked as padding (often one and the same token), writes until it is
    cut off, and the loss never shows it. How often each model ends by itself, how long it writes and how much it repeats itself
    are counted, and stand in the report side by side."""
    word = TOKENIZER(" still").input_ids[0]
    models = {"teacher": writer(TOKENIZER.eos_token_id), "student": writer(word)}
    written = samples(("A teacher", "Once"), models, 12, lambda tokenizer: tokenizer.eos_token_id, lambda _: None)
    assert [entry["stop"] for entry in written] == [{"teacher": "eos", "student": "length"}] * 2
    table = {manner.role: manner for manner in manners(written)}
    assert (table["teacher"].ended, table["student"].ended) == ("2 of 2", "0 of 2")
    assert float(table["student"].words) > float(table["teacher"].words) == 0
    assert table["student"].repeated != table["teacher"].repeated
    assert "none of 2 texts" in endless(written)
    assert endless([{**entry, "stop": {"teacher": "eos", "student": "eos"}} for entry in written]) == ""


def test_trap_22_a_student_can_learn_to_stop():
    """The end token has a loss though it is the padding token too; it is not doubled after a chat template that wrote it; and a
    tokenizer that has none is refused."""
    assert TOKENIZER.pad_token_id == TOKENIZER.eos_token_id
    turn = "<|im_start|>assistant\nA still.<|im_end|>\n"
    answer = [(turn.index("A still"), len(turn))]
    for rendered, end in (
        (Rendered("A still."), TOKENIZER.eos_token_id),
        (Rendered("A still turns", [(8, 13)], whole=True), TOKENIZER.eos_token_id),
        (Rendered(turn, answer, whole=True, special=True), end_token(TOKENIZER, "<|im_end|>")),
    ):
        (example,) = tokenise([rendered], TOKENIZER, end)
        labels = [label for label in example.labels.tolist() if label != NO_LOSS]
        assert labels.count(end) == 1
    endless = make_tokenizer()
    endless.eos_token = None
    with pytest.raises(DataError, match="could not learn to stop"):
        end_token(endless, None)


def scored(**nll: np.ndarray) -> Items:
    """Items of 40 documents of 25 tokens, a byte each, by the roles' losses in nats; the student is near its teacher."""
    document, one = np.repeat(np.arange(40), 25), np.ones(1000)
    kl = {"teacher": 0.0 * one, "student": 0.02 * one, "control": 0.9 * one}
    return Items(
        document=document,
        key=np.array([f"d{d}" for d in document], dtype=object),
        position=np.arange(1000) % 25,
        label=np.zeros(1000, np.int64),
        bytes=np.ones(1000, np.int64),
        roles={
            role: Scores(loss, kl.get(role), *([] if role == "floor" else [one, one])) for role, loss in nll.items()
        },
    )


def test_trap_23_the_distillation_loss_is_no_verdict():
    """A student can be close to its teacher on average and have lost what the task needs; one that learned without a teacher may
    be as good. What is judged is the loss on the true outcomes of held-out documents, with intervals over documents, against the
    same student trained without the teacher, and every gate must hold.

    Here the KL from the teacher is a fiftieth of a nat, a fortieth of the control's, and half of the skill is gone.
    """
    noise = np.random.default_rng(0).normal(0.0, 0.2, 1000)
    common = {"teacher": 1.0 + noise, "floor": np.full(1000, 3.0)}
    items = scored(**common, student=2.0 + noise, control=2.5 + noise)
    findings = [performance(items), fidelity(items), benefit(items)]
    assert (findings[0].verdict, findings[2].verdict) == ("FAIL", "PASS")
    assert combine(findings).verdict == "FAIL"
    (kept,) = [e for e in findings[0].estimates if (e.label, e.role) == ("skill kept above the floor", "student")]
    assert kept.low < kept.value < kept.high < 90
    good = scored(**common, student=1.02 + noise, control=1.9 + noise)
    assert (performance(good).verdict, benefit(good).verdict) == ("PASS", "PASS")
    for control, verdict in ((1.02, "INCONCLUSIVE"), (1.01, "FAIL")):
        unneeded = scored(**common, student=1.02 + noise, control=control + noise)
        assert (performance(unneeded).verdict, benefit(unneeded).verdict) == ("PASS", verdict)


def test_trap_23_gates_and_control_are_there_by_default():
    section = recipe.Evaluate()
    assert section.control
    assert {"performance", "benefit"} <= {measure.name for measure in section.measures}


def test_trap_24_what_chance_would_have_scored():
    """Where half is right by chance, 70 % beside a teacher's 90 % is called 78 % kept, and guessing itself 56 %. What is above
    chance counts: (70 − 50) / (90 − 50) = 50 %, and guessing keeps nothing."""
    document = np.repeat(np.arange(100), 10)
    teacher, student, guess = (np.tile([1.0] * n + [0.0] * (10 - n), 100) for n in (9, 7, 5))
    wobble = np.repeat(np.random.default_rng(1).normal(0.0, 0.01, 100), 10)
    common: dict[str, Any] = {"floor_N": np.full(1000, 0.5), "cluster_N": document}
    assert retention(teacher + wobble, student + wobble, **common).value == pytest.approx(0.5, abs=0.01)
    assert retention(teacher + wobble, guess + wobble, **common).value == pytest.approx(0.0, abs=0.01)


def test_trap_24_and_what_counts_alone_would_have_cost():
    """The same of losses: the unigram model of the labels is the floor, so that a student as good as it has kept nothing."""
    noise = np.random.default_rng(0).normal(0.0, 0.2, 1000)
    items = scored(teacher=1.0 + noise, student=2.0 + noise, floor=np.full(1000, 3.0))
    (kept,) = [e for e in performance(items).estimates if e.label == "skill kept above the floor"]
    assert kept.value == pytest.approx(50.0, abs=2.0)
