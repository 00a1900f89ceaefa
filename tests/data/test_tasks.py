from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from shared import make_llama

from stillhouse import recipe
from stillhouse.check import task_problems
from stillhouse.data import prepare
from stillhouse.errors import DataError
from stillhouse.objective import Learner
from stillhouse.recipe import Data


def section(tmp_path: Path, counts: dict[str, int], **options) -> Data:
    sources = []
    for task, count in counts.items():
        path = tmp_path / f"{task}.jsonl"
        rows = [{"question": f"{task} question number {i}", "answer": f"answer {i}", "other": i} for i in range(count)]
        path.write_text("\n".join(map(json.dumps, rows)) + "\n")
        format_ = {"name": "template", "prompt": "{{ question }}:", "response": " {{ answer }}"}
        sources.append({"name": "jsonl", "path": str(path), "task": task, "format": format_})
    return Data.model_validate({"sources": sources, "block": 64, "validation": 0.2, **options})


def test_tasks_are_those_of_the_sources_and_each_is_held_out_of(tokenizer, tmp_path):
    corpus = prepare(section(tmp_path, {"sums": 40, "rare": 2, "one": 1}), tokenizer, tmp_path / "data")
    facts = corpus.facts["tasks"]
    assert list(facts) == ["sums", "rare", "one"]
    assert facts["sums"]["documents"] + facts["sums"]["held_out"] == 40
    assert (facts["rare"]["documents"], facts["rare"]["held_out"]) == (1, 1)
    assert (facts["one"]["documents"], facts["one"]["held_out"]) == (1, 0)
    assert sum(facts[name]["tokens"] for name in facts) == corpus.facts["train"]["tokens"]
    for batch, _ in corpus.train.all(256):
        texts = [corpus.text_of(key) for key in batch.keys]
        assert [text.split()[0] for text in texts] == list(batch.tasks)


def test_a_beginning_of_the_held_out_text_holds_all_tasks_alike(tokenizer, tmp_path):
    corpus = prepare(section(tmp_path, {"many": 200, "few": 30}, validation=0.3), tokenizer, tmp_path / "data")
    seen = {"many": 0, "few": 0}
    for batch, _ in corpus.validation.all(64, 200):
        for task, a, b in zip(batch.tasks, batch.borders_D1, batch.borders_D1[1:], strict=False):
            seen[task] += b - a
    assert abs(seen["many"] - seen["few"]) <= 30


def test_treatment_of_tasks_makes_no_text_anew(tokenizer, tmp_path):
    plain = section(tmp_path, {"a": 10, "b": 10})
    prepare(plain, tokenizer, tmp_path / "data")
    made = (tmp_path / "data" / "manifest.json").stat().st_mtime_ns
    treated = plain.model_copy(
        update={"tasks": {"a": recipe.Task(weight=3.0)}, "mixture": recipe.Strategy(name="equal")}
    )
    corpus = prepare(treated, tokenizer, tmp_path / "data")
    assert (tmp_path / "data" / "manifest.json").stat().st_mtime_ns == made
    weights = {(batch.tasks[d], w) for batch, _ in corpus.train.all(64) for d, w in zip(batch.document_N.tolist(), batch.weight_N.tolist(), strict=True)}  # fmt: skip
    assert weights == {("a", 3.0), ("b", 1.0)}


@pytest.mark.parametrize("filters", [(), ("length",)])
def test_a_record_counts_what_its_field_says(filters, tokenizer, tmp_path):
    """In every position, through filters and beside its task's weight; of the other task each record counts one."""
    plain = section(tmp_path, {"a": 12, "b": 12}, filters=filters)
    weighed = plain.sources[0].model_copy(update={"weight": "other"})
    rows = [
        json.loads(line) | {"other": 0.5 + i} for i, line in enumerate((tmp_path / "a.jsonl").read_text().splitlines())
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    update = {"sources": (weighed, plain.sources[1]), "tasks": {"a": recipe.Task(weight=2.0)}}
    corpus = prepare(plain.model_copy(update=update), tokenizer, tmp_path / "data")
    seen = 0
    for pieces in (corpus.train, corpus.validation):
        for batch, _ in pieces.all(64):
            for d, weight in zip(batch.document_N.tolist(), batch.weight_N.tolist(), strict=True):
                number = int(corpus.text_of(batch.keys[d]).split("number ")[1].split(":")[0])
                assert weight == ((0.5 + number) * 2.0 if batch.tasks[d] == "a" else 1.0)
                seen += 1
    assert seen > 50


def test_a_weight_moves_the_gradient_as_so_many_copies_would(tokenizer, tmp_path):
    """Two examples that count 3 and 1: the mean loss is that of four, three of them the first."""
    learner = Learner(make_llama(tokenizer), recipe.Objective(), 1, teacher=False)
    texts = ["Still waters run deep.", "A teacher says what it knows."]
    rows = [{"text": text, "counts": counts} for text, counts in zip(texts, (3, 1), strict=True)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    source = {"name": "jsonl", "path": str(tmp_path / "a.jsonl")}
    held_out = [{"name": "jsonl", "path": str(tmp_path / "b.jsonl")}]
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "Held out."}) + "\n")
    losses = []
    for number, more in enumerate(({"weight": "counts"}, {})):
        made = Data.model_validate({"sources": source | more, "block": 16, "validation_sources": held_out})
        corpus = prepare(made, tokenizer, tmp_path / f"data-{number}")
        ((batch, _),) = corpus.train.all(256)
        total, _ = learner(batch, None, 1.0, 0)
        losses.append((float(total.detach()), batch))
    (weighed, batch), (even, _) = losses
    logits_NV = learner.student.head.logits(learner.student(batch)[0]).detach()
    each = torch.nn.functional.cross_entropy(logits_NV, batch.labels_N, reduction="none")
    first = torch.tensor([texts[0] in corpus.text_of(batch.keys[d]) for d in batch.document_N.tolist()])
    assert even == pytest.approx(float(each.sum()), rel=1e-5)
    assert weighed == pytest.approx(float(each.sum() + 2 * each[first].sum()), rel=1e-5)
    assert float(batch.weight_N.sum()) == 3 * int(first.sum()) + int((~first).sum())  # what the sum is divided by


