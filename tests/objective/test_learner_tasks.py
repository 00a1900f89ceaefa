"""Several tasks in one micro-batch: own temperatures, own sums, own gradients; and measures of difficulty."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from mixed import make_pieces
from shared import make_batch, make_llama, make_tokenizer
from torch import nn

from stillhouse import recipe
from stillhouse.find import find, names
from stillhouse.objective import Learner
from stillhouse.objective.measure import measure, wants_teacher
from stillhouse.teacher import Teacher
from stillhouse.trainer import distributed
from stillhouse.trainer.loop import accumulate, task_gradients
from stillhouse.types import Batch, Output, Signal

TOKENIZER = make_tokenizer()
OBJECTIVES = {
    "closed form": {},
    "autograd": {"soft": "js"},
    "terms on layers": {"terms": [{"name": "hidden_cosine", "weight": 0.5, "layers": "last"}]},
}


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return Teacher(make_llama(TOKENIZER, layers=2, seed=7))


def mixed() -> Batch:
    batch = make_batch([5, 9, 3, 7], 300, every=2)
    weights = torch.tensor([1.0, 1.0, 2.0, 2.0])[batch.document_N]
    return dataclasses.replace(batch, tasks=("a", "a", "b", "b"), offsets_D=(0,) * 4, weight_N=weights)


def learner_of(content: dict, tasks: dict[str, float | None], teacher: Teacher) -> Learner:
    from stillhouse.objective import Shape

    section = recipe.Objective.model_validate({"alpha": 0.7, "chunk": 4, **content})
    return Learner(make_llama(TOKENIZER, layers=2, seed=1), section, 10, shape=Shape.of(teacher.model), tasks=tasks)


def value_and_gradient(learner: Learner, teacher: Teacher, batch: Batch) -> tuple[float, dict, list[torch.Tensor]]:
    learner.zero_grad()
    loss, parts = learner(batch, teacher.signal(batch, learner.want), 10.0, 0)
    loss.backward()
    return float(loss.detach()), parts, [p.grad.clone() for p in learner.parameters() if p.grad is not None]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_tasks_of_their_own_temperature_are_as_if_each_came_alone(objective, teacher):
    batch = mixed()
    learner = learner_of(OBJECTIVES[objective], {"a": None, "b": 5.0}, teacher)
    together, parts, gradient = value_and_gradient(learner, teacher, batch)
    total, gradients = 0.0, None
    for task, temperature in (("a", 2.0), ("b", 5.0)):  # 2 is the objective's
        alone = learner_of({**OBJECTIVES[objective], "temperature": temperature}, {}, teacher)
        value, _, own = value_and_gradient(alone, teacher, batch.of_task(task))
        total += value
        gradients = own if gradients is None else [x + y for x, y in zip(gradients, own, strict=True)]
        assert parts[f"loss/{task}"] / 10.0 == pytest.approx(value, rel=1e-4)
    assert together == pytest.approx(total, rel=1e-4)
    for ours, theirs in zip(gradient, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    assert parts["weight/a"] == 7.0 and parts["weight/b"] == 2.0 * 5


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_names_of_tasks_change_no_bit_of_the_gradient(objective, teacher):
    batch = mixed()
    named = value_and_gradient(learner_of(OBJECTIVES[objective], {"a": None, "b": None}, teacher), teacher, batch)
    plain = value_and_gradient(learner_of(OBJECTIVES[objective], {}, teacher), teacher, batch)
    assert named[0] == plain[0]
    assert all(torch.equal(x, y) for x, y in zip(named[2], plain[2], strict=True))


def test_what_is_told_is_the_same_while_validating(teacher):
    learner = learner_of({}, {"a": None, "b": 5.0}, teacher)
    batch = mixed()
    _, parts, _ = value_and_gradient(learner, teacher, batch)
    with torch.no_grad():
        _, without = learner(batch, teacher.signal(batch), 10.0, 0)
    assert parts == pytest.approx(without, rel=1e-4)


def test_an_idle_process_tells_the_same_names(teacher):
    learner = learner_of({}, {"a": None, "b": None}, teacher)
    nothing = dataclasses.replace(make_batch([1], 300), keys=("",))
    _, parts = learner(nothing, teacher.signal(nothing), 1.0, 0)
    _, full, _ = value_and_gradient(learner, teacher, mixed())
    assert set(parts) == set(full)


def test_the_gradient_of_each_task_is_that_of_its_documents_alone(teacher):
    learner = learner_of({}, {"a": None, "b": 3.0, "absent": None}, teacher)
    parameters = dict(learner.named_parameters())
    ranks = distributed.start("cpu")
    state = torch.get_rng_state()
    found = task_gradients(learner, teacher, [mixed(), mixed()], parameters, 0, ("a", "b", "absent"), ranks)
    assert set(found) == {"gradient_norm/a", "gradient_norm/b"}
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in parameters.values())
    for task in ("a", "b"):
        accumulate(learner, teacher, [mixed().of_task(task)], 0, ranks)
        expected = math.sqrt(
            sum(float((p.grad.double() ** 2).sum()) for p in parameters.values() if p.grad is not None)
        )
        assert found[f"gradient_norm/{task}"] == pytest.approx(expected, rel=1e-4)
        learner.zero_grad(set_to_none=True)


def test_the_documents_of_a_task_are_cut_out_whole():
    pieces = make_pieces({"a": 6, "b": 5})
    import numpy as np

    order = np.random.default_rng(0).permutation(11)
    batch = pieces.gather([(pieces.laid(order, 10_000), 0, int(pieces.parts[1].sum()))])
    for task in ("a", "b", "c"):
        part = batch.of_task(task)
        assert part.keys == tuple(k for k, t in zip(batch.keys, batch.tasks, strict=True) if t == task)
        if task == "c":
            assert part.borders_D1 == (0,) and not len(part.labels_N)
            continue
        where = {key: d for d, key in enumerate(batch.keys)}
        for d, key in enumerate(part.keys):
            a, b = part.borders_D1[d : d + 2]
            x, y = batch.borders_D1[where[key] : where[key] + 2]
            assert part.input_ids_P[a:b].tolist() == batch.input_ids_P[x:y].tolist()
            mine, theirs = part.document_N == d, batch.document_N == where[key]
            assert part.labels_N[mine].tolist() == batch.labels_N[theirs].tolist()
            assert (part.select_N[mine] - a).tolist() == (batch.select_N[theirs] - x).tolist()


# --- difficulty ---


def distributions(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, Batch]:
    generator = torch.Generator().manual_seed(seed)
    s, t = (torch.randn(6, 9, generator=generator) * 2 for _ in range(2))
    return s, t, make_batch([2, 4], 9)


def slow(name: str, q: list[float], p: list[float], label: int) -> float:
    if name == "gap":
        return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    if name == "student_loss":
        return -math.log(q[label])
    if name == "teacher_entropy":
        return -sum(a * math.log(a) for a in p)
    return 1.0 - sum(a * b for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("name", names("difficulty"))
def test_difficulty_is_that_of_the_definition(name):
    from stillhouse.objective import taking

    s, t, batch = distributions()
    found = taking(find("difficulty", name))(Output(s), Signal(logits_NV=t), batch)
    for n in range(6):
        q, p = torch.softmax(s[n].double(), 0).tolist(), torch.softmax(t[n].double(), 0).tolist()
        assert float(found[n]) == pytest.approx(slow(name, q, p, int(batch.labels_N[n])), abs=1e-5)


@pytest.mark.parametrize("name", names("difficulty"))
@pytest.mark.parametrize("k", [1, 4, 9])
def test_difficulty_of_a_truncated_teacher_is_a_finite_number_near_it(name, k):
    from stillhouse.objective import taking

    s, t, batch = distributions()
    log_p = torch.log_softmax(t, -1)
    logp, ids = log_p.topk(k)
    rest = torch.log1p(-logp.exp().sum(-1).clamp_max(1.0)) if k < 9 else torch.full((6,), -math.inf)
    dense = taking(find("difficulty", name))(Output(s), Signal(logits_NV=t), batch)
    part = taking(find("difficulty", name))(Output(s), Signal(ids_NK=ids, logp_NK=logp, rest_N=rest), batch)
    assert torch.isfinite(part).all()
    if k == 9:
        torch.testing.assert_close(part, dense, rtol=1e-4, atol=1e-4)
    elif name == "gap":
        assert (part <= dense + 1e-5).all()
    elif name in ("teacher_entropy", "agreement"):
        assert (part >= dense - 1e-5).all()


def test_only_the_loss_of_the_student_needs_no_teacher():
    assert [name for name in names("difficulty") if not wants_teacher(name)] == ["student_loss"]


def test_difficulty_is_added_up_over_whole_documents(teacher):
    student = make_llama(TOKENIZER, layers=2, seed=1).train()
    pieces = make_pieces({"a": 5, "b": 4})
    import numpy as np

    tokens = []
    sums, counts = measure(teacher.signal, student, ["gap", "student_loss"], pieces.of(np.arange(9), 40), tokens.append)
    assert sums.shape == (9, 2) and counts.tolist() == pieces.parts[1].tolist()
    assert sum(tokens) == pieces.tokens and student.training
    for number in (0, 4, 8):
        (batch,) = pieces.of(np.array([number]), 1000)
        with torch.no_grad():
            s = student.eval().head.logits(student(batch)[0])
            t = teacher.signal(batch).rows(0, len(batch.labels_N)).logits_NV
        log_q, log_p = torch.log_softmax(s.double(), -1), torch.log_softmax(t.double(), -1)
        kl = sum(float((log_p[n].exp() * (log_p[n] - log_q[n])).sum()) for n in range(len(log_q)))
        loss = -sum(float(log_q[n, label]) for n, label in enumerate(batch.labels_N.tolist()))
        assert sums[number].tolist() == pytest.approx([kl, loss], rel=1e-3)


def test_where_the_teacher_has_no_word_nothing_is_measured_of_it(teacher):
    class Silent(nn.Module):
        def signal(self, batch):
            return dataclasses.replace(teacher.signal(batch), weight_N=torch.zeros(len(batch.labels_N)))

    import numpy as np

    pieces = make_pieces({"a": 3})
    student = make_llama(TOKENIZER, layers=2, seed=1)
    sums, _ = measure(Silent().signal, student, ["gap", "student_loss"], pieces.of(np.arange(3), 64), lambda _: None)
    assert (sums[:, 0] == 0).all() and (sums[:, 1] > 0).all()
