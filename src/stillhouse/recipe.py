"""The recipe: everything a run depends on, as one value of its sections.

A recipe is a YAML file or the same object in Python. It is strict (an unknown key is an error that names the nearest known
one) and is checked whole before anything is loaded: all mistakes are told at once. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from stillhouse import packages
from stillhouse.errors import Problem, RecipeError, did_you_mean, fail
from stillhouse.find import problems_of

ALPHA_PRESETS: dict[str, float] = {"high": 0.9, "moderate": 0.6, "low": 0.3}
"""How much of the loss is the teacher's: high 0.8–0.95, moderate 0.5–0.7, low 0.2–0.4; see docs/objective.md for when."""


NEUTRAL_TRAINER_KEYS = ("checkpoint_every", "loggers", "device", "threads", "task_gradients_every")
"""Keys of the trainer that may change between the sittings of a run: they decide no weight (but for rounding)."""

NEUTRAL_DATA_KEYS = ("workers",)
"""Keys of the data that decide nothing about the corpus."""


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Strategy(BaseModel):
    """A strategy by its name, with its options beside it: ``{name: drop_layers, keep: 10}`` or just ``drop_layers``."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)
    name: str
    """The strategy's name as `stillhouse list` shows it, or package.module:function for your own."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def options(self) -> dict[str, Any]:
        """The options beside the name, as they came."""
        return dict(self.model_extra or {})


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


def _as_strategies(value: Any) -> Any:
    """One strategy, several, or none."""
    return () if value is None else _as_list(value)


def _as_teacher(value: Any) -> Any:
    """A bare string is a model: a GGUF file by its ending, a package by what is in it, else a folder or a hub id."""
    if isinstance(value, str):
        gguf = (
            not packages.holds(value, "*.safetensors") if value.startswith(packages.PREFIX) else value.endswith(".gguf")
        )
        return {"name": "gguf" if gguf else "local", "model": value}
    return value


class Source(Strategy):
    """Where records come from, and how each is read: ``{name: jsonl, path: chats.jsonl, format: chat}``."""

    format: Strategy = Strategy(name="text")
    """How a record becomes tokens, and which of them carry loss: text, prompt_response, template, chat, labelled."""
    task: str = ""
    """Name of the task that its records belong to; sources of one name are one task. All sources name one, or none does."""
    weight: str = Field(default="", exclude_if=lambda field: not field)
    """Field of its records that says what each counts in the loss, a number above 0; every record counts 1 if not given."""


def classes_of(source: Source) -> tuple[str, ...]:
    """Names of the classes that a source's format labels texts with, in order; a number stands for its numbers from 0."""
    named = source.format.options.get("classes", ())
    listed = range(named) if isinstance(named, int) else named
    return tuple(map(str, listed)) if isinstance(listed, list | tuple | range) else ()


class Task(Section):
    """How a task is treated; its text is that of the sources that name it."""

    weight: float = Field(default=1.0, gt=0.0)
    """What each of its positions counts in the loss."""
    temperature: float | None = Field(default=None, gt=0.0)
    """Softens both distributions on its text; objective.temperature if not given."""
    epochs: int | None = Field(default=None, ge=1)
    """How often any of its text is read at most; without limit if not given."""


class Augmentation(Strategy):
    """Texts made of those to learn from, for the teacher to judge: ``{name: replace_words, model: …, copies: 8}``."""

    copies: int = Field(default=4, ge=1)
    """How many are made of each text."""


