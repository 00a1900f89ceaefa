from __future__ import annotations

import ast
import gzip
import json
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet as pq

from stillhouse.data import reading
from stillhouse.data.sources.hub import hub
from stillhouse.data.sources.jsonl import jsonl
from stillhouse.data.sources.parquet import parquet
from stillhouse.data.sources.python_docs import python_docs
from stillhouse.data.sources.text import _documents, text
from stillhouse.errors import DataError
from stillhouse.find import describe, names, options_model

Write = Callable[[str, str], str]


def texts(records: Any) -> list[str]:
    return [r["text"] for r in records]


# ---- text


def test_a_file_is_a_document_and_line_ends_are_unified(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\ntwo\r\n".encode())
    assert texts(text(path=str(tmp_path / "a.txt"))) == ["one\ntwo\n"]


def test_folders_globs_and_gzip_in_sorted_order(tmp_path: Path, write: Write) -> None:
    write("b.txt", "b")
    write("deep/a.md", "a")
    write("deep/ignored.bin", "x")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"c"))
    assert texts(text(path=str(tmp_path))) == ["b", "c", "a"]
    assert texts(text(path=str(tmp_path / "**" / "*.md"))) == ["a"]
    assert texts(text(path=str(tmp_path / "c.txt.gz"))) == ["c"]


def test_a_separator_cuts_and_empty_documents_are_left_out(write: Write) -> None:
    path = write("a.txt", "one\n\n\n\ntwo\nstill two\n\n  \n\nthree")
    assert texts(text(path=path, separator="\n\n")) == ["one", "two\nstill two", "three"]


