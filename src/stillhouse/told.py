"""What ``report.json`` holds, as types: the JSON schema of it follows from these, and so does what a test holds it to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, with_config

from stillhouse.evaluate.power import Power
from stillhouse.evaluate.records import Finding, Verdict
from stillhouse.report.content import SCHEMA

_EXACT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@with_config(_EXACT)
@dataclass(frozen=True, kw_only=True)
class Decides(Power):
    """What the items of one gate can decide.

    Args:
        possible: whether a student as good as the teacher would pass.
    """

    possible: bool


@with_config(ConfigDict(strict=True))
@dataclass(frozen=True)
class Compared:
    """A model that was compared.

    Args:
        name: what it is called.
        parameters: how many it has; None where that is not known.
        bytes: of its weights in float32.
    """

    name: str
    parameters: int | None = None
    bytes: int | None = None


@with_config(_EXACT)
@dataclass(frozen=True)
class Evaluation:
    """``evaluation.json``.

    Args:
        schema: version of these keys.
        run: name of the folder.
        verdict: of all gates together.
        sentence: that in words.
        findings: of each measure.
        power: what these items can decide.
        models: role → what was compared.
        counts: documents, tokens, bytes and questions.
        environment: where it was evaluated.
        seconds: how long each stage took.
        recipe_fingerprint: of the recipe, without what does not decide weights or numbers.
        policy: what was judged by in place of the recipe; None if nothing.
        imported: which logs of another program were judged.
    """

    schema: Literal[1]
    run: str
    verdict: Verdict
    sentence: str
    findings: list[Finding]
    power: list[Decides]
    models: dict[str, Compared]
    counts: dict[str, int | None]
    environment: dict[str, Any]
    seconds: dict[str, float]
    recipe_fingerprint: str | None = None
    policy: dict[str, Any] | None = None
    imported: dict[str, str] | None = None


@with_config(_EXACT)
@dataclass(frozen=True)
class Answer:
    """A question that one of the two has right, with both answers."""

    change: Literal["lost", "gained"]
    task: str
    question: str
    asked: str
    options: list[str]
    right: str
    teacher: str
    student: str


@with_config(_EXACT)
@dataclass(frozen=True)
class Changed:
    """What of a capability was lost and gained; some of both."""

    capability: str
    of: int
    lost: int
    gained: int
    shown: list[Answer]


@with_config(_EXACT)
@dataclass(frozen=True)
class NotMeasured:
    """What the report does not speak of."""

    question: str
    why: str


@with_config(_EXACT)
@dataclass(frozen=True)
class Report:
    """``report.json``: what the page shows, as plain values.

    Args:
        schema: version of these keys.
        name: of the run.
        verdict: of all gates together; NOT MEASURED where nothing was evaluated.
        sentence: that in words.
        evaluation: the numbers; None where nothing was evaluated.
        changed: questions lost and gained.
        forgetting: stage → task → share right in per cent, of a run in stages.
        refinement: the rounds; None of a run that is no refinement.
        not_measured: what nothing here speaks of, and why.
        commands: what makes all of it again.
    """

    schema: Literal[1]
    name: str
    verdict: Verdict
    sentence: str
    evaluation: Evaluation | None
    changed: list[Changed]
    forgetting: dict[str, dict[str, float]]
    refinement: dict[str, Any] | None
    not_measured: list[NotMeasured]
    commands: list[str]


ADAPTER: TypeAdapter[Report] = TypeAdapter(Report)


def schema() -> dict[str, Any]:
    """The JSON schema of ``report.json``."""
    assert SCHEMA == 1
    return ADAPTER.json_schema()
