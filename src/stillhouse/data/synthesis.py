"""From prompts to rows of text that a teacher wrote: asked in batches, selected, kept with where each came from.

What is asked is a strategy (``prompts/``), which of several answers is kept is another (``selections/``). All that the teacher
writes lies in ledgers (``ledger.py``) before it is used, so the same call goes on after any interruption, to the same rows.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from stillhouse.data.ledger import Ledger
from stillhouse.data.reading import Record, Tell
from stillhouse.errors import DataError, RecipeError, RunError, fail
from stillhouse.files import read_json, sha256_file, sha256_text, write_json
from stillhouse.find import check_options, find
from stillhouse.lock import lock
from stillhouse.recipe import Strategy
from stillhouse.vocabulary import fingerprint
from stillhouse.writing import Answer, Ask, Form, Writer

_FORMAT = 1
"""Version of the folder."""

_WINDOW = 16
"""Batches among whose prompts those of equal length are put together."""

_DRAFTING = 0.3
"""Share of all the time that prompts take which the teacher writes too; a guess that is corrected once answers are written."""

Number = float | Strategy


@dataclass(frozen=True)
class Prompt:
    """What the teacher is asked, or goes on from.

    Args:
        text: its words.
        about: where it came from, as plain values.
        form: how the teacher is given it; None for what the settings say.
    """

    text: str
    about: dict[str, Any] = field(default_factory=dict)
    form: Form | None = None


class Draft(Protocol):
    """How a strategy has the teacher write what prompts are made of. What was written before is read, not written again."""

    def __call__(
        self,
        texts: Sequence[str],
        *,
        new_tokens: int,
        temperature: float,
        top_p: float,
        stop: tuple[str, ...],
        done: float,
    ) -> list[Answer]:
        """What the teacher adds to texts, which it is given exactly as they are.

        Args:
            texts: the texts, special tokens read as such; the same text several times gives several answers.
            new_tokens: at most.
            temperature: of the sampling.
            top_p: of the sampling.
            stop: strings that end an answer.
            done: share of the prompts that is there.
        """
        ...


@dataclass(frozen=True)
class Settings:
    """The options of the source `written`, as there."""

    prompts: Strategy
    samples: int
    select: Strategy | None
    keep: int | None
    new_tokens: int
    temperature: Number
    top_p: Number
    min_p: Number
    stop: tuple[str, ...]
    template: Literal["auto", "chat", "none"]
    together: int
    dtype: str
    seed: int
    path: str | None


def synthesize(writer: Writer, settings: Settings, folder: Path | None, tell: Tell) -> Iterator[Record]:
    """What the teacher writes, row by row: read where it is there already, written where not.

    Args:
        writer: the teacher.
        settings: what it writes.
        folder: where the rows of several settings lie, each in a folder of its own; None to keep nothing.
        tell: called with the share that is done, once something is written.

    Raises:
        DataError: there is no prompt, no chat template where one is needed, or nothing but empty answers.
        RecipeError: a schedule leaves the range of what it sets, or more samples are kept than there are.
        RunError: the folder holds other rows, or cannot be used.
    """
    _refuse(settings, writer)
    made_of = _made_of(settings, writer)
    with tempfile.TemporaryDirectory() if folder is None and settings.path is None else nullcontext("") as nowhere:
        named = sha256_text(json.dumps(made_of, sort_keys=True))[:16]
        place = Path(settings.path) if settings.path is not None else (folder or Path(nowhere)) / named
        with lock(place):
            arithmetic = _claim(place, made_of, writer, settings)
            yield from _rows(writer, settings, place, arithmetic, tell)


def record_of(text: str, form: Form, answer: Answer) -> Record:
    """An answer with its prompt, so that every format can read it.

    Returns:
        ``prompt``, ``response``, ``messages`` (user, assistant) and ``text``: the answer alone where a question was asked, the
        prompt with what follows where the teacher went on from it.
    """
    response = answer.text.strip() if form == "chat" else answer.text
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": response}]
    whole = response if form == "chat" else text + response
    return {"prompt": text, "response": response, "text": whole, "messages": messages}


def inputs_of(kind: str, strategy: Strategy) -> list[Path] | None:
    """The files that a strategy reads; None if it is not of those that read any."""
    function = find(kind, strategy.name)
    inputs = getattr(function, "inputs", None)
    return None if inputs is None else inputs(check_options(function, strategy.options, kind))


def _refuse(settings: Settings, writer: Writer) -> None:
    """What cannot work, before anything is written."""
    if settings.template == "chat" and not writer.chats:
        what = f"{writer.name} has no chat template, so a question cannot be put to it as one"
        raise fail(DataError, "template", what, "Take an instruction-tuned teacher, or template: none to let it go on.")
    if settings.keep is not None and settings.keep > settings.samples:
        raise fail(RecipeError, "keep", f"is {settings.keep}, of {settings.samples} samples", "Write more samples.")
    for name, least, most in (("temperature", 0.0, 100.0), ("top_p", 1e-9, 1.0), ("min_p", 0.0, 1.0)):
        for share in (0.0, 0.5, 1.0):
            value = _at(getattr(settings, name), share)
            if not least <= value <= most:
                what = f"its schedule gives {value:g} at {share:.0%}, which is not from {least:g} to {most:g}"
                raise fail(RecipeError, name, what)


def _at(value: Number, share: float) -> float:
    if isinstance(value, Strategy):
        schedule = find("schedule", value.name)
        return float(schedule(share, **check_options(schedule, value.options, value.name)))
    return float(value)


def _made_of(settings: Settings, writer: Writer) -> dict[str, Any]:
    """All that the rows follow from, as plain values."""
    plain = {
        name: value.model_dump(mode="json") if isinstance(value, Strategy) else value
        for name, value in vars(settings).items()
        if name != "path"
    }
    files = [*(inputs_of("prompt", settings.prompts) or [])]
    if settings.select is not None:
        files += inputs_of("selection", settings.select) or []
    return {
        "format": _FORMAT,
        "teacher": writer.fingerprint,
        "tokenizer": fingerprint(writer.tokenizer),
        "settings": json.loads(json.dumps(plain)),
        "files": [[path.name, sha256_file(path)] for path in files],
    }


def _claim(place: Path, made_of: dict[str, Any], writer: Writer, settings: Settings) -> str:
    """Make the folder the rows' own, or find that it is; returns the arithmetic, which is measured once."""
    path = place / "manifest.json"
    try:
        there = read_json(path, None)
    except (OSError, ValueError) as error:
        raise fail(RunError, str(path), f"cannot be read: {error}", "Delete the folder, or give another.") from None
    if there is None:
        arithmetic = writer.arithmetic(settings.dtype, settings.together)
        try:
            write_json(path, {"made_of": made_of, "name": writer.name, "arithmetic": arithmetic})
        except OSError as error:
            raise fail(RunError, str(place), f"cannot be written: {error.strerror}", "Give another path.") from None
        return arithmetic
    theirs = there.get("made_of", {})
    if theirs != made_of:
        ours_flat, theirs_flat = ({**m, **m.get("settings", {})} for m in (made_of, theirs))
        names = [n for n in ours_flat if n != "settings" and ours_flat[n] != theirs_flat.get(n)]
        way_out = "Give these rows their own folder (path: …), or delete that one if you no longer need it."
        raise fail(RunError, str(place), f"holds rows that were written otherwise: {', '.join(names)} differ", way_out)
    return str(there["arithmetic"])