class Data(Section):
    """What is learned from."""

    sources: Annotated[tuple[Source, ...], BeforeValidator(_as_list)] = Field(min_length=1)
    """Where text comes from; several are put together."""
    block: int = Field(default=512, ge=8)
    """Tokens of the longest piece; longer documents are cut into pieces."""
    validation: float = Field(default=0.05, gt=0.0, lt=1.0)
    """Share of the documents held out, whole, for validation and evaluation; never trained on."""
    validation_sources: Annotated[tuple[Source, ...], BeforeValidator(_as_list)] = ()
    """Texts held out instead of a share of the sources: a task's own file; never trained on, wherever else they stand."""
    test_sources: Annotated[tuple[Source, ...], BeforeValidator(_as_list)] = ()
    """Texts that the evaluation alone reads, instead of those of the validation; never trained on either."""
    augment: Annotated[tuple[Augmentation, ...], BeforeValidator(_as_list)] = ()
    """Of texts with classes: more of them made of those to learn from, of which only the teacher says the class."""
    end_token: str | None = None
    """The token that ends a document; the tokenizer's own end token if not given."""
    long_prompts: Literal["error", "drop"] = "error"
    """What to do with examples whose prompt leaves no room for an answer in a block."""
    max_documents: int | None = Field(default=None, ge=2)
    """Stop reading the sources after so many documents (a streamed source may have no end)."""
    filters: Annotated[tuple[Strategy, ...], BeforeValidator(_as_list)] = ()
    """What is taken out of the sources' documents, one after the other: strategies of the kind filter; near_duplicates."""
    workers: int = Field(default=1, ge=1)
    """Processes that filter at the same time; how many does not change the result."""
    tasks: dict[str, Task] = {}
    """How the tasks that sources name are treated, by name; a task that is not named here counts as any other."""
    mixture: Strategy = Strategy(name="proportional")
    """What share of the tokens each task has: a strategy of the kind mixture, such as {name: proportional, tau: 0.5}."""
    sampler: Annotated[tuple[Strategy, ...], BeforeValidator(_as_strategies)] = ()
    """Which of the text, in what order, and whose words: strategies of the kind sampler, one after another; focused, student_text."""
    seed: int = 0
    """Of the shuffle and of the choice of held-out documents."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that texts are labelled with, in order; none where next tokens are the labels."""
        return classes_of(self.sources[0])

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks, in the order in which sources name them; none where there are no tasks."""
        return tuple(dict.fromkeys(source.task for source in self.sources if source.task))

    @property
    def all_sources(self) -> tuple[tuple[Source, str], ...]:
        """Every source, to learn from and held out, each with its place in the recipe."""
        groups = ("sources", "validation_sources", "test_sources")
        return tuple((each, f"data.{name}.{i}") for name in groups for i, each in enumerate(getattr(self, name)))


class Teacher(Strategy):
    """Who teaches: a strategy of the kind teacher, ``{name: gguf, model: teacher.gguf}``, or just a hub id, folder or file."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the teacher; auto measures this machine and says why."""


Precision = Literal["int4", "int8", "float32"]


class Quantize(Section):
    """Matrices of few bits, which the student sees while it learns and lies on afterwards; see docs/quantize.md."""

    weights: Precision = "int4"
    """Of the layers' matrices."""
    activations: Literal["float32", "int8"] = "float32"
    """What matrices are multiplied with: int8 rounds each token's numbers between their least and their largest."""
    embedding: Precision = "int8"
    """Of embeddings and of the last layer, which are one matrix in many models."""
    group: int | Literal["row"] = 32
    """Neighbours in a row that share a scale; row for one scale a row."""
    exceptions: dict[str, Precision] = {}
    """Layers by name or pattern, such as {"*.down_proj": int8, "model.layers.0.*": float32}; the last that fits counts."""
    after: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the steps that are taken in float32 before it sees them."""

    @model_validator(mode="after")
    def _ranges(self) -> Quantize:
        if self.group != "row" and self.group < 2:
            raise ValueError(f"group is a number from 2, or row, not {self.group}")
        return self


class Student(Strategy):
    """Who is taught: a strategy of the kind builder, ``{name: drop_layers, keep: 10}``."""

    then: Annotated[tuple[Strategy, ...], BeforeValidator(_as_list)] = ()
    """Further builders, each given what the one before made: ``then: [{name: trim_vocabulary, size: 16000}]``."""
    start: str | None = None
    """A model's folder, package or hub id that it is made from; the teacher if not given."""
    quantize: Quantize | None = None
    """What of it has few bits, seen while it learns; all stays float32 if not given."""


