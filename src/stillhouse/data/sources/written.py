"""Text that the teacher writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from stillhouse.data.reading import Record, Tell, reads, untold
from stillhouse.data.synthesis import Number, Settings, inputs_of, synthesize
from stillhouse.find import holds, names
from stillhouse.recipe import Strategy
from stillhouse.writing import writer_of


def _prompts(value: Any) -> Any:
    """A bare string that is no strategy's name is a file."""
    return {"name": "files", "path": value} if isinstance(value, str) and value not in names("prompt") else value


def _number(words: str, fits: Callable[[float], bool]) -> AfterValidator:
    """A number in a range, or a schedule, whose numbers are looked at before anything is written."""

    def check(value: Number) -> Number:
        if not isinstance(value, Strategy) and not fits(value):
            raise ValueError(f"is to be {words}")
        return value

    return AfterValidator(check)


def _held(options: dict[str, Any]) -> list[tuple[str, Strategy, str]]:
    found: list[tuple[str, Strategy, str]] = [("prompt", options["prompts"], "prompts")]
    found += [("selection", options["select"], "select")] if options["select"] else []
    found += [
        ("schedule", options[n], n) for n in ("temperature", "top_p", "min_p") if isinstance(options[n], Strategy)
    ]
    return found


@holds(_held)
@reads(lambda options: inputs_of("prompt", options["prompts"]) or None)
def written(
    teacher: Any,
    tell: Tell = untold,
    folder: Path | None = None,
    *,
    prompts: Annotated[Strategy, BeforeValidator(_prompts)],
    samples: Annotated[int, Field(ge=1)] = 1,
    select: Strategy | None = None,
    keep: Annotated[int, Field(ge=1)] | None = None,
    new_tokens: Annotated[int, Field(ge=1)] = 128,
    temperature: Annotated[Number, _number("a number from 0 up", lambda t: t >= 0.0)] = 0.8,
    top_p: Annotated[Number, _number("a share above 0, up to 1", lambda p: 0.0 < p <= 1.0)] = 0.95,
    min_p: Annotated[Number, _number("a share from 0 to 1", lambda p: 0.0 <= p <= 1.0)] = 0.0,
    stop: tuple[str, ...] = (),
    template: Literal["auto", "chat", "none"] = "auto",
    together: Annotated[int, Field(ge=1)] = 16,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    seed: int = 0,
    path: str | None = None,
) -> Iterator[Record]:
    """What the teacher itself writes: answers to prompts, or text that goes on from them. See docs/synthesize.md.

    Yields ``{"prompt": …, "response": …, "text": …, "messages": [user, assistant], "provenance": {…}}``, so that every format
    can read it. An answer that the length cut short is kept; an empty one is not. What is written is kept in a folder of JSON
    lines, and the same settings go on there after an interruption, to the same rows on the same machine.

    Args:
        teacher: who writes: a ``Model``, a ``Writer``, or what has a ``Model`` as its ``model``.
        tell: called with the share of the tokens that is written, counting each answer at its longest.
        folder: where rows lie, each settings' in a folder of their own.
        prompts: a file with one a line, or a strategy of the kind prompt: files, prefixes, self_instruct, grid, magpie.
        samples: answers to each prompt.
        select: which of them are kept: a strategy of the kind selection (likelihood, agreement, verified); all if not given.
        keep: how many of a prompt's samples are kept; with ``select`` 1 if not given.
        new_tokens: of an answer, at most.
        temperature: of the sampling; higher is more diverse. A number or a schedule, as ``{name: linear, start: 0.6, end: 1.2}``:
            over a prompt's samples if there are several, else over the prompts.
        top_p: only the likeliest tokens that together have this probability; a number or a schedule.
        min_p: only tokens with at least this share of the likeliest one's probability; a number or a schedule.
        stop: strings that end an answer and are not part of it.
        template: auto: prompts are questions through the chat template where the teacher has one, else text to go on from;
            chat, none: always so.
        together: texts written at the same time; more is faster and takes more memory.
        dtype: arithmetic of the teacher; auto measures this machine once.
        seed: of the sampling.
        path: the rows' own folder; one in the run's if not given.

    Raises:
        DataError: no such file, no prompt, no chat template, or nothing written.

    """
    settings = Settings(
        prompts=Strategy.model_validate(_prompts(prompts)),
        samples=samples,
        select=None if select is None else Strategy.model_validate(select),
        keep=keep,
        new_tokens=new_tokens,
        temperature=temperature,
        top_p=top_p,
        min_p=min_p,
        stop=stop,
        template=template,
        together=together,
        dtype=dtype,
        seed=seed,
        path=path,
    )
    yield from synthesize(writer_of(teacher), settings, folder, tell)
