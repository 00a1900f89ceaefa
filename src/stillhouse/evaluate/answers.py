"""The table of answers: one row per role, task and question. The second half of the item table; no model is loaded here.

``records.Items`` has a row per position of held-out text, this one a row per question, with what every option cost. What was
right, how sure the model was and by how much follows from these columns, for every normalisation, without a model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stillhouse.errors import RunError, fail
from stillhouse.evaluate.questions import Kind, Normalisation, Question, Reply, Task
from stillhouse.evaluate.records import ROLES, FloatArray, IntArray
from stillhouse.files import write_bytes

SCHEMA = 2
"""Version of the table's columns and their meaning."""

NORMALISATIONS: tuple[Normalisation, ...] = ("raw", "character", "token", "pmi")
"""In the order in which equals are preferred."""

_COLUMNS = pa.schema(
    [
        ("role", pa.dictionary(pa.int32(), pa.string())),
        ("task", pa.dictionary(pa.int32(), pa.string())),
        ("question", pa.string()),
        ("prompt", pa.string()),
        ("contexts", pa.list_(pa.string())),
        ("options", pa.list_(pa.string())),
        ("kind", pa.dictionary(pa.int32(), pa.string())),
        ("capability", pa.dictionary(pa.int32(), pa.string())),
        ("skill", pa.bool_()),
        ("outside", pa.dictionary(pa.int32(), pa.string())),
        ("normalisation", pa.dictionary(pa.int32(), pa.string())),
        ("cluster", pa.string()),
        ("tags", pa.string()),
        ("gold", pa.int64()),
        ("floor", pa.float64()),
        ("characters", pa.list_(pa.int64())),
        ("bytes", pa.list_(pa.int64())),
        ("ll", pa.list_(pa.float64())),
        ("tokens", pa.list_(pa.int64())),
        ("greedy", pa.list_(pa.bool_())),
        ("free", pa.list_(pa.float64())),
        ("text", pa.string()),
        ("stop", pa.dictionary(pa.int32(), pa.string())),
        ("score", pa.float64()),
        ("truncated", pa.bool_()),
    ],
    metadata={"stillhouse.answers": str(SCHEMA)},
)
_WAY_OUT = "Delete the file and evaluate again."


@dataclass(frozen=True)
class Replies:
    """What one role answered to the N questions of a task.

    Args:
        ll_NK: log-likelihood of each option, nats; NaN where a question has fewer.
        tokens_NK: tokens of each option.
        free_NK: log-likelihood of each option on its own; None if it was not asked for.
        greedy_NK: 1 where all tokens of the option were the likeliest.
        text: what was written; "" where nothing is.
        stop: what ended it.
        score_N: of what was written, from 0 to 1; NaN where it could not be read as an answer.
        truncated_N: whether the context's beginning was cut off.
    """

    ll_NK: FloatArray
    tokens_NK: FloatArray
    free_NK: FloatArray | None
    greedy_NK: FloatArray
    text: tuple[str, ...]
    stop: tuple[str, ...]
    score_N: FloatArray
    truncated_N: FloatArray


