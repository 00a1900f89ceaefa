"""Ask every role every task and write down what it answered. What was asked of the same weights before is not asked again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from stillhouse.errors import ModelError, fail
from stillhouse.evaluate import answers
from stillhouse.evaluate.answers import NORMALISATIONS, Answered
from stillhouse.evaluate.asking import ask
from stillhouse.evaluate.questions import Normalisation, Question, Reply, Task
from stillhouse.files import cache_folder, read_json, write_json
from stillhouse.models import Model
from stillhouse.progress import bar

SCORING = 1
"""Version of how questions are asked; another one asks again."""

SHARD = 256
"""Questions that an interruption can cost."""


def examine(
    folder: Path,
    tasks: Mapping[str, Task],
    loaders: Mapping[str, Callable[[], Model]],
    end: Callable[[Any], int],
    console: Console | None = None,
) -> None:
    """Fill ``evaluation/answers.parquet``.

    The teacher comes first: it chooses by which normalisation each task's options are compared, on questions that are not
    scored; the choice is kept in ``evaluation/normalisations.json`` and holds for all roles, also when they are asked again.

    Args:
        folder: the run's.
        tasks: by name.
        loaders: role → what loads its model; classifiers of texts are left out.
        end: a tokenizer → the id of the token that separates documents: it stands before a text without context.
        console: where to show progress.
    """
    path = folder / "evaluation" / "answers.parquet"
    frozen = folder / "evaluation" / "normalisations.json"
    order = sorted(loaders, key=lambda role: role != "teacher")
    total = len(order) * sum(len(task.questions) for task in tasks.values())
    with bar(console, "Asking questions", total, "questions") as tick:
        for role in order:
            model = loaders[role]()
            if model.classifies or model.bare:
                tick(sum(len(task.questions) for task in tasks.values()))
                continue
            asker = Asker(model, end(model.tokenizer))
            for name, task in tasks.items():
                chosen = _normalisation(frozen, name, task, asker if role == "teacher" else None)
                free = chosen == "pmi" or (role == "teacher" and any(question.free for question in task.questions))
                replies = asker(task.questions, free=free, tick=tick)
                answers.append(path, answers.table(role, name, task, chosen, replies))
                if role == "teacher" and all(question.kind == "write" for question in task.questions):
                    answers.append(path, answers.table("floor", name, task, chosen, [*replies[1:], replies[0]]))


class Asker:
    """A model that is asked questions, a shard at a time; answered shards lie in the cache.

    Args:
        model: a causal language model.
        prefix: the token that stands before a text without context.
    """

    def __init__(self, model: Model, prefix: int) -> None:
        self.model = model
        self.prefix = prefix
        own = model.tokenizer.eos_token_id
        self.ends = [prefix] if own in (None, prefix) else [prefix, own]
        self.weights = fingerprint(model)

    def __call__(
        self, questions: Sequence[Question], *, free: bool, tick: Callable[[int], None] = lambda _: None
    ) -> list[Reply]:
        """Its replies; see ``asking.ask``."""
        found: list[Reply] = []
        for first in range(0, len(questions), SHARD):
            shard = questions[first : first + SHARD]
            path = cache_folder() / "answers" / f"{self._key(shard, free)}.json"
            kept = read_json(path, None)
            told = 0

            def advance(count: int) -> None:
                nonlocal told
                told += count
                tick(count)

            if kept is None:
                replies = ask(self.model, shard, self.prefix, self.ends, free=free, tick=advance)
                self._check(replies)
                write_json(path, [asdict(reply) for reply in replies])
            else:
                replies = [_reply(each) for each in kept]
            found += replies
            tick(len(shard) - told)
        return found

    def _check(self, replies: Sequence[Reply]) -> None:
        if not all(np.isfinite((*reply.ll, *(reply.free or ()))).all() for reply in replies):
            what = "gives probabilities that are no numbers"
            way_out = "The model's weights or arithmetic are broken: evaluate it in float32, look at its training loss."
            raise fail(ModelError, self.model.name, what, way_out)

    def _key(self, questions: Sequence[Question], free: bool) -> str:
        said = [SCORING, self.weights, self.prefix, self.ends, free, *(question.fingerprint for question in questions)]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]


def fingerprint(model: Model) -> str:
    """A hash of a model's weights, configuration and tokenizer."""
    digest = hashlib.sha256(model.config.to_json_string().encode())
    digest.update(model.tokenizer.backend_tokenizer.to_str().encode())
    for name, weight in model.network.state_dict().items():
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(weight.detach().cpu().contiguous().view(-1).numpy().data if weight.numel() else b"")
    return digest.hexdigest()[:32]


def _reply(kept: Mapping[str, Any]) -> Reply:
    """A reply as JSON has it."""
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in kept.items()}
    return Reply(**values)


def _normalisation(path: Path, name: str, task: Task, teacher: Asker | None) -> Normalisation:
    """The task's own, or the one that was chosen before, or the one with which the teacher is right most often on dev."""
    if task.normalisation is not None:
        return task.normalisation
    kept = read_json(path, {})
    if name in kept:
        chosen: Normalisation = kept[name]["chosen"]
        return chosen
    if teacher is None or not task.dev or any(question.kind != "choice" for question in task.dev):
        return "raw"
    free = all(question.free for question in task.dev)
    replies = teacher(task.dev, free=free)
    asked = answers.together(answers.table("teacher", name, replace(task, questions=task.dev), "raw", replies))
    shares = {each: _share(asked, each) for each in NORMALISATIONS if free or each != "pmi"}
    chosen = max(shares, key=lambda each: shares[each])
    write_json(path, kept | {name: {"chosen": chosen, "questions": len(task.dev), "right": shares}})
    return chosen


def _share(asked: Answered, normalisation: Normalisation) -> float:
    return round(float(np.mean(asked.score("teacher", normalisation))), 4)
