"""The whole flow, one line a stage: recipe → data → teacher → student → objective → trainer → evaluate → export → report.

Every stage leaves its result in the run's folder and is skipped when it is there, so the same command starts a run,
continues it after any interruption, and answers at once when it is done.
"""

from __future__ import annotations

import copy
import inspect
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape

from stillhouse import data, export, machine, models, recipe, student, teacher, trainer
from stillhouse.check import check, costs, match, match_classes, match_exports, match_layers, models_of
from stillhouse.chosen import WithoutBytes, sampled
from stillhouse.data.render import end_token, read_whole
from stillhouse.data.tagging import tags_of
from stillhouse.errors import ModelError, RunError, fail
from stillhouse.evaluate import collect as collect_items
from stillhouse.evaluate import judge, judge_imported
from stillhouse.evaluate.examine import examine
from stillhouse.evaluate.foreign import bring_in
from stillhouse.evaluate.questions import Task, tasks_of
from stillhouse.evaluate.splits import answered
from stillhouse.files import atomic_folder, read_json, write_json, write_text
from stillhouse.find import check_options, find
from stillhouse.lock import lock
from stillhouse.models import Model
from stillhouse.objective import Learner, Shape, layer_similarity
from stillhouse.progress import duration, timed
from stillhouse.report import report
from stillhouse.student import quantize
from stillhouse.teacher import Teacher, align
from stillhouse.teacher.classes import of_classes
from stillhouse.teacher.kept import kept, kept_ids
from stillhouse.teacher.quality import Quality, quality
from stillhouse.teacher.sources.store import StoredTeacher
from stillhouse.trainer import distributed
from stillhouse.vocabulary import compare_vocabularies
from stillhouse.vocabulary import fingerprint as tokenizer_fingerprint

DECIDES_WEIGHTS = ("data", "teacher", "stages", "student", "objective", "trainer")
"""Sections that the trained weights follow from; a run's folder holds one set of them."""

SAMPLE_TOKENS = 4096
"""Tokens that a builder reads, as a rule, to find what to keep."""

EXPORT_TOKENS = 16384
"""Held-out tokens from which the texts are taken that artefacts are tested on."""

QUALITY_TOKENS = 1024
"""Held-out tokens that the teacher reads before training."""
FEW = 8
"""Texts with classes that a step should hold: with four, an encoder never left the commonest class of BoolQ; with sixteen it did (docs/log.md)."""


def run(settings: recipe.Recipe, *, console: Console | None = None) -> Path:
    """Distil: from a recipe to a folder with the student, its evaluation and its report; stage by stage where there are any.

    Args:
        settings: the recipe.
        console: where to show progress; None for silence.

    Returns:
        the run's folder.

    Raises:
        RecipeError: the recipe cannot be run; all mistakes at once, before anything is loaded.
        StillhouseError: what else a user can mend; what is done so far stays.

    """
    check(settings)
    ranks = distributed.start(settings.trainer.device)
    if not (settings.folder / "before").exists():
        with timed(console if ranks.main else None, "Checking the models' sizes", loading_seconds(settings.teacher)):
            models_of(settings)
    if settings.stages:
        for index, stage in enumerate(settings.stages):
            if console and ranks.main:
                title = f"Stage {index + 1} of {len(settings.stages) + 1}: {stage.name}"
                console.print(f"[bold]{escape(title)}[/]", highlight=False)
            part = settings.stage(index)
            if index and ranks.main:
                share_text(settings.stage(0), part)
            run(part, console=console)
        if settings.evaluate.direct:
            if console and ranks.main:
                console.print("[bold]The same student without stages, to compare with[/]", highlight=False)
            part = settings.direct()
            if ranks.main:
                share_text(settings.stage(0), part)
            run(part, console=console)
        if ranks.main:
            share_text(settings.stage(0), settings)
        if console and ranks.main:
            console.print(f"[bold]Stage {len(settings.stages) + 1} of {len(settings.stages) + 1}: the student[/]")
    return distil(settings, ranks, console)


