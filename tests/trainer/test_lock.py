"""One run in a folder at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from test_loop import run

from stillhouse.errors import RunError
from stillhouse.lock import lock

HOLD = "import sys, time, pathlib; from stillhouse.lock import lock\nwith lock(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_run_is_refused_until_the_first_is_gone(tmp_path, holder):
    with pytest.raises(RunError, match=rf"another run is at work in this folder \(process {holder.pid}\)"):
        run(tmp_path)
    assert not (tmp_path / "checkpoints").exists()
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    _, progress = run(tmp_path)
    assert progress.step == 12


def test_the_same_process_may_take_it_again(tmp_path):
    with lock(tmp_path):
        with lock(tmp_path):
            pass
        process = subprocess.run([sys.executable, "-c", HOLD, str(tmp_path)], capture_output=True, text=True)
        assert process.returncode == 1 and f"process {os.getpid()}" in process.stderr
    with lock(tmp_path):
        pass


def test_a_folder_that_cannot_be_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="cannot be used: Not a directory"):
        run(tmp_path / "file" / "run")
