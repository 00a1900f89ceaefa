"""Where the time of a training step goes: `make profile`.

    python benchmarks/profile_step.py                 the live step of the step benchmark
    python benchmarks/profile_step.py --of ours_top64

One step warms up, two are recorded; a row is an operation of torch, by the time it took itself. Time in the compiled
rows is in none of them: it is what the step takes beyond their sum, and is printed by itself. The summary sorts all of it
by what it is for; matrix products are the floor, the rest is what could still be won.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from step import VARIANTS, Bench
from torch.profiler import ProfilerActivity, profile

PURPOSES = {
    "matrix products": ("mm", "addmm", "bmm", "linear", "matmul", "baddbmm"),
    "attention": ("_scaled_dot_product", "scaled_dot_product", "flash_attention"),
    "optimiser and clipping": ("_fused_adam", "_foreach", "linalg_vector_norm", "_amp", "nan_to_num"),
    "copies and gathers": (
        "copy_",
        "cat",
        "index",
        "embedding",
        "clone",
        "gather",
        "scatter",
        "narrow",
        "fill_",
        "zero_",
    ),
}
"""What an operation is for, by how its name begins; all others are element by element: norms, activations, sums."""


def purpose(key: str) -> str:
    """What an operation of torch is for."""
    name = key.removeprefix("aten::").lower()
    return next((what for what, starts in PURPOSES.items() if name.startswith(starts)), "norms, activations, other")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--of", choices=list(VARIANTS), default="ours_live")
    parser.add_argument("--steps", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    step = VARIANTS[given.of](Bench(None, keep=10, rows=4, length=256))
    step()
    began = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(given.steps):
            step()
    seconds = (time.perf_counter() - began) / given.steps
    rows = sorted(found.key_averages(), key=lambda row: -row.self_cpu_time_total)
    told = sum(row.self_cpu_time_total for row in rows) / 1e6 / given.steps
    print(f"{given.of}: {seconds:.2f} seconds a step")
    for row in rows[:14]:
        own = row.self_cpu_time_total / 1e6 / given.steps
        print(f"{own:8.3f} s {own / seconds:6.1%}  {row.key} ({row.count // given.steps} calls)")
    outside = max(seconds - told, 0.0)
    print(f"{outside:8.3f} s {outside / seconds:6.1%}  outside torch: compiled rows, Python")
    shares: dict[str, float] = {"outside torch: compiled rows (softmax, loss, gradient of the logits), Python": outside}
    for row in rows:
        shares[purpose(row.key)] = shares.get(purpose(row.key), 0.0) + row.self_cpu_time_total / 1e6 / given.steps
    print("\nWhere the time goes:")
    for what, own in sorted(shares.items(), key=lambda item: -item[1]):
        print(f"{own:8.3f} s {own / seconds:6.1%}  {what}")


if __name__ == "__main__":
    main()
