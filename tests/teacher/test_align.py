"""A teacher of other tokens says at the student's positions what it says at its own that begin at the same byte."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedTokenizerFast
from two_tokenizers import TEXTS, batch_of, end_of, make_byte_level, make_model, make_word_piece

from stillhouse.data import prepare
from stillhouse.errors import DataError
from stillhouse.find import find
from stillhouse.models import Model
from stillhouse.objective.chunks import WeightedLoss, chunked
from stillhouse.recipe import Data
from stillhouse.teacher import Teacher
from stillhouse.teacher.align import Alignment, aligned, match
from stillhouse.types import Batch, Output, Signal
from stillhouse.vocabulary import Tokens, contents

MAKERS = {"byte_level": make_byte_level, "word_piece": make_word_piece}


def pieces(tokenizer, text: str) -> list[tuple[int, int, int]]:
    """(id, first byte, byte after the last) of each token and the end token, by walking over the text."""
    enc = tokenizer(text, return_offsets_mapping=True, split_special_tokens=True)
    found, at = [], 0
    if "Ġ" in json.dumps(tokenizer.get_vocab(), ensure_ascii=False):  # byte-level: each token's own bytes in turn
        meaning = contents(tokenizer)
        for i in enc["input_ids"]:
            assert text.encode()[at : at + len(meaning[i])] == meaning[i]
            found.append((i, at, at + len(meaning[i])))
            at += len(meaning[i])
    else:
        for i, (_, stop) in zip(enc["input_ids"], enc["offset_mapping"], strict=True):
            stop = len(text[:stop].encode())
            found.append((i, at, max(at, stop)))
            at = max(at, stop)
        last = max(k for k, (i, _, _) in enumerate(found) if i not in (tokenizer.cls_token_id, tokenizer.sep_token_id))
        found[last] = (*found[last][:2], len(text.encode()))  # spaces at the end are the last word's
        found[last + 1 :] = [(i, len(text.encode()), len(text.encode())) for i, _, _ in found[last + 1 :]]
    if found[-1][0] != end_of(tokenizer):
        found.append((end_of(tokenizer), at, at))
    return found


def expected(student, teacher, text: str, start: int, stop: int):
    """For each position of a run: None, or (the teacher's tokens before, whether exact), by looking at every pair."""
    ours, theirs = pieces(student, text), pieces(teacher, text)
    meanings = contents(student), contents(teacher)
    ends = end_of(student), end_of(teacher)
    leading = [i for i, a, b in theirs if (a, b) == (0, 0)]
    first_byte = ours[start][1]
    for label, a, b in ours[start + 1 : stop + 1]:
        answer = None
        for k, (other, c, d) in enumerate(theirs):
            both_end = label == ends[0] and other == ends[1] and a == b == c == d == len(text.encode())
            if not both_end and (a == b or c == d or a != c):
                continue
            before = [i for i, e, f in theirs[:k] if e >= first_byte and f > e]
            if not before and (first_byte > 0 or not leading):
                continue  # the teacher would speak without having read anything
            exact = both_end or (b == d and meanings[0][label] == meanings[1][other])
            answer = (leading + before, exact)
        yield answer


@pytest.mark.parametrize("seed", range(20))
def test_partners_are_those_that_begin_at_the_same_byte(seed: int):
    draw = random.Random(seed)
    text = draw.randint(1, 12)

    def cut() -> Tokens:
        at = sorted([0, text, *(draw.randint(0, text) for _ in range(draw.randint(0, 9)))])  # equal ones: no text
        return Tokens(np.arange(len(at) - 1), np.asarray(at), text)

    ours, theirs = cut(), cut()
    partner, same = match(ours, theirs, (None, None))
    for n in range(len(ours.ids_L)):
        a, b = ours.borders_L1[n : n + 2]
        found = [
            k for k in range(len(theirs.ids_L))
            if theirs.borders_L1[k] == a and theirs.borders_L1[k + 1] > theirs.borders_L1[k] and b > a
        ]  # fmt: skip
        assert partner[n] == (found[0] if found else -1)
        assert same[n] == bool(found and theirs.borders_L1[found[0] + 1] == b)


RUNS = [None, {"a": (2, 9), "b": (5, 30), "c": (1, 4)}, {"a": (0, 1), "b": (10, 11), "c": (7, 20)}]


@pytest.mark.parametrize("runs", RUNS)
@pytest.mark.parametrize(("of_student", "of_teacher"), [("byte_level", "word_piece"), ("word_piece", "byte_level")])
def test_it_says_what_the_teacher_says_of_its_own_tokens(of_student: str, of_teacher: str, runs):
    student, teacher = MAKERS[of_student](), MAKERS[of_teacher]()
    model = make_model(teacher)
    batch = batch_of(student, TEXTS, runs)
    signal = aligned(Teacher(model), student, TEXTS.__getitem__).signal(batch)
    said = signal.rows(0, len(batch.labels_N))
    n, seen = 0, {"exact": 0, "begins": 0, "none": 0}
    for d, (key, text) in enumerate(TEXTS.items()):
        start = batch.offsets_D[d]
        length = batch.borders_D1[d + 1] - batch.borders_D1[d]
        for answer in expected(student, teacher, text, start, start + length):
            assert said.weight_N[n].item() == (answer is not None), (key, n)
            assert said.exact_N[n].item() == bool(answer and answer[1]), (key, n)
            seen["none" if answer is None else "exact" if answer[1] else "begins"] += 1
            if answer is not None:
                with torch.no_grad(), model.generating() as network:
                    alone = network(input_ids=torch.tensor([answer[0]]), use_cache=False).logits[0, -1]
                torch.testing.assert_close(said.logits_NV[n], alone, rtol=1e-4, atol=1e-4)
            n += 1
    assert n == len(batch.labels_N)
    if runs is None:
        assert min(seen.values()) > 0, seen


def test_the_end_of_a_text_is_the_end_of_the_other():
    student, teacher = make_byte_level(), make_word_piece()
    model = make_model(teacher)
    batch = batch_of(student, {"a": TEXTS["a"]})
    signal = aligned(Teacher(model), student, TEXTS.__getitem__).signal(batch)
    assert signal.exact_N[-1]
    pairs = list(zip(*(ids.tolist() for ids in signal.shared), strict=True))
    assert (student.eos_token_id, teacher.sep_token_id) in pairs
    nowhere = aligned(Teacher(model), student, TEXTS.__getitem__, ends=(student.eos_token_id, None)).signal(batch)
    assert nowhere.weight_N[-1] == 0
    assert torch.equal(nowhere.weight_N[:-1], signal.weight_N[:-1])


def permuted(tokenizer, model: Model) -> tuple[PreTrainedTokenizerFast, Model, torch.Tensor]:
    """The same teacher with its tokens numbered backwards, and the new id of each old one."""
    V = len(tokenizer)
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    special = {each["id"] for each in rules["added_tokens"]}
    new = {i: i if i in special else V + 2 - i for i in range(V)}
    rules["model"]["vocab"] = {token: new[i] for token, i in rules["model"]["vocab"].items()}
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(rules)), eos_token="<|endoftext|>")
    new_V = torch.tensor([new[i] for i in range(V)])
    moved = make_model(other)
    moved.load_state_dict(model.state_dict())
    with torch.no_grad():
        weight_VH = moved.network.get_input_embeddings().weight
        weight_VH[new_V] = weight_VH.clone()
    return other, moved, new_V


