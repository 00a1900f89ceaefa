"""The loop: one function a step, and one that takes them all.

The mathematics of a step, over the micro-batches ``m`` of all processes and their positions ``n``::

    W = Σ_m Σ_n weight_mn                 gathered before the first backward pass
    g = Σ_m ∇ (Σ_n weight_mn loss_mn) / W
    θ ← AdamW(θ, g · min(1, clip / ‖g‖₂), learning rate of the step)

There is this one division and no mean of means, so the gradient depends neither on how a step is cut into micro-batches
nor on how many processes share them.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from torch import Tensor, nn

from stillhouse.errors import RecipeError, RunError, fail
from stillhouse.files import write_json
from stillhouse.find import check_options, find
from stillhouse.lock import lock
from stillhouse.machine import Choice, choose_dtype, set_threads
from stillhouse.recipe import Trainer
from stillhouse.trainer import distributed
from stillhouse.trainer.checkpoint import Checkpoints, Saved, seed_generators
from stillhouse.trainer.distributed import Ranks, gather_again, sum_over_ranks
from stillhouse.trainer.interrupt import InterruptedRunError, Stop, deterministic, listening
from stillhouse.trainer.metrics import Metrics
from stillhouse.trainer.optim import clip, gradient_norm, learning_rate, make_optimiser, moments
from stillhouse.trainer.progress import Reporter
from stillhouse.trainer.sampling import Sampled, oldest_checkpoint
from stillhouse.trainer.tasks import Watch
from stillhouse.types import Batch, Progress, Signal


class Pieces(Protocol):
    """What is trained on; see the data stage."""

    def step(
        self, step: int, *, tokens_per_step: int, micro_tokens: int, rank: int, world: int, seed: int
    ) -> list[Batch]:
        """The micro-batches of a step that are this process's: a pure function of its arguments."""
        ...

    def all(self, micro_tokens: int, max_tokens: int | None = None) -> Iterator[Batch]:
        """Each document once, in order."""
        ...


class Teacher(Protocol):
    """Who teaches; see the teacher stage."""

    def signal(self, batch: Batch, want: frozenset[str] = frozenset()) -> Signal:
        """What it says of a batch."""
        ...


@dataclass
class Sums:
    """What micro-batches add up to, over all processes once gathered.

    Args:
        loss: Σ loss / W.
        parts: term → unweighted sum over positions.
        weight: W.
        positions: how many carried loss.
        stop: processes that were asked to stop.
    """

    loss: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    weight: float = 0.0
    positions: float = 0.0
    stop: float = 0.0

    def add(self, loss: float, parts: Mapping[str, float], positions: int) -> None:
        """One micro-batch more."""
        self.loss += loss
        for name, value in parts.items():
            self.parts[name] = self.parts.get(name, 0.0) + float(value)
        self.positions += positions

    def gathered(self) -> Sums:
        """The sums over all processes."""
        names = sorted(self.parts)
        loss, positions, stop, *parts = sum_over_ranks(
            [self.loss, self.positions, self.stop, *(self.parts[n] for n in names)]
        )
        return Sums(loss, dict(zip(names, parts, strict=True)), self.weight, positions, stop)

    def means(self) -> dict[str, float]:
        """The loss, and each term per unit of weight: per position where all count alike; of each task likewise, and its share."""
        found: dict[str, float] = {}
        for name, value in self.parts.items():
            kind, slash, task = name.partition("/")
            if not slash:
                found[name] = value / self.weight
            elif kind == "weight":
                found[f"share/{task}"] = value / self.weight
            elif self.parts[f"weight/{task}"] > 0.0:
                found[name] = value / self.parts[f"weight/{task}"]
        return {**found, "loss": self.loss}


