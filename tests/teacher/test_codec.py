"""What is decoded is what was encoded, within the precision that docs/store.md states."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.errors import ModelError
from stillhouse.teacher import codec as codecs
from stillhouse.teacher.codec import DEPTH, Codec, Hidden, Sampled, TopK, codec, uniform
from stillhouse.types import Batch, Head, Signal

CPU = torch.device("cpu")


def head_of(logits: list[list[float]]) -> tuple[torch.Tensor, Head]:
    """Hidden states and a head whose product is these logits: the head is the identity."""
    hidden = torch.tensor(logits)
    return hidden, Head(torch.eye(hidden.shape[1]))


def batch_of(count: int, key: str = "k", offset: int = 0) -> Batch:
    at = torch.arange(count)
    return Batch(at, at, (0, count), at, at, torch.ones(count), torch.zeros_like(at), (key,), (offset,))


def round_trip(how: Codec, logits: list[list[float]], **place: object) -> Signal:
    hidden, head = head_of(logits)
    columns = how.encode(Signal(hidden_NH=hidden, head=head), batch_of(len(logits), **place))  # type: ignore[arg-type]
    assert {name: (column.dtype, column.shape) for name, column in columns.items()} == {
        name: (np.dtype(np.uint8), (len(logits), width)) for name, width in how.widths.items()
    }
    return how.decode(columns, CPU, head)


def softmax(row: list[float]) -> list[float]:
    most = max(row)
    e = [math.exp(x - most) for x in row]
    return [x / math.fsum(e) for x in e]


rows = st.integers(2, 40).flatmap(
    lambda V: st.lists(
        st.lists(st.floats(-60, 60, width=32), min_size=V, max_size=V, unique=True), min_size=1, max_size=4
    )
)


@settings(max_examples=60, deadline=None)
@given(logits=rows, k=st.integers(1, 44), bits=st.integers(3, 8))
def test_top_k_is_what_the_teacher_said_within_the_stated_bound(logits: list[list[float]], k: int, bits: int) -> None:
    signal = round_trip(TopK(len(logits[0]), k, bits), logits)
    assert signal.form == "topk"
    steps = 2**bits - 1
    for n, row in enumerate(logits):
        p = softmax(row)
        likeliest = sorted(range(len(p)), key=lambda i: -row[i])[:k]
        assert signal.ids_NK[n].tolist() == likeliest
        found = signal.logp_NK[n].double().tolist()
        rest = signal.rest_N[n].double().exp().item()
        # nothing is lost and nothing made up
        assert math.fsum(math.exp(x) for x in found) + rest == pytest.approx(1.0, abs=1e-5)
        true_rest = math.fsum(p[i] for i in range(len(p)) if i not in likeliest)
        named = math.fsum(p[i] for i in likeliest)
        logit_error = 0.0
        if true_rest > 1e-30:  # float32 knows no less
            logit_error = 2**-11 * abs(math.log(true_rest) - math.log(named)) + 1e-4
            assert abs(signal.rest_N[n].item() - math.log(true_rest)) <= logit_error
        else:
            assert rest < 2e-30
        # a code is half a step wrong at most; scaling to the whole moves all by no more than the worst of them
        depths = [min(row[likeliest[0]] - row[i], DEPTH) for i in likeliest]
        wrong = [DEPTH * (math.sqrt(d / DEPTH) / steps + 0.25 / steps**2) for d in depths]
        shift = max(wrong)
        for x, i, w in zip(found, likeliest, wrong, strict=True):
            if row[likeliest[0]] - row[i] < DEPTH:
                assert abs(x - math.log(p[i])) <= w + shift + logit_error + 1e-4


def test_more_bits_are_closer_and_eight_are_close() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(64, 500, generator=generator)).tolist()
    means = []
    for bits in (4, 6, 8):
        signal = round_trip(TopK(500, 32, bits), logits)
        total = 0.0
        for n, row in enumerate(logits):
            p = softmax(row)
            ids, found = signal.ids_NK[n].tolist(), signal.logp_NK[n].tolist()
            rest = 1 - math.fsum(p[i] for i in ids)
            total += math.fsum(p[i] * (math.log(p[i]) - x) for i, x in zip(ids, found, strict=True))
            total += rest * (math.log(rest) - signal.rest_N[n].item())
        means.append(total / len(logits))
    assert means[0] > means[1] > means[2] > -1e-6
    assert means[2] < 3e-4


def test_the_remainder_is_kept_where_one_minus_the_sum_is_lost_in_rounding() -> None:
    signal = round_trip(TopK(4, 1, 8), [[0.0, -25.0, -26.0, -27.0]])
    expected = math.log(math.exp(-25) + math.exp(-26) + math.exp(-27))
    assert signal.rest_N[0].item() == pytest.approx(expected, abs=0.02)


def test_k_of_all_outcomes_leaves_no_remainder() -> None:
    signal = round_trip(TopK(3, 64, 8), [[1.0, 2.0, 3.0]])
    assert signal.ids_NK.tolist() == [[2, 1, 0]]
    assert signal.rest_N.tolist() == [-math.inf]


@pytest.mark.parametrize("outcomes", [2, 256, 257, 65536, 65537, 262144])
def test_ids_of_any_vocabulary_come_back(outcomes: int) -> None:
    ids = np.array([[0, outcomes - 1, outcomes // 2]])
    columns = codecs._split_ids(ids, outcomes)
    assert len(columns) == {2: 1, 256: 1, 257: 2, 65536: 2, 65537: 3, 262144: 3}[outcomes]
    assert codecs._join_ids(columns, outcomes).tolist() == ids.tolist()


@pytest.mark.parametrize("proposal", [1.0, 0.7])
def test_a_sample_is_unbiased(proposal: float) -> None:
    logits = [2.0, 1.0, 0.0, -1.0, -3.0]
    repeats, draws = 4000, 5
    signal = round_trip(Sampled(5, draws, proposal), [logits] * repeats)
    assert signal.sampled and signal.rest_N.tolist() == [-math.inf] * repeats
    p = softmax(logits)
    q = softmax([proposal * x for x in logits])
    sums = [0.0] * 5
    for ids, logp in zip(signal.ids_NK.tolist(), signal.logp_NK.tolist(), strict=True):
        there = [i for i in ids if i >= 0]
        assert len(set(there)) == len(there) >= 1
        for i, x in zip(ids, logp, strict=True):
            assert (i >= 0) == (x > -math.inf)
            if i >= 0:
                sums[i] += math.exp(x)
    for i in range(5):
        spread = p[i] / q[i] * math.sqrt(q[i] * (1 - q[i]) / (draws * repeats))
        assert sums[i] / repeats == pytest.approx(p[i], abs=4.5 * spread + 1e-3 * p[i])


def test_draws_are_the_counts_and_never_of_what_cannot_be() -> None:
    signal = round_trip(Sampled(4, 200, 1.0), [[0.0, -200.0, 0.0, -200.0]] * 20)
    for ids, logp in zip(signal.ids_NK.tolist(), signal.logp_NK.tolist(), strict=True):
        assert ids == [0, 2]
        assert sum(round(200 * math.exp(x)) for x in logp) == 200


def test_draws_follow_from_key_and_place_alone() -> None:
    logits = [[float(i % 7) for i in range(30)]] * 6
    one, again = (round_trip(Sampled(30, 8), logits, key="a", offset=4) for _ in range(2))
    other, later = round_trip(Sampled(30, 8), logits, key="b", offset=4), round_trip(Sampled(30, 8), logits, key="a")
    assert one.ids_NK.tolist() == again.ids_NK.tolist()
    assert one.ids_NK.tolist() != other.ids_NK.tolist() and one.ids_NK.tolist() != later.ids_NK.tolist()
    # only some positions of the same run: the same draws at those
    whole = uniform(batch_of(6, "a"), 3)
    few = Batch(
        torch.arange(6), torch.arange(6), (0, 6), torch.tensor([1, 4]), torch.tensor([0, 0]), torch.ones(2),
        torch.zeros(2, dtype=torch.int64), ("a",), (0,),
    )  # fmt: skip
    assert uniform(few, 3).tolist() == whole[[1, 4]].tolist()
    assert whole.min() >= 0.0 and whole.max() < 1.0


@pytest.mark.parametrize(("precision", "relative"), [("float16", 2**-11), ("bfloat16", 2**-8), ("float32", 0.0)])
def test_hidden_states_come_back(precision: str, relative: float) -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(5, 12), Head(torch.randn(7, 12))
    how = Hidden(7, 12, precision)  # type: ignore[arg-type]
    signal = how.decode(how.encode(Signal(hidden_NH=hidden, head=head), batch_of(5)), CPU, head)
    assert signal.form == "dense" and signal.head is head
    assert ((signal.hidden_NH - hidden).abs() <= relative * hidden.abs() + 1e-7).all()


def test_hidden_states_too_large_for_the_type_are_refused() -> None:
    signal = Signal(hidden_NH=torch.tensor([[1e5]]), head=Head(torch.ones(2, 1)))
    with pytest.raises(ModelError, match="bfloat16"):
        Hidden(2, 1, "float16").encode(signal, batch_of(1))


def test_logits_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ModelError, match="not finite"):
        round_trip(TopK(3, 2), [[0.0, math.nan, 1.0]])


def test_a_codec_follows_from_its_settings() -> None:
    for how in (TopK(300, 5, 6), Sampled(300, 9, 0.5), Hidden(300, 8, "float32")):
        assert codec(how.settings(), 300) == how
