"""Trains the toy again and again, killing it each time somewhere else; run by test_kill.py in a process of its own.

A child is forked from a process that has imported everything, so that a round costs a fraction of a second. What is
left behind is exactly what SIGKILL leaves: nothing is flushed, no ``finally`` runs.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import toy
from safetensors.torch import save_file

from stillhouse.trainer import train


def one_run(folder: Path, section) -> None:
    learner = toy.Learner(dropout=0.2)
    train(learner, toy.Teacher(), toy.Pieces(), toy.Pieces(), section, folder, fingerprint="f")
    state = learner.state_dict()
    assert learner.student.network.head.weight is learner.student.network.embedding.weight
    del state["student.network.head.weight"]
    save_file(state, folder / "final.safetensors")


def in_child(action) -> int:
    """Run in a fork; returns how it ended: 0, or minus the signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    return child


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def outcome(folder: Path) -> tuple[bytes, list[dict]]:
    numbers = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in numbers:
        line.pop("seconds", None)
    return (folder / "final.safetensors").read_bytes(), numbers


def at_event(number: int, folder: Path, action) -> None:
    """Do something, but die at the n-th operation on a file of the folder."""
    count = 0

    def audit(event: str, arguments: tuple) -> None:
        nonlocal count
        if event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir") and str(folder) in str(arguments[0]):
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)
    action()


def random_instants(root: Path, kills: int) -> dict:
    """Kill after a random time, then start again, until one run gets through."""
    section = toy.section(steps=60, checkpoint_every=5, validate_every=7)
    whole = root / "whole"
    began = time.perf_counter()
    assert ended(in_child(lambda: one_run(whole, section))) == 0
    seconds = time.perf_counter() - began
    draw = random.Random(7)
    killed = rounds = equal = 0
    in_save = 0
    while killed < kills:
        folder = root / f"round{rounds}"
        while True:
            child = in_child(lambda folder=folder: one_run(folder, section))
            time.sleep(draw.uniform(0.0, 1.3 * seconds) if killed < kills else 0)
            if killed < kills:
                os.kill(child, signal.SIGKILL)
            code = ended(child)
            if code == 0:
                break
            assert code == -signal.SIGKILL, code
            killed += 1
            in_save += any((folder / "checkpoints").glob(".step-*.tmp"))
        equal += outcome(folder) == outcome(whole)
        assert not list((folder / "checkpoints").glob(".*.tmp"))
        rounds += 1
        shutil.rmtree(folder)
    return {"kills": killed, "in_save": in_save, "rounds": rounds, "equal": equal, "seconds": seconds}


def every_file_operation(root: Path, stride: int) -> dict:
    """Kill at each operation on a file in turn: inside a save, inside the rename, while old ones are removed."""
    section = toy.section(steps=9, checkpoint_every=2, validate_every=3)
    whole = root / "whole_short"
    assert ended(in_child(lambda: one_run(whole, section))) == 0
    number, kills, equal = 1, 0, 0
    while True:
        folder = root / f"at{number}"
        code = ended(in_child(lambda f=folder, n=number: at_event(n, f, lambda: one_run(f, section))))
        if code == 0:
            break
        assert code == -signal.SIGKILL, code
        kills += 1
        assert ended(in_child(lambda f=folder: one_run(f, section))) == 0
        equal += outcome(folder) == outcome(whole)
        shutil.rmtree(folder)
        number += stride
    return {"kills": kills, "equal": equal}


if __name__ == "__main__":
    root = Path(sys.argv[1])
    facts = {"random": random_instants(root, int(sys.argv[2])), "each": every_file_operation(root, int(sys.argv[3]))}
    print(json.dumps(facts))