@given(content=st.text("ab-", min_size=1, max_size=60), least=st.integers(0, 12))
def test_short_pieces_are_joined_until_they_are_long_enough(content: str, least: int, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("joined") / "book.txt"
    path.write_text("x" + content, encoding="utf-8")
    found = texts(text(path=str(path), separator="-", at_least=least))
    assert "".join(found).replace("-", "") == ("x" + content).replace("-", "")
    assert all(len(each) >= least for each in found[:-1])
    # none is longer than it must be: without its last piece it would be too short
    assert all(len(each.rsplit("-", 1)[0]) < least for each in found if "-" in each and each.rsplit("-", 1)[1])


@given(parts=st.lists(st.text("ab-", max_size=6), max_size=6), separator=st.text("-a", min_size=1, max_size=3))
def test_separators_across_the_borders_of_what_is_read(parts: list[str], separator: str) -> None:
    assert list(_documents(iter(parts), separator)) == "".join(parts).split(separator)


@settings(max_examples=30)
@given(content=st.text(max_size=40), size=st.integers(1, 5))
def test_decoding_in_parts_is_decoding_whole(content: str, size: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("parts") / "a.txt"
    path.write_bytes(content.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_CHUNK", size)
        assert "".join(reading.decoded(path)) == path.read_text(encoding="utf-8-sig")


@pytest.mark.parametrize("size", [1, 3, 1 << 20])
def test_not_utf8_says_the_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(reading, "_CHUNK", size)
    (tmp_path / "a.txt").write_bytes("hé".encode() + b" \xff!")
    with pytest.raises(DataError, match=r"a\.txt: is not UTF-8: byte 4 \(0xff\)"):
        list(text(path=str(tmp_path / "a.txt")))


def test_errors_of_text(tmp_path: Path, write: Write) -> None:
    write("holmes.txt", " \n ")
    with pytest.raises(DataError, match=r"holmes\.txt: is empty"):
        list(text(path=str(tmp_path / "holmes.txt")))
    with pytest.raises(DataError, match=r"Did you mean 'holmes\.txt'\?"):
        list(text(path=str(tmp_path / "homes.txt")))
    with pytest.raises(DataError, match="no file matches"):
        list(text(path=str(tmp_path / "*.none")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no file that ends in"):
        list(text(path=str(tmp_path / "empty")))
    (tmp_path / "bad.txt.gz").write_bytes(gzip.compress(b"x" * 100)[:-12])
    with pytest.raises(DataError, match="not a whole gzip file"):
        list(text(path=str(tmp_path / "bad.txt.gz")))


# ---- jsonl


def test_jsonl_reads_objects_also_gzipped_whatever_the_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": "één\nline"}, {"text": "two", "n": 2}]
    content = "\n\n".join(json.dumps(r, ensure_ascii=False) for r in rows).encode()
    (tmp_path / "a.jsonl").write_bytes(content)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(content))
    for size in (1, 7, 1 << 20):
        monkeypatch.setattr(reading, "_CHUNK", size)
        assert list(jsonl(path=str(tmp_path / "a.jsonl"))) == rows
        assert list(jsonl(path=str(tmp_path))) == rows * 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "x"', r"a\.jsonl, line 3: is not JSON: .* column"),
        (b'["x"]', r"a\.jsonl, line 3: holds a list, not an object"),
        (b'{"text": "\xe9"}', r"a\.jsonl: is not UTF-8: byte 27 "),
    ],
)
def test_jsonl_errors_say_where(tmp_path: Path, line: bytes, message: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "one"}\n\n' + line + b"\n")
    with pytest.raises(DataError, match=message):
        list(jsonl(path=str(tmp_path / "a.jsonl")))


# ---- parquet and hub


def test_parquet_streams_rows_with_nested_fields(tmp_path: Path) -> None:
    rows = [{"text": f"row {i}", "messages": [{"role": "user", "content": str(i)}]} for i in range(700)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=300)
    assert list(parquet(path=str(tmp_path))) == rows


def test_parquet_refuses_other_files(write: Write) -> None:
    with pytest.raises(DataError, match="not a readable Parquet file"):
        list(parquet(path=write("a.parquet", "no parquet at all")))


def test_hub_reads_folders(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{"text": "one"}, {"text": "two"}]
    saved = str(tmp_path / "saved")
    datasets.DatasetDict(train=datasets.Dataset.from_list(rows)).save_to_disk(saved)
    assert list(hub(dataset=saved)) == rows
    with pytest.raises(DataError, match=r"no split 'trian'(.|\n)*Did you mean 'train'"):
        list(hub(dataset=saved, split="trian"))
    write("folder/train.jsonl", "\n".join(map(json.dumps, rows)))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    assert list(hub(dataset=str(tmp_path / "folder"))) == rows
    with pytest.raises(DataError, match="cannot be read as a dataset"):
        list(hub(dataset=str(tmp_path / "folder"), split="nothing"))


def test_hub_offline_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach 'some/data' on the Hub (OfflineModeIsEnabled)\nmore")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(
        DataError, match=r"some/data: the hub cannot be reached: .*OfflineModeIsEnabled\)\n    → Go online"
    ):
        list(hub(dataset="some/data"))


# ---- python_docs


@pytest.fixture(scope="module")
def docs() -> list[dict[str, Any]]:
    before = set(sys.modules)
    records = list(python_docs())
    new = {m.split(".")[0] for m in set(sys.modules) - before}
    assert not new & {"antigravity", "this", "turtle", "idlelib", "tkinter"}  # parsed, not imported
    return records


def test_python_docs_are_english_and_the_same_each_time(docs: list[dict[str, Any]]) -> None:
    assert docs[:120] == list(islice(python_docs(), 120))
    by_name = {r["name"]: r["text"] for r in docs}
    assert len(by_name) == len(docs)
    assert "helpers for computing deltas between objects" in by_name["difflib"]
    assert "ratio(self)" in by_name["difflib"]
    assert not any(name.startswith(("test.", "site-packages")) or ".tests." in name for name in by_name)
    assert all(len(t) >= 200 for t in by_name.values())
    assert sum(len(t.encode()) for t in by_name.values()) > 1_500_000


def test_python_docs_repeat_no_paragraph(docs: list[dict[str, Any]]) -> None:
    seen: dict[str, str] = {}
    for record in docs:
        for paragraph in record["text"].split("\n\n"):
            words = " ".join(paragraph.split())
            if len(words) >= 40:
                assert words not in seen, (record["name"], seen[words])
                seen[words] = record["name"]


# ---- all of them


@pytest.mark.parametrize("kind", ["source", "format"])
def test_the_contract_of_a_strategy(kind: str) -> None:
    folder = Path(reading.__file__).parent / f"{kind}s"
    for name in names(kind):
        first = describe(kind, name).splitlines()[0]
        assert first.endswith(".") and len(first) < 120, (name, first)
        module = ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))
        imported = [n.module or "" for n in ast.walk(module) if isinstance(n, ast.ImportFrom)]
        assert not any(".sources" in m or ".formats" in m for m in imported), name
        options_model(__import__(f"stillhouse.data.{kind}s.{name}", fromlist=[name]).__dict__[name])
