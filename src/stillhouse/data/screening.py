"""Screening: documents go to disk, each filter goes through what the ones before it left, and what is kept comes out.

The order of the documents and their texts stay as they were: a filter takes whole documents out and changes none. All that
is done is kept in a folder beside the corpus until the corpus is whole, a shard of one filter at a time, so an
interruption costs a shard. Shards are measured by any number of processes; the judgement is made by one, in order.
"""

from __future__ import annotations

import heapq
import inspect
import json
import os
import shutil
import subprocess
import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stillhouse.data import diversity
from stillhouse.data.grams import twins
from stillhouse.data.judging import Filter, Ints, Rows
from stillhouse.data.render import Rendered
from stillhouse.data.spool import Spool, walk
from stillhouse.data.store import TRAIN, write_array
from stillhouse.errors import DataError, Problem, RecipeError, RunError, StillhouseError, fail
from stillhouse.files import read_json, write_json
from stillhouse.find import check_options, find
from stillhouse.recipe import Data, Strategy

EXAMPLES = 5
"""Removed documents of each filter that are shown."""
EXAMPLE_CHARACTERS = 240
"""Of a removed document that are shown."""

_SECONDS_BETWEEN_LOOKS = 0.1
_NUMBERS_KEPT = 16
"""Shards of which the numbers of the judged documents are remembered."""

GIVEN = ("teacher", "held_out")
"""What a filter may name before its options: the teacher's model; a function that goes through the held-out documents."""

Mask = npt.NDArray[np.bool_]
Progress = Callable[[str, float | None, bool], None]


def make(strategy: Strategy, where: str, possible: Mapping[str, Any]) -> Filter:
    """A filter as the recipe has it.

    Args:
        strategy: its name and options.
        where: the recipe key to name in errors.
        possible: what it may be given; None is enough to see whether its options make sense.

    Raises:
        RecipeError: there is no such filter, or its options are wrong.
    """
    function = find("filter", strategy.name, where)
    options = check_options(function, strategy.options, where)
    given = [possible[name] for name in inspect.signature(function).parameters if name in possible]
    try:
        made: Filter = function(*given, **options)
    except RecipeError as error:
        raise RecipeError(*(Problem(f"{where}.{p.where}", p.what, p.way_out) for p in error.problems)) from None
    return made


