"""Why a student is as much faster than its teacher as it is."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from stillhouse import machine, models
from stillhouse.profile.timed import Timed


def explain(rows: Sequence[Timed]) -> list[str]:
    """Why the student is as much faster than the teacher as it is: by part, and by what memory can deliver."""
    by_name = {row.name: row for row in rows}
    teacher, student = by_name.get("teacher"), by_name.get("student")
    if teacher is None or student is None or not teacher.parts or not student.parts:
        return []
    sizes = {row.name: _sizes(row.path) for row in (teacher, student)}
    all_of = {row.name: sum(sizes[row.name].values()) for row in (teacher, student)}
    slow, fast = teacher.parts, student.parts
    ratio, speed = all_of["teacher"] / all_of["student"], slow["all"] / fast["all"]
    told = [
        f"{ratio:.1f} times fewer parameters, {speed:.1f} times faster a token "
        f"({1e3 * slow['all']:.3g} ms → {1e3 * fast['all']:.3g} ms)."
    ]
    for name, parts in (("teacher", slow), ("student", fast)):
        rest = parts["all"] - parts["head"] - parts["matrices"]
        told.append(
            f"The {name}'s time goes to the layers' matrices by {parts['matrices'] / parts['all']:.0%}, to the head by "
            f"{parts['head'] / parts['all']:.0%}, to all else (attention, norms, Python, starting each operation) by {rest / parts['all']:.0%}."
        )
    pairs = (
        ("layers", "matrices", "the layers' matrices"),
        ("head", "head", "the head"),
    )
    for size, part, what in pairs:
        smaller = sizes["teacher"][size] / max(1, sizes["student"][size])
        told.append(f"{what.capitalize()}: {smaller:.1f} times fewer, {slow[part] / fast[part]:.1f} times faster.")
    others = [parts["all"] - parts["head"] - parts["matrices"] for parts in (slow, fast)]
    told.append(
        f"All else: {others[0] / others[1]:.1f} times faster; its time follows the number of layers, not their width."
    )
    peak = machine.measure_bandwidth()
    reached = {
        row.name: 4e-9 * (sizes[row.name]["layers"] + sizes[row.name]["head"]) / (parts["matrices"] + parts["head"])
        for row, parts in ((teacher, slow), (student, fast))
    }
    told.append(
        f"A token reads every weight once: {reached['teacher']:.1f} GB/s in the teacher, {reached['student']:.1f} in the student; "
        f"this machine copies {peak:.1f} GB/s. Near it, only fewer bytes help (fewer bits); far below, it is arithmetic or overhead."
    )
    return told


def _sizes(path: str) -> dict[str, int]:
    """Weights by part: matrices of the layers, head, the rest."""
    model = models.load(path, empty=True)
    layers = sum(m.weight.numel() for m in model.layers.modules() if isinstance(m, torch.nn.Linear))
    head = model.head_layer.weight.numel()
    return {"layers": layers, "head": head, "rest": model.parameters_count - layers - head}
