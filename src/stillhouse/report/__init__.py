"""What is told: a run folder becomes one page, a model card, and the same as plain values for programs.

Reads files and nothing else: no model is loaded, no network is used, no other stage is called.
"""

from __future__ import annotations

from pathlib import Path

from stillhouse.files import write_text
from stillhouse.report.card import card
from stillhouse.report.content import content
from stillhouse.report.page import build, render
from stillhouse.report.read import read

__all__ = ["model_card", "report"]


def report(run: Path) -> Path:
    """Write ``report.html`` and ``report.json`` of a run folder, and ``student/README.md`` where there is a student.

    The page is one file that needs no network and no JavaScript. What is missing in the folder is said in its place, with
    the command that makes it. The same files give the same page, byte for byte.

    Args:
        run: the run folder.

    Returns:
        The path of the page.

    Raises:
        RunError: there is no such folder.
    """
    run = Path(run)
    if (run / "student").is_dir():
        write_text(run / "student" / "README.md", model_card(run))
    shown = build(read(run))
    page = run / "report.html"
    write_text(page, render(shown))
    write_text(run / "report.json", content(shown))
    return page


def model_card(run: Path) -> str:
    """The model card of a run's student: Markdown with YAML front matter, as model hubs read it.

    Raises:
        RunError: there is no such folder.
    """
    return card(read(Path(run)))
