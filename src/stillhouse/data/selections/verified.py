"""What a function of yours says is right."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from stillhouse.data.reading import reads
from stillhouse.errors import DataError, fail
from stillhouse.writing import Answer


def _there(named: str) -> str:
    _function(named)
    return named


@reads(lambda options: [Path(f) for f in [options["function"].rpartition(":")[0]] if f.endswith(".py")] or None)
def verified(
    prompt: str, answers: Sequence[Answer], *, function: Annotated[str, AfterValidator(_there)]
) -> list[float | None]:
    """What a function of yours says is right: rejection sampling, as in STaR (Zelikman et al. 2022, arXiv:2203.14465, §3).

    The function is called with the prompt and an answer, and says true or false, or a score, or nothing to refuse. It runs in
    this process with all that you may do: name only code that you trust.

    Args:
        prompt: what was asked.
        answers: the samples.
        function: ``package.module:function`` or ``file.py:function``.

    Raises:
        DataError: the function fails, or says something else.
    """
    return [_score(function, prompt, answer.text) for answer in answers]


def _score(named: str, prompt: str, text: str) -> float | None:
    try:
        said = _function(named)(prompt, text)
    except Exception as error:
        what = f"failed with {type(error).__name__}: {error}; the answer began with {text[:60]!r}"
        raise fail(DataError, named, what, "Let it say false of an answer that it cannot read.") from error
    if said is None or said is False:
        return None
    if not isinstance(said, bool | int | float) or math.isnan(said):
        raise fail(DataError, named, f"said {said!r}, which is neither true, false, a score nor nothing")
    return float(said)


@cache
def _function(named: str) -> Callable[..., Any]:
    place, colon, name = named.rpartition(":")
    if not colon:
        raise ValueError("is no function: write package.module:function or file.py:function")
    try:
        if place.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(place).stem, place)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
        found: Callable[..., Any] = getattr(module, name)
    except Exception as error:  # whatever the user's code raises while it is imported
        raise ValueError(f"cannot be had: {type(error).__name__}: {error}") from None
    return found
