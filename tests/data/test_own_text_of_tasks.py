"""Text of the student's own, gone on from tasks that a mixture and samplers chose."""

from __future__ import annotations

from itertools import groupby

import pytest
import torch
from mixed import ASKED, Scale, make_pieces, make_stream
from shared import make_llama, make_tokenizer

from stillhouse.data.pieces import Pieces
from stillhouse.data.samplers.student_text import student_text

TOKENIZER = make_tokenizer()


class Writer(Scale):
    """Measured as a scale is, and writes as a model does."""

    def __init__(self) -> None:
        super().__init__()
        self.model = make_llama(TOKENIZER)

    def __getattr__(self, name: str):
        return getattr(self.__dict__["model"], name)


def made(folder, student, *, every: int = 4):
    plain = make_pieces({"a": 30, "b": 30}, whole=False)
    pieces = Pieces(plain._inputs, plain._labels, plain._bytes, plain._documents, 64, {"a": 1.0, "b": 3.0})
    chosen = make_stream(pieces, "adaptive", ["focused"], folder=folder, student=student, steps=12, every=every)
    own = student_text(chosen, share=0.5, every=4, prompt_tokens=4, new_tokens=6)
    own.bind(student, folder, steps=12, world=1)
    return own


def read(own, steps):
    return [(own.step(step, **ASKED), own.facts()) for step in steps]


def test_its_documents_keep_their_tasks_and_weights_and_lie_together(tmp_path):
    found = read(made(tmp_path, Writer()), range(12))
    written = [batch for batches, _ in found for batch in batches if batch.truth_N is not None]
    assert written
    for batch in written:
        assert len([task for task, _ in groupby(batch.tasks)]) == len(set(batch.tasks))
        for d, weight in zip(batch.document_N.tolist(), batch.weight_N.tolist(), strict=True):
            assert weight == {"a": 1.0, "b": 3.0}[batch.tasks[d]]
        assert sum(len(batch.of_task(task).labels_N) for task in "ab") == len(batch.labels_N)


def test_the_numbers_of_both_are_told(tmp_path):
    for step, (_, facts) in enumerate(read(made(tmp_path, Writer()), range(12))):
        assert {"own_share", "epochs/a", "epochs/b"} <= set(facts)
        assert ("measured_tokens" in facts) == (step % 4 == 0)  # not those of the steps that were written for


@pytest.mark.parametrize("at", [1, 4, 6])
def test_killed_it_goes_on_with_the_same_text(tmp_path, at):
    whole = read(made(tmp_path, Writer()), range(12))
    again = read(made(tmp_path, Writer()), range(at, 12))
    for (batches, facts), (others, theirs) in zip(whole[at:], again, strict=True):
        assert facts == theirs
        for one, two in zip(batches, others, strict=True):
            assert one.keys == two.keys and torch.equal(one.input_ids_P, two.input_ids_P)
