"""Filters beside files of held-out texts, texts without a label and texts made of others: planted documents, both ways round."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from classifiers import word_pieces, write
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse import data
from stillhouse.check import class_problems
from stillhouse.data.render import UNKNOWN, Rendered
from stillhouse.data.spool import Spool
from stillhouse.data.store import TEST, TRAIN, VALIDATION, below
from stillhouse.errors import DataError
from stillhouse.recipe import Data

FORM = {"name": "labelled", "text": "sentence", "classes": ["bad", "good"]}
SYLLABLES = [a + b for a in "bdfgklmnprst" for b in "aeiou"]


def text(number: int, words: int = 30) -> list[str]:
    draw = random.Random(number)
    return ["".join(draw.choices(SYLLABLES, k=3)) for _ in range(words)]


def changed(words: list[str], *places: int) -> list[str]:
    return [f"other{i}" if i in places else word for i, word in enumerate(words)]


def rows(texts: list[list[str]], label: int | None = 0) -> list[dict[str, Any]]:
    said = {} if label is None else {"label": label}
    return [{"sentence": " ".join(words), **said} for words in texts]


DEV = [text(i) for i in range(10)]
DEV_ALIKE = [DEV[0], changed(DEV[0], 0, 1), changed(DEV[0], 0, 1, 28, 29)]
"""Each is four fifths like the one before it, and the last one not like the first."""
TESTED = [text(i) for i in range(20, 30)]
CLEAN = [text(i) for i in range(100, 140)]
UNLABELLED = [text(i) for i in range(200, 220)]

NEAR_DEV = changed(DEV[3], 15)
NEAR_TEST = changed(TESTED[4], 2)
LIKE_THE_LAST = changed(DEV_ALIKE[2], 27)
AROUND_DEV = [*text(300, 20), *DEV[6], *text(301, 20)]
AROUND_TEST = [*text(302, 20), *TESTED[7], *text(303, 20)]
PLANTED = [NEAR_DEV, NEAR_TEST, LIKE_THE_LAST, AROUND_DEV, AROUND_TEST]

FILTERS = [
    {"name": "length", "least": 10, "most": 200},
    {"name": "near_duplicates", "threshold": 0.6},
    "contamination",
]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    parts = {
        "train": rows(PLANTED[:2] + CLEAN[:20] + PLANTED[2:] + CLEAN[20:] + [changed(CLEAN[0], 12)], 1),
        "more": rows([UNLABELLED[0], NEAR_DEV[:-1], *UNLABELLED[1:], changed(TESTED[8], 9)], None),
        "dev": rows([*DEV[1:], *DEV_ALIKE, ["too", "short"]]),
        "test": rows([*TESTED, changed(DEV[5], 3), ["ok"]]),
    }
    return {name: write(tmp_path / f"{name}.jsonl", part) for name, part in parts.items()}


def source(path: Path, **changes: Any) -> dict[str, Any]:
    return {"name": "jsonl", "path": str(path), "format": {**FORM, **changes}}


def section(files: dict[str, Path], **changes: Any) -> Data:
    content = {
        "sources": [source(files["more"], label=None), source(files["train"])],
        "validation_sources": source(files["dev"]),
        "test_sources": source(files["test"]),
        "block": 512,
        "filters": FILTERS,
    }
    return Data.model_validate({**content, **changes})


def texts_of(corpus: data.Corpus, side: Any) -> set[str]:
    return {corpus.text_of(key) for batch, _ in side.all(4096) for key in batch.keys}


def said(texts: list[list[str]]) -> set[str]:
    return {" ".join(words) for words in texts}


def removed(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "removed.jsonl").read_text(encoding="utf-8").splitlines()]


def test_planted_texts_leave_the_training_side_and_held_out_files_stay_whole(files: dict[str, Path], tmp_path: Path):
    pytest.importorskip("rensa", reason="near_duplicates needs rensa: pip install 'stillhouse[filters]'")
    assert not class_problems(section(files))
    corpus = data.prepare(section(files), word_pieces(), tmp_path / "data")
    assert texts_of(corpus, corpus.train) == said(CLEAN) | said(UNLABELLED)
    assert texts_of(corpus, corpus.test) == said([*TESTED, changed(DEV[5], 3), ["ok"]])
    assert texts_of(corpus, corpus.validation) == said([*DEV[1:], *DEV_ALIKE, ["too", "short"]])
    gone = removed(tmp_path / "data")
    assert len(gone) == 8 and all(line["record"].startswith("data.sources.") for line in gone)
    assert any("data.validation_sources.0 (jsonl)" in line["why"] for line in gone)
    length, near, contamination = corpus.facts["filters"]
    assert (length["removed"], length["seen"]) == (0, 68)  # of held-out files nothing is asked
    # a copy of a clean one goes for its likeness, four for that to a held-out one; one in pieces of another, by its runs of 13
    assert near["like a held-out document"] == near["removed"] - 1
    assert near["removed"] + contamination["removed"] == 8
    assert contamination["compared with"]["held-out documents"]["texts"] == 25
    assert corpus.facts["filtered"] == 8


def test_texts_are_made_after_filtering(files: dict[str, Path], tmp_path: Path):
    augment = [{"name": "crop", "shortest": 12, "copies": 2}]
    filters = ["contamination"]
    corpus = data.prepare(section(files, filters=filters, augment=augment), word_pieces(), tmp_path / "data")
    whole = {each for each in texts_of(corpus, corpus.train) if len(each.split()) in (29, 30)}
    made = texts_of(corpus, corpus.train) - whole
    assert len(made) > 80 and corpus.facts["augmented"] >= len(made)
    kept = " | ".join(said(CLEAN) | said([changed(CLEAN[0], 12)]) | said(UNLABELLED))
    assert all(each in kept for each in made)


def test_a_share_is_held_out_beside_texts_without_labels(files: dict[str, Path], tmp_path: Path):
    content = section(
        files, validation_sources=[], test_sources=[], validation=0.3, filters=[{"name": "length", "most": 40}]
    )
    corpus = data.prepare(content, word_pieces(), tmp_path / "data")
    held_out, train = texts_of(corpus, corpus.validation), texts_of(corpus, corpus.train)
    unlabelled = said([*UNLABELLED, NEAR_DEV[:-1], changed(TESTED[8], 9)])
    assert 5 < len(held_out) < 25 and not held_out & unlabelled and unlabelled <= train
    assert not said([AROUND_DEV, AROUND_TEST]) & (held_out | train)
    filtered = data.prepare(
        content.model_copy(update={"filters": ()}), word_pieces(), tmp_path / "plain"
    )  # a filter moves no text to the other side
    assert texts_of(filtered, filtered.validation) - said([AROUND_DEV, AROUND_TEST]) == held_out


def test_a_test_file_beside_a_share_for_validation(files: dict[str, Path], tmp_path: Path):
    content = section(files, validation_sources=[], validation=0.3, filters=["contamination"])
    corpus = data.prepare(content, word_pieces(), tmp_path / "data")
    train, held_out = texts_of(corpus, corpus.train), texts_of(corpus, corpus.validation)
    assert " ".join(NEAR_TEST) not in train and " ".join(AROUND_TEST) not in train
    assert said([*TESTED, ["ok"]]) <= texts_of(corpus, corpus.test)
    assert held_out and not train & held_out


def test_plain_text_too_has_files_of_its_own(tmp_path: Path):
    paths = {}
    for name, texts in (("train", [*CLEAN, AROUND_DEV]), ("dev", [DEV[6], DEV[7]])):
        paths[name] = tmp_path / f"{name}.txt"
        paths[name].write_text("\n\n".join(" ".join(words) for words in texts), encoding="utf-8")
    content = {
        "sources": {"name": "text", "path": str(paths["train"]), "separator": "\n\n"},
        "validation_sources": {"name": "text", "path": str(paths["dev"]), "separator": "\n\n"},
        "block": 64, "filters": ["contamination"], "end_token": "[SEP]", "max_documents": 20,
    }  # fmt: skip
    corpus = data.prepare(Data.model_validate(content), word_pieces(), tmp_path / "some")
    assert corpus.facts["train"]["documents"] == 20  # of those to learn from, whatever is held out
    content["max_documents"] = None
    corpus = data.prepare(Data.model_validate(content), word_pieces(), tmp_path / "all")
    assert corpus.facts["train"]["documents"] == 40 and corpus.facts["validation"]["documents"] == 2
    content |= {"filters": [{"name": "length", "least": 1000}]}
    with pytest.raises(DataError, match="no document to learn from"):
        data.prepare(Data.model_validate(content), word_pieces(), tmp_path / "none")


@settings(max_examples=60, deadline=None)
@given(
    drawn=st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2), st.booleans()), min_size=1, max_size=20),
    validation=st.one_of(st.none(), st.floats(0.05, 0.9)),
)
def test_what_is_held_out_by_definition(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[int, int, bool]], validation: float | None
) -> None:
    """All of held-out files; with a share also some of the labelled rest: those that their number names, but never none or all."""
    place = Spool(tmp_path_factory.mktemp("spool"))
    parts = [
        (f"{i}", Rendered("t", label=0 if known or side else UNKNOWN), side, number)
        for i, (number, side, known) in enumerate(drawn)
    ]
    place.write(iter(parts), {"validation": validation})
    out = Spool(place.folder).held_out.tolist()
    rest = [i for i, (_, r, side, _) in enumerate(parts) if side == TRAIN and r.label != UNKNOWN]
    for i, (_, _, side, _) in enumerate(parts):
        if side in (VALIDATION, TEST):
            assert out[i]
        elif i not in rest or validation is None:
            assert not out[i]
    if validation is not None and len(rest) > 1 and len({parts[i][3] for i in rest}) == len(rest):
        assert 0 < sum(out[i] for i in rest) < len(rest)
        asked = [bool(below(place.hashes[i : i + 1], validation)[0]) for i in rest]
        moved = [i for i, told in zip(rest, asked, strict=True) if told != out[i]]
        assert sorted(Spool(place.folder).moved.tolist()) == sorted(parts[i][3] for i in moved)
        assert len(moved) <= 1
