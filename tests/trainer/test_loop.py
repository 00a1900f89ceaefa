"""The loop: what a step computes, and what it refuses to do."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
import toy

from stillhouse.errors import RecipeError, RunError
from stillhouse.trainer import train
from stillhouse.trainer.distributed import Ranks
from stillhouse.trainer.loop import accumulate, take_step
from stillhouse.trainer.optim import learning_rate, make_optimiser

ALONE = Ranks(0, 1, torch.device("cpu"))


def gradients(learner):
    return {n: p.grad.clone() for n, p in learner.named_parameters() if p.grad is not None}


def run(folder, learner=None, *, section=None, teacher=True, pieces=None, validation=True, **options):
    learner = learner or toy.Learner()
    options = {"fingerprint": "f", **options}
    progress = train(
        learner,
        toy.Teacher() if teacher else None,
        pieces or toy.Pieces(),
        toy.Pieces() if validation else None,
        section or toy.section(),
        folder,
        **options,
    )
    return learner, progress


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_gradient_does_not_depend_on_how_the_step_is_cut():
    one = toy.batch_of([[1, 2, 3] * 14], [[1] * 40 + [0]])
    thirty, ten = one.rows(0, 30), one.rows(30, 40)
    learner = toy.Learner()
    whole = copy.deepcopy(learner)
    sums = accumulate(whole, toy.Teacher(), [one], 0, ALONE)
    split = copy.deepcopy(learner)
    parts = accumulate(split, toy.Teacher(), [thirty, ten], 0, ALONE)
    assert sums.weight == parts.weight == 40
    assert parts.loss == pytest.approx(sums.loss, rel=1e-6)
    for name, gradient in gradients(whole).items():
        torch.testing.assert_close(gradients(split)[name], gradient, rtol=1e-4, atol=1e-7)
    # and it is not what a mean of means would be
    learner.train()
    for piece in (thirty, ten):
        (learner(piece, toy.Teacher().signal(piece, toy.Learner.want), len(piece.labels_N), 0)[0] / 2).backward()
    assert any(not torch.allclose(gradients(learner)[n], g, rtol=1e-2) for n, g in gradients(whole).items())


def test_the_gradient_is_the_sum_over_positions_divided_once():
    """Against the definition: one position at a time, float64, finite differences of the mean."""
    batches = toy.Pieces().step(3, tokens_per_step=0, micro_tokens=0)
    learner = toy.Learner().double()
    for index, batch in enumerate(batches):  # unequal weights too
        batch.weight_N.copy_(torch.arange(len(batch.weight_N)) % 3 + 0.5 * index)
    teacher = toy.Teacher()
    teacher.table = teacher.table.double()
    accumulate(learner, teacher, batches, 0, ALONE)

    @torch.no_grad()
    def mean():
        top = bottom = 0.0
        for batch in batches:
            for n in range(len(batch.labels_N)):
                row = batch.rows(n, n + 1)
                weight = float(row.weight_N)
                row.weight_N.fill_(1.0)
                top += weight * float(learner(row, teacher.signal(row, toy.Learner.want), 1.0, 0)[0])
                row.weight_N.fill_(weight)
                bottom += weight
        return top / bottom

    for parameter in learner.parameters():
        flat = parameter.data.view(-1)
        for i in range(0, len(flat), 7):
            before = flat[i].item()
            flat[i] = before + 1e-5
            up = mean()
            flat[i] = before - 1e-5
            down = mean()
            flat[i] = before
            assert (up - down) / 2e-5 == pytest.approx(parameter.grad.view(-1)[i].item(), rel=1e-4, abs=1e-8)


def test_a_micro_batch_without_a_position_changes_nothing():
    batches = toy.Pieces().step(0, tokens_per_step=0, micro_tokens=0)
    assert len(batches[0].labels_N) == 0
    with_it, without = toy.Learner(), toy.Learner()
    accumulate(with_it, toy.Teacher(), batches, 0, ALONE)
    accumulate(without, toy.Teacher(), batches[1:], 0, ALONE)
    for name, gradient in gradients(without).items():
        assert torch.equal(gradients(with_it)[name], gradient)


def test_a_step_without_a_position_is_refused(tmp_path):
    learner = toy.Learner()
    before = toy.weights(learner)
    with pytest.raises(RunError, match=r"step 1: no position carries loss"):
        run(tmp_path, learner, pieces=toy.Pieces(masked=True))
    assert toy.same(before, toy.weights(learner))


@pytest.mark.parametrize("what", ["kl", "gradient"])
def test_a_number_that_is_not_finite_stops_before_the_optimiser_moves(tmp_path, what):
    learner = toy.Learner()

    class Late(toy.Pieces):
        def step(self, step, **options):
            learner.explode = what if step == 6 else None
            before.clear()
            before.update({n: p.detach().clone() for n, p in learner.named_parameters()})
            return super().step(step, **options)

    before: dict = {}
    with pytest.raises(RunError) as caught:
        run(tmp_path, learner, pieces=Late(), section=toy.section(validate_every=None))
    text = str(caught.value)
    assert "step 7" in text and "step-00000004 stands" in text
    assert ("'kl' is not finite" if what == "kl" else "the gradient's norm is not finite") in text
    assert all(torch.equal(before[n], p) for n, p in learner.named_parameters())
    assert [line["step"] for line in lines(tmp_path)][-1] == 6
    learner.explode = None
    _, progress = run(tmp_path, learner, section=toy.section(validate_every=None))
    assert progress.step == 12


def test_without_a_teacher_it_learns_from_labels(tmp_path):
    _, progress = run(tmp_path, teacher=False)
    assert progress.step == 12
    assert all("kl" not in line for line in lines(tmp_path))


def test_metrics(tmp_path):
    learner, progress = run(tmp_path)
    steps = [line for line in lines(tmp_path) if "validation" not in line]
    assert [line["step"] for line in steps] == list(range(1, 13))
    assert steps[-1].keys() == {"step", "loss", "nll", "kl", "gradient_norm", "learning_rate", "tokens", "seconds"}
    assert steps[-1]["tokens"] == progress.tokens
    positions = [sum(sum(m) for _, m in toy.Pieces().documents(s, 0)) for s in range(12)]
    assert progress.tokens == sum(positions)
    held_out = [line for line in lines(tmp_path) if "validation" in line]
    assert [line["step"] for line in held_out] == [3, 6, 9, 12]
    assert held_out[0]["validation"].keys() == {"loss", "nll", "kl"}
    # the value is the mean over all held-out positions
    batches = list(toy.Pieces().all(0))
    fresh = toy.Learner()
    from stillhouse.trainer.loop import validate

    values = validate(fresh, toy.Teacher(), toy.Pieces(), 0, toy.section(), ALONE)
    nll = []
    for batch in batches:
        for position, label in zip(batch.select_N.tolist(), batch.labels_N.tolist(), strict=True):
            q = fresh.student.network(batch.input_ids_P)[position].softmax(-1)
            nll.append(-math.log(q[label].item()))
    assert values["nll"] == pytest.approx(sum(nll) / len(nll), rel=1e-5)


def test_validation_leaves_no_trace(tmp_path):
    with_it, _ = run(tmp_path / "a", toy.Learner(dropout=0.3), section=toy.section(keep_best=False))
    without, _ = run(tmp_path / "b", toy.Learner(dropout=0.3), section=toy.section(keep_best=False), validation=False)
    assert toy.same(toy.weights(with_it), toy.weights(without))


def test_dropout_and_the_schedule_step_reach_the_learner(tmp_path):
    learner, _ = run(tmp_path, validation=False)
    assert sorted(set(learner.steps_seen)) == list(range(12))
    assert not learner.training


def worsening(monkeypatch, values):
    """Make validations return the values given, in turn."""
    from stillhouse.trainer import loop

    turn = iter(values)
    monkeypatch.setattr(loop, "validate", lambda *a, **k: {"loss": next(turn)})


def test_ends_with_the_best_weights(tmp_path, monkeypatch):
    seen = {}
    worsening(monkeypatch, [3.0, 1.0, 2.0, 1.5])
    grab = lambda step, metrics, learner: seen.update({step: toy.weights(learner)})  # noqa: E731
    hooks_of(monkeypatch, grab)
    learner, progress = run(tmp_path, section=toy.section(hooks=("toy:hook",)))
    assert (progress.best, progress.best_step, progress.step) == (1.0, 6, 12)
    assert toy.same(toy.weights(learner), seen[6])
    again, progress = run(tmp_path, toy.Learner(seed=5), section=toy.section(hooks=("toy:hook",)))  # only reads
    assert progress.step == 12 and toy.same(toy.weights(again), seen[6])
    assert again.student.network.head.weight is again.student.network.embedding.weight


def test_keeps_the_last_weights_if_asked(tmp_path, monkeypatch):
    seen = {}
    worsening(monkeypatch, [1.0, 2.0, 3.0, 4.0])
    hooks_of(monkeypatch, lambda step, metrics, learner: seen.update({step: toy.weights(learner)}))
    learner, _ = run(tmp_path, section=toy.section(hooks=("toy:hook",), keep_best=False))
    assert toy.same(toy.weights(learner), seen[12])


def hooks_of(monkeypatch, function):
    monkeypatch.setattr(toy, "hook", function, raising=False)


def test_early_stop_and_resume_after_it(tmp_path, monkeypatch):
    worsening(monkeypatch, [3.0, 1.0, 2.0, 1.5])
    section = toy.section(patience=1)
    learner, progress = run(tmp_path, section=section)
    assert (progress.step, progress.best_step, progress.waited) == (9, 6, 1)
    count = len(lines(tmp_path))
    again, progress = run(tmp_path, toy.Learner(seed=5), section=section)
    assert progress.step == 9 and toy.same(toy.weights(again), toy.weights(learner))
    assert len(lines(tmp_path)) == count


def test_hooks_are_called_after_each_step(tmp_path, monkeypatch):
    calls = []
    hooks_of(monkeypatch, lambda **given: calls.append(given))
    learner, _ = run(tmp_path, section=toy.section(hooks=("toy:hook",)))
    assert [call["step"] for call in calls] == list(range(1, 13))
    assert calls[0]["learner"] is learner and "loss" in calls[0]["metrics"]
    with pytest.raises(RecipeError, match=r"package\.module:function"):
        run(tmp_path / "b", section=toy.section(hooks=("nothing",)))


def test_clipping_bounds_the_whole_norm_and_reports_the_one_before(monkeypatch):
    batches = toy.Pieces().step(0, tokens_per_step=0, micro_tokens=0)
    learner = toy.Learner()
    parameters = dict(learner.named_parameters())
    accumulate(learner, None, batches, 0, ALONE)
    true = math.sqrt(sum(float(g.double().pow(2).sum()) for g in gradients(learner).values()))
    before = gradients(learner)
    learner.zero_grad()
    section = toy.section(clip=0.01)
    optimiser = make_optimiser(parameters, section)
    seen = {}
    monkeypatch.setattr(optimiser, "step", lambda: seen.update(gradients(learner)))
    _, norm = take_step(learner, None, batches, parameters, optimiser, 0, section, ALONE)
    assert norm == pytest.approx(true, rel=1e-5)
    for name, gradient in seen.items():
        torch.testing.assert_close(gradient, before[name] * (0.01 / true), rtol=1e-3, atol=1e-9)


def test_the_optimiser_gets_the_rate_of_the_step():
    learner = toy.Learner()
    section = toy.section()
    parameters = dict(learner.named_parameters())
    optimiser = make_optimiser(parameters, section)
    batches = toy.Pieces().step(0, tokens_per_step=0, micro_tokens=0)
    for step in (0, 5, 11):
        take_step(learner, None, batches, parameters, optimiser, step, section, ALONE)
        assert {group["lr"] for group in optimiser.param_groups} == {learning_rate(step, section)}
        assert all(p.grad is None for p in learner.parameters())


def test_tensorboard_gets_the_numbers(tmp_path):
    pytest.importorskip("tensorboard")
    run(tmp_path, section=toy.section(loggers=("tensorboard",)))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("loss")] == list(range(1, 13))
    assert [e.step for e in events.Scalars("validation/loss")] == [3, 6, 9, 12]


def test_an_unknown_logger_option_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="unknown key"):
        run(tmp_path, section=toy.section(loggers=({"name": "tensorboard", "paht": "x"},)))
