"""Labelling and what is read back: the same signal however text is shuffled, cut, resumed, shared out or damaged."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal as signals
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from shared import LINES, make_llama, make_tokenizer

import stillhouse
from stillhouse import data
from stillhouse.check import costs
from stillhouse.data.pieces import Pieces
from stillhouse.errors import RecipeError, RunError, StillhouseError
from stillhouse.files import sha256_file
from stillhouse.label import label
from stillhouse.models import Model
from stillhouse.teacher import Teacher, load
from stillhouse.teacher import store as stores
from stillhouse.teacher.codec import TopK
from stillhouse.teacher.store import Store
from stillhouse.types import Batch, Signal

BLOCK = 24
ROUNDS = int(os.environ.get("STILLHOUSE_FUZZ", "60"))
"""How many damaged files the reader is tried with."""
WORDS = ["still", "water", "grain", "malt", "mash", "oak", "cask"]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("material")
    make_llama(make_tokenizer()).save(folder / "teacher")
    make_llama(make_tokenizer(), seed=1).save(folder / "other")
    words = random.Random(0)
    texts = [" ".join(words.choices(WORDS, k=words.randint(4, 30))) for _ in range(40)]
    lines = [json.dumps({"text": text + LINES[i % 4]}) for i, text in enumerate(texts)]
    (folder / "text.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def recipe_of(material: Path, store: Path, *overrides: str, model: str = "teacher") -> stillhouse.Recipe:
    content = {
        "run": str(material / "run"),
        "data": {"sources": {"name": "jsonl", "path": str(material / "text.jsonl")}, "block": BLOCK, "validation": 0.2},
        "teacher": {"name": "store", "path": str(store), "model": str(material / model), "k": 8, "dtype": "float32"},
        "student": {"name": "drop_layers", "keep": 1},
        "trainer": {"steps": 2, "tokens_per_step": 64, "micro_tokens": 64, "device": "cpu", "threads": 1},
    }
    return stillhouse.recipe.parse(content, overrides)


@pytest.fixture(scope="module")
def whole(material: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of everything."""
    return label(recipe_of(material, tmp_path_factory.mktemp("stores") / "whole"))


def corpus_of(settings: stillhouse.Recipe, model: Model) -> data.Corpus:
    return data.prepare(settings.data, model.tokenizer, settings.folder / "data", teacher=model)


def by_place(batch: Batch, signal: Signal) -> Iterator[tuple[tuple[str, int], tuple[Any, ...]]]:
    """(key, token of the example) → everything that was said there."""
    for n, (p, d) in enumerate(zip(batch.select_N.tolist(), batch.document_N.tolist(), strict=True)):
        said = (signal.ids_NK, signal.logp_NK, signal.rest_N)
        at = batch.offsets_D[d] + p - batch.borders_D1[d]
        yield (batch.keys[d], at), tuple(x[n].tolist() for x in said if x is not None)


def all_of(store: Path, settings: stillhouse.Recipe, micro_tokens: int = 64) -> dict[tuple[str, int], tuple[Any, ...]]:
    found, model = Store(store), stillhouse.models.load(settings.teacher.options["model"])
    corpus = corpus_of(settings, model)
    return dict(
        item
        for side in (corpus.train, corpus.validation)
        for batch, _ in side.all(micro_tokens)
        for item in by_place(batch, found.signal(batch))
    )


def test_what_is_stored_is_what_the_teacher_says(material: Path, whole: Path) -> None:
    settings = recipe_of(material, whole)
    teacher = load(settings.teacher)
    live = Teacher(stillhouse.models.load(str(material / "teacher")))
    assert teacher.forms == {"topk"} and teacher.placed(lambda m: m) is teacher
    batch, _ = next(corpus_of(settings, teacher.model).train.all(64))
    said, told = teacher.signal(batch), live.signal(batch)
    assert told.hidden_NH is not None and told.head is not None
    p_NV = torch.softmax(told.head.logits(told.hidden_NH).double(), -1)
    for n in range(len(batch.select_N)):
        ids, found = said.ids_NK[n].tolist(), said.logp_NK[n].exp().tolist()
        truth = p_NV[n].tolist()
        assert sorted(truth, reverse=True)[:8] == pytest.approx([truth[i] for i in ids], rel=1e-5)
        assert found == pytest.approx([truth[i] for i in ids], rel=0.05)
        assert said.rest_N[n].exp().item() == pytest.approx(1 - sum(truth[i] for i in ids), rel=0.01)


