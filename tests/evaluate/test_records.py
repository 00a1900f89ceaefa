"""The item table: what is written is read; what is not the same items, schema or a number is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stillhouse.errors import ModelError, RunError
from stillhouse.evaluate import records
from stillhouse.evaluate.records import Chart, Estimate, Finding, Items, Mark, Point, Scores, Series


def small() -> Items:
    scores = Scores(
        nll=np.array([0.5, 1.25, 3.0]),
        kl=np.array([0.0, 0.1, 0.2]),
        agree=np.array([1.0, 0.0, 1.0]),
        accept=np.array([1.0, 0.5, 0.75]),
        conf=np.array([0.6, 0.3, 0.2]),
        correct=np.array([1.0, 0.0, 0.0]),
    )
    return Items(
        document=np.array([4, 4, 9]),
        key=np.array(["a", "a", "b"], dtype=object),
        position=np.array([0, 1, 0]),
        label=np.array([7, 8, 7]),
        bytes=np.array([2, 0, 3]),
        roles={"teacher": scores},
    )


def floor(items: Items) -> Items:
    return replace(items, roles={"floor": Scores(nll=np.array([2.0, 2.5, 3.5]))})


def test_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "evaluation" / "items.parquet"
    records.append(path, small())
    returned = records.append(path, floor(small()))
    back = records.read(path)
    assert list(back.roles) == list(returned.roles) == ["teacher", "floor"]
    for name in ("document", "key", "position", "label", "bytes"):
        assert getattr(back, name).tolist() == getattr(small(), name).tolist()
    for name, column in small().roles["teacher"].columns().items():
        assert getattr(back.roles["teacher"], name).tolist() == column.tolist()
    assert back.roles["floor"].kl is None and not back.has("floor", "kl") and back.has("floor", "nll")
    assert (back.size, back.documents) == (3, 2)
    assert [p.name for p in path.parent.iterdir()] == ["items.parquet"]  # no temporary file left


@pytest.mark.parametrize("partly", [False, True])
def test_whether_the_teacher_named_only_some_outcomes_is_kept(tmp_path: Path, partly: bool) -> None:
    path = tmp_path / "items.parquet"
    records.write(path, replace(small(), partly=partly))
    assert records.append(path, floor(small())).partly is records.read(path).partly is partly
    assert records.read(path).taken(np.array([0])).with_role("floor", Scores(np.ones(1))).partly is partly


def test_same_items_same_bytes(tmp_path: Path) -> None:
    records.write(tmp_path / "one", small())
    records.write(tmp_path / "two", small())
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_role_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    records.append(path, floor(small()))
    records.append(path, replace(small(), roles={"floor": Scores(nll=np.array([1.0, 1.0, 1.0]))}))
    assert records.read(path).roles["floor"].nll.tolist() == [1.0, 1.0, 1.0]


def test_without_bytes(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    records.append(path, replace(small(), bytes=None))
    assert records.read(path).bytes is None
    with pytest.raises(RunError, match="bytes given for one"):
        records.append(path, floor(small()))


@pytest.mark.parametrize(
    ("column", "value"),
    [("document", [4, 9, 9]), ("position", [0, 2, 0]), ("label", [7, 8, 9]), ("bytes", [2, 0, 4])],
)
def test_other_items_are_refused(tmp_path: Path, column: str, value: list[int]) -> None:
    path = tmp_path / "items.parquet"
    records.append(path, small())
    before = path.read_bytes()
    with pytest.raises(RunError, match=f"same items in the same order as teacher: {column} is"):
        records.append(path, replace(floor(small()), **{column: np.array(value)}))
    assert path.read_bytes() == before


def test_fewer_items_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    records.append(path, small())
    one = small()
    fewer = Items(one.document[:2], one.key[:2], one.position[:2], one.label[:2], None, {"floor": Scores(np.ones(2))})
    with pytest.raises(RunError, match="2 items instead of 3"):
        records.append(path, fewer)


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    with pytest.raises(RunError, match="there is no item table"):
        records.read(path)
    path.write_bytes(b"not parquet")
    with pytest.raises(RunError, match="not a readable Parquet file"):
        records.read(path)
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(RunError, match="not an item table"):
        records.read(path)
    records.write(path, small())
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({"stillhouse.items": "99"}), path)
    with pytest.raises(RunError, match="schema 99; this version reads schema 2"):
        records.read(path)
    pq.write_table(table.drop_columns(["kl"]), path)
    with pytest.raises(RunError, match="columns missing: kl"):
        records.read(path)
    pq.write_table(table.slice(0, 0), path)
    with pytest.raises(RunError, match="is empty"):
        records.read(path)


def test_a_column_half_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    records.write(path, small())
    table = pq.read_table(path)
    place = table.schema.names.index("kl")
    half = table.set_column(place, table.schema.field("kl"), pa.array([0.1, None, 0.2]))
    pq.write_table(half, path)
    with pytest.raises(RunError, match=r"teacher\.kl is empty for 1 of 3 items"):
        records.read(path)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_no_numbers_are_refused(bad: float) -> None:
    with pytest.raises(ModelError, match=r"student: nll is (nan|inf) at 1 of 3 items, first in document 9, position 0"):
        small().with_role("student", Scores(nll=np.array([1.0, 1.0, bad])))


def test_finding_is_json_without_nan() -> None:
    chart = Chart(
        "forest", "t", "x", "y", (Series("s", (Point("row", 1.0, -math.inf, math.nan),), "student"),), (Mark(0.9, "ρ"),)
    )
    finding = Finding(
        "n",
        "q?",
        "PASS",
        "s",
        estimates=(Estimate("e", "student", math.nan, -math.inf, math.inf, "%", 3),),
        charts=(chart,),
    )
    plain = finding.to_dict()
    json.dumps(plain, allow_nan=False)
    assert set(plain) == {"name", "question", "verdict", "sentence", "reason", "estimates", "charts", "limits"}
    assert plain["estimates"] == [
        {"label": "e", "role": "student", "value": None, "low": None, "high": None, "unit": "%", "n": 3}
    ]
    assert plain["charts"][0]["series"] == [
        {"name": "s", "points": [{"x": "row", "y": 1.0, "low": None, "high": None}], "role": "student"}
    ]
    assert plain["charts"][0]["marks"] == [{"value": 0.9, "label": "ρ"}]
