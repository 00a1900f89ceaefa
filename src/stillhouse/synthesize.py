"""Synthesize: the teacher writes a recipe's text, before any run; its signals are stored in the same pass where there is a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from stillhouse import machine, recipe, teacher
from stillhouse.check import check
from stillhouse.data.ledger import Row
from stillhouse.data.pace import Pace
from stillhouse.data.readers import WRITTEN
from stillhouse.data.render import NO_LOSS, Example, end_token, fit, tokenise
from stillhouse.data.sources.written import written
from stillhouse.data.synthesis import record_of
from stillhouse.errors import RecipeError, fail
from stillhouse.find import check_options, find
from stillhouse.progress import duration, timed
from stillhouse.storing import Filling, open_store
from stillhouse.teacher.store import Piece, pieces_of
from stillhouse.types import Batch, Signal
from stillhouse.writing import Answer, Ask, Local, Writer, writer_of


@dataclass(frozen=True)
class Written:
    """What a source's text came to.

    Args:
        source: where it stands in the recipe.
        texts: how many rows.
        tokens: of all of them.
        ended: share that the teacher ended by itself, or a stop string did.
        lengths: tokens of a text: 5th, 50th and 95th percentile.
        logprobs: log-probability of a token, nats, by text: the same percentiles; None where the teacher does not tell.
        fresh: tokens written in this sitting.
        seconds: that they took.
    """

    source: str
    texts: int
    tokens: int
    ended: float
    lengths: tuple[float, float, float]
    logprobs: tuple[float, float, float] | None
    fresh: int
    seconds: float

    def __str__(self) -> str:
        parts = [f"{self.texts:,} texts, {self.tokens:,} tokens ({self.lengths[0]:.0f} to {self.lengths[2]:.0f} each)"]
        parts.append(f"{self.ended:.0%} ended by themselves")
        if self.logprobs is not None:
            parts.append(f"{self.logprobs[1]:.2f} nats a token ({self.logprobs[0]:.2f} to {self.logprobs[2]:.2f})")
        if self.fresh:
            parts.append(f"{self.fresh / max(self.seconds, 1e-9):,.0f} tokens a second, in {duration(self.seconds)}")
        return "; ".join(parts)


def synthesize(settings: recipe.Recipe, *, console: Console | None = None) -> list[Written]:
    """Let the teacher write the text of a recipe's sources `written`; a run of the recipe then reads it.

    The same call goes on after an interruption. With a teacher ``{name: store, …}`` the signals of what it writes go into the
    store, as far as what is learned from has the tokens that were written; ``stillhouse label`` adds what is missing.

    Args:
        settings: the recipe.
        console: where to show progress.

    Raises:
        RecipeError: no source of the recipe writes.
        StillhouseError: teacher or prompts cannot be used; what was written stays.
    """
    if not any(writes(source) for source in settings.data.sources):
        way_out = "Add one: data.sources: [{name: written, prompts: prompts.txt, format: chat}]."
        raise fail(RecipeError, "data.sources", "has no source that lets the teacher write", way_out)
    if settings.teacher.name == "store":
        filling = open_store(settings, console)
        return write(settings, filling.model, filling, console=console)
    check(settings)
    machine.set_threads(settings.trainer.threads)
    with timed(console, "Loading the teacher"):
        master = teacher.load(settings.teacher)
    return write(settings, master, None, console=console)


def writes(source: recipe.Source) -> bool:
    """Whether the teacher writes a source's text."""
    return source.name == "written"


def write(
    settings: recipe.Recipe, master: Any, filling: Filling | None, *, console: Console | None = None
) -> list[Written]:
    """As ``synthesize``, with what is loaded already; nothing where no source writes.

    Args:
        settings: the recipe.
        master: the teacher.
        filling: the store to fill.
        console: where to show progress.
    """
    found = []
    for number, source in enumerate(settings.data.sources):
        if not writes(source):
            continue
        where = f"data.sources.{number}"
        options = check_options(find("source", source.name, where), source.options, where)
        listener, writer = None, writer_of(master)
        if filling is not None and filling.own:  # a student of other tokens reads what is written otherwise
            listener = Heard(filling, settings.data, source, where)
            writer = Local(filling.model, listener, filling.arithmetic)
        found.append(_write(settings, where, writer, options, listener, console))
        if console is not None:
            console.print(f"{where}: {found[-1]}", highlight=False)
            if listener is not None:
                console.print(
                    f"Signals of {listener.texts:,} of its texts stored while they were written", highlight=False
                )
    return found


