"""Memory does not grow with the text: five times as many documents, the same peak but for some bytes a document."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rensa")

CODE = """
import json, random, sys
sys.path[:0] = ["tests"]
from pathlib import Path
import numpy, rensa, torch
from data.tiny import make
from stillhouse.data import prepare
from stillhouse.recipe import Data

def own():
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024

def peak(folder, count):
    most = 0
    def look(*_):
        nonlocal most
        most = max(most, own())
    section = Data.model_validate({"sources": {"name": "jsonl", "path": str(folder / f"{count}.jsonl")}, "block": 64, "validation": 0.01,
                                   "filters": json.loads(sys.argv[2])})
    corpus = prepare(section, make(), folder / f"data-{count}", progress=look)
    look()
    assert corpus.facts["records"] == count
    return most

folder = Path(sys.argv[1])
for count in (500, 1000, 5000):
    draw = random.Random(count)
    with (folder / f"{count}.jsonl").open("w") as file:
        for i in range(count):
            file.write(json.dumps({"text": f"{i} " + " ".join(str(draw.randrange(2000)) for _ in range(250))}) + "\\n")
from stillhouse.data import building
building._SECONDS_BETWEEN_REPORTS = -1.0
peak(folder, 500)  # what is imported and cached stays
print(json.dumps([peak(folder, count) for count in (1000, 5000)]))
"""
DOCUMENT = 1000
"""Bytes of a document that may be held: less than its text alone, which has about 1,200. What the allocator keeps varies by some 600."""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="tells what is a process's own on Linux alone")
@pytest.mark.parametrize("filters", [[], ["length", "repetition", "near_duplicates", "contamination"]])
def test_text_is_never_held_in_memory(filters: list[str], tmp_path: Path) -> None:
    # shards small enough that both sizes have several
    code = "from stillhouse.data import spool\nspool.SHARD_DOCUMENTS = 250\n" + CODE
    said = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), json.dumps(filters)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "MALLOC_TRIM_THRESHOLD_": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    small, large = json.loads(said.stdout.splitlines()[-1])
    assert large - small < 4000 * DOCUMENT, (small, large)