def train(
    learner: nn.Module,
    teacher: Teacher | None,
    train_pieces: Pieces,
    validation_pieces: Pieces | None,
    section: Trainer,
    folder: Path,
    *,
    fingerprint: str,
    ranks: Ranks | None = None,
    choice: Choice | None = None,
    console: Console | None = None,
    name: str = "student",
) -> Progress:
    """Train until the steps are done or validation no longer gets better; continue where an earlier run stopped.

    Writes ``metrics.jsonl`` and ``checkpoints/`` into the folder. Afterwards the learner holds the best weights if
    ``keep_best`` and there were validations, else the last. A run that is already done only reads them back.

    Args:
        learner: student and objective: ``learner(batch, signal, denominator, step) -> (loss, parts)``, with
            ``learner.student`` and ``learner.want``.
        teacher: None for a control student that learns from labels alone.
        train_pieces: what to learn from.
        validation_pieces: held-out pieces; None for no validation.
        section: the recipe's ``trainer``.
        folder: of this run; locked while it trains.
        fingerprint: of everything that decides the weights; a checkpoint with another one is refused.
        ranks: from ``distributed.start``; started here if not given.
        choice: of the arithmetic, if it was made before (the control uses the student's).
        console: where to tell of progress; None for silence.
        name: what the run is called there.

    Raises:
        InterruptedRunError: SIGINT or SIGTERM came; the step was finished and saved.
        RunError: nothing to learn from in a step, a number that is not finite, a disk that is full, a folder in use, or
            checkpoints of another recipe.
    """
    ranks = ranks or distributed.start(section.device)
    console = console if ranks.main else None
    with contextlib.ExitStack() as stack:
        distributed.by_main(lambda: stack.enter_context(lock(folder)))
        stack.enter_context(deterministic(ranks.device))
        stop = stack.enter_context(listening(ranks.main))
        threads = set_threads(section.threads)
        say = Reporter(console, name, section.steps, section.steps)  # no bar yet

        hooks = [_hook(text) for text in section.hooks]
        _prepare(learner, section, ranks)
        parameters = {name: p for name, p in learner.named_parameters() if p.requires_grad}  # tied ones once
        optimiser = make_optimiser(parameters, section)
        weights: dict[str, Tensor] = {**parameters, **_persistent_buffers(learner)}
        tensors = {f"model.{k}": t for k, t in weights.items()} | moments(parameters, optimiser)

        seed_generators(section.seed, ranks.rank)
        checkpoints = Checkpoints(folder / "checkpoints", fingerprint, ranks, say.warn)
        saved = checkpoints.newest(tensors)
        progress = Progress(**saved.state["progress"]) if saved else Progress()
        choice = _choice(section, ranks, folder, saved, choice)
        compute: Any = getattr(learner.student, "set_compute_dtype", None)
        if callable(compute):
            compute(choice.torch)
        machine = {"threads": threads, "torch": torch.__version__}
        if saved:
            checkpoints.restore(saved, tensors)
            say.say(f"{name}: continuing from step {progress.step} of {section.steps} ({saved.folder.name})")
            _tell_differences(saved, machine, ranks, say)
        sampled = train_pieces if isinstance(train_pieces, Sampled) else None
        if sampled is not None:
            reads: Any = (
                learner.student if ranks.world == 1 else learner
            )  # only the whole gathers weights that are split
            sampled.bind(reads, folder, steps=section.steps, world=ranks.world)
        watch = Watch(tuple(getattr(learner, "tasks", ())))
        metrics = Metrics(folder / "metrics.jsonl", progress.step, ranks.main)
        for past in metrics.past:
            watch.see(past)
        stack.callback(metrics.close)
        loggers = _loggers(section, folder, progress.step, ranks, stack)
        say = Reporter(console, name, progress.step, section.steps)
        stack.callback(say.close)

        def save() -> None:
            metrics.sync()
            state = {"progress": progress.to_dict(), "choice": choice.to_dict(), "machine": machine}
            checkpoints.save(progress.step, tensors, state)
            if sampled is not None:
                sampled.forget(oldest_checkpoint(folder))

        def warn(step: int, line: Mapping[str, Any]) -> None:
            for text in watch.see(line):
                metrics.write({"step": step, "warning": text})
                say.warn(f"{name}: step {step}: {text}")

        saved_at = progress.step if saved else -1
        while not _done(progress, section):
            began = time.perf_counter()
            batches = train_pieces.step(
                progress.step,
                tokens_per_step=section.tokens_per_step,
                micro_tokens=section.micro_tokens,
                rank=ranks.rank,
                world=ranks.world,
                seed=section.seed,
            )
            gradients: dict[str, float] = {}
            if section.task_gradients_every and progress.step % section.task_gradients_every == 0:
                gradients = task_gradients(learner, teacher, batches, parameters, progress.step, watch.tasks, ranks)
            try:
                sums, norm = take_step(
                    learner, teacher, batches, parameters, optimiser, progress.step, section, ranks, stop
                )
            except NotFiniteError as problem:
                raise fail(
                    RunError,
                    f"step {progress.step + 1}",
                    f"{problem} is not finite; the optimiser was not moved. {checkpoints.stands()}",
                    "Lower trainer.learning_rate, set trainer.clip, or look at the texts of this step.",
                ) from None
            rate = learning_rate(progress.step, section)
            progress.step += 1
            progress.tokens += round(sums.positions)
            line = {
                **sums.means(),
                **(sampled.facts() if sampled is not None else {}),
                "gradient_norm": norm,
                **gradients,
                "learning_rate": rate,
                "tokens": progress.tokens,
                "seconds": round(time.perf_counter() - began, 6),
            }
            metrics.write({"step": progress.step, **line})
            warn(progress.step, line)
            for log in loggers:
                log(progress.step, line)
            for hook in hooks:
                hook(step=progress.step, metrics=line, learner=learner)
            say.step(progress.step, line, round(sums.positions))

            if validation_pieces is not None and _validates(progress.step, section):
                with say.doing("validation"):
                    values = validate(learner, teacher, validation_pieces, progress.step, section, ranks)
                    better = _take_note(progress, values["loss"])
                    if better and section.keep_best:
                        checkpoints.save_best(weights)
                metrics.write({"step": progress.step, "validation": values})
                warn(progress.step, {"validation": values})
                for log in loggers:
                    log(progress.step, {f"validation/{k}": v for k, v in values.items()})
                say.validation(progress.step, values, better)

            asked = sums.stop > 0
            if progress.step % section.checkpoint_every == 0 or _done(progress, section) or asked:
                with say.doing("saving"):
                    save()
                saved_at = progress.step
            if asked and not _done(progress, section):
                raise InterruptedRunError(
                    *fail(
                        RunError,
                        name,
                        f"stopped as asked after step {progress.step} of {section.steps}. {checkpoints.stands()}",
                        "Run the same command again: it continues from there.",
                    ).problems
                )
        assert saved_at == progress.step
        gather_again(learner)  # what was gathered for the last forward pass must not be read again
        if section.keep_best and progress.best is not None and progress.best_step != progress.step:
            checkpoints.restore_best(weights)
            say.say(f"{name}: best weights are those of step {progress.best_step}")
        learner.eval()
        return progress