def distil(settings: recipe.Recipe, ranks: distributed.Ranks, console: Console | None) -> Path:
    """One student from whoever teaches it; what ``run`` does once for each stage.

    Args:
        settings: the recipe; the students of its stages are there.
        ranks: of all processes.
        console: where to show progress; None for silence.

    Returns:
        the run's folder.

    Raises:
        StillhouseError: what a user can mend; what is done so far stays.

    """
    folder = settings.folder
    say = console.print if console and ranks.main else lambda *_, **__: None
    with ExitStack() as stack:
        if ranks.main:
            stack.enter_context(lock(folder))
            claim(folder, settings)
        distributed.barrier()
        clock = Clock(folder, ranks.main)

        with clock("load"):
            master = load_teacher(settings.taught_by(len(settings.stages)), console if ranks.main else None)
        say(f"Teacher {master.name}: {master.parameters_count:,} parameters", highlight=False)
        with clock("student"):
            first = first_student(settings, master, folder, console if ranks.main else None)
            quantize.foresee(settings.student.quantize, first)
            match_exports(settings.export, first, settings.deploy)
        say(f"Student {settings.name}: {compared(first, master)}", highlight=False)
        tutor = tutor_of(settings, master, first.tokenizer, lambda key: corpus.text_of(key))
        for warning in match(settings.objective, tutor):
            say(f"[yellow]Note:[/] {escape(warning)}", highlight=False)
        if console and ranks.main and not evaluated(folder, settings):
            seconds = costs(settings, made=(master, first)).seconds or 0.0
            say(f"Training takes about {duration(seconds)} here in float32, less in bfloat16", highlight=False)
        with clock("data"):
            corpus = prepare(settings, master, first.tokenizer, folder, console if ranks.main else None)
        say(f"Data: {describe(corpus.facts)}", highlight=False)
        if warning := few_texts(settings, corpus.facts):
            say(f"[yellow]Note:[/] {escape(warning)}", highlight=False)
        if console and ranks.main and not evaluated(folder, settings):
            with timed(console, "Asking the teacher what it knows of this text"):
                found = read_first(tutor, corpus, first.outcomes)
            tell_quality(found, say)
        del first
        with timed(console if ranks.main else None, "Measuring this machine's arithmetic"):
            arithmetic = choose_arithmetic(settings, folder, ranks)
        say(f"Arithmetic: {arithmetic['student'].reason}", highlight=False)

        train_student(settings, tutor, corpus, folder, ranks, clock, arithmetic, console, control=False)
        if settings.evaluate.control:
            train_student(settings, tutor, corpus, folder, ranks, clock, arithmetic, console, control=True)

        if ranks.main:
            if not evaluated(folder, settings):
                with clock("evaluate"):
                    reference = load_reference(settings, master, console)
                    collect(folder, settings, reference, corpus, console)
                    ask_tasks(folder, settings, reference, tasks_of(settings.evaluate.tasks), console)
                judge(folder, settings, clock.seconds)
            with clock("export"):
                refused = export.others(
                    settings.export,
                    folder,
                    *held_out(corpus, bool(settings.data.classes)),
                    console,
                    deploy=settings.deploy,
                )
            page = report(folder)
            say(f"Student: {folder / 'student'}\nReport:  {page}", highlight=False)
        distributed.barrier()
        if ranks.main and refused:
            raise RunError(*refused)
    return folder


