"""Students in every runtime and precision: size, what is lost, speed, memory; docs/deploy.md.

``python benchmarks/artefacts.py --work DIR --test FILE --teacher RUN --classifier NAME=RUN … --language NAME=RUN …`` writes each
student of a finished run in each format that is installed (or takes the file that the run has), loads each file in a process of its own, with one thread, and asks

- a classifier for all texts of FILE (lines of JSON with ``sentence`` and ``label``): how many are right, and how much of what the
  teacher has right is kept (paired, Fieller interval); against the student in PyTorch, paired: how the share that is right and its
  calibration change
- a language model for texts of --text, which it did not learn from: nats a token lost, greedy tokens that agree, as an export does
  it; and what is kept of the teacher's skill: the run's evaluation of the student, less what the file loses
- both how long a text takes: CPU seconds of one forward, or of one token, the median over texts. (Of a page the seconds that
  pass: the browser is another process.)

It goes on where it was stopped: what is in results/artefacts.json already is not measured again. ``--table`` puts it into the page.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
from cells import DOCS, put
from numpy.typing import NDArray

from stillhouse import machine, models, recipe
from stillhouse.check import export_problems
from stillhouse.compare import kept_by
from stillhouse.errors import StillhouseError
from stillhouse.evaluate.statistics import means
from stillhouse.evaluate.statistics.keeping import retention
from stillhouse.export.compare import difference, same_words
from stillhouse.files import atomic_folder, read_json, write_json
from stillhouse.find import find
from stillhouse.models import Model
from stillhouse.recipe import Export
from stillhouse.report.measured import Measured
from stillhouse.report.read import read
from stillhouse.worker import Worker

RESULTS = Path(__file__).parent / "results" / "artefacts.json"
CLASSIFIERS = ["pytorch", "onnx-int8", "web-int8", "executorch-int8", "litert-int8", "onnx-float32", "torchao-int8", "executorch-float32", "litert-float32"]  # fmt: skip
LANGUAGE = ["pytorch", "gguf-q8_0", "onnx-int8", "gguf-q4_0", "onnx-int4", "onnx-float32", "torchao-int8", "executorch-int8", "executorch-int4", "litert-int8"]  # fmt: skip
COMPARED, TIMED, TOKENS = 400, 200, 48
"""Texts on which a classifier's logits are compared with the student's, texts that are timed, and tokens."""


def written(student: Model, run: Path, label: str, work: Path) -> tuple[Path, str, int]:
    """The artefact of a student, made if it is not there: its path, its runtime, its bytes."""
    if label == "pytorch":
        return run / "student", "pytorch", (run / "student" / "model.safetensors").stat().st_size
    own = {record["name"]: record for record in read_json(run / "exports.json", []) if "refused" not in record}
    if label in own:
        return run / own[label]["path"], own[label]["runtime"], model_bytes(run / own[label]["path"])
    name, _, precision = label.partition("-")
    folder = work / label
    if not folder.is_dir():
        problems = export_problems(Export(formats=({"name": name, "precision": precision},)))
        if problems:
            raise StillhouseError(*problems)
        with atomic_folder(folder) as writing:
            made = find("export", name)(student, writing, precision=precision)
            path = str(made.path.relative_to(writing))
            write_json(writing / "made.json", {"path": path, "runtime": made.runtime})
    made_of = read_json(folder / "made.json", {})
    return folder / made_of["path"], made_of["runtime"], model_bytes(folder)


def model_bytes(path: Path) -> int:
    """Of the model's file alone: tokenizers are the same everywhere, and the page's libraries are shared by all pages."""
    kinds = (".onnx", ".gguf", ".pte", ".tflite", ".safetensors")
    return (
        path.stat().st_size if path.is_file() else max(p.stat().st_size for p in path.rglob("*") if p.suffix in kinds)
    )


class _Recorded:
    """A worker whose answers are kept as it is asked."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.answers: list[int] = []

    def logits(self, ids: list[int]) -> NDArray[np.float32]:
        found = self.worker.logits(ids)
        self.answers.append(int(found[0].argmax()))
        return found


def seconds(worker: Worker, ids: list[int], tokens: int) -> tuple[float, float]:
    """CPU seconds of reading a text and of each token after it; of a browser, which is another process, the seconds that pass."""
    found = worker.ask("time", ids=ids, tokens=tokens)
    if found["prefill_cpu"] < 0.2 * found["prefill"] and worker.path.name.startswith("web"):
        return found["prefill"], 0.0
    return found["prefill_cpu"], found["steps_cpu"] / max(tokens, 1)


