"""Logs of lm-evaluation-harness: ``lm_eval … --output_path OUT --log_samples``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stillhouse.evaluate.foreign import Logged, files, json_lines, options, scored
from stillhouse.evaluate.questions import Normalisation

_NAME = re.compile(r"samples_(.+?)_\d{4}-\d\d-\d\dT[\d.:-]+$")
_SCORES = ("exact_match", "acc", "em", "f1")  # of written answers, in this order of preference


def lm_eval(path: Path) -> Iterator[Logged]:
    """The samples of lm-evaluation-harness, one JSONL file a task: ``samples_TASK_TIME.jsonl``.

    Options are compared as ``acc_norm`` does where the log has it (per character), else as ``acc``. Where answers were read by several
    filters, the first of the file counts. The log tells nothing of tokens and of what options are likely alone.

    Args:
        path: a file, or a folder of several tasks.
    """
    for file in files(path, "samples_*.jsonl", "log of lm-evaluation-harness"):
        named = _NAME.fullmatch(file.stem)
        task = named.group(1) if named else file.stem.removeprefix("samples_")
        rows = json_lines(file)
        first = rows[0]["filter"] if rows else ""
        for row in rows:
            if row["filter"] == first:
                yield _logged(task, row)


def _logged(task: str, row: dict[str, Any]) -> Logged:
    asked = [list(arguments.values()) for arguments in row["arguments"].values()]
    id = f"{task}.{int(row['doc_id']):06d}"
    replies = row["filtered_resps"]
    prompts = [str(each[0]) for each in asked]
    if not isinstance(replies[0], list):
        score = next(float(row[name]) for name in (*_SCORES, *row["metrics"]) if name in row["metrics"])
        return scored(task, id, prompts[0], str(replies[0]), score)
    if len(replies) == 1:
        greedy = str(replies[0][1]) == "True"
        return scored(task, id, prompts[0] + str(asked[0][1]), "", float(greedy))
    gold = int(row["target"]) if str(row["target"]).lstrip("-").isdigit() else _right(row, asked)
    likely = [float(reply[0]) for reply in replies]
    k = (
        len(likely) // 2 if "acc_mutual_info" in row["metrics"] else len(likely)
    )  # behind them, the options on their own
    texts = [str(each[1]) for each in asked[:k]]
    by: Normalisation = "character" if "acc_norm" in row["metrics"] else "raw"
    return options(task, id, prompts[:k], texts, gold, likely[:k], free=likely[k:] or None, normalisation=by)


def _right(row: dict[str, Any], asked: list[list[Any]]) -> int:
    """The right option where the log names it by its words."""
    return next(i for i, each in enumerate(asked) if str(each[1]).strip() == str(row["target"]).strip())