def test_shuffled_cut_and_packed_anew_it_is_the_same_signal(material: Path, whole: Path) -> None:
    settings = recipe_of(material, whole)
    teacher = load(settings.teacher)
    expected = all_of(whole, settings)
    pieces = corpus_of(settings, teacher.model).train
    cut = 0
    for seed, micro in ((0, 16), (1, 64), (2, 100)):
        for step in range(4):
            for batch in pieces.step(step, tokens_per_step=micro * 2, micro_tokens=micro, seed=seed):
                cut += sum(offset % BLOCK != 0 for offset in batch.offsets_D)
                for place, said in by_place(batch, teacher.signal(batch)):
                    assert said == expected[place]
    assert cut > 3
    # pieces longer than those that were labelled: a run spans two of them
    longer = Pieces(pieces._inputs, pieces._labels, pieces._bytes, pieces._documents, BLOCK * 4)
    spanning = 0
    for batch, _ in longer.all(200):
        spanning += sum(b - a > BLOCK for a, b in zip(batch.borders_D1, batch.borders_D1[1:], strict=False))
        for place, said in by_place(batch, teacher.signal(batch)):
            assert said == expected[place]
    assert spanning > 3


@pytest.mark.parametrize("kind", ["topk", "sampled", "hidden"])
def test_three_parts_are_one_store_and_labelling_again_adds_nothing(material: Path, tmp_path: Path, kind: str) -> None:
    one, three = tmp_path / "one", tmp_path / "three"
    label(recipe_of(material, one, f"teacher.kind={kind}"))
    for part in (3, 1, 2):
        label(recipe_of(material, three, f"teacher.kind={kind}"), shard=(part, 3))
        assert len(list((three / "shards").iterdir())) == {3: 1, 1: 2, 2: 3}[part]
    settings = recipe_of(material, one)
    model = stillhouse.models.load(str(material / "teacher"))
    for side in (corpus_of(settings, model).train, corpus_of(settings, model).validation):
        for batch, _ in side.all(50):
            said, told = Store(one).signal(batch), Store(three).signal(batch)
            for name in ("ids_NK", "logp_NK", "rest_N", "hidden_NH"):
                ours, theirs = getattr(said, name), getattr(told, name)
                assert (ours is None) == (theirs is None)
                assert ours is None or torch.equal(ours, theirs)
    before = sorted((three / "shards").iterdir())
    label(recipe_of(material, three, f"teacher.kind={kind}"))
    assert sorted((three / "shards").iterdir()) == before


def test_hidden_gives_the_whole_distribution(material: Path, tmp_path: Path) -> None:
    settings = recipe_of(material, tmp_path / "store", "teacher.kind=hidden", "teacher.precision=float32")
    label(settings)
    teacher = load(settings.teacher)
    live = Teacher(stillhouse.models.load(str(material / "teacher")))
    for batch, _ in corpus_of(settings, teacher.model).validation.all(64):
        n = len(batch.select_N)
        assert torch.allclose(teacher.signal(batch).rows(0, n).logits_NV, live.signal(batch).rows(0, n).logits_NV, atol=1e-4)  # fmt: skip
    (tmp_path / "store" / "head.safetensors").write_bytes(b"broken")
    with pytest.raises(RunError, match=r"head\.safetensors"):
        load(settings.teacher)
    label(settings)
    load(settings.teacher)


def test_a_killed_labelling_goes_on_and_ends_the_same(material: Path, whole: Path, tmp_path: Path) -> None:
    store = tmp_path / "killed"
    settings = recipe_of(material, store)
    (tmp_path / "recipe.yaml").write_text(settings.to_yaml(), encoding="utf-8")
    code = (
        "import sys, stillhouse.recipe\nfrom stillhouse import label\nfrom stillhouse.teacher import store\n"
        "store.SHARD_TOKENS = 100\nold = store.write_bytes\n"
        "def slow(path, content):\n"
        "    half = path.with_name(f'.{path.name}.0.tmp')\n"
        "    half.write_bytes(content[: len(content) // 2])\n"
        "    print('half', flush=True)\n"
        "    import time; time.sleep(0.3)\n"
        "    old(path, content); half.unlink()\n"
        "store.write_bytes = slow\n"
        "label.label(stillhouse.recipe.load(sys.argv[1]))\n"
    )
    for kill_after in (1, 3):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "recipe.yaml")], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        assert process.stdout is not None
        for _ in range(kill_after):
            process.stdout.readline()
        process.send_signal(signals.SIGKILL)
        process.wait()
        process.stdout.close()
    there = Store(store).positions
    assert 0 < there < Store(whole).positions
    assert list((store / "shards").glob(".*.tmp"))
    label(settings)
    assert Store(store).positions == Store(whole).positions
    assert all_of(store, settings) == all_of(whole, settings)
    assert sorted(Store(store).pieces()) == sorted(Store(whole).pieces())


