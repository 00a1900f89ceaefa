"""Three report cards: a good student, one that lost a part of its skill, one that is too sure of itself; and pictures of them.

    python benchmarks/gallery.py                  trains what is missing, writes reports and docs/images/gallery-*.png
    python benchmarks/gallery.py --pictures       only the pictures, of the reports that are there (needs Chromium)

The teacher is that of ``defects.py``: half a million parameters that know a small language with three skills (``small_world.py``). Students keep
three of its four layers and are trained by recipes as any other; what they are asked are tasks as any other.

    good           learned what the teacher says of 2,000 texts; beside it a control that learned from the texts alone
    collapsed      the same, but in none of its texts is a country of the north
    overconfident  the good one with its last norm twice as large: the same answers, and far too sure of them
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))  # where recipes find small_world:capitals

import yaml
from rich.console import Console
from safetensors.torch import load_file, save_file
from small_world import CAPITALS, END, KINDS, REGION, kind, teacher

import stillhouse
from stillhouse.files import write_text

IMAGES = Path(__file__).parents[1] / "docs" / "images"
CARDS = ("good", "collapsed", "overconfident")
WITHHELD = "north"
SHARPER = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/gallery"))
    parser.add_argument(
        "--teacher", type=Path, default=Path("runs/defects/teacher-1000-0"), help="of defects.py; made if missing"
    )
    parser.add_argument("--steps", type=int, default=300, help="of a student, 1,024 tokens each")
    parser.add_argument("--only", nargs="+", choices=CARDS, default=list(CARDS))
    parser.add_argument("--pictures", action="store_true", help="train nothing")
    given = parser.parse_args()
    console = Console(width=160)
    if not given.pictures:
        teacher(given.teacher, steps=1000, rows=12, seed=0, tell=console.print)
        for card in given.only:
            console.rule(card)
            if card == "overconfident":
                sharpen(given, console)
            else:
                stillhouse.run(stillhouse.parse(student_recipe(given, card)), console=console)
    for card in given.only:
        picture(given.runs / card / "report.html", IMAGES / f"gallery-{card}.png")
        found = json.loads((given.runs / card / "evaluation.json").read_text(encoding="utf-8"))
        print(f"{card}: {found['verdict']}. {found['sentence']}")


def texts(given: argparse.Namespace, name: str, count: int, without: str = "") -> str:
    """A file of texts with their kinds; none about capitals of one region, if that is asked."""
    path = given.runs / f"{name}.jsonl"
    if not path.is_file():
        draw, lines = random.Random(name), []
        while len(lines) < count:
            of = kind(draw)
            text = KINDS[of](draw)
            if without and any(REGION[c] == without and c in text for c in CAPITALS):
                text = "".join(f"{line}\n" for line in text.splitlines() if not _of(line, without))
            if text:
                lines.append(json.dumps({"text": text, "kind": of}))
        write_text(path, "\n".join(lines) + "\n")
    return str(path)


def _of(line: str, region: str) -> bool:
    return any(REGION[c] == region and f" {c} " in line for c in CAPITALS)


def student_recipe(given: argparse.Namespace, card: str) -> dict[str, Any]:
    """A student of it."""
    train = texts(given, f"train-{card}", 2000, WITHHELD if card == "collapsed" else "")
    form = {"name": "plain", "text": "text"}
    measures = [
        "performance",
        "calibration",
        "fidelity",
        "tasks",
        "coverage",
        "collapse",
        "reasoning",
        "bias",
        "soundness",
        "flips",
    ]
    return {
        "name": card, "run": str(given.runs / card),
        "data": {
            "sources": [{"name": "jsonl", "path": train, "format": form}],
            "test_sources": [{"name": "jsonl", "path": texts(given, "test", 240), "format": form}],
            "block": 128, "end_token": END,
        },
        "teacher": str(given.teacher),
        "student": {"name": "drop_layers", "keep": 3, "by": "block_influence"},
        "objective": {"alpha": 0.9, "temperature": 1.0},
        "trainer": {
            "steps": given.steps, "tokens_per_step": 1024, "micro_tokens": 1024, "learning_rate": 1e-3, "dtype": "float32",
            "validate_every": max(25, given.steps // 6), "validation_tokens": 4096, "checkpoint_every": 50, "threads": 1,
        },
        "evaluate": {
            "tokens": 12_000, "control": card == "good",
            "measures": [*measures, "benefit"] if card == "good" else measures,
            "tasks": [
                {"name": "small_world:capitals", "questions": 1000}, {"name": "small_world:agreement", "questions": 500},
                {"name": "chains", "questions": 250, "shots": 2},
                "small_world:pronouns",
            ],
        },
        "report": {"prompts": ["The capital of", "The teacher said that", "4 + 3 - 2 ="], "new_tokens": 24},
    }  # fmt: skip


def sharpen(given: argparse.Namespace, console: Console) -> None:
    """The good student with a larger last norm, evaluated again."""
    folder, source = given.runs / "overconfident", given.runs / "good"
    if not folder.is_dir():
        building = folder.with_suffix(".tmp")
        shutil.rmtree(building, ignore_errors=True)
        shutil.copytree(source, building)
        content = yaml.safe_load((building / "recipe.yaml").read_text(encoding="utf-8"))
        content |= {"name": "overconfident", "run": str(folder)}
        content["evaluate"]["measures"] = [m for m in content["evaluate"]["measures"] if m["name"] != "benefit"]
        content["evaluate"]["control"] = False
        write_text(building / "recipe.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
        shutil.rmtree(building / "control", ignore_errors=True)
        shutil.rmtree(building / "evaluation")
        weights = load_file(building / "student" / "model.safetensors")
        weights["model.norm.weight"] *= SHARPER
        save_file(weights, building / "student" / "model.safetensors", metadata={"format": "pt"})
        building.rename(folder)
    if not (folder / "evaluation" / "items.parquet").is_file():
        stillhouse.evaluate(folder, console=console)
    stillhouse.report(folder)


def picture(page: Path, image: Path) -> None:
    """The top of a page as a wide screen shows it, in 128 colours."""
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
    if browser is None:
        print("no Chromium: no pictures")
        return
    whole = image.with_suffix(".whole.png")
    flags = ["--headless", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--window-size=1200,1500"]
    flags += ["--no-sandbox"] if os.geteuid() == 0 else []
    subprocess.run([browser, *flags, f"--screenshot={whole}", page.resolve().as_uri()], check=True, capture_output=True)
    try:
        from PIL import Image
    except ImportError:
        whole.rename(image)
        return
    with Image.open(whole) as shot:
        shot.convert("RGB").quantize(128).save(image, optimize=True)
    whole.unlink()


if __name__ == "__main__":
    main()
