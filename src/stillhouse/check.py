"""Everything that can be known of a recipe without loading weights: what is wrong with it, and what it will cost."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillhouse import data, recipe
from stillhouse.errors import ModelError, Problem, RecipeError, StillhouseError, did_you_mean, fail
from stillhouse.evaluate.questions import tasks_of
from stillhouse.find import check_options, find

if TYPE_CHECKING:
    from stillhouse.models import Model
    from stillhouse.teacher import Teacher


@dataclass(frozen=True)
class Costs:
    """What a run will take, before it starts.

    Args:
        teacher: its name.
        teacher_parameters: counted once each.
        student_parameters: likewise; equal to what the saved file will hold.
        trained_parameters: that training moves: all of the student's, or those of its adapter.
        tokens: that the student learns from.
        operations: multiply-adds of the training, both models.
        memory: bytes at the peak of training, about.
        teacher_memory: of these, the weights of who teaches; 0 where it computes elsewhere.
        seconds: of training student and control on this machine, about; None if it was not measured.

    """

    teacher: str
    teacher_parameters: int
    student_parameters: int
    trained_parameters: int
    tokens: int
    operations: float
    memory: float
    teacher_memory: float
    seconds: float | None

    @property
    def ratio(self) -> float:
        """How many times smaller the student is."""
        return self.teacher_parameters / self.student_parameters


def check(settings: recipe.Recipe) -> None:
    """Refuse a recipe that cannot run: strategies, their options, files, the machine; nothing is loaded.

    Raises:
        RecipeError: everything that is wrong with it, at once.

    """
    problems: list[Problem] = []
    for kind, strategy, where in strategies(settings):
        check_strategy(kind, strategy, where, problems)
    problems += filter_problems(settings)
    with gathering(problems):
        tasks_of(settings.evaluate.tasks)
    with gathering(problems):
        from stillhouse.objective import terms_of

        terms_of(settings.objective)
    if writing(settings.data) and settings.teacher.name == "store":
        what = "what the student writes is new: nothing is stored of it"
        problems.append(
            Problem("data.sampler", what, "Take a teacher that answers while training, or leave student_text out.")
        )
    if settings.student.quantize is not None:
        from stillhouse.student.quantize import check_installed

        with gathering(problems):
            check_installed()
    problems += class_problems(settings.data)
    problems += task_problems(settings.data)
    problems += export_problems(settings.export)
    problems += deploy_problems(settings)
    for hook in settings.trainer.hooks:
        with gathering(problems):
            if ":" not in hook:
                raise RecipeError(
                    Problem("trainer.hooks", f"'{hook}' is no function", "Write package.module:function.")
                )
            find("hook", hook, "trainer.hooks")
    problems += machine_problems(settings)
    for i, stage in enumerate(settings.stages):
        found: list[Problem] = []
        with gathering(found):
            check(settings.stage(i))
        # what a stage shares with the recipe is told once
        ours = [p for p in found if p not in problems]
        problems += [Problem(f"stages.{i} ({stage.name}), {p.where}", p.what, p.way_out) for p in ours]
    if problems:
        unique = list(dict.fromkeys(problems))
        raise RecipeError(*unique)


def filter_problems(settings: recipe.Recipe) -> list[Problem]:
    """What is wrong with filters, before anything is filtered."""
    from stillhouse.data.screening import GIVEN, make

    problems: list[Problem] = []
    for i, strategy in enumerate(settings.data.filters):
        with gathering(problems):
            where = f"data.filters.{i}"
            make(strategy, where, dict.fromkeys(GIVEN))  # reads nothing yet, but knows which options make sense
            asks = "teacher" in inspect.signature(find("filter", strategy.name, where)).parameters
            if asks and settings.teacher.name in ("store", "served"):
                what = f"asks the teacher about all text, and the weights of '{settings.teacher.name}' are not here"
                problems.append(Problem(where, what, "Take a folder, a hub id or a GGUF file, or leave it out."))
    return problems


def check_strategy(kind: str, strategy: recipe.Strategy, where: str, problems: list[Problem]) -> None:
    """Collect what is wrong with a strategy, its options, the files it reads, and the strategies that its options name."""
    with gathering(problems):
        function = find(kind, strategy.name, where)
        options = check_options(function, strategy.options, where)
        so_far = len(problems)
        for inner_kind, inner, key in getattr(function, "held", lambda _: [])(options):
            check_strategy(inner_kind, inner, f"{where}.{key}", problems)
        if len(problems) > so_far:
            return
        problems += files_missing(function, options, where)
        if kind == "sampler" and data.writes(strategy):
            function(None, **options)  # it reads nothing yet, but knows which options make sense
        if kind in ("sampler", "mixture") and isinstance(by := options.get("by"), str):
            find("difficulty", by, f"{where}.by")
        if kind == "prompt" and len(problems) == so_far and not needs_a_teacher(function):
            with placed(where):
                next(function(**options), None)  # whether the first prompt can be made


def needs_a_teacher(function: Any) -> bool:
    """Whether a strategy is given something before its options."""
    kinds = {parameter.kind for parameter in inspect.signature(function).parameters.values()}
    return kinds != {inspect.Parameter.KEYWORD_ONLY}


@contextmanager
def placed(where: str) -> Iterator[None]:
    """Put the recipe's key in front of what is raised."""
    try:
        yield
    except StillhouseError as error:
        raise RecipeError(*(Problem(f"{where}, {p.where}", p.what, p.way_out) for p in error.problems)) from None


