"""What a refinement needs before it starts: gates, text that is sealed, slices that are there. All that is missing, at once."""

from __future__ import annotations

from collections import Counter

from pydantic import ValidationError

from stillhouse import recipe, teacher
from stillhouse.check import check, check_strategy, gathering
from stillhouse.data.tagging import MADE, Tagger, held_out, rows
from stillhouse.errors import Problem, RecipeError, did_you_mean
from stillhouse.evaluate import gates_of
from stillhouse.evaluate.splits import SHARES, part_of
from stillhouse.find import problems_of

TEXTS, DOCUMENTS = 100, 20
"""Texts of a classifier, documents of a language model, that each part needs."""


def gates(settings: recipe.Recipe) -> tuple[recipe.Gate, ...]:
    """The gates that rounds are judged by."""
    section = settings.evaluate.model_copy(update={"part": "open", "direct": False})
    return gates_of(settings, section, bool(section.tasks))


def admit(settings: recipe.Recipe) -> dict[str, int]:
    """Refuse a recipe that cannot be refined.

    Args:
        settings: the recipe.

    Returns:
        part → how many held-out texts or documents it has.

    Raises:
        RecipeError: all that is wrong with it, that a run would refuse too.
    """
    problems: list[Problem] = []
    with gathering(problems):
        check(settings)
    refine = settings.refine or recipe.Refine()
    problems += _sections(settings, refine)
    if problems:
        raise RecipeError(*dict.fromkeys(problems))
    tokenizer = teacher.load(settings.teacher, empty=True).model.tokenizer
    group = held_out(settings.data)
    parts, columns, keys = Counter[str](), set[str](), set[str]()
    for row in rows(settings.data, tokenizer, Tagger(()), group):
        if row.key not in keys:
            keys.add(row.key)
            parts[part_of(row.key)] += 1
        columns |= set(row.record)
    least = TEXTS if settings.data.classes else DOCUMENTS
    small = [f"{part} {parts[part]}" for part in SHARES if parts[part] < least]
    if small:
        what = f"hold too few texts: {', '.join(small)}, where each part needs {least}"
        way_out = f"Hold out about {round(least / min(SHARES.values()) * 1.15):,} or more."
        problems.append(Problem(f"data.{group}", what, way_out))
    for i, name in enumerate(settings.evaluate.slices):
        if name not in columns and name not in MADE:
            what = f"no held-out record has a column '{name}'"
            problems.append(Problem(f"evaluate.slices.{i}", what, did_you_mean(name, columns | set(MADE))))
    if problems:
        raise RecipeError(*problems)
    return dict(parts)


def _sections(settings: recipe.Recipe, refine: recipe.Refine) -> list[Problem]:
    """What is wrong without reading anything."""
    problems = []
    if not any(gate.required for gate in gates(settings)):
        what = "names no gate that must hold: there is nothing to refine for"
        way_out = "List one, such as accuracy or performance; benefit and route are not asked of rounds."
        problems.append(Problem("evaluate.measures", what, way_out))
    if not settings.data.test_sources:
        what = "is needed: what rounds are judged by must not be what their training stops by"
        problems.append(Problem("data.test_sources", what, "Give a file of held-out texts; 30 % of it stay sealed."))
    if settings.evaluate.part != "all":
        problems.append(Problem("evaluate.part", "is chosen by the refinement", "Leave it out."))
    if settings.data.mixture.name != "proportional" or settings.data.mixture.options.get("tau", 1.0) != 1.0:
        what = f"is '{settings.data.mixture.name}', and slices become tasks of their own, whose shares go by size"
        problems.append(Problem("data.mixture", what, "Leave it out: a round lifts what is weak."))
    if settings.data.filters:
        what = "would judge the text of each round anew"
        problems.append(Problem("data.filters", what, "Filter the files before, with a recipe of their own."))
    if "class" in settings.evaluate.slices and not settings.data.classes:
        problems.append(
            Problem("evaluate.slices", "'class' is asked for, and the data has no classes", "Leave it out.")
        )
    if "task" in settings.evaluate.slices and not settings.data.task_names:
        problems.append(Problem("evaluate.slices", "'task' is asked for, and no source names one", "Leave it out."))
    try:
        recipe.Trainer.model_validate(settings.trainer.model_dump(mode="json") | refine.trainer)
    except ValidationError as error:
        problems += problems_of(error, "refine.trainer", list(recipe.Trainer.model_fields))
    for i, action in enumerate(refine.actions):
        check_strategy("action", action, f"refine.actions.{i}", problems)
    for i, source in enumerate(refine.pool):
        where = f"refine.pool.{i}"
        check_strategy("source", source, where, problems)
        check_strategy("format", source.format, f"{where}.format", problems)
        if recipe.classes_of(source) != settings.data.classes:
            what = "has other classes than the data, or only one of the two has any"
            problems.append(Problem(f"{where}.format", what, "Give it the same classes; label: null if none is known."))
    return problems
