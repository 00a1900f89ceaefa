"""A teacher's word on some of its tokens, against loops over probabilities."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from shared import make_llama, make_tokenizer
from tokenizers import Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import BPE, WordPiece
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers_zoo import ZOO
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast
from two_tokenizers import TEXTS, batch_of, make_word_piece

from stillhouse.errors import ModelError
from stillhouse.find import find
from stillhouse.models import Model
from stillhouse.objective.chunks import WeightedLoss, chunked
from stillhouse.student.builders.trim_vocabulary import trim_vocabulary
from stillhouse.student.trim import Vocabulary, trim_tokenizer
from stillhouse.teacher import Teacher
from stillhouse.teacher import kept as kept_module
from stillhouse.teacher.align import aligned
from stillhouse.teacher.kept import Kept, Onto, kept, kept_ids
from stillhouse.teacher.sources.ensemble import Ensemble
from stillhouse.types import Batch, Output, Signal
from stillhouse.vocabulary import contents

KINDS = ["byte_level", "metaspace", "several_ways", "word_piece", "unigram"]
SAMPLE = ["The still turns mash into spirit; the quick fox jumps.", "A student keeps what a teacher knows."]


@cache
def original(kind: str) -> Any:
    return ZOO[kind]()


@cache
def trimmed(kind: str, more: int = 12) -> Any:
    vocabulary = Vocabulary.of(original(kind), 10**6)
    return trim_tokenizer(
        original(kind),
        vocabulary.choose(vocabulary.count(original(kind), SAMPLE), len(vocabulary.always) + more),
    )


def positions(tokenizer: Any, length: int = 9, seed: int = 0) -> Batch:
    """One document of random tokens of the student."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, len(tokenizer), (length + 1,), generator=generator)
    n = torch.arange(length)
    return Batch(ids[:-1], n, (0, length), n, ids[1:], torch.ones(length), torch.zeros_like(n), ("a",), (0,))


@cache
def rules_of(student: Any) -> tuple[dict[str, Any], dict[str, int]]:
    model = json.loads(student.backend_tokenizer.to_str())["model"]
    return model | {
        "ranks": {tuple(pair): rank for rank, pair in enumerate(model.get("merges", []))}
    }, student.get_vocab()


@cache
def written_as(kind: str, student: Any, token: str) -> list[str]:
    """The student's tokens that a token is written as, by the rules of its kind, in plain loops."""
    model, have = rules_of(student)
    if kind == "word_piece":
        begins = [token[:stop] for stop in range(1, len(token) + 1)]
        known = [x for x in begins if x in have and x.startswith("##") == token.startswith("##") and x != "##"]
        if not known:
            return []
        rest = token[len(max(known, key=len)) :]
        return [max(known, key=len), *(written_as(kind, student, "##" + rest) if rest else [])]
    if kind == "unigram":
        scores = dict(model["vocab"])
        best: list[tuple[float, list[str]]] = [(0.0, [])]
        for stop in range(1, len(token) + 1):
            ways = [
                (best[start][0] + scores[token[start:stop]], [*best[start][1], token[start:stop]])
                for start in range(stop)
                if token[start:stop] in scores
            ]
            best.append(max(ways) if ways else (best[-1][0] - 50.0, [*best[-1][1], token[stop - 1]]))
        parts = best[-1][1]
    elif model["ignore_merges"] and token in have:
        return [token]
    else:
        parts = list(token)
        while ways := [model["ranks"][pair] for pair in pairwise(parts) if pair in model["ranks"]]:
            first, second = model["merges"][min(ways)]
            at = next(i for i in range(len(parts) - 1) if parts[i : i + 2] == [first, second])
            parts[at : at + 2] = [first + second]
    return [x for part in parts for x in ([part] if part in have else [f"<0x{byte:02X}>" for byte in part.encode()])]


def slow(kind: str, student: Any, teacher: Any, logits_T: Tensor) -> tuple[list[float], float]:
    """Of one position: the probability of each of the student's tokens, and what goes to none."""
    p = torch.softmax(logits_T[: len(teacher)].double(), -1).tolist()
    special = {t.content for t in teacher.added_tokens_decoder.values()}
    found, lost, have = [0.0] * len(student), 0.0, student.get_vocab()
    for token, number in teacher.get_vocab().items():
        here = token in have
        goes = [token] if here else [] if token in special else written_as(kind, student, token)
        if goes:
            found[have[goes[0]]] += p[number]
        else:
            lost += p[number]
    return found, lost


# -- which tokens -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ZOO)
def test_each_kept_token_is_the_teachers_of_the_same_name(kind: str):
    ids = kept_ids(trimmed(kind), original(kind))
    names = original(kind).convert_ids_to_tokens(ids.tolist())
    assert names == trimmed(kind).convert_ids_to_tokens(list(range(len(trimmed(kind)))))
    assert kept_ids(original(kind), original(kind)).tolist() == list(range(len(original(kind))))
    assert kept_ids(original(kind), trimmed(kind)) is None


def test_other_tokens_are_not_some_of_its_own():
    assert kept_ids(make_word_piece(), make_tokenizer()) is None
    assert kept_ids(original("word_piece"), original("byte_level")) is None
    with pytest.raises(ModelError, match="tokens that tiny does not have"):
        kept(Teacher(make_llama(make_tokenizer())), make_word_piece())


