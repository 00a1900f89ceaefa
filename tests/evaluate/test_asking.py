"""What a question scores, against its definition and plain transformers."""

from __future__ import annotations

import pytest
import torch
from shared import make_llama, make_tokenizer
from test_forest import alone
from transformers import PreTrainedTokenizerFast

from stillhouse.evaluate.asking import ask
from stillhouse.evaluate.forest import Asked
from stillhouse.evaluate.questions import Question, choice, text, word, write
from stillhouse.evaluate.samples import samples
from stillhouse.models import Model

END = 0


def replies(model: Model, *questions: Question, free: bool = False):
    return ask(model, questions, END, [END], free=free)


def test_options_after_a_context(llama: Model):
    question = choice("a", "The quick brown", [" fox", " dog jumps", "ness"], 0, free="Answer:")
    (reply,) = replies(llama, question, free=True)
    for option, ll in zip(question.options, reply.ll, strict=True):
        before, whole = (
            llama.tokenizer("The quick brown").input_ids,
            llama.tokenizer("The quick brown" + option).input_ids,
        )
        assert whole[: len(before)] == before
        assert ll == pytest.approx(alone(llama, Asked(tuple(whole), len(before)))[0], abs=1e-3)
    assert reply.free is not None and len(reply.free) == 3
    whole, before = (llama.tokenizer(t).input_ids for t in ("Answer: fox", "Answer:"))
    assert reply.free[0] == pytest.approx(alone(llama, Asked(tuple(whole), len(before)))[0], abs=1e-3)


def test_an_option_without_context_stands_after_the_end_of_a_document(llama: Model):
    (reply,) = replies(llama, choice("a", "", ["Still waters", "run"], 0))
    ids = llama.tokenizer("Still waters").input_ids
    assert reply.ll[0] == pytest.approx(alone(llama, Asked((END, *ids), 1))[0], abs=1e-3)
    assert reply.tokens == (len(ids), len(llama.tokenizer("run").input_ids))


def test_the_space_before_an_option_may_stand_on_either_side(llama: Model):
    here, there = replies(llama, choice("a", "The quick ", ["brown"], 0), choice("b", "The quick", [" brown"], 0))
    assert here.ll == there.ll


def test_a_token_that_reaches_over_the_border_is_scored(llama: Model):
    """Where the context's last token becomes another in the whole, it is part of what the option costs."""
    found = None
    for text_ in ("The quick brown fox", "Still waters run deep", "A teacher says what it knows"):
        for cut in range(1, len(text_)):
            before, whole = (llama.tokenizer(t).input_ids for t in (text_[:cut].rstrip(), text_))
            if whole[: len(before)] != before and text_[cut - 1] != " ":
                found = text_[:cut], text_[cut:], before, whole
    assert found is not None
    context, option, before, whole = found
    common = next(i for i in range(len(before)) if before[i] != whole[i])
    (reply,) = replies(llama, choice("a", context, [option], 0))
    if common:
        assert reply.ll[0] == pytest.approx(alone(llama, Asked(tuple(whole), common))[0], abs=1e-3)
        assert reply.tokens == (len(whole) - common,)


def teach(tokenizer: PreTrainedTokenizerFast, line: str) -> Model:
    """A model that has learned one line by heart."""
    model = make_llama(tokenizer, tied=False)
    ids = torch.tensor([[*tokenizer(line).input_ids, END]])
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    with model.generating() as network:
        for _ in range(150):
            loss = network(input_ids=ids, labels=ids).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    assert loss < 0.05
    return model.eval()


@pytest.fixture(scope="module")
def learned() -> Model:
    return teach(make_tokenizer(), "key: seventy\nkey: seventy\n")


