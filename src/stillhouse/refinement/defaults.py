"""What is done about a gate that does not hold, where the recipe names no actions. docs/refine.md shows this table."""

from __future__ import annotations

from collections.abc import Collection

MORE = ("neighbours", "let_write", "reweight")
"""Text near what was lost, from the pool or from the teacher, and more weight: what helps wherever skill is missing."""

DEFAULTS: dict[str, tuple[str, ...]] = {
    "accuracy": MORE,
    "macro_f1": MORE,
    "mcc": MORE,
    "performance": MORE,
    "tasks": MORE,
    "coverage": MORE,
    "collapse": MORE,
    "declared": MORE,
    "discovered": MORE,
    "flips": MORE,
    "generalisation": ("let_write", "neighbours"),
    "domains": MORE,
    "rarity": ("oversample", "reweight"),
    "out_of_scope": MORE,
    "fidelity": ("switch_loss",),
    "calibration": ("soften",),
    "selective": ("soften",),
    "forgetting": ("rehearse",),
    "bias": ("counterfactual",),
    "reasoning": ("curriculum_by_gap",),
    "soundness": ("let_write",),
}
"""Gate → actions, all that can do something."""

OTHERWISE = ("reweight", "oversample")
"""For a gate of the user's own."""


def actions_for(gates: Collection[str]) -> list[str]:
    """The actions that belong to gates, each once, in the order of the gates."""
    return list(dict.fromkeys(name for gate in gates for name in DEFAULTS.get(gate, OTHERWISE)))
