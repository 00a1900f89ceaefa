"""Export: the student as files that others load, each compared with what was trained."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from stillhouse import models, recipe
from stillhouse.errors import Problem, StillhouseError
from stillhouse.export.artefact import Artefact
from stillhouse.export.compare import Difference, difference, same_words
from stillhouse.files import atomic_folder, read_json, sha256_file, sha256_text, write_json
from stillhouse.find import check_options, find
from stillhouse.models import Model
from stillhouse.progress import timed
from stillhouse.worker import Worker

TEXTS, TOKENS = 16, 96
"""Held-out texts that an artefact reads, and tokens of each."""
CLASSIFIED = 400
"""Texts that a classifier's reads; each says one thing only."""
CALIBRATION = 0.03
"""By how much confidence − accuracy may change."""
PROMPTS, NEW_TOKENS = 4, 24
"""Texts that it continues, and by how many tokens."""
HARD = (
    "  two  spaces\n\n\tand a tab",
    "1234567 3.14 v2",
    "I'll don't we've",
    "naïve Straße 東京 🙂",
    "f(x)[i]->y != {z}",
)
"""Texts on which rules that cut into words differ."""


def label_of(strategy: recipe.Strategy) -> str:
    """What an artefact and its folder are called: ``gguf-q8_0``."""
    precision = strategy.options.get("precision")
    return f"{strategy.name.rpartition(':')[2]}-{precision}" if precision else strategy.name.rpartition(":")[2]


def export(student: Model, run: Path) -> Path:
    """Write the student for transformers into ``student/``: what all else is made of.

    Raises:
        RunError: what was written does not say what the student says.

    """
    folder = run / "student"
    with atomic_folder(folder) as writing:
        find("export", "hf")(student, writing)
    return folder


def others(
    section: recipe.Export,
    run: Path,
    texts: Sequence[list[int]],
    classes: Sequence[int] | None = None,
    console: Console | None = None,
    *,
    deploy: recipe.Deploy | None = None,
) -> list[Problem]:
    """Write the run's student in every other format, into ``exports/``, and test each again in a fresh process.

    What was found is in ``exports.json``. An artefact that was written of the same student with the same options stays.

    Args:
        section: the recipe's.
        run: the run's folder; ``student/`` is there.
        texts: token ids of held-out texts, one a list.
        classes: of a classifier, the true class of each of them.
        console: where to show progress.
        deploy: what the target takes; files that are larger are refused.

    Returns:
        why artefacts were refused; those are not there, all others are.

    """
    formats = [(i, s) for i, s in enumerate(section.formats) if s.name != "hf"]
    if not formats:
        return []
    most = TEXTS if classes is None else CLASSIFIED
    texts = [ids[:TOKENS] for ids in texts if len(ids) > 1 or classes is not None][:most]
    folder = run / "student"
    of = sha256_file(folder / "model.safetensors")
    old = {record["name"]: record for record in read_json(run / "exports.json", [])}
    student: Model | None = None
    records, problems = [], []
    limited = {} if deploy is None else largest_of(section, deploy)
    for index, strategy in [(None, recipe.Strategy(name="hf")), *formats]:
        where = "export" if index is None else f"export.formats.{index}"
        function = find("export", strategy.name, where)
        options = check_options(function, strategy.options, where)
        name = label_of(strategy)
        made_of = sha256_text(
            of, name, str(sorted(options.items())), str(section.margin), str(limited.get(strategy.name))
        )
        kept = old.get(name, {})
        if kept.get("made_of") == made_of and "refused" not in kept and (run / kept["path"]).exists():
            records.append(kept)
            continue
        record: dict[str, Any] = {"name": name, "format": strategy.name, "options": options, "made_of": made_of}
        student = student or models.load(str(folder))
        with timed(console, f"Writing and testing {name}" if index is not None else "Testing the student again"):
            try:
                if index is None:
                    artefact = Artefact(folder, "pytorch", student, 0.0)
                    record |= _tested(artefact, student, texts, classes, section, function, where) | {"path": "student"}
                else:
                    with atomic_folder(run / "exports" / name) as writing:
                        artefact = function(student, writing, **options)
                        _refuse_large(artefact.path, limited.get(strategy.name), where)
                        record |= _tested(artefact, student, texts, classes, section, function, where)
                        record["path"] = f"exports/{name}/{artefact.path.relative_to(writing)}".removesuffix("/.")
            except StillhouseError as error:
                found = [Problem(f"{where} ({name})", p.what, p.way_out) for p in error.problems]
                record["refused"] = "; ".join(p.what for p in found)
                problems += found
        records.append(record)
        write_json(run / "exports.json", records)
    write_json(run / "exports.json", records)
    return problems