def class_problems(section: recipe.Data) -> list[Problem]:
    """What is wrong with a corpus of labelled texts, before it is read."""
    problems = []
    for source, where in section.all_sources:
        if recipe.classes_of(source) != section.classes:
            what = "has other classes than the first source, or only one of the two has any"
            problems.append(Problem(f"{where}.format", what, "Give all sources the same classes in one order."))
        unknown = section.classes and source.format.options.get("label", "") is None
        if unknown and not where.startswith("data.sources"):
            what = "has no labels, and what is held out is judged by them"
            problems.append(Problem(f"{where}.format.label", what, "Name the field of the class."))
    if section.augment and not section.classes:
        what = "makes texts of which only the class is asked, and the data has no classes"
        problems.append(Problem("data.augment", what, "Leave it out."))
    if section.classes and writing(section):
        what = "lets the student write, and a classifier writes nothing"
        problems.append(Problem("data.sampler", what, "Leave it out."))
    if len(set(section.classes)) != len(section.classes):
        problems.append(Problem("data.sources.0.format.classes", "names a class twice", "Name each once."))
    return problems


def writing(section: recipe.Data) -> list[recipe.Strategy]:
    """Samplers that let the student write; what is no sampler is told elsewhere."""
    found = []
    for sampler in section.sampler:
        with contextlib.suppress(StillhouseError):
            found += [sampler] if data.writes(sampler) else []
    return found


def task_problems(section: recipe.Data) -> list[Problem]:
    """What is wrong with the tasks of a corpus and with what chooses among its text, before it is read."""
    problems = []
    names = section.task_names
    if names:
        for source, where in section.all_sources:
            if source.task not in names:
                what = f"belongs to no task{' that is learned' if source.task else ''}, and other sources do"
                problems.append(Problem(where, what, f"Give it one: task: {names[0]}, or one of its own."))
    for name in section.tasks:
        if name not in names:
            hint = did_you_mean(name, names) if names else f"Name it at a source: {{task: {name}, name: jsonl, …}}."
            problems.append(Problem(f"data.tasks.{name}", "no source belongs to such a task", hint))
    mixture = section.mixture
    if not names and mixture != recipe.Strategy(name="proportional"):
        way_out = "Name tasks at the sources: {task: translation, name: jsonl, …}."
        problems.append(Problem("data.mixture", "there are no tasks to mix", way_out))
    shares = mixture.options.get("shares")
    if mixture.name == "fixed" and isinstance(shares, dict):
        problems += [Problem(f"data.mixture.shares.{n}", "is needed and missing") for n in names if n not in shares]
        unknown = [n for n in shares if n not in names]
        problems += [
            Problem(f"data.mixture.shares.{n}", "there is no such task", did_you_mean(n, names)) for n in unknown
        ]
    own = writing(section)
    if own and section.sampler[-1] not in own:
        what = "what the student writes goes on from text that is chosen before it"
        problems.append(Problem("data.sampler", what, f"Let {own[0].name} come last."))
    if len(own) > 1:
        problems.append(Problem("data.sampler", "lets the student write twice", "Leave one of them out."))
    period = own[0].options.get("every", 8) if own else None
    for strategy, where in [(mixture, "data.mixture"), *((s, "data.sampler") for s in section.sampler if s not in own)]:
        with contextlib.suppress(StillhouseError):
            every = data.options_of(strategy, where).get("every")
            if isinstance(every, int) and isinstance(period, int) and period and every % period:
                what = f"'{strategy.name}' measures every {every} steps, and the student writes for {period} steps at a time"
                problems.append(Problem(where, what, f"Let its 'every' be a multiple of {period}."))
    return problems


