"""Logs of lighteval: ``lighteval … --save-details``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stillhouse.errors import DataError, fail
from stillhouse.evaluate.foreign import Logged, files, options, scored

_NAME = re.compile(r"details_(.+?)_\d{4}-\d\d-\d\dT[\d.:-]+$")


def lighteval(path: Path) -> Iterator[Logged]:
    """The details of lighteval, one Parquet file a task: ``details_TASK_TIME.parquet`` with doc, model_response and metric.

    Options are compared by their log-likelihoods (``acc``). A written answer has the mean of its metrics that lie from 0 to 1.

    Args:
        path: a file, or a folder of several tasks.
    """
    for file in files(path, "details_*.parquet", "log of lighteval"):
        named = _NAME.fullmatch(file.stem)
        task = named.group(1) if named else file.stem.removeprefix("details_")
        try:
            rows = pq.ParquetFile(file).read().to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise fail(DataError, str(file), f"is not a readable Parquet file: {error}") from None
        for number, row in enumerate(rows):
            yield _logged(task, f"{task}.{number:06d}", row["doc"], row["model_response"], row["metric"])


def _logged(task: str, id: str, doc: dict[str, Any], response: dict[str, Any], metric: dict[str, Any]) -> Logged:
    query = str(doc["query"])
    likely = response.get("logprobs") or []
    gold = doc["gold_index"]
    gold = gold[0] if isinstance(gold, list) else gold
    if len(likely) == len(doc["choices"]) > 1:
        tokens = [len(each) for each in response.get("output_tokens") or []]
        free = response.get("unconditioned_logprobs")
        return options(
            task, id, [query], list(doc["choices"]), int(gold), likely,
            tokens=tokens if len(tokens) == len(likely) else (), free=free or None,
        )  # fmt: skip
    scores = [float(value) for value in metric.values() if isinstance(value, bool | int | float) and 0 <= value <= 1]
    text = (response.get("text_post_processed") or response.get("text") or [""])[0]
    return scored(task, id, query, str(text), sum(scores) / len(scores), possible=len(doc["choices"]))
