"""Chosen: what is trained on, out of all the text: tasks in proportion, and of each task what samplers choose by its difficulty.

Joins the data stage, which lays out the order, with student, teacher and objective, which say how difficult text is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from stillhouse import data, recipe
from stillhouse.data.measured import GAPS, Measure, Measured
from stillhouse.data.pieces import Pieces
from stillhouse.data.render import end_token
from stillhouse.data.stream import Stream
from stillhouse.errors import RecipeError, fail
from stillhouse.find import find
from stillhouse.objective.measure import Reader, measure, wants_teacher
from stillhouse.progress import bar
from stillhouse.teacher import Teacher
from stillhouse.trainer.distributed import Ranks, sum_over_ranks
from stillhouse.types import Batch


def sampled(
    settings: recipe.Recipe,
    corpus: data.Corpus,
    tokenizer: Any,
    folder: Path,
    speaking: Teacher | None,
    console: Console | None,
    ranks: Ranks,
    *,
    control: bool,
) -> Any:
    """What the student is trained on: the corpus, or what a mixture and samplers make of it.

    The control reads the text that was chosen for the student, but nothing that the student wrote: nobody could judge it.
    """
    section = settings.data
    choosing = [sampler for sampler in section.sampler if not data.writes(sampler)]
    # without a teacher there is nothing to learn from text that only it could label
    pieces: Any = WithoutBytes(corpus.labelled if speaking is None else corpus.train)
    if section.task_names or choosing:
        stream = streamed(section, corpus, folder, None if control else partial(measured, speaking, console, ranks))
        for sampler in choosing:
            stream = find("sampler", sampler.name)(stream, **data.options_of(sampler, "data.sampler"))
        refuse_impossible(stream, settings.trainer, teacher=control or speaking is not None)
        pieces = stream
    if control:
        return pieces
    for sampler in section.sampler:
        if sampler not in choosing:
            ends = (end_token(tokenizer, section.end_token),)
            pieces = find("sampler", sampler.name)(pieces, ends, **data.options_of(sampler, "data.sampler"))
    return pieces


def refuse_impossible(stream: Stream, section: recipe.Trainer, *, teacher: bool) -> None:
    """Refuse, before the first step, text that cannot be chosen or that is not enough.

    Raises:
        RecipeError: a measure asks a teacher that gives no probabilities, or the limits on epochs leave less than the run reads.
    """
    for name, _ in stream.asked:
        if not teacher and (name == GAPS or wants_teacher(name)):
            what = f"goes by '{name}', and this teacher gives no probabilities to measure it with"
            way_out = "Take by: student_loss, or a mixture that measures nothing."
            raise fail(RecipeError, "data.mixture" if name == GAPS else "data.sampler", what, way_out)
    if stream.most < section.steps * section.tokens_per_step:
        what = (
            f"let {stream.most:,.0f} tokens be read, and the run asks for {section.steps * section.tokens_per_step:,}"
        )
        way_out = "Raise the limits, leave one of them out, or set trainer.steps lower."
        raise fail(RecipeError, "data.tasks, the limits on epochs", what, way_out)


def streamed(section: recipe.Data, corpus: data.Corpus, folder: Path, measure: Measure | None) -> Stream:
    """The training text in the proportions of the mixture, before samplers choose of it."""
    options = data.options_of(section.mixture, "data.mixture")
    mixture = partial(find("mixture", section.mixture.name), **options)
    seen = Measured(corpus.train, corpus.validation, measure, folder / "sampling")
    epochs = {name: task.epochs for name, task in section.tasks.items() if task.epochs is not None}
    return Stream(corpus.train, mixture, seen, options.get("every"), epochs)


def measured(
    speaking: Teacher | None,
    console: Console | None,
    ranks: Ranks,
    pupil: Reader,
    names: Sequence[str],
    batches: Iterator[Batch],
    tokens: int,
) -> tuple[Any, Any]:
    """Measure how difficult text is for the student, with the time left shown."""
    with bar(
        console if ranks.main else None, f"Measuring {', '.join(names).replace('_', ' ')}", tokens, "tokens"
    ) as advance:
        signal = None if speaking is None else speaking.signal
        return measure(
            signal, pupil, names, batches, advance, rank=ranks.rank, world=ranks.world, summed=sum_over_ranks
        )


class WithoutBytes:
    """Held-out pieces as the trainer reads them: batches alone."""

    def __init__(self, pieces: Pieces) -> None:
        self.pieces = pieces
        self.step = pieces.step

    def all(self, micro_tokens: int, max_tokens: int | None = None) -> Iterator[Batch]:
        """Every document once."""
        return (batch for batch, _bytes in self.pieces.all(micro_tokens, max_tokens))
