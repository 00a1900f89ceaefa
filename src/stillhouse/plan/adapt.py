"""Whether a teacher must learn the task or the text before it can teach it, and the stage in which it does."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stillhouse import data, recipe, student
from stillhouse import teacher as teachers
from stillhouse.models import Model
from stillhouse.plan.sizes import reads_whole
from stillhouse.plan.write import source_of
from stillhouse.teacher import Teacher
from stillhouse.teacher.quality import Quality, quality

DOCUMENTS, TOKENS = 200, 1024
"""Documents of the text that are looked at, and held-out tokens of them that the teacher reads."""


@dataclass(frozen=True)
class Adaptation:
    """A stage in which the teacher learns first.

    Args:
        student: the recipe's section that makes what learns from the teacher; nothing is cut.
        rate: learning rate.
        why: the reason.
        model: the shapes of what it becomes.

    """

    student: dict[str, Any]
    rate: float
    why: str
    model: Model


def for_classes(teacher: Model, classes: Sequence[str]) -> Adaptation | None:
    """The stage that gives a teacher the task's classes; None if it says these already.

    Args:
        teacher: may be on the meta device.
        classes: of the data, in order.

    """
    if teacher.classifies and teacher.classes == tuple(classes):
        return None
    section = {"name": "classifier"}
    made = student.build(recipe.Student.model_validate(section), teacher, empty=True, classes=tuple(classes))
    why = f"The teacher does not say these {len(classes)} classes yet: it learns them first, from the labels alone"
    return Adaptation(section, 1e-4, why, made)


def for_text(teacher: Model, found: Quality | None) -> Adaptation | None:
    """The stage in which a language model learns a text; None if it knows that text.

    Args:
        teacher: may be on the meta device.
        found: how well it knows the text; None if nobody asked it.

    """
    if found is None or found.useful:
        return None
    why = f"The teacher knows this text no better than counts of its tokens do ({found}): it learns the text first"
    return Adaptation({"name": "drop_layers", "keep": len(teacher.layers)}, 1e-4, why, teacher)


def ask(section: recipe.Teacher, paths: Sequence[str]) -> Quality | None:
    """How well a teacher knows some text; loads its weights.

    Args:
        section: the recipe's.
        paths: of the text.

    Returns:
        None where its signals do not tell.

    Raises:
        DataError: there is too little text, or none that can be read.
        ModelError: it cannot be loaded.

    """
    master = teachers.load(section)
    sources = [source_of(path) for path in paths]
    wanted = recipe.Data.model_validate({"sources": sources, "block": 256, "max_documents": DOCUMENTS})
    with tempfile.TemporaryDirectory() as folder:
        corpus = data.prepare(wanted, master.tokenizer, Path(folder) / "data", teacher=master)
        counts_V = torch.from_numpy(corpus.train.label_counts(master.model.outcomes))
        return quality(master, corpus.validation.all(512, TOKENS), counts_V)


def classes_of(labelled: Mapping[str, Any] | None, teacher: Teacher) -> tuple[str, ...]:
    """The classes that a plan is for: the data's, else the teacher's own, else two of an encoder; none for next tokens."""
    if labelled is not None:
        source = recipe.Source(name="jsonl", format={"name": "labelled", **labelled})  # type: ignore[arg-type]
        return recipe.classes_of(source)
    if teacher.model.classifies:
        return teacher.model.classes
    return ("0", "1") if reads_whole(teacher.model) else ()
