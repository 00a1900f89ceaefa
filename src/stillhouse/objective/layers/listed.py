"""Layers as the recipe lists them."""

from __future__ import annotations

from stillhouse.errors import Problem, RecipeError


def listed(student: int, teacher: int, *, pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Pairs of layers as listed: ``pairs: [[3, 12], [6, 24]]``.

    Args:
        student: how many layers it has.
        teacher: how many layers it has.
        pairs: [student's layer, teacher's layer] each, counted from 1.

    Returns:
        the same.

    Raises:
        RecipeError: no pair, a pair twice, or a layer that does not exist; every such mistake, not only the first.

    """
    where, problems = "objective.layers.pairs", []
    if not pairs:
        problems.append(Problem(where, "no pair is listed", "List at least one: [[student's layer, teacher's layer]]."))
    for index, pair in enumerate(pairs):
        for whose, layer, layers in (("student", pair[0], student), ("teacher", pair[1], teacher)):
            if not 1 <= layer <= layers:
                way_out = f"Count from 1 (the embedding is no layer) to {layers}."
                problems.append(Problem(f"{where}.{index}", f"the {whose} has no layer {layer}", way_out))
        if pair in pairs[:index]:
            problems.append(Problem(f"{where}.{index}", f"[{pair[0]}, {pair[1]}] is listed twice", "List it once."))
    if problems:
        raise RecipeError(*problems)
    return [(ours, theirs) for ours, theirs in pairs]