class NotFiniteError(Exception):
    """A loss, term or gradient is not a finite number; names it."""


def take_step(
    learner: nn.Module,
    teacher: Teacher | None,
    batches: Sequence[Batch],
    parameters: Mapping[str, nn.Parameter],
    optimiser: torch.optim.Optimizer,
    step: int,
    section: Trainer,
    ranks: Ranks,
    stop: Stop | None = None,
) -> tuple[Sums, float]:
    """One optimiser step.

    Args:
        batches: this process's micro-batches; how many may differ between processes.
        parameters: of the learner, by name.
        step: counted from 0.
        stop: whether this process was asked to stop.

    Returns:
        The sums over all micro-batches of all processes, and the norm of the gradient before clipping.

    Raises:
        NotFiniteError: before the optimiser moves, on every process.
        RunError: no position carries loss.
    """
    sums = accumulate(learner, teacher, batches, step, ranks, stop)
    norm = gradient_norm(parameters.values())
    for name, value in [*sums.parts.items(), ("loss", sums.loss), ("the gradient's norm", float(norm))]:
        if not math.isfinite(value):
            optimiser.zero_grad(set_to_none=True)
            raise NotFiniteError(f"'{name}'" if name in sums.parts else name)
    if section.clip is not None:
        clip(parameters.values(), section.clip, norm)
    for group in optimiser.param_groups:
        group["lr"] = learning_rate(step, section)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return sums, float(norm)


