"""A recipe as a file that says why: what the plan chose, and what the recipe language cannot say yet, as comments."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from stillhouse.plan.strategy import Prescription

if TYPE_CHECKING:
    from stillhouse.plan.adapt import Adaptation

WIDTH = 118
SOURCES = {".jsonl": "jsonl", ".parquet": "parquet"}
"""Ending of a file → the source that reads it; anything else is plain text."""


@dataclass(frozen=True)
class Draft:
    """What a recipe is written from.

    Args:
        name: of the student.
        teacher: as the recipe names it.
        section: the student's.
        adaptation: the stage in which the teacher learns first; None if it need not.
        stages: name and student's section of each assistant.
        why_stages: the reason for them.
        prescription: the strategy.
        features: whether the teacher shows its hidden states to match.
        data: paths of text; what Python ships with if there are none.
        labelled: how classes lie in them; None where next tokens are learned.
        block: tokens of the longest text with a class.
        steps: of training.
        about: lines of the head.
        why_student: the reason for its shape.
        why_steps: the reason for the number of steps.
        advice: what to do that the recipe cannot say.

    """

    name: str
    teacher: str | dict[str, Any]
    section: dict[str, Any]
    adaptation: Adaptation | None
    stages: Sequence[tuple[str, dict[str, Any]]]
    why_stages: str
    prescription: Prescription
    features: bool
    data: Sequence[str]
    labelled: Mapping[str, Any] | None
    block: int
    steps: int
    about: Sequence[str]
    why_student: str
    why_steps: str
    advice: Sequence[str]


def write(draft: Draft) -> str:
    """The recipe as YAML."""
    way, why = draft.prescription, draft.prescription.why
    lines = [line for text in draft.about for line in _comment(text)]
    lines += [f"name: {flow(draft.name)}", "data:", "  sources:"]
    sources = [source_of(path, draft.labelled) for path in draft.data] or [{"name": "python_docs"}]
    if not draft.data:
        lines += _comment("Put your own text here; this is what every Python ships with, to try the recipe.", 4)
    lines += [f"    - {flow(source)}" for source in sources]
    if draft.labelled is not None:
        lines += [f"  block: {draft.block}"]
    elif way.name != "conservative":
        lines += _comment("Several tasks: one source for each, so that the student keeps what they share.", 4)
    lines += [f"teacher: {flow(draft.teacher)}"]
    lines += _stages(draft)
    lines += [*_comment(draft.why_student), f"student: {flow(draft.section)}"]
    lines += [*_comment(f"Strategy: {why['strategy']}."), "objective:"]
    lines += [*_comment(f"{why['alpha']}.", 2), f"  alpha: {flow(way.alpha)}"]
    lines += [f"  temperature: {way.temperature:g}"]
    lines += [*_comment(f"{why['soft']}.", 2), f"  soft: {way.soft}"]
    if way.features and draft.features and draft.labelled is not None:
        lines += [*_comment(f"{why['features']}. {TWO_PHASES}", 2), "  terms:"]
        lines += ["    - {name: hidden_mse, weight: {name: step, at: [0, 0.5], values: [100, 0]}, layers: uniform}"]
    elif way.features and draft.features:
        lines += [*_comment(f"{why['features']}.", 2), "  terms:"]
        lines += ["    - {name: hidden_mse, weight: 0.1, layers: {name: uniform, count: 4}}"]
    elif way.features:
        lines += _comment("The guide matches hidden states too; this teacher does not show its own.", 2)
    lines += ["trainer:", *_comment(draft.why_steps, 2), f"  steps: {draft.steps}"]
    lines += [f"  tokens_per_step: {TOKENS_PER_STEP}"]
    if draft.adaptation is not None or draft.stages:
        lines += ["evaluate:"]
    if draft.adaptation is not None:
        lines += [*_comment("The teacher that learned, not the one that did not know this.", 2), "  reference: adapted"]
    if draft.stages:
        told = "true: also train the student straight from the teacher, for as many tokens as all stages."
        lines += [*_comment(told, 2), "  direct: false"]
    if draft.advice:
        lines += ["", "# What the recipe cannot say yet, and what to do about it:"]
        lines += [line for text in draft.advice for line in _comment(f"– {text}")]
    return "\n".join(lines) + "\n"


def _stages(draft: Draft) -> list[str]:
    """The stages before the last step: the teacher that learns first, then assistants."""
    lines = ["stages:"] if draft.adaptation is not None or draft.stages else []
    if draft.adaptation is not None:
        lines += _comment(f"{draft.adaptation.why}.", 2)
        lines += [
            "  - name: adapted",
            f"    student: {flow(draft.adaptation.student)}",
            "    objective: {alpha: 0}",
            f"    trainer: {{learning_rate: {draft.adaptation.rate:.1e}}}",
        ]
    if draft.stages:
        lines += _comment(draft.why_stages, 2)
        lines += [f"  - {{name: {name}, student: {flow(section)}}}" for name, section in draft.stages]
    return lines


TWO_PHASES = (
    "Two phases (TinyBERT, arXiv:1909.10351): first the features, beside which the logits are next to nothing, then these alone. "
    "That is the guide's way: cut students of SST-2 ended 2 points higher without features in short runs (docs/ablations.md), so try both."
)
"""How a classifier learns from the inner states."""

TOKENS_PER_STEP = 4096
"""Of the recipes that are written: the trainer's default, said for the arithmetic beside it."""


def _comment(text: str, indent: int = 0) -> list[str]:
    start = " " * indent + "# "
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=start,
        subsequent_indent=start + ("  " if text.startswith("–") else ""),
        break_long_words=False,
        break_on_hyphens=False,
    )


def flow(value: Any) -> str:
    """A value as YAML on one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")


DOCUMENT = 400
"""Characters of a document of plain text, at least: some short paragraphs are joined."""


def source_of(path: str, labelled: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The recipe's source for a path, by its ending; plain text is cut into documents at empty lines.

    Args:
        path: of text.
        labelled: how classes lie in it; None for plain text.

    """
    name = next((name for ending, name in SOURCES.items() if path.endswith(ending)), "text")
    how = {} if labelled is None else {"format": {"name": "labelled", **labelled}}
    cut = {"separator": "\n\n", "at_least": DOCUMENT} if name == "text" else {}
    return {"name": name, "path": path, **cut, **how}