def evaluate(
    folder: str | Path,
    *,
    judge_only: bool = False,
    tasks: Sequence[str | dict[str, Any]] = (),
    policy: str | Path | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Score teacher, student before and after, and control on held-out text and tasks; judge; write evaluation.json.

    Args:
        folder: a run's.
        judge_only: new verdicts from the stored tables; no model is loaded.
        tasks: ask these instead of the recipe's, and read no text again; answers to others stay.
        policy: a YAML file with what to judge by, instead of the recipe's section ``evaluate``.
        console: where to show progress.

    Returns:
        what evaluation.json holds.

    Raises:
        RunError: there is no finished student in the folder, or no table to judge.

    """
    folder = Path(folder)
    settings = load_resolved(folder)
    judged_by = None if policy is None else recipe.policy(policy, settings.evaluate)
    asked = (
        recipe.Evaluate.model_validate({"tasks": list(tasks)}).tasks
        if tasks
        else (judged_by or settings.evaluate).tasks
    )
    questions = {} if judge_only else tasks_of(asked, "--task" if tasks else "evaluate.tasks")
    only_tasks = bool(tasks) or asked != settings.evaluate.tasks
    clock = Clock(folder, write=True)
    with lock(folder):
        if not judge_only:
            if not (folder / "student" / "config.json").is_file():
                way_out = f"Finish the run first: stillhouse run {folder / 'recipe.yaml'}"
                raise fail(RunError, str(folder), "holds no finished student", way_out)
            with clock("evaluate"):
                master = load_teacher(settings.reference, console)
                if not only_tasks or not (folder / "evaluation" / "items.parquet").is_file():
                    tokenizer = models.load(str(folder / "before"), empty=True).tokenizer
                    corpus = data.prepare(settings.data, tokenizer, folder / "data", teacher=master)
                    collect(folder, settings, master, corpus, console)
                ask_tasks(folder, settings, master, questions, console)
        return judge(folder, settings, clock.seconds, judged_by)


def import_logs(
    reader: str, teacher: Path, student: Path, folder: Path, *, policy: str | Path | None = None
) -> dict[str, Any]:
    """Judge what another program logged of teacher and student; write the table, evaluation.json and nothing else.

    Args:
        reader: a strategy of the kind ``log``: lm-eval, lighteval, helm.
        teacher: its log of the teacher, a file or a folder.
        student: its log of the student.
        folder: where the table and the report go; made if it is not there.
        policy: a YAML file with what to judge by.

    Returns:
        what evaluation.json holds.

    Raises:
        DataError: a log cannot be read, or the two were not asked the same, with counts.
        RunError: the folder is a run's.
        RecipeError: no such reader, or the policy is wrong.

    """
    if (folder / "recipe.yaml").exists():
        raise fail(RunError, str(folder), "is a run's folder", "Give the imported logs a folder of their own: --out.")
    section = recipe.Evaluate() if policy is None else recipe.policy(policy, recipe.Evaluate())
    bring_in(reader, teacher, student, folder)
    return judge_imported(folder, section, {"reader": reader, "teacher": teacher.name, "student": student.name})


def load_resolved(folder: Path) -> recipe.Recipe:
    """The recipe that a run was made of.

    Raises:
        RunError: the folder is no run's.

    """
    path = folder / "recipe.yaml"
    if not path.is_file():
        raise fail(RunError, str(folder), "is not a run's folder: it holds no recipe.yaml", "Give runs/<name>.")
    return recipe.load(path)


class Clock:
    """How long each stage took, over all sittings of a run."""

    def __init__(self, folder: Path, write: bool) -> None:
        self.path = folder / "seconds.json"
        self.write = write
        self.seconds: dict[str, float] = read_json(self.path, {})

    def __call__(self, stage: str) -> Clock:
        """Time the ``with`` block as this stage."""
        self.stage = stage
        return self

    def __enter__(self) -> None:
        self.began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.stage] = round(self.seconds.get(self.stage, 0.0) + time.monotonic() - self.began, 1)
        if self.write:
            write_json(self.path, self.seconds)


def claim(folder: Path, settings: recipe.Recipe) -> None:
    """Make the folder this recipe's, or refuse one that is another's."""
    path = folder / "recipe.yaml"
    if path.is_file():
        theirs = recipe.load(path)
        different = [s for s in DECIDES_WEIGHTS if theirs.fingerprint(s) != settings.fingerprint(s)]
        if different:
            raise fail(
                RunError,
                str(folder),
                f"holds a run of another recipe (its {', '.join(different)} differ)",
                "Give this run its own folder (run=runs/<other>), or delete that one if you no longer need it.",
            )
    try:
        write_text(path, settings.to_yaml())
        write_json(folder / "environment.json", machine.describe())
    except OSError as error:
        raise fail(
            RunError, str(folder), f"cannot be written: {error.strerror}", "Give another folder: run=…"
        ) from None


def load_teacher(section: recipe.Teacher, console: Console | None) -> Teacher:
    """A teacher, with the time it takes shown."""
    with timed(console, "Loading the teacher", loading_seconds(section)):
        return teacher.load(section)


def loading_seconds(section: recipe.Teacher) -> float | None:
    """What loading a teacher takes, about, where its source knows that it takes long."""
    source = find("teacher", section.name, "teacher")
    seconds: float | None = getattr(source, "takes", lambda _: None)(check_options(source, section.options, "teacher"))
    return seconds


def share_text(first: recipe.Recipe, other: recipe.Recipe) -> None:
    """Let a later stage begin with the corpus of the first, text that the teacher wrote included; it makes its own if it must.

    A student of other tokens, or of other data, finds that the corpus is not of what it needs, and replaces it.
    """
    place = other.folder / "data"
    if first.data == other.data and not place.exists():
        with atomic_folder(place) as building:
            shutil.copytree(first.folder / "data", building, dirs_exist_ok=True)


def load_reference(settings: recipe.Recipe, master: Teacher, console: Console | None) -> Teacher:
    """Whom the student is compared with: who taught it, or, at the end of stages, whom the recipe says."""
    same = settings.reference == settings.taught_by(len(settings.stages))
    return master if same else load_teacher(settings.reference, console)


def first_student(settings: recipe.Recipe, master: Teacher, folder: Path, console: Console | None) -> Model:
    """The student before training: made once, kept in the run's folder, and read from there by all that need it."""
    place = folder / "before"

    def make() -> None:
        if (place / "config.json").is_file():
            return

        begins = settings.made_from(len(settings.stages))
        base = master.model if begins is None else models.load(begins, where="student.start")

        def sample() -> list[str]:
            return data.sample(settings.data, base.tokenizer, teacher=master, folder=folder / "data")

        left = measuring_seconds(settings.student, master) if console else None
        with timed(console, "Making the student", left):
            pupil = student.build(
                settings.student, base, settings.trainer.seed, sample=sample, classes=settings.data.classes
            )
            match_classes(settings, pupil)
            match_layers(settings.objective, pupil)
            with atomic_folder(place) as building:
                pupil.save(building)

    distributed.by_main(make)
    return models.load(str(place), name=settings.name)


def measuring_seconds(section: recipe.Student, master: Teacher) -> float | None:
    """What it takes to measure on a sample which parts to keep, about: one reading of it by the teacher; None for other builders."""
    builders = [find("builder", strategy.name, where) for strategy, where in student.chain(section)]
    if not any("sample" in inspect.signature(builder).parameters for builder in builders):
        return None
    rate = machine.measure_gemm(torch.float32, "cpu")
    return 2.0 * SAMPLE_TOKENS * master.model.parameters_count / (rate * 1e9)


def compared(pupil: Model, master: Teacher) -> str:
    """A student's size, and how many times smaller it is than its teacher."""
    ratio = master.parameters_count / pupil.parameters_count
    return f"{pupil.parameters_count:,} parameters, {ratio:.1f} times fewer"


def tutor_of(settings: recipe.Recipe, master: Teacher, tokenizer: Any, text_of: Callable[[str], str]) -> Teacher:
    """The teacher as the student can listen to it: itself, of the tokens that the student kept, or at the positions of others.

    Args:
        settings: the recipe.
        master: the teacher.
        tokenizer: the student's.
        text_of: an example's key → its text; called only once there is a corpus.

    Raises:
        ModelError: the two have other tokens, and this teacher or what the student reads cannot be matched to them.

    """
    if settings.data.classes:

        def read(key: str, of: Any) -> list[int]:
            return read_whole([text_of(key)], of, settings.data.block)[0][0]

        return of_classes(master, tokenizer, settings.data.classes, read)
    found = compare_vocabularies(tokenizer, master.tokenizer)
    if isinstance(master, StoredTeacher):
        if master.tokens != tokenizer_fingerprint(master.tokenizer if found.comparable else tokenizer):
            what = f"has other tokens than those that the store of {master.name} was labelled for"
            way_out = "Label its text: stillhouse label <this recipe>, with a folder of its own (teacher.path=…)."
            raise fail(ModelError, "student", what, way_out)
        return master
    if found.comparable or not master.forms:
        return master
    where, way_out = "student", "Take a student with the teacher's tokenizer."
    if found.kind == "permuted":
        raise fail(ModelError, where, f"numbers the tokens of {master.name} otherwise: {found.example}", way_out)
    ends = end_token(tokenizer, settings.data.end_token), align.end_of(master.tokenizer)
    if kept_ids(tokenizer, master.tokenizer) is not None:
        return kept(master, tokenizer, text_of, ends=ends)
    if master.forms != {"dense"}:
        what = f"has other tokens than {master.name}, of whose distributions only a part is there ({found.example})"
        raise fail(ModelError, where, what, way_out)
    if any(data.writes(sampler) for sampler in settings.data.sampler):
        what = f"has other tokens than {master.name}, which therefore cannot judge what the student writes"
        raise fail(ModelError, where, what, f"{way_out} Or leave data.sampler out.")
    return align.aligned(master, tokenizer, text_of, ends=ends)


def prepare(
    settings: recipe.Recipe, master: Teacher, tokenizer: Any, folder: Path, console: Console | None
) -> data.Corpus:
    """The corpus, in the student's tokens; one process makes it, the others open it."""
    corpora = []

    def make() -> None:
        with timed(console, "Preparing the text") as tell:
            corpora.append(data.prepare(settings.data, tokenizer, folder / "data", teacher=master, progress=tell))

    distributed.by_main(make)
    return corpora[0] if corpora else data.prepare(settings.data, tokenizer, folder / "data", teacher=master)


def train_student(
    settings: recipe.Recipe,
    master: Teacher,
    corpus: data.Corpus,
    folder: Path,
    ranks: distributed.Ranks,
    clock: Clock,
    arithmetic: dict[str, machine.Choice],
    console: Console | None,
    *,
    control: bool,
) -> None:
    """Train the student, or its control without a teacher, and export it; nothing if that was done before."""
    name = "control" if control else "student"
    before, folder = folder / "before", folder / "control" if control else folder
    if (folder / "student" / "config.json").is_file():
        return
    pupil = models.load(str(before), name=f"{settings.name}-control" if control else settings.name)
    pupil.learn(settings.trainer.seed)
    if settings.trainer.dropout is not None:
        pupil.set_dropout(settings.trainer.dropout)
    if settings.student.quantize is not None:
        quantize.attach(pupil, settings.student.quantize)
    speaking = None if control or not master.forms else teaching(master, arithmetic["teacher"], ranks)

    def similarity() -> torch.Tensor:
        assert speaking is not None
        tokens = settings.trainer.micro_tokens
        sample = corpus.train.step(0, tokens_per_step=tokens, micro_tokens=tokens, seed=settings.trainer.seed)
        return layer_similarity(pupil, speaking.signal, sample[0])

    learner = Learner(
        pupil,
        settings.objective,
        settings.trainer.steps,
        teacher=not control,
        shape=Shape.of(master.model),
        similarity=similarity,
        counts_V=lambda: torch.from_numpy(corpus.train.label_counts(pupil.outcomes)),
        tasks={task: settings.data.tasks.get(task, recipe.Task()).temperature for task in settings.data.task_names},
    )
    where = folder.parent if control else folder
    with clock(f"train {name}"):
        trainer.train(
            learner,
            speaking,
            sampled(settings, corpus, pupil.tokenizer, where, speaking, console, ranks, control=control),
            WithoutBytes(corpus.validation),
            settings.trainer,
            folder,
            fingerprint=settings.fingerprint(*DECIDES_WEIGHTS) + name,
            ranks=ranks,
            choice=arithmetic["student"],
            console=console,
            name=name,
        )
    with clock("export"):
        whole = distributed.full_state_dict(pupil)
        if ranks.main:
            with timed(console, "Writing the student" if not control else "Writing the control"):
                fresh = models.load(str(before), name=pupil.name)
                fresh.learn()
                if settings.student.quantize is not None:
                    quantize.attach(fresh, settings.student.quantize)
                fresh.load_state_dict(whole)
                fresh.settle()
                export.export(fresh, folder)
        distributed.barrier()


def held_out(corpus: data.Corpus, classes: bool) -> tuple[list[list[int]], list[int] | None]:
    """Token ids of held-out texts, one a list, for testing what is exported; of texts with classes, those of the test, and which each has."""
    side = corpus.test if classes else corpus.validation
    texts: list[list[int]] = []
    labels: list[int] = []
    for batch, _bytes in side.all(1024, EXPORT_TOKENS):
        borders = zip(batch.borders_D1[:-1], batch.borders_D1[1:], strict=True)
        texts += [batch.input_ids_P[start:stop].tolist() for start, stop in borders]
        labels += batch.labels_N.tolist()
    return texts, labels if classes else None


def read_first(tutor: Teacher, corpus: data.Corpus, outcomes: int) -> Quality | None:
    """How good the teacher is on this text, before a student spends hours on learning from it."""
    counts_V = torch.from_numpy(corpus.train.label_counts(outcomes))
    return quality(tutor, corpus.validation.all(512, QUALITY_TOKENS), counts_V)


def tell_quality(found: Quality | None, say: Callable[..., None]) -> None:
    """Tell how good the teacher is, and warn where it is no good."""
    if found is None:
        return
    what, one = ("texts", "class") if found.classes else ("tokens", "token")
    say(f"The teacher on {found.positions:,} held-out {what}: {found}", highlight=False)
    if not found.useful:
        say(
            f"[yellow]Note:[/] the teacher knows this text no better than {one} counts do: a student can learn little from it. "
            "Fine-tune the teacher on such text first, or lower objective.alpha.",
            highlight=False,
        )


def choose_arithmetic(settings: recipe.Recipe, folder: Path, ranks: distributed.Ranks) -> dict[str, machine.Choice]:
    """The types to compute in, measured once a run: a run that goes on, on this machine or another, keeps to them."""
    path = folder / "arithmetic.json"
    machine.set_threads(settings.trainer.threads)

    def choose() -> dict[str, dict[str, str]]:
        asked = {"student": settings.trainer.dtype, "teacher": settings.teacher.dtype}
        found = {who: machine.choose_dtype(dtype, ranks.device).to_dict() for who, dtype in asked.items()}
        write_json(path, found)
        return found

    chosen = (read_json(path, None) or choose()) if ranks.main else None
    return {who: machine.Choice(**choice) for who, choice in distributed.from_main(chosen).items()}


def teaching(master: Teacher, choice: machine.Choice, ranks: distributed.Ranks) -> Teacher:
    """The teacher for training: its networks where the student computes, split over the processes if there are several."""

    def place(model: Model) -> Model:
        copied = model if ranks.world == 1 and ranks.device.type == "cpu" else copy.deepcopy(model).to(ranks.device)
        copied.set_compute_dtype(choice.torch)
        distributed.shard(copied, copied.layers, ranks)
        return copied

    return master.placed(place)


def evaluated(folder: Path, settings: recipe.Recipe) -> bool:
    """Whether the evaluation that the recipe asks for is there."""
    there = read_json(folder / "evaluation.json", {})
    return bool(there) and there.get("recipe_fingerprint") == settings.fingerprint()


def collect(
    folder: Path,
    settings: recipe.Recipe,
    master: Teacher,
    corpus: data.Corpus,
    console: Console | None,
    into: Path | None = None,
) -> None:
    """Load what is to be compared, one role at a time, and fill the item table; in the run's folder, or in another."""
    precise = Teacher(in_float32(master.model)) if master.alone else master.placed(in_float32)
    shape = models.load(str(folder / "before"), empty=True)
    tutor = tutor_of(settings, precise, shape.tokenizer, corpus.text_of)
    loaders = loaders_of(folder, settings)
    part = settings.evaluate.part
    test = corpus.test if part == "all" else corpus.test.only(lambda key: answered(key, part))
    batches = list(test.all(settings.trainer.micro_tokens, settings.evaluate.tokens))
    if settings.evaluate.slices:
        tags = tags_of(settings.data, shape.tokenizer, settings.evaluate.slices)
        write_json((into or folder) / "evaluation" / "tags.json", tags)
    counts_V = corpus.train.label_counts(shape.outcomes)

    def end(of: Any) -> int:
        return end_token(of, settings.data.end_token if of is not master.tokenizer or tutor is precise else None)

    collect_items(into or folder, batches, counts_V, tutor, loaders, end, settings.report, console)


def loaders_of(folder: Path, settings: recipe.Recipe) -> dict[str, Callable[[], Model]]:
    """What loads the model of each role but the teacher."""
    loaders: dict[str, Callable[[], Model]] = {
        "before": lambda: models.load(str(folder / "before"), name=f"{settings.name}-before"),
        "student": lambda: models.load(str(folder / "student"), name=settings.name),
    }
    if (folder / "control" / "student" / "config.json").is_file():
        loaders["control"] = lambda: models.load(str(folder / "control" / "student"), name=f"{settings.name}-control")
    if settings.evaluate.direct:
        loaders["direct"] = lambda: models.load(str(folder / "direct" / "student"), name=f"{settings.name}-direct")
    return loaders


def ask_tasks(
    folder: Path, settings: recipe.Recipe, master: Teacher, tasks: Mapping[str, Task], console: Console | None
) -> None:
    """Let all roles answer tasks; the teacher only where it is a model that runs here."""
    if not tasks:
        return
    loaders = loaders_of(folder, settings)
    if master.alone:
        loaders["teacher"] = lambda: in_float32(master.model)
    end, part = settings.data.end_token, settings.evaluate.part
    if part != "all":
        tasks = {name: task.only(lambda cluster: answered(cluster, part)) for name, task in tasks.items()}

    def prefix(tokenizer: Any) -> int:
        return end_token(tokenizer, end if end in tokenizer.get_vocab() else None)

    examine(folder, tasks, loaders, prefix, console)


def in_float32(model: Model) -> Model:
    """The model, set to compute exactly."""
    model.set_compute_dtype(torch.float32)
    return model


@torch.no_grad()
def rounded(model: Model) -> Model:
    """The same model with its weights rounded to bfloat16, computing exactly: the noise that answers have without any loss."""
    found = in_float32(copy.deepcopy(model))
    for weight in found.network.parameters():
        if weight.is_floating_point():
            weight.copy_(weight.to(torch.bfloat16).to(weight.dtype))
    return found


def few_texts(settings: recipe.Recipe, facts: dict[str, Any]) -> str:
    """A warning about steps that hold so few labelled texts that their gradients are noise; empty where they hold enough."""
    section, train = settings.trainer, facts["train"]
    length = train["tokens"] / train["documents"]
    texts = section.tokens_per_step / length
    if not settings.data.classes or texts >= FEW:
        return ""
    enough = math.ceil(2 * FEW * length / section.micro_tokens) * section.micro_tokens
    return (
        f"a step reads about {texts:.0f} texts, each with one label: raise trainer.tokens_per_step, to {enough:,} say"
    )


def describe(facts: dict[str, Any]) -> str:
    """A corpus in a line."""
    words = {"train": "to learn from", "validation": "held out", "test": "to evaluate on"}
    return "; ".join(
        f"{facts[side]['documents']:,} documents, {facts[side]['tokens']:,} tokens {word}"
        for side, word in words.items()
        if side in facts
    )
