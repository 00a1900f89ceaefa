"""What differs from the recipe in a round, and the round's own recipe, which anybody can run by hand.

Weak slices become tasks of the mixture: their rows are put into files of their own, and weights and shares are then those that
any recipe can have. Rows are taken from the sources once, in order; a row that is in two slices belongs to the first.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from stillhouse import recipe
from stillhouse.data.tagging import Row
from stillhouse.errors import RunError, fail
from stillhouse.evaluate.declared import inside, name_of
from stillhouse.files import write_text

NOTES = ("characters", "keys")
"""What an added source says beside what a recipe has: how much text it is, and which rows of the pool it took."""

REST = "rest"
"""The task of all that is in no slice."""


@dataclass(frozen=True)
class Weak:
    """A slice of which too little is kept.

    Args:
        tag: such as ``domain``, or two with ``declared.AND`` between them; "" if it is all there is.
        value: such as ``travel``; of two tags likewise.
        gap: what is missing of what was asked for, as a share of the teacher's skill there; shrunken.
        priority: share of all of the teacher's skill that would be recovered by closing it, times how critical it is.
    """

    tag: str
    value: str
    gap: float
    priority: float

    @property
    def name(self) -> str:
        """In words."""
        return name_of(self.tag, self.value)

    def holds(self, tags: Mapping[str, str]) -> bool:
        """Whether a text is in it."""
        return inside(tags, self.tag, self.value)


def worked_on(rounds: Iterable[Mapping[str, Any]]) -> list[Weak]:
    """The slices that rounds worked on, each once, as ``refinement.json`` has them."""
    listed = [Weak(w["tag"], w["value"], w["gap"], w["priority"]) for each in rounds for w in each["weak"]]
    return list({(weak.tag, weak.value): weak for weak in listed}.values())


@dataclass(frozen=True)
class Draft:
    """What a round changes in the recipe, and what earlier ones did that was kept.

    Args:
        slices: tag and value of each slice that has rows of its own, the first first.
        weights: slice → what its positions count in the loss; 1 of the rest.
        factors: slice → how many times its share of the text it has.
        added: further sources, as a recipe has them.
        objective: keys of the section that differ.
        sampler: that chooses among the text, if any.
    """

    slices: tuple[tuple[str, str], ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    factors: Mapping[str, float] = field(default_factory=dict)
    added: tuple[Mapping[str, Any], ...] = ()
    objective: Mapping[str, Any] = field(default_factory=dict)
    sampler: tuple[Mapping[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    @staticmethod
    def of(values: Mapping[str, Any]) -> Draft:
        """From what ``to_dict`` gave."""
        return Draft(
            tuple((tag, value) for tag, value in values["slices"]),
            values["weights"],
            values["factors"],
            tuple(values["added"]),
            values["objective"],
            tuple(values["sampler"]),
        )

    def with_slices(self, weak: Sequence[Weak]) -> Draft:
        """The same with rows of their own for some more slices."""
        new = [(one.tag, one.value) for one in weak if one.tag and (one.tag, one.value) not in self.slices]
        return replace(self, slices=(*self.slices, *new))


@dataclass(frozen=True)
class Case:
    """What an action is given beside the draft.

    Args:
        settings: the recipe that is refined.
        weak: the slices to work on, the one from which most can be recovered first.
        failed: names of the gates that failed or are open.
        lost: texts of these slices that the teacher has right and the student does not; of those that are looked at.
        learned: rows of the sources that are learned from.
        pool: rows of ``refine.pool``.
        writes: whether the teacher can write text.
        folder: where an action puts files.
        number: of the round.
    """

    settings: recipe.Recipe
    weak: tuple[Weak, ...]
    failed: frozenset[str]
    lost: tuple[str, ...]
    learned: Sequence[Row]
    pool: Sequence[Row]
    writes: bool
    folder: Path
    number: int


def write_rows(path: Path, records: Iterable[Mapping[str, Any]]) -> str:
    """Put records into a file of JSON lines.

    Raises:
        RunError: a record holds what JSON has no word for.
    """
    try:
        text = "".join(json.dumps(dict(record), ensure_ascii=False) + "\n" for record in records)
    except TypeError as error:
        what = f"a record of the sources cannot be written as JSON ({error})"
        raise fail(RunError, str(path), what, "Take sources whose records hold text and numbers.") from None
    write_text(path, text.encode("utf-8", "replace").decode("utf-8"))
    return str(path)


def recipe_of(
    draft: Draft, settings: recipe.Recipe, learned: Sequence[Row], folder: Path, rows: Path
) -> dict[str, Any]:
    """The recipe of a round, but for whom it starts from: the recipe's own with all that the draft changes.

    Args:
        draft: what differs.
        settings: the recipe that is refined.
        learned: rows of its sources.
        folder: of the round.
        rows: folder for the files of the slices.
    """
    content = settings.to_dict()
    refine = settings.refine or recipe.Refine()
    content["trainer"] |= refine.trainer
    content["objective"] |= draft.objective
    if draft.sampler:
        content["data"]["sampler"] = [dict(each) for each in draft.sampler]
    content |= {"run": str(folder), "stages": [], "export": {}, "deploy": {}, "refine": None}
    sources, characters = _sources(draft, settings, learned, rows)
    content["data"]["sources"] = sources
    named = {source["task"] for source in sources}
    if named != {""}:
        _name_tasks(content["data"], draft, settings, sources, characters)
    return content


def _sources(
    draft: Draft, settings: recipe.Recipe, learned: Sequence[Row], folder: Path
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The sources, those with rows in slices as files, and the characters of each task."""
    own = settings.to_dict()["data"]["sources"]
    read = {row.source for row in learned}
    parts: dict[tuple[int, str], list[Row]] = defaultdict(list)
    for row in learned:
        name = next((_task_name(own[row.source]["task"], *one) for one in draft.slices if inside(row.tags, *one)), own[row.source]["task"])  # fmt: skip
        parts[row.source, name].append(row)
    sources: list[dict[str, Any]] = []
    characters: dict[str, int] = defaultdict(int)
    for number, source in enumerate(own):
        if number not in read or not draft.slices:
            sources.append(dict(source))  # what a teacher writes has no columns, and stays
            characters[source["task"]] += sum(len(row.rendered.content) for row in learned if row.source == number)
            continue
        for place, ((of, name), rows) in enumerate(parts.items()):
            if of == number:
                path = write_rows(folder / f"{number}-{place}.jsonl", (row.record for row in rows))
                sources.append({"name": "jsonl", "path": path, "format": source["format"], "task": name})
                characters[name] += sum(len(row.rendered.content) for row in rows)
    for source in draft.added:
        added = {key: value for key, value in source.items() if key not in NOTES}
        sources.append({**added, "task": source.get("task", "")})
        characters[source.get("task", "")] += int(source.get("characters", 0))
    return sources, characters


