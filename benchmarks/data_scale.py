"""Filter, deduplicate, tokenise and pack: documents a second, tokens a second and peak memory at growing sizes.

    OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false taskset -c 0 python benchmarks/data_scale.py --documents 62500 125000 250000

Documents are invented: 20 to 100 words (--words) of a vocabulary of 50,000 with the frequencies of English (Zipf), a tenth of them an
earlier one with one word changed, a twentieth an earlier one as it was. They lie in a file of JSON lines, which is streamed.
Each size is prepared in a process of its own, whose peak resident memory counts.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from stillhouse import machine
from stillhouse.files import read_json, write_json

RESULTS = Path(__file__).parent / "results" / "data_scale.json"
VOCABULARY = 50_000
FILTERS: list[Any] = [
    {"name": "length", "least": 5},
    "repetition",
    "boilerplate",
    "exact_duplicates",
    {"name": "near_duplicates", "threshold": 0.8},
    "contamination",
]
_TOGETHER = 10_000


def write(path: Path, documents: int, words_each: tuple[int, int]) -> None:
    """Invent documents."""
    draw = np.random.default_rng(0)
    syllables = np.array([a + b for a in "bdfghklmnprstvw" for b in "aeiou"])
    names = ["".join(draw.choice(syllables, draw.integers(1, 5))) for _ in range(VOCABULARY)]
    chance = 1.0 / np.arange(2, VOCABULARY + 2)
    edges = np.cumsum(chance / chance.sum())
    earlier: list[list[str]] = []
    with path.open("w", encoding="ascii") as file:
        for start in range(0, documents, _TOGETHER):
            count = min(_TOGETHER, documents - start)
            lengths = draw.integers(words_each[0], words_each[1] + 1, count)
            words = np.minimum(np.searchsorted(edges, draw.random(int(lengths.sum()))), VOCABULARY - 1).tolist()
            at, kinds, picks = 0, draw.random(count), draw.integers(0, 1 << 30, (count, 2)).tolist()
            for length, kind, (pick, place) in zip(lengths.tolist(), kinds.tolist(), picks, strict=True):
                parts = [names[w] for w in words[at : at + length]]
                at += length
                if kind < 0.15 and earlier:
                    parts = list(earlier[pick % len(earlier)])
                    if kind < 0.10:
                        parts[place % len(parts)] = "changed"
                elif len(earlier) < 50_000:
                    earlier.append(parts)
                file.write(json.dumps({"text": " ".join(parts)}) + "\n")


def tokenizer_of(path: Path) -> Any:
    """A byte-level tokenizer trained on the first documents."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8192, special_tokens=["<|end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    with path.open(encoding="ascii") as file:
        inner.train_from_iterator(
            (json.loads(line)["text"] for line, _ in zip(file, range(2000), strict=False)), trainer
        )
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>")


def peak_mib() -> float:
    """The most resident memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def prepare_once(path: Path, folder: Path, workers: int) -> dict[str, Any]:
    """Prepare a corpus in this process and count."""
    from stillhouse.data import prepare
    from stillhouse.recipe import Data

    tokenizer = tokenizer_of(path)
    section = Data.model_validate(
        {"sources": {"name": "jsonl", "path": str(path)}, "validation": 0.01, "filters": FILTERS, "workers": workers}
    )
    import torch  # noqa: F401 (its memory is there before, not part of the growth)

    before = peak_mib()
    began, cpu = time.monotonic(), time.process_time()
    facts = prepare(section, tokenizer, folder).facts
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    filters = {each["name"]: {k: each[k] for k in ("seen", "removed", "seconds")} for each in facts["filters"]}
    return {
        "documents": facts["records"],
        "kept": facts["documents"],
        "tokens": facts["train"]["tokens"] + facts["validation"]["tokens"],
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "mib_before": round(before),
        "mib_peak": round(peak_mib()),
        "filters": filters,
        "diversity": facts["diversity"],
    }


def key(row: dict[str, Any]) -> tuple[list[int], int, int]:
    """What tells measurements apart: words of a document, processes, documents."""
    return row["words"], row["workers"], row["documents"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, nargs="+", default=[62_500, 125_000, 250_000])
    parser.add_argument(
        "--words", type=int, nargs=2, default=[20, 100], help="of the shortest document and of the longest"
    )
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--one", type=Path, nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        path, folder = asked.one
        print(json.dumps(prepare_once(path, folder, asked.workers)))
        return
    # sizes can be measured one by one, on a machine that is quiet now and then
    there = read_json(asked.out, {})
    rows = there.get("sizes", [])
    console = Console()
    for documents in asked.documents:
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / "documents.jsonl"
            write(path, documents, tuple(asked.words))
            command = [sys.executable, __file__, "--workers", str(asked.workers), "--one", str(path), f"{place}/data"]
            said = subprocess.run(command, capture_output=True, text=True, check=True)
            row = {"words": asked.words, "workers": asked.workers, **json.loads(said.stdout.splitlines()[-1])}
            row["input_bytes"] = path.stat().st_size
            console.print(row)
            rows = [each for each in rows if key(each) != key(row)]
            rows = sorted([*rows, row], key=key)
        found = {"machine": machine.describe(), "threads": os.environ.get("OMP_NUM_THREADS"), "sizes": rows}
        alike = [each for each in rows if key(each)[:2] == key(row)[:2]]
        if len(alike) > 1:
            first, last = alike[0], alike[-1]
            growth = math.log(last["documents"] / first["documents"])
            found["exponent_of_time"] = round(math.log(last["cpu_seconds"] / first["cpu_seconds"]) / growth, 3)
        write_json(asked.out, found)
    table = Table("documents", "words each", "workers", "tokens kept", "CPU s", "documents/s", "tokens/s", "peak MiB")
    for row in rows:
        table.add_row(
            f"{row['documents']:,}", "{} to {}".format(*row["words"]), str(row["workers"]), f"{row['tokens']:,}", f"{row['cpu_seconds']:.0f}",
            f"{row['documents'] / row['cpu_seconds']:,.0f}", f"{row['tokens'] / row['cpu_seconds']:,.0f}",
            f"{row['mib_peak']:,}",
        )  # fmt: skip
    console.print(table)
    console.print(f"CPU time grows as the number of documents to the power of {found.get('exponent_of_time', '–')}")


if __name__ == "__main__":
    main()