def test_the_same_bytes_are_not_the_same_token():
    """The letter A and the byte 0x41 stand for the same, and are two tokens."""
    tokenizer = original("metaspace")
    ids = kept_ids(trimmed("metaspace"), tokenizer)
    ours = trimmed("metaspace").get_vocab()
    letter = next(c for c in "abcdefghijklmnopqrstuvwxyz" if c in ours)
    theirs = tokenizer.get_vocab()
    assert contents(tokenizer)[theirs[letter]] == contents(tokenizer)[theirs[f"<0x{ord(letter):02X}>"]]
    assert (
        ids[ours[letter]] == theirs[letter] and ids[ours[f"<0x{ord(letter):02X}>"]] == theirs[f"<0x{ord(letter):02X}>"]
    )


def test_what_is_written_the_same_may_stand_for_something_else():
    """A word list's ``a`` is a letter after a space."""
    words = Tokenizer(WordPiece(vocab={"a": 0, "b": 1}, unk_token="b"))
    words.pre_tokenizer = BertPreTokenizer()
    letters = Tokenizer(BPE(vocab={"a": 0, "b": 1}, merges=[]))
    first, second = (PreTrainedTokenizerFast(tokenizer_object=each) for each in (words, letters))
    assert kept_ids(first, second) is None and kept_ids(second, second).tolist() == [0, 1]


