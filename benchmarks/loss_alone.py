"""The loss through the head alone, forward and backward: time and memory at a large vocabulary.

    python benchmarks/loss_alone.py                                    V = 262,144, width 640, 1,024 positions
    python benchmarks/loss_alone.py --vocabulary 49152 --width 576     the demo teacher's head

Every variant gets the same random hidden states and heads and is to leave the gradients of the student's hidden states and
head. Each turn is a process of its own: it warms up once, forgets its peak, and takes one more; turns go A B C … A B C …. Times
are CPU seconds of one thread, as ratios to plain cross-entropy in the same round; memory is what the turn takes beyond its
inputs, the head's gradient included. Liger and TRL are extras: pip install 'stillhouse[peers]'.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
import torch.nn.functional as F
from torch import Tensor

from stillhouse import machine, recipe
from stillhouse.objective import terms_of
from stillhouse.objective.chunks import chunked
from stillhouse.types import Batch, Head, Signal

RESULTS = Path(__file__).parent / "results" / "loss_alone.json"
TEMPERATURE, ALPHA, K = 2.0, 0.9, 64


class Bench:
    """Hidden states, heads and labels, drawn from a seed."""

    def __init__(self, vocabulary: int, width: int, positions: int) -> None:
        generator = torch.Generator().manual_seed(0)

        def drawn(*shape: int, scale: float = 1.0) -> Tensor:
            return torch.empty(*shape).normal_(generator=generator).mul_(scale)

        self.hidden_NH = drawn(positions, width).requires_grad_(True)
        self.weight_VH = drawn(vocabulary, width, scale=width**-0.5).requires_grad_(True)
        self.labels_N = torch.randint(vocabulary, (positions,), generator=generator)
        self.theirs_NH = drawn(positions, width)
        self.theirs_VH = drawn(vocabulary, width, scale=width**-0.5)

    @property
    def batch(self) -> Batch:
        n = len(self.labels_N)
        count_N = torch.arange(n)
        return Batch(
            self.labels_N, count_N, (0, n), count_N, self.labels_N, torch.ones(n), torch.zeros(n, dtype=torch.int64)
        )


def plain_ce(bench: Bench) -> Callable[[], None]:
    """Cross-entropy of all logits at once."""
    return lambda: F.cross_entropy(bench.hidden_NH @ bench.weight_VH.T, bench.labels_N).backward()


def plain_kd(bench: Bench) -> Callable[[], None]:
    """KL and cross-entropy of all logits at once."""

    def turn() -> None:
        with torch.no_grad():
            log_p = F.log_softmax(bench.theirs_NH @ bench.theirs_VH.T / TEMPERATURE, -1)
        logits = bench.hidden_NH @ bench.weight_VH.T
        kl = F.kl_div(F.log_softmax(logits / TEMPERATURE, -1), log_p, log_target=True, reduction="batchmean")
        (ALPHA * kl * TEMPERATURE**2 + (1 - ALPHA) * F.cross_entropy(logits, bench.labels_N)).backward()

    return turn


def liger(bench: Bench) -> Callable[[], None]:
    """Liger's fused linear JSD at beta 0 (its forward KL) and cross-entropy, chunks of 128, pure torch."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(1 - ALPHA, ALPHA, 0.0, temperature=TEMPERATURE, compiled=False, chunk_size=128)
    return lambda: loss(bench.hidden_NH, bench.weight_VH, bench.theirs_NH, bench.theirs_VH, bench.labels_N).backward()


def trl_gkd(bench: Bench) -> Callable[[], None]:
    """TRL's GKD loss at beta 0 (its forward KL)."""
    from trl.experimental.gkd import GKDTrainer

    def turn() -> None:
        with torch.no_grad():
            theirs = bench.theirs_NH @ bench.theirs_VH.T
        ours = bench.hidden_NH @ bench.weight_VH.T
        GKDTrainer.generalized_jsd_loss(
            ours[None], theirs[None], labels=bench.labels_N[None], beta=0.0, temperature=TEMPERATURE
        ).backward()

    return turn


