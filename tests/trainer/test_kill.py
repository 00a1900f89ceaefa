"""Killed by SIGKILL anywhere and started again, a run ends with the same bits as one that was left alone.

STILLHOUSE_KILLS sets how many kills at random instants; STILLHOUSE_KILL_STRIDE=1 kills at every single file operation.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def test_killed_and_started_again_the_weights_are_bit_identical(tmp_path):
    kills = os.environ.get("STILLHOUSE_KILLS", "8")
    stride = os.environ.get("STILLHOUSE_KILL_STRIDE", "13")
    script = Path(__file__).with_name("killed.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), kills, stride],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    print(facts)
    assert facts["random"]["kills"] >= int(kills) and facts["random"]["rounds"] >= 1
    assert facts["random"]["equal"] == facts["random"]["rounds"]
    assert facts["each"]["kills"] >= 10
    assert facts["each"]["equal"] == facts["each"]["kills"]