def test_a_word_list_writes_the_longest_first():
    """``abc`` as ab + ##c, and ``##bc`` inside of words; the sign # is no beginning of it."""
    names = ["[UNK]", "#", "a", "ab", "##b", "##c", "abc", "##bc", "##bb", "x", "##xy"]
    inner = Tokenizer(WordPiece(vocab={name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    teacher = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]")
    student = trim_tokenizer(teacher, np.arange(6))
    onto = Onto.of(student, teacher, kept_ids(student, teacher))
    assert onto.onto_T.tolist() == [0, 1, 2, 3, 4, 5, 3, 4, 4, -1, -1]
    assert onto.lost.tolist() == [9, 10] and onto.dropped.tolist() == [6, 7, 8]
    inside = {begun: [*zip(*(x.tolist() for x in pair), strict=True)] for begun, pair in onto.inside.items()}
    assert inside == {(3,): [(6, 5)], (4,): [(7, 5), (8, 4)]}


# -- the whole distribution ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("more", [0, 12])
def test_all_probability_goes_to_what_each_token_is_written_as(kind: str, more: int):
    teacher, student = original(kind), trimmed(kind, more)
    model = make_llama(teacher)
    batch = positions(student)
    rows = kept(Teacher(model), student).signal(batch).rows(0, 9)
    ids = torch.tensor(teacher.convert_tokens_to_ids(student.convert_ids_to_tokens(batch.input_ids_P.tolist())))
    own = Teacher(model).signal(replace(batch, input_ids_P=ids)).rows(0, 9).logits_NV
    moved = 0
    for n in range(9):
        p, lost = slow(kind, student, teacher, own[n])
        found = torch.softmax(rows.logits_NV[n].double(), -1).tolist()
        assert found == pytest.approx([x / (1 - lost) for x in p], rel=1e-4, abs=1e-9)
        assert (1.0 if rows.weight_N is None else float(rows.weight_N[n])) == pytest.approx(1 - lost, abs=1e-5)
        moved += sum(
            abs(a - float(b)) > 1e-6
            for a, b in zip(p, torch.softmax(own[n], -1)[kept_ids(student, teacher)], strict=True)
        )
    assert moved > 20  # or nothing was put anywhere


@pytest.mark.parametrize("kind", ["byte_level", "word_piece"])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("chunk", [1, 4, 64])
def test_loss_and_gradient_are_those_of_the_definition(kind: str, temperature: float, chunk: int):
    teacher, student = original(kind), trimmed(kind)
    batch = positions(student)
    master, pupil = Teacher(make_llama(teacher)), make_llama(student, seed=1)
    hidden_NH = pupil(batch)[0].detach().requires_grad_()
    signal = kept(master, student).signal(batch)
    losses = [WeightedLoss("forward_kl", find("loss", "forward_kl"), 0.7, {"temperature": temperature}), WeightedLoss("cross_entropy", find("loss", "cross_entropy"), 0.3)]  # fmt: skip
    total, sums = chunked(losses, hidden_NH, pupil.head, signal, batch, 9.0, chunk)
    (grad_NH,) = torch.autograd.grad(total, hidden_NH)

    ids_V = torch.from_numpy(kept_ids(student, teacher))
    own = master.signal(replace(batch, input_ids_P=ids_V[batch.input_ids_P])).rows(0, 9).logits_NV
    slow_NH = hidden_NH.detach().double().requires_grad_()
    value, hard = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for n in range(9):
        p, lost = slow(kind, student, teacher, own[n])
        assert lost < 1e-9
        soft = torch.tensor(p, dtype=torch.float64) ** (1 / temperature)
        soft = soft / soft.sum()
        logits = slow_NH[n] @ pupil.head_layer.weight.detach().double().T
        q = torch.exp(logits / temperature) / torch.exp(logits / temperature).sum()
        value = value + temperature**2 * sum(
            a * (torch.log(a) - torch.log(b)) for a, b in zip(soft, q, strict=True) if a > 0
        )
        hard = hard - torch.log(torch.exp(logits) / torch.exp(logits).sum())[batch.labels_N[n]]
    expected = (0.7 * value + 0.3 * hard) / 9.0
    assert sums.tolist() == pytest.approx([value.item(), hard.item()], rel=1e-4)
    assert total.item() == pytest.approx(expected.item(), rel=1e-4)
    (slow_grad_NH,) = torch.autograd.grad(expected, slow_NH)
    torch.testing.assert_close(grad_NH.double(), slow_grad_NH, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("loss", ["forward_kl", "reverse_kl"])
def test_what_the_student_cannot_say_weighs_the_position_down(loss: str):
    """Σ over the kept tokens of p · log(p / q): the divergence of what is left, times how much is left."""
    teacher, student = original("byte_level"), trimmed("byte_level")
    onto = Onto.of(student, teacher, kept_ids(student, teacher))
    gone = onto.dropped  # as if no dropped token could be written at all
    onto = replace(onto, dropped=gone[:0], groups=gone[:0], firsts=gone[:0], lost=gone)
    batch = positions(student)
    master, pupil = Teacher(make_llama(teacher)), make_llama(student, seed=1)
    hidden_NH = pupil(batch)[0].detach().requires_grad_()
    signal = Kept(master, student, onto).signal(batch)
    weighted = [WeightedLoss(loss, find("loss", loss), 1.0)]
    total, _ = chunked(weighted, hidden_NH, pupil.head, signal, batch, 9.0, 4)
    (grad_NH,) = torch.autograd.grad(total, hidden_NH)
    own = master.signal(replace(batch, input_ids_P=onto.ids_V[batch.input_ids_P])).rows(0, 9).logits_NV
    slow_NH = hidden_NH.detach().double().requires_grad_()
    value = torch.zeros((), dtype=torch.float64)
    for n in range(9):
        p_T = torch.softmax(own[n].double(), -1)
        p = [p_T[i] for i in onto.ids_V.tolist()]
        left = sum(p)
        assert 0.2 < float(left) < 0.999
        q = torch.softmax(slow_NH[n] @ pupil.head_layer.weight.detach().double().T, -1)
        if loss == "forward_kl":  # Σ p log(p/q), less what does not depend on the student
            value = value + sum(a * torch.log(a / b) for a, b in zip(p, q, strict=True)) - left * torch.log(left)
        else:
            value = value + left * sum(b * torch.log(b / (a / left)) for a, b in zip(p, q, strict=True))
    assert total.item() == pytest.approx(value.item() / 9.0, rel=1e-4)
    (slow_grad_NH,) = torch.autograd.grad(value / 9.0, slow_NH)
    torch.testing.assert_close(grad_NH.double(), slow_grad_NH, rtol=1e-3, atol=1e-6)


def test_the_whole_vocabulary_is_the_teacher_itself():
    teacher = original("byte_level")
    whole = trim_tokenizer(teacher, np.arange(len(teacher)))
    master, batch = Teacher(make_llama(teacher)), positions(teacher)
    assert kept(master, whole) is master
    through = Kept(master, whole, Onto.of(whole, teacher, kept_ids(whole, teacher))).signal(batch)
    assert torch.equal(through.rows(0, 9).logits_NV, master.signal(batch).rows(0, 9).logits_NV)
    pupil = make_llama(teacher, seed=1)
    hidden_NH = pupil(batch)[0].detach().requires_grad_()
    found = []
    for signal in (through, master.signal(batch)):
        losses = [WeightedLoss("forward_kl", find("loss", "forward_kl"), 1.0)]
        total, _ = chunked(losses, hidden_NH, pupil.head, signal, batch, 9.0, 4)
        found.append((total, torch.autograd.grad(total, hidden_NH)[0]))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


def test_the_same_tokens_in_another_order():
    teacher = original("byte_level")
    rules = json.loads(teacher.backend_tokenizer.to_str())
    order = np.random.default_rng(0).permutation(len(teacher) - 3) + 3
    names = {i: t for t, i in teacher.get_vocab().items()}
    rules["model"]["vocab"] = {names[i]: i for i in range(3)} | {
        names[int(old)]: new + 3 for new, old in enumerate(order)
    }
    other = type(teacher)(tokenizer_object=teacher.backend_tokenizer.from_str(json.dumps(rules)))
    batch, model = positions(other), make_llama(teacher)
    said = kept(Teacher(model), other).signal(batch).rows(0, 9).logits_NV
    ids = torch.tensor([0, 1, 2, *order.tolist()])
    own = Teacher(model).signal(replace(batch, input_ids_P=ids[batch.input_ids_P])).rows(0, 9).logits_NV
    assert torch.equal(said, own[:, ids])


def test_it_reads_the_students_tokens_under_its_own_ids():
    """A trimmed teacher, which knows no other tokens, has the same states at the student's ids."""
    teacher = make_llama(original("byte_level"))
    small = trim_vocabulary(teacher, lambda: SAMPLE, size=275).eval()
    master = kept(Teacher(teacher), small.tokenizer)
    batch = positions(small.tokenizer)
    want = frozenset({"hidden", "attention"})
    said, own = master.signal(batch, want), Teacher(small).signal(batch, want)
    assert torch.equal(said.inner.hidden_NH, own.hidden_NH)
    for a, b in zip(said.layers["hidden"], own.layers["hidden"], strict=True):
        assert torch.equal(a, b)
    assert torch.equal(said.layers["attention"][0].query, own.layers["attention"][0].query)


def test_labels_are_asked_for_under_its_own_ids():
    seen = []

    class Listening(Teacher):
        def signal(self, batch: Batch, want: frozenset[str] = frozenset()) -> Signal:
            seen.append(batch)
            return super().signal(batch, want)

    teacher, student = original("byte_level"), trimmed("byte_level")
    batch = positions(student)
    kept(Listening(make_llama(teacher)), student).signal(batch)
    for name in ("input_ids_P", "labels_N"):
        ours, theirs = getattr(batch, name).tolist(), getattr(seen[0], name).tolist()
        assert student.convert_ids_to_tokens(ours) == teacher.convert_ids_to_tokens(theirs)


@pytest.mark.parametrize("start", [0, 3])
def test_a_few_positions_at_a_time_are_all_at_once(start: int, monkeypatch):
    teacher, student = original("byte_level"), trimmed("byte_level")
    signal = kept(Teacher(make_llama(teacher)), student).signal(positions(student, 50))
    whole = signal.rows(start, 50).logits_NV
    monkeypatch.setattr(kept_module, "BUFFER_BYTES", 1)
    out = torch.empty_like(whole)
    assert torch.allclose(signal.rows(start, 50, out=out).logits_NV, whole, atol=1e-5) and torch.equal(out, signal.rows(start, 50).logits_NV)  # fmt: skip
    assert signal.rows(7, 7).logits_NV.shape == (0, len(student))
    assert signal.vocabulary == len(student) and signal.dense and signal.form == "dense"


def test_invented_tokens_of_a_padded_head_change_nothing():
    teacher, student = original("byte_level"), trimmed("byte_level")
    model, batch = make_llama(teacher), positions(student)
    before = kept(Teacher(model), student).signal(batch).rows(0, 9).logits_NV
    T, H = model.head_layer.weight.shape
    layer = nn.Linear(H, T + 10)
    with torch.no_grad():
        layer.weight[:T], layer.bias[:T], layer.bias[T:] = model.head_layer.weight, 0.0, 40.0
    model.network.set_output_embeddings(layer)
    after = kept(Teacher(model), student).signal(batch).rows(0, 9)
    torch.testing.assert_close(torch.log_softmax(after.logits_NV, -1), torch.log_softmax(before, -1))
    assert after.weight_N is None


def test_extremes_are_finite():
    teacher, student = original("byte_level"), trimmed("byte_level")
    onto = Onto.of(student, teacher, kept_ids(student, teacher))
    logits = torch.full((4, len(teacher)), -300.0)
    logits[0, int(onto.dropped[0])] = 300.0  # all on a token that was dropped
    logits[1, int(onto.ids_V[5])] = 300.0
    logits[2] = 0.0
    logits[3, 0] = 300.0
    found, weight_N = onto.dense(logits.clone())
    assert weight_N is None and torch.isfinite(found).all()
    p = torch.softmax(found.double(), -1)
    assert p[0, int(onto.firsts[onto.groups[0]])] == pytest.approx(1.0) and p[1, 5] == pytest.approx(1.0)
    assert p[2].sum() == pytest.approx(1.0) and p[2].max() > 2 / len(teacher)
    assert all_lost(onto)


def all_lost(onto: Onto) -> bool:
    """Where all of the probability is lost the weight is 0, and nothing is NaN."""
    onto = replace(onto, lost=torch.tensor([0]), ids_V=onto.ids_V[1:], firsts=onto.firsts - 1)
    logits = torch.full((1, 400), -300.0)
    logits[0, 0] = 300.0
    found, weight_N = onto.dense(logits)
    return bool(torch.isfinite(found).all()) and float(weight_N[0]) == 0.0


# -- several teachers, and what they are --------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", ["probabilities", "logits"])
def test_several_teachers_are_averaged_and_then_put_onto_the_tokens(mean: str):
    teacher, student = original("byte_level"), trimmed("byte_level")
    members = [Teacher(make_llama(teacher, seed=seed)) for seed in range(2)]
    master, batch = Ensemble(members, mean=mean, shares=[0.7, 0.3]), positions(student)
    master = kept(master, student)
    found = torch.softmax(master.signal(batch).rows(2, 9).logits_NV.double(), -1)
    ids_V = torch.from_numpy(kept_ids(student, teacher))
    own = [m.signal(replace(batch, input_ids_P=ids_V[batch.input_ids_P])).rows(2, 9).logits_NV for m in members]
    log_p = [torch.log_softmax(x.double(), -1) for x in own]
    both = 0.7 * log_p[0] + 0.3 * log_p[1] if mean == "logits" else (0.7 * log_p[0].exp() + 0.3 * log_p[1].exp()).log()
    for n in range(7):
        assert found[n].tolist() == pytest.approx(slow("byte_level", student, teacher, both[n])[0], rel=1e-4, abs=1e-9)
    assert not master.alone and not master.shows


def test_it_is_the_teacher_in_all_else():
    teacher, student = original("byte_level"), trimmed("byte_level")
    inner = Teacher(make_llama(teacher))
    master = kept(inner, student)
    assert (master.name, master.tokenizer, master.model) == (inner.name, teacher, inner.model)
    assert (master.forms, master.shows, master.alone) == (inner.forms, inner.shows, inner.alone)
    assert master.same_outcomes and not any(p.requires_grad for p in master.model.parameters())
    moved, batch = master.placed(lambda model: model), positions(student)
    assert torch.equal(moved.signal(batch).rows(0, 9).logits_NV, master.signal(batch).rows(0, 9).logits_NV)
    other = make_llama(teacher, seed=3)
    placed = master.placed(lambda model: other)
    assert placed.model is other and not torch.equal(placed.signal(batch).rows(0, 9).logits_NV, moved.signal(batch).rows(0, 9).logits_NV)  # fmt: skip


def test_its_own_reading_of_the_text_is_told_where_the_text_is_there():
    teacher, student = original("byte_level"), trimmed("byte_level")
    inner = Teacher(make_llama(teacher))
    batch = batch_of(student, TEXTS)
    assert kept(inner, student).nll(batch) is None
    master = kept(inner, student, TEXTS.__getitem__)
    assert torch.equal(master.nll(batch), aligned(inner, student, TEXTS.__getitem__).nll(batch))
    own = inner.signal(batch_of(teacher, TEXTS))
    labels = batch_of(teacher, TEXTS).labels_N
    expected = -torch.log_softmax(own.rows(0, len(labels)).logits_NV.double(), -1).gather(-1, labels[:, None]).sum()
    # the first token of a text costs nothing, and the student's is a part of it where it is shorter
    assert float(master.nll(batch).sum()) == pytest.approx(float(expected), rel=0.05)


# -- reading its own tokens ---------------------------------------------------------------------------------------------

OWN = ["byte_level", "several_ways", "metaspace"]


def borders(tokenizer: Any, ids: list[int]) -> list[int]:
    """The byte at which each token begins, from what it stands for."""
    meaning, found = contents(tokenizer), [0]
    for number in ids:
        found.append(found[-1] + (len(meaning[number]) if isinstance(meaning[number], bytes) else 0))
    return found[:-1]


def definition(kind: str, student: Any, teacher: Any, model: Model, text: str) -> list[tuple[list[float], bool]]:
    """For each of the student's tokens but the first: what it should be told, and whether the text was inside a token."""
    ours = [*student(text).input_ids, student.eos_token_id]
    theirs = [*teacher(text).input_ids, teacher.eos_token_id]
    with torch.no_grad(), model.generating() as network:
        logits_LT = network(input_ids=torch.tensor([theirs])).logits[0]
    at_ours, at_theirs = borders(student, ours), borders(teacher, theirs)
    names, have = {number: token for token, number in teacher.get_vocab().items()}, student.get_vocab()
    told = []
    for i in range(1, len(ours)):
        begins = max(k for k, at in enumerate(at_theirs) if at <= at_ours[i])
        if at_theirs[begins] == at_ours[i]:
            told.append((slow(kind, student, teacher, logits_LT[begins - 1])[0] if begins else [], False))
            continue
        so_far = student.convert_ids_to_tokens(
            [ours[j] for j in range(i) if at_ours[j] >= at_theirs[begins] and ours[j] not in student.all_special_ids]
        )
        p = torch.softmax(logits_LT[begins - 1].double(), -1).tolist() if begins else []
        found = [0.0] * len(student)
        for number, probability in enumerate(p[: len(teacher)]):
            name = names[number]
            parts = [name] if name in have else written_as(kind, student, name)
            if len(parts) > len(so_far) and parts[: len(so_far)] == so_far and name not in teacher.all_special_tokens:
                found[have[parts[len(so_far)]]] += probability
        told.append(([x / sum(found) for x in found] if sum(found) else [], True))
    return told


@pytest.mark.parametrize("kind", OWN)
def test_it_reads_its_own_tokens_and_says_how_they_go_on(kind: str):
    teacher, student = original(kind), trimmed(kind, 4)
    model = make_llama(teacher)
    texts = {name: text for name, text in TEXTS.items() if name != "b" or kind != "metaspace"}
    batch = batch_of(student, texts)
    rows = kept(Teacher(model), student, texts.__getitem__).signal(batch).rows(0, len(batch.labels_N))
    expected = [row for text in texts.values() for row in definition(kind, student, teacher, model, text)]
    assert len(expected) == len(batch.labels_N)
    inside = 0
    for n, (p, within) in enumerate(expected):
        assert float(rows.weight_N[n]) == (1.0 if p else 0.0)
        if p:
            assert torch.softmax(rows.logits_NV[n].double(), -1).tolist() == pytest.approx(p, rel=1e-3, abs=1e-8)
            inside += within
    assert inside > 15 and torch.isfinite(rows.logits_NV).all()


def test_what_it_says_of_a_text_is_never_less_than_its_own_reading():
    """A token's beginning is at least as likely as the token, and the rest of it follows."""
    teacher, student = original("byte_level"), trimmed("byte_level", 4)
    model = make_llama(teacher)
    batch = batch_of(student, {"c": TEXTS["c"]})
    master = kept(Teacher(model), student, TEXTS.__getitem__)
    rows = master.signal(batch).rows(0, len(batch.labels_N))
    told = -torch.log_softmax(rows.logits_NV.double(), -1).gather(-1, batch.labels_N[:, None])[:, 0] * rows.weight_N
    own = master.nll(batch)
    assert 0.5 * own.sum() < told.sum() < own.sum()


def test_loss_and_gradient_where_it_reads_its_own_tokens():
    kind = "byte_level"
    teacher, student = original(kind), trimmed(kind, 4)
    model, pupil = make_llama(teacher), make_llama(student, seed=1)
    batch = batch_of(student, {"a": TEXTS["a"]})
    N = len(batch.labels_N)
    hidden_NH = pupil(batch)[0].detach().requires_grad_()
    signal = kept(Teacher(model), student, TEXTS.__getitem__).signal(batch)
    total, _ = chunked(
        [WeightedLoss("kl", find("loss", "forward_kl"), 1.0)], hidden_NH, pupil.head, signal, batch, N, 7
    )
    (grad_NH,) = torch.autograd.grad(total, hidden_NH)
    slow_NH = hidden_NH.detach().double().requires_grad_()
    value = torch.zeros((), dtype=torch.float64)
    for n, (p, _) in enumerate(definition(kind, student, teacher, model, TEXTS["a"])):
        q = torch.softmax(slow_NH[n] @ pupil.head_layer.weight.detach().double().T, -1)
        value = value + sum(a * (math.log(a) - torch.log(b)) for a, b in zip(p, q, strict=bool(p)) if a > 0)
    assert total.item() == pytest.approx(value.item() / N, rel=1e-4)
    torch.testing.assert_close(grad_NH.double(), torch.autograd.grad(value / N, slow_NH)[0], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("run", [(0, 9), (5, 30), (6, 30), (7, 31), (8, 12)])
def test_a_run_that_begins_anywhere(run: tuple[int, int]):
    """What is inside of a token that began before the run has nothing said of it; else it is told as in the whole text."""
    teacher, student = original("byte_level"), trimmed("byte_level", 4)
    master = kept(Teacher(make_llama(teacher)), student, TEXTS.__getitem__)
    whole, part = batch_of(student, {"a": TEXTS["a"]}), batch_of(student, {"a": TEXTS["a"]}, {"a": run})
    rows = master.signal(part).rows(0, run[1] - run[0])
    assert torch.equal(part.labels_N, whole.labels_N[run[0] : run[1]])
    assert (float(rows.weight_N.mean()) > 0.4 or run == (8, 12)) and set(rows.weight_N.tolist()) <= {0.0, 1.0}
    if run[0] == 0:
        expected = master.signal(whole).rows(*run)
        said = rows.weight_N > 0
        torch.testing.assert_close(rows.logits_NV[said], expected.logits_NV[said], rtol=1e-4, atol=1e-4)


def test_positions_without_loss_leave_the_inside_unsaid():
    """The token's beginning carries no loss, so that no row of the teacher is there to go on from."""
    teacher, student = original("byte_level"), trimmed("byte_level", 4)
    master = kept(Teacher(make_llama(teacher)), student, TEXTS.__getitem__)
    batch = batch_of(student, {"a": TEXTS["a"]})
    every = master.signal(batch)
    first = min(every.begun)
    n = torch.arange(first, len(batch.labels_N))
    cut = replace(batch, select_N=batch.select_N[n], labels_N=batch.labels_N[n], weight_N=batch.weight_N[n], document_N=batch.document_N[n])  # fmt: skip
    some = master.signal(cut).rows(0, len(n))
    assert some.weight_N[0] == 0.0 and some.weight_N[1:].sum() > 10
    gap = torch.tensor([i for i in range(len(batch.labels_N)) if i != first])
    hole = replace(batch, select_N=batch.select_N[gap], labels_N=batch.labels_N[gap], weight_N=batch.weight_N[gap], document_N=batch.document_N[gap])  # fmt: skip
    longer = [i for i in every.begun if i - 1 == first]
    assert longer, "a token of three parts"
    assert master.signal(hole).rows(0, len(gap)).weight_N[first] == 0.0


def test_a_student_that_cuts_across_the_teachers_tokens_is_told_nothing_there():
    """Without ``ab``, ``abc`` is a + bc and no longer ab + c: the teacher never said anything of bc."""
    vocabulary = {token: i for i, token in enumerate(["<e>", "a", "b", "c", "ab", "bc"])}
    rules = {"vocab": vocabulary, "merges": [("a", "b"), ("b", "c")]}
    inner = Tokenizer(BPE(**rules))
    inner.add_special_tokens(["<e>"])
    inner.decoder = Fuse()
    teacher = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<e>")
    student = trim_tokenizer(teacher, np.asarray([0, 1, 2, 3, 5]))
    assert teacher.tokenize("cabc") == ["c", "ab", "c"] and student.tokenize("cabc") == ["c", "a", "bc"]
    batch = batch_of(student, {"x": "cabc"})
    said = kept(Teacher(make_llama(teacher)), student, lambda key: "cabc").signal(batch).rows(0, 3)
    assert said.weight_N.tolist() == [1.0, 0.0, 1.0]  # a, bc, the end


@pytest.mark.parametrize(
    ("select", "document", "begun"), [([0, 1], [0, 0], {1: (1,)}), ([0, 2], [0, 0], {}), ([0, 1], [0, 1], {})]
)
def test_what_is_inside_follows_at_once_in_the_same_document(select: list[int], document: list[int], begun: dict):
    """The student's 1 and 2 are a token of the teacher, of which it spoke at the first."""
    none = torch.zeros(0, dtype=torch.int64)
    onto = Onto(torch.arange(3), torch.tensor([0, 1, 2, 1]), none, none, none, none, {(1,): (torch.tensor([3]), torch.tensor([2]))})  # fmt: skip
    batch = Batch(none, none, (0, 3), torch.tensor(select), torch.tensor([1, 2]), torch.ones(2), torch.tensor(document))
    found, has_N = kept_module._fill(torch.tensor([0, -1]), batch, onto)
    assert found == begun and has_N.tolist() == [True, bool(begun)]


def test_layers_are_those_of_the_students_tokens():
    teacher, student = original("byte_level"), trimmed("byte_level")
    model, batch = make_llama(teacher), batch_of(student, TEXTS)
    want = frozenset({"hidden"})
    with_texts = kept(Teacher(model), student, TEXTS.__getitem__).signal(batch, want)
    without = kept(Teacher(model), student).signal(batch, want)
    assert torch.equal(with_texts.layers["hidden"][0], without.layers["hidden"][0])
    n = len(batch.labels_N)
    assert torch.equal(with_texts.rows(0, n).logits_NV, without.rows(0, n).logits_NV)


def test_a_text_that_is_not_there_is_read_as_the_student_wrote_it():
    teacher, student = original("byte_level"), trimmed("byte_level")
    model, batch = make_llama(teacher), batch_of(student, {"new": TEXTS["a"]})
    with_texts, without = (kept(Teacher(model), student, texts) for texts in (TEXTS.__getitem__, None))
    n = len(batch.labels_N)
    assert torch.equal(with_texts.signal(batch).rows(0, n).logits_NV, without.signal(batch).rows(0, n).logits_NV)


@pytest.mark.parametrize("routed", [False, True])
def test_several_teachers_read_their_own_tokens(routed: bool):
    teacher, student = original("byte_level"), trimmed("byte_level", 4)
    members = [Teacher(make_llama(teacher, seed=seed)) for seed in range(2)]
    batch = replace(batch_of(student, TEXTS), tasks=("one", "two", "one"))
    route = {"two": [0.0, 1.0]} if routed else None
    both = Ensemble(members, mean="probabilities", shares=[1.0, 0.0] if routed else [0.5, 0.5], route=route)
    n = len(batch.labels_N)
    found = torch.softmax(kept(both, student, TEXTS.__getitem__).signal(batch).rows(0, n).logits_NV.double(), -1)
    alone = [torch.softmax(kept(m, student, TEXTS.__getitem__).signal(batch).rows(0, n).logits_NV.double(), -1) for m in members]  # fmt: skip
    begun = kept(members[0], student, TEXTS.__getitem__).signal(batch).begun
    for i in range(n):
        if routed:
            expected = alone[int(batch.document_N[i] == 1)][i]
        elif i in begun:  # a mean of what is inside of a token is weighed by how likely each thinks it is
            continue
        else:
            expected = 0.5 * alone[0][i] + 0.5 * alone[1][i]
        torch.testing.assert_close(found[i], expected, rtol=1e-3, atol=1e-6)


def test_a_batch_of_which_it_has_nothing_to_say():
    teacher, student = original("byte_level"), trimmed("byte_level", 0)
    master = kept(Teacher(make_llama(teacher)), student, TEXTS.__getitem__)
    rows = master.signal(batch_of(student, {"a": TEXTS["a"]}, {"a": (5, 6)})).rows(0, 1)
    assert rows.weight_N.tolist() == [0.0] and rows.logits_NV.shape == (1, len(student))


# -- a part of the distribution -----------------------------------------------------------------------------------------


class Truncated(Teacher):
    """Names only the likeliest outcomes, or all of them."""

    forms = frozenset({"topk"})

    def __init__(self, model: Model, k: int) -> None:
        super().__init__(model)
        self.k = k

    def signal(self, batch: Batch, want: frozenset[str] = frozenset()) -> Signal:
        rows = super().signal(batch).rows(0, len(batch.labels_N))
        logp_NK, ids_NK = torch.log_softmax(rows.logits_NV.double(), -1).topk(self.k, -1)
        rest_N = torch.log((1 - logp_NK.exp().sum(-1)).clamp_min(1e-12))
        ids_NK = torch.cat([ids_NK, torch.full((len(ids_NK), 2), -1)], -1)
        logp_NK = torch.cat([logp_NK, torch.full((len(ids_NK), 2), -math.inf)], -1)
        return Signal(ids_NK=ids_NK, logp_NK=logp_NK.float(), rest_N=rest_N.float())


@pytest.mark.parametrize("k", [1, 8, 40])
def test_named_outcomes_are_added_up_where_they_go(k: int):
    teacher, student = original("byte_level"), trimmed("byte_level")
    model, batch = make_llama(teacher), positions(student)
    ids_V = torch.from_numpy(kept_ids(student, teacher))
    own = Truncated(model, k).signal(replace(batch, input_ids_P=ids_V[batch.input_ids_P]))
    said = kept(Truncated(model, k), student).signal(batch)
    names = {i: t for t, i in teacher.get_vocab().items()}
    for n in range(9):
        expected: dict[int, float] = {}
        for number, logp in zip(own.ids_NK[n].tolist(), own.logp_NK[n].tolist(), strict=True):
            if number >= 0:
                name = names[number]
                parts = [name] if name in student.get_vocab() else written_as("byte_level", student, name)
                goes = student.get_vocab()[parts[0]]
                expected[goes] = expected.get(goes, 0.0) + math.exp(logp)
        named = said.ids_NK[n][said.ids_NK[n] >= 0].tolist()
        assert len(named) == len(set(named)) and set(named) == set(expected)
        found = dict(zip(said.ids_NK[n].tolist(), said.logp_NK[n].exp().tolist(), strict=True))
        assert {i: found[i] for i in named} == pytest.approx(expected, rel=1e-5)
        assert found.get(-1, 0.0) == 0.0 and said.logp_NK[n].tolist() == sorted(said.logp_NK[n].tolist(), reverse=True)
    assert torch.equal(said.rest_N, own.rest_N) and said.weight_N is None


@pytest.mark.parametrize("kind", ["byte_level", "word_piece"])
def test_naming_all_outcomes_is_the_whole_distribution(kind: str):
    teacher, student = original(kind), trimmed(kind)
    model, batch, pupil = make_llama(teacher), positions(student), make_llama(student, seed=1)
    hidden_NH = pupil(batch)[0].detach().requires_grad_()
    found = []
    for master in (kept(Truncated(model, len(teacher)), student), kept(Teacher(model), student)):
        losses = [WeightedLoss("forward_kl", find("loss", "forward_kl"), 1.0)]
        total, _ = chunked(losses, hidden_NH, pupil.head, master.signal(batch), batch, 9.0)
        found.append((total.item(), torch.autograd.grad(total, hidden_NH)[0]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-3)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-2, atol=1e-4)


def test_a_named_outcome_that_cannot_be_said_weighs_the_position_down():
    onto = Onto(
        ids_V=torch.tensor([0, 1, 2]), onto_T=torch.tensor([0, 1, 2, 1, -1]), dropped=torch.tensor([3]), groups=torch.tensor([0]),
        firsts=torch.tensor([1]), lost=torch.tensor([4]), inside={},
    )  # fmt: skip
    said = Signal(
        ids_NK=torch.tensor([[4, 3, 1], [0, 2, -1]]),
        logp_NK=torch.tensor([[0.5, 0.2, 0.1], [0.6, 0.1, 0.0]]).log(),
        rest_N=torch.tensor([0.2, 0.3]).log(),
    )
    found = onto.named(said)
    assert found.ids_NK.tolist() == [[1, -1, -1], [0, 2, -1]]
    assert found.logp_NK.exp().tolist()[0] == pytest.approx([0.6, 0.0, 0.0])
    assert found.logp_NK.exp().tolist()[1] == pytest.approx([0.6, 0.1, 0.0])
    assert found.rest_N.exp().tolist() == pytest.approx([0.4, 0.3])
    assert found.weight_N.tolist() == pytest.approx([0.5, 1.0])
    half = onto.named(replace(said, weight_N=torch.tensor([0.5, 0.5])))
    assert half.weight_N.tolist() == pytest.approx([0.25, 0.5])
    drawn = onto.named(replace(said, sampled=True, rest_N=torch.full((2,), -math.inf)))
    assert drawn.sampled and drawn.weight_N is None
    assert drawn.logp_NK.exp().tolist()[0] == pytest.approx([0.3, 0.0, 0.0])  # not normalised: each is an estimate


def test_a_loss_takes_what_it_is_told():
    """Every loss on outcomes that does not name a vocabulary takes the signal as it takes any other."""
    teacher, student = original("byte_level"), trimmed("byte_level")
    batch = positions(student)
    rows = kept(Teacher(make_llama(teacher)), student).signal(batch).rows(0, 9)
    out = Output(torch.randn(9, len(student), generator=torch.Generator().manual_seed(0)))
    for name in ("forward_kl", "reverse_kl", "js", "total_variation", "decoupled_kd", "gold", "logits_mse"):
        value_N = find("loss", name)(out, rows, batch)
        assert value_N.shape == (9,) and torch.isfinite(value_N).all()
