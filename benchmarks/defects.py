"""The evaluator evaluated: a teacher's own copies with one known defect each, and which gates find it. Defect × gate is a matrix, and
it has to be diagonal.

    python benchmarks/defects.py              every defect below, one after another, resumable; writes the table of docs/evaluate.md
    python benchmarks/defects.py --table      the table of what was measured so far

The teacher is a Llama of half a million parameters that was taught a small language (``small_world.py``) with three skills and a leaning, about
two minutes of a core, once: so far above every floor that a few hundred questions decide. All answers are those of real models. Of three
defects (pronouns, long sums, half of the answers) the copy is whole and its answers are changed afterwards, because no cut through the
weights is that clean. *rounded to 16 bits* is no defect: it changes answers and loses nothing, and every gate must PASS.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from cells import DOCS, Benchmark, Row, put
from small_world import held_out, tasks, teacher
from torch import nn

from stillhouse import recipe
from stillhouse.evaluate import answers, ask, score
from stillhouse.evaluate.answers import Answered, Answers
from stillhouse.evaluate.examine import Asker
from stillhouse.evaluate.questions import Task
from stillhouse.models import Model
from stillhouse.teacher import Teacher

GATES = ("performance", "calibration", "tasks", "coverage", "collapse", "reasoning", "bias", "soundness")
AIMED = {
    "rounded to 16 bits": "",
    "logits sharpened": "calibration",
    "a word of the vocabulary": "collapse",
    "stereotyped pronouns": "bias",
    "long sums": "reasoning",
    "a layer dropped": "coverage",
    "rounded to 4 bits": "",
    "rounded to 2 bits": "performance",
    "half of the answers mixed up": "tasks",
}
"""Defect → the gate that it is aimed at; none of what is no defect."""

NARROW: dict[str, tuple[str, ...]] = {
    "logits sharpened": (),
    "a word of the vocabulary": (),
    "stereotyped pronouns": (),
    "long sums": ("coverage",),  # sums are a capability too
}
"""Defects that one gate must find and no other → what they are besides. The others are broad: a loss everywhere is one of every skill."""

BENCHMARK = Benchmark(
    "defects",
    __doc__ or "",
    tuple(AIMED),
    {
        "steps": (1000, "of the teacher, 1,152 tokens each"),
        "questions": (960, "of each skill, of grammar more"),
        "documents": (240, "held-out texts"),
    },
    needs_data=False,
)


@dataclass(frozen=True)
class World:
    """What all defects share: the teacher, what is asked, what is read, and what the teacher said."""

    teacher: Model
    end: int
    tasks: dict[str, Task]
    read: score.HeldOut
    answered: dict[str, Any]


def main() -> None:
    BENCHMARK.main(prepare, measure, tell)


def prepare(given: argparse.Namespace) -> World:
    torch.set_num_threads(1)
    folder = given.work / f"teacher-{given.steps}-{given.seeds[0]}"
    own = teacher(folder, steps=given.steps, rows=12, seed=given.seeds[0], tell=lambda line: print(line, flush=True))
    own.eval()
    asked = tasks(given.questions)
    batches, counts_V = held_out(own.tokenizer, given.documents)
    end = own.tokenizer.eos_token_id
    read = score.read(batches, counts_V, Teacher(own), lambda _: None)
    return World(own, end, asked, read, asked_of(own, end, asked, "teacher"))


def asked_of(model: Model, end: int, asked: dict[str, Task], role: str) -> dict[str, Any]:
    """The rows that a model's answers make, task by task."""
    asker = Asker(model, end)
    return {
        name: answers.table(role, name, task, task.normalisation or "raw", asker(task.questions, free=False))
        for name, task in asked.items()
    }