class Loss(Strategy):
    """A loss by its name, ``{name: skew_kl, skew: 0.1}``."""

    weights: Annotated[tuple[Strategy, ...], BeforeValidator(_as_list)] = ()
    """How much each position counts in it: strategies of the kind weight, multiplied; `teacher_confidence`."""


class Term(Loss):
    """One more part of the loss, by the name of a loss, with its weight."""

    weight: float | Strategy = 1.0
    """What it is multiplied by; a number or a schedule such as {name: linear, start: 1, end: 0}."""
    layers: Strategy = Strategy(name="uniform")
    """Of a loss on layers: which of the student learns from which of the teacher; last, uniform, listed, searched."""
    projection: Literal["auto", "always", "never"] = "auto"
    """Of a loss on hidden states: a learned map to the teacher's width; auto has one where the widths differ."""


class Objective(Section):
    """What is minimised: alpha · soft(temperature) + (1 − alpha) · hard + Σ weight · term."""

    alpha: float | Literal["high", "moderate", "low"] | Strategy = "high"
    """Share of the loss that is the teacher's: a number, a preset (high 0.9, moderate 0.6, low 0.3) or a schedule."""
    temperature: float | Strategy = 2.0
    """Softens both distributions; the soft term is multiplied by its square so that its gradient keeps its size."""
    soft: Loss = Loss(name="forward_kl")
    """The divergence from the teacher."""
    hard: Loss = Loss(name="cross_entropy")
    """The loss on the true outcome."""
    terms: Annotated[tuple[Term, ...], BeforeValidator(_as_list)] = ()
    """Further losses, each with its weight."""
    chunk: int | None = Field(default=None, ge=1)
    """Positions whose logits exist at one time; chosen from the vocabulary's size if not given."""

    @model_validator(mode="after")
    def _ranges(self) -> Objective:
        if isinstance(self.alpha, float | int) and not 0.0 <= self.alpha <= 1.0:
            raise ValueError(f"alpha is a share from 0 to 1, not {self.alpha}")
        if isinstance(self.temperature, float | int) and self.temperature <= 0.0:
            raise ValueError(f"temperature is a number above 0, not {self.temperature}")
        return self


class Trainer(Section):
    """How it is minimised."""

    steps: int = Field(default=200, ge=1)
    """Optimiser steps."""
    tokens_per_step: int = Field(default=4096, ge=8)
    """Tokens of one optimiser step, over all processes."""
    micro_tokens: int = Field(default=1024, ge=8)
    """Tokens of one forward and backward pass in one process; lower it if memory runs out."""
    learning_rate: float = Field(default=5e-4, gt=0.0)
    """The highest learning rate."""
    warmup: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Share of the steps in which the learning rate rises."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls afterwards."""
    final_learning_rate: float = Field(default=0.1, ge=0.0, le=1.0)
    """What is left of the learning rate at the last step, as a share."""
    weight_decay: float = Field(default=0.01, ge=0.0)
    """Decoupled weight decay, on matrices only."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's averages."""
    clip: float | None = Field(default=1.0, gt=0.0)
    """Largest norm of the whole gradient."""
    dropout: float | None = Field(default=None, ge=0.0, lt=1.0)
    """Share of what the student's layers hand on that is dropped while it learns; its own configuration's if not given."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the student's layers (weights, head and loss stay in float32); auto measures this machine."""
    gradient_checkpointing: bool = False
    """Recompute the layers in the backward pass: less memory, about a third more time."""
    checkpoint_every: int = Field(default=50, ge=1)
    """Steps between checkpoints: what an interruption can cost."""
    validate_every: int | None = Field(default=50, ge=1)
    """Steps between validations; null for none."""
    validation_tokens: int = Field(default=8192, ge=8)
    """Held-out tokens that a validation reads."""
    task_gradients_every: int | None = Field(default=None, ge=1)
    """Steps between two measurements of each task's own gradient, each of which costs about as much as a step; null for none."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many validations without a better one; null never stops early."""
    keep_best: bool = True
    """End with the weights of the best validation, not the last."""
    loggers: Annotated[tuple[Strategy, ...], BeforeValidator(_as_list)] = ()
    """Where the numbers of each step go beside metrics.jsonl: tensorboard."""
    hooks: tuple[str, ...] = ()
    """Your own functions, package.module:function, called after each step."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; all cores if not given."""
    seed: int = 0
    """Of the student's fresh weights and of dropout."""

    @model_validator(mode="after")
    def _whole(self) -> Trainer:
        if self.micro_tokens > self.tokens_per_step:
            raise ValueError(
                f"micro_tokens ({self.micro_tokens}) is a part of tokens_per_step ({self.tokens_per_step}) and cannot be more"
            )
        return self


