"""What holds for every action of a refinement: a new file is checked from the start."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

import stillhouse
from stillhouse.data.render import Rendered
from stillhouse.data.tagging import Row
from stillhouse.find import check_options, find, names
from stillhouse.refinement.defaults import DEFAULTS, actions_for
from stillhouse.refinement.draft import Case, Draft, Weak, recipe_of

ACTIONS = names("action")
WEAK = (Weak("domain", "odd", 0.3, 0.05), Weak("length", "1–4 words", 0.1, 0.01))


def row(source: int, number: int, domain: str) -> Row:
    text = f"he said word{number} of the {domain} kind"
    record = {"text": text, "label": number % 2, "domain": domain}
    return Row(source, record, Rendered(text, label=number % 2), {"domain": domain, "length": "5–8 words"})


def settings(folder: Path, *, classes: bool, **changes: Any) -> stillhouse.Recipe:
    (folder / "rows.jsonl").write_text("{}\n")
    form = {"name": "labelled", "classes": ["no", "yes"]} if classes else {"name": "text"}
    source = {"name": "jsonl", "path": str(folder / "rows.jsonl"), "format": form}
    content: dict[str, Any] = {
        "data": {"sources": source, "test_sources": source},
        "teacher": {"name": "local", "model": "nobody"},
        "student": "same",
        "evaluate": {"slices": ["domain"]},
        "refine": {"pool": source},
    }
    return stillhouse.parse({**content, **changes})


def case_of(folder: Path, *, classes: bool, empty: bool = False) -> Case:
    learned = [row(0, n, "odd" if n % 5 == 0 else "plain") for n in range(40)]
    pool = [row(0, n, "odd") for n in range(100, 120)]
    lost = () if empty else ("word105 of the odd kind", "word7 of the odd kind")
    weak = (Weak("", "", 0.0, 0.0),) if empty else WEAK
    place = folder / "rows"
    return Case(settings(folder, classes=classes), weak, frozenset({"declared"}), lost, learned, [] if empty else pool, not classes, place, 1)  # fmt: skip


@pytest.mark.parametrize("classes", [True, False])
@pytest.mark.parametrize("name", ACTIONS)
def test_it_changes_the_recipe_or_says_why_not(name: str, classes: bool, tmp_path: Path):
    case, draft = case_of(tmp_path, classes=classes), Draft()
    before = copy.deepcopy(draft)
    function = find("action", name)
    options = check_options(function, {}, "refine.actions")
    changed, said = function(draft, case, **options)
    assert draft == before, "the draft that it was given is another one now"
    assert len(said) > 10
    assert not said.endswith(".")
    if changed is draft:
        return
    content = recipe_of(changed, case.settings, case.learned, tmp_path / "round", case.folder)
    own = stillhouse.parse(content)
    old = stillhouse.parse(recipe_of(draft, case.settings, case.learned, tmp_path / "round", case.folder))
    assert own.fingerprint("data", "objective", "trainer") != old.fingerprint("data", "objective", "trainer")
    assert Draft.of(changed.to_dict()).to_dict() == changed.to_dict()
    again, same = function(draft, case, **options)
    assert (again, same) == (changed, said)


@pytest.mark.parametrize("name", ACTIONS)
def test_where_nothing_is_weak_it_harms_nothing(name: str, tmp_path: Path):
    case = case_of(tmp_path, classes=True, empty=True)
    function = find("action", name)
    changed, said = function(Draft(), case, **check_options(function, {}, "refine.actions"))
    assert said
    assert not changed.weights
    assert not changed.factors


def test_every_action_can_do_something_somewhere(tmp_path: Path):
    done = set()
    for classes in (True, False):
        for name in ACTIONS:
            function = find("action", name)
            for draft in (Draft(), Draft(slices=(("domain", "odd"),), weights={"domain odd": 3.0})):
                case = case_of(tmp_path, classes=classes)
                changed, _ = function(draft, case, **check_options(function, {}, "refine.actions"))
                done |= {name} if changed is not draft else set()
    assert done == set(ACTIONS)


def test_the_table_names_actions_and_measures_that_are_there():
    assert set(DEFAULTS) <= set(names("measure")) | {"discovered"}
    assert {name for listed in DEFAULTS.values() for name in listed} <= set(ACTIONS)
    assert actions_for(["of_mine"])
    assert actions_for(["accuracy", "declared"]) == list(DEFAULTS["accuracy"])
