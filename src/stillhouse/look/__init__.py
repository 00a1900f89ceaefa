"""Look: the text of a recipe as the model will see it, before anything is trained.

Rows with their tokens and which of them carry loss, what each task has of the text, of the loss and of the run, how long the
documents are and, once a run has measured it, how difficult. ``terminal.py`` and ``page.py`` show it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from stillhouse import data, models, recipe, teacher
from stillhouse.chosen import streamed
from stillhouse.data.measured import GAPS, Measured
from stillhouse.data.pieces import Pieces
from stillhouse.data.stream import Stream
from stillhouse.find import find
from stillhouse.lock import lock
from stillhouse.progress import timed
from stillhouse.trainer.tasks import EPOCHS, STARVED
from stillhouse.types import Batch

BINS = 10
"""Bars of a histogram at most."""
_CHARACTER_TOKENS = 4
"""Tokens that one character is spread over at most: the bytes that UTF-8 needs."""


@dataclass(frozen=True)
class Token:
    """A token as it is read.

    Args:
        text: what it stands for.
        loss: whether the student learns to say it.
    """

    text: str
    loss: bool


@dataclass(frozen=True)
class Row:
    """A document, or a part of one, in a micro-batch.

    Args:
        task: its task; "" without tasks.
        key: of its document.
        offset: token of its document that it begins with.
        place: where it begins in the micro-batch.
        tokens: all of it; the last is only said, not read.
        weight: what each of its positions counts.
        label: name of its class, of texts that have one.
    """

    task: str
    key: str
    offset: int
    place: int
    tokens: tuple[Token, ...]
    weight: float
    label: str = ""

    @property
    def losses(self) -> int:
        """How many tokens carry loss."""
        return sum(token.loss for token in self.tokens)


@dataclass(frozen=True)
class Part:
    """What a task has.

    Args:
        name: the task's; "" without tasks.
        documents: to learn from.
        held_out: documents that are held out.
        tokens: positions to learn from.
        positions: of them those that carry loss.
        share: of the tokens that the run reads.
        counts: share of what counts in the loss, weights included.
        epochs: how often the run reads its text.
        weight: of its positions.
        temperature: of its text; None where it has the objective's.
    """

    name: str
    documents: int
    held_out: int
    tokens: int
    positions: int
    share: float
    counts: float
    epochs: float
    weight: float
    temperature: float | None


@dataclass(frozen=True)
class Histogram:
    """How many things lie between two numbers.

    Args:
        title: what was counted.
        unit: of the numbers.
        bars: (from … to, how many).
    """

    title: str
    unit: str
    bars: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Look:
    """All that is shown."""

    name: str
    facts: dict[str, Any]
    parts: tuple[Part, ...]
    rows: tuple[Row, ...]
    positions: int
    left_out: int
    lengths: tuple[Histogram, ...]
    difficulty: tuple[Histogram, ...]
    notes: tuple[str, ...]


def look(settings: recipe.Recipe, *, rows: int = 8, step: int = 0, console: Console | None = None) -> Look:
    """Prepare a recipe's text, in the run's folder, and see what a step will read of it.

    Args:
        settings: a checked recipe.
        rows: documents to show.
        step: of the training run, from 0.
        console: where to show progress.

    Raises:
        StillhouseError: the text cannot be had or read.
    """
    folder = settings.folder
    notes: list[str] = []
    tokenizer = _tokenizer(settings, notes)
    with ExitStack() as stack:
        if not (folder / "data" / "manifest.json").is_file():
            stack.enter_context(lock(folder))
        tell = stack.enter_context(timed(console, "Preparing the text"))
        master = teacher.load(settings.teacher).model if _written(settings.data) else None
        corpus = data.prepare(settings.data, tokenizer, folder / "data", teacher=master, progress=tell)
    stream = _stream(settings, corpus, notes)
    batch = stream.step(
        step,
        tokens_per_step=settings.trainer.tokens_per_step,
        micro_tokens=settings.trainer.micro_tokens,
        seed=settings.trainer.seed,
    )[0]
    if any(data.writes(sampler) for sampler in settings.data.sampler):
        notes.append("A share of the text will be the student's own; what is shown is what it goes on from.")
    parts = tuple(_parts(settings, corpus, stream))
    shown = tuple(_rows(batch, tokenizer, settings.data.classes, rows))
    return Look(
        settings.name,
        corpus.facts,
        parts,
        shown,
        len(batch.input_ids_P),
        len(batch.keys) - len(shown),
        tuple(_lengths(corpus.train)),
        tuple(_difficulty(folder / "sampling", corpus.train, notes)),
        (*notes, *_warnings(parts)),
    )


def _tokenizer(settings: recipe.Recipe, notes: list[str]) -> Any:
    """The student's, if it was made; else the teacher's."""
    before = settings.folder / "before"
    if (before / "config.json").is_file():
        return models.load(str(before), empty=True).tokenizer
    builders = [settings.student.name, *(builder.name for builder in settings.student.then)]
    if {"trim_vocabulary", "pretrained"} & set(builders):
        notes.append("The tokens are the teacher's: the student's are known once `stillhouse run` has made it.")
    return teacher.load(settings.teacher, empty=True).model.tokenizer


def _written(section: recipe.Data) -> bool:
    """Whether a source is written by the teacher."""
    return any("teacher" in inspect.signature(find("source", source.name)).parameters for source in section.sources)


def _stream(settings: recipe.Recipe, corpus: data.Corpus, notes: list[str]) -> Stream:
    """The training text as the run will read it, as far as that is known now."""
    section, where = settings.data, settings.folder / "sampling"

    def known(name: str) -> bool:
        return (where / f"{name.replace(':', '.')}-{0:08d}.npz").is_file()

    stream = streamed(section, corpus, settings.folder, None)
    if stream.every is not None and not known(GAPS):
        notes.append("The mixture goes by gaps that are measured when the run starts: equal ones are assumed here.")
        stream.every = None
    for sampler in section.sampler:
        if data.writes(sampler):
            continue
        options = data.options_of(sampler, "data.sampler")
        if known(str(options["by"])):
            stream = find("sampler", sampler.name)(stream, **options)
        else:
            notes.append(
                f"Difficulty is measured when the run starts: what '{sampler.name}' will choose is not known yet."
            )
    stream.bind(None, settings.folder, steps=settings.trainer.steps, world=1)
    return stream


def _parts(settings: recipe.Recipe, corpus: data.Corpus, stream: Stream) -> Iterator[Part]:
    facts = corpus.facts.get("tasks") or {
        "": corpus.facts["train"] | {"held_out": corpus.facts["validation"]["documents"]}
    }
    share_T = stream.shares()
    budget = settings.trainer.steps * settings.trainer.tokens_per_step
    tasks = [settings.data.tasks.get(name, recipe.Task()) for name in stream.names]
    counts_T = np.array(
        [
            share * task.weight * facts[name]["loss_positions"] / facts[name]["tokens"]
            for share, task, name in zip(share_T, tasks, stream.names, strict=True)
        ]
    )
    counts_T /= counts_T.sum()
    for share, counts, task, name in zip(share_T.tolist(), counts_T.tolist(), tasks, stream.names, strict=True):
        mine = facts[name]
        epochs = share * budget / mine["tokens"]
        yield Part(
            name, mine["documents"], mine["held_out"], mine["tokens"], mine["loss_positions"], share, counts, epochs, task.weight,
            task.temperature,
        )  # fmt: skip


def _rows(batch: Batch, tokenizer: Any, classes: Sequence[str], most: int) -> Iterator[Row]:
    ids, labels = batch.input_ids_P.tolist(), dict(zip(batch.select_N.tolist(), batch.labels_N.tolist(), strict=True))
    weights = dict(zip(batch.document_N.tolist(), batch.weight_N.tolist(), strict=True))
    for d in _spread(batch.tasks, len(batch.keys), most):
        a, b = batch.borders_D1[d : d + 2]
        row, losses = ids[a:b], [place > a and place - 1 in labels and not classes for place in range(a, b)]
        if not classes and b - 1 in labels:
            row, losses = [*row, labels[b - 1]], [*losses, True]
        label = next((classes[labels[place]] for place in range(a, b) if place in labels), "") if classes else ""
        tokens = tuple(map(Token, _texts(tokenizer, row), losses))
        yield Row(
            batch.tasks[d] if batch.tasks else "",
            batch.keys[d],
            batch.offsets_D[d],
            a,
            tokens,
            weights.get(d, 0.0),
            label,
        )


def _texts(tokenizer: Any, ids: Sequence[int]) -> Iterator[str]:
    """What each token stands for; a character that is spread over several tokens stands at the last of them."""
    open_: list[int] = []
    for token in ids:
        open_.append(token)
        text = tokenizer.decode(open_)
        if text.endswith("\ufffd") and len(open_) < _CHARACTER_TOKENS:
            yield ""
        else:
            yield text
            open_ = []


def _spread(tasks: Sequence[str], documents: int, most: int) -> list[int]:
    """Which documents are shown: the first of each task in turn."""
    before: dict[str, int] = {}
    turn = []
    for d in range(documents):
        task = tasks[d] if tasks else ""
        turn.append((before.get(task, 0), d))
        before[task] = before.get(task, 0) + 1
    return sorted(d for _, d in sorted(turn)[:most])


def _lengths(pieces: Pieces) -> Iterator[Histogram]:
    length_n = np.bincount(pieces.parts[2], weights=pieces.parts[1]).astype(np.int64)
    first = np.unique(pieces.parts[2], return_index=True)[1]
    task_n = pieces.task_of[first]
    for task, name in enumerate(pieces.tasks or ("",)):
        mine = length_n[task_n == task]
        edges = np.unique(np.rint(np.geomspace(max(mine.min(), 1), mine.max() + 1, BINS + 1)).astype(np.int64))
        counts = np.histogram(mine, np.append(edges, edges[-1] + 1) if len(edges) < 2 else edges)[0]
        bars = [
            (f"{a:,}" if b - a <= 1 else f"{a:,} to {b - 1:,}", int(n))
            for a, b, n in zip(edges, edges[1:], counts, strict=False)
        ]
        yield Histogram(f"Tokens of a document{f': {name}' if name else ''}", "documents", tuple(bars))


def _difficulty(folder: Path, pieces: Pieces, notes: list[str]) -> Iterator[Histogram]:
    newest: dict[str, Path] = {}
    for path in sorted(folder.glob("*-*.npz")):
        newest[path.stem.rpartition("-")[0]] = path
    newest.pop(GAPS, None)
    if not newest:
        notes.append(
            "How difficult the text is, is measured by runs whose recipe has a sampler that goes by it (docs/difficulty.md)."
        )
    for name, path in newest.items():
        seen = Measured(pieces, folder=folder)
        step = int(path.stem.rpartition("-")[2])
        score_n = seen.value(name, step, step, (name,), 0)
        for task, of in enumerate(pieces.tasks or ("",)):
            mine = score_n[pieces.task_of == task]
            counts, edges = np.histogram(mine, BINS)
            bars = tuple((f"{a:.2f} to {b:.2f}", int(n)) for a, b, n in zip(edges, edges[1:], counts, strict=False))
            title = (
                f"Difficulty by {name.replace('_', ' ')}, nats a token, before step {step + 1}{f': {of}' if of else ''}"
            )
            yield Histogram(title, "pieces", bars)


def _warnings(parts: Sequence[Part]) -> Iterator[str]:
    for part in parts:
        if len(parts) > 1 and part.counts < STARVED / len(parts):
            yield (
                f"Task '{part.name}' will have {part.share:.1%} of the tokens but {part.counts:.2%} of what counts in the loss: raise "
                f"data.tasks.{part.name}.weight, or its share in data.mixture."
            )
        if part.epochs > EPOCHS:
            named = f"Task '{part.name}'" if part.name else "The text"
            yield f"{named} will be read {part.epochs:.1f} times: more than about {EPOCHS:.0f} readings teach little more."
