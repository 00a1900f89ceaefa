"""Logs of HELM: the folder of a run with ``scenario_state.json`` and ``per_instance_stats.json``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stillhouse.errors import DataError, fail
from stillhouse.evaluate.foreign import Logged, files, scored

_SCORES = ("exact_match", "quasi_exact_match", "prefix_exact_match", "final_number_exact_match", "f1_score")


def helm(path: Path) -> Iterator[Logged]:
    """The requests of HELM and what it scored them, a folder a run; perturbed instances and further trials are left out.

    The score is the first there is of exact_match, quasi_exact_match, prefix_exact_match, final_number_exact_match and f1_score.

    Args:
        path: a run's folder, or a folder of several.
    """
    for file in files(path, "scenario_state.json", "log of HELM"):
        beside = file.with_name("per_instance_stats.json")
        if not beside.is_file():
            raise fail(DataError, str(file.parent), "holds no per_instance_stats.json", "HELM writes both; copy both.")
        task = file.parent.name.split(":")[0].split(",")[0]
        scores = {
            entry["instance_id"]: value
            for entry in json.loads(beside.read_text(encoding="utf-8"))
            if _plain(entry) and (value := _score(entry["stats"])) is not None
        }
        for state in json.loads(file.read_text(encoding="utf-8"))["request_states"]:
            instance = state["instance"]
            original = state.get("reference_index") is None and state.get("request_mode", "original") != "calibration"
            if not original or not _plain(state | {"perturbation": instance.get("perturbation")}):
                continue
            if instance["id"] not in scores:
                raise fail(
                    DataError,
                    str(beside),
                    f"has no score of {instance['id']}",
                    f"Scores that are read: {', '.join(_SCORES)}.",
                )
            said = (state.get("result") or {}).get("completions") or [{"text": ""}]
            yield scored(
                task, instance["id"], state["request"]["prompt"], said[0]["text"], scores[instance["id"]],
                possible=len(state.get("output_mapping") or ()),
            )  # fmt: skip


def _plain(entry: dict[str, Any]) -> bool:
    return not entry.get("perturbation") and entry.get("train_trial_index", 0) == 0


def _score(stats: list[dict[str, Any]]) -> float | None:
    plain = [stat for stat in stats if not stat["name"].get("perturbation") and stat.get("mean") is not None]
    values = {stat["name"]["name"]: float(stat["mean"]) for stat in plain}
    return next((values[name] for name in _SCORES if name in values), None)
