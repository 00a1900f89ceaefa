"""Traps in what is counted: 2 (shift), 3 (padding, prompts), 4 (means of means), 5 (AdamW), 26 (a copied reference)."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import torch
from shared import make_batch, make_llama, make_tokenizer
from small import ALONE, assert_same, documents, gradients, learned, silent, whole_step

from stillhouse import data, recipe
from stillhouse.models import Model
from stillhouse.objective import Learner
from stillhouse.recipe import Objective
from stillhouse.teacher import Teacher
from stillhouse.trainer.loop import take_step
from stillhouse.trainer.optim import make_optimiser
from stillhouse.types import Batch

TOKENIZER = make_tokenizer()


def student(**more: object) -> Model:
    return make_llama(TOKENIZER, seed=1, **more)


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return Teacher(make_llama(TOKENIZER, layers=3, seed=2))


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[tuple[str, str]], list[Batch]]:
    """Prompts with answers, and what the data stage makes of them."""
    folder = tmp_path_factory.mktemp("answers")
    pairs = [(f"What does a still {'often ' * i}do?", f"It turns mash into spirit {i} times.") for i in range(6)]
    lines = [json.dumps({"prompt": prompt, "response": response}) for prompt, response in pairs]
    (folder / "pairs.jsonl").write_text("\n".join(lines), encoding="utf-8")
    source = {"name": "jsonl", "path": str(folder / "pairs.jsonl"), "format": "prompt_response"}
    corpus = data.prepare(recipe.Data(sources=[source], block=96), TOKENIZER, folder / "data")
    return pairs, [batch for side in (corpus.train, corpus.validation) for batch, _ in side.all(400)]


def test_trap_02_one_shift_for_labels_and_mask(answers):
    """The logits at token t speak of token t + 1. Shifting the labels and not the mask that goes with them (or shifting twice,
    once in the data and once in the model) trains on the prompt's last words, or never on the answer's first one.

    By the definition: a token of the answer is learned from what stands before it, by transformers' own forward.
    """
    pairs, batches = answers
    model = student()
    expected = unshifted = count = 0.0
    for prompt, response in pairs:
        ids = [*TOKENIZER(f"{prompt}\n{response}").input_ids, TOKENIZER.eos_token_id]
        before = len(TOKENIZER(f"{prompt}\n").input_ids)
        assert ids[:before] == TOKENIZER(f"{prompt}\n").input_ids  # no token straddles the border
        with model.generating() as network, torch.no_grad():
            p = torch.softmax(network(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double(), -1)
        for t in range(before, len(ids)):
            expected -= p[t - 1, ids[t]].log().item()
            unshifted -= p[t, ids[t]].log().item()
            count += 1
    assert abs(unshifted - expected) > 1.0  # the fixture can tell them apart
    learner = Learner(model, Objective(), 1, teacher=False)
    with torch.no_grad():
        found = sum(learner(batch, None, 1.0, 0)[0].item() for batch in batches)
    assert sum(len(batch.labels_N) for batch in batches) == count
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("packs", [True, False])
def test_trap_03_what_carries_no_loss_changes_nothing(packs: bool, teacher: Teacher):
    """Padding that enters a sum pulls the student to say nothing, and padding or a prompt that enters only the count makes the
    step smaller the longer the neighbours are. The same two documents, alone and beside a longer one that carries no loss (to
    which they are padded, where a model takes rows): the same gradient."""
    model = student()
    if not packs:
        model.packs = False
        model.network.set_attn_implementation("sdpa")
    learner = Learner(model, Objective(), 1)
    three = make_batch([9, 4, 17], 300, every=2)
    assert_same(gradients(learner, teacher, [silent(three, [2])]), gradients(learner, teacher, [documents(three, [0, 1])]))  # fmt: skip


def test_trap_03_prompts_are_not_counted(answers):
    """Answers of one length after prompts of six: as many positions each."""
    batch = answers[1][0]
    per_document = torch.bincount(batch.document_N).tolist()
    lengths = [stop - start for start, stop in zip(batch.borders_D1, batch.borders_D1[1:], strict=False)]
    assert len(set(per_document)) == 1 < len(set(lengths))
    assert (batch.labels_N >= 0).all() and (batch.weight_N == 1).all()


def test_trap_04_micro_batches_of_any_size(teacher: Teacher):
    """A mean within each micro-batch and then a mean of those lets ten positions weigh as much as thirty. There is one sum, and
    one division by the count of the whole step: 30 + 10 positions are the batch of 40."""
    learner = Learner(student(), Objective(), 1)
    forty = make_batch([30, 10], 300)
    together = gradients(learner, teacher, [forty])
    assert_same(gradients(learner, teacher, [documents(forty, [0]), documents(forty, [1])]), together)


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl"])
def test_trap_04_the_size_of_the_vocabulary_divides_nothing(name: str):
    """torch's kl_div(reduction="mean") divides by positions × outcomes. Forty outcomes more that nobody ever says: no change."""
    g = torch.Generator().manual_seed(1)
    ours, theirs = torch.randn(4, 8, generator=g), torch.randn(4, 8, generator=g)
    value, gradient = learned(name, ours, theirs)
    nobody = torch.full((4, 40), -60.0)
    wide, wide_gradient = learned(name, torch.cat([ours, nobody], -1), torch.cat([theirs, nobody], -1))
    assert wide == pytest.approx(value, rel=1e-4)
    torch.testing.assert_close(wide_gradient[:, :8], gradient, rtol=1e-4, atol=1e-6)