def _write(
    settings: recipe.Recipe,
    where: str,
    writer: Writer,
    options: dict[str, Any],
    listener: Heard | None,
    console: Console | None,
) -> Written:
    pace = Pace()
    lengths: list[int] = []
    logprobs: list[float] = []
    ended = before = 0
    started = False
    with timed(console, f"Writing ({where})") as show, pace.turn():

        def told() -> None:
            nonlocal started, before
            if not started:
                started, before = True, sum(lengths)
            show(f"{len(lengths):,} texts, {sum(lengths):,} tokens", pace.left())

        pace.told = told
        for row in written(writer, pace.tell, settings.folder / WRITTEN, **options):
            about = row["provenance"]
            lengths.append(about["tokens"])
            ended += about["finish"] != "length"
            if about["logprob"] is not None:
                logprobs.append(about["logprob"] / about["tokens"])
            if listener is not None:
                listener.keep(row)
        if listener is not None:
            listener.filling.writer.flush()
    return Written(
        where,
        len(lengths),
        sum(lengths),
        ended / max(len(lengths), 1),
        _percentiles(lengths),
        _percentiles(logprobs) if logprobs else None,
        sum(lengths) - before if started else 0,
        pace.seconds,
    )


def _percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    low, middle, high = np.percentile(values, (5, 50, 95)) if len(values) else (0.0, 0.0, 0.0)
    return float(low), float(middle), float(high)


class Heard:
    """Turns the teacher's hidden states of what it writes into a store's pieces, for the rows that are kept.

    Args:
        filling: the store.
        section: of the recipe.
        source: whose format makes a document of a row.
        where: it stands in the recipe.
    """

    def __init__(self, filling: Filling, section: recipe.Data, source: recipe.Source, where: str) -> None:
        self.filling, self.block = filling, section.block
        self.tokenizer = filling.tokenizer
        self.end = end_token(self.tokenizer, section.end_token)
        self.format = find("format", source.format.name, f"{where}.format")
        self.options = check_options(self.format, source.format.options, f"{where}.format")
        self.texts = 0
        self._documents: dict[tuple[str, int], tuple[str, Example]] = {}
        self._pieces: dict[str, list[Piece]] = {}
        self._yielded = False

    def document(self, ask: Ask, answer: Answer) -> Sequence[int]:
        """See ``Listener``: the tokens of the document's first piece, up to the last that carries loss."""
        if self._yielded:  # a batch begins; what is left of the last one are samples that were not kept
            self._pieces.clear()
            self._documents.clear()
            self._yielded = False
        found = None if ask.form == "exact" else self._document(record_of(ask.text, ask.form, answer))
        if found is None:
            return ()
        self._documents[ask.text, ask.seed] = found
        example = found[1]
        last = int(np.flatnonzero(example.labels != NO_LOSS)[-1])
        tokens: list[int] = example.inputs[: last + 1].tolist()
        return tokens

    def hear(self, ask: Ask, hidden_LH: Tensor) -> None:
        """See ``Listener``."""
        key, example = self._documents.pop((ask.text, ask.seed))
        select = np.flatnonzero(example.labels != NO_LOSS)
        count, length = len(select), len(example.inputs)
        batch = Batch(
            torch.from_numpy(example.inputs.astype(np.int64)),
            torch.arange(length),
            (0, length),
            torch.from_numpy(select),
            torch.from_numpy(example.labels[select].astype(np.int64)),
            torch.ones(count),
            torch.zeros(count, dtype=torch.int64),
            (key,),
            (0,),
        )
        signal = Signal(hidden_NH=hidden_LH[torch.from_numpy(select)], head=self.filling.model.head)
        self._pieces[key] = list(pieces_of(batch, signal, self.filling.codec))

    def keep(self, row: Row) -> None:
        """Store the signals of a row, if they were heard."""
        found = self._document(row)
        pieces = self._pieces.pop(found[0], []) if found is not None else []
        for piece in pieces:
            self.filling.writer.add(piece)
        self.texts += bool(pieces)
        self._yielded = True

    def _document(self, record: Row) -> tuple[str, Example] | None:
        """Key and first piece of a record's document, as the corpus will have it; None if it will have none."""
        rendered = self.format(record, self.tokenizer, **self.options)
        if not rendered.text:
            return None
        (example,) = tokenise([rendered], self.tokenizer, self.end)
        cut = (
            fit(example, self.block)[0]
            if rendered.whole
            else Example(
                example.inputs[: self.block],
                example.labels[: self.block],
                example.bytes[: self.block],
                example.first_bytes,
            )
        )
        return None if cut is None or not (cut.labels != NO_LOSS).any() else (rendered.key.hex(), cut)