@dataclass(frozen=True)
class Answered:
    """One task: its N questions and what each role answered to them.

    Args:
        task: its name.
        kind: how it is asked.
        capability: what it is about.
        skill: whether being right is a skill.
        outside: the task of which this is the same skill on other data.
        normalisation: by which options are compared.
        question: which question each row is.
        prompt: a hash of all that a model was given.
        cluster: what the questions depend on each other by, numbered.
        gold: index of the right option.
        floor_N: what is scored without any skill: chance.
        characters_NK: of each option; NaN where a question has fewer.
        bytes_NK: likewise.
        tags: what questions are sliced by: tag → its value for each question ("" where it has none).
        roles: role → its replies.
        contexts: of each question what stands before its options, one text for all of them or one each; empty where the words
            are not kept: of texts, and of some logs of other programs.
        options: of each question its options; likewise.
    """

    task: str
    kind: Kind
    capability: str
    skill: bool
    outside: str
    normalisation: Normalisation
    question: NDArray[np.object_]
    prompt: NDArray[np.object_]
    cluster: IntArray
    gold: IntArray
    floor_N: FloatArray
    characters_NK: FloatArray
    bytes_NK: FloatArray
    tags: Mapping[str, NDArray[np.object_]]
    roles: Mapping[str, Replies]
    contexts: tuple[tuple[str, ...], ...] = ()
    options: tuple[tuple[str, ...], ...] = ()

    @property
    def size(self) -> int:
        """N."""
        return len(self.question)

    def values(self, role: str, normalisation: Normalisation | None = None) -> FloatArray:
        """What options are compared by, [N, K]: log-likelihood, per character or token, or above the option's own."""
        replies = self.roles[role]
        match normalisation or self.normalisation:
            case "raw":
                return replies.ll_NK
            case "character":
                return np.asarray(replies.ll_NK / self.characters_NK)
            case "token":
                return np.asarray(replies.ll_NK / replies.tokens_NK)
            case "pmi":
                assert replies.free_NK is not None, f"{self.task}: the options' own likelihoods were not asked for"
                return np.asarray(replies.ll_NK - replies.free_NK)

    def chosen(self, role: str, normalisation: Normalisation | None = None) -> IntArray:
        """Index of the option that each question is answered with."""
        return np.asarray(np.nanargmax(self.values(role, normalisation), axis=1), dtype=np.int64)

    def score(self, role: str, normalisation: Normalisation | None = None) -> FloatArray:
        """What each answer scores, from 0 to 1, [N]; what cannot be read scores 0. Of a text, bits per byte."""
        replies = self.roles[role]
        match self.kind:
            case "choice":
                return np.asarray(self.chosen(role, normalisation) == self.gold, dtype=np.float64)
            case "word":
                return replies.greedy_NK[:, 0]
            case "write":
                return np.asarray(np.nan_to_num(replies.score_N, nan=0.0))
            case "text":
                return np.asarray(-replies.ll_NK[:, 0] / math.log(2) / self.bytes_NK[:, 0])

    def shares(self, role: str, temperature: float = 1.0) -> FloatArray:
        """Softmax over the options of what they are compared by, [N, K]; 0 where a question has fewer."""
        scaled = self.values(role) / temperature
        power = np.exp(scaled - np.nanmax(scaled, axis=1, keepdims=True))
        return np.asarray(np.nan_to_num(power) / np.nansum(power, axis=1, keepdims=True))

    def taken(self, rows: NDArray[np.bool_] | IntArray) -> Answered:
        """The same task with some of its questions."""
        index = np.arange(self.size)[rows].tolist()

        def replies(of: Replies) -> Replies:
            return Replies(
                of.ll_NK[rows], of.tokens_NK[rows], None if of.free_NK is None else of.free_NK[rows], of.greedy_NK[rows],
                tuple(of.text[i] for i in index), tuple(of.stop[i] for i in index), of.score_N[rows], of.truncated_N[rows],
            )  # fmt: skip

        return replace(
            self, question=self.question[rows], prompt=self.prompt[rows], cluster=self.cluster[rows], gold=self.gold[rows],
            floor_N=self.floor_N[rows], characters_NK=self.characters_NK[rows], bytes_NK=self.bytes_NK[rows],
            tags={tag: value[rows] for tag, value in self.tags.items()},
            roles={role: replies(of) for role, of in self.roles.items()},
            contexts=tuple(self.contexts[i] for i in index) if self.contexts else (),
            options=tuple(self.options[i] for i in index) if self.options else (),
        )  # fmt: skip


@dataclass(frozen=True)
class Answers:
    """All tasks that were asked, in the order in which they were."""

    tasks: tuple[Answered, ...]

    def having(self, *roles: str, skill: bool = True) -> tuple[Answered, ...]:
        """The tasks that all of these roles answered, those about a skill or those about none."""
        return tuple(t for t in self.tasks if t.skill == skill and all(role in t.roles for role in roles))

    def named(self, name: str) -> Answered | None:
        """A task by its name."""
        return next((t for t in self.tasks if t.task == name), None)


