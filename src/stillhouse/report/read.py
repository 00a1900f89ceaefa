"""The run folder as the report sees it: whatever is there, and for whatever is not, the command that makes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from stillhouse.errors import RunError, fail

OWN_PAGES = ("rounds", "probe")
"""Folders of a refinement that hold runs with pages of their own."""

OWN_FILES = ("report.html", "report.json")
"""What the report itself writes into the run's folder: no part of what it shows."""

_LARGEST = 64 * 1024 * 1024


@dataclass(frozen=True)
class Missing:
    """A file that a section of the report needs and that is not there or cannot be read.

    Args:
        file: its name in the run folder.
        why: what is wrong, as the end of the sentence "<file> …".
        command: what makes it.
    """

    file: str
    why: str
    command: str


@dataclass
class Run:
    """What a run folder holds. Each part is None, or empty, where its file is missing; ``missing`` says so.

    Args:
        folder: the run folder.
        recipe_text: recipe.yaml as it is written.
        recipe: the same as plain values.
        environment: environment.json.
        facts: what the data stage counted.
        metrics: the student's metrics.jsonl, one dict a line.
        control: the control's.
        evaluation: evaluation.json.
        stages: of the stages and the direct way, each with a run of its own: its folder in this one → its evaluation.json.
        refinement: refinement.json; empty of a run that is none.
        examples: evaluation/examples.json: questions lost and gained; empty where no tasks were asked.
        samples: samples.json.
        exports: exports.json, one dict an artefact; empty where nothing but the student's folder was asked for.
        profile: profile.json; empty where nothing was timed.
        missing: file name → what is missing.
        notes: what was read only in part.
        files: each file in the folder with its size in bytes.
    """

    folder: Path
    recipe_text: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    control: list[dict[str, Any]] = field(default_factory=list)
    evaluation: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    refinement: dict[str, Any] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    exports: list[dict[str, Any]] = field(default_factory=list)
    profile: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, Missing] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    files: list[tuple[str, int]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What the run is called."""
        return str(self.recipe.get("name") or self.evaluation.get("run") or self.folder.resolve().name)

    @property
    def classes(self) -> list[str]:
        """Names of the classes that texts were labelled with; none of a language model."""
        data = self.recipe.get("data")
        sources = data.get("sources") if isinstance(data, dict) else None
        first = sources[0] if isinstance(sources, list) and sources else None
        form = first.get("format") if isinstance(first, dict) else None
        named = form.get("classes") if isinstance(form, dict) else None
        if isinstance(named, int) and not isinstance(named, bool):
            return [str(number) for number in range(min(named, 10_000))]
        return [str(name) for name in named] if isinstance(named, list) else []

    @property
    def shown_folder(self) -> str:
        """The folder as commands name it; never a machine's own path."""
        return f"runs/{self.folder.resolve().name}"


def read(folder: Path) -> Run:
    """Read a run folder. A file that is absent, cut off or damaged is told, not fatal.

    Raises:
        RunError: there is no such folder.
    """
    if not folder.is_dir():
        raise fail(RunError, str(folder), "there is no such run folder", "Make one with: stillhouse run recipe.yaml")
    run = Run(folder)
    make, judge = "stillhouse run recipe.yaml", f"stillhouse evaluate {run.shown_folder}"

    text = _text(run, "recipe.yaml", make)
    if text is not None:
        run.recipe_text = text
        run.recipe = _mapping(run, "recipe.yaml", make, _yaml(run, text, make))
    run.environment = _mapping(run, "environment.json", make, _json(run, "environment.json", make))
    for name in ("data/manifest.json", "data/facts.json"):
        if (folder / name).is_file():
            content = _mapping(run, name, make, _json(run, name, make))
            facts = content.get("facts")
            run.facts = facts if isinstance(facts, dict) else content
            break
    else:
        run.missing["data/manifest.json"] = Missing("data/manifest.json", "is not there", make)
    run.metrics = _lines(run, "metrics.jsonl", make)
    run.control = _lines(run, "control/metrics.jsonl", make)
    run.evaluation = _mapping(run, "evaluation.json", judge, _json(run, "evaluation.json", judge))
    listed = run.recipe.get("stages")
    for stage in listed if isinstance(listed, list | tuple) else ():
        part = f"stages/{stage.get('name')}" if isinstance(stage, dict) else ""
        run.stages[part] = _mapping(run, part, make, _json(run, f"{part}/evaluation.json", make))
    if (folder / "direct" / "evaluation.json").is_file():
        run.stages["direct"] = _mapping(run, "direct", make, _json(run, "direct/evaluation.json", make))
    if (folder / "refinement.json").is_file():
        again = "stillhouse refine recipe.yaml"
        run.refinement = _mapping(run, "refinement.json", again, _json(run, "refinement.json", again))
    changed = "evaluation/examples.json"
    examples = _json(run, changed, judge) if (folder / changed).is_file() else None
    run.examples = [e for e in examples if isinstance(e, dict)] if isinstance(examples, list) else []
    samples = _json(run, "samples.json", judge)
    if isinstance(samples, list):
        run.samples = [s for s in samples if isinstance(s, dict)]
    elif samples is not None:
        run.missing["samples.json"] = Missing("samples.json", "does not hold a list of samples", judge)
    exports = _json(run, "exports.json", make) if (folder / "exports.json").is_file() else None
    run.exports = [e for e in exports if isinstance(e, dict)] if isinstance(exports, list) else []
    if (folder / "profile.json").is_file():
        timed = f"stillhouse profile {run.shown_folder}"
        run.profile = _mapping(run, "profile.json", timed, _json(run, "profile.json", timed))
    run.files = [
        (p.relative_to(folder).as_posix(), p.stat().st_size)
        for p in sorted(folder.rglob("*"))
        if p.is_file()
        and p.relative_to(folder).parts[0] not in OWN_PAGES
        and not any(part.startswith(".") for part in p.relative_to(folder).parts)
    ]
    run.files = [f for f in run.files if f[0] not in OWN_FILES]
    return run


def _text(run: Run, name: str, command: str) -> str | None:
    file = run.folder / name
    try:
        if file.stat().st_size > _LARGEST:
            run.missing[name] = Missing(name, "is larger than 64 MB and was not read", command)
            return None
        return file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        why = "is not there"
    except OSError as error:
        why = f"cannot be read ({error.strerror})"
    run.missing[name] = Missing(name, why, command)
    return None


def _json(run: Run, name: str, command: str) -> Any:
    text = _text(run, name, command)
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        run.missing[name] = Missing(name, "is not valid JSON, perhaps cut off", command)
        return None


def _yaml(run: Run, text: str, command: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        run.missing["recipe.yaml"] = Missing("recipe.yaml", "is not valid YAML", command)
        return None


def _mapping(run: Run, name: str, command: str, content: Any) -> dict[str, Any]:
    if isinstance(content, dict):
        return {str(k): v for k, v in content.items()}
    if name not in run.missing:
        run.missing[name] = Missing(name, "does not hold a mapping", command)
    return {}


def _lines(run: Run, name: str, command: str) -> list[dict[str, Any]]:
    """The lines of a JSONL file; one that is cut off, as an interruption leaves it, is skipped and noted."""
    text = _text(run, name, command)
    if text is None:
        return []
    rows: list[dict[str, Any]] = []
    skipped = 0
    for line in text.split("\n"):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            skipped += 1
    if skipped:
        run.notes.append(f"{name}: {skipped} unreadable line{'s' if skipped > 1 else ''} skipped")
    if not rows:
        run.missing[name] = Missing(name, "holds no steps yet", command)
    return rows


def maps(value: Any) -> list[Mapping[str, Any]]:
    """The mappings in a list; none of what is no list."""
    return [v for v in value if isinstance(v, Mapping)] if isinstance(value, list) else []


def mapping(value: Any) -> dict[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return {str(k): v for k, v in value.items()} if isinstance(value, Mapping) else {}


def at(content: Any, *keys: str) -> Any:
    """What lies at the end of a path of keys; None where there is nothing."""
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content