def classifier(
    worker: Worker, student: Model, texts: Sequence[str], labels: Sequence[int], longest: int
) -> dict[str, Any]:
    """What an artefact answers, how far that is from the student, and how long it takes; of a text as much is read as in the run."""
    ids = [student.tokenizer(text, truncation=True, max_length=longest).input_ids for text in texts]
    recorded = _Recorded(worker)
    found = difference(recorded, student, ids[:COMPARED], labels[:COMPARED]).to_dict()
    for each in ids[COMPARED:]:
        recorded.logits(each)
    taken = [seconds(worker, each, 0)[0] for each in ids[:TIMED]]
    return {
        "answers": "".join(map(str, recorded.answers)),
        "labels": "".join(map(str, labels)),
        "milliseconds_a_text": 1000 * statistics.median(taken),
        "difference": found,
    }


def language(worker: Worker, student: Model, texts: Sequence[list[int]], run: Path) -> dict[str, Any]:
    """What an artefact loses, what it keeps of the teacher's skill, and how long a token takes."""
    found = difference(worker, student, texts).to_dict()
    greedy = same_words(worker, student, [ids[:8] for ids in texts[:4]], 24)
    steps = [seconds(worker, ids[:16], TOKENS)[1] for ids in texts[:4]]
    lost = (found["loss"], found["low"], found["high"])
    skill, why = kept_by(read(run), Measured("artefact", "", lost=lost))
    return {
        "difference": found,
        "greedy": greedy,
        "skill": [skill.value, skill.low, skill.high] if skill else why,
        "milliseconds_a_token": 1000 * statistics.median(steps),
    }


def kept(answers: str, teacher: str, labels: Sequence[int]) -> dict[str, Any]:
    """Share right, and how much of the teacher's is kept, counted from nothing and from the commonest class."""
    right, reference = (
        np.array([int(a) == b for a, b in zip(x, labels, strict=True)], float) for x in (answers, teacher)
    )
    items = np.arange(len(labels))
    commonest = max(set(labels), key=list(labels).count)
    floor = np.array([label == commonest for label in labels], float)
    rows: dict[str, Any] = {"accuracy": float(right.mean())}
    for name, base in (("raw", np.zeros(len(labels))), ("above_floor", floor)):
        found = retention(reference, right, base, items, threshold=0.95)
        rows[name] = [found.value, found.low, found.high]
    return rows


def measure(options: argparse.Namespace) -> None:
    records: dict[str, Any] = {f"{r['model']} {r['artefact']}": r for r in read_json(RESULTS, [])}
    lines = (
        [json.loads(line) for line in Path(options.test).read_text(encoding="utf-8").splitlines()]
        if options.test
        else []
    )
    texts, labels = [line["sentence"] for line in lines], [line["label"] for line in lines]
    runs = [("teacher", options.teacher, ["pytorch"])] * bool(options.teacher) + [
        (name, run, labels_)
        for given, labels_ in ((options.classifier, CLASSIFIERS), (options.language, LANGUAGE))
        for name, _, run in (each.partition("=") for each in given)
    ]
    for name, run, artefacts in runs:
        student = models.load(str(Path(run) / "student")).eval()
        for label in artefacts:
            key = f"{name} {label}"
            if key in records or (options.only and label not in options.only):
                continue
            record: dict[str, Any] = {"model": name, "artefact": label, "parameters": student.parameters_count}
            try:
                path, runtime, size = written(student, Path(run), label, Path(options.work) / name)
                with Worker(runtime, path, 1) as worker:
                    record |= {"runtime": runtime, "bytes": size, **worker.loaded}
                    if student.classifies:
                        longest = recipe.load(Path(run) / "recipe.yaml").data.block
                        record |= classifier(worker, student, texts, labels, longest)
                    else:
                        record |= language(worker, student, held_out(options.text, student), Path(run))
                    record["peak_bytes"] = worker.ask("peak")["bytes"]
            except StillhouseError as error:
                print(f"{key}: {error}", flush=True)
                continue
            if options.teacher is None and student.classifies and "teacher pytorch" not in records:
                raise SystemExit("--teacher is needed first: what is kept is counted from its answers")
            if student.classifies:
                reference = records["teacher pytorch"]["answers"] if name != "teacher" else record["answers"]
                record |= kept(record["answers"], reference, labels)
            record["machine"] = machine.describe()
            records |= {
                f"{r['model']} {r['artefact']}": r for r in read_json(RESULTS, [])
            }  # another may have written meanwhile
            records[key] = record
            write_json(RESULTS, list(records.values()))
            print(row(record, records), flush=True)


