"""A teacher that writes many texts at a time: each is what it would have written alone."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import make_llama, make_tokenizer
from zoo import DECODERS, answers, make

from stillhouse.errors import ModelError
from stillhouse.models import Model
from stillhouse.writing import Answer, Ask, Local, as_message, draw

WORDS = "the quick brown fox jumps over the lazy dog and still waters run deep"


@pytest.fixture(scope="module")
def model() -> Model:
    return make_llama(make_tokenizer())


def asked(text: str, seed: int = 0, **options: Any) -> Ask:
    return Ask(**{"text": text, "form": "text", "seed": seed, "new_tokens": 8, **options})


def spread(logits: list[float], temperature: float, top_p: float, min_p: float) -> list[float]:
    """The distribution that is drawn from, by its definition: one outcome after another."""
    weights = [math.exp((x - max(logits)) / temperature) for x in logits]
    probs = [w / sum(weights) for w in weights]
    order, inside, mass = sorted(range(len(probs)), key=lambda i: -probs[i]), set(), 0.0
    for i in order:
        if mass >= top_p:
            break
        inside.add(i)
        mass += probs[i]
    kept = [p if i in inside and p >= min_p * max(probs) else 0.0 for i, p in enumerate(probs)]
    return [p / sum(kept) for p in kept]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from([2, 7, 600, 2000]),
    temperature=st.floats(0.3, 2.0),
    top_p=st.sampled_from([0.1, 0.5, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    chance=st.floats(0.0, 0.999),
)
def test_a_token_is_drawn_from_what_is_left(seed, size, temperature, top_p, min_p, chance):
    logits = torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 2.0
    (token,), (logp,) = draw(logits[None], [asked("", temperature=temperature, top_p=top_p, min_p=min_p)], [chance])
    probs = spread(logits.double().tolist(), temperature, top_p, min_p)
    below = math.fsum(probs[:token])
    assert probs[token] > 0.0
    assert below - 1e-5 <= chance <= below + probs[token] + 1e-5
    assert logp == pytest.approx(float(torch.log_softmax(logits.double(), -1)[token]), abs=1e-4)


def test_without_temperature_the_likeliest_token_is_taken():
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(1))
    tokens, _ = draw(logits, [asked("", temperature=0.0, top_p=0.5)] * 3, [0.0, 0.5, 0.99])
    assert tokens == logits.argmax(-1).tolist()


def test_rows_of_one_batch_have_settings_of_their_own():
    logits = torch.randn(1, 40, generator=torch.Generator().manual_seed(2)).repeat(3, 1)
    asks = [
        asked("", temperature=t, top_p=p, min_p=m) for t, p, m in ((0.5, 0.7, 0.0), (2.0, 1.0, 0.3), (1.0, 1.0, 0.0))
    ]
    together = draw(logits, asks, [0.4, 0.4, 0.4])
    alone = [draw(logits[:1], [ask], [0.4]) for ask in asks]
    assert together[0] == [tokens[0] for tokens, _ in alone]


def test_what_is_written_follows_the_models_distribution(model: Model):
    """2,000 first tokens: no outcome is off by more than chance allows (five standard deviations)."""
    asks = [asked("still water", seed, new_tokens=1) for seed in range(2000)]
    ids = model.tokenizer("still water").input_ids
    probs = torch.softmax(answers(model, torch.tensor([ids]))[0, -1].double(), -1)
    found = Counter(round(a.logprob or 0.0, 3) for a in Local(model).write(asks))
    expected: Counter[float] = Counter()
    for p in probs.tolist():
        expected[round(math.log(p), 3)] += p  # type: ignore[assignment]
    for value, share in expected.items():
        close = sum(n for v, n in found.items() if abs(v - value) < 0.0015)
        near = sum(p for v, p in expected.items() if abs(v - value) < 0.0015)
        assert abs(close / 2000 - near) < 5 * math.sqrt(near * (1 - near) / 2000) + 0.002, (value, share)


@pytest.mark.parametrize("name", DECODERS)
def test_every_family_writes_what_it_would_without_a_cache(name: str, tokenizer: Any):
    model = make(name, tokenizer)
    texts = ["still water", "the quick brown fox jumps over the lazy dog", "oak"]
    found = Local(model).write([asked(t, temperature=0.0, new_tokens=20) for t in texts])
    for text, answer in zip(texts, found, strict=True):
        ids = list(tokenizer(text).input_ids)
        given_ = len(ids)
        logprob = 0.0
        while len(ids) < given_ + 20 and (len(ids) == given_ or ids[-1] != tokenizer.eos_token_id):
            row = torch.log_softmax(answers(model, torch.tensor([ids]))[0, -1], -1)
            ids.append(int(row.argmax()))
            logprob += float(row.max())
        written = [i for i in ids[given_:] if i != tokenizer.eos_token_id]
        assert answer.text == tokenizer.decode(written, skip_special_tokens=True)
        assert answer.logprob == pytest.approx(logprob, abs=2e-3)


def test_a_model_without_attention_writes_too(tokenizer: Any):
    torch.manual_seed(0)
    config = hf.MambaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        state_size=4,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = Model(hf.MambaForCausalLM(config), tokenizer, "mamba")
    asks = [asked("still water", 1), asked("still water", 2, new_tokens=3)]
    one, other = Local(model).write(asks)
    assert (one.tokens, other.tokens) == (8, 3)
    assert Local(model).write(asks[:1])[0].text == one.text


def test_neighbours_change_nothing(model: Model):
    asks = [asked(WORDS[: 5 + 9 * n], seed=n, new_tokens=3 + 7 * n, temperature=0.5 + 0.2 * n) for n in range(6)]
    together = Local(model).write(asks)
    alone = [Local(model).write([ask])[0] for ask in asks]
    assert [a.text for a in together] == [a.text for a in alone]
    assert [a.tokens for a in together] == [a.tokens for a in alone]
    assert [a.logprob for a in together] == pytest.approx([a.logprob for a in alone], abs=1e-3)
    assert max(a.tokens for a in together) > 16  # more than a round


def test_nothing_is_computed_for_texts_that_are_done(model: Model):
    sizes: list[int] = []
    hook = model.trunk.register_forward_hook(lambda _m, _a, out: sizes.append(len(out.last_hidden_state)))
    Local(model).write([asked("oak", n, new_tokens=4 if n else 60, stop=("\x00",)) for n in range(5)])
    hook.remove()
    assert sizes[0] == 5
    assert sizes[-1] == 1


def test_the_seed_decides_and_nothing_else(model: Model):
    before = torch.random.get_rng_state()
    one, same, other = (Local(model).write([asked("oak", seed, new_tokens=12)])[0] for seed in (1, 1, 2))
    assert one == same != other
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_a_model_brings_for_generating_is_not_used():
    model = make_llama(make_tokenizer())
    plain = Local(model).write([asked(WORDS, 3, new_tokens=30)])
    model.network.generation_config.repetition_penalty = 50.0
    brought = model.network.generation_config
    assert Local(model).write([asked(WORDS, 3, new_tokens=30)]) == plain
    assert model.network.generation_config is brought


def test_a_text_ends_at_a_string(model: Model):
    whole = Local(model).write([asked("oak", 5, new_tokens=40, top_p=1.0)])[0]
    stop = whole.text[4:7]
    cut = Local(model).write([asked("oak", 5, new_tokens=40, stop=("never so", stop))])[0]
    assert cut.finish == "stop"
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.tokens < whole.tokens


def test_a_text_ends_at_a_special_token_that_is_named(model: Model):
    token = model.tokenizer.convert_tokens_to_ids("<|im_end|>")
    with torch.no_grad():
        saved = model.head_layer.weight[token].clone()
        ids = model.tokenizer("oak").input_ids
        model.head_layer.weight[token] = model.trunk(torch.tensor([ids])).last_hidden_state[0, -1] * 10
    try:
        asks = [asked("oak", 5, temperature=0.0, stop=("<|im_end|>",)), asked("oak", 5, temperature=0.0)]
        named, unnamed = Local(model).write(asks)
        assert named == Answer("", 1, "end", named.logprob)
        assert unnamed.tokens > 1
    finally:
        with torch.no_grad():
            model.head_layer.weight[token] = saved


def test_text_is_data_and_a_message_is_not(model: Model):
    writer = Local(model)
    special = model.tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert special not in writer._prompt(asked("<|im_start|>"))
    assert writer._prompt(asked("<|im_start|>", form="exact")) == [special]
    chat = writer._prompt(asked("oak", form="chat"))
    assert model.tokenizer.decode(chat) == as_message(model.tokenizer, "oak")
    assert chat.count(special) == 2


def test_bfloat16_writes_much_the_same(model: Model):
    asks = [asked(WORDS, n, new_tokens=12, temperature=0.0) for n in range(2)]
    writer = Local(model)
    weights = [p.dtype for p in model.network.parameters()]
    exact, rough = (writer.write(asks, arithmetic=a)[0] for a in ("float32", "bfloat16"))
    assert rough.logprob != exact.logprob
    assert rough.logprob == pytest.approx(exact.logprob, abs=0.05 * abs(exact.logprob or 0.0) + 0.5)
    assert [p.dtype for p in model.network.parameters()] == weights  # the original stays
    assert writer.write(asks, arithmetic="float32")[0] == exact


def test_the_share_that_is_written_is_told(model: Model):
    told: list[float] = []
    Local(model).write([asked("oak", n, new_tokens=5) for n in range(3)], tell=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_a_model_that_never_ends_is_refused_unless_something_does():
    tokenizer = make_tokenizer()
    model = make_llama(tokenizer)
    tokenizer.eos_token = None
    model.network.generation_config.eos_token_id = None
    with pytest.raises(ModelError, match="no end token"):
        Local(model).write([asked("oak")])
    assert Local(model).write([asked("oak", stop=("\n",))])[0].finish in ("length", "stop")


def test_a_prompt_that_leaves_no_room_is_refused(model: Model):
    with pytest.raises(ModelError, match="reads 256 tokens at most"):
        Local(model).write([asked(WORDS, new_tokens=250)])


def test_classifiers_write_nothing(tokenizer: Any):
    with pytest.raises(ModelError, match="writes no text"):
        Local(make("llama-classifier", tokenizer))
