"""Documents on their way through filters: nothing is lost, changed or moved; nothing depends on how the work is shared."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.data import prepare, screening, spool
from stillhouse.data.judging import Filter, band
from stillhouse.data.render import Rendered
from stillhouse.data.spool import Spool, walk
from stillhouse.data.store import TRAIN, VALIDATION, Seen, sides
from stillhouse.errors import DataError, RecipeError, RunError
from stillhouse.recipe import Data

ROWS: list[dict[str, Any]] = []
SEEN = 0
WORDS = [f"{a}{b}" for a in "bdfgklmnprst" for b in ("a", "e", "i", "o", "u")]


def some_rows() -> Iterator[dict[str, Any]]:
    """A source."""
    yield from (dict(row) for row in ROWS)


def loud(*, most: float = 0.5) -> Filter:
    """A user's own filter: documents in capitals."""

    def measure(documents: Any) -> np.ndarray:
        global SEEN
        SEEN += len(documents)
        return np.array([sum(map(str.isupper, d.words)) / max(len(d.words), 1) for d in documents])

    return band(measure, lambda share: f"{share:.0%} capitals", most=most)


def fussy() -> Filter:
    """A filter that cannot be used in another process."""
    if os.environ.get("FUSSY") == "message":
        raise DataError(*[screening.Problem("mine", "is not to be had")])
    if os.environ.get("FUSSY") == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return band(lambda documents: np.zeros(len(documents)), str)


HERE = __name__


def sentence(number: int, length: int = 30) -> str:
    draw = random.Random(number)
    return " ".join(draw.choice(WORDS) for _ in range(length))


def section(filters: list[Any], **options: Any) -> Data:
    content = {"sources": f"{HERE}:some_rows", "block": 8, "validation": 0.2, "filters": filters, **options}
    return Data.model_validate(content)


def corpus_of(rows: list[str], filters: list[Any], folder: Path, tokenizer: Any, **options: Any) -> Any:
    ROWS[:] = [{"text": row} for row in rows]
    return prepare(section(filters, **options), tokenizer, folder)


def kept_texts(folder: Path) -> list[str]:
    table, raw = np.load(folder / "documents.npy"), np.load(folder / "texts.npy").tobytes()
    return [raw[row["text"] :][: row["text_bytes"]].decode() for row in np.sort(table, order="text")]


def removed(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "removed.jsonl").read_text().splitlines()]


def test_what_is_kept_is_as_it_was_and_where_it_was(tokenizer: Any, tmp_path: Path) -> None:
    rows = [sentence(i).upper() if i % 3 == 0 else sentence(i) for i in range(60)]
    rows[7:7] = [""]
    corpus = corpus_of(rows, [f"{HERE}:loud"], tmp_path / "data", tokenizer)
    assert kept_texts(tmp_path / "data") == [row for row in rows if row and not row.isupper()]
    facts = corpus.facts
    assert (facts["records"], facts["empty"], facts["filtered"], facts["documents"]) == (61, 1, 20, 40)
    (told,) = facts["filters"]
    assert (told["seen"], told["removed"]) == (60, 20)
    assert 1 <= len(told["examples"]) <= screening.EXAMPLES
    assert all(example["text"].isupper() and "capitals" in example["why"] for example in told["examples"])
    json.dumps(facts)


def test_every_record_is_accounted_for(tokenizer: Any, tmp_path: Path) -> None:
    """Each record is in the corpus or in removed.jsonl, with the filter and its reason; never in both."""
    rows = [sentence(i % 50).upper() if i % 4 == 0 else sentence(i % 50) for i in range(80)]
    filters = [f"{HERE}:loud", {"name": "exact_duplicates"}, {"name": "length", "most": 29}]
    rows += ["short one", "short two", "short three", "short four", "short five", "short six"]
    corpus = corpus_of(rows, filters, tmp_path / "data", tokenizer, block=8)
    log = removed(tmp_path / "data")
    assert all(line["why"] for line in log)
    gone = [int(line["record"].rpartition(" ")[2]) for line in log]
    assert len(set(gone)) == len(gone)
    left = [row for i, row in enumerate(rows, 1) if i not in gone]
    assert kept_texts(tmp_path / "data") == list(dict.fromkeys(left))
    assert corpus.facts["filtered"] == len(gone)
    by_filter = {each["name"]: each["removed"] for each in corpus.facts["filters"]}
    assert by_filter == {name: sum(line["filter"] == name for line in log) for name in by_filter}
    assert corpus.facts["records"] == len(rows) == len(gone) + len(left)


