"""What filters take out of real text at their defaults, and whether they find what was planted in it.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/filters.py --data FOLDER

FOLDER holds data sets as folders with train.jsonl, test.jsonl, train.txt … (also .gz). Of each at most 2,000 documents are
read; plain text is cut at empty lines. First the share that each filter takes out of text that people wrote and chose: nearly
all of it is a false alarm. Then, of every set, 200 documents are copied with one word in sixty changed, and 200 others are put
into the middle of documents to learn from: the share that near_duplicates and contamination find of them, and of the rest lose
(sets with too few documents of 60 words or more are left out).
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from stillhouse import machine
from stillhouse.data.filters.contamination import contamination
from stillhouse.data.grams import words
from stillhouse.data.judging import Filter
from stillhouse.data.render import Rendered
from stillhouse.files import write_json
from stillhouse.find import find

RESULTS = Path(__file__).parent / "results" / "filters.json"
SETS = {
    "wiki_passages": "train.txt",
    "childrens_books": "train.txt",
    "legal_policies": "train.txt",
    "tinystories_sample": "train.txt",
    "medquad": "train.jsonl",
    "scitldr": "train.jsonl",
    "boolq": "train.jsonl",
    "sentence_polarity": "train.jsonl",
    "gsm8k": "train.jsonl",
    "mbpp": "train.jsonl",
}
FIELDS = ("question", "passage", "text", "answer", "sentence", "code")
ALONE = ("repetition", "boilerplate", "language", "pii", "exact_duplicates", "near_duplicates")
MOST, PLANTED = 2000, 200


class Measured:
    """All documents in memory, as a filter is shown them."""

    def __init__(self, documents: list[str], filter_: Filter, held_out: int = 0) -> None:
        self.documents = [Rendered(text) for text in documents]
        self.rows = filter_.measure(self.documents)
        self.held_out = np.arange(len(documents)) >= len(documents) - held_out
        self.stays = np.zeros(len(documents), dtype=bool)

    def __len__(self) -> int:
        return len(self.documents)

    def parts(self) -> Iterator[Any]:
        yield self.rows

    def column(self, index: int) -> Any:
        return self.rows[:, index]

    def document(self, row: int) -> Rendered:
        return self.documents[row]

    def where(self, row: int) -> str:
        return str(row)


def taken(filter_: Filter, documents: list[str]) -> list[int]:
    """Which documents a filter takes out."""
    return [removed.row for removed in filter_.judge(Measured(documents, filter_))]


def read(folder: Path, name: str) -> list[str]:
    """Documents of a set, in its order."""
    path = next(p for p in (folder / SETS[name], folder / f"{SETS[name]}.gz") if p.is_file())
    content = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()
    if ".jsonl" in path.name:
        rows = [json.loads(line) for line in content.split("\n") if line.strip()]
        texts = ["\n".join(str(row[field]) for field in FIELDS if field in row) for row in rows]
    else:
        texts = [part.strip() for part in content.split("\n\n") if len(words(part)) >= 20]
    return texts[:MOST]


def edited(text: str, draw: random.Random) -> str:
    """The text with one word in sixty changed, at least one: with runs of 5 words the two are 0.8 alike, or a little more."""
    parts = text.split(" ")
    for _ in range(max(1, len(parts) // 60)):
        parts[draw.randrange(len(parts))] = "changed"
    return " ".join(parts)


def planted(documents: list[str], draw: random.Random) -> dict[str, float]:
    """What is found of what is planted, and what is lost of the rest; nothing if there are too few documents of 60 words."""
    near = find("filter", "near_duplicates")()
    gone = set(taken(near, documents))
    clean = [text for i, text in enumerate(documents) if i not in gone and len(words(text)) >= 60]
    if len(clean) < 2 * PLANTED:
        return {}
    draw.shuffle(clean)
    some = clean[:PLANTED]
    with_copies = clean + [edited(text, draw) for text in some]
    found = taken(near, with_copies)
    evaluation, rest = clean[:PLANTED], clean[PLANTED:]
    hosts = [
        f"{text[: len(text) // 2]} {evil} {text[len(text) // 2 :]}"
        for text, evil in zip(rest, evaluation, strict=False)
    ]
    filter_ = contamination(lambda: [("", Rendered(text)) for text in evaluation])
    guilty = taken(filter_, rest + hosts)
    return {
        "documents": len(clean),
        "copies_found": sum(row >= len(clean) for row in found) / max(len(some), 1),
        "lost_to_near_duplicates": sum(row < len(clean) for row in found) / max(len(clean), 1),
        "planted_found": sum(row >= len(rest) for row in guilty) / max(len(hosts), 1),
        "lost_to_contamination": sum(row < len(rest) for row in guilty) / max(len(rest), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    asked = parser.parse_args()
    draw = random.Random(0)
    rows: dict[str, Any] = {}
    for name in SETS:
        documents = read(asked.data / name, name)
        alone = {each: len(taken(find("filter", each)(), documents)) / len(documents) for each in ALONE}
        rows[name] = {"documents": len(documents), "taken": alone, "planted": planted(documents, draw)}
        Console().print(name, rows[name])
    write_json(RESULTS, {"machine": machine.describe(), "sets": rows})
    table = Table("set", "documents", *ALONE)
    for name, row in rows.items():
        table.add_row(name, f"{row['documents']:,}", *(f"{row['taken'][each]:.1%}" for each in ALONE))
    Console(width=140).print(table)
    second = Table("set", "documents", "copies found", "others lost", "planted found", "others lost")
    for name, row in rows.items():
        if not (p := row["planted"]):
            continue
        shares = ("copies_found", "lost_to_near_duplicates", "planted_found", "lost_to_contamination")
        second.add_row(name, f"{p['documents']:,}", *(f"{p[key]:.1%}" for key in shares))
    Console().print(second)


if __name__ == "__main__":
    main()