def _rows(writer: Writer, settings: Settings, place: Path, arithmetic: str, tell: Tell) -> Iterator[Record]:
    prompts, drafted = _prompts(writer, settings, place, arithmetic, tell)
    ledger = Ledger(place)
    select = find("selection", settings.select.name) if settings.select else None
    options = check_options(select, settings.select.options, "select") if select and settings.select else {}
    first = _DRAFTING if drafted else 0.0
    any_row, asked = False, 0
    for numbers in _batches([len(p.text) for p in prompts], max(1, settings.together // settings.samples)):
        asks = [
            _ask(prompts, number, sample, settings, writer) for number in numbers for sample in range(settings.samples)
        ]
        key = _digest(asks, arithmetic)
        rows = ledger.next(key)
        if rows is None:
            begin, part = asked / len(prompts), len(numbers) / len(prompts)
            told = _Part(tell, first + (1.0 - first) * begin, (1.0 - first) * part)
            answers = writer.write(asks, arithmetic=arithmetic, tell=told)
            rows, counts = [], {"texts": len(asks), "empty": 0, "refused": 0}
            for place_, number in enumerate(numbers):
                mine = slice(place_ * settings.samples, (place_ + 1) * settings.samples)
                kept = _kept(answers[mine], prompts[number], select, options, settings.keep, counts)
                for sample, score in kept:
                    ask, answer = asks[mine][sample], answers[mine][sample]
                    about = {"prompts": {"name": settings.prompts.name, **prompts[number].about}, "sample": sample}
                    about |= _provenance(writer, arithmetic, ask, answer) | ({} if score is None else {"score": score})
                    rows.append({**record_of(ask.text, ask.form, answer), "provenance": about})
            ledger.add(key, rows, counts)
            told(1.0)
        asked += len(numbers)
        any_row = any_row or bool(rows)
        yield from rows
    if not any_row:
        counts = ledger.counts
        what = f"of {counts['texts']} answers {counts['empty']} are empty and {counts['refused']} were refused: no row is left"
        raise fail(
            DataError, writer.name, what, "Look at what the teacher writes: stillhouse inspect; change the prompts."
        )


def _provenance(writer: Writer, arithmetic: str, ask: Ask, answer: Answer) -> dict[str, Any]:
    """All that an answer followed from, and what there is to say of it, as plain values."""
    asked = {name: value for name, value in asdict(ask).items() if name != "text"}
    said = {name: value for name, value in asdict(answer).items() if name != "text"}
    who = {"teacher": writer.name, "fingerprint": writer.fingerprint[:16], "arithmetic": arithmetic}
    return {
        **who,
        **asked,
        "stop": list(ask.stop),
        **said,
    }  # a list, as JSON has it: rows are the same written and read


def _prompts(writer: Writer, settings: Settings, place: Path, arithmetic: str, tell: Tell) -> tuple[list[Prompt], bool]:
    """All prompts, each once; and whether the teacher wrote any of them."""
    strategy = find("prompt", settings.prompts.name)
    options = check_options(strategy, settings.prompts.options, "prompts")
    wanted = inspect.signature(strategy).parameters
    given: dict[str, Any] = {}
    if "draft" in wanted:
        given["draft"] = _Drafts(writer, Ledger(place / "drafts"), settings, arithmetic, tell)
    if "tokenizer" in wanted:
        given["tokenizer"] = writer.tokenizer
    found: dict[tuple[str, Form | None], Prompt] = {}
    for prompt in strategy(**given, **options):
        try:
            prompt.text.encode()
        except UnicodeEncodeError as error:
            what = f"a prompt has half of a surrogate pair at character {error.start}, which is no text"
            raise fail(DataError, settings.prompts.name, what, "Take it out.") from None
        found.setdefault((prompt.text, prompt.form), prompt)
    if not found:
        raise fail(DataError, settings.prompts.name, "gives no prompt, so the teacher has nothing to write")
    return list(found.values()), "draft" in given


def _batches(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Numbers of the prompts that are answered together: of about equal length, and near each other in their order."""
    for start in range(0, len(lengths), size * _WINDOW):
        window = sorted(range(start, min(start + size * _WINDOW, len(lengths))), key=lambda n: (lengths[n], n))
        yield from (window[a : a + size] for a in range(0, len(window), size))


def _ask(prompts: Sequence[Prompt], number: int, sample: int, settings: Settings, writer: Writer) -> Ask:
    prompt = prompts[number]
    share = sample / (settings.samples - 1) if settings.samples > 1 else number / max(len(prompts) - 1, 1)
    usual: Form = "text" if settings.template == "none" or not writer.chats else "chat"
    return Ask(
        prompt.text,
        prompt.form or usual,
        _seed(settings.seed, "answer", sample, prompt.text),
        settings.new_tokens,
        _at(settings.temperature, share),
        _at(settings.top_p, share),
        _at(settings.min_p, share),
        settings.stop,
    )


def _kept(
    answers: Sequence[Answer],
    prompt: Prompt,
    select: Callable[..., list[float | None]] | None,
    options: dict[str, Any],
    keep: int | None,
    counts: dict[str, int],
) -> list[tuple[int, float | None]]:
    """Which samples of a prompt are kept, in their order, with their scores."""
    there = [n for n, answer in enumerate(answers) if answer.text.strip()]
    counts["empty"] += len(answers) - len(there)
    if select is None:
        best: list[tuple[int, float | None]] = [*((n, None) for n in there[:keep])]
    else:
        scores = select(prompt.text, [answers[n] for n in there], **options) if there else []
        ranked = sorted(
            ((n, s) for n, s in zip(there, scores, strict=True) if s is not None), key=lambda p: (-p[1], p[0])
        )
        best = sorted(ranked[: keep or 1])
    counts["refused"] += len(there) - len(best)
    return best


class _Part:
    """Tells of a part of the work as a share of the whole."""

    def __init__(self, tell: Tell, start: float, part: float) -> None:
        self.tell, self.start, self.part = tell, start, part

    def __call__(self, share: float) -> None:
        """So much of the part is done."""
        self.tell(min(self.start + share * self.part, 1.0))


class _Drafts:
    """See ``Draft``."""

    def __init__(self, writer: Writer, ledger: Ledger, settings: Settings, arithmetic: str, tell: Tell) -> None:
        self.writer, self.ledger, self.settings, self.arithmetic, self.tell = writer, ledger, settings, arithmetic, tell
        self.count = 0

    def __call__(
        self,
        texts: Sequence[str],
        *,
        new_tokens: int,
        temperature: float,
        top_p: float,
        stop: tuple[str, ...],
        done: float,
    ) -> list[Answer]:
        asks = [
            Ask(
                text,
                "exact",
                _seed(self.settings.seed, "draft", self.count + i, text),
                new_tokens,
                temperature,
                top_p,
                0.0,
                stop,
            )
            for i, text in enumerate(texts)
        ]
        self.count += len(texts)
        key = _digest(asks, self.arithmetic)
        rows = self.ledger.next(key)
        if rows is None:
            # the share within a batch of drafts is not known: how many of them become prompts is seen afterwards
            self.tell(_DRAFTING * done)
            answers = self.writer.write(asks, arithmetic=self.arithmetic, tell=lambda share: None)
            rows = [
                {"text": ask.text, "seed": ask.seed, "answer": asdict(a)} for ask, a in zip(asks, answers, strict=True)
            ]
            self.ledger.add(key, rows, {"texts": len(rows)})
        return [Answer(**row["answer"]) for row in rows]


def _digest(asks: Sequence[Ask], arithmetic: str) -> str:
    return sha256_text(json.dumps([asdict(ask) for ask in asks]), arithmetic)[:16]


def _seed(seed: int, use: str, number: int, text: str) -> int:
    """31 bits, which every server takes."""
    content = f"{seed} {use} {number} {text}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=4).digest(), "little") >> 1
