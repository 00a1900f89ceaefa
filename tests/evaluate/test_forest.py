"""Shared beginnings against the same sequences one by one."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shared import make_llama, make_tokenizer
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from stillhouse.evaluate.asking import likelihoods
from stillhouse.evaluate.forest import Asked, pack
from stillhouse.models import Model

TOKENS = st.lists(st.integers(0, 3), min_size=2, max_size=9)


@given(st.lists(st.tuples(TOKENS, st.integers(1, 8)), min_size=1, max_size=30), st.integers(8, 60), st.booleans())
def test_every_sequence_is_read_as_it_is(sequences: list[tuple[list[int], int]], micro_tokens: int, share: bool):
    """Walk from each scored place backwards over what it sees: the sequence's own tokens in order, at their positions."""
    asked = [Asked(tuple(tokens), min(start, len(tokens) - 1)) for tokens, start in sequences]
    seen_before: list[int] = []
    for packed in pack(asked, micro_tokens, 16, share=share):
        batch, place = packed.batch, 0
        document_P = torch.bucketize(
            torch.arange(len(batch.input_ids_P)), torch.tensor(batch.borders_D1[1:]), right=True
        )
        for index, count in zip(packed.which, packed.count, strict=True):
            tokens, start = asked[index].tokens, asked[index].start
            assert count == len(tokens) - start
            for k in range(count):
                assert packed.label_M[place + k] == tokens[start + k]
                node = int(batch.select_N[packed.row_M[place + k]])
                document = int(document_P[node])
                first, stop = batch.borders_D1[document], batch.borders_D1[document + 1]
                seen = None if batch.seen_D is None else batch.seen_D[document]
                mask = torch.ones(stop - first, stop - first).tril().bool() if seen is None else seen
                visible = (first + torch.nonzero(mask[node - first])[:, 0]).tolist()
                assert batch.input_ids_P[visible].tolist() == list(tokens[: start + k])
                assert batch.position_ids_P[visible].tolist() == list(range(start + k))
            place += count
            seen_before.append(index)
        assert place == len(packed.label_M)
        assert len(set(batch.select_N.tolist())) == len(batch.select_N)
    assert sorted(seen_before) == list(range(len(asked)))


def alone(model: Model, asked: Asked) -> tuple[float, bool]:
    """transformers' own logits of one sequence."""
    ids = torch.tensor([asked.tokens])
    with torch.no_grad(), model.generating() as network:
        log_p = torch.log_softmax(network(input_ids=ids, use_cache=False).logits[0].double(), -1)
    places = range(asked.start, len(asked.tokens))
    return sum(float(log_p[i - 1, asked.tokens[i]]) for i in places), all(
        int(log_p[i - 1].argmax()) == asked.tokens[i] for i in places
    )


def families() -> dict[str, Model]:
    tokenizer = make_tokenizer()
    small = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2, "pad_token_id": 0,
             "bos_token_id": None, "eos_token_id": 0}  # fmt: skip
    torch.manual_seed(0)
    gemma = Gemma2Config(**small, head_dim=8, query_pre_attn_scalar=8, sliding_window=12)
    mamba = MambaConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, state_size=4, pad_token_id=0,
                        bos_token_id=0, eos_token_id=0)  # fmt: skip
    return {
        "llama": make_llama(tokenizer),
        "mistral, a window of 12": Model(MistralForCausalLM(MistralConfig(**small, sliding_window=12)), tokenizer, "m"),
        "gemma 2, a cap and a window": Model(Gemma2ForCausalLM(gemma), tokenizer, "g"),
        "mamba, which cannot branch": Model(MambaForCausalLM(mamba), tokenizer, "s"),
    }


@pytest.mark.parametrize("family", list(families()))
def test_likelihoods_are_those_of_each_alone(family: str):
    rng = random.Random(1)
    model = families()[family].eval()
    common = [[rng.randrange(3, 300) for _ in range(rng.randint(1, 30))] for _ in range(3)]
    asked = []
    for _ in range(40):
        tokens = rng.choice(common)[: rng.randint(1, 30)] + [rng.randrange(3, 300) for _ in range(rng.randint(1, 8))]
        asked.append(Asked(tuple(tokens), rng.randint(1, len(tokens) - 1)))
    got = likelihoods(model, asked)
    for one, (ll, greedy) in zip(asked, got, strict=True):
        slow, likeliest = alone(model, one)
        assert ll == pytest.approx(slow, abs=2e-3)
        assert greedy == likeliest


def test_what_is_shared_is_read_once():
    question = tuple(range(3, 63))
    asked = [Asked((*question, 100 + k, 200), 60) for k in range(4)]
    (packed,) = pack(asked, 1024, 576)
    assert len(packed.batch.input_ids_P) == 60 + 4  # the last token of each is asked for and not read
    assert len(packed.batch.select_N) == 1 + 4


def test_sequences_with_little_in_common_do_not_fill_one_room():
    """Attention costs a room's square: far apart, they are better off apart."""
    rng = random.Random(0)
    asked = [Asked(tuple(rng.randrange(3, 300) for _ in range(60)), 50) for _ in range(40)]
    sizes = [
        b - a
        for packed in pack(asked, 1024, 64)
        for a, b in zip(packed.batch.borders_D1, packed.batch.borders_D1[1:], strict=False)
    ]
    assert max(sizes) <= 128
