"""What a teacher of other tokens is charged for the text of each of the student's labels; and such a pair through the flow."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from test_align import MAKERS, pieces
from two_tokenizers import TEXTS, batch_of, make_byte_level, make_model, make_word_piece

import stillhouse
from stillhouse.errors import ModelError, RecipeError
from stillhouse.evaluate import records
from stillhouse.teacher import Teacher
from stillhouse.teacher.align import aligned
from stillhouse.teacher.quality import quality


def byte_costs(model, text: str, first_byte: int, stop_byte: int, ended: bool) -> tuple[list[float], float]:
    """What each byte of the text costs the teacher, by feeding it one longer prefix after another; and what the end costs."""
    theirs = pieces(model.tokenizer, text)
    leading = [i for i, a, b in theirs if (a, b) == (0, 0)]
    costs, end = [0.0] * (len(text.encode()) + 1), 0.0
    for k, (label, a, b) in enumerate(theirs):
        is_end = a == b == len(text.encode())
        if (a == b and not (is_end and ended)) or a < first_byte or (a >= stop_byte and not is_end):
            continue
        before = leading + [i for i, e, f in theirs[:k] if e >= first_byte and f > e]
        if not before:
            continue
        with torch.no_grad(), model.generating() as network:
            logits = network(input_ids=torch.tensor([before]), use_cache=False).logits[0, -1].double()
        cost = -math.log(float(torch.softmax(logits, -1)[label]))
        if is_end:
            end += cost
        for byte in range(a, b):
            costs[byte] += cost / (b - a)
    return costs, end


RUNS = [None, {"a": (2, 9), "b": (5, 30), "c": (1, 4)}]


@pytest.mark.parametrize("runs", RUNS)
@pytest.mark.parametrize(("of_student", "of_teacher"), [("byte_level", "word_piece"), ("word_piece", "byte_level")])
def test_every_label_is_charged_what_its_bytes_cost_the_teacher(of_student: str, of_teacher: str, runs):
    student, teacher = MAKERS[of_student](), MAKERS[of_teacher]()
    model = make_model(teacher)
    batch = batch_of(student, TEXTS, runs)
    nll = aligned(Teacher(model), student, TEXTS.__getitem__).nll(batch)
    n = 0
    for d, text in enumerate(TEXTS.values()):
        ours = pieces(student, text)
        start = batch.offsets_D[d]
        length = batch.borders_D1[d + 1] - batch.borders_D1[d]
        labels = ours[start + 1 : start + length + 1]
        ended = start + length + 1 == len(ours)
        costs, end = byte_costs(model, text, ours[start][1], labels[-1][2], ended)
        for i, (_, a, b) in enumerate(labels):
            wanted = sum(costs[a:b]) + (end if i == len(labels) - 1 else 0.0)
            assert float(nll[n]) == pytest.approx(wanted, rel=1e-4, abs=1e-4), (text, i)
            n += 1
    assert n == len(nll)


def test_a_teacher_of_the_same_tokens_is_charged_its_own_loss():
    tokenizer = make_byte_level()
    model = make_model(tokenizer)
    batch = batch_of(tokenizer, TEXTS)
    nll_N = aligned(Teacher(model), tokenizer, TEXTS.__getitem__).nll(batch)
    with torch.no_grad():
        logits_NV = model.head.logits(model(batch)[0])
    wanted_N = torch.nn.functional.cross_entropy(logits_NV, batch.labels_N, reduction="none").double()
    torch.testing.assert_close(nll_N, wanted_N, rtol=1e-4, atol=1e-4)
    assert Teacher(model).nll(batch) is None


def settings(folder: Path, **more) -> stillhouse.Recipe:
    texts = [f"{i} casks of oak, {i * i} litres. {text}" for i in range(20) for text in TEXTS.values()]
    (folder / "text.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts) + "\n", encoding="utf-8")
    make_model(make_byte_level()).save(folder / "teacher")
    make_word_piece().save_pretrained(folder / "words")
    content = {
        "name": "tiny",
        "run": str(folder / "run"),
        "data": {
            "sources": {"name": "jsonl", "path": str(folder / "text.jsonl")},
            "block": 32,
            "validation": 0.2,
            "end_token": "[SEP]",
        },
        "teacher": str(folder / "teacher"),
        "student": {"name": "random", "layers": 1, "tokenizer": str(folder / "words")},
        "objective": {"soft": "gold", "alpha": 0.5},
        "trainer": {"steps": 3, "tokens_per_step": 128, "micro_tokens": 64, "dtype": "float32", "validate_every": 2},
        "evaluate": {"tokens": 300, "control": False},
        "report": {"prompts": ["still water"], "new_tokens": 4},
    }
    return stillhouse.parse({**content, **more})


def test_a_student_of_other_tokens_through_the_flow(tmp_path: Path):
    run = stillhouse.run(settings(tmp_path))
    items = records.read(run / "evaluation" / "items.parquet")
    assert items.roles["teacher"].kl is None and items.roles["student"].kl is None
    assert items.roles["student"].conf is not None
    assert 0 < items.roles["student"].nll.mean() < items.roles["before"].nll.mean()
    # The table's teacher is the teacher's own loss: read its tokens straight, whole documents.
    teacher = make_model(make_byte_level())
    texts = dict(enumerate(json.loads(line)["text"] for line in (tmp_path / "text.jsonl").read_text().splitlines()))
    student = make_word_piece()
    by_key = stillhouse.data.prepare(stillhouse.load(run / "recipe.yaml").data, student, run / "data").text_of
    assert set(map(by_key, np.unique(items.key.astype(str)))) <= set(texts.values())
    for key in np.unique(items.key.astype(str)):
        text = by_key(key)
        first = pieces(student, text)[0][2]
        ours = items.roles["teacher"].nll[items.key == key].sum()
        costs, end = byte_costs(teacher, text, 0, len(text.encode()), ended=True)
        if items.bytes[items.key == key].sum() == len(text.encode()) - first:  # its whole text is in the table
            assert ours == pytest.approx(sum(costs[first:]) + end, rel=0.05)  # block by block against all at once
    findings = {f["name"]: f for f in json.loads((run / "evaluation.json").read_text())["findings"]}
    assert findings["fidelity"]["verdict"] == "NOT MEASURED"
    assert findings["performance"]["verdict"] != "NOT MEASURED"
    sample = json.loads((run / "samples.json").read_text())[0]
    assert set(sample["texts"]) == {"teacher", "before", "student"}
    loaded = stillhouse.models.load(str(run / "student"))
    assert len(loaded.tokenizer) == loaded.outcomes == len(student)


def test_losses_that_compare_id_by_id_are_refused_before_any_text_is_read(tmp_path: Path):
    with pytest.raises(RecipeError, match="knows other tokens than the student"):
        stillhouse.run(settings(tmp_path, objective={"soft": "forward_kl"}))
    with pytest.raises(RecipeError, match="does not show"):
        stillhouse.run(
            settings(tmp_path, objective={"soft": "gold", "terms": ["hidden_mse"]}, run=str(tmp_path / "features"))
        )
    assert not (tmp_path / "run" / "data").exists()


def test_the_same_tokens_under_other_ids_are_refused(tmp_path: Path):
    recipe = settings(tmp_path)
    file = tmp_path / "other" / "tokenizer.json"
    make_model(make_byte_level()).save(file.parent)
    rules = json.loads(file.read_text())
    vocabulary = rules["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    file.write_text(json.dumps(rules))
    with pytest.raises(ModelError, match=r"numbers the tokens of teacher otherwise: id \d+ is b'b' for"):
        stillhouse.run(recipe.model_copy(update={
            "student": stillhouse.recipe.Student(name="pretrained", model=str(file.parent)),
            "data": recipe.data.model_copy(update={"end_token": None}),
        }))  # fmt: skip


def test_what_it_writes_itself_cannot_be_aligned(tmp_path: Path):
    sampler = {"sampler": {"name": "student_text"}}
    source = {"sources": {"name": "jsonl", "path": str(tmp_path / "text.jsonl")}, "block": 32, "end_token": "[SEP]"}
    with pytest.raises(ModelError, match="cannot judge what the student writes"):
        stillhouse.run(settings(tmp_path, data={**source, **sampler}))


def test_how_good_it_is_on_text_is_told_in_the_same_bytes():
    student, teacher = make_word_piece(), make_byte_level()
    model = make_model(teacher)
    batch = batch_of(student, TEXTS)
    tutor = aligned(Teacher(model), student, TEXTS.__getitem__)
    found = quality(tutor, [(batch, np.full(len(batch.labels_N), 2))], torch.ones(len(student)))
    assert found is not None and found.positions == len(batch.labels_N)
    wanted = float(tutor.nll(batch).sum()) / math.log(2) / (2 * len(batch.labels_N))
    assert found.bits_per_byte == pytest.approx(wanted)
    assert found.floor_bits_per_byte == pytest.approx(math.log2(len(student)) / 2)
    assert found.confidence is None and "likeliest" not in str(found)