def test_what_an_old_interruption_left_behind_is_removed(material: Path, whole: Path) -> None:
    old, new = whole / "shards" / ".a.1.tmp", whole / "shards" / ".b.1.tmp"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    stores.Writer(whole)
    assert not old.exists() and new.exists()
    new.unlink()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("teacher.k=9",), "kind of signal"),
        (("teacher.kind=sampled",), "kind of signal"),
        (("teacher.bits=6",), "kind of signal"),
        (("data.block=32", "run=elsewhere"), "block"),
    ],
)
def test_a_store_of_other_settings_is_refused(
    material: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: tuple[str, ...], named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=named):
        label(recipe_of(material, whole, *change))
    if "block" not in named:
        with pytest.raises(RunError, match=named):
            load(recipe_of(material, whole, *change).teacher)


def test_a_store_of_another_teacher_or_tokenizer_is_refused(material: Path, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="the teacher"):
        load(recipe_of(material, whole, model="other").teacher)
    with pytest.raises(RunError, match="the teacher"):
        label(recipe_of(material, whole, model="other"))
    model = make_llama(make_tokenizer())
    vocabulary = json.loads(model.tokenizer.backend_tokenizer.to_str())
    a, b = list(vocabulary["model"]["vocab"])[20:22]
    table = vocabulary["model"]["vocab"]
    table[a], table[b] = table[b], table[a]
    model.save(tmp_path / "permuted")
    (tmp_path / "permuted" / "tokenizer.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    with pytest.raises(RunError, match="the tokenizer"):
        load(recipe_of(tmp_path, whole, model="permuted").teacher)


def test_shards_of_another_store_are_not_taken(material: Path, whole: Path, tmp_path: Path) -> None:
    other = label(recipe_of(material, tmp_path / "other", "teacher.bits=5"))
    before = Store(other).positions
    for path in (whole / "shards").glob("*.parquet"):
        (other / "shards" / path.name).write_bytes(path.read_bytes())
    store = Store(other)
    assert store.positions == before and set(store.dropped.values()) == {"is a shard of another store"}


def test_what_is_missing_is_named_with_the_way_out(material: Path, tmp_path: Path) -> None:
    settings = recipe_of(material, tmp_path / "part")
    with pytest.raises(RunError, match="stillhouse label"):
        load(settings.teacher)
    label(settings, shard=(1, 3))
    teacher = load(settings.teacher)
    batches = [batch for batch, _ in corpus_of(settings, teacher.model).train.all(64)]
    with pytest.raises(RunError, match=r"no signal for \d+ of \d+ positions.*example [0-9a-f]{32}") as caught:
        [teacher.signal(batch) for batch in batches]
    assert "stillhouse label" in str(caught.value)


def test_other_tokens_under_the_same_key_have_no_signal(material: Path, whole: Path) -> None:
    settings = recipe_of(material, whole)
    teacher = load(settings.teacher)
    batch, _ = next(corpus_of(settings, teacher.model).train.all(64))
    batch.input_ids_P[3] = (batch.input_ids_P[3] + 1) % 300
    with pytest.raises(RunError, match="no signal for 1 of"):
        teacher.signal(batch)


def test_a_recipe_without_a_store_and_a_part_that_is_none_are_refused(material: Path, tmp_path: Path) -> None:
    settings = stillhouse.recipe.parse(
        {**recipe_of(material, tmp_path).to_dict(), "teacher": str(material / "teacher")}
    )
    with pytest.raises(RecipeError, match="no store"):
        label(settings)
    with pytest.raises(RecipeError, match="part 4 of 3"):
        label(recipe_of(material, tmp_path), shard=(4, 3))
    with pytest.raises(RecipeError, match=r"teacher\.bits"):
        label(recipe_of(material, tmp_path, "teacher.bits=9"))


def test_shapes_alone_need_no_store(material: Path, tmp_path: Path) -> None:
    settings = recipe_of(material, tmp_path / "nowhere", "teacher.kind=sampled")
    teacher = load(settings.teacher, empty=True)
    assert teacher.forms == {"sampled"} and next(teacher.model.parameters()).device.type == "meta"


def test_others_can_read_it(material: Path, whole: Path) -> None:
    """As docs/store.md says, with pyarrow alone."""
    expected = all_of(whole, recipe_of(material, whole))
    seen = 0
    for path in (whole / "shards").glob("*.parquet"):
        assert sha256_file(path) == path.stem
        for row in pq.read_table(path).to_pylist():
            places = [i for i, bit in enumerate(np.unpackbits(np.frombuffer(row["selected"], np.uint8))) if bit]
            assert len(places) == row["count"] <= row["length"] == len(row["inputs"])
            for n, i in enumerate(places):
                part = slice(8 * n, 8 * n + 8)
                ids = [low + 256 * high for low, high in zip(row["ids_0"][part], row["ids_1"][part], strict=True)]
                codes = np.cumsum(list(row["depth"][part]))
                weights = np.exp(-32 * (codes / 255) ** 2)
                logit = float(np.frombuffer(row["rest"][2 * n : 2 * n + 2], np.float16)[0])
                rest = 1 / (1 + np.exp(-logit))
                said = expected[row["key"], row["offset"] + i]
                assert said[0] == ids
                assert np.exp(said[1]) == pytest.approx((1 - rest) * weights / weights.sum(), rel=1e-4)
                assert np.exp(said[2]) == pytest.approx(rest, rel=1e-4)
                seen += 1
    assert seen == len(expected)


def test_the_example_on_the_docs_page_reads_it(material: Path, whole: Path, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "store.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    for old, new in (
        ("stores/smollm2/shards", str(whole / "shards")),
        ('split="train"', f'split="train", cache_dir="{tmp_path}"'),
        ("64, 255", "8, 255"),
    ):
        assert old in code
        code = code.replace(old, new)
    names: dict[str, Any] = {}
    exec(code, names)
    expected = all_of(whole, recipe_of(material, whole))
    assert len(names["where"]) == names["n"] > 3
    for n, place in enumerate(names["where"].tolist()):
        ids, logp, rest = expected[names["row"]["key"], names["row"]["offset"] + place]
        assert names["ids"][n].tolist() == ids
        assert np.log(names["p"][n]) == pytest.approx(logp, abs=1e-4)
        assert np.log(names["rest"][n]) == pytest.approx(rest, abs=1e-4)


@pytest.fixture(scope="module")
def small_shards(material: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[stillhouse.Recipe, list[Batch]]:
    """A store of many shards, and all batches that can be asked of it."""
    settings = recipe_of(material, tmp_path_factory.mktemp("stores") / "small")
    with pytest.MonkeyPatch.context() as monkey:
        monkey.setattr(stores, "SHARD_TOKENS", 300)
        store = label(settings)
    assert len(list((store / "shards").iterdir())) >= 3
    corpus = corpus_of(settings, stillhouse.models.load(str(material / "teacher")))
    return settings, [batch for side in (corpus.train, corpus.validation) for batch, _ in side.all(200)]


def damage(content: bytes, chance: random.Random) -> bytes:
    """A bit flipped, the end cut off, a run overwritten, or bytes put in between."""
    at, kind = chance.randrange(len(content)), chance.randrange(4)
    if kind == 0:
        return content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]
    if kind == 1:
        return content[:at]
    strange = chance.randbytes(chance.randint(1, 40))
    return content[:at] + strange + content[at + (len(strange) if kind == 2 else 0) :]


def read_all(store: Path, batches: list[Batch]) -> Iterator[tuple[Batch, Signal | None]]:
    """Each batch with its signal, None where it was refused as the house refuses; any other error gets through."""
    try:
        found = Store(store)
    except StillhouseError:
        yield from ((batch, None) for batch in batches)
        return
    for batch in batches:
        try:
            said = found.signal(batch)
        except StillhouseError:
            yield batch, None
        else:
            yield batch, said


def test_a_damaged_store_is_told_of_and_never_tells_wrong(
    material: Path, whole: Path, small_shards: tuple[stillhouse.Recipe, list[Batch]], tmp_path: Path
) -> None:
    """Any file damaged at random: right values, or the house's error, and labelling heals it."""
    store = tmp_path / "store"
    shutil.copytree(small_shards[0].teacher.options["path"], store)
    settings, batches = recipe_of(material, store), small_shards[1]
    expected = all_of(whole, settings)
    files = {path: path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}
    chance = random.Random(0)
    refused = right = 0
    for _ in range(ROUNDS):
        path = chance.choice(list(files))
        path.write_bytes(damage(files[path], chance))
        for batch, said in read_all(store, batches):
            refused += said is None
            if said is not None:
                right += 1
                for place, words in by_place(batch, said):
                    assert words == expected[place]
        path.write_bytes(files[path])
    assert min(refused, right) > ROUNDS
    # heal: one shard cut, one flipped
    first, second = sorted((store / "shards").glob("*.parquet"))[:2]
    first.write_bytes(files[first][:100])
    second.write_bytes(files[second][:-1] + bytes([files[second][-1] ^ 1]))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        load(settings.teacher)
    assert sum("broken" in str(w.message) for w in told) == 2
    label(settings)
    assert all_of(store, settings) == expected
    assert not Store(store).dropped


def test_a_shard_whose_checksum_is_that_of_its_damage_is_no_traceback(
    small_shards: tuple[stillhouse.Recipe, list[Batch]], tmp_path: Path
) -> None:
    """As of a machine whose memory failed before the name was made: nobody can know the values, but a signal has its shape, or
    the house's error comes."""
    store = tmp_path / "store"
    shutil.copytree(small_shards[0].teacher.options["path"], store)
    files = {path: path.read_bytes() for path in sorted((store / "shards").glob("*.parquet"))}
    chance = random.Random(1)
    refused = answered = 0
    for _ in range(ROUNDS):
        path = chance.choice(list(files))
        content = damage(files[path], chance)
        path.unlink()
        forged = path.with_name(f"{hashlib.sha256(content).hexdigest()}.parquet")
        forged.write_bytes(content)
        for batch, said in read_all(store, small_shards[1]):
            refused += said is None
            if said is not None:
                answered += 1
                assert said.ids_NK.shape == said.logp_NK.shape == (len(batch.select_N), 8)
                assert said.rest_N.shape == (len(batch.select_N),)
        forged.unlink()
        path.write_bytes(files[path])
    assert min(refused, answered) > ROUNDS


def test_a_shard_that_changes_under_a_reader_is_the_houses_error(material: Path, tmp_path: Path) -> None:
    settings = recipe_of(material, tmp_path / "store")
    label(settings)
    teacher = load(settings.teacher)
    batch, _ = next(corpus_of(settings, teacher.model).train.all(64))
    for path in (tmp_path / "store" / "shards").glob("*.parquet"):
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(RunError, match="cannot be read"):
        teacher.signal(batch)


def test_two_processes_that_make_one_store_at_once_agree(tmp_path: Path) -> None:
    how = TopK(300, 4).settings()
    same = stores.describe(how, teacher="t", tokenizer="k", outcomes=300, block=8, arithmetic="float32")
    assert stores._write_new(tmp_path / "manifest.json", same)
    assert not stores._write_new(tmp_path / "manifest.json", {})
    assert json.loads((tmp_path / "manifest.json").read_text()) == same
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("kind", ["topk", "sampled", "hidden"])
def test_a_whole_run_learns_from_the_store(material: Path, tmp_path: Path, kind: str) -> None:
    changes = (f"teacher.kind={kind}", f"run={tmp_path / 'run'}", "objective.temperature=1", "evaluate.control=false")
    settings = recipe_of(material, tmp_path / "store", *changes, "trainer.validate_every=1", "report.new_tokens=2")
    with pytest.raises(RunError, match="stillhouse label"):
        stillhouse.run(settings)
    label(settings)
    folder = stillhouse.run(settings)
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [line["forward_kl"] for line in steps if "forward_kl" in line]
    assert len(losses) == 2 and all(np.isfinite(losses))
    assert (folder / "student" / "model.safetensors").is_file() and (folder / "report.html").is_file()


def test_a_teacher_that_spoke_before_costs_no_arithmetic(material: Path, tmp_path: Path) -> None:
    stored = recipe_of(material, tmp_path / "store", "evaluate.control=false")
    live = stored.model_copy(update={"teacher": stillhouse.recipe.as_teacher(str(material / "teacher"))})
    first, second = (costs(each, measure=False).operations for each in (stored, live))
    teacher = stillhouse.models.load(str(material / "teacher"))
    weights = sum(p.numel() for p in teacher.layers.parameters()) + teacher.head.weight_VH.numel()
    assert second - first == pytest.approx(stored.trainer.steps * stored.trainer.tokens_per_step * weights)