class Pass:
    """One filter's way through the documents that are left; what it measured, as ``judging.Measured``.

    Args:
        spool: all documents.
        folder: of this pass; holds the measurements, and in ``before.npy`` which documents are judged.
        together: of the first of the filters that measure in one reading; holds in ``measured.npy`` which documents are measured.
    """

    def __init__(self, spool: Spool, folder: Path, together: Path) -> None:
        self.spool, self.folder, self.together = spool, folder, together
        self._known: dict[int, Ints] = {}

    @cached_property
    def measured(self) -> Mask:
        """Which documents are measured."""
        return np.asarray(np.load(self.together / "measured.npy", allow_pickle=False), dtype=np.bool_)

    @cached_property
    def before(self) -> Mask:
        """Which documents are judged: those that earlier filters left, of held-out files only where it compares."""
        return np.asarray(np.load(self.folder / "before.npy", allow_pickle=False), dtype=np.bool_)

    @cached_property
    def held_out(self) -> Mask:
        """Of each judged document whether it is held out."""
        return self.spool.held_out[self.before]

    @cached_property
    def stays(self) -> Mask:
        """Of each judged document whether it stays whatever is found."""
        return self.spool.stays[self.before]

    @cached_property
    def shards(self) -> list[int]:
        """The shards that hold any measured document."""
        borders = self.spool.borders
        return [i for i in range(self.spool.shards) if self.measured[borders[i] : borders[i + 1]].any()]

    @cached_property
    def _borders(self) -> list[int]:
        """How many judged documents there are before each shard, and in all."""
        borders = self.spool.borders
        return list(accumulate((int(self.before[a:b].sum()) for a, b in pairwise(borders)), initial=0))

    def there(self, shard: int) -> bool:
        """Whether a shard is measured."""
        return self._file(shard).is_file()

    def measure(self, shard: int, filter_: Filter) -> None:
        """Measure a shard's documents."""
        start, stop = self.spool.borders[shard : shard + 2]
        documents = self.spool.rendered(shard, np.flatnonzero(self.measured[start:stop]))
        found = filter_.measure(documents)
        if len(found) != len(documents):
            what = f"a filter measured {len(found)} rows of {len(documents)} documents"
            raise fail(DataError, "data.filters", what, "Give one row for each document, in their order.")
        write_array(self._file(shard), found)

    def __len__(self) -> int:
        """How many documents are judged."""
        return self._borders[-1]

    def parts(self) -> Iterator[Rows]:
        """The measurements, a shard at a time."""
        for shard in self.shards:
            yield np.load(self._file(shard), allow_pickle=False)[self._judged(shard)]

    def column(self, index: int) -> Rows:
        """One column of all measurements."""
        found = []
        for shard in self.shards:
            part = np.load(self._file(shard), mmap_mode="r", allow_pickle=False)
            found.append(part[:, index][self._judged(shard)])
        return np.concatenate(found)

    def number(self, row: int) -> int:
        """A judged document's number among all."""
        shard = bisect_right(self._borders, row) - 1
        return int(self._numbers(shard)[row - self._borders[shard]])

    def document(self, row: int) -> Rendered:
        """A judged document, read again."""
        return self.spool.document(self.number(row)).rendered

    def where(self, row: int) -> str:
        """Where a judged document came from."""
        return self.spool.document(self.number(row)).where

    def drop(self) -> None:
        """Delete the measurements."""
        for shard in self.shards:
            self._file(shard).unlink(missing_ok=True)

    def _judged(self, shard: int) -> Mask:
        """Which rows of a shard's measurements count."""
        start, stop = self.spool.borders[shard : shard + 2]
        return self.before[start:stop][self.measured[start:stop]]

    def _numbers(self, shard: int) -> Ints:
        """The judged documents of a shard, by their numbers among all."""
        if shard not in self._known:
            start, stop = self.spool.borders[shard : shard + 2]
            self._known[shard] = start + np.flatnonzero(self.before[start:stop])
            if len(self._known) > _NUMBERS_KEPT:
                del self._known[next(iter(self._known))]
        return self._known[shard]

    def _file(self, shard: int) -> Path:
        return self.folder / f"{shard:06}.npy"


@dataclass(frozen=True)
class Plan:
    """What any process needs to know to measure a part: read from the folder that they share.

    Args:
        folder: the shared folder.
        filters: as the recipe has them.
    """

    folder: Path
    filters: tuple[Strategy, ...]

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """The plan that lies in a folder."""
        return cls(folder, tuple(map(Strategy.model_validate, read_json(folder / "plan.json", []))))

    def write(self) -> None:
        """Put it into the folder."""
        write_json(self.folder / "plan.json", [strategy.model_dump(mode="json") for strategy in self.filters])

    @cached_property
    def spool(self) -> Spool:
        """All documents."""
        return Spool(self.folder / "documents")

    def begin(self, number: int) -> Pass:
        """A filter's pass, by its place in the recipe."""
        return Pass(self.spool, self.folder / str(number), self.folder / str(self.together(number)[0]))

    def together(self, number: int) -> range:
        """The filters that measure in one reading with one of them: quick ones that follow one another."""
        if not self.quick[number]:
            return range(number, number + 1)
        first = next((i + 1 for i in range(number - 1, -1, -1) if not self.quick[i]), 0)
        stop = next((i for i in range(number, len(self.quick)) if not self.quick[i]), len(self.quick))
        return range(first, stop)

    @cached_property
    def quick(self) -> list[bool]:
        """Of each filter whether it is."""
        return [self.make(number).quick for number in range(len(self.filters))]

    def make(self, number: int, teacher: Any = None) -> Filter:
        """A filter, by its place in the recipe."""

        def held_out() -> Iterator[tuple[str, Rendered]]:
            return walk(self.spool, (self.begin(number).before & self.spool.held_out) | self.spool.stays)

        possible = {"teacher": teacher, "held_out": held_out}
        return make(self.filters[number], f"data.filters.{number}", possible)


