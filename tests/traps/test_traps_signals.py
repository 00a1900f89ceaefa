"""Traps in what the teacher says: 7, 8 (truncation), 9 (temperature), 10, 11 (vocabularies), 18 (stored signals)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from references import kl, softmax
from shared import LINES, make_batch, make_llama, make_tokenizer
from small import learned, truncated
from transformers import PreTrainedTokenizerFast

import stillhouse
from stillhouse import data
from stillhouse.check import match
from stillhouse.errors import ModelError, RunError
from stillhouse.label import label
from stillhouse.objective.support import tempered
from stillhouse.recipe import Objective
from stillhouse.run import tutor_of
from stillhouse.teacher import Teacher, load
from stillhouse.teacher.codec import TopK
from stillhouse.teacher.sources.served import Served
from stillhouse.teacher.sources.store import StoredTeacher
from stillhouse.types import Batch, Head, Signal
from stillhouse.vocabulary import compare_vocabularies

V = 9


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(11)
    return torch.randn(5, V, generator=g) * 2, torch.randn(5, V, generator=g) * 2


# --- 7, 8, 9: a part of the distribution ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "js"])
def test_trap_07_a_part_of_the_teacher(name: str, logits):
    """Summed over the named outcomes alone, Σ p log(p / q) is no divergence and goes below zero; spread over them (renormalised)
    it forbids all that the teacher did not name, or does not see what the student says there. What is left over is one more
    outcome: naming all but one is the whole, naming fewer sees less and never more, and what lies outside is still pushed."""
    student, teacher = (x.double() for x in logits)
    dense, dense_gradient = learned(name, student, teacher)
    value, gradient = learned(name, student, truncated(teacher, V - 1))
    assert value == pytest.approx(dense, rel=1e-5)
    torch.testing.assert_close(gradient, dense_gradient, rtol=1e-4, atol=1e-6)
    for k in (7, 5, 3, 1):
        fewer, _ = learned(name, student, truncated(teacher, k))
        assert 0 <= fewer <= value + 1e-6
        value = fewer
    outside = torch.zeros_like(student).scatter_(1, teacher.argmin(-1, keepdim=True), 3.0)
    wrong, gradient = learned(name, outside, truncated(teacher, 3))
    assert wrong > learned(name, teacher, truncated(teacher, 3))[0] + 1.0
    assert (gradient.gather(1, teacher.argmin(-1, keepdim=True)) > 0.05).all()


def test_trap_07_reverse_kl_is_warned_of_a_truncated_teacher():
    """Where the student goes beyond the named outcomes is left open: that is said before a run, not found after it."""
    model = make_llama(make_tokenizer())
    teacher = StoredTeacher(model, TopK(model.outcomes, 8), None)
    assert any("reverse_kl" in warning for warning in match(Objective(soft={"name": "reverse_kl"}), teacher))
    assert match(Objective(soft={"name": "forward_kl"}), teacher) == []


def test_trap_08_the_remainder_is_stored():
    """1 − Σ of probabilities that were rounded for storage is rounding, not remainder: where the teacher is sure it comes out as
    nothing, as too much, or below zero. It is measured before anything is rounded and stored by itself.

    Live against stored, for teachers from clueless to sure: the remainder within 2⁻¹¹ of its logit and what float32 adds, the
    named outcomes within the bound of docs/store.md.
    """
    g = torch.Generator().manual_seed(2)
    hidden = torch.randn(5, 40, generator=g) * torch.tensor([[0.1], [1.0], [3.0], [3.0], [2.0]])
    hidden[4, :8] += 24.0
    codec = TopK(40, 8)
    batch = make_batch([5], 40)
    stored = codec.decode(
        codec.encode(Signal(hidden_NH=hidden.clone(), head=Head(torch.eye(40))), batch), torch.device("cpu"), None
    )
    rests = []
    for n in range(5):
        p = [x.item() for x in softmax(list(hidden[n].double()))]
        named = sorted(range(40), key=lambda v: -p[v])[:8]
        rest = math.fsum(p[v] for v in range(40) if v not in named)
        logit = math.log(rest / math.fsum(p[v] for v in named))
        assert stored.rest_N[n].item() == pytest.approx(math.log(rest), abs=abs(logit) / 2**11 + 1e-5)
        for v, logp in zip(stored.ids_NK[n].tolist(), stored.logp_NK[n].tolist(), strict=True):
            depth = math.log(p[named[0]] / p[v])
            bound = 32 * (math.sqrt(max(depth, 0.0) / 32) / 255 + 1 / (4 * 255**2))
            deepest = math.log(p[named[0]] / p[named[-1]])
            moved = 32 * (math.sqrt(deepest / 32) / 255 + 1 / (4 * 255**2))
            assert logp == pytest.approx(math.log(p[v]), abs=bound + moved + 1e-3)
        rests.append(rest)
    assert rests[0] > 0.5 and rests[-1] < 1e-7  # less than float32 can tell from nothing beside 1


@pytest.mark.parametrize("temperature", [2.0, 4.0])
def test_trap_09_temperature_of_a_part(temperature: float, logits):
    """What is not named cannot be softened one by one: tempered as a single outcome, a remainder of a thousand outcomes gets a
    fraction of the probability that it has at T. It is tempered as if spread evenly, which is exact where it is even, and else
    too much: an error that is one number for all named outcomes of a position, that only lowers them, and that is none at T = 1.
    """
    student, teacher = (x.double() for x in logits)
    named = truncated(teacher, 3).ids_NK
    even = torch.full_like(teacher, -1.0).scatter_(1, named, teacher.gather(1, named) + 3.0)
    found, _ = learned("forward_kl", student, truncated(even, 3), temperature=temperature)
    expected = 0.0
    for n in range(5):
        merged = []
        for row in (even[n], student[n]):
            share = softmax(list(row), temperature)
            merged.append([*(share[v] for v in named[n]), sum(share[v] for v in range(V) if v not in named[n])])
        expected += temperature**2 * kl(*merged).item()
    assert found == pytest.approx(expected, rel=1e-5)

    uneven = truncated(teacher, 3)
    exact = torch.log_softmax(teacher / temperature, -1).gather(1, uneven.ids_NK)
    error = tempered(uneven, V, temperature)[:, :3] - exact
    torch.testing.assert_close(error, error[:, :1].expand(-1, 3), rtol=0, atol=1e-12)
    assert (error < -1e-3).all()
    torch.testing.assert_close(tempered(uneven, V, 1.0)[:, :3], torch.log_softmax(teacher, -1).gather(1, uneven.ids_NK))


def test_trap_09_a_server_is_asked_at_temperature_one():
    """Servers apply a temperature to what they write and not to the log-probabilities of the prompt, or the other way round. At
    1 there is nothing to misunderstand; other temperatures are made here."""
    asked: list[dict[str, Any]] = []

    class Nobody:
        url = "http://nowhere/v1"

        def map(self, one: Callable[[Any], Any], many: Iterable[Any]) -> list[Any]:
            return [one(each) for each in many]

        def post(self, path: str, body: dict[str, Any], **more: Any) -> dict[str, Any]:
            asked.append(body)
            raise TimeoutError

    class Nothing:
        def get(self, key: str) -> None:
            return None

    teacher = Served(make_llama(make_tokenizer()), Nobody(), Nothing(), k=4)  # type: ignore[arg-type]
    with pytest.raises(TimeoutError):
        teacher.signal(make_batch([6], 300))
    assert [body["temperature"] for body in asked] == [1.0]


# --- 10, 11: whose outcomes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "js", "logits_mse"])
@pytest.mark.parametrize("longer", ["student", "teacher"])
def test_trap_10_a_padded_head(name: str, longer: str, logits):
    """Models of one family round their heads up to other sizes, and the shorter logits get zeros to match: beside logits of −10
    a zero is a likely token. A constant added to all logits says nothing, and must change nothing; with zeros it does."""
    student, teacher = logits
    expected, gradient = learned(name, student, teacher)
    padding = torch.randn(5, 4, generator=torch.Generator().manual_seed(3))
    sides = {"student": student, "teacher": teacher}
    sides[longer] = torch.cat([sides[longer], padding], -1)
    for a, b in ((0.0, 0.0), (-9.0, 7.0)):
        value, found = learned(name, sides["student"] + a, sides["teacher"] + b)
        assert value == pytest.approx(expected, rel=1e-4)
        torch.testing.assert_close(found[:, :V], gradient, rtol=1e-3, atol=1e-5)
        assert (found[:, V:] == 0).all()


def permuted(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The same strings under other ids."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    table = rules["model"]["vocab"]
    special = {each["id"] for each in rules["added_tokens"]}
    last = max(table.values())
    rules["model"]["vocab"] = {t: i if i in special else last + len(special) - i for t, i in table.items()}
    inner = type(tokenizer.backend_tokenizer).from_str(json.dumps(rules))
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


def test_trap_11_ids_that_mean_something_else():
    """Two vocabularies of one size go together without an error and without a meaning: the student learns the probability of
    "the" for "dog". Sizes prove nothing, so each id is compared by the bytes it stands for."""
    ours, theirs = make_tokenizer(), permuted(make_tokenizer())
    assert len(ours) == len(theirs) and ours.get_vocab().keys() == theirs.get_vocab().keys()
    found = compare_vocabularies(ours, theirs)
    assert found.kind == "permuted" and not found.comparable
    assert compare_vocabularies(ours, make_tokenizer()).comparable
    content = {
        "data": {"sources": {"name": "text", "path": "text.txt"}},
        "teacher": "folder",
        "student": {"name": "pretrained", "model": "other"},
    }
    settings, teacher = stillhouse.recipe.parse(content), Teacher(make_llama(theirs))
    with pytest.raises(ModelError, match="otherwise: id 3"):
        tutor_of(settings, teacher, ours, lambda key: "")
    assert tutor_of(settings, teacher, permuted(make_tokenizer()), lambda key: "") is teacher


# --- 18: what was stored --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("material")
    make_llama(make_tokenizer()).save(folder / "teacher")
    make_llama(make_tokenizer(), seed=1).save(folder / "other")
    texts = [f"{LINES[i % 4]} {'and so on ' * (i % 5)}{i}" for i in range(24)]
    (folder / "text.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts), encoding="utf-8")
    label(settings_of(folder))
    return folder


def settings_of(folder: Path, model: str = "teacher") -> stillhouse.Recipe:
    content = {
        "run": str(folder / "run"),
        "data": {"sources": {"name": "jsonl", "path": str(folder / "text.jsonl")}, "block": 24},
        "teacher": {
            "name": "store",
            "path": str(folder / "store"),
            "model": str(folder / model),
            "k": 4,
            "dtype": "float32",
        },
        "student": {"name": "drop_layers", "keep": 1},
        "trainer": {"device": "cpu", "threads": 1},
    }
    return stillhouse.recipe.parse(content)


def test_trap_18_stored_signals_belong_to_an_example(material: Path):
    """Signals fetched by the number of the step fit as long as nothing is shuffled anew, resumed or packed into other lengths,
    and then teach one text with the words of another, silently. They are found by what the example is.

    Whatever the seed and the micro-batch, each position gets what the teacher says there when it reads its document alone.
    """
    settings = settings_of(material)
    stored = load(settings.teacher)
    model = stored.model
    corpus = data.prepare(settings.data, model.tokenizer, settings.folder / "data", teacher=model)
    seen: set[tuple[str, int]] = set()
    known = {place: said for batch, _ in corpus.train.all(4096) for place, said in places(batch, live(model, batch))}
    for seed, micro in ((0, 48), (1, 33), (2, 20)):
        for step in range(3):
            for batch in corpus.train.step(step, tokens_per_step=2 * micro, micro_tokens=micro, seed=seed):
                for place, said in places(batch, stored.signal(batch).ids_NK[:, 0]):
                    assert said == known[place]
                    seen.add(place)
    assert len(seen) > 150 and len(set(known.values())) > 10


def live(model: Any, batch: Batch) -> torch.Tensor:
    """The teacher's first choice at each position."""
    said: Signal = Teacher(model).signal(batch)
    return said.rows(0, len(batch.select_N)).logits_NV.argmax(-1)


def places(batch: Batch, said_N: torch.Tensor) -> list[tuple[tuple[str, int], int]]:
    """(key of the example, token of it) → what was said there."""
    found = []
    for p, d, said in zip(batch.select_N.tolist(), batch.document_N.tolist(), said_N.tolist(), strict=True):
        found.append(((batch.keys[d], batch.offsets_D[d] + p - batch.borders_D1[d]), said))
    return found


def test_trap_18_a_foreign_store_is_refused(material: Path):
    """Same text, same tokenizer, same options, another teacher."""
    with pytest.raises(RunError, match="the teacher"):
        load(settings_of(material, "other").teacher)