class Asked(Strategy):
    """What the models are asked: a strategy of the kind task, ``{name: blimp, limit: 2000}`` or just ``blimp``."""

    limit: int | None = Field(default=None, ge=1)
    """Questions at most; the same ones for all models."""
    title: str | None = None
    """What it is called, where a task is asked twice with other options; its name if not given."""
    outside: str | None = None
    """Title of the task of which this is the same skill on other data: longer, rarer, from elsewhere."""


class Gate(Strategy):
    """A question asked of the tables: a strategy of the kind measure, ``{name: bias, required: false}`` or just ``bias``."""

    required: bool = True
    """Whether its verdict is part of the whole one; if not, it is shown and holds nothing back."""


class Evaluate(Section):
    """How good it is."""

    tokens: int = Field(default=20000, ge=64)
    """Held-out tokens to evaluate on, whole documents."""
    control: bool = True
    """Also train the same student without the teacher at the same budget: did distillation help?"""
    direct: bool = False
    """With stages: also train the student straight from the teacher for as many tokens as all of them: did they help?"""
    rounded: bool = False
    """Also ask the tasks of the teacher with its weights rounded to bfloat16: how many answers change where nothing is lost. Costs
    as much as asking the teacher, once for all runs."""
    reference: str = "teacher"
    """Whom the student is compared with: `teacher`, or the name of a stage (an adapted teacher)."""
    retention: float = Field(default=0.9, gt=0.0, le=1.0)
    """Share of the teacher's skill above the floor that must be kept."""
    tasks: Annotated[tuple[Asked, ...], BeforeValidator(_as_list)] = ()
    """Questions that teacher, student before and after, and control answer: strategies of the kind task."""
    measures: Annotated[tuple[Gate, ...], BeforeValidator(_as_list)] = (
        Gate(name="performance"),
        Gate(name="fidelity"),
        Gate(name="calibration"),
        Gate(name="benefit"),
    )
    """What is asked of the tables, one a file; those that suit classifiers and tasks are taken if none are given."""
    slices: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = ()
    """What held-out texts are sliced by: columns of their records, and class, length, rarity, task; judged by `declared`."""
    part: Literal["all", "open", "sealed"] = "all"
    """Which held-out texts and questions are answered: refinement keeps 30 % of them sealed until its end (docs/refine.md)."""
    seed: int = 0
    """Of the bootstrap."""


class Export(Section):
    """What is written for others to load."""

    formats: Annotated[tuple[Strategy, ...], BeforeValidator(_as_list)] = (Strategy(name="hf"),)
    """hf (always written): safetensors, tokenizer and model card for from_pretrained; gguf, onnx: see docs/export.md."""
    margin: float = Field(default=0.1, gt=0.0)
    """Nats a token (of a classifier, a text) that an artefact may lose against the student; one that loses more is refused."""