def test_a_word_must_be_followed_by_its_end(learned: Model):
    """The prefix trap: without an end "seven" is right where the model would write "seventy"."""
    model = learned
    right, begun, ended = replies(
        model,
        word("right", "key:", " seventy", end="\n"),
        word("begun", "key:", " seven"),
        word("ended", "key:", " seven", end="\n"),
    )
    assert right.greedy == (True,)
    assert ended.greedy == (False,)
    if (
        model.tokenizer("key: seventy").input_ids[: len(model.tokenizer("key: seven").input_ids)]
        == model.tokenizer("key: seven").input_ids
    ):
        assert begun.greedy == (True,)


def test_a_text_is_scored_whole_and_in_windows(llama: Model):
    content = "Still waters run deep, and a still turns mash into spirit. " * 12
    (reply,) = replies(llama, text("a", content))
    ids = llama.tokenizer(content).input_ids
    assert len(ids) > 2 * 128, "longer than two windows of the model"
    assert reply.tokens == (len(ids),)
    longest, place, total = 256, 0, 0.0
    sequence = (END, *ids)
    place = 1
    while place < len(sequence):
        begin = 0 if place <= longest // 2 else place - longest // 2
        stop = min(len(sequence), begin + longest + 1)
        total += alone(llama, Asked(sequence[begin:stop], place - begin))[0]
        place = stop
    assert reply.ll[0] == pytest.approx(total, abs=1e-2)


def test_a_context_that_does_not_fit_is_cut_and_told(llama: Model):
    context = " ".join(["Still waters run deep."] * 60)
    cut, whole = replies(llama, choice("a", context, [" fox"], 0), choice("b", "Still", [" fox"], 0))
    assert cut.truncated and not whole.truncated
    before, ids = llama.tokenizer(context).input_ids, llama.tokenizer(context + " fox").input_ids
    assert ids[: len(before)] == before
    kept = ids[-257:]  # 256 that are read, and the last one, which is only asked for
    assert cut.ll[0] == pytest.approx(alone(llama, Asked(tuple(kept), 257 - (len(ids) - len(before))))[0], abs=1e-3)


def test_what_is_written_is_what_the_model_would_write(learned: Model):
    model = learned
    stopped, ended, cut = replies(
        model,
        write("a", "key:", lambda _: 1.0, stop=("\n",), new_tokens=30),
        write("b", "key: seventy\nkey:", lambda _: 1.0, new_tokens=30),
        write("c", "key:", lambda _: 1.0, new_tokens=2),
    )
    assert (stopped.text, stopped.stop) == (" seventy", "stop")
    assert (ended.text, ended.stop) == (" seventy\n", "eos")
    assert cut.stop == "length" and cut.text is not None and " seventy".startswith(cut.text)


@pytest.mark.parametrize("penalty", [1.0, 50.0])
def test_a_models_own_habits_do_not_bend_what_it_writes(
    learned: Model, penalty: float, monkeypatch: pytest.MonkeyPatch
):
    """The likeliest text says the line twice; what its settings for writing add must not keep it from that."""
    monkeypatch.setattr(learned.network.generation_config, "repetition_penalty", penalty)
    (reply,) = replies(learned, write("a", "key:", lambda _: 1.0, new_tokens=40))
    (entry,) = samples(["key:"], {"student": learned}, 40, lambda _: END, lambda _: None)
    assert reply.text == entry["texts"]["student"] == " seventy\nkey: seventy\n"
    assert learned.network.generation_config.repetition_penalty == penalty


def test_prompts_written_together_do_not_disturb_each_other(learned: Model):
    model = learned
    prompts = ["key:", "key: seventy\nkey:", "The quick brown fox jumps", "k"]
    questions = [write(p, p, lambda _: 1.0, new_tokens=6) for p in prompts]
    together = replies(model, *questions)
    assert [r.text for r in together] == [replies(model, q)[0].text for q in questions]


def test_order_of_the_questions_does_not_matter(llama: Model):
    questions = [choice(str(i), f"Question {i % 3}:", [f" {i}", " fox"], 0) for i in range(9)]
    one = replies(llama, *questions)
    other = replies(llama, *questions[::-1])[::-1]
    for a, b in zip(one, other, strict=True):
        assert a.ll == pytest.approx(b.ll, abs=1e-4)