@dataclass(frozen=True)
class Screened:
    """What is left of the documents.

    Args:
        plan: with the folder in which all lies.
        kept: which documents.
        facts: what was read, what each filter removed, how diverse the text was before and is now.
        moved: hashes of the documents that were put on the other side than their hash says, so that no side is empty.
    """

    plan: Plan
    kept: Mask
    facts: dict[str, Any]
    moved: npt.NDArray[np.uint64]

    def __len__(self) -> int:
        """How many documents are kept."""
        return int(self.kept.sum())

    def documents(self) -> Iterator[tuple[str, Rendered, int, bool]]:
        """Those that are kept, in the order in which they were read, each with the side its source is for.

        And with whether another one may have the same text: those of which none has need not be remembered.
        """
        spool = self.plan.spool
        again = np.zeros(len(self), dtype=np.bool_)
        for rows in twins(spool.hashes[self.kept]):
            again[rows] = True
        sides = spool.rows["side"][self.kept]
        for (where, rendered), side, twice in zip(walk(spool, self.kept), sides, again, strict=True):
            yield where, rendered, int(side), bool(twice)

    def log_removed(self, path: Path) -> None:
        """Write a line for each removed document: where it came from, which filter took it, and why."""
        with path.open("wb") as out:
            for number in range(len(self.plan.filters)):
                with (self.plan.folder / str(number) / "removed.jsonl").open("rb") as part:
                    shutil.copyfileobj(part, out)


def screen(
    section: Data,
    folder: Path,
    documents: Iterator[tuple[str, Rendered, int]],
    *,
    made_of: dict[str, Any],
    hash_of: Callable[[str, Rendered], int],
    teacher: Any = None,
    told: Callable[[int], None] = lambda _: None,
    progress: Progress = lambda *_: None,
) -> Screened:
    """Read all documents, and let each filter of the recipe take out what it must; of held-out files nothing.

    Args:
        section: the recipe's section.
        folder: for what lies on disk meanwhile; what is there of the same is used.
        documents: where each came from, itself, and the side its source is for; held-out ones first.
        made_of: all that the result depends on.
        hash_of: a document's number, which decides whether it is held out.
        teacher: the teacher's model, for filters that ask it.
        told: called with the number of documents read so far.
        progress: called with what is done, the seconds left, and whether it may be more.

    Raises:
        DataError: a document cannot be used, a filter refuses, or nothing is left.
        RecipeError: a filter's options are wrong.
        RunError: a process that measures died.
    """
    if read_json(folder / "made_of.json", None) != made_of:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(folder / "made_of.json", made_of)
    plan = Plan(folder, section.filters)
    plan.write()
    if not plan.spool.complete:
        _fill(plan.spool, documents, hash_of, section, told)
    spool = plan.spool
    kept: Mask = np.ones(len(spool), dtype=np.bool_)
    told_of = []
    for number, strategy in enumerate(plan.filters):
        done = folder / str(number) / "done.json"
        if not done.is_file():
            _run(plan, number, kept, teacher, section.workers, progress)
        kept = np.load(folder / str(number) / "kept.npy", allow_pickle=False)
        told_of.append({"name": strategy.name, **read_json(done, {})})
    _refuse_empty(plan, kept, told_of)
    facts = {
        "records": spool.facts["records"],
        "empty": spool.facts["empty"],
        "filtered": int(len(kept) - kept.sum()),
        "filters": told_of,
        "diversity": diversity.compare(spool, ~spool.stays, kept & ~spool.stays),
    }
    return Screened(plan, kept, facts, spool.moved)


def _fill(
    spool: Spool,
    documents: Iterator[tuple[str, Rendered, int]],
    hash_of: Callable[[str, Rendered], int],
    section: Data,
    told: Callable[[int], None],
) -> None:
    facts: dict[str, Any] = {"records": 0, "empty": 0}
    facts["validation"] = None if section.validation_sources else section.validation

    def given() -> Iterator[tuple[str, Rendered, int, int]]:
        learned = 0
        for where, rendered, side in documents:
            facts["records"] += 1
            if rendered.text:
                yield where, rendered, side, hash_of(where, rendered)
                learned += side == TRAIN
            else:
                facts["empty"] += 1
            told(facts["records"] - facts["empty"])
            if learned == section.max_documents:
                return

    spool.write(given(), facts)