@pytest.mark.parametrize(("documents", "size"), [(3, 10**6), (37, 10**6), (10**6, 900)])
def test_the_size_of_shards_changes_nothing(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, documents: int, size: int
) -> None:
    folder = tmp_path
    rows = [sentence(i % 70) + (" !" if i % 5 else "") for i in range(100)]
    filters = ["exact_duplicates", {"name": "near_duplicates", "threshold": 0.7}, {"name": "contamination", "run": 5}]
    corpus_of(rows, filters, folder / "one", tokenizer)
    monkeypatch.setattr(spool, "SHARD_DOCUMENTS", documents)
    monkeypatch.setattr(spool, "SHARD_BYTES", size)
    corpus_of(rows, filters, folder / "other", tokenizer)
    for name in ("inputs", "labels", "documents", "texts"):
        one, other = (np.load(folder / side / f"{name}.npy") for side in ("one", "other"))
        assert one.tobytes() == other.tobytes()
    assert removed(folder / "one") == removed(folder / "other")


def test_filters_that_measure_together_or_alone_take_out_the_same(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is measured of a document that an earlier filter takes out counts for nothing, not even in what is told."""
    monkeypatch.setattr(spool, "SHARD_DOCUMENTS", 9)
    rows = [sentence(i % 40, 5 + i % 31) + (" !" if i % 5 else "") for i in range(90)] + ["a b " * 20, "lorem ipsum"]
    filters = ["exact_duplicates", {"name": "length", "least": 8}, {"name": "near_duplicates", "threshold": 0.6}]
    filters += ["repetition", f"{HERE}:loud", "boilerplate", {"name": "contamination", "run": 5}]
    facts = {}
    for how in ("together", "alone"):
        corpus = corpus_of(rows, filters, tmp_path / how, tokenizer)
        facts[how] = [{**each, "seconds": 0} for each in corpus.facts["filters"]]
        monkeypatch.setattr(screening.Plan, "together", lambda _, number: range(number, number + 1))
    assert sum(each["removed"] > 0 for each in facts["together"]) >= 3
    assert facts["together"] == facts["alone"]
    assert removed(tmp_path / "together") == removed(tmp_path / "alone")
    assert kept_texts(tmp_path / "together") == kept_texts(tmp_path / "alone")


def test_the_number_of_processes_changes_nothing(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "SHARD_DOCUMENTS", 7)
    rows = [sentence(i % 40) + (" !" if i % 5 else "") for i in range(60)]
    filters = [{"name": "near_duplicates", "threshold": 0.7}, {"name": "contamination", "run": 5}, f"{HERE}:loud"]
    for workers in (1, 3):
        corpus = corpus_of(rows, filters, tmp_path / str(workers), tokenizer, workers=workers)
        assert corpus.facts["filters"][0]["removed"] == 20
    assert kept_texts(tmp_path / "1") == kept_texts(tmp_path / "3")
    assert removed(tmp_path / "1") == removed(tmp_path / "3")
    one, three = (section(filters, workers=n) for n in (1, 3))
    assert one != three
    ROWS.clear()  # the cache is the same: nothing is read again
    assert prepare(three, tokenizer, tmp_path / "1").facts["documents"] == corpus.facts["documents"]


def test_other_filters_or_options_make_another_corpus(tokenizer: Any, tmp_path: Path) -> None:
    rows = [sentence(i, 10 + i % 20) for i in range(60)]
    sizes = [
        corpus_of(rows, filters, tmp_path / "data", tokenizer).facts["documents"]
        for filters in ([], ["length"], [{"name": "length", "least": 15}], [{"name": "length", "least": 20}])
    ]
    assert sizes == [60, 60, 45, 30]


def test_an_interruption_costs_a_shard(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    global SEEN
    monkeypatch.setattr(spool, "SHARD_DOCUMENTS", 10)
    rows = [sentence(i) for i in range(60)]
    filters = ["length", f"{HERE}:loud"]
    whole = screening.Pass.measure
    calls = []

    def breaks(self: screening.Pass, shard: int, filter_: Filter) -> None:
        calls.append(shard)
        if len(calls) == 10:  # the fourth shard of the second filter
            raise KeyboardInterrupt
        whole(self, shard, filter_)

    SEEN = 0
    monkeypatch.setattr(screening.Pass, "measure", breaks)
    with pytest.raises(KeyboardInterrupt):
        corpus_of(rows, filters, tmp_path / "data", tokenizer)
    assert SEEN == 30 and not (tmp_path / "data").exists()
    ROWS.clear()  # what was read is not read again
    corpus = prepare(section(filters), tokenizer, tmp_path / "data")
    assert SEEN == 60
    assert kept_texts(tmp_path / "data") == rows and corpus.facts["documents"] == 60
    assert not list(tmp_path.glob(".data*"))
    corpus_of(rows, filters, tmp_path / "at once", tokenizer)
    assert (tmp_path / "at once" / "inputs.npy").read_bytes() == (tmp_path / "data" / "inputs.npy").read_bytes()


def test_a_killed_process_goes_on_where_it_was(tmp_path: Path) -> None:
    """SIGKILL at any moment, workers included, then the same command: the same bytes as in one go."""
    (tmp_path / "text.jsonl").write_text(
        "".join(json.dumps({"text": sentence(i % 300)}) + "\n" for i in range(400)), encoding="utf-8"
    )
    code = (
        "import sys; sys.path[:0] = ['tests']\n"
        "from pathlib import Path\n"
        "from data.tiny import make\n"
        "from stillhouse.data import prepare, spool\n"
        "from stillhouse.recipe import Data\n"
        "spool.SHARD_DOCUMENTS = 20\n"
        "filters = ['length', {'name': 'repetition', 'run': 3}, 'near_duplicates', {'name': 'contamination', 'run': 8}]\n"
        f"section = Data.model_validate({{'sources': {{'name': 'jsonl', 'path': {str(tmp_path / 'text.jsonl')!r}}}, 'block': 8,"
        "'validation': 0.2, 'workers': 2, 'filters': filters})\n"
        "print('ready', flush=True)\n"
        "prepare(section, make(), Path(sys.argv[1]))\n"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def start(folder: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / folder)],
            cwd=root,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )

    assert start("whole").wait(120) == 0
    for seconds in (0.2, 0.6, 1.0, 1.4):
        process = start("killed")
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(seconds)
        process.kill()
        process.wait()
    assert start("killed").wait(120) == 0
    for name in ("inputs.npy", "documents.npy", "texts.npy", "removed.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name


def test_documents_come_back_from_disk_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "SHARD_DOCUMENTS", 2)
    documents = [
        Rendered("plain\nπ🙂"),
        Rendered("marked", [(0, 2), (3, 6)], whole=True, special=True, own="own words"),
        Rendered("empty spans", []),
        Rendered("one", whole=True, pair="two", label=3),
        Rendered("half \ud83d a pair"),
    ]
    place = Spool(tmp_path)
    place.write(((f"record {i}", d, TRAIN, i * 2**60) for i, d in enumerate(documents)), {"validation": 0.5})
    again = Spool(tmp_path)
    assert again.complete and len(again) == 5 and again.borders == [0, 2, 4, 5]
    assert [(r.where, r.rendered) for r in walk(again, np.ones(5, bool))] == [
        (f"record {i}", d) for i, d in enumerate(documents)
    ]
    for i in (4, 0, 3, 1, 2):
        assert again.document(i) == (f"record {i}", documents[i])
    assert [r.rendered for r in walk(again, np.array([0, 1, 0, 0, 1], bool))] == [documents[1], documents[4]]


@given(
    st.lists(
        st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 3)), min_size=1, max_size=30, unique_by=lambda d: d[0]
    ),
    st.floats(0.01, 0.99),
)
def test_sides(documents: list[tuple[int, int]], validation: float) -> None:
    """As the numbers say; but a task of two documents or more has one on each side, and there is always one held out."""
    numbers, tasks = zip(*documents, strict=True)
    out = sides(np.array(numbers, dtype=np.uint64), np.array(tasks, dtype=np.uint16), validation).tolist()
    assert any(out)
    for task in set(tasks):
        mine = [(out[i], n / 2**64 < validation, n) for i, (n, t) in enumerate(documents) if t == task]
        said = [s for _, s, _ in mine]
        if len(mine) > 1:
            assert {o for o, _, _ in mine} == {True, False}
        if any(said) and not all(said):
            assert [o for o, _, _ in mine] == said
        elif len(mine) > 1:
            moved = [n for o, s, n in mine if o != s]
            assert moved == [(max if all(said) else min)(n for _, _, n in mine)]


def test_tasks_hold_out_their_own_also_with_filters(tokenizer: Any, tmp_path: Path) -> None:
    """Of a task of few documents the one that is held out is known to the filters, and copies of it are not learned from."""
    for name, count in (("large", 60), ("small", 3)):
        rows = [sentence(i + count) for i in range(count)]
        rows += [f"before {row} after" for row in rows]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    content = {
        "sources": [{"name": "jsonl", "path": str(tmp_path / f"{t}.jsonl"), "task": t} for t in ("large", "small")],
        "block": 8,
        "validation": 0.02,
        "filters": ["contamination"],
    }
    prepare(Data.model_validate(content), tokenizer, tmp_path / "data")
    table = np.sort(np.load(tmp_path / "data" / "documents.npy"), order="text")
    texts = kept_texts(tmp_path / "data")
    for task in (0, 1):
        mine = table["task"] == task
        assert (table["side"] == VALIDATION)[mine].any() and not (table["side"] == VALIDATION)[mine].all()
    held_out = [
        t.removeprefix("before ").removesuffix(" after")
        for t, v in zip(texts, (table["side"] == VALIDATION), strict=True)
        if v
    ]
    assert not any(h in t for h in held_out for t, v in zip(texts, (table["side"] == VALIDATION), strict=True) if not v)


def test_no_document_changes_its_side(tokenizer: Any, tmp_path: Path) -> None:
    """Filters take documents away; they do not decide which of the others are held out."""
    rows = [sentence(i, 10 + i % 20) for i in range(100)]
    sides = []
    for name, filters in (("all", []), ("some", [{"name": "length", "least": 20}])):
        corpus_of(rows, filters, tmp_path / name, tokenizer)
        table = np.load(tmp_path / name / "documents.npy")
        sides.append(
            dict(zip([k.tobytes() for k in table["key"]], (table["side"] == VALIDATION).tolist(), strict=True))
        )
    assert len(sides[1]) == 50 and sides[1].items() <= sides[0].items()


def test_filters_that_leave_nothing_say_which_took_it(tokenizer: Any, tmp_path: Path) -> None:
    rows = [sentence(i) for i in range(20)]
    with pytest.raises(
        DataError, match=r"leave no document to learn from and no held-out document \(length removed 20 of 20\)"
    ):
        corpus_of(rows, [{"name": "length", "least": 1000}], tmp_path / "data", tokenizer)
    assert not (tmp_path / "data").exists()


def test_a_worker_that_fails_is_one_message(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [sentence(i) for i in range(20)]
    original = screening.Plan.make
    for mode, kind, words in (("message", DataError, "mine: is not to be had"), ("die", RunError, "ended with -9")):
        # the main process makes the filter without trouble; the others meet it
        monkeypatch.setattr(
            screening.Plan, "make", lambda *a, **k: band(lambda d: np.zeros(len(d)), str) if a[1] == 0 else original(*a)
        )
        monkeypatch.setenv("FUSSY", mode)
        with pytest.raises(kind, match=words):
            corpus_of(rows, [f"{HERE}:fussy"], tmp_path / mode, tokenizer, workers=2)


def test_a_wrong_option_names_its_place() -> None:
    given = dict.fromkeys(screening.GIVEN)
    with pytest.raises(RecipeError, match=r"data\.filters\.2\.lest: unknown key\n.*Did you mean 'least'"):
        screening.make(section([{"name": "length", "lest": 1}]).filters[0], "data.filters.2", given)
    with pytest.raises(RecipeError, match=r"data\.filters\.0\.least: is 5, above most, which is 2"):
        screening.make(section([{"name": "length", "least": 5, "most": 2}]).filters[0], "data.filters.0", given)


def test_a_limit_counts_what_is_read(tokenizer: Any, tmp_path: Path) -> None:
    """Filters compare documents with each other, so a limit is of those that they see."""
    rows = [sentence(i, 10 + i % 20) for i in range(100)]
    corpus = corpus_of(rows, [{"name": "length", "least": 20}], tmp_path / "data", tokenizer, max_documents=40)
    assert corpus.facts["records"] == 40 and corpus.facts["documents"] == 20


def test_progress_tells_of_each_filter(tokenizer: Any, tmp_path: Path) -> None:
    ROWS[:] = [{"text": sentence(i)} for i in range(30)]
    told: list[tuple[str, float | None, bool]] = []
    prepare(section(["length", "exact_duplicates"]), tokenizer, tmp_path / "data", progress=lambda *a: told.append(a))
    texts = [text for text, _, _ in told]
    assert "filters 1 to 2 of 2: 1 of 1 shards" in texts and "filter 2 of 2, exact_duplicates: judging" in texts
    assert texts[-1] == "30 documents"


@given(st.lists(st.binary(min_size=16, max_size=16) | st.sampled_from([bytes(16), b"\1" + bytes(15)]), max_size=80))
def test_seen_is_a_set(keys: list[bytes]) -> None:
    seen, meant = Seen(), set()
    for key in keys:
        assert seen.add(key) == (key not in meant)
        meant.add(key)
    assert seen.count == len(meant)


def test_seen_grows() -> None:
    seen = Seen()
    keys = [hashlib.blake2b(bytes([i % 256, i // 256]), digest_size=16).digest() for i in range(5000)]
    assert all(seen.add(key) for key in keys) and not any(seen.add(key) for key in keys)