def table(role: str, name: str, task: Task, normalisation: Normalisation, replies: Sequence[Reply]) -> pa.Table:
    """The rows of one role and task."""
    judged = [_judged(q, r) for q, r in zip(task.questions, replies, strict=True)]
    rows = [
        _row(role, name, task, normalisation, q, r, s) for q, r, s in zip(task.questions, replies, judged, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=_COLUMNS)


def _judged(question: Question, reply: Reply) -> float | None:
    if question.check is None or reply.text is None:
        return None
    return question.check(reply.text)


def _row(
    role: str, name: str, task: Task, normalisation: Normalisation, question: Question, reply: Reply, score: float | None
) -> dict[str, Any]:  # fmt: skip
    # the space before an option is not part of what it says
    shown = [option.lstrip() or option for option in question.options]
    return {
        "role": role,
        "task": name,
        "question": question.id,
        "prompt": question.fingerprint,
        "contexts": [_sound(context) for context in question.contexts] if question.kind != "text" else None,
        "options": [_sound(option) for option in question.options] if question.kind != "text" else None,
        "kind": question.kind,
        "capability": task.capability,
        "skill": task.skill,
        "outside": task.outside,
        "normalisation": normalisation,
        "cluster": question.cluster or question.id,
        "tags": json.dumps(dict(question.tags), sort_keys=True, ensure_ascii=False),
        "gold": question.gold,
        "floor": question.chance,
        "characters": [len(option) for option in shown],
        "bytes": [len(option.encode("utf-8", "surrogatepass")) for option in question.options],
        "ll": reply.ll,
        "tokens": reply.tokens,
        "greedy": reply.greedy,
        "free": reply.free,
        "text": None if reply.text is None else _sound(reply.text),
        "stop": reply.stop,
        "score": score,
        "truncated": reply.truncated,
    }


def _sound(text: str) -> str:
    """A text that a file can hold: half a surrogate pair is none."""
    return text.encode("utf-8", "replace").decode("utf-8")


def append(path: Path, rows: pa.Table) -> None:
    """Add one role's answers to one task to the file (made if there is none); those that were there are replaced."""
    parts = [rows]
    if path.exists():
        old = _open(path)
        role, task = rows["role"][0].as_py(), rows["task"][0].as_py()
        keep = [
            not (r == role and t == task) for r, t in zip(old["role"].to_pylist(), old["task"].to_pylist(), strict=True)
        ]
        parts = [old.filter(pa.array(keep)), rows]
    sink = pa.BufferOutputStream()
    whole = pa.concat_tables(parts).unify_dictionaries().replace_schema_metadata(_COLUMNS.metadata)
    pq.write_table(whole, sink, compression="zstd")
    write_bytes(path, sink.getvalue().to_pybytes())


def read(path: Path) -> Answers:
    """Read the table.

    Raises:
        RunError: it is damaged or of another schema, or its roles did not answer the same questions.
    """
    return _all(path, _open(path))


def together(rows: pa.Table) -> Answered:
    """The rows of one task in memory."""
    return _all(Path("answers"), rows).tasks[0]


def _all(path: Path, rows: pa.Table) -> Answers:
    whole = rows.to_pydict()
    names = list(dict.fromkeys(whole["task"]))
    found = []
    for name in names:
        of_task = [i for i, task in enumerate(whole["task"]) if task == name]
        roles = [role for role in ROLES if any(whole["role"][i] == role for i in of_task)]
        parts = {role: [i for i in of_task if whole["role"][i] == role] for role in roles}
        found.append(_answered(path, name, whole, parts))
    return Answers(tuple(found))


def _open(path: Path) -> pa.Table:
    try:
        found = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        raise fail(RunError, str(path), f"is not a readable Parquet file: {error}", _WAY_OUT) from None
    version = (found.schema.metadata or {}).get(b"stillhouse.answers", b"").decode("utf-8", "replace")
    if version != str(SCHEMA) or found.schema.names != _COLUMNS.names:
        came = f"a table of answers of schema {version}" if version else "not a table of answers of Stillhouse"
        raise fail(RunError, str(path), f"is {came}; this version reads schema {SCHEMA}", _WAY_OUT)
    return found


def _answered(path: Path, name: str, whole: Mapping[str, list[Any]], parts: Mapping[str, list[int]]) -> Answered:
    """One task out of the columns."""
    first = next(iter(parts.values()), [])
    shared = ("question", "prompt", "gold", "normalisation")
    for role, rows in parts.items():
        different = [c for c in shared if [whole[c][i] for i in rows] != [whole[c][i] for i in first]]
        if different:
            what = f"{role} did not answer the same questions of '{name}' as {next(iter(parts))}: its {different[0]} differs"
            raise fail(RunError, str(path), what, _WAY_OUT)

    def column(key: str) -> list[Any]:
        return [whole[key][i] for i in first]

    tags = [json.loads(text) for text in column("tags")]
    keys = sorted({key for each in tags for key in each})
    clusters = np.unique(np.array(column("cluster"), dtype=str), return_inverse=True)[1]
    return Answered(
        task=name,
        kind=column("kind")[0],
        capability=column("capability")[0],
        skill=column("skill")[0],
        outside=column("outside")[0],
        normalisation=column("normalisation")[0],
        question=np.array(column("question"), dtype=np.object_),
        prompt=np.array(column("prompt"), dtype=np.object_),
        cluster=clusters.astype(np.int64),
        gold=np.array(column("gold"), dtype=np.int64),
        floor_N=np.array(column("floor"), dtype=np.float64),
        characters_NK=_matrix(column("characters")),
        bytes_NK=_matrix(column("bytes")),
        tags={key: np.array([each.get(key, "") for each in tags], dtype=np.object_) for key in keys},
        roles={role: _replies({key: [whole[key][i] for i in rows] for key in whole}) for role, rows in parts.items()},
        contexts=_words(column("contexts")),
        options=_words(column("options")),
    )


def _words(rows: Sequence[Sequence[str] | None]) -> tuple[tuple[str, ...], ...]:
    """Of each question its texts, or nothing where those of any are not there."""
    return () if any(row is None for row in rows) else tuple(tuple(row or ()) for row in rows)


def _replies(columns: Mapping[str, list[Any]]) -> Replies:
    free = columns["free"]
    return Replies(
        ll_NK=_matrix(columns["ll"]),
        tokens_NK=_matrix(columns["tokens"]),
        free_NK=None if any(row is None for row in free) else _matrix(free),
        greedy_NK=_matrix(columns["greedy"]),
        text=tuple(text or "" for text in columns["text"]),
        stop=tuple(columns["stop"]),
        score_N=np.array([math.nan if score is None else score for score in columns["score"]], dtype=np.float64),
        truncated_N=np.array(columns["truncated"], dtype=np.float64),
    )


def _matrix(rows: Sequence[Sequence[float]]) -> FloatArray:
    """Rows of unequal length as a matrix, NaN where a row has ended."""
    found = np.full((len(rows), max([1, *map(len, rows)])), np.nan)
    for place, row in enumerate(rows):
        found[place, : len(row)] = row
    return found
