"""From what a run folder holds to what the page shows; the template only lays it out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from stillhouse.refinement.defaults import DEFAULTS, actions_for
from stillhouse.report import artefacts, changed, charts, deploy, filters, words
from stillhouse.report.charts import Chart, Figure, Point, Series
from stillhouse.report.forgetting import Forgetting, forgetting
from stillhouse.report.read import Missing, Run, at, mapping, maps
from stillhouse.report.rounds import Refinement, refinement_of
from stillhouse.report.samples import SHOWN_ROLES, Manner, Sample, endless, manners, sample_of
from stillhouse.report.tasks import Tasks, tasks_of
from stillhouse.report.training import curves, spent, steering, steps
from stillhouse.report.words import finite, interval, number, quantity

ROLE_WORDS: dict[str, str] = {
    "teacher": "the model learned from",
    "student": "the distilled model",
    "control": "the same model trained without the teacher",
    "before": "the student before this training",
    "direct": "the same model taught by the teacher without stages in between",
    "floor": "word frequencies only",
}


@dataclass(frozen=True)
class Verdict:
    """How a verdict looks: never by colour alone."""

    word: str
    icon: str
    colour: str
    meaning: str


VERDICTS: dict[str, Verdict] = {
    v.word: v
    for v in (
        Verdict("PASS", "✓", "pass", "Shown to hold: the whole interval is on the good side of the threshold."),
        Verdict("FAIL", "✗", "fail", "Shown not to hold: the whole interval is on the bad side of the threshold."),
        Verdict(
            "INCONCLUSIVE", "?", "open", "The interval contains the threshold: more held-out text is needed to decide."
        ),
        Verdict(
            "UNINFORMATIVE", "∅", "muted", "The teacher itself does not rise above the floor: nothing can be retained."
        ),
        Verdict("NOT MEASURED", "–", "muted", "Nothing is known about this."),
        Verdict("DESCRIPTIVE", "≡", "muted", "A fact without a threshold."),
    )
}

NEVER_MEASURED: tuple[tuple[str, str], ...] = (
    ("tasks", "Skill at downstream tasks: answering questions, following instructions, arithmetic, code."),
    ("generalisation", "Text of another kind than the held-out documents of this run."),
    ("slices", "Rare words, single domains or topics: an average can hide that one of them is lost."),
    ("bias", "Whether stereotypes or unequal treatment grew against the teacher."),
    ("soundness", "Whether what the student writes is true or safe."),
    ("latency", "Speed and memory on the machine it is meant for: fewer parameters are not proportionally less time."),
)
"""What no report may leave unsaid unless a measure of that name answers it."""


@dataclass(frozen=True)
class Tile:
    """One number of the header. Where it is unknown, ``missing`` names the command that makes it, if one does."""

    label: str
    big: str
    small: str = ""
    verdict: Verdict | None = None
    missing: str = ""


NOT_KNOWN = "–"


@dataclass(frozen=True)
class Step:
    """A stage on the way, or the way without stages.

    Args:
        name: of the stage; ``direct``.
        link: its own report, in the run's folder; "" if it is not there.
        teacher: parameters of who taught in it.
        student: parameters of who learned.
        verdict: of its own evaluation.
        sentence: of it.
    """

    name: str
    link: str
    teacher: str
    student: str
    verdict: Verdict
    sentence: str


@dataclass(frozen=True)
class Row:
    """One estimate, ready to print: interval before point."""

    label: str
    role: str
    interval: str
    value: str
    n: str


@dataclass(frozen=True)
class Card:
    """One finding."""

    ident: str
    name: str
    question: str
    verdict: Verdict
    sentence: str
    reason: str
    rows: list[Row]
    other_rows: list[Row]
    figures: list[Figure]
    ladder: bool
    how: list[str]
    limits: list[str]


@dataclass
class Page:
    """Everything the template needs."""

    run: Run
    title: str
    student: str
    teacher: str
    verdict: Verdict
    sentence: str
    more: str
    tally: list[tuple[Verdict, int]]
    held_back: list[Card]
    actions: str
    tiles: list[Tile]
    cards: list[Card]
    ladder: Figure | None
    curves: list[Figure]
    steering: list[Figure]
    tasks: Tasks | None
    roles: list[tuple[str, str]]
    models: list[tuple[str, str, str, str]]
    stages: list[Step]
    forgetting: Forgetting | None
    refinement: Refinement | None
    changed: list[changed.Capability]
    power: list[tuple[str, ...]]
    samples: list[Sample]
    manners: list[Manner]
    endless: str
    environment: list[tuple[str, str]]
    facts: list[tuple[str, str]]
    filters: list[filters.Taken]
    diversity: list[tuple[str, str, str]]
    counts: list[tuple[str, str]]
    seconds: list[tuple[str, str]]
    unmeasured: list[tuple[str, str]]
    artefacts: list[tuple[str, ...]]
    artefacts_note: str
    fit: deploy.Fit | None
    fits: Verdict
    gates: list[tuple[deploy.Gate, Verdict]]
    times: list[tuple[str, ...]]
    files: list[tuple[str, str]]
    more_files: int
    commands: list[str]
    how: dict[str, str] = field(default_factory=lambda: charts.HOW)
    verdicts: list[Verdict] = field(default_factory=lambda: list(VERDICTS.values()))

    def missing(self, name: str) -> Missing | None:
        """What is missing of a file, if it is."""
        return self.run.missing.get(name)


def render(page: Page) -> str:
    """The page as HTML."""
    return templates().get_template("page.html").render(page=page)


@cache
def templates() -> Environment:
    """The templates, with what all pages share."""
    environment = Environment(
        loader=PackageLoader("stillhouse.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.globals.update(
        style=charts.style(),
        key=charts.key,
        artefact_columns=artefacts.COLUMNS,
        time_columns=deploy.TIMES,
        power_columns=changed.POWER,
    )
    return environment


def _shown(value: Any) -> Any:
    """Applied to all that a template prints, before it is escaped: no invisible character gets through."""
    return words.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def build(run: Run) -> Page:
    """Choose and word what the page shows."""
    findings = maps(run.evaluation.get("findings"))
    ladder, shown = _ladder(findings)
    cards = [_card(i, f, shown) for i, f in enumerate(findings, 1)]
    tally = [(v, sum(c.verdict == v for c in cards)) for v in VERDICTS.values()]
    models = _models(run)
    fit = deploy.fit(run)
    student = str(at(run.evaluation, "models", "student", "name") or run.name)
    verdict, sentence = _judgement(run, cards)
    lead, more = first_sentence(sentence)
    return Page(
        run=run,
        title=f"{run.name} – Stillhouse report",
        student=_last_name(student),
        teacher=_last_name(teacher_name(run)),
        verdict=verdict,
        sentence=lead,
        more=more,
        tally=[(v, n) for v, n in tally if n],
        held_back=[c for c in cards if c.verdict.word in ("FAIL", "INCONCLUSIVE", "UNINFORMATIVE")],
        actions=", ".join(actions_for([c.name for c in cards if c.verdict.word == "FAIL" and c.name in DEFAULTS])),
        tiles=tiles(run),
        cards=cards,
        ladder=ladder,
        curves=curves(run),
        steering=steering(run),
        tasks=tasks_of(run.metrics),
        roles=[
            (r, _words_of(r, bool(run.refinement)))
            for r in reversed(charts.ROLES)
            if r != "direct" or "direct" in run.stages
        ],
        models=models,
        stages=_steps_taken(run),
        forgetting=forgetting(run),
        refinement=refinement_of(run.refinement),
        changed=changed.capabilities(run.examples),
        power=changed.power_rows(run.evaluation),
        samples=[sample_of(s) for s in run.samples],
        manners=manners(run.samples),
        endless=endless(run.samples),
        environment=flat(run.environment or mapping(run.evaluation.get("environment"))),
        facts=flat(filters.others(run.facts)),
        filters=filters.taken(run.facts, private),
        diversity=filters.diversity(run.facts),
        counts=flat(mapping(run.evaluation.get("counts"))),
        seconds=[(k, words.duration(v)) for k, v in mapping(run.evaluation.get("seconds")).items()],
        unmeasured=_unmeasured(run, cards),
        artefacts=artefacts.rows(run),
        artefacts_note=artefacts.note(run),
        fit=fit,
        fits=verdict_of(fit.verdict if fit else ""),
        gates=[(gate, verdict_of(gate.verdict)) for gate in fit.gates] if fit else [],
        times=deploy.times(run),
        files=[(name, words.bytes_of(size)) for name, size in run.files[:200]],
        more_files=max(0, len(run.files) - 200),
        commands=_commands(run),
    )


def _commands(run: Run) -> list[str]:
    """What makes this page again."""
    imported = mapping(run.evaluation.get("imported"))
    if not imported:
        return [
            "stillhouse run recipe.yaml",
            f"stillhouse evaluate {run.shown_folder}",
            f"stillhouse report {run.shown_folder}",
        ]
    logs = " ".join(str(imported.get(key) or key.upper()) for key in ("reader", "teacher", "student"))
    return [f"stillhouse evaluate --import {logs} --out {run.shown_folder}"]


def _strings(value: Any) -> list[str]:
    return [str(v) for v in value if v] if isinstance(value, list) else []


def _last_name(name: str) -> str:
    """A model's own name without the folders before it, so that no machine's paths are shown."""
    parts = [p for p in re.split(r"[/\\]", name) if p]
    return parts[-1] if parts else name


def teacher_name(run: Run) -> str:
    """The teacher as the evaluation or else the recipe names it."""
    teacher = run.recipe.get("teacher")
    named = at(run.evaluation, "models", "teacher", "name")
    return str(named or at(teacher, "model") or (teacher if isinstance(teacher, str) else "") or "teacher")


# --- judgement and tiles -----------------------------------------------------------------------------------------------


def verdict_of(word: Any) -> Verdict:
    """The verdict of that word; one that is not known is shown as it came, without a colour."""
    text = str(word or "NOT MEASURED").strip().upper().replace("_", " ")
    return VERDICTS.get(text) or Verdict(words.one_line(text, 30), "·", "muted", "")


def _judgement(run: Run, cards: Sequence[Card]) -> tuple[Verdict, str]:
    if not run.evaluation:
        return VERDICTS["NOT MEASURED"], "This run has not been evaluated: nothing is known yet of what was kept."
    sentence = str(run.evaluation.get("sentence") or (cards[0].sentence if cards else ""))
    return verdict_of(run.evaluation.get("verdict")), sentence


def first_sentence(text: str) -> tuple[str, str]:
    """The first sentence, and the rest."""
    found = re.search(r"[.!?]\s+(?=[^\W\d_a-z]|\|)", text)
    return (text[: found.start() + 1], text[found.end() :]) if found else (text, "")


@dataclass(frozen=True)
class Estimate:
    """A number of evaluation.json with the finding it belongs to."""

    label: str
    role: str
    value: float | None
    low: float | None
    high: float | None
    unit: str
    verdict: Verdict

    @property
    def text(self) -> str:
        """With its unit."""
        return quantity(self.value, self.unit)

    @property
    def bounds(self) -> str:
        """The interval with its unit; empty if there is none."""
        return interval(self.low, self.high, self.unit)


def estimate(run: Run, finding: str, pattern: str, role: str = "student") -> Estimate | None:
    """The first known estimate of a finding whose label matches a pattern, of a role or of none."""
    for found in maps(run.evaluation.get("findings")):
        if str(found.get("name")) != finding:
            continue
        for raw in maps(found.get("estimates")):
            label, whose = str(raw.get("label") or ""), str(raw.get("role") or "")
            value = finite(raw.get("value"))
            if value is None or whose not in ("", role) or not re.search(pattern, label, re.IGNORECASE):
                continue
            low, high = finite(raw.get("low")), finite(raw.get("high"))
            return Estimate(
                label, whose, value, low, high, str(raw.get("unit") or ""), verdict_of(found.get("verdict"))
            )
    return None


def tiles(run: Run) -> list[Tile]:
    """The six numbers of the header."""
    judge = f"stillhouse evaluate {run.shown_folder}"
    wanted = (
        ("Kept of the teacher's skill", "accuracy" if run.classes else "performance", r"kept|retention"),
        ("Gain over the control", "benefit", r"control"),
        ("Calibration gap", "calibration", r"confidence − accuracy|gap"),
        ("Distance from the teacher", "fidelity", r"\bKL\b.*(mean|$)"),
    )
    out = [_size(run)]
    for label, finding, pattern in wanted:
        found = estimate(run, finding, pattern)
        if found is None:
            out.append(_unknown(run, label, finding, judge))
        elif found.bounds:
            verdict = found.verdict if found.verdict.word in ("PASS", "FAIL", "INCONCLUSIVE") else None
            out.append(Tile(label, found.bounds, f"best guess {number(found.value)} · {found.label}", verdict))
        else:
            out.append(Tile(label, found.text, f"{found.label} · no interval known"))
    out.append(_time(run))
    return out


def _unknown(run: Run, label: str, finding: str, judge: str) -> Tile:
    """A number that is not there: because nothing was evaluated, the measure was not asked for, or could not tell."""
    if not run.evaluation:
        return Tile(label, "not measured", missing=judge)
    for found in maps(run.evaluation.get("findings")):
        if found.get("name") == finding:
            why = words.one_line(str(found.get("reason") or found.get("sentence") or ""), 140)
            return Tile(label, verdict_of(found.get("verdict")).word.lower(), why)
    return Tile(label, "not asked", f"{finding} is not among evaluate.measures")


def _size(run: Run) -> Tile:
    sizes = [finite(at(run.evaluation, "models", role, "parameters")) for role in ("teacher", "student")]
    weights = [finite(at(run.evaluation, "models", role, "bytes")) for role in ("teacher", "student")]
    teacher, student = sizes
    if not teacher or not student:
        return Tile("Size", "not measured", missing=f"stillhouse evaluate {run.shown_folder}")
    small = f"{words.magnitude(teacher)} → {words.magnitude(student)} parameters"
    if weights[0] and weights[1]:
        small += f" · {words.bytes_of(weights[0])} → {words.bytes_of(weights[1])}"
    ratio = teacher / student
    big = f"{number(ratio)}× smaller" if ratio >= 1 else f"{number(1 / ratio)}× larger"
    big = "as large" if number(ratio) == number(1.0) else big
    return Tile("Size", big, small)


def _time(run: Run) -> Tile:
    stages = mapping(run.evaluation.get("seconds"))
    trained = spent(run.metrics)
    if trained is None:
        return Tile("Training time", "not measured", missing="stillhouse run recipe.yaml")
    parts = [f"student, {steps(run.metrics):,} steps"]
    control = spent(run.control)
    if control is not None:
        parts.append(f"control {words.duration(control)}")
    if finite(stages.get("evaluate")) is not None:
        parts.append(f"evaluation {words.duration(stages['evaluate'])}")
    return Tile("Training time", words.duration(trained), " · ".join(parts))


# --- findings ----------------------------------------------------------------------------------------------------------


def _card(index: int, found: Mapping[str, Any], shown: Any) -> Card:
    name = str(found.get("name") or f"finding {index}")
    raws = maps(found.get("charts"))
    parsed = [c for raw in raws if raw is not shown and (c := charts.parse(raw))]
    rows = []
    for raw in maps(found.get("estimates")):
        unit = str(raw.get("unit") or "")
        bounds = interval(raw.get("low"), raw.get("high"), "share" if unit in ("share", "fraction") else "")
        n = finite(raw.get("n"))
        rows.append(
            Row(
                str(raw.get("label") or ""),
                str(raw.get("role") or ""),
                bounds or words.NOTHING,
                quantity(raw.get("value"), unit),
                words.NOTHING if n is None else f"{n:,.0f}",
            )
        )
    return Card(
        ident=f"finding-{index}",
        name=name,
        question=str(found.get("question") or name),
        verdict=verdict_of(found.get("verdict")),
        sentence=str(found.get("sentence") or ""),
        reason=str(found.get("reason") or ""),
        rows=[r for r in rows if r.role in ("", "student")],
        other_rows=[r for r in rows if r.role not in ("", "student")],
        figures=[charts.figure(c, f"f{index}c{i}") for i, c in enumerate(parsed, 1)],
        ladder=any(raw is shown for raw in raws),
        how=[charts.HOW[k] for k in dict.fromkeys(c.kind for c in parsed)],
        limits=_strings(found.get("limits")),
    )


def _ladder(findings: Iterable[Mapping[str, Any]]) -> tuple[Figure | None, Any]:
    """The ladder of the header: the first chart of that kind (and that chart), else one of estimates that share a label."""
    by_label: dict[tuple[str, str], list[Series]] = {}
    for found in findings:
        for raw in maps(found.get("charts")):
            chart = charts.parse(raw)
            if chart and chart.kind == "ladder":
                return charts.figure(chart, "ladder"), raw
        for raw in maps(found.get("estimates")):
            role, value = str(raw.get("role")), finite(raw.get("value"))
            if role in charts.ROLES and value is not None:
                point = Point(role, value, finite(raw.get("low")), finite(raw.get("high")))
                key = (str(raw.get("label")), str(raw.get("unit") or ""))
                by_label.setdefault(key, []).append(Series(role, (point,), role))
    for (label, unit), series in by_label.items():
        if len(series) >= 3:
            return charts.figure(Chart("ladder", label, y_label=unit or label, series=tuple(series)), "ladder"), None
    return None, None


# --- samples and details -----------------------------------------------------------------------------------------------


def _words_of(role: str, refined: bool) -> str:
    """What a role is, in words; of a refinement *before* is what its rounds began from."""
    return "the student before the rounds" if refined and role == "before" else ROLE_WORDS[role]


def flat(content: Mapping[str, Any], before: str = "", depth: int = 0) -> list[tuple[str, str]]:
    """Nested values as rows of a table, dots between the names; at most 300 of them."""
    rows: list[tuple[str, str]] = []
    for name, value in content.items():
        key = f"{before}{name}"
        if isinstance(value, list) and 0 < len(value) <= 20 and all(isinstance(v, Mapping) for v in value):
            value = dict(enumerate(value, 1))
        if isinstance(value, Mapping) and value and depth < 4:
            rows += flat(value, f"{key}.", depth + 1)
        else:
            text = words.plain(value)
            rows.append((key, private(text if len(text) <= 400 else text[:399] + "…")))
    return rows[:300]


def private(text: str) -> str:
    """The text with absolute paths cut to their last part: they say nothing to other machines and may name a person."""
    return re.sub(
        r"(?<![\w.:/\\-])(?:/[^/\s,;:'\"]+){2,}/?|\b[A-Za-z]:\\[^\s,;'\"]+", lambda m: f"…/{_last_name(m[0])}", text
    )


def _steps_taken(run: Run) -> list[Step]:
    steps = []
    for folder, evaluation in run.stages.items():
        sizes = [finite(at(evaluation, "models", role, "parameters")) for role in ("teacher", "student")]
        told = [words.magnitude(size) if size else NOT_KNOWN for size in sizes]
        sentence, _ = first_sentence(str(evaluation.get("sentence") or ""))
        page = f"{folder}/report.html"
        link = page if (run.folder / page).is_file() else ""
        steps.append(
            Step(folder.rpartition("/")[2], link, told[0], told[1], verdict_of(evaluation.get("verdict")), sentence)
        )
    return steps


def _models(run: Run) -> list[tuple[str, str, str, str]]:
    found = mapping(run.evaluation.get("models"))
    rows = []
    for role in (*SHOWN_ROLES, *(r for r in found if r not in SHOWN_ROLES)):
        model = mapping(found.get(role))
        if model:
            name = _last_name(str(model.get("name") or words.NOTHING))
            rows.append((role, name, words.magnitude(model.get("parameters")), words.bytes_of(model.get("bytes"))))
    return rows


def _unmeasured(run: Run, cards: Sequence[Card]) -> list[tuple[str, str]]:
    rows = [(c.question, c.reason or c.sentence) for c in cards if c.verdict.word in ("NOT MEASURED", "UNINFORMATIVE")]
    if run.evaluation and not at(run.evaluation, "models", "control"):
        rows.append(("Did the teacher help?", "There is no control: set evaluate.control to true and run again."))
    asked = {c.name for c in cards} | ({"latency"} if run.profile else set())
    return rows + [(name, text) for name, text in NEVER_MEASURED if name not in asked]