def _task_name(task: str, tag: str, value: str) -> str:
    """What rows of a slice are called as a task."""
    name = name_of(tag, value)
    if tag == "task":
        return value
    return f"{task}: {name}" if task else name


def _name_tasks(
    section: dict[str, Any],
    draft: Draft,
    settings: recipe.Recipe,
    sources: list[dict[str, Any]],
    characters: Mapping[str, int],
) -> None:
    """Give every source a task, and the tasks their weights and shares."""
    for source in sources:
        source["task"] = source["task"] or REST
    learned = {source["task"] for source in sources}
    for group in ("validation_sources", "test_sources"):
        for source in section[group]:
            source["task"] = (
                source["task"] if source["task"] in learned else (REST if REST in learned else min(learned))
            )
    size = {name: max(1, characters.get("" if name == REST else name, 0)) for name in learned}
    before = settings.to_dict()["data"]["tasks"]
    tasks: dict[str, Any] = {}
    for name in sorted(learned):
        base = dict(before.get(name.partition(": ")[0], before.get(name, recipe.Task().model_dump(mode="json"))))
        tasks[name] = base | {"weight": base["weight"] * _of_slice(draft.weights, name)}
    mean = sum(size[name] * task["weight"] for name, task in tasks.items()) / sum(size.values())
    if draft.weights:
        for task in tasks.values():
            task["weight"] = round(task["weight"] / mean, 6)
    section["tasks"] = tasks
    if draft.factors:
        shares = {name: round(size[name] * _of_slice(draft.factors, name), 3) for name in sorted(learned)}
        section["mixture"] = {"name": "fixed", "shares": shares}


def _of_slice(values: Mapping[str, float], name: str) -> float:
    """What a task has of its slice."""
    return values.get(name, values.get(name.partition(": ")[2], 1.0))