@pytest.mark.parametrize("value", [0, -1, True, "2", None, float("inf")])
def test_what_is_no_weight_is_refused_where_it_stands(value, tokenizer, tmp_path):
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"text": "one", "w": 1}) + "\n" + json.dumps({"text": "two", "w": value}) + "\n"
    )
    source = {"name": "jsonl", "path": str(tmp_path / "a.jsonl"), "weight": "w"}
    with pytest.raises(DataError, match=r"record 2: field 'w' holds .*, which is no weight: a number above 0"):
        prepare(Data.model_validate({"sources": source}), tokenizer, tmp_path / "data")


def test_a_source_that_names_no_weight_keeps_its_recipes_fingerprint():
    """Runs that began before records could have weights go on."""
    assert "weight" not in recipe.Source(name="jsonl").model_dump(mode="json")
    assert recipe.Source(name="jsonl", weight="w").model_dump(mode="json")["weight"] == "w"


def test_tasks_without_rows_are_refused_all_at_once(tokenizer, tmp_path):
    with pytest.raises(DataError) as caught:
        prepare(section(tmp_path, {"a": 10, "b": 0, "c": 0}), tokenizer, tmp_path / "data")
    assert [problem.where for problem in caught.value.problems] == ["data.sources, task 'b'", "data.sources, task 'c'"]
    assert "0 records read" in str(caught.value)
    assert not (tmp_path / "data").exists()


def problems(tmp_path: Path, **options) -> str:
    return "\n".join(map(str, task_problems(section(tmp_path, {"sums": 2, "talk": 2}, **options))))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tasks": {"sum": {"weight": 2}}}, ["data.tasks.sum", "Did you mean 'sums'?"]),
        ({"mixture": {"name": "fixed", "shares": {"sums": 1, "tolk": 1}}}, ["shares.talk", "missing", "shares.tolk"]),
        ({"sampler": ["student_text", "focused"]}, ["Let student_text come last"]),
        ({"sampler": ["student_text", "student_text"]}, ["twice"]),
        ({"sampler": ["dynamic", "student_text"]}, ["multiple of 8"]),
        ({"sampler": [{"name": "dynamic", "every": 16}, "student_text"]}, []),
        ({"mixture": "adaptive", "sampler": ["focused", {"name": "student_text", "every": 7}]}, ["'adaptive' measures every 50"]),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told(tmp_path, options, words):
    told = problems(tmp_path, **options)
    assert all(word in told for word in words), told
    assert bool(told) == bool(words)


def test_a_source_without_a_task_among_others_and_a_mixture_of_none(tmp_path):
    both = section(tmp_path, {"sums": 2, "talk": 2})
    some = both.model_copy(update={"sources": (both.sources[0], both.sources[1].model_copy(update={"task": ""}))})
    assert "belongs to no task" in str(task_problems(some)[0])
    none = both.model_copy(update={"sources": tuple(s.model_copy(update={"task": ""}) for s in both.sources)})
    assert not task_problems(none)
    mixed = none.model_copy(update={"mixture": recipe.Strategy(name="equal")})
    assert "no tasks to mix" in str(task_problems(mixed)[0])


@pytest.mark.parametrize("task", [{"weight": 0}, {"weight": -1}, {"temperature": 0}, {"epochs": 0}, {"share": 1}])
def test_a_task_treated_impossibly_is_refused(tmp_path, task):
    with pytest.raises(ValueError, match="tasks"):
        section(tmp_path, {"sums": 2}, tasks={"sums": task})


def test_a_sampler_may_be_one_several_or_none():
    def of(value):
        return Data.model_validate({"sources": "python_docs", "sampler": value}).sampler

    assert of(None) == of([]) == ()
    assert [s.name for s in of("focused")] == ["focused"]
    assert [s.name for s in of(["confident", {"name": "focused", "keep": 0.2}])] == ["confident", "focused"]
