"""The item table, from which every number of an evaluation follows, and what a measure answers with.

The table has one row per role and item. An item is a position that carries loss (a next token, or a whole example of a
classifier); all roles answer the same items in the same order, so every comparison is paired. No model is loaded here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stillhouse.errors import ModelError, RunError, fail
from stillhouse.files import write_bytes

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE", "UNINFORMATIVE", "NOT MEASURED", "DESCRIPTIVE"]
"""Three values of a test, and three honest states: the teacher itself is at the floor; nothing to judge from; no rule."""

ROLES = ("teacher", "rounded", "before", "student", "control", "direct", "floor")
"""Teacher; the teacher with its weights rounded to bfloat16; student before training; student; the same trained without the teacher; the same trained by the teacher without
stages in between; unigram model of the labels."""

SCHEMA = 2
"""Version of the table's columns and their meaning."""

_COLUMNS = pa.schema(
    [
        ("role", pa.dictionary(pa.int32(), pa.string())),
        ("document", pa.int64()),
        ("key", pa.dictionary(pa.int32(), pa.string())),
        ("position", pa.int64()),
        ("label", pa.int64()),
        ("bytes", pa.int64()),
        ("nll", pa.float64()),
        ("kl", pa.float64()),
        ("agree", pa.int8()),
        ("accept", pa.float64()),
        ("conf", pa.float64()),
        ("correct", pa.int8()),
        ("said", pa.int64()),
    ],
    metadata={"stillhouse.items": str(SCHEMA)},
)
_WAY_OUT = "Delete the file and evaluate again."


