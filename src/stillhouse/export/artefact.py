"""What an export format returns, and what it says of itself before it is asked to work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from stillhouse.errors import Problem
from stillhouse.files import write_json
from stillhouse.models import Model

_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Artefact:
    """A student as a file, or folder, that another program loads.

    Args:
        path: the file or folder.
        runtime: name of a file in ``runtimes/`` that loads it.
        same_as: the student with its weights as the file has them, rounded where it rounds; what the runtime says must equal
            what this says. None where the format's rounding cannot be put back into PyTorch.
        tolerance: largest mean KL from ``same_as``, in nats: what the runtime's own arithmetic may cost.
        facts: what else to tell of it.

    """

    path: Path
    runtime: str
    same_as: Model | None
    tolerance: float
    facts: tuple[tuple[str, str], ...] = ()


def format_of(
    *,
    runtime_package: str,
    extra: str,
    packages: tuple[str, ...] = (),
    refuses: Callable[[Model, dict[str, Any]], Problem | None],
    size: Callable[[Model, dict[str, Any]], int],
) -> Callable[[_F], _F]:
    """Mark an export format with what can be known before anything is trained.

    Args:
        runtime_package: what must be importable for the artefact to be run.
        extra: the extra of this project that installs it.
        packages: what must be importable for the artefact to be written.
        refuses: a student (perhaps without weights) and options → why it cannot be written.
        size: the same → bytes of the file, about.

    """

    def mark(function: _F) -> _F:
        for name, value in (
            ("runtime_package", runtime_package),
            ("extra", extra),
            ("packages", packages),
            ("refuses", refuses),
            ("size", size),
        ):
            setattr(function, name, value)
        return function

    return mark


def write_beside(student: Model, folder: Path, precision: str, facts: dict[str, Any]) -> None:
    """Lay the tokenizer, the configuration and what a runtime must know beside a model's file.

    Args:
        student: what was written.
        folder: the artefact's.
        precision: of its matrices.
        facts: what else its runtime must know; goes into ``artefact.json``.

    """
    student.tokenizer.save_pretrained(folder)
    student.config.save_pretrained(folder)
    known = {"separator": student.tokenizer.sep_token_id, "precision": precision, "classifies": student.classifies}
    write_json(folder / "artefact.json", known | facts)
