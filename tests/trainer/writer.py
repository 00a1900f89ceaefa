"""Trains a tiny student on its own text, killing it at one operation on a file after another; run by test_on_policy.py.

The making of student, teacher and pieces is shared with that test.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
from pathlib import Path

import torch
from killed import at_event, ended, in_child, outcome
from safetensors.torch import save_file
from shared import make_llama, make_tokenizer
from toy import section

from stillhouse import recipe
from stillhouse.data.pieces import Pieces
from stillhouse.data.samplers.student_text import student_text
from stillhouse.objective import Learner
from stillhouse.teacher import Teacher
from stillhouse.trainer import train

TOKENIZER = make_tokenizer()


class Training:
    """Documents of random tokens, packed as the data stage does."""

    def __init__(self) -> None:
        import numpy as np

        from stillhouse.data.store import DOCUMENT

        draw = np.random.default_rng(5)
        lengths = draw.integers(10, 60, 12)
        starts = np.cumsum(lengths) - lengths
        tokens = draw.integers(3, 300, lengths.sum() + 1).astype(np.int32)
        rows = [
            (n.to_bytes(16, "little"), n, a, m, m, 0, False, True, 0, 0, 1.0, 0, 0)
            for n, (a, m) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True))
        ]
        documents = np.array(rows, dtype=DOCUMENT)
        self.pieces = Pieces(tokens[:-1], tokens[1:], np.ones(len(tokens) - 1, np.uint32), documents, 64)
        self.step = self.pieces.step

    def all(self, micro_tokens, max_tokens=None):
        return (batch for batch, _ in self.pieces.all(micro_tokens, max_tokens))


def make_section(**changes):
    values = {"steps": 7, "tokens_per_step": 96, "micro_tokens": 48, "learning_rate": 0.01, "checkpoint_every": 2}
    return section(**{**values, "validate_every": None, **changes})


def make_sampler(**options):
    return student_text(Training(), **{"share": 0.5, "every": 3, "prompt_tokens": 6, "new_tokens": 8, **options})


def one_run(folder: Path, settings=None, sampler=None) -> dict[str, torch.Tensor]:
    """A run from where its folder stands to its end."""
    settings = settings or make_section()
    student = make_llama(TOKENIZER, seed=1)
    for layer in student.layers:
        layer.self_attn.attention_dropout = 0.1  # so that a generator that writing disturbs is seen
    objective = recipe.Objective(alpha=1.0, temperature=1.0)
    learner = Learner(student, objective, settings.steps)
    teacher = Teacher(make_llama(TOKENIZER, seed=2))
    train(learner, teacher, sampler or make_sampler(), None, settings, folder, fingerprint="f")
    state = {name: t.detach().clone() for name, t in student.network.named_parameters()}
    save_file(state, folder / "final.safetensors")
    return state


def every_file_operation(root: Path, stride: int, first: int) -> dict[str, int]:
    whole = root / "whole"
    assert ended(in_child(lambda: one_run(whole))) == 0
    number, kills, equal = first, 0, 0
    while True:
        folder = root / f"at{number}"
        code = ended(in_child(lambda f=folder, n=number: at_event(n, f, lambda: one_run(f))))
        if code == 0:
            return {"kills": kills, "equal": equal}
        assert code == -signal.SIGKILL, code
        kills += 1
        assert ended(in_child(lambda f=folder: one_run(f))) == 0
        equal += outcome(folder) == outcome(whole) and not list((folder / "on_policy").glob(".*"))
        shutil.rmtree(folder)
        number += stride


if __name__ == "__main__":
    print(json.dumps(every_file_operation(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
