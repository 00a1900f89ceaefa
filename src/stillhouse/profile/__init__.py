"""How fast a run's models and files are, how much memory they take, and why the student is as much faster as it is."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from rich.console import Console

from stillhouse import machine, models, recipe
from stillhouse import teacher as teachers
from stillhouse.errors import RunError, fail
from stillhouse.files import read_json, write_json
from stillhouse.packages import PREFIX
from stillhouse.profile.energy import Meter
from stillhouse.profile.explain import explain
from stillhouse.profile.payback import Payback, payback, spent
from stillhouse.profile.speculative import ROUNDS, Speculation, refuse, speculate
from stillhouse.profile.throughput import AT_ONCE, Rate, batches, processes
from stillhouse.profile.timed import Timed
from stillhouse.progress import bar
from stillhouse.quantiles import quantile
from stillhouse.report.deploy import Fit, fit
from stillhouse.report.page import estimate
from stillhouse.report.read import read
from stillhouse.worker import Worker


@dataclass(frozen=True)
class Profile:
    """What ``stillhouse profile`` found.

    Args:
        models: teacher, student, artefacts.
        prompt: tokens of the prompt.
        explained: why the student is as much faster as it is, a sentence each.
        notes: what was left out, and why.
        energy: name → joules of a token and of a request, and where they come from.
        paybacks: after how many requests each is worth what distilling took.
        spent: seconds that it took.
        rates: throughput; empty if it was not asked for.
        speculation: the student as a draft for its teacher; None if it was not asked for.
        fit: whether a file fits the recipe's target; None if it names none.

    """

    models: list[Timed]
    prompt: int
    explained: list[str]
    notes: list[str]
    energy: dict[str, dict[str, object]] = field(default_factory=dict)
    paybacks: list[Payback] = field(default_factory=list)
    spent: float = 0.0
    rates: list[Rate] = field(default_factory=list)
    speculation: Speculation | None = None
    fit: Fit | None = None


def profile(
    folder: str | Path,
    *,
    prompt: int = 64,
    tokens: int = 32,
    blocks: int = 8,
    threads: int | None = None,
    watts: float | None = None,
    throughput: bool = False,
    speculative: bool = False,
    console: Console | None = None,
) -> Profile:
    """Time a run's teacher, student and artefacts, each in a process of its own, and write ``profile.json``.

    They take turns, a block each, in an order that rotates: what else the machine does hits all alike.

    Args:
        folder: a run's, with a finished student.
        prompt: tokens that are read first.
        tokens: tokens written after them, a block.
        blocks: how often each has its turn.
        threads: of each; as many as PyTorch takes if not given.
        watts: assumed power of the machine while it works, for an estimate of energy; the processor's counter if not given.
        throughput: also several texts at once, in one process and in several.
        speculative: also let the teacher write with the student's drafts.
        console: where to show progress.

    Raises:
        RunError: there is no finished student, or a process died.
        ModelError: the student cannot draft for its teacher, and is asked to.

    """
    folder = Path(folder)
    if not (folder / "student" / "config.json").is_file():
        raise fail(RunError, str(folder), "holds no finished student", "Finish it: stillhouse run <its recipe>.")
    threads = machine.set_threads(threads)
    settings = recipe.load(folder / "recipe.yaml")
    rows, notes = entries(folder, settings)
    student = models.load(str(folder / "student"), empty=True)
    for row in rows:
        row.parameters = 0 if row.name == "teacher" else student.parameters_count
    if speculative and rows[0].name == "teacher":  # told before anything is timed
        refuse(teachers.load(settings.reference, empty=True).model, student)
    classifies = student.classifies
    tokens = 0 if classifies else tokens
    meter = Meter(watts)
    text = " ".join(settings.report.prompts) * prompt
    rates: list[Rate] = []
    with ExitStack() as stack:
        workers = []
        advance = stack.enter_context(bar(console, "Timing", len(rows) * (blocks + 1), "turns"))
        for row in rows:
            worker = stack.enter_context(Worker(row.runtime, Path(row.path), threads))
            ids = worker.ask("encode", text=text)["ids"][:prompt]
            row.loaded = worker.loaded
            first = worker.ask("time", ids=ids, tokens=min(tokens, 2))  # also warms caches and compiles
            row.cold = row.loaded["import_seconds"] + row.loaded["load_seconds"] + first["prefill"]
            workers.append((row, worker, ids))
            advance(1)
        for block in range(blocks):
            for turn in range(len(workers)):
                row, worker, ids = workers[(turn + block) % len(workers)]
                meter.begin()
                times = worker.ask("time", ids=ids, tokens=tokens)
                meter.end(row.name)
                row.prefill.append(times["prefill"])
                row.steps += times["steps"]
                row.peak = times["peak"]
                advance(1)
        for row, worker, ids in workers:
            row.parts = worker.ask("parts", ids=ids, tokens=tokens)["parts"] if tokens else None
        if throughput and tokens:
            for row, worker, ids in workers:
                rates += batches(row, worker, ids, tokens)
    if throughput and tokens:
        with bar(console, "Several at once", len(rows) * len(AT_ONCE), "measurements") as advance:
            for row, _, ids in workers:
                rates += processes(row, ids, tokens, threads, advance)
    energy = {row.name: meter.of(row) for row in rows}
    add_correct(folder, energy, classifies)
    taken = spent(folder)
    speculation = None
    if speculative:
        speculation = drafted(folder, settings, rows, prompt, max(tokens, 2), notes, console)
    found = Profile(rows, prompt, explain(rows), notes, energy, payback(rows, taken), taken, rates, speculation)
    kept = {"prompt": prompt, "tokens": tokens, "blocks": blocks, "explained": found.explained, "notes": notes}
    kept |= {
        "machine": machine.describe(),
        "models": [asdict(row) | {"energy": energy[row.name]} for row in rows],
        "payback": {"seconds": taken, "models": [asdict(each) for each in found.paybacks]},
        "throughput": [asdict(rate) for rate in rates],
        "speculative": None if speculation is None else asdict(speculation),
    }
    write_json(folder / "profile.json", kept)
    return replace(found, fit=fit(read(folder)))


def add_correct(folder: Path, energy: dict[str, dict[str, object]], classifies: bool) -> None:
    """Add joules of a right answer: of a classifier those of an answer, else of a token, over the share that is right.

    Only teacher and student answered the evaluation's questions; of files it is not known how often they are right.
    """
    run = read(folder)
    finding, pattern = ("accuracy", r"^accuracy") if classifies else ("performance", r"top-1 accuracy")
    for role in ("teacher", "student"):
        right = estimate(run, finding, pattern, role)
        joules = energy.get(role, {}).get("joules")
        if isinstance(joules, float) and right is not None and right.value:
            energy[role]["right"] = joules / (right.value / (100.0 if right.unit == "%" else 1.0))


def drafted(
    folder: Path,
    settings: recipe.Recipe,
    rows: Sequence[Timed],
    prompt: int,
    tokens: int,
    notes: list[str],
    console: Console | None,
) -> Speculation | None:
    """The student as a draft for its teacher; None, with a note, where there is no teacher here."""
    by_name = {row.name: row for row in rows}
    if "teacher" not in by_name:
        notes.append("No speculative decoding: the teacher's weights are not here.")
        return None
    teacher, student = teachers.load(settings.reference).model, models.load(str(folder / "student"))
    cost = (
        quantile(by_name["student"].steps or [1.0], 0.5).value / quantile(by_name["teacher"].steps or [1.0], 0.5).value
    )
    prompts = [ids[:prompt] for text in settings.report.prompts if (ids := teacher.tokenizer(text).input_ids)]
    known = estimate(read(folder), "fidelity", r"^acceptance rate")
    held_out = None if known is None or known.value is None else known.value / 100.0
    with bar(console, "With drafts and without", ROUNDS * len(prompts), "pairs of texts") as advance:
        return speculate(teacher, student, prompts, tokens, held_out=held_out, cost=cost, advance=advance)


def entries(folder: Path, settings: recipe.Recipe) -> tuple[list[Timed], list[str]]:
    """What there is to time in a run's folder, and notes about what is not."""
    rows, notes = [], []
    teacher = _teacher(settings.reference)
    if teacher is None:
        notes.append(f"The teacher is not timed: '{settings.reference.name}' has no weights here.")
    else:
        rows.append(Timed("teacher", "pytorch", teacher))
    rows.append(Timed("student", "pytorch", str(folder / "student")))
    for record in read_json(folder / "exports.json", []):
        if record["name"] == "hf" or "refused" in record:
            continue
        if "untested" in record:
            notes.append(f"{record['name']} is not timed: {record['untested']}.")
            continue
        rows.append(Timed(record["name"], record["runtime"], str(folder / record["path"])))
    return rows, notes


def _teacher(section: recipe.Teacher) -> str | None:
    """What PyTorch loads as the teacher; None if it does not run here."""
    model = section.options.get("model")
    if section.name == "gguf" and isinstance(model, str):
        from stillhouse.teacher.sources.gguf import read_into

        kept = read_into(model)
        return str(kept) if (kept / "config.json").is_file() else None
    if isinstance(model, str) and (section.name == "local" or model.startswith(PREFIX)):
        return model
    return None
