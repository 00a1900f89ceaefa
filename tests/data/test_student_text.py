"""The student's own text as micro-batches: what is given, what is written, what carries loss, what comes back from disk."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from shared import make_llama, make_tokenizer

from stillhouse.data.pieces import Pieces
from stillhouse.data.samplers.student_text import Settings, prompts, read, student_text
from stillhouse.data.store import DOCUMENT
from stillhouse.errors import RecipeError, RunError
from stillhouse.types import Batch

MICRO, PER_STEP = 96, 288
ARGUMENTS = {"tokens_per_step": PER_STEP, "micro_tokens": MICRO, "rank": 0, "world": 1, "seed": 3}


class Training:
    """Pieces over random documents as the trainer sees them: plain ones, or examples with a prompt that carries no loss."""

    def __init__(self, examples: bool = False, vocabulary: int = 300) -> None:
        draw = np.random.default_rng(5)
        inputs, labels, rows, start = [], [], [], 0
        for number in range(40):
            length = int(draw.integers(20, 60)) if examples else int(draw.integers(10, 150))
            tokens = draw.integers(3, vocabulary, length + 1).astype(np.int32)
            targets = tokens[1:].copy()
            if examples:
                targets[: int(draw.integers(3, 15))] = -1
            rows.append(
                (
                    number.to_bytes(16, "little"),
                    number,
                    start,
                    length,
                    (targets >= 0).sum(),
                    0,
                    examples,
                    True,
                    0,
                    0,
                    1.0,
                    0,
                    0,
                )
            )
            inputs.append(tokens[:-1])
            labels.append(targets)
            start += length
        joined = np.concatenate(inputs), np.concatenate(labels)
        self.pieces = Pieces(*joined, np.ones(start, np.uint32), np.array(rows, dtype=DOCUMENT), 64)
        self.step = self.pieces.step

    def all(self, micro_tokens, max_tokens=None):
        return (batch for batch, _ in self.pieces.all(micro_tokens, max_tokens))


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture
def student(tokenizer):
    return make_llama(tokenizer)


def sampler(student, folder, training=None, *, steps=100, **options):
    made = student_text(training or Training(), **{"new_tokens": 12, "prompt_tokens": 8, "every": 4, **options})
    made.bind(student, folder, steps=steps, world=1)
    return made


def same(a: Batch, b: Batch) -> bool:
    for field in dataclasses.fields(Batch):
        one, two = getattr(a, field.name), getattr(b, field.name)
        equal = torch.equal(one, two) if isinstance(one, torch.Tensor) and two is not None else one is two or one == two
        if not equal:
            return False
    return True


def documents(batch: Batch):
    """Of each document: its inputs, and (position within it, label) of what carries loss."""
    for d in range(len(batch.borders_D1) - 1):
        start, stop = batch.borders_D1[d], batch.borders_D1[d + 1]
        loss = [
            (position - start, label)
            for position, label in zip(batch.select_N.tolist(), batch.labels_N.tolist(), strict=True)
            if start <= position < stop
        ]
        yield batch.input_ids_P[start:stop].tolist(), loss


def logits_after(student, ids: list[int]) -> torch.Tensor:
    """What the student says after these tokens, by the packed forward pass that training uses."""
    one = torch.tensor(ids)
    last = torch.tensor([len(ids) - 1])
    batch = Batch(one, torch.arange(len(ids)), (0, len(ids)), last, last, torch.ones(1), last * 0)
    with torch.no_grad():
        hidden, _ = student.eval()(batch)
        return student.head.logits(hidden)[0]


def test_a_share_of_none_is_the_plain_pieces(student, tmp_path):
    made = sampler(student, tmp_path, share=0.0)
    for step in range(6):
        batches = made.step(step, **ARGUMENTS)
        assert all(map(same, batches, Training().step(step, **ARGUMENTS)))
        assert made.facts() == {"own_share": 0.0}
    assert not (tmp_path / "on_policy").exists()


@pytest.mark.parametrize("examples", [False, True])
def test_a_share_of_all_is_the_students_text_alone(student, tmp_path, examples):
    made = sampler(student, tmp_path, Training(examples), share=1.0)
    for step in range(3):
        batches = made.step(step, **ARGUMENTS)
        assert len(batches) == 3
        for batch in batches:
            assert batch.truth_N is not None and len(batch.truth_N) == len(batch.labels_N) > 0
            assert not batch.truth_N.any()
            assert batch.input_ids_P.shape[0] <= MICRO
        assert made.facts()["own_share"] == 1.0


def test_the_share_is_kept_over_many_steps(student, tmp_path):
    made = sampler(student, tmp_path, share=0.3)
    drawn = [made.own(step, index, 3) for step in range(1000) for index in range(4)]
    assert abs(sum(drawn) / len(drawn) - 0.3) < 4 * (0.3 * 0.7 / len(drawn)) ** 0.5
    assert drawn == [made.own(step, index, 3) for step in range(1000) for index in range(4)]
    assert drawn != [made.own(step, index, 4) for step in range(1000) for index in range(4)]


def test_micro_batches_that_are_not_the_students_stay_as_they_are(student, tmp_path):
    made = sampler(student, tmp_path, share=0.5)
    kinds = set()
    for step in range(8):
        for index, (ours, plain) in enumerate(
            zip(made.step(step, **ARGUMENTS), Training().step(step, **ARGUMENTS), strict=True)
        ):
            own = made.own(step, index, 3)
            kinds.add(own)
            assert (ours.truth_N is not None) == own
            assert own or same(ours, plain)
    assert kinds == {True, False}


@pytest.mark.parametrize("examples", [False, True])
def test_without_temperature_labels_are_a_loop_of_the_likeliest(student, tmp_path, examples):
    """Across rows padded to one length, and by another attention: token for token what one forward a token says."""
    made = sampler(student, tmp_path, Training(examples), share=1.0, temperature=0.0, together=7)
    checked = 0
    for batch in made.step(0, **ARGUMENTS):
        for inputs, loss in documents(batch):
            text = inputs[: loss[0][0] + 1]  # the prompt
            for number, (position, label) in enumerate(loss):
                assert position == len(text) - 1  # the positions that carry loss are the last ones, without a gap
                assert int(logits_after(student, text).argmax()) == label
                text.append(label)
                checked += 1
                assert number < 12
            assert text[:-1] == inputs
    assert checked > 50


def test_the_prompt_of_an_example_is_all_before_the_first_label(student, tmp_path):
    training = Training(examples=True)
    made = sampler(student, tmp_path, training, share=1.0)
    given = set()
    for plain in training.step(0, **ARGUMENTS):
        for inputs, loss in documents(plain):
            given.add(tuple(inputs[: loss[0][0] + 1]))
    for batch in made.step(0, **ARGUMENTS):
        for inputs, loss in documents(batch):
            assert tuple(inputs[: loss[0][0] + 1]) in given


def test_a_plain_document_is_given_in_stretches(student, tmp_path):
    training = Training()
    plain = training.step(0, **ARGUMENTS)[0]
    settings = Settings(1.0, 1, 8, 12, 1.0, 1.0, 64)
    found = [(p.document, p.ids) for p in prompts(plain, 0, 0, settings, 10_000, 10_000)]
    expected = []
    for d, (inputs, _) in enumerate(documents(plain)):
        at = 0
        while at < len(inputs):
            piece = inputs[at : at + 8 + 12 - 1]
            if at == 0 or len(piece) >= 8:
                expected.append((d, tuple(piece[: min(8, max(1, len(piece) // 2))])))
            at += 19
    assert found == expected and len(found) > 3
    few = prompts(plain, 0, 0, settings, 40, 10_000)
    assert sum(len(p.ids) + p.most - 1 for p in few) <= 40 and few
    assert all(len(p.ids) + p.most - 1 <= 15 for p in prompts(plain, 0, 0, settings, 10_000, 15))


def test_a_text_that_the_student_ends_holds_nothing_after_its_end(student, tokenizer, tmp_path):
    end = tokenizer.eos_token_id
    everything = tuple(range(0, len(tokenizer), 3))  # every third token ends a text
    made = student_text(Training(), everything, share=1.0, new_tokens=12, prompt_tokens=8)
    made.bind(student, tmp_path, steps=4, world=1)
    ended = total = 0
    for batch in made.step(0, **ARGUMENTS):
        for _, loss in documents(batch):
            labels = [label for _, label in loss]
            assert not any(label in everything or label == end for label in labels[:-1])
            ended += labels[-1] in everything
            assert labels[-1] in everything or len(labels) == 12
            total += 1
    assert made.facts()["own_ended"] == pytest.approx(ended / total)
    assert ended / total > 0.5
    assert made.facts()["own_length"] < 8


def test_without_an_end_the_facts_show_it(student, tmp_path):
    """Endless, repeating text is seen in the numbers of the step."""
    with torch.no_grad():
        for layer in student.layers:
            layer.mlp.down_proj.weight.zero_()
            layer.self_attn.o_proj.weight.zero_()
        student.head_layer.weight.fill_(0.1)  # tied: the embedding too
        student.head_layer.weight[7] = 1.0
    made = sampler(student, tmp_path, share=1.0, temperature=0.0, new_tokens=20)
    made.step(0, **ARGUMENTS)
    facts = made.facts()
    assert facts["own_ended"] == 0.0 and facts["own_length"] == 20.0
    assert facts["own_repeated"] == pytest.approx(16 / 17)


def test_sampling_follows_the_students_distribution(student, tmp_path):
    """First tokens written after one and the same prompt, against its probabilities, at temperature 2."""
    from stillhouse.data.samplers.student_text import Prompt, write

    row = Prompt(0, 0, 0, (5, 9, 11), 1)
    student.network.generation_config.repetition_penalty = 50.0  # a model's own habits must not bend what it is asked
    settings = Settings(1.0, 1, 8, 1, 2.0, 1.0, 4096)
    counts = torch.zeros(len(student.tokenizer), dtype=torch.float64)
    before = torch.get_rng_state()
    for seed in range(5):
        for text in write(student, [row] * 2000, [0], settings, seed):
            counts[text.ids[0]] += 1
    assert torch.equal(before, torch.get_rng_state())
    assert student.network.generation_config.repetition_penalty == 50.0
    p = torch.softmax(logits_after(student, [5, 9, 11]).double() / 2.0, -1)
    often = p * counts.sum() > 20
    chi2 = float(((counts - p * counts.sum()) ** 2 / (p * counts.sum()))[often].sum())
    freedom = int(often.sum())
    assert freedom > 50 and chi2 < freedom + 5 * (2 * freedom) ** 0.5


def test_text_is_written_with_the_weights_of_the_refresh(student, tmp_path):
    made = sampler(student, tmp_path / "a", share=1.0)
    texts = []
    for step in range(6):
        texts.append(made.step(step, **ARGUMENTS))
        with torch.no_grad():
            student.network.get_input_embeddings().weight.add_(0.1 * step + 0.05)
    assert sorted(p.name for p in (tmp_path / "a" / "on_policy").iterdir()) == [
        "step-00000000.safetensors",
        "step-00000004.safetensors",
    ]
    # the steps after a refresh do not look at the weights: another process reads them
    again = sampler(make_llama(student.tokenizer, seed=9), tmp_path / "a", share=1.0)
    for step in (1, 2, 3, 5):
        assert all(map(same, again.step(step, **ARGUMENTS), texts[step]))
    # but a refresh does: with other weights what lies there is not taken
    assert not all(map(same, again.step(4, **ARGUMENTS), texts[4]))


def test_what_was_written_is_made_again_to_the_same_tokens(student, tmp_path):
    first = sampler(student, tmp_path / "a", share=0.5).step(0, **ARGUMENTS)
    torch.manual_seed(999)
    second = sampler(student, tmp_path / "b", share=0.5).step(0, **ARGUMENTS)
    assert all(map(same, first, second))
    file = "on_policy/step-00000000.safetensors"
    assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("harm", ["missing", "cut", "bit", "other"])
def test_text_that_is_gone_and_cannot_be_made_again_is_named(student, tmp_path, harm):
    made = sampler(student, tmp_path, share=1.0)
    made.step(0, **ARGUMENTS)
    path = tmp_path / "on_policy" / "step-00000000.safetensors"
    content = bytearray(path.read_bytes())
    if harm == "missing":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(content[:-10])
    elif harm == "bit":
        content[-20] ^= 1
        path.write_bytes(content)
    again = sampler(student, tmp_path, share=1.0, **({"temperature": 0.5} if harm == "other" else {}))
    with pytest.raises(RunError, match=r"missing or damaged.*\n?.*Delete the folders"):
        again.step(1, **ARGUMENTS)
    assert read(path, {"temperature": 0.1}) is None
    again.step(0, **ARGUMENTS)  # at the refresh itself it is written anew
    assert all(map(same, again.step(1, **ARGUMENTS), made.step(1, **ARGUMENTS))) == (harm != "other")


def test_files_that_no_checkpoint_needs_are_removed(student, tmp_path):
    made = sampler(student, tmp_path, share=1.0)
    for step in range(13):
        made.step(step, **ARGUMENTS)
    names = lambda: [int(p.stem[5:]) for p in sorted((tmp_path / "on_policy").iterdir())]  # noqa: E731
    assert names() == [0, 4, 8, 12]
    made.forget(3)
    assert names() == [0, 4, 8, 12]
    made.forget(7)
    assert names() == [4, 8, 12]
    made.forget(8)
    assert names() == [8, 12]


def test_what_the_student_is_stays(student, tmp_path):
    student.train()
    before = {k: v.clone() for k, v in student.state_dict().items()}
    generator = torch.get_rng_state()
    brought = student.network.generation_config
    sampler(student, tmp_path, share=1.0).step(0, **ARGUMENTS)
    assert student.network.training and student.network.generation_config is brought
    assert torch.equal(generator, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in student.state_dict().items())


def test_its_keys_are_no_documents(student, tmp_path):
    """A store of signals by document must not answer for what the student made of the document."""
    training = Training()
    known = {key for batch in training.all(1000) for key in batch.keys}
    for batch in sampler(student, tmp_path, training, share=1.0).step(0, **ARGUMENTS):
        assert len(batch.keys) == len(batch.borders_D1) - 1 == len(batch.offsets_D)
        assert not known & set(batch.keys)


def test_several_processes_and_senseless_options_are_refused(student, tmp_path):
    with pytest.raises(RunError, match="one process"):
        student_text(Training()).bind(student, tmp_path, steps=1, world=2)
    with pytest.raises(RecipeError) as caught:
        student_text(None, share=1.5, every=0, temperature=-1.0, top_p=0.0, new_tokens=0, prompt_tokens=0, together=0)
    assert len(caught.value.problems) == 7