class Deploy(Section):
    """What the target takes. Files are told before training and refused after it; the rest is judged by `stillhouse profile`."""

    runtime: str | None = None
    """The one of export.formats that the target runs: hf, gguf, onnx; all of them (hf only if there is no other) if not given."""
    max_file_mb: float | None = Field(default=None, gt=0.0)
    """Megabytes (10⁶ bytes) of the file, or of the folder."""
    max_memory_mb: float | None = Field(default=None, gt=0.0)
    """Megabytes that the process which runs it may ever hold."""
    max_first_token_ms: float | None = Field(default=None, gt=0.0)
    """Milliseconds to the first token within which 95 of 100 answers must begin."""
    max_p95_ms: float | None = Field(default=None, gt=0.0)
    """Milliseconds within which 95 of 100 further tokens must come (of a classifier: answers)."""


class Report(Section):
    """What is told to people."""

    prompts: tuple[str, ...] = ("The capital of France is", "Once upon a time", "To make a cup of tea,")
    """Prompts that teacher, student and control continue side by side."""
    new_tokens: int = Field(default=48, ge=1)
    """Tokens of each continuation."""


class Stage(Section):
    """A step on the way to the student: who learns in it teaches the next one.

    What is not said here is as in the recipe's section of that name.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """What the stage is called; its run lies in the folder stages/<name> of the recipe's."""
    student: Student
    """Who learns in this stage, made from who teaches in it: the recipe's teacher, then each stage's student."""
    teaches: bool = True
    """Whether it teaches what follows. If not, what follows is made from it, and taught by whoever taught it: two phases."""
    data: dict[str, Any] = {}
    """Keys of the section `data` that differ in this stage."""
    objective: dict[str, Any] = {}
    """Keys of the section `objective` that differ in this stage; {alpha: 0} learns from labels alone."""
    trainer: dict[str, Any] = {}
    """Keys of the section `trainer` that differ in this stage."""
    evaluate: dict[str, Any] = {}
    """Keys of the section `evaluate` that differ in this stage; no control is trained unless it is asked for."""


class Refine(Section):
    """How weaknesses are looked for and mended, round after round: `stillhouse refine`, docs/refine.md."""

    rounds: int = Field(default=3, ge=1)
    """Rounds after the first run, at most."""
    tokens: int | None = Field(default=None, gt=0)
    """Tokens that all rounds after the first run may learn from together; without limit if not given."""
    hours: float | None = Field(default=None, gt=0.0)
    """Hours that all rounds after the first run may take together; likewise."""
    trainer: dict[str, Any] = {}
    """Keys of the section `trainer` that differ in the rounds: fewer steps, a lower learning rate."""
    weakest: int = Field(default=3, ge=1)
    """Slices that a round works on, at most: those from which most can be recovered."""
    smallest: int = Field(default=50, ge=10)
    """Texts that a slice must have among those that are looked at; of a language model 40 tokens are a text."""
    critical: dict[str, Annotated[float, Field(gt=0.0)]] = {}
    """Slice, such as `domain travel` → how many times more its losses count than others'."""
    margin: float = Field(default=0.02, gt=0.0, lt=1.0)
    """What a round may cost elsewhere: share of texts, or of the teacher's skill; it must be shown to cost less."""
    actions: Annotated[tuple[Strategy, ...], BeforeValidator(_as_list)] = ()
    """What each round does: strategies of the kind action; those that belong to the gates that failed if none are given."""
    pool: Annotated[tuple[Source, ...], BeforeValidator(_as_list)] = ()
    """Texts that are not learned from yet, for actions to choose from; the teacher says what they are."""


