"""Why no further round is begun: the gates hold, the budget is used, or the student is too small."""

from __future__ import annotations

from rich.console import Console

from stillhouse import recipe
from stillhouse.errors import RunError, fail
from stillhouse.refinement import capacity
from stillhouse.refinement.draft import Weak
from stillhouse.refinement.history import History
from stillhouse.refinement.texts import Texts


def stopped(history: History, settings: recipe.Recipe) -> dict[str, str] | None:
    """Why no further round is begun: the gates hold, or the budget is used; None if one is.

    Raises:
        RunError: the budget was raised after the sealed part was opened.
    """
    section = settings.refine or recipe.Refine()
    done = [each for each in history.judged if each["number"]]
    if not history.judged or len(history.judged) < len(history.rounds):
        return None
    before = history.state["stopped"]
    if before is not None and before["why"] not in ("rounds", "tokens", "hours"):
        return dict(before)
    tokens = sum(each["tokens"] for each in done)
    spent = {"rounds": len(done), "tokens": tokens, "hours": sum(each["hours"] for each in done)}
    following = settings.trainer.model_dump() | section.trainer
    coming = following["steps"] * following["tokens_per_step"]
    why = None
    if history.best["verdict"] == "PASS":
        why = {
            "why": "gates hold",
            "said": f"every gate holds after round {history.best['number']}, on the part that confirms",
        }
    elif spent["rounds"] >= section.rounds:
        why = {"why": "rounds", "said": f"{spent['rounds']} of {section.rounds} rounds are used"}
    elif section.tokens is not None and tokens + coming > section.tokens:
        why = {"why": "tokens", "said": f"another {coming:,} tokens would exceed {section.tokens:,}"}
    elif section.hours is not None and spent["hours"] >= section.hours:
        why = {"why": "hours", "said": f"{spent['hours']:.2f} of {section.hours:g} hours are used"}
    if why is None and history.state["sealed"] is not None:
        what = "its sealed part is opened: what further rounds would be judged by is seen"
        way_out = "Refine in a new folder, with held-out texts that nobody has looked at (data.test_sources)."
        raise fail(RunError, str(history.folder), what, way_out)
    return why


def limited(history: History, settings: recipe.Recipe, texts: Texts, console: Console | None) -> dict[str, str] | None:
    """After two rounds that surely bought nothing of the worst slice: whether the student is too small for it, by a probe."""
    if not capacity.stalled(history.judged) or history.state.get("diagnosis"):
        return None
    weak = history.judged[-1]["weak"][0]
    last = recipe.load(history.round_folder(history.judged[-1]["number"]) / "recipe.yaml")
    start = history.round_folder(history.best["number"]) / "student"
    one = Weak(weak["tag"], weak["value"], weak["gap"], weak["priority"])
    section = last.model_copy(update={"data": settings.data.model_copy(update={"augment": ()})})
    found = capacity.probe(section, one, texts.learned, start, history.folder / "probe", console)
    history.state["diagnosis"] = found
    if found["diagnosis"] == "mixture-limited":
        return None
    told = f"two rounds bought nothing of {found['slice']}"
    if "texts" in found:
        return {
            "why": "data-limited",
            "said": f"{told}, of which {found['texts']} texts are learned from: more are needed",
        }
    told += f"; taught it alone, the student keeps {found['kept_held_out']:.0%} of it"
    if found["diagnosis"] == "data-limited":
        learned = f"{found['kept_of_what_it_learned']:.0%} of what it learned from"
        return {"why": "data-limited", "said": f"{told}, but {learned}: more text of it is needed"}
    size = "no size is estimated to be enough"
    if found["enough"]:
        size = f"about {found['enough']:,} parameters instead of {found['parameters']:,} are estimated to be enough"
    learned = f"{found['kept_of_what_it_learned']:.0%} of what it learned from"
    return {"why": "capacity-limited", "said": f"{told} and {learned}; {size}, or route this slice to the teacher"}
