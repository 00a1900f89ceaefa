"""Students in every runtime and precision: size, what is lost, speed, memory.

``python benchmarks/artefacts.py --work DIR --test FILE --teacher RUN --classifier NAME=RUN … --language NAME=RUN …`` writes each
student of a finished run in each format that is installed, loads each file in a process of its own, with one thread, and asks

- a classifier for all texts of FILE (lines of JSON with ``sentence`` and ``label``): how many are right, and how much of what the
  teacher has right is kept (paired, Fieller interval); which answers differ from the student's in PyTorch, and by how much
- a language model for texts of --text, which it did not learn from: nats a token lost, greedy tokens that agree, as an export does it
- both how long a text takes: the median over texts of one forward, or of one token

It goes on where it was stopped: what is in results/artefacts.json already is not measured again. ``--table`` prints it.
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

from stillhouse import machine, models
from stillhouse.check import export_problems
from stillhouse.errors import StillhouseError
from stillhouse.evaluate.statistics.keeping import retention
from stillhouse.export.compare import difference, same_words
from stillhouse.files import atomic_folder, read_json, write_json
from stillhouse.find import find
from stillhouse.models import Model
from stillhouse.recipe import Export
from stillhouse.worker import Worker

RESULTS = Path(__file__).parent / "results" / "artefacts.json"
CLASSIFIERS = ["pytorch", "onnx-int8", "web-int8", "executorch-int8", "litert-int8", "onnx-float32", "torchao-int8", "executorch-float32", "litert-float32"]  # fmt: skip
LANGUAGE = ["pytorch", "gguf-q8_0", "onnx-int8", "gguf-q4_0", "onnx-int4", "onnx-float32", "torchao-int8", "executorch-int8", "executorch-int4", "litert-int8"]  # fmt: skip
COMPARED, TIMED, TOKENS = 64, 200, 64


def written(student: Model, run: Path, label: str, work: Path) -> tuple[Path, str, int]:
    """The artefact of a student, made if it is not there: its path, its runtime, its bytes."""
    if label == "pytorch":
        return run / "student", "pytorch", (run / "student" / "model.safetensors").stat().st_size
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
    # the model's file alone: tokenizers are the same everywhere, and the page's libraries are shared by all pages
    size = max(
        p.stat().st_size for p in folder.rglob("*") if p.suffix in (".onnx", ".gguf", ".pte", ".tflite", ".safetensors")
    )
    return folder / made_of["path"], made_of["runtime"], size


def classifier(worker: Worker, student: Model, texts: Sequence[str]) -> dict[str, Any]:
    """What an artefact answers, and how long it takes."""
    ids = [student.tokenizer(text).input_ids for text in texts]
    answers = [int(worker.logits(each)[0].argmax()) for each in ids]
    seconds = [worker.ask("time", ids=each, tokens=0)["prefill"] for each in ids[:TIMED]]
    per_token = statistics.median(s / len(each) for s, each in zip(seconds, ids, strict=False))
    found = difference(worker, student, ids[:COMPARED]).to_dict()
    return {
        "answers": "".join(map(str, answers)),
        "milliseconds_a_text": 1000 * statistics.median(seconds),
        "tokens_a_second": 1 / per_token,
        "difference": found,
    }


def language(worker: Worker, student: Model, texts: Sequence[list[int]]) -> dict[str, Any]:
    """What an artefact loses, and how long a token takes."""
    found = difference(worker, student, texts).to_dict()
    greedy = same_words(worker, student, [ids[:8] for ids in texts[:4]], 24)
    steps = [s for ids in texts[:4] for s in worker.ask("time", ids=ids[:16], tokens=TOKENS)["steps"]]
    return {"difference": found, "greedy": greedy, "tokens_a_second": 1 / statistics.median(steps)}


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
    lines = [json.loads(line) for line in Path(options.test).read_text(encoding="utf-8").splitlines()]
    texts, labels = [line["sentence"] for line in lines], [line["label"] for line in lines]
    runs = [("teacher", options.teacher, ["pytorch"])] + [
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
                        record |= classifier(worker, student, texts)
                    else:
                        record |= language(worker, student, held_out(options.text, student))
                    record["peak_bytes"] = worker.ask("peak")["bytes"]
            except StillhouseError as error:
                print(f"{key}: {error}", flush=True)
                continue
            if student.classifies:
                reference = records["teacher pytorch"]["answers"] if name != "teacher" else record["answers"]
                record |= kept(record["answers"], reference, labels)
                own = records.get(f"{name} pytorch", record)["answers"]
                record["same_answers"] = sum(a == b for a, b in zip(record["answers"], own, strict=True)) / len(own)
            record["machine"] = machine.describe()
            records[key] = record
            write_json(RESULTS, list(records.values()))
            print(row(record), flush=True)


def held_out(file: str, student: Model) -> list[list[int]]:
    """Sixteen pieces of a text that no run learned from, evenly spread, 96 tokens each."""
    text = Path(file).read_text(encoding="utf-8")
    starts = range(0, len(text) - 1000, len(text) // 16)
    pieces = [text[begin : begin + 1000] for begin in starts][:16]
    return [student.tokenizer(piece, add_special_tokens=False).input_ids[:96] for piece in pieces]


def row(record: dict[str, Any]) -> str:
    """One line of the table."""
    d = record["difference"]
    cells = [record["model"], record["artefact"], f"{record['bytes'] / 1e6:.2f} MB", f"{d['largest_logit']:.2g}"]
    if "accuracy" in record:
        raw = record["raw"]
        cells += [
            f"{record['same_answers']:.2%}",
            f"{record['accuracy']:.1%}",
            f"{raw[0]:.1%} [{raw[1]:.1%}, {raw[2]:.1%}]",
        ]
    else:
        same, of = record["greedy"]
        cells += [f"{same}/{of}", f"{d['loss']:+.4f} [{d['low']:+.4f}, {d['high']:+.4f}] nats", ""]
    cells += [f"{record['tokens_a_second']:,.0f} tokens/s", f"{record['peak_bytes'] / 1e6:,.0f} MB"]
    return "| " + " | ".join(cells) + " |"


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
    if options.table:
        print("\n".join(row(record) for record in read_json(RESULTS, [])))
    else:
        measure(options)


if __name__ == "__main__":
    main()