def strategies(settings: recipe.Recipe) -> Iterator[tuple[str, recipe.Strategy, str]]:
    """Every strategy that a recipe names: its kind, itself, and where it stands."""
    for source, where in settings.data.all_sources:
        yield "source", source, where
        yield "format", source.format, f"{where}.format"
    yield from (("augmentation", each, f"data.augment.{i}") for i, each in enumerate(settings.data.augment))
    yield "mixture", settings.data.mixture, "data.mixture"
    for i, sampler in enumerate(settings.data.sampler):
        yield "sampler", sampler, "data.sampler" if len(settings.data.sampler) == 1 else f"data.sampler.{i}"
    yield "teacher", settings.teacher, "teacher"
    yield "builder", settings.student, "student"
    yield from (("builder", s, f"student.then.{i}") for i, s in enumerate(settings.student.then))
    yield from (("logger", s, f"trainer.loggers.{i}") for i, s in enumerate(settings.trainer.loggers))
    yield from (("task", s, f"evaluate.tasks.{i}") for i, s in enumerate(settings.evaluate.tasks))
    yield from (("measure", s, f"evaluate.measures.{i}") for i, s in enumerate(settings.evaluate.measures))
    yield from (("export", s, f"export.formats.{i}") for i, s in enumerate(settings.export.formats))


def export_problems(section: recipe.Export) -> list[Problem]:
    """What is wrong with the formats of a recipe: packages that are not installed, two artefacts of one name."""
    from stillhouse.export import label_of

    problems = []
    names = [label_of(strategy) for strategy in section.formats]
    for i, strategy in enumerate(section.formats):
        where = f"export.formats.{i}"
        if names[i] in names[:i]:
            problems.append(Problem(where, f"there are two artefacts '{names[i]}'", "List each once."))
        with gathering([]):
            function = find("export", strategy.name, where)
            missing = [p for p in getattr(function, "packages", ()) if importlib.util.find_spec(p) is None]
            if missing:
                what = f"needs {', '.join(missing)}, which is not installed"
                problems.append(Problem(where, what, f"pip install 'stillhouse[{function.extra}]'"))  # type: ignore[attr-defined]
    return problems


def deploy_problems(settings: recipe.Recipe) -> list[Problem]:
    """What is wrong with the target of a recipe: it runs a format that nothing is written in."""
    runtime, written = settings.deploy.runtime, ["hf", *(f.name for f in settings.export.formats)]
    if runtime is None or runtime in written:
        return []
    what = f"'{runtime}' is none of the formats that the student is written in: {', '.join(dict.fromkeys(written))}"
    return [Problem("deploy.runtime", what, f"Add {{name: {runtime}}} to export.formats.")]


def match_exports(section: recipe.Export, pupil: Model, deploy: recipe.Deploy | None = None) -> None:
    """Refuse formats that this student cannot be written in, or in which it is too large, before it is trained.

    Args:
        section: the recipe's, checked.
        pupil: the student; may be empty.
        deploy: what the target takes.

    Raises:
        RecipeError: all of them at once.

    """
    from stillhouse.export import TOO_LARGE, largest_of

    problems = []
    limited = {} if deploy is None else largest_of(section, deploy)
    listed = [(strategy, f"export.formats.{i} ({strategy.name})") for i, strategy in enumerate(section.formats)]
    if all(strategy.name != "hf" for strategy in section.formats):
        listed.append((recipe.Strategy(name="hf"), "export (hf)"))
    for strategy, where in listed:
        function: Any = find("export", strategy.name, where)
        options = check_options(function, strategy.options, where)
        refused = function.refuses(pupil, options) if hasattr(function, "refuses") else None
        if refused is not None:
            problems.append(Problem(where, refused.what, refused.way_out))
        elif strategy.name in limited and hasattr(function, "size"):
            size = function.size(pupil, options) / 1e6
            if size > limited[strategy.name]:
                what = f"will be about {size:,.1f} MB, and deploy.max_file_mb allows {limited[strategy.name]:g}"
                problems.append(Problem(where, what, TOO_LARGE))
    if problems:
        raise RecipeError(*problems)


@contextmanager
def gathering(problems: list[Problem]) -> Iterator[None]:
    """Collect what is raised instead of stopping at it."""
    try:
        yield
    except StillhouseError as error:
        problems += error.problems


