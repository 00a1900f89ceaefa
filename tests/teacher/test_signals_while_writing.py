"""What a teacher writes is stored with its signals in one pass: the values that labelling it afterwards would give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from shared import LINES
from taught import ask_lines, make_taught

import stillhouse
from stillhouse import data
from stillhouse.label import label
from stillhouse.models import load
from stillhouse.synthesize import synthesize
from stillhouse.teacher.store import Store

FORMATS: dict[str, Any] = {
    "chat": "chat",
    "template": {"name": "prompt_response", "template": "chat"},
    "text": "text",
    "all of a chat": {"name": "chat", "loss": "all"},
}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("material")
    make_taught().save(folder / "teacher")
    ask_lines(folder / "prompts.txt", 14)
    (folder / "text.jsonl").write_text(
        "".join(json.dumps({"text": f"{i} {line}"}) + "\n" for i, line in enumerate(LINES))
    )
    return folder


def recipe_of(material: Path, folder: Path, store: str, form: Any, **teacher: Any) -> stillhouse.Recipe:
    source: dict[str, Any] = {
        "name": "written",
        "prompts": str(material / "prompts.txt"),
        "new_tokens": 30,
        "together": 5,
    }
    source |= {"format": form, "path": str(folder / "rows"), "dtype": "float32"}
    source |= {"template": "none"} if form == "text" else {}
    return stillhouse.parse(
        {
            "run": str(folder / f"run-{store}"),
            "data": {
                "sources": [source, {"name": "jsonl", "path": str(material / "text.jsonl")}],
                "block": 128,
                "validation": 0.3,
                "end_token": "<|endoftext|>",
            },
            "teacher": {
                "name": "store",
                "path": str(folder / store),
                "model": str(material / "teacher"),
                "dtype": "float32",
                **teacher,
            },
            "student": {"name": "drop_layers", "keep": 1},
            "trainer": {"threads": 1, "device": "cpu"},
        }
    )


def said(settings: stillhouse.Recipe) -> dict[tuple[str, int], tuple[torch.Tensor, ...]]:
    """Key and position → everything stored of it."""
    store = Store(settings.teacher.options["path"])
    model = load(str(settings.teacher.options["model"]))
    corpus = data.prepare(settings.data, model.tokenizer, settings.folder / "data", teacher=model)
    found = {}
    for side in (corpus.train, corpus.validation):
        for batch, _ in side.all(128):
            signal = store.signal(batch)
            assert signal.ids_NK is not None and signal.logp_NK is not None and signal.rest_N is not None
            for n, (p, d) in enumerate(zip(batch.select_N.tolist(), batch.document_N.tolist(), strict=True)):
                place = batch.keys[d], batch.offsets_D[d] + p - batch.borders_D1[d]
                found[place] = (signal.ids_NK[n], signal.logp_NK[n], signal.rest_N[n])
    return found


def codes(ids: torch.Tensor, logp: torch.Tensor) -> dict[int, float]:
    """What an outcome's log-probability was stored as: the root of its depth below the likeliest, in 255ths of 32 nats."""
    return dict(zip(ids.tolist(), (((logp.max() - logp).clamp_min(0) / 32).sqrt() * 255).tolist(), strict=True))


@pytest.mark.parametrize("form", list(FORMATS))
def test_signals_stored_while_writing_are_those_of_labelling(material: Path, tmp_path: Path, form: str):
    mine, other = (recipe_of(material, tmp_path, store, FORMATS[form], k=400, bits=8) for store in ("mine", "other"))
    (told,) = synthesize(mine)
    assert told.fresh == told.tokens > 0
    heard = {key for key, _ in Store(str(tmp_path / "mine")).pieces()}
    texts = [json.loads(line) for line in (tmp_path / "rows" / "rows.jsonl").read_text().splitlines()]
    assert 0.5 * len(texts) < len(heard) <= len(texts)  # some are read as other tokens than were written
    label(mine)  # what is missing: the other source, and those
    label(other)  # the same text, which was written before: its signals come from reading it
    written, read = said(mine), said(other)
    assert written.keys() == read.keys()
    compared = 0
    for place, (ids, logp, rest) in written.items():
        ids_, logp_, rest_ = read[place]
        assert set(ids.tolist()) == set(ids_.tolist())  # all outcomes are named
        ours, theirs = codes(ids, logp), codes(ids_, logp_)
        assert all(abs(ours[i] - theirs[i]) < 1.01 for i in ours)  # a code may fall on the other side of a rounding
        assert float(rest.exp()) == pytest.approx(float(rest_.exp()), abs=1e-3)
        compared += place[0] in heard
    assert compared > 50


def test_hidden_states_are_the_same_to_rounding(material: Path, tmp_path: Path):
    settings = [
        recipe_of(material, tmp_path, store, "chat", kind="hidden", precision="float32") for store in ("mine", "other")
    ]
    synthesize(settings[0])
    label(settings[1])
    one, other = (Store(s.teacher.options["path"]) for s in settings)
    model = load(str(material / "teacher"))
    corpus = data.prepare(settings[1].data, model.tokenizer, settings[1].folder / "data", teacher=model)
    seen = 0
    for side in (corpus.train, corpus.validation):
        for batch, _ in side.all(1):
            if all(one.covers(batch)):
                seen += 1
                ours, theirs = one.signal(batch).hidden_NH, other.signal(batch).hidden_NH
                assert ours is not None and theirs is not None
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert seen > 5


def test_samples_that_are_not_kept_are_not_stored(material: Path, tmp_path: Path):
    settings = recipe_of(material, tmp_path, "mine", "chat")
    source = {**settings.to_dict()["data"]["sources"][0], "samples": 3, "select": "likelihood"}
    content = settings.to_dict()
    content["data"]["sources"][0] = source
    (told,) = synthesize(stillhouse.parse(content))
    assert told.texts == 14
    assert len(list(Store(str(tmp_path / "mine")).pieces())) <= 14
