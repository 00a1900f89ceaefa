"""The page's content as plain values: ``report.json``, which programs can read and gates can go by. Its types: ``stillhouse.told``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from stillhouse.report.page import Page

SCHEMA = 1
"""Version of the file's keys and their meaning."""


def content(page: Page) -> str:
    """The file: ASCII, so that no text of a model can break who reads it; what is no number is null.

    Args:
        page: what the page shows.
    """
    run = page.run
    told = {
        "schema": SCHEMA,
        "name": run.name,
        "verdict": page.verdict.word,
        "sentence": f"{page.sentence} {page.more}".strip(),
        "evaluation": run.evaluation or None,
        "changed": run.examples,
        "forgetting": page.forgetting.shares if page.forgetting else {},
        "refinement": run.refinement or None,
        "not_measured": [{"question": question, "why": why} for question, why in page.unmeasured],
        "commands": page.commands,
    }
    return json.dumps(_finite(told), indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """Plain values with null in place of NaN and infinity, which files written by others may hold."""
    if isinstance(value, Mapping):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