def files_missing(function: Any, options: dict[str, Any], where: str) -> list[Problem]:
    """Files that a strategy reads and that are not there."""
    inputs = getattr(function, "inputs", lambda _: None)(options)
    if inputs is None or inputs:
        return []
    return [Problem(f"{where}.path", f"no file matches '{options.get('path')}'", f"Paths start at {Path.cwd()}.")]


def machine_problems(settings: recipe.Recipe) -> list[Problem]:
    """What this machine does not allow."""
    import torch

    problems = []
    if settings.trainer.device == "cuda" and not torch.cuda.is_available():
        problems.append(Problem("trainer.device", "there is no CUDA device here", "Write device: auto."))
    world = int(os.environ.get("WORLD_SIZE", "1"))
    micro_batches = settings.trainer.tokens_per_step // settings.trainer.micro_tokens
    if micro_batches % world:
        what = f"{micro_batches} micro-batches a step cannot be shared evenly by {world} processes"
        way_out = f"Make tokens_per_step / micro_tokens a multiple of {world}."
        problems.append(Problem("trainer.tokens_per_step", what, way_out))
    if world > 1 and writing(settings.data):
        what = f"the student cannot write while its weights are split over {world} processes"
        way_out = "Train with one process, or leave the sampler that lets it write out of the recipe."
        problems.append(Problem("data.sampler", what, way_out))
    folder = settings.folder
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not there.is_dir():
        problems.append(Problem("run", f"'{there}' is a file, not a folder", "Give another folder: run=…"))
    elif not os.access(there, os.W_OK):
        problems.append(Problem("run", f"'{there}' cannot be written to", "Give another folder: run=…"))
    return problems


def match(objective: recipe.Objective, teacher: Teacher) -> list[str]:
    """Refuse losses that this teacher's signals cannot serve; tell of those that they serve only in part.

    Args:
        objective: the recipe's.
        teacher: as it was loaded.

    Returns:
        warnings, a sentence each.

    Raises:
        RecipeError: a loss wants what the teacher does not give; all of them at once.

    """
    from stillhouse.objective import terms_of
    from stillhouse.types import learns_from_teacher

    problems, warnings = [], []
    for term in terms_of(objective):
        outcomes = not term.want and learns_from_teacher(term.loss)
        if outcomes and not teacher.same_outcomes and not getattr(term.loss, "across", False):
            what = f"compares outcomes one by one, and {teacher.name} knows other tokens than the student"
            way_out = "Set objective.soft=gold, which compares across tokenizers, or take a student with its tokenizer."
            problems.append(Problem(f"objective, '{term.name}'", what, way_out))
            continue
        needs = frozenset(getattr(term.loss, "needs", ()))
        where = f"objective, '{term.name}'"
        if missing := term.want - teacher.shows:
            what = f"learns from the teacher's {', '.join(sorted(missing))}, which {teacher.name} does not show"
            problems.append(Problem(where, what, "Take a teacher that runs here: a folder, a hub id or a GGUF file."))
        if not outcomes:
            continue
        if not teacher.forms:
            what = f"learns from the teacher's probabilities, which {teacher.name} does not give"
            problems.append(Problem(where, what, "Set objective.alpha=0 and learn from its text: {name: written, …}."))
            continue
        sampled, truncated = "sampled" in teacher.forms, teacher.forms != {"dense"}
        if sampled and (needs & {"topk", "dense"}):
            what = "is not linear in the teacher's probabilities, so that a sample of them would bias it"
            problems.append(Problem(where, what, "Take forward_kl, or a store of the kind topk or hidden."))
        elif truncated and "dense" in needs:
            what = f"needs the teacher's whole distribution, of which {teacher.name} gives a part"
            problems.append(Problem(where, what, "Take forward_kl, or a teacher that runs here."))
        elif sampled and term.temperature is not None and {term.temperature(0.0), term.temperature(1.0)} != {1.0}:
            what = "has a temperature other than 1, at which a sample of the teacher does not say what it should"
            problems.append(
                Problem(where, what, "Set objective.temperature=1, or use a store of the kind topk or hidden.")
            )
        elif truncated and "topk" in needs:
            warnings.append(
                f"'{term.name}' sees all outcomes that {teacher.name} does not name as one: how the student shares them out "
                "is left open"
            )
    if problems:
        raise RecipeError(*problems)
    return warnings


