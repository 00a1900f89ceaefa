"""Do filters help? A clean corpus and a dirty one, learned from as they are and filtered: the same student, tokens and seeds.

    python benchmarks/mixtures.py --data FOLDER --only before    makes the student that all cells begin with
    python benchmarks/filtered_text.py --data FOLDER             every cell, one after another, resumable
    python benchmarks/filtered_text.py --table                   the table of what was measured so far

FOLDER holds childrens_books, and what mixtures.py reads. The clean corpus are paragraphs of the books, which the student has not
read yet. The dirty one has as much again put between them, in thirds: paragraphs of its own with one word changed, banners and footers
of web pages, and gibberish (letters in a random order). The filters are repetition, boilerplate, near_duplicates and contamination,
and in one cell perplexity under the teacher too, with their defaults. Afterwards each student reads held-out paragraphs, of which no copy is in any corpus.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from typing import Any

import small
from cells import DOCS, Benchmark, Row, over_seeds, put

from stillhouse import data
from stillhouse.data.filters.boilerplate import PHRASES
from stillhouse.data.reading import decoded
from stillhouse.files import write_text

TASKS = ("text",)
FILTERS = ["repetition", "boilerplate", "near_duplicates", "contamination"]
CELLS: dict[str, tuple[str, list[str]]] = {
    "before": ("clean", []),
    "clean": ("clean", []),
    "clean, filtered": ("clean", FILTERS),
    "dirty": ("dirty", []),
    "dirty, filtered": ("dirty", FILTERS),
    "dirty, filtered, perplexity too": ("dirty", [*FILTERS, "perplexity"]),
}
BENCHMARK = Benchmark(
    "filtered_text",
    __doc__ or "",
    CELLS,
    {
        **small.NUMBERS,
        "paragraphs": (120, "to learn from, of the clean corpus"),
        "held_out": (5000, "tokens that are read afterwards"),
    },
    seeds=(0, 1, 2),
)


def section_of(given: argparse.Namespace, corpus: str, filters: Sequence[str] = ()) -> dict[str, Any]:
    """The recipe's data."""
    return {
        "sources": {"name": "jsonl", "path": str(given.work / f"{corpus}.jsonl")},
        "validation_sources": {"name": "jsonl", "path": str(given.work / "held.jsonl")},
        "filters": list(filters),
    }


def write(given: argparse.Namespace) -> None:
    """Make the corpora."""
    if (given.work / "held.jsonl").is_file():
        return
    given.work.mkdir(parents=True, exist_ok=True)
    text = "".join(decoded(next(given.data.glob("childrens_books/train.txt*"))))
    draw = random.Random(0)
    parts = [part.strip() for part in text.split("\n\n") if 300 <= len(part.strip()) <= 600]
    draw.shuffle(parts)
    clean, held = parts[: given.paragraphs], parts[given.paragraphs :][:24]
    dirt = []
    for i, part in enumerate(clean):
        words = part.split()
        if i % 3 == 0:  # a copy with one word changed
            words[draw.randrange(len(words))] = "changed"
        elif i % 3 == 1:  # what stands around the text of a page
            words = [word for phrase in draw.choices(PHRASES, k=12) for word in (phrase, draw.choice(words), "|")]
        else:  # as many letters, in words as long, in a random order
            letters = [c for word in words for c in word]
            draw.shuffle(letters)
            words = ["".join(letters.pop() for _ in word) for word in words]
        dirt.append(" ".join(words))
    dirty = [*clean, *dirt]
    draw.shuffle(dirty)
    for name, found in (("clean", clean), ("dirty", dirty), ("held", held)):  # the last one says that all are there
        write_text(given.work / f"{name}.jsonl", "".join(json.dumps({"text": each}) + "\n" for each in found))


def prepare(given: argparse.Namespace) -> small.Material:
    """Let the teacher say what it thinks of the dirty corpus, which holds the clean one."""
    write(given)
    return small.prepare(given, section_of(given, "dirty"))


def measure(cell: str, seed: int, material: small.Material, given: argparse.Namespace) -> Row:
    """Train one student, then let it read held-out text."""
    if cell == "before":
        return {"cpu_seconds": 0.0, **small.held_out(material.first, material.held, TASKS)}
    corpus, filters = CELLS[cell]
    settings = small.recipe_of(given, f"{cell}-{seed}", section_of(given, corpus, filters), {}, seed)
    folder = given.work / f"data-{cell.replace(', ', '-')}"
    text = data.prepare(settings.data, material.first.tokenizer, folder, teacher=material.said.model)
    student, took = small.taught(settings, material, text, given.work / "first")
    removed = {each["name"]: each["removed"] for each in text.facts.get("filters", ())}
    about = {
        "documents": text.facts["train"]["documents"],
        "train_tokens": text.facts["train"]["tokens"],
        "removed": removed,
    }
    return took | about | small.held_out(student, material.held, TASKS)


def tell(rows: list[Row]) -> None:
    """As Markdown, in docs/filters.md: means over the seeds, with their interval where there are several."""
    lines = [
        "| learned from | seeds | documents | taken out | loss, nats | more than of the clean text, paired by seed | KL to the teacher, nats "
        "| more than of the clean text | top-1 agreement |",
        "| --- | --: | --: | --- | --: | --: | --: | --: | --: |",
    ]
    clean = {row["seed"]: row["tasks"]["text"] for row in rows if row["cell"] == "clean"}
    for cell in CELLS:
        if mine := [row for row in rows if row["cell"] == cell]:
            found = []
            for name in ("nll", "kl", "agree"):
                values = {row["seed"]: row["tasks"]["text"][name] for row in mine}
                found.append(over_seeds(list(values.values()), 3))
                if name != "agree":
                    more = [value - clean[seed][name] for seed, value in values.items() if seed in clean]
                    found.append("–" if cell in ("before", "clean") or not more else over_seeds(more, 3))
            removed = ", ".join(f"{name} {count}" for name, count in mine[0].get("removed", {}).items() if count)
            about = f"{mine[0].get('documents', '')} | {removed}"
            lines.append(f"| {cell} | {len(mine)} | {about} | {' | '.join(found)} |")
    print("\n".join(lines))
    if rows:
        put(DOCS / "filters.md", "filtered_text", "\n".join(lines))


if __name__ == "__main__":
    BENCHMARK.main(prepare, measure, tell)
