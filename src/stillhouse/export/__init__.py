"""Export: the student as files that others load, each compared with what was trained."""

from __future__ import annotations

from pathlib import Path

from stillhouse import recipe
from stillhouse.find import check_options, find
from stillhouse.models import Model


def export(section: recipe.Export, student: Model, run: Path) -> dict[str, Path]:
    """Write the student in every format that the recipe names; ``hf`` into ``student/``, others into ``exports/``.

    Raises:
        RunError: an artefact does not say what the student says.

    """
    written = {}
    for index, strategy in enumerate(section.formats):
        where = f"export.formats.{index}"
        function = find("export", strategy.name, where)
        options = check_options(function, strategy.options, where)
        folder = run / "student" if strategy.name == "hf" else run / "exports" / strategy.name
        written[strategy.name] = function(student, folder, **options)
    return written