def _run(plan: Plan, number: int, kept: Mask, teacher: Any, workers: int, progress: Progress) -> None:
    """Let one filter go through what is left; the first of those that measure in one reading measures for all of them."""
    began = time.monotonic()
    filter_ = plan.make(number, teacher)
    group = plan.together(number)
    folder = plan.folder / str(number)
    folder.mkdir(exist_ok=True)
    stays = plan.spool.stays
    if number == group[0]:
        makers = [plan.make(i, teacher) for i in group]
        write_array(folder / "measured.npy", kept if any(each.compares for each in makers) else kept & ~stays)
    write_array(folder / "before.npy", kept if filter_.compares else kept & ~stays)
    text = f"filter {number + 1} of {len(plan.filters)}, {plan.filters[number].name}"
    last = number + 1 == len(plan.filters)
    if number == group[0]:
        several = f"filters {number + 1} to {group[-1] + 1} of {len(plan.filters)}"
        _measure(plan, group, teacher, workers, text if len(group) == 1 else several, progress, last)
    current = plan.begin(number)
    progress(f"{text}: judging", None, True)
    after, like_held_out, examples = _judge(plan, number, current, filter_)
    told = {
        "options": plan.filters[number].options,
        "seen": int((~current.stays).sum()),
        "removed": len(current) - int(after.sum()),
        **({"like a held-out document": like_held_out} if filter_.compares else {}),
        **filter_.facts(current),
        "examples": examples,
        "seconds": round(time.monotonic() - began, 1),
    }
    write_array(current.folder / "kept.npy", after | stays)
    write_json(current.folder / "done.json", told)
    current.drop()


def _measure(plan: Plan, group: range, teacher: Any, workers: int, text: str, progress: Progress, last: bool) -> None:
    """Measure all shards for the filters that do so in one reading."""
    began = time.monotonic()
    passes = {i: plan.begin(i) for i in group}
    shards = passes[group[0]].shards
    for each in passes.values():
        each.folder.mkdir(exist_ok=True)

    def there() -> int:
        return sum(all(each.there(shard) for each in passes.values()) for shard in shards)

    before = there()

    def tell(done: int) -> None:
        fresh = done - before
        left = (time.monotonic() - began) * (len(shards) - done) / fresh if fresh > 0 else None
        progress(f"{text}: {done} of {len(shards)} shards", left, not last)

    tell(before)
    alone = any("teacher" in inspect.signature(find("filter", plan.filters[i].name)).parameters for i in group)
    if workers > 1 and not alone:
        _together(plan, group[0], passes[group[0]].folder, workers, lambda: tell(there()))
        return
    filters = {i: plan.make(i, teacher) for i in group}
    for done, shard in enumerate(shards, 1):
        _measure_shard(passes, filters, shard)
        tell(max(done, before))


def _measure_shard(passes: Mapping[int, Pass], filters: Mapping[int, Filter], shard: int) -> None:
    """What is not measured yet of a shard."""
    for i, current in passes.items():
        if not current.there(shard):
            current.measure(shard, filters[i])