def models_of(settings: recipe.Recipe) -> tuple[Teacher, list[Model]]:
    """The teacher, and the student of each stage and the student, without weights.

    Raises:
        StillhouseError: one of them cannot be made, or does not fit the data; where sizes grow from stage to stage.

    """
    from stillhouse import models, student, teacher
    from stillhouse.student import quantize

    master = teacher.load(settings.teacher, empty=True)
    made = [master.model]
    count = len(settings.stages)
    places = [*(f"stages.{i} ({stage.name}), " for i, stage in enumerate(settings.stages)), ""]
    teachers = _teachers(settings)
    for i, part in enumerate((*(settings.stage(i) for i in range(count)), settings)):
        try:
            begins = part.student.start if i == 0 or settings.stages[i - 1].teaches else None
            base = made[-1] if begins is None else models.load(begins, empty=True, where="student.start")
            pupil = student.build(part.student, base, empty=True, classes=part.data.classes)
            match_classes(part, pupil)
            match_layers(part.objective, pupil)
            quantize.foresee(part.student.quantize, pupil)
            match_template(part, pupil.tokenizer, made[0].tokenizer)
            if count:
                match_sizes(made[teachers[i]], pupil)
        except StillhouseError as error:
            where = places[i]
            raise type(error)(*(Problem(where + p.where, p.what, p.way_out) for p in error.problems)) from error
        made.append(pupil)
    match_exports(settings.export, made[-1], settings.deploy)
    return master, made[1:]


def match_sizes(master: Model, pupil: Model) -> None:
    """Refuse a stage that grows.

    Raises:
        ModelError: the student is larger than who teaches it.

    """
    if not master.classifies and pupil.classifies:  # a head for classes is more than none
        return
    theirs, mine = master.parameters_count, pupil.parameters_count
    if mine > theirs:
        what = f"has {mine:,} parameters, more than the {theirs:,} of who teaches it"
        raise fail(ModelError, "student", what, "Let the sizes of the stages fall from the teacher to the student.")


def match_template(settings: recipe.Recipe, tokenizer: Any, theirs: Any) -> None:
    """Refuse a student that cannot read conversations, where there are any.

    Args:
        settings: the recipe.
        tokenizer: the student's.
        theirs: the teacher's.

    Raises:
        ModelError: its tokenizer has no chat template, and the data is to be written with one.

    """
    for i, source in enumerate(settings.data.sources):
        function = find("format", source.format.name, f"data.sources.{i}.format")
        if tokenizer.chat_template or not getattr(function, "converses", lambda _: False)(source.format.options):
            continue
        what = f"has a tokenizer without a chat template, and data.sources.{i} holds conversations"
        if theirs.chat_template:
            way_out = "The teacher's has one: copy chat_template.jinja from its folder into the student's."
        else:
            way_out = "Take an instruction-tuned teacher, or the format prompt_response with a template of your own."
        raise fail(ModelError, "student", what, way_out)


def match_classes(settings: recipe.Recipe, pupil: Model) -> None:
    """Refuse a student whose outcomes are not what the data is labelled with.

    Args:
        settings: the recipe.
        pupil: the student; may be empty.

    Raises:
        ModelError: it is a classifier and the data has no classes, or the other way round, or they are other ones; or a block
            has more positions than it has.

    """
    classes = settings.data.classes
    if classes and not pupil.classifies:
        what = "says next tokens, and the data has classes"
        way_out = "Make the teacher a classifier in a first stage: student {name: classifier}, objective {alpha: 0}."
        raise fail(ModelError, "student", what, way_out)
    if pupil.classifies and not classes:
        what = "says classes, and the data has none"
        way_out = "Give the sources a format with classes: {name: labelled, classes: [negative, positive]}."
        raise fail(ModelError, "student", what, way_out)
    if not classes:
        return
    if pupil.outcomes != len(classes):
        what = f"has {pupil.outcomes} classes, and the data {len(classes)}"
        raise fail(ModelError, "student", what, "Adapt the teacher to the data's classes in a first stage.")
    most = getattr(pupil.config, "max_position_embeddings", None)
    if most is not None and settings.data.block > most - pupil.first_position:
        what = f"is {settings.data.block}, and the student has {most - pupil.first_position} positions"
        raise fail(ModelError, "data.block", what, f"Set data.block={most - pupil.first_position} or less.")