def task_gradients(
    learner: nn.Module,
    teacher: Teacher | None,
    batches: Sequence[Batch],
    parameters: Mapping[str, nn.Parameter],
    step: int,
    tasks: Sequence[str],
    ranks: Ranks,
) -> dict[str, float]:
    """The norm of the gradient that each task alone would give, as ``gradient_norm/<task>``; tasks that a step has none of are left out.

    Takes about as long as a step, since the documents of all tasks together are the step's. Changes nothing: no weight, no
    random generator.
    """
    norms: dict[str, float] = {}
    devices = [ranks.device] if ranks.device.type == "cuda" else []
    for task in tasks:
        mine = [part for part in (batch.of_task(task) for batch in batches) if len(part.labels_N)]
        if _count(mine, ranks)[0] <= 0.0:
            continue
        with torch.random.fork_rng(devices=devices):
            accumulate(learner, teacher, mine, step, ranks, spare=batches[0] if batches else None)
        norms[f"gradient_norm/{task}"] = float(gradient_norm(parameters.values()))
        for parameter in parameters.values():
            parameter.grad = None
    return norms


def accumulate(
    learner: nn.Module,
    teacher: Teacher | None,
    batches: Sequence[Batch],
    step: int,
    ranks: Ranks,
    stop: Stop | None = None,
    spare: Batch | None = None,
) -> Sums:
    """Forward and backward of all micro-batches of a step; the gradients are left on the parameters.

    A process with fewer of them than others goes through the motions with the spare one, which then counts nothing.

    Raises:
        RunError: no position carries loss.
    """
    learner.train()
    weight, most = _count(batches, ranks)
    if weight <= 0.0:
        raise fail(
            RunError,
            f"step {step + 1}",
            "no position carries loss: there is nothing to learn from",
            "Raise trainer.tokens_per_step, or look at what the data's format masks.",
        )
    sums = Sums(weight=weight, stop=float(stop is not None and stop.asked))
    for batch in _as_many(batches, most):
        loss, parts = _forward(learner, teacher, batch, weight, step, ranks, spare)
        if loss.requires_grad or ranks.world > 1:
            loss.backward()  # type: ignore[no-untyped-call]
        sums.add(float(loss.detach()), parts, 0 if batch is None else len(batch.labels_N))
    return sums.gathered()


def _as_many(batches: Sequence[Batch], most: int) -> list[Batch | None]:
    """The batches, and None up to so many.

    Gathering and reducing weights takes all processes: one with less to do goes through the motions.
    """
    return [*batches, *[None] * (most - len(batches))]


def _forward(
    learner: nn.Module,
    teacher: Teacher | None,
    batch: Batch | None,
    denominator: float,
    step: int,
    ranks: Ranks,
    spare: Batch | None,
) -> tuple[Tensor, dict[str, float]]:
    """The loss of a batch and its terms; both nothing where there is no batch, but the same modules are called.

    They are called with the spare one, if there is one: a teacher of stored signals has none of a text that is nowhere.
    """
    given = (batch or spare or _nothing()).to(ranks.device)
    want: frozenset[str] = getattr(learner, "want", frozenset())
    signal = teacher.signal(given, want=want) if teacher is not None else None
    loss, parts = learner(given, signal, denominator, step)
    return (loss, parts) if batch is not None else (loss * 0.0, dict.fromkeys(parts, 0.0))


def _count(batches: Sequence[Batch], ranks: Ranks) -> tuple[float, int]:
    """The weight of all positions of all processes, and the most micro-batches that one of them has."""
    weight = sum(float(b.weight_N.double().sum()) for b in batches)
    counts = [float(len(batches)) if rank == ranks.rank else 0.0 for rank in range(ranks.world)]
    total, *counts = sum_over_ranks([weight, *counts])
    return total, int(max(counts))


def _nothing() -> Batch:
    """A batch of one token whose one position weighs nothing."""
    zero = torch.zeros(1, dtype=torch.int64)
    return Batch(zero, zero.clone(), (0, 1), zero.clone(), zero.clone(), torch.zeros(1), zero.clone(), ("",))


@torch.no_grad()
def validate(
    learner: nn.Module, teacher: Teacher | None, pieces: Pieces, step: int, section: Trainer, ranks: Ranks
) -> dict[str, float]:
    """The objective's loss and terms on held-out positions: means over all of them.

    Args:
        step: steps taken; weights on a schedule have their value of then.

    Raises:
        RunError: no held-out position carries loss.
    """
    every = list(pieces.all(section.micro_tokens, section.validation_tokens))
    batches = every[ranks.rank :: ranks.world]
    weight, most = _count(batches, ranks)
    if weight <= 0.0:
        raise fail(
            RunError,
            "trainer.validate_every",
            "no held-out position carries loss",
            "Raise data.validation or trainer.validation_tokens, or set trainer.validate_every=null.",
        )
    learner.eval()
    sums = Sums(weight=weight)
    for batch in _as_many(batches, most):
        loss, parts = _forward(learner, teacher, batch, weight, step, ranks, every[0])
        sums.add(float(loss), parts, 0 if batch is None else len(batch.labels_N))
    learner.train()
    values = sums.gathered().means()
    for name, value in values.items():
        if not math.isfinite(value):
            raise fail(
                RunError, f"validation after step {step}", f"'{name}' is not finite", "Look at the held-out text."
            )
    return {"loss": values.pop("loss"), **values}