def test_a_teacher_with_permuted_ids_says_the_same_once_aligned():
    tokenizer = make_byte_level()
    model = make_model(tokenizer)
    other, moved, new_V = permuted(tokenizer, model)
    batch = batch_of(tokenizer, TEXTS)
    plain = Teacher(model).signal(batch).rows(0, len(batch.labels_N))
    said = aligned(Teacher(moved), tokenizer, TEXTS.__getitem__).signal(batch).rows(0, len(batch.labels_N))
    assert said.weight_N.all() and said.exact_N.all()
    torch.testing.assert_close(said.logits_NV[:, new_V], plain.logits_NV, rtol=1e-4, atol=1e-4)
    ours, theirs = said.shared
    assert torch.equal(new_V[ours], theirs)
    unaligned = Teacher(moved).signal(batch).rows(0, len(batch.labels_N))
    assert (unaligned.logits_NV - plain.logits_NV).abs().max() > 1  # what comparing sizes alone would have taken


@pytest.mark.parametrize("bias", [-3.0, 50.0])
def test_invented_tokens_of_a_padded_head_change_nothing(bias: float):
    student, teacher = make_byte_level(), make_word_piece()
    model = make_model(teacher)
    batch = batch_of(student, TEXTS)
    N = len(batch.labels_N)
    before = aligned(Teacher(model), student, TEXTS.__getitem__).signal(batch).rows(0, N)
    wide = Model(model.network, teacher, "wide")
    V, H = model.head_layer.weight.shape
    layer = nn.Linear(H, V + 10)
    with torch.no_grad():
        layer.weight[:V], layer.bias[:V] = model.head_layer.weight, 0.0
        layer.bias[V:] = bias
    wide.network.set_output_embeddings(layer)
    after = aligned(Teacher(wide), student, TEXTS.__getitem__).signal(batch).rows(0, N)
    torch.testing.assert_close(after.logits_NV, before.logits_NV)
    assert after.vocabulary == V
    loss = find("loss", "gold")
    out = Output(torch.randn(N, len(student), generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(loss(out, after, batch), loss(out, before, batch))


def test_the_text_must_be_the_one_the_batch_was_made_of():
    student, teacher = make_byte_level(), make_word_piece()
    batch = batch_of(student, TEXTS)
    other = aligned(Teacher(make_model(teacher)), student, lambda key: TEXTS[key].replace("still", "Still"))
    with pytest.raises(DataError, match="does not give the tokens"):
        other.signal(batch)
    wrong_end = aligned(Teacher(make_model(teacher)), student, TEXTS.__getitem__, ends=(1, 3))
    with pytest.raises(DataError, match="does not give the tokens"):
        wrong_end.signal(batch)


def test_a_batch_of_which_it_has_nothing_to_say():
    student, teacher = make_byte_level(), make_word_piece()
    batch = batch_of(student, {"b": TEXTS["b"]}, {"b": (3, 4)})
    signal = aligned(Teacher(make_model(teacher)), student, TEXTS.__getitem__).signal(batch).rows(0, 1)
    assert signal.weight_N.tolist() == [0.0]
    assert find("loss", "gold")(Output(torch.zeros(1, len(student))), signal, batch).tolist() == [0.0]


def test_texts_that_bring_their_own_special_tokens():
    student, teacher = make_byte_level(), make_word_piece()
    text = "<|im_start|>user\nfox<|im_end|>\n"
    ids = [*student(text, split_special_tokens=False, add_special_tokens=False).input_ids, student.eos_token_id]
    n = len(ids) - 1
    batch = Batch(
        torch.tensor(ids[:-1]), torch.arange(n), (0, n), torch.arange(n), torch.tensor(ids[1:]),
        torch.ones(n), torch.zeros(n, dtype=torch.int64), ("chat",), (0,),
    )  # fmt: skip
    signal = aligned(Teacher(make_model(teacher)), student, lambda key: text).signal(batch)
    assert ids[0] == student.convert_tokens_to_ids("<|im_start|>")
    assert signal.weight_N.any() and not signal.weight_N.all()


def test_texts_are_tokenised_once():
    student, teacher = make_byte_level(), make_word_piece()
    asked = []
    master = aligned(Teacher(make_model(teacher)), student, lambda key: asked.append(key) or TEXTS[key])
    batch = batch_of(student, TEXTS)
    first, second = master.signal(batch), master.signal(batch)
    assert asked == list(TEXTS)
    assert torch.equal(first.hidden_NH, second.hidden_NH)


def test_the_teacher_stays_a_teacher():
    student, teacher = make_byte_level(), make_word_piece()
    model = make_model(teacher)
    master = aligned(Teacher(model), student, TEXTS.__getitem__)
    assert master.name == model.name and master.tokenizer is teacher and not master.shows
    assert not any(p.requires_grad for p in master.model.parameters())
    moved = master.placed(lambda m: m)
    assert torch.equal(moved.signal(batch_of(student, TEXTS)).exact_N, master.signal(batch_of(student, TEXTS)).exact_N)


# -- the loss -----------------------------------------------------------------------------------------------------------


def aligned_signal(N: int = 6, V: int = 7, W: int = 5) -> Signal:
    """Teacher with W outcomes, of which three are known to the student: 1 is 0, 4 is 2, 6 is 3."""
    logits_NV = torch.randn(N, W, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2
    return Signal(
        logits_NV=logits_NV,
        shared=(torch.tensor([1, 4, 6]), torch.tensor([0, 2, 3])),
        exact_N=torch.tensor([True, True, False, False, False, True]),
        weight_N=torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 0.5]),
    )


def batch_like(N: int, V: int) -> Batch:
    n = torch.arange(N)
    return Batch(n, n, (0, N), n, n % V, torch.ones(N), torch.zeros_like(n))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_gold_is_the_definition(temperature: float):
    """In probability space, with loops: KL on the shared outcomes and one more where exact, by rank elsewhere."""
    teacher, batch = aligned_signal(), batch_like(6, 7)
    student = torch.randn(6, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = find("loss", "gold")(Output(student), teacher, batch, temperature=temperature, by_rank=0.5)
    for n in range(6):
        T = temperature if teacher.exact_N[n] else 1.0
        q = [torch.exp(x / T).item() for x in student[n]]
        p = [torch.exp(x / T).item() for x in teacher.logits_NV[n]]
        q, p = [x / sum(q) for x in q], [x / sum(p) for x in p]
        if teacher.weight_N[n] == 0:
            slow = 0.0
        elif teacher.exact_N[n]:
            pairs = [(p[0], q[1]), (p[2], q[4]), (p[3], q[6])]
            pairs.append((1 - sum(a for a, _ in pairs), 1 - sum(b for _, b in pairs)))
            slow = T**2 * sum(a * np.log(a / b) for a, b in pairs)
        else:
            p, q = sorted([*p, 0.0, 0.0])[::-1], sorted(q)[::-1]
            slow = 0.5 * sum(abs(a - b) for a, b in zip(p, q, strict=True))
        assert found[n].item() == pytest.approx(slow, rel=1e-9, abs=1e-12)


def test_gradient_only_where_the_teacher_has_a_word():
    teacher, batch = aligned_signal(), batch_like(6, 7)
    student = torch.randn(6, 7, generator=torch.Generator().manual_seed(2)).requires_grad_()
    find("loss", "gold")(Output(student), teacher, batch).sum().backward()
    moved_N = student.grad.abs().sum(-1) > 0
    assert moved_N.tolist() == (teacher.weight_N > 0).tolist()
    student.grad = None
    find("loss", "gold")(Output(student), teacher, batch, by_rank=0.0).sum().backward()
    assert (student.grad.abs().sum(-1) > 0).tolist() == (teacher.exact_N & (teacher.weight_N > 0)).tolist()


def test_nothing_to_learn_where_both_agree():
    logits = torch.randn(6, 7, generator=torch.Generator().manual_seed(3))
    every = torch.arange(7)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(4))
    same = replace(aligned_signal(), logits_NV=torch.empty(6, 7).index_copy(1, order, logits), shared=(every, order))
    student = logits.clone().requires_grad_()
    value = find("loss", "gold")(Output(student), same, batch_like(6, 7))
    value.sum().backward()
    assert value.abs().max() < 1e-5
    assert student.grad[same.exact_N].abs().max() < 1e-5


def test_a_teacher_of_the_same_tokens_gives_the_forward_kl():
    g = torch.Generator().manual_seed(5)
    student, teacher = torch.randn(4, 9, generator=g), torch.randn(4, 9, generator=g)
    args = Output(student), Signal(logits_NV=teacher), batch_like(4, 9)
    torch.testing.assert_close(
        find("loss", "gold")(*args, temperature=2.0), find("loss", "forward_kl")(*args, temperature=2.0)
    )


def test_extremes_are_finite():
    student = torch.tensor([[60.0, -60.0, 0.0, 5.0, -60.0, 1.0, 60.0]] * 6, dtype=torch.bfloat16).requires_grad_()
    teacher = replace(aligned_signal(), logits_NV=torch.tensor([[-60.0, 60.0, 0.0, 60.0, -60.0]] * 6).bfloat16())
    value = find("loss", "gold")(Output(student), teacher, batch_like(6, 7))
    value.sum().backward()
    assert value.dtype == torch.float32 and torch.isfinite(value).all() and torch.isfinite(student.grad).all()


@pytest.mark.parametrize("chunk", [1, 4, 64])
def test_a_few_positions_at_a_time_are_all_at_once(chunk: int):
    tokenizer, other = make_byte_level(), make_word_piece()
    batch = batch_of(tokenizer, TEXTS)
    signal = aligned(Teacher(make_model(other)), tokenizer, TEXTS.__getitem__).signal(batch)
    student = make_model(tokenizer, seed=1)
    hidden_NH = student(batch)[0].detach().requires_grad_()
    loss = find("loss", "gold")
    total, sums = chunked([WeightedLoss("gold", loss, 1.0)], hidden_NH, student.head, signal, batch, 10.0, chunk)
    (grad_NH,) = torch.autograd.grad(total, hidden_NH)
    whole = signal.rows(0, len(batch.labels_N))
    direct = (loss(Output(student.head.logits(hidden_NH)), whole, batch) * whole.weight_N).sum()
    assert sums[0].item() == pytest.approx(direct.item(), rel=1e-5)
    torch.testing.assert_close(grad_NH, torch.autograd.grad(direct / 10.0, hidden_NH)[0], rtol=1e-4, atol=1e-6)


def test_alignment_knows_the_outcomes_of_the_tokenizer():
    student, teacher = make_byte_level(), make_word_piece()
    found = Alignment(student, teacher, (end_of(student), end_of(teacher)))
    assert found.outcomes == len(teacher)
    ours, theirs = found.shared
    assert len(set(ours.tolist())) == len(ours) == len(set(theirs.tolist()))
    meanings = contents(student), contents(teacher)
    for a, b in zip(ours.tolist()[:-1], theirs.tolist()[:-1], strict=True):
        assert meanings[0][a] == meanings[1][b]
        assert found.twin_V[a] == b


def test_batches_of_the_data_stage_cut_anywhere(tmp_path):
    """Runs that begin inside a text know where: every step of an epoch and more is aligned, none is refused."""
    student, teacher = make_byte_level(), make_word_piece()
    lines = [f"{text} {text} {i}" for i in range(4) for text in TEXTS.values()]
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    section = Data(
        sources=[{"name": "jsonl", "path": str(tmp_path / "lines.jsonl"), "format": "text"}], block=40, validation=0.2
    )
    corpus = prepare(section, student, tmp_path / "data")
    texts = {hashlib.blake2b(line.encode(), digest_size=16).hexdigest(): line for line in lines}
    master = aligned(Teacher(make_model(teacher)), student, texts.__getitem__)
    offsets, exact = set(), 0
    for step in range(20):
        for batch in corpus.train.step(step, tokens_per_step=60, micro_tokens=60, seed=0):
            signal = master.signal(batch)
            offsets |= set(batch.offsets_D)
            exact += int(signal.exact_N.sum())
            assert len(signal.exact_N) == len(batch.labels_N)
    assert len(offsets) > 3 and exact > 100