def match_layers(objective: recipe.Objective, pupil: Model) -> None:
    """Refuse losses on layers that this student's layers cannot serve.

    Args:
        objective: the recipe's.
        pupil: the student; may be empty.

    Raises:
        RecipeError: a loss wants what the student does not show; all of them at once.

    """
    from stillhouse.objective import terms_of

    what = f"compares what layers attend to, and not all of {pupil.name} attend"
    way_out = "Match hidden states instead: {name: hidden_mse, weight: 1, layers: uniform}."
    wrong = [term for term in terms_of(objective) if term.want - pupil.shows]
    if wrong:
        raise RecipeError(*(Problem(f"objective, '{term.name}'", what, way_out) for term in wrong))


def _teachers(settings: recipe.Recipe) -> list[int]:
    """Of each stage and of the student, who teaches there: which of ``models_of``."""
    found = [0]
    for i, stage in enumerate(settings.stages):
        found.append(i + 1 if stage.teaches else found[-1])
    return found


def costs(settings: recipe.Recipe, *, measure: bool = True, made: tuple[Teacher, Model] | None = None) -> Costs:
    """What a run will take: exact sizes from empty models, the rest estimated.

    Multiply-adds of a training token: three for every student weight outside the embedding (forward, and twice backward; once
    for one that is not trained), one for every teacher weight, if it runs here; the head counts on both sides, at the positions that carry loss.

    Args:
        settings: a checked recipe.
        measure: time this machine's matrix products for an estimate of seconds.
        made: teacher and student, where they are in memory already.

    Raises:
        StillhouseError: teacher or student cannot be made, or they do not fit.

    """
    import torch

    from stillhouse import machine

    sections = [*(settings.stage(i) for i in range(len(settings.stages))), settings]
    master, pupils = models_of(settings) if made is None else (made[0], [made[1]])
    sections = sections[-len(pupils) :]
    taught = [master.networks, *((pupil,) for pupil in pupils)]
    teachers = [taught[i] for i in (_teachers(settings) if made is None else [0])]
    links = list(zip(sections, teachers, pupils, strict=True))
    operations = sum(_operations(*link) for link in links)
    memory, theirs = max(_memory(*link) for link in links)
    seconds = None
    if measure:
        machine.set_threads(settings.trainer.threads)
        rate = machine.measure_gemm(torch.float32, "cpu")
        seconds = 2.0 * operations / (rate * 1e9) * OVERHEAD
    tokens = sum(each.trainer.steps * each.trainer.tokens_per_step for each in sections)
    sizes = master.parameters_count, pupils[-1].parameters_count, pupils[-1].trained_count
    return Costs(master.name, *sizes, tokens, operations, memory, theirs, seconds)


def _operations(settings: recipe.Recipe, masters: Sequence[Model], pupil: Model) -> float:
    """Multiply-adds of training a student, and its control; a teacher's whose signals come from elsewhere are not counted."""
    *theirs, used = (
        sum(p.numel() for p in m.layers.parameters()) + (0 if m.bare else m.head_layer.weight.numel())
        for m in (*masters, pupil)
    )
    learn = 2.0 * used + (used if pupil.adapter is None else pupil.trained_count)
    distil = learn + (0.0 if _silent(settings) else sum(theirs))
    tokens = settings.trainer.steps * settings.trainer.tokens_per_step
    return tokens * (distil + (learn if settings.evaluate.control else 0.0))


def _silent(settings: recipe.Recipe) -> bool:
    """Whether a student's teacher computes nothing here while it learns, and its weights are not in memory."""
    return settings.taught_by(len(settings.stages)).name in ELSEWHERE


def _memory(settings: recipe.Recipe, masters: Sequence[Model], pupil: Model) -> tuple[float, float]:
    """Bytes at the peak of training, about, and those of the teacher's weights among them."""
    theirs = 0.0 if _silent(settings) else 4.0 * sum(master.parameters_count for master in masters)
    recompute = settings.trainer.gradient_checkpointing
    width = getattr(pupil.config, "hidden_size", 512)
    inner = getattr(pupil.config, "intermediate_size", 4 * width)
    per_layer = settings.trainer.micro_tokens * (width if recompute else 10 * width + 4 * inner) * 4
    mine = 4.0 * (pupil.parameters_count + 3 * pupil.trained_count + pupil.head_layer.weight.numel())
    return mine + theirs + per_layer * len(pupil.layers) + 2 * 48 * 2**20, theirs


ELSEWHERE = ("store", "served")
"""Teachers that compute nothing here while the student learns."""

OVERHEAD = 1.2
"""Time of a step over the time of its matrix products alone."""
