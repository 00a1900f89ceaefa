"""Three report cards: a good student, one that lost a part of its skill, one that is too sure of itself; and pictures of them.

    python benchmarks/gallery.py                  asks what was not asked yet, writes reports and docs/images/gallery-*.png
    python benchmarks/gallery.py --pictures       only the pictures, of the reports that are there (needs Chromium)

Teacher and questions are those of ``defects.py``. The students are made of the teacher without training: *good* by rounding it to 4 bits,
*collapsed* by taking one of its four layers out, *overconfident* by doubling its last norm.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import shutil
import subprocess
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import defects
import torch

from stillhouse import recipe
from stillhouse.evaluate import answers, judge_imported, records, score
from stillhouse.evaluate.samples import samples
from stillhouse.files import write_json
from stillhouse.report import report

IMAGES = Path(__file__).parents[1] / "docs" / "images"
CARDS = {"good": defects.few_bits(4), "collapsed": defects.without_layer, "overconfident": defects.sharpened}
MEASURES = (
    "performance",
    "calibration",
    "tasks",
    "coverage",
    "collapse",
    "reasoning",
    "bias",
    "soundness",
    "fidelity",
    "selective",
    "rarity",
    "flips",
)
PROMPTS = ("The capital of", "The teacher said that", "4 + 3 - 2 =")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/gallery"))
    parser.add_argument(
        "--work", type=Path, default=Path("runs/defects"), help="folder of the teacher; made if missing"
    )
    parser.add_argument("--pictures", action="store_true", help="ask nothing")
    given = parser.parse_args()
    if not given.pictures:
        numbers = {name: default for name, (default, _) in defects.BENCHMARK.numbers.items()}
        world = defects.prepare(argparse.Namespace(work=given.work, seeds=[0], **numbers))
        for card in CARDS:
            make(given.runs / card, card, world)
    for card in CARDS:
        picture(given.runs / card / "report.html", IMAGES / f"gallery-{card}.png")
        found = json.loads((given.runs / card / "evaluation.json").read_text(encoding="utf-8"))
        print(f"{card}: {found['verdict']}. {found['sentence']}")


def make(folder: Path, card: str, world: defects.World) -> None:
    """The folder of one student: its tables, what was found, and the report."""
    if (folder / "report.html").is_file():
        return
    student = copy.deepcopy(world.teacher).eval()
    with torch.no_grad():
        CARDS[card](student)
    records.write(
        folder / "evaluation" / "items.parquet", score.score(world.read, "student", student, lambda _: None).items
    )
    (folder / "evaluation" / "answers.parquet").unlink(missing_ok=True)
    for rows in (world.answered, defects.asked_of(student, world.end, world.tasks, "student")):
        for table in rows.values():
            answers.append(folder / "evaluation" / "answers.parquet", table)
    models = {"teacher": world.teacher, "student": student}
    facts = {r: {"name": card if r == "student" else "small world", "parameters": m.parameters_count, "bytes": 4 * m.parameters_count} for r, m in models.items()}  # fmt: skip
    write_json(folder / "evaluation" / "models.json", facts)
    write_json(folder / "samples.json", samples(PROMPTS, models, 24, lambda of: of.eos_token_id, lambda _: None))
    section = recipe.Evaluate(measures=tuple(recipe.Gate(name=name) for name in MEASURES))
    judge_imported(folder, section, {})
    report(folder)


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