class Recipe(Section):
    """A whole run."""

    name: str = "student"
    """What the student is called."""
    run: str | None = None
    """The run's folder; runs/<name> if not given."""
    data: Data
    teacher: Annotated[Teacher, BeforeValidator(_as_teacher)]
    stages: tuple[Stage, ...] = ()
    """Steps on the way from the teacher to the student: assistants of sizes in between, or the teacher adapted to the text."""
    student: Student
    objective: Objective = Objective()
    trainer: Trainer = Trainer()
    evaluate: Evaluate = Evaluate()
    export: Export = Export()
    deploy: Deploy = Deploy()
    report: Report = Report()
    refine: Refine | None = None
    """What `stillhouse refine` does after the run; a run itself does not look at it."""

    @model_validator(mode="before")
    @classmethod
    def _of_before(cls, content: Any) -> Any:
        """Runs of older versions hold the largest file as ``export.max_mb``."""
        export = content.get("export") if isinstance(content, dict) else None
        if not isinstance(export, dict) or "max_mb" not in export:
            return content
        limit = export["max_mb"]
        deploy = {} if limit is None else {"max_file_mb": limit}
        rest = {key: value for key, value in export.items() if key != "max_mb"}
        return content | {"export": rest, "deploy": deploy | (content.get("deploy") or {})}

    def stage(self, index: int) -> Recipe:
        """The recipe of one stage: a run of its own, taught by the student of the stage before."""
        stage = self.stages[index]
        content = self.to_dict()
        for section in ("data", "objective", "trainer", "evaluate"):
            own = {"control": False, "direct": False, "reference": "teacher"} if section == "evaluate" else {}
            content[section] |= own | getattr(stage, section)
        content |= {
            "name": f"{self.name}-{stage.name}",
            "run": str(self.folder / "stages" / stage.name),
            "teacher": self.taught_by(index).model_dump(mode="json"),
            "student": stage.student.model_dump(mode="json") | {"start": self.made_from(index)},
            "stages": (),
            "export": {},
            "deploy": {},
            "refine": None,
        }
        return Recipe.model_validate(content)

    def taught_by(self, index: int) -> Teacher:
        """Who teaches in a stage, counted from 0; after the last stage, who teaches the student."""
        before = [i for i, stage in enumerate(self.stages[:index]) if stage.teaches]
        if not before:
            return self.teacher
        return Teacher.model_validate(
            {"name": "local", "model": self._student_of(before[-1]), "dtype": self.teacher.dtype}
        )

    def made_from(self, index: int) -> str | None:
        """What a stage's student is made from, counted as there; None for who teaches it."""
        goes_on = index > 0 and not self.stages[index - 1].teaches
        own = self.student if index == len(self.stages) else self.stages[index].student
        return self._student_of(index - 1) if goes_on else own.start

    def _student_of(self, index: int) -> str:
        return str(self.folder / "stages" / self.stages[index].name / "student")

    @property
    def reference(self) -> Teacher:
        """Whom the student is compared with: the teacher, or the student of the stage that `evaluate.reference` names."""
        names = [stage.name for stage in self.stages]
        return self.taught_by(names.index(self.evaluate.reference) + 1 if self.evaluate.reference in names else 0)

    def direct(self) -> Recipe:
        """The same student straight from the reference, for as many tokens as all stages after it and the last step take."""
        names = [stage.name for stage in self.stages]
        skipped = names.index(self.evaluate.reference) + 1 if self.evaluate.reference in names else 0
        on_the_way = [self.stage(i).trainer for i in range(skipped, len(self.stages))]
        tokens = sum(each.steps * each.tokens_per_step for each in (*on_the_way, self.trainer))
        content = self.to_dict()
        content["student"] = self._whole_way().model_dump(mode="json")
        content["trainer"]["steps"] = round(tokens / self.trainer.tokens_per_step)
        content["evaluate"] |= {"control": False, "direct": False, "reference": "teacher"}
        content |= {
            "name": f"{self.name}-direct",
            "run": str(self.folder / "direct"),
            "teacher": self.reference.model_dump(mode="json"),
            "stages": (),
            "export": {},
            "deploy": {},
            "refine": None,
        }
        return Recipe.model_validate(content)

    def _whole_way(self) -> Student:
        """All builders of the student, those of the phases that it goes on from first."""
        teaching = [i for i, stage in enumerate(self.stages) if stage.teaches]
        phases = [*(stage.student for stage in self.stages[max(teaching, default=-1) + 1 :]), self.student]
        builders = [each for phase in phases for each in (Strategy(name=phase.name, **phase.options), *phase.then)]
        first = {"name": builders[0].name, **builders[0].options}
        ends = {"start": phases[0].start, "quantize": self.student.quantize}
        return Student.model_validate({**first, "then": builders[1:], **ends})

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.run or f"runs/{self.name}")

    def to_dict(self) -> dict[str, Any]:
        """As plain values, every default filled in."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """As YAML, every default filled in."""
        return str(yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True))

    def fingerprint(self, *sections: str) -> str:
        """A hash of what the recipe says, or of what some sections say; where it lies and what it must fit do not count."""
        content = self.to_dict()
        for key in ("run", "deploy", "refine"):
            del content[key]
        for key in NEUTRAL_TRAINER_KEYS:
            del content["trainer"][key]
        for key in NEUTRAL_DATA_KEYS:
            del content["data"][key]
        if sections:
            content = {name: content[name] for name in sections}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def targets(formats: Sequence[str], runtime: str | None) -> list[str]:
    """Which of a recipe's formats its target takes: the one it names, else all, the student's own folder only if alone."""
    if runtime is not None:
        return [runtime]
    return list(dict.fromkeys(name for name in formats if name != "hf")) or ["hf"]


def _read(path: str | Path, what: str, keys: str) -> dict[str, Any]:
    """The mapping that a YAML file holds."""
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = did_you_mean(file.name, [p.name for p in file.parent.glob("*.y*ml")]) if file.parent.is_dir() else ""
        raise fail(RecipeError, str(path), f"there is no such {what}", near) from None
    except UnicodeDecodeError:
        raise fail(RecipeError, str(path), "is not UTF-8 text", f"A {what} is a YAML file.") from None
    except OSError as error:
        raise fail(RecipeError, str(path), f"cannot be read: {error.strerror}") from None
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise fail(RecipeError, where, f"is not YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(content, dict):
        raise fail(RecipeError, str(path), f"holds no {what}: a mapping with {keys} is needed")
    return content


def policy(path: str | Path, section: Evaluate) -> Evaluate:
    """What a policy file says a student must hold, and what it is asked: the keys ``retention``, ``measures``, ``tasks`` and ``seed``.

    Args:
        path: a YAML file.
        section: the recipe's, for what the file does not say.

    Raises:
        RecipeError: all that is wrong with the file, at once.
    """
    possible = ("retention", "measures", "tasks", "seed")
    content = _read(path, "policy", f"the keys {', '.join(possible)}")
    if unknown := [key for key in content if key not in possible]:
        raise RecipeError(*(Problem(f"{path}: {key}", "unknown key", did_you_mean(key, possible)) for key in unknown))
    try:
        return Evaluate.model_validate(section.model_dump(mode="json") | content)
    except ValidationError as error:
        raise RecipeError(*problems_of(error, str(path), [])) from None


def as_teacher(value: str) -> Teacher:
    """The section that a bare string stands for: a GGUF file or ``pkg:`` name, a folder or a hub id."""
    return Teacher.model_validate(_as_teacher(value))


def load(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a YAML file, with ``section.key=value`` overrides.

    Raises:
        RecipeError: all that is wrong with it, at once.
    """
    return parse(_read(path, "recipe", "the sections data, teacher, student …"), overrides)