def held_out(file: str, student: Model) -> list[list[int]]:
    """Sixteen pieces of a text that no run learned from, evenly spread, 96 tokens each."""
    text = Path(file).read_text(encoding="utf-8")
    starts = range(0, len(text) - 1000, len(text) // 16)
    pieces = [text[begin : begin + 1000] for begin in starts][:16]
    return [student.tokenizer(piece, add_special_tokens=False).input_ids[:96] for piece in pieces]


def percent(values: Sequence[float], factor: float = 100.0) -> str:
    """A share with its interval."""
    value, low, high = (factor * v for v in values)
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def points(change: dict[str, float]) -> str:
    """A change of a share, in percentage points, with its interval."""
    return f"{100 * change['value']:+.2f} [{100 * change['low']:+.2f}, {100 * change['high']:+.2f}]"


def row(record: dict[str, Any], records: dict[str, dict[str, Any]]) -> str:
    """One line of the table."""
    d = record["difference"]
    name = "PyTorch float32" if record["artefact"] == "pytorch" else record["artefact"].replace("-", " ")
    cells = [record["model"], name, f"{record['bytes'] / 1e6:.2f}", f"{d['kl']:.1e}" if d["kl"] else "0"]
    if "accuracy" in record:
        own, labels = records.get(f"{record['model']} pytorch", record)["answers"], record["labels"]
        pairs = list(zip(record["answers"], own, labels, strict=True))
        moved = means.mean(np.array([float(a == y) - float(b == y) for a, b, y in pairs]), np.arange(len(pairs)))
        change = {"value": moved.value, "low": moved.low, "high": moved.high}
        cells += [f"{sum(a == b for a, b, _ in pairs) / len(pairs):.1%}", points(change), points(d["calibration"])]
        cells += [f"{record['accuracy']:.1%}", percent(record["raw"])]
        cells.append(f"{record['milliseconds_a_text']:.2f}")
    else:
        same, of = record["greedy"]
        cells += [f"{same}/{of}", f"{d['loss']:+.4f} [{d['low']:+.4f}, {d['high']:+.4f}]", points(d["calibration"])]
        skill = record["skill"]
        cells += ["–" if isinstance(skill, str) else percent(skill, 1.0), f"{record['milliseconds_a_token']:.2f}"]
    return "| " + " | ".join([*cells, f"{record['peak_bytes'] / 1e6:,.0f}"]) + " |"


CLASSIFIER_HEAD = (
    "| model | runtime, precision | MB | mean KL to the student, nats | same answers | right, pp against the student "
    "| confidence − accuracy, pp against the student | right | of the teacher's, % | CPU ms a text | most memory, MB |"
)
LANGUAGE_HEAD = (
    "| model | runtime, precision | MB | mean KL to the student, nats | greedy tokens that agree | loses, nats a token "
    "| confidence − accuracy, pp | keeps of the teacher's skill, % | CPU ms a token | most memory, MB |"
)


def tell() -> None:
    """The tables, on the screen and in the page."""
    records = {f"{r['model']} {r['artefact']}": r for r in read_json(RESULTS, [])}
    for mark, head, classify in (("classifiers", CLASSIFIER_HEAD, True), ("language", LANGUAGE_HEAD, False)):
        found = [record for record in records.values() if ("accuracy" in record) == classify]
        if found:
            columns = head.count("|") - 1
            table = "\n".join(
                [head, "| --- | --- |" + " --: |" * (columns - 2), *(row(each, records) for each in found)]
            )
            print(table)
            put(DOCS / "deploy.md", mark, table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", help="where artefacts are written")
    parser.add_argument("--test", help="lines of JSON with sentence and label")
    parser.add_argument("--teacher", help="the run of the classifiers' teacher")
    parser.add_argument("--text", help="a plain text, for language models")
    parser.add_argument("--classifier", action="append", default=[], help="NAME=RUN")
    parser.add_argument("--language", action="append", default=[], help="NAME=RUN")
    parser.add_argument("--only", action="append", default=[], help="artefacts, such as onnx-int8; all without")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if not options.table:
        measure(options)
    tell()


if __name__ == "__main__":
    main()