def _judge(plan: Plan, number: int, current: Pass, filter_: Filter) -> tuple[Mask, int, list[dict[str, str]]]:
    """Which of the measured documents are left; how many are not because a held-out one is like them; and some of those.

    The sample does not change when the run is repeated.
    """
    after, stays, held_out, like_held_out = current.before.copy(), current.stays, current.held_out, 0
    sample: list[tuple[int, int, str, str]] = []
    temporary = current.folder / "removed.jsonl.tmp"
    with temporary.open("w", encoding="ascii") as log:
        for removed in filter_.judge(current):
            if stays[removed.row]:
                continue
            like_held_out += removed.like is not None and bool(held_out[removed.like])
            after[current.number(removed.row)] = False
            where = current.where(removed.row)
            line = {"record": where, "filter": plan.filters[number].name, "why": removed.why}
            log.write(json.dumps(line) + "\n")
            order = removed.row * 0x9E3779B97F4A7C15 % 2**64
            heapq.heappush(sample, (-order, removed.row, where, removed.why))
            if len(sample) > EXAMPLES:
                heapq.heappop(sample)
    os.replace(temporary, current.folder / "removed.jsonl")
    examples = []
    for _, row, where, why in sorted(sample, key=lambda each: each[1]):
        example = {"record": where, "why": why}
        if filter_.quotes:
            text = current.document(row).words
            example["text"] = text if len(text) <= EXAMPLE_CHARACTERS else text[:EXAMPLE_CHARACTERS] + "…"
        examples.append(example)
    return after, like_held_out, examples


def _together(plan: Plan, number: int, folder: Path, workers: int, tell: Callable[[], None]) -> None:
    """Measure with several processes, each taking every so-manyth shard."""
    # a program of its own, not a fork or spawn of this one: it must not run a user's script again, nor share torch's threads
    command = [sys.executable, "-m", "stillhouse.data.measuring", str(plan.folder), str(number)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
    logs = [folder / f"worker-{part}.log" for part in range(workers)]
    running: list[subprocess.Popen[bytes]] = []
    failed: list[tuple[int, Path]] = []
    try:
        for part, log in enumerate(logs):
            with log.open("wb") as output:
                running.append(
                    subprocess.Popen([*command, str(part), str(workers)], stdout=output, stderr=output, env=environment)
                )
        while not failed and any(process.poll() is None for process in running):
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            tell()
            failed = [(p.returncode, log) for p, log in zip(running, logs, strict=True) if p.poll()]
    finally:
        for process in running:
            process.kill()
            process.wait()
    if failed:
        raise _reason(*failed[0])


def _reason(code: int, log: Path) -> StillhouseError:
    """What a process ended with, as an error."""
    last = (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""])[-1]
    with suppress(ValueError, TypeError):
        return DataError(*(Problem(**problem) for problem in json.loads(last)))
    what = f"a process that filters ended with {code}{': ' + last if last else ''}"
    way_out = "Start the same command again: what is done is kept. Fewer data.workers need less memory."
    return fail(RunError, "data.workers", what, way_out)


def measure_part(folder: Path, number: int, part: int, of: int) -> int:
    """Measure every so-manyth shard of a pass: what a process beside the main one does.

    Args:
        folder: that the processes share.
        number: of the filter, the first of those that measure in one reading.
        part: which of the parts, from 0.
        of: how many parts there are.

    Returns:
        what the process ends with: 0 if all went well, 2 if a user must do something, which its last line tells.
    """
    plan, parent = Plan.read(folder), os.getppid()
    try:
        passes = {i: plan.begin(i) for i in plan.together(number)}
        filters = {i: plan.make(i) for i in passes}
        for shard in passes[number].shards[part::of]:
            if os.getppid() != parent:
                return 1
            _measure_shard(passes, filters, shard)
    except StillhouseError as error:
        print(json.dumps([vars(problem) for problem in error.problems]))
        return 2
    return 0


def _refuse_empty(plan: Plan, kept: Mask, told_of: Sequence[Mapping[str, Any]]) -> None:
    if not len(kept):
        return  # that there was nothing to read is told by who tokenises
    spool = plan.spool
    sides = {"document to learn from": kept & ~spool.held_out}
    if spool.facts["validation"] is not None:
        sides["held-out document"] = kept & spool.held_out & ~spool.stays
    missing = [side for side, mask in sides.items() if not mask.any()]
    if missing:
        removed = ", ".join(f"{each['name']} removed {each['removed']:,} of {each['seen']:,}" for each in told_of)
        what = f"leave no {' and no '.join(missing)} ({removed})"
        way_out = "Loosen the filter that removed most; or raise data.validation, if few documents are held out."
        raise fail(DataError, "data.filters", what, way_out)