def parse(content: Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Make a recipe of plain values; as ``load``."""
    values: dict[str, Any] = json.loads(json.dumps(dict(content)))
    problems = [p for text in overrides if (p := _override(values, text))]
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        problems += _word(error)
    else:
        problems += _wrong_in_stages(recipe)
    if problems:
        raise RecipeError(*problems)
    return recipe


def _wrong_in_stages(recipe: Recipe) -> list[Problem]:
    """What is wrong with the stages of a recipe that is right otherwise."""
    problems = []
    names = [stage.name for stage in recipe.stages]
    for index, name in enumerate(names):
        where = f"stages.{index}"
        if name in names[:index] or name == "teacher":
            problems.append(Problem(f"{where}.name", f"'{name}' is taken", "Give each stage a name of its own."))
        try:
            recipe.stage(index)
        except ValidationError as error:
            problems += [Problem(f"{where}.{p.where}", p.what, p.way_out) for p in _word(error)]
    if recipe.evaluate.reference not in ("teacher", *names):
        what = f"there is no stage '{recipe.evaluate.reference}'"
        problems.append(
            Problem("evaluate.reference", what, did_you_mean(recipe.evaluate.reference, ["teacher", *names]))
        )
    if recipe.evaluate.direct and not names:
        what = "asks for the way without stages, and the recipe has none"
        problems.append(Problem("evaluate.direct", what, "List stages, or leave it out."))
    return problems


def _override(content: dict[str, Any], text: str) -> Problem | None:
    """Put ``a.b.c=value`` into the content; the value is read as YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        return Problem(text, "is not an override", "Write section.key=value, such as trainer.steps=100.")
    *parents, last = key.split(".")
    place: Any = content
    for depth, parent in enumerate(parents):
        if isinstance(place, list) and parent.isdigit() and int(parent) < len(place):
            place = place[int(parent)]
        elif isinstance(place, dict):
            if isinstance(place.get(parent), str):  # a shorthand: open it up so that its options can be set
                place[parent] = _open(".".join(parents[: depth + 1]), place[parent])
            place = place.setdefault(parent, {})
        else:
            return Problem(key, f"'{'.'.join(parents[:depth])}' holds no keys to override")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        parsed = value
    if isinstance(place, list) and last.isdigit() and int(last) < len(place):
        place[int(last)] = parsed
    elif isinstance(place, dict):
        place[last] = parsed
    else:
        return Problem(key, "cannot be overridden: there is a single value above it")
    return None


def _open(key: str, value: str) -> Any:
    return _as_teacher(value) if key == "teacher" else {"name": value}


def _word(error: ValidationError) -> list[Problem]:
    """Pydantic's findings as problems, with the keys possible at each place."""
    problems = []
    for item, problem in zip(error.errors(), problems_of(error, "", []), strict=True):
        if item["type"] == "extra_forbidden":
            fields = _fields_at(item["loc"][:-1])
            problem = Problem(problem.where, problem.what, did_you_mean(str(item["loc"][-1]), fields))
        elif (
            item["type"] in ("float_type", "literal_error", "model_type", "string_type", "float_parsing", "int_parsing")
            and len(item["loc"]) > 2
        ):
            # a union reports one finding a branch: tell the key once
            key = item["loc"]
            while isinstance(key[-1], int) or key[-1] not in _fields_at(key[:-1]):
                key = key[:-1]
            problem = Problem(".".join(map(str, key)), f"cannot be {item['input']!r}", problem.way_out)
        if problem not in problems:
            problems.append(problem)
    return problems


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    """The keys that are possible at a place in the recipe."""
    model: Any = Recipe
    for part in location:
        if isinstance(part, int):
            continue
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return []
        model = next((t for t in _types_in(field.annotation) if isinstance(t, type) and issubclass(t, BaseModel)), None)
    return list(getattr(model, "model_fields", {}))


def _types_in(annotation: Any) -> list[Any]:
    inner = getattr(annotation, "__args__", ())
    return [annotation, *(t for a in inner for t in _types_in(a))]


def schema() -> dict[str, Any]:
    """The JSON schema of a recipe, for editors."""
    return Recipe.model_json_schema()