def _validates(step: int, section: Trainer) -> bool:
    every = section.validate_every
    return every is not None and (step % every == 0 or step == section.steps)


def _take_note(progress: Progress, loss: float) -> bool:
    """Whether a validation is the best so far; counts those that were not."""
    if progress.best is None or loss < progress.best:
        progress.best, progress.best_step, progress.waited = loss, progress.step, 0
        return True
    progress.waited += 1
    return False


def _done(progress: Progress, section: Trainer) -> bool:
    stale = section.patience is not None and progress.waited >= section.patience
    return stale or progress.step >= section.steps


def _prepare(learner: nn.Module, section: Trainer, ranks: Ranks) -> None:
    """Move the learner to where it computes, and split it over the processes."""
    learner.to(ranks.device)
    network: Any = getattr(learner.student, "network", learner.student)
    layers = distributed.layers_of(network)
    if section.gradient_checkpointing:
        try:
            network.activation_checkpointing_enable()
        except ValueError as error:
            raise fail(RecipeError, "trainer.gradient_checkpointing", str(error), "Set it to false.") from None
    distributed.shard(learner, layers, ranks)


def _persistent_buffers(module: nn.Module) -> dict[str, Tensor]:
    kept = module.state_dict(keep_vars=True)
    return {name: buffer for name, buffer in module.named_buffers() if name in kept}


def _choice(section: Trainer, ranks: Ranks, folder: Path, saved: Saved | None, given: Choice | None) -> Choice:
    """The arithmetic of this run: the one it was begun with, else the one given, else measured now."""
    file = folder / "checkpoints" / "choice.json"
    content: dict[str, Any] | None = None
    if ranks.main:
        if saved:
            content = saved.state["choice"]
        elif file.exists():  # begun, but killed before its first checkpoint
            with contextlib.suppress(OSError, ValueError):
                content = json.loads(file.read_text(encoding="utf-8"))
        asked = given.dtype if given is not None else section.dtype
        if content is None or (not saved and asked not in ("auto", content.get("dtype"))):
            content = (given or choose_dtype(section.dtype, ranks.device)).to_dict()
        if not saved:
            try:
                write_json(file, content)
            except OSError as error:
                raise fail(
                    RunError, str(file), f"cannot be written: {error.strerror}", "Make room or give write access."
                ) from error
    content = distributed.from_main(content)
    assert content is not None
    return Choice(**content)


def _tell_differences(saved: Saved, machine: Mapping[str, Any], ranks: Ranks, say: Reporter) -> None:
    """Say what differs from when the checkpoint was made: from there on results are equal up to rounding only."""
    before = {**saved.state["machine"], "processes": saved.state["world"]}
    now = {**machine, "processes": ranks.world}
    changed = [f"{key} {before[key]} → {now[key]}" for key in now if before.get(key) != now[key]]
    if changed:
        say.warn(f"continued under other conditions ({', '.join(changed)}): equal up to rounding, not bit for bit")


def _hook(text: str) -> Callable[..., Any]:
    if ":" not in text:
        raise fail(RecipeError, "trainer.hooks", f"'{text}' is not a function", "Write package.module:function.")
    return find("hook", text, "trainer.hooks")


def _loggers(
    section: Trainer, folder: Path, step: int, ranks: Ranks, stack: contextlib.ExitStack
) -> list[Callable[[int, Mapping[str, float] | None], None]]:
    loggers = []
    for strategy in section.loggers if ranks.main else ():
        where = f"trainer.loggers.{strategy.name}"
        function = find("logger", strategy.name, where)
        log = function(folder, step, **check_options(function, strategy.options, where))
        stack.callback(log, step, None)
        loggers.append(log)
    return loggers