def _tested(
    artefact: Artefact,
    student: Model,
    texts: Sequence[list[int]],
    classes: Sequence[int] | None,
    section: recipe.Export,
    function: Any,
    where: str,
) -> dict[str, Any]:
    """Run an artefact in a fresh process, and compare.

    Raises:
        RunError: it differs, or cannot be loaded.

    """
    record: dict[str, Any] = {
        "bytes": _bytes(artefact.path),
        "runtime": artefact.runtime,
        "facts": dict(artefact.facts),
    }
    package = getattr(function, "runtime_package", "torch")
    if importlib.util.find_spec(package) is None:
        record["untested"] = f"{package} is not installed (pip install 'stillhouse[{function.extra}]')"
        return record
    with Worker(artefact.runtime, artefact.path, torch.get_num_threads()) as worker:
        record |= worker.loaded
        if not student.classifies:
            prompts = [ids[:8] for ids in texts[:PROMPTS]]
            record["greedy"] = same_words(worker, student, prompts, NEW_TOKENS)
        else:
            worker.logits(texts[0])
        _same_tokens(worker, student, texts[:TEXTS], where)
        record["peak_bytes"] = worker.ask("peak")["bytes"]
        apart = artefact.same_as is not None and artefact.same_as is not student
        if artefact.same_as is not None:
            exact = difference(worker, artefact.same_as, texts, classes)
            record["exact"] = exact.to_dict() | {"tolerance": artefact.tolerance}
            _refuse_wrong(exact, artefact, where)
        found = difference(worker, student, texts, classes) if apart or artefact.same_as is None else exact
        record["difference"] = found.to_dict() | {"margin": section.margin, "calibration_margin": CALIBRATION}
        _refuse_lossy(found, section.margin, "a text" if student.classifies else "a token", where)
    return record


def largest_of(section: recipe.Export, deploy: recipe.Deploy) -> dict[str, float]:
    """Format → megabytes that a file of it may have; formats that the target does not run have no limit."""
    if deploy.max_file_mb is None:
        return {}
    return dict.fromkeys(recipe.targets([f.name for f in section.formats], deploy.runtime), deploy.max_file_mb)


def _refuse_large(path: Path, limit: float | None, where: str) -> None:
    size = _bytes(path) / 1e6
    if limit is not None and size > limit:
        raise StillhouseError(Problem(where, f"is {size:.1f} MB, and deploy.max_file_mb allows {limit:g}", TOO_LARGE))


def _refuse_wrong(found: Difference, artefact: Artefact, where: str) -> None:
    """An artefact that does not compute what its weights say is wrong, however little it loses."""
    limit = max(artefact.tolerance, 1e-6)
    if not found.kl <= limit:
        what = (
            f"does not compute what was written: {found.kl:.3g} nats a position from the same weights in PyTorch "
            f"(at most {limit:g}); furthest apart at {found.where} ({found.worst:.3g})"
        )
        way_out = "This is a fault of Stillhouse or of the runtime's version: please report it with the recipe."
        raise StillhouseError(Problem(where, what, way_out))


def _refuse_lossy(found: Difference, margin: float, unit: str, where: str) -> None:
    """An artefact that is shown to lose more than the recipe allows is refused, and one that is surely sure of other things."""
    unknown = found.loss != found.loss  # of a classifier whose texts have no classes
    if not (found.kl if unknown else found.low) <= margin:
        loses = f"loses {found.loss:.3g} [{found.low:.3g}, {found.high:.3g}] nats {unit} against the student"
        loses = f"is {found.kl:.3g} nats {unit} from the student" if unknown else loses
        what = f"{loses} (export.margin is {margin:g}); most at {found.where}; {found.agreement:.0%} of choices agree"
        raise StillhouseError(
            Problem(where, what, "Take a finer precision, or raise export.margin if that is good enough.")
        )
    moved = found.calibration
    if moved.low > CALIBRATION or moved.high < -CALIBRATION:
        what = (
            f"is {'more' if moved.value > 0 else 'less'} confident than the student for what it gets right: confidence − accuracy "
            f"moves by {100 * moved.value:.1f} [{100 * moved.low:.1f}, {100 * moved.high:.1f}] pp (at most {100 * CALIBRATION:g})"
        )
        raise StillhouseError(Problem(where, what, "Take a finer precision."))


def _same_tokens(worker: Worker, student: Model, texts: Sequence[list[int]], where: str) -> None:
    """Refuse an artefact whose own tokenizer reads another text than was learned from."""
    tokenizer = student.tokenizer
    for text in [*HARD, *(tokenizer.decode(ids) for ids in texts)]:
        came = worker.ask("encode", text=text)["ids"]
        want = list(tokenizer(text, add_special_tokens=False).input_ids)
        if came is not None and came != want:
            at = next(
                (i for i, (a, b) in enumerate(zip(came, want, strict=False)) if a != b), min(len(came), len(want))
            )
            before = tokenizer.decode(want[:at])[-30:]
            shown = [tokenizer.convert_ids_to_tokens(ids[at : at + 3]) for ids in (came, want)]
            what = f"its tokenizer cuts otherwise: after {before!r} come {shown[0]}, and the student's has {shown[1]}"
            raise StillhouseError(Problem(where, what, "Give the right pre: of its family, or report the tokenizer."))


TOO_LARGE = (
    "Take a coarser precision (q4_0, int4), a smaller student or a trimmed vocabulary, or raise deploy.max_file_mb."
)


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