@dataclass(frozen=True)
class Scores:
    """What one role scored on the N items. A column is there for all items or (None) for none.

    Args:
        nll: −log probability of the label, nats.
        kl: KL(teacher ‖ role), nats.
        agree: 1 where the role's argmax is the teacher's, else 0.
        accept: Σ min(p, q) of teacher and role: the chance that the teacher accepts a token drawn from the role.
        conf: probability of the role's own argmax.
        correct: 1 where the argmax is the label, else 0.
        said: index of the role's argmax.
    """

    nll: FloatArray
    kl: FloatArray | None = None
    agree: FloatArray | None = None
    accept: FloatArray | None = None
    conf: FloatArray | None = None
    correct: FloatArray | None = None
    said: FloatArray | None = None

    def columns(self) -> dict[str, FloatArray]:
        """The columns that are there, by name."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}

    def column(self, name: str) -> FloatArray:
        """A column that must be there."""
        value: FloatArray | None = getattr(self, name)
        assert value is not None, f"no column {name}"
        return value


@dataclass(frozen=True)
class Items:
    """The item table in memory: what identifies the N items, and the scores of each role, aligned with them.

    Args:
        document: which document each item is of: the cluster of all intervals. Of a classifier: the example's cluster.
        key: content key of the document.
        position: the item's place in its document.
        label: index of the true outcome.
        bytes: UTF-8 bytes of the label; None where bytes mean nothing (a classifier).
        roles: role → its scores.
        partly: whether the teacher named only its likeliest outcomes, all others counting as one: kl is then a lower bound of
            the true one, and accept an upper one.

    Raises:
        ModelError: a role's scores are not finite.
    """

    document: IntArray
    key: NDArray[np.object_]
    position: IntArray
    label: IntArray
    bytes: IntArray | None
    roles: Mapping[str, Scores]
    partly: bool = False

    def __post_init__(self) -> None:
        n = len(self.document)
        for name in ("key", "position", "label", "bytes"):
            column = getattr(self, name)
            assert column is None or column.shape == (n,), f"{name} has another length than document"
        assert self.bytes is None or n == 0 or self.bytes.min() >= 0, "a label has a negative number of bytes"
        for role, scores in self.roles.items():
            assert role in ROLES, f"unknown role {role}"
            for name, column in scores.columns().items():
                assert column.shape == (n,), f"{role}.{name} has another length than document"
                bad = np.flatnonzero(~np.isfinite(column))
                if len(bad):
                    raise fail(
                        ModelError,
                        role,
                        f"{name} is {column[bad[0]]} at {len(bad):,} of {n:,} items, first in document "
                        f"{self.document[bad[0]]}, position {self.position[bad[0]]}",
                        "The model's weights or arithmetic are broken: evaluate it in float32, look at its training loss.",
                    )
                if name in ("accept", "conf", "agree", "correct"):
                    assert n == 0 or (column.min() >= -1e-6 and column.max() <= 1 + 1e-4), (
                        f"{role}.{name} leaves [0, 1]"
                    )

    @property
    def size(self) -> int:
        """How many items there are."""
        return len(self.document)

    @property
    def documents(self) -> int:
        """How many documents (clusters) they are of."""
        return len(np.unique(self.document))

    def has(self, role: str, *columns: str) -> bool:
        """Whether a role was scored, with all of these columns."""
        scores = self.roles.get(role)
        return scores is not None and all(getattr(scores, name) is not None for name in columns)

    def loss(self, role: str) -> tuple[FloatArray, FloatArray, str]:
        """A role's loss per item, what each item counts, and the unit of their ratio of sums.

        Bits and bytes where labels have bytes (comparable across tokenizers), else nats and ones.
        """
        nll = self.roles[role].nll
        if self.bytes is None or not self.bytes.any():
            return nll, np.ones(self.size), "nats per item"
        return nll / math.log(2), self.bytes.astype(np.float64), "bits per byte"

    def taken(self, rows: NDArray[np.bool_] | IntArray) -> Items:
        """The same table with some of its items, or in another order."""
        roles = {
            role: Scores(**{name: column[rows] for name, column in scores.columns().items()})
            for role, scores in self.roles.items()
        }
        length = None if self.bytes is None else self.bytes[rows]
        return replace(
            self, document=self.document[rows], key=self.key[rows], position=self.position[rows], label=self.label[rows],
            bytes=length, roles=roles,
        )  # fmt: skip

    def with_role(self, role: str, scores: Scores) -> Items:
        """The same items with one more role; one of that name is replaced."""
        return replace(self, roles={**self.roles, role: scores})


def nothing() -> Items:
    """The table of an evaluation in which no text was read."""
    none = np.zeros(0, dtype=np.int64)
    return Items(none, np.zeros(0, dtype=np.object_), none, none, none, {})


def write(path: Path, items: Items) -> None:
    """Write the whole table as Parquet, or leave the old file as it was."""
    tables = [_table(items, role) for role in ROLES if role in items.roles]
    sink = pa.BufferOutputStream()
    whole = pa.concat_tables(tables).combine_chunks() if tables else _COLUMNS.empty_table()
    metadata = _COLUMNS.metadata | ({"stillhouse.partly": "1"} if items.partly else {})
    pq.write_table(whole.replace_schema_metadata(metadata), sink, compression="zstd")
    write_bytes(path, sink.getvalue().to_pybytes())


def append(path: Path, items: Items) -> Items:
    """Add the roles of ``items`` to the table on disk (made if there is none) and return the whole of it.

    A role that is there already is replaced.

    Raises:
        RunError: the table on disk is of other items, or cannot be read.
    """
    if path.exists():
        old = read(path)
        _check_aligned(path, old, items, "/".join(items.roles))
        items = replace(old, roles={**old.roles, **items.roles})
    write(path, items)
    return items


def read(path: Path) -> Items:
    """Read the table.

    Raises:
        RunError: there is none, it is damaged or of another schema, or its roles do not answer the same items.
    """
    where = str(path)
    if not path.exists():
        raise fail(RunError, where, "there is no item table", "Evaluate the run first.")
    try:
        # one file, never a folder of them: the folder's name must not become a column
        table = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        raise fail(RunError, where, f"is not a readable Parquet file: {error}", _WAY_OUT) from None
    version = (table.schema.metadata or {}).get(b"stillhouse.items", b"").decode("utf-8", "replace")
    if version != str(SCHEMA):
        came = f"an item table of schema {version}" if version else "not an item table of Stillhouse"
        raise fail(RunError, where, f"is {came}; this version reads schema {SCHEMA}", _WAY_OUT)
    if not table.schema.equals(_COLUMNS):
        missing = [name for name in _COLUMNS.names if name not in table.schema.names]
        detail = f"columns missing: {', '.join(missing)}" if missing else "columns or their types differ"
        raise fail(RunError, where, f"does not have the columns of schema {SCHEMA}: {detail}", _WAY_OUT)

    role_of_row = np.asarray(table["role"].to_numpy(zero_copy_only=False))
    whole: Items | None = None
    for role in ROLES:
        rows = np.flatnonzero(role_of_row == role)
        if len(rows) == 0:
            continue
        part = _items(where, table.take(pa.array(rows)), role)
        if whole is None:
            whole = part
        else:
            _check_aligned(path, whole, part, role)
            whole = whole.with_role(role, part.roles[role])
    unknown = sorted(set(role_of_row.tolist()) - set(ROLES), key=str)
    if unknown or whole is None:
        what = f"has an unknown role '{unknown[0]}'" if unknown else "is empty"
        raise fail(RunError, where, what, _WAY_OUT)
    return replace(whole, partly=table.schema.metadata.get(b"stillhouse.partly") == b"1")


def _table(items: Items, role: str) -> pa.Table:
    n = items.size
    scores = items.roles[role]
    columns: dict[str, Any] = {
        "role": pa.array([role] * n, pa.string()).dictionary_encode(),
        "document": items.document,
        "key": pa.array(items.key.tolist(), pa.string()).dictionary_encode(),
        "position": items.position,
        "label": items.label,
        "bytes": items.bytes,
    }
    columns |= {f.name: getattr(scores, f.name) for f in fields(scores)}
    arrays = []
    for name, type_ in zip(_COLUMNS.names, _COLUMNS.types, strict=True):
        value = columns[name]
        if value is None:
            arrays.append(pa.nulls(n, type_))
        elif isinstance(value, np.ndarray):
            arrays.append(pa.array(value.round() if pa.types.is_int8(type_) else value).cast(type_))
        else:
            arrays.append(value)
    return pa.Table.from_arrays(arrays, schema=_COLUMNS)


def _items(where: str, table: pa.Table, role: str) -> Items:
    def column(name: str) -> FloatArray | None:
        nulls = table[name].null_count
        if nulls == len(table):
            return None
        if nulls:
            raise fail(RunError, where, f"{role}.{name} is empty for {nulls:,} of {len(table):,} items", _WAY_OUT)
        return np.asarray(table[name].to_numpy(), dtype=np.float64)

    def whole(name: str) -> IntArray:
        if table[name].null_count:
            raise fail(RunError, where, f"{role}.{name} has empty cells", _WAY_OUT)
        return np.asarray(table[name].to_numpy(), dtype=np.int64)

    scores = {f.name: column(f.name) for f in fields(Scores)}
    nll = scores.pop("nll")
    if nll is None:
        raise fail(RunError, where, f"{role} has no nll", _WAY_OUT)
    return Items(
        document=whole("document"),
        key=np.array(table["key"].to_pylist(), dtype=np.object_),
        position=whole("position"),
        label=whole("label"),
        bytes=None if table["bytes"].null_count == len(table) else whole("bytes"),
        roles={role: Scores(nll, **scores)},
    )


def _check_aligned(path: Path, one: Items, other: Items, role: str) -> None:
    """All roles answer the same items in the same order, else nothing is paired."""
    reason = ""
    if one.size != other.size:
        reason = f"{other.size:,} items instead of {one.size:,}"
    elif (one.bytes is None) != (other.bytes is None):
        reason = "bytes given for one and not for the other"
    else:
        for name in ("document", "position", "label", "bytes", "key"):
            first, second = getattr(one, name), getattr(other, name)
            if first is None:
                continue
            rows = np.flatnonzero(first != second)
            if len(rows):
                reason = f"{name} is {second[rows[0]]} instead of {first[rows[0]]} at item {rows[0]:,}"
                break
    if reason:
        raise fail(
            RunError,
            str(path),
            f"{role} did not answer the same items in the same order as {'/'.join(one.roles)}: {reason}",
            "Score all roles on the same held-out text with the same tokenizer; delete the file to start afresh.",
        )


@dataclass(frozen=True)
class Estimate:
    """One number with its 95 % interval. An infinite bound is unbounded, and None in JSON.

    Args:
        label: what it is.
        role: whose it is; of a comparison, who is judged.
        value: the number, in ``unit`` (a share of 0.93 in ``%`` is 93).
        low: lower bound; None if there is no interval.
        high: upper bound; None if there is no interval.
        unit: such as ``%``, ``pp``, ``nats``, ``bits per byte``, ``×``.
        n: how many items it is from.
    """

    label: str
    role: str
    value: float | None
    low: float | None
    high: float | None
    unit: str
    n: int


@dataclass(frozen=True)
class Point:
    """One point of a chart. ``low`` and ``high`` belong to ``y``; ``x`` is a row's label where the chart has rows."""

    x: float | str
    y: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None


