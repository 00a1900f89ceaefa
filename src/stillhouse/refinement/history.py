"""What was done so far: refinement.json, written whole after each step, from which an interrupted refinement goes on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from stillhouse import recipe
from stillhouse.errors import RunError, fail
from stillhouse.files import read_json, write_json

SCHEMA = 1
FREE = ("rounds", "tokens", "hours")
"""Keys of ``refine`` that may be changed between sittings: how long to go on."""


class History:
    """The rounds of a refinement.

    Args:
        folder: the refinement's.
        settings: its recipe.

    Raises:
        RunError: the folder holds a refinement of another recipe.
    """

    def __init__(self, folder: Path, settings: recipe.Recipe) -> None:
        self.path = folder / "refinement.json"
        self.folder = folder
        own = {"recipe": settings.fingerprint(), "refine": _refine(settings)}
        self.state: dict[str, Any] = read_json(self.path, {}) or {
            "schema": SCHEMA,
            "name": settings.name,
            "of": own,
            "rounds": [],
            "best": 0,
            "stopped": None,
            "sealed": None,
        }
        if self.state["of"] != own:
            what = "holds a refinement of another recipe"
            way_out = "Give this one its own folder (run=runs/<other>), or delete that one if you no longer need it."
            raise fail(RunError, str(folder), what, way_out)

    def save(self) -> None:
        """Write it whole."""
        write_json(self.path, self.state)

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """All rounds, the first run being number 0; the last may not be judged yet."""
        found: list[dict[str, Any]] = self.state["rounds"]
        return found

    @property
    def judged(self) -> list[dict[str, Any]]:
        """Those that are judged."""
        return [each for each in self.rounds if each["verdict"] is not None]

    @property
    def best(self) -> dict[str, Any]:
        """The round whose student is the best that the guard let through."""
        found: dict[str, Any] = self.rounds[self.state["best"]]
        return found

    def round_folder(self, number: int) -> Path:
        """Where a round's run lies."""
        return self.folder / "rounds" / str(number)

    def open_sealed(self, student: str, number: int) -> bool:
        """Break the seal, before anything sealed is answered; the same student may go on where it was interrupted.

        Args:
            student: fingerprint of the weights that are to be judged.
            number: of their round.

        Returns:
            whether what was found is there already.

        Raises:
            RunError: it was opened for another student.
        """
        sealed = self.state["sealed"]
        if sealed is None:
            self.state["sealed"] = {
                "opened": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "student": student,
                "round": number,
                "verdict": None,
            }
            self.save()
            return False
        if sealed["student"] != student:
            what = f"was opened on {sealed['opened']} for the student of round {sealed['round']}, and a second look is none"
            way_out = (
                "A verdict on another student takes held-out texts that nobody has looked at: give new test_sources."
            )
            raise fail(RunError, f"{self.folder}, the sealed part", what, way_out)
        return sealed["verdict"] is not None


def _refine(settings: recipe.Recipe) -> dict[str, Any]:
    """What of the section decides what is done."""
    section = (settings.refine or recipe.Refine()).model_dump(mode="json")
    return {key: value for key, value in section.items() if key not in FREE}