def test_trap_05_the_scale_of_the_gradient(teacher: Teacher):
    """AdamW divides the gradient by its own size: one that is eight times too large moves the weights alike, and a test of the
    loss curve passes. But clipping then cuts every step, and two losses of other scales no longer add up. So the norm that is
    clipped and logged is compared with that of the definition."""
    parameter = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    for p, scale in zip(parameter, (1.0, 8.0), strict=True):
        p.grad = scale * torch.tensor([0.1, -2.0, 0.5])
        torch.optim.AdamW([p], lr=0.1).step()
    torch.testing.assert_close(parameter[0], parameter[1])  # no curve would show it

    model = student()
    batch = make_batch([9, 5], 300, every=2)
    loss = whole_step(model, teacher.model, batch, alpha=0.9, temperature=2.0)
    exact = torch.autograd.grad(loss, list(model.parameters()))
    norm = torch.sqrt(sum((g.double() ** 2).sum() for g in exact))
    learner = Learner(model, Objective(), 1)
    parameters = dict(learner.named_parameters())
    section = recipe.Trainer(steps=1, learning_rate=1e-9, clip=float(norm) * 1.01)
    parts = [documents(batch, [0]), documents(batch, [1])]
    _, found = take_step(learner, teacher, parts, parameters, make_optimiser(parameters, section), 0, section, ALONE)
    assert found == pytest.approx(float(norm), rel=1e-3)


def test_trap_26_a_reference_of_another_make(teacher: Teacher):
    """A reference that shares code with what it checks shares its mistakes: the same packed attention, the same shift, the same
    log-softmax, and both are wrong together. So: transformers' own forward, each document fed alone, probabilities, loops.

    With ignored positions, documents of unequal length (one of a single token) and one that has no loss at all.
    """
    model = student()
    batch = silent(make_batch([7, 1, 5, 12], 300, every=2), [2])
    loss = whole_step(model, teacher.model, batch, alpha=0.9, temperature=2.0)
    names, parameters = zip(*model.named_parameters(prefix="student"), strict=True)
    expected = dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
    learner = Learner(model, Objective(chunk=3), 1)
    assert_same(gradients(learner, teacher, [batch]), expected, rtol=1e-3)
    value, _ = learner(batch, teacher.signal(batch), float(len(batch.labels_N)), 0)
    assert value.item() == pytest.approx(loss.item(), rel=1e-5)


def test_trap_26_the_references_import_nothing_they_check():
    """Definitions of the losses: nothing of the package, and none of torch's ready-made losses and softmaxes."""
    tree = ast.parse((Path(__file__).parents[1] / "references.py").read_text(encoding="utf-8"))
    imported = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
    }
    assert not any(name and name.startswith(("stillhouse", "torch.nn")) for name in imported)
    called = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not called & {"log_softmax", "softmax", "logsumexp", "kl_div", "cross_entropy"}
