"""The loop: run → evaluate → find what is weak → change data, weights, objective → run again, until every gate holds.

Every round is an ordinary run in ``rounds/<number>``; ``refinement.json`` says what was changed and what it bought, and is all that an
interrupted refinement goes on from. What rounds look at, what they are judged by and what is opened once at the end are three
parts of the held-out text that never meet (``evaluate.splits``).
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from stillhouse import recipe
from stillhouse.lock import lock
from stillhouse.refinement.admission import admit
from stillhouse.refinement.history import History
from stillhouse.refinement.judging import judged
from stillhouse.refinement.planning import planned
from stillhouse.refinement.sealed import finish
from stillhouse.refinement.stopping import limited, stopped
from stillhouse.refinement.terminal import tell_end, tell_plan, tell_round, tell_sealed
from stillhouse.refinement.texts import Texts
from stillhouse.report import report
from stillhouse.run import run


def refine(settings: recipe.Recipe, *, console: Console | None = None) -> Path:
    """Refine: a student, and then round after round of what mends its weaknesses.

    Args:
        settings: the recipe; its section ``refine`` says how long and by what means.
        console: where to show progress; None for silence.

    Returns:
        the folder: of the student that was best, judged on the sealed part, with all rounds in ``rounds/``.

    Raises:
        RecipeError: the recipe cannot be refined; all mistakes at once, before anything is loaded.
        StillhouseError: what else a user can mend; what is done so far stays.

    """
    parts = admit(settings)
    folder = settings.folder
    say = console.print if console else lambda *_, **__: None
    with lock(folder):
        history = History(folder, settings)
        history.state["parts"] = parts
        history.state["stopped"] = stopped(history, settings)
        texts = Texts(settings, folder)
        while history.state["stopped"] is None:
            number = len(history.judged)
            if number == len(history.rounds):
                history.rounds.append(planned(history, settings, texts, number))
                if not history.rounds[-1]["changes"] and number:
                    tried = history.rounds.pop()["tried"]
                    history.state["stopped"] = {"why": "nothing to do", "said": "; ".join(tried)}
                    break
                history.save()
            entry = history.rounds[number]
            tell_plan(entry, say)
            own = recipe.load(history.round_folder(number) / "recipe.yaml")
            run(own, console=console)
            judged(history, own, entry)
            tell_round(entry, say)
            history.state["stopped"] = stopped(history, settings) or limited(history, settings, texts, console)
            history.save()
        history.save()
        tell_end(history.state, say)
        finish(history, settings, console)
        tell_sealed(history.state, say)
        say(f"Report: {report(folder)}", highlight=False)
    return folder