def _ours(bench: Bench, signal: Signal) -> Callable[[], None]:
    terms = [t.at(0.0) for t in terms_of(recipe.Objective(alpha=ALPHA, temperature=TEMPERATURE))]
    batch = bench.batch

    def turn() -> None:
        total, _ = chunked(
            terms, bench.hidden_NH, Head(bench.weight_VH), signal, batch, float(len(batch.labels_N)), None
        )
        total.backward()

    return turn


def ours_live(bench: Bench) -> Callable[[], None]:
    """Stillhouse: KL over the whole vocabulary and cross-entropy."""
    return _ours(bench, Signal(hidden_NH=bench.theirs_NH, head=Head(bench.theirs_VH)))


def ours_top64(bench: Bench) -> Callable[[], None]:
    """Stillhouse: KL to the teacher's 64 likeliest outcomes and the remainder, and cross-entropy."""
    parts = []
    for start in range(0, len(bench.theirs_NH), 32):
        log_p = torch.log_softmax(bench.theirs_NH[start : start + 32] @ bench.theirs_VH.T, -1)
        logp_NK, ids_NK = log_p.topk(K)
        parts.append((ids_NK, logp_NK, torch.log1p(-logp_NK.exp().sum(-1))))
    ids_NK, logp_NK, rest_N = (torch.cat(part) for part in zip(*parts, strict=True))
    del bench.theirs_VH
    return _ours(bench, Signal(ids_NK=ids_NK, logp_NK=logp_NK, rest_N=rest_N))


VARIANTS = {f.__name__: f for f in (plain_ce, plain_kd, liger, trl_gkd, ours_live, ours_top64)}


def _status(key: str) -> float:
    """A line of /proc/self/status, MiB."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(rf"{key}:\s+(\d+)", status)[1]) / 1024


def one_turn(given: argparse.Namespace) -> dict[str, float]:
    bench = Bench(given.vocabulary, given.width, given.positions)
    turn = VARIANTS[given.turn](bench)
    turn()
    bench.hidden_NH.grad = bench.weight_VH.grad = None
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before, began = _status("VmRSS"), time.process_time()
    turn()
    seconds = time.process_time() - began
    assert bench.hidden_NH.grad is not None
    assert bench.weight_VH.grad is not None
    return {"seconds": seconds, "extra_MiB": _status("VmHWM") - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=262_144)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--positions", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--turn", choices=list(VARIANTS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.turn:
        print(json.dumps(one_turn(given)))
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name in given.only}
    for number in range(given.rounds):
        for name in given.only:
            command = [sys.executable, __file__, *sys.argv[1:], "--turn", name]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode:
                print(f"{name}: left out: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
                continue
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"round {number + 1}/{given.rounds} {name} {found[name][-1]}", file=sys.stderr, flush=True)
    base = [turn["seconds"] for turn in found["plain_ce"]]
    rows = []
    for name, turns in found.items():
        if turns:
            ratios = [turn["seconds"] / other for turn, other in zip(turns, base, strict=True)]
            rows.append(
                {
                    "variant": name,
                    "what": (VARIANTS[name].__doc__ or "").rstrip("."),
                    "ratio": statistics.median(ratios),
                    "lowest": min(ratios),
                    "highest": max(ratios),
                    "extra_MiB": statistics.median(turn["extra_MiB"] for turn in turns),
                }
            )
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    key = f"V={given.vocabulary} H={given.width} N={given.positions}"
    results[key] = {"machine": machine.describe(), "settings": vars(given), "rows": rows}
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"| {key} | time ÷ plain cross-entropy (lowest–highest) | extra peak memory, MiB |\n| --- | --: | --: |")
    for row in rows:
        print(
            f"| {row['what']} | {row['ratio']:.2f} ({row['lowest']:.2f}–{row['highest']:.2f}) | {row['extra_MiB']:,.0f} |"
        )


if __name__ == "__main__":
    main()