@dataclass(frozen=True)
class Series:
    """Points of one name; ``role`` gives the colour."""

    name: str
    points: tuple[Point, ...]
    role: str | None = None


@dataclass(frozen=True)
class Mark:
    """A line across a chart at a value of y."""

    value: float
    label: str


@dataclass(frozen=True)
class Chart:
    """What to draw. In ``forest``, ``ladder`` and ``bars`` the points' x is a label, in the others a number.

    In ``reliability``, x is the mean confidence of a bin and y its accuracy, both from 0 to 1; a series without role, named
    "chance alone" and without y, is the band in which the accuracy of a perfectly calibrated model would lie.
    """

    kind: Literal["forest", "ladder", "reliability", "line", "bars"]
    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    marks: tuple[Mark, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        plain: dict[str, Any] = _plain(self)
        return plain


@dataclass(frozen=True)
class Finding:
    """A measure's answer to its question.

    Args:
        name: the measure's name.
        question: what was asked.
        verdict: what is known of the answer.
        sentence: the answer in one plain sentence, with number and interval.
        reason: why this verdict and not another; what would change it.
        estimates: the numbers.
        charts: what to draw.
        limits: what these numbers do not say.
    """

    name: str
    question: str
    verdict: Verdict
    sentence: str
    reason: str = ""
    estimates: tuple[Estimate, ...] = ()
    charts: tuple[Chart, ...] = ()
    limits: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """As JSON values: no NaN, no infinity."""
        plain: dict[str, Any] = _plain(self)
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Series | Point):  # optional entries are left out, the others are null
        return {
            f.name: _plain(getattr(value, f.name))
            for f in fields(value)
            if getattr(value, f.name) is not None or f.name in ("x", "y", "name", "points")
        }
    if hasattr(value, "__dataclass_fields__"):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