def measure(cell: str, seed: int, world: World, _: argparse.Namespace) -> Row:
    began = time.process_time()
    student = copy.deepcopy(world.teacher).eval()
    if change := WEIGHTS.get(cell):
        with torch.no_grad():
            change(student)
    items = score.score(world.read, "student", student, lambda _: None).items
    said = asked_of(student, world.end, world.tasks, "student")
    table = Answers(tuple(joined(world.answered[name], said[name]) for name in world.tasks))
    if alter := ANSWERS.get(cell):
        table = Answers(tuple(alter(task, np.random.default_rng(seed)) for task in table.tasks))
    tables = {"items": items, "answers": table, "classes": (), "tags": {}}
    findings, _overall = ask(tables, recipe.Evaluate(), tuple(recipe.Gate(name=name) for name in GATES))
    return {
        "verdicts": {found.name: found.verdict for found in findings},
        "sentences": {found.name: found.sentence for found in findings},
        "right": {
            task.task: {role: round(float(task.score(role).mean()), 4) for role in task.roles} for task in table.tasks
        },
        "bits_per_byte": {
            role: round(float(np.divide(*(x.sum() for x in items.loss(role)[:2]))), 4)
            for role in ("floor", "student", "teacher")
        },
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def joined(one: Any, other: Any) -> Answered:
    """A task with the answers of two roles."""
    import pyarrow as pa

    return answers.together(pa.concat_tables([one, other]).unify_dictionaries())


# ------------------------------------------------------------------------------------------------- defects of the weights


def _matrices(model: Model) -> list[nn.Parameter]:
    return [weight for weight in model.network.parameters() if weight.dim() == 2]


def sixteen_bits(model: Model) -> None:
    """bfloat16 and back."""
    for weight in model.network.parameters():
        weight.copy_(weight.to(torch.bfloat16).to(weight.dtype))


def few_bits(bits: int, group: int = 32) -> Callable[[Model], None]:
    """Round to nearest: integers times a scale for each group of neighbours, from its largest."""

    def rounded(model: Model) -> None:
        most = 2 ** (bits - 1) - 1
        for weight in _matrices(model):
            grouped = weight.view(-1, group)
            scale = grouped.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / most
            grouped.copy_((grouped / scale).round().clamp(-most, most) * scale)

    return rounded


def sharpened(model: Model, factor: float = 2.0) -> None:
    """The last norm's gain: all logits grow alike, no first choice changes."""
    model.trunk.norm.weight.mul_(factor)  # type: ignore[operator, union-attr]


def without_layer(model: Model, layer: int = 2) -> None:
    """One layer fewer."""
    kept = [block for i, block in enumerate(model.layers) if i != layer]
    model.trunk.layers = nn.ModuleList(kept)
    for i, block in enumerate(kept):
        block.self_attn.layer_idx = i  # type: ignore[union-attr]
    model.config.num_hidden_layers = len(kept)


def one_word(model: Model, word: str = "lamp") -> None:
    """Singular and plural of one noun get the same embedding: of what is said of it, the number is gone."""
    both = torch.tensor([model.tokenizer(f" {form}").input_ids[0] for form in (word, f"{word}s")])
    weight = model.network.get_input_embeddings().weight
    weight[both] = weight[both].mean(dim=0)


WEIGHTS: dict[str, Callable[[Model], None]] = {
    "rounded to 16 bits": sixteen_bits,
    "logits sharpened": sharpened,
    "a word of the vocabulary": one_word,
    "a layer dropped": without_layer,
    "rounded to 4 bits": few_bits(4),
    "rounded to 2 bits": few_bits(2),
}

# ------------------------------------------------------------------------------------------------- defects of the answers


def stereotyped(task: Answered, _: np.random.Generator, nats: float = 0.1) -> Answered:
    """The pronoun "he" is so many nats likelier than it was."""
    if task.skill:
        return task
    student = task.roles["student"]
    ll_NK = student.ll_NK.copy()
    ll_NK[np.arange(task.size), task.gold] += nats
    return replace(task, roles={**task.roles, "student": replace(student, ll_NK=ll_NK)})


def short_sighted(task: Answered, rng: np.random.Generator, share: float = 0.35) -> Answered:
    """Of sums of several steps a share is guessed."""
    if "steps" not in task.tags:
        return task
    student = task.roles["student"]
    guessed = (task.tags["steps"] != "1") & (rng.random(task.size) < share)
    lucky = rng.random(task.size) < task.floor_N
    greedy_NK = student.greedy_NK.copy()
    greedy_NK[guessed, 0] = lucky[guessed]
    return replace(task, roles={**task.roles, "student": replace(student, greedy_NK=greedy_NK)})


def mixed_up(task: Answered, rng: np.random.Generator) -> Answered:
    """Half of the questions get the answers to others."""
    order = np.arange(task.size)
    half = rng.permutation(task.size)[: task.size // 2]
    order[half] = half[rng.permutation(len(half))]
    student = task.taken(order).roles["student"]
    return replace(task, roles={**task.roles, "student": student})


ANSWERS: dict[str, Callable[[Answered, np.random.Generator], Answered]] = {
    "stereotyped pronouns": stereotyped,
    "long sums": short_sighted,
    "half of the answers mixed up": mixed_up,
}


# ------------------------------------------------------------------------------------------------------------- the matrix

_SHORT = {"PASS": "✓", "FAIL": "**✗**", "INCONCLUSIVE": "?", "UNINFORMATIVE": "∅", "NOT MEASURED": "–"}


def matrix(rows: list[Row]) -> str:
    """Defects down, gates across; what is not PASS is said."""
    lines = [
        f"| defect | {' | '.join(GATES)} | right of capitals, agreement, sums, % |",
        f"| --- | {' | '.join(':-:' for _ in GATES)} | --- |",
    ]
    for row in rows:
        aimed = AIMED[row["cell"]]
        cells = [f"{_SHORT[row['verdicts'][gate]]}{' ◂' if gate == aimed else ''}" for gate in GATES]
        shares = [row["right"][name] for name in ("capitals", "agreement", "chains")]
        kept = ", ".join(f"{100 * each['student']:.0f} of {100 * each['teacher']:.0f}" for each in shares)
        lines.append(f"| {row['cell']} | {' | '.join(cells)} | {kept} |")
    return "\n".join(lines)


def tell(rows: list[Row]) -> None:
    text = matrix(rows)
    print(text)
    if len(rows) == len(AIMED):
        put(DOCS / "evaluate.md", "defects", text)


if __name__ == "__main__":
    main()
