"""A run folder as a finished run leaves it, with invented but plausible numbers. Run it to look at a page by hand:
``python tests/report/fixture.py /tmp/a-run`` writes the folder and its report.
"""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path
from typing import Any

RECIPE = """\
name: smol-24m
run: null
data:
  sources:
  - name: jsonl
    path: data/children.jsonl
    format:
      name: text
      field: text
  - name: jsonl
    path: data/wiki.jsonl
    format:
      name: text
      field: text
  block: 512
  validation: 0.05
  seed: 0
teacher:
  name: local
  model: HuggingFaceTB/SmolLM2-135M-Instruct
  dtype: auto
student:
  name: drop_layers
  keep: 10
objective:
  alpha: high
  temperature: 2.0
  soft:
    name: forward_kl
  hard:
    name: cross_entropy
  terms:
  - name: hidden_mse
    weight:
      name: linear
      start: 1.0
      end: 0.0
  chunk: null
trainer:
  steps: 600
  tokens_per_step: 4096
  micro_tokens: 1024
  learning_rate: 0.0005
  seed: 0
evaluate:
  tokens: 20000
  control: true
  retention: 0.9
export:
  formats:
  - name: hf
report:
  prompts:
  - The capital of France is
  - Once upon a time
  new_tokens: 48
"""
STEPS = 600


def estimate(
    label: str, role: str, value: float | None, low: float | None, high: float | None, unit: str, n: int = 19_874
) -> dict[str, Any]:
    return {"label": label, "role": role, "value": value, "low": low, "high": high, "unit": unit, "n": n}


def row(role: str, value: float, half: float) -> dict[str, Any]:
    point = {"x": role, "y": value, "low": round(value - half, 4), "high": round(value + half, 4), "n": 19_874}
    return {"name": role, "role": role, "points": [point]}


def evaluation() -> dict[str, Any]:
    bpb = {"floor": 2.61, "before": 2.02, "control": 1.31, "student": 1.22, "teacher": 1.12}
    kept = {"student": (93.3, 1.7), "control": (87.2, 1.9), "before": (39.6, 3.1)}
    gaps = {"student": (3.9, 0.6), "teacher": (1.2, 0.5), "control": (2.4, 0.6), "before": (-6.1, 0.9)}
    performance = {
        "name": "performance",
        "question": "How much of the teacher's skill does the student keep?",
        "verdict": "PASS",
        "sentence": "The student keeps 93.3 % [91.6, 95.0] of the teacher's skill above the unigram floor (1.22 bits per "
        "byte [1.19, 1.25], teacher 1.12, floor 2.61); asked for: 90.0 %.",
        "reason": "It keeps 90.0 % or more (p < 0.001, 61 documents).",
        "estimates": [
            *(estimate("bits per byte", r, v, v - 0.03, v + 0.03, "bits per byte") for r, v in bpb.items()),
            *(estimate("skill kept above the floor", r, v, v - h, v + h, "%") for r, (v, h) in kept.items()),
            estimate("raw ratio of bits per byte, student ÷ teacher", "student", 1.09, 1.07, 1.11, "×"),
            estimate("top-1 accuracy", "teacher", 46.9, 45.8, 48.0, "%"),
            estimate("top-1 accuracy", "student", 43.7, 42.6, 44.8, "%"),
            estimate("top-1 accuracy", "control", 41.5, 40.4, 42.6, "%"),
        ],
        "charts": [
            {
                "kind": "forest",
                "title": "Skill kept above the unigram floor",
                "x_label": "",
                "y_label": "% of the teacher's",
                "series": [row(r, v, h) for r, (v, h) in kept.items()],
                "marks": [{"value": 90.0, "label": "asked for"}, {"value": 100.0, "label": "teacher"}],
            },
            {
                "kind": "ladder",
                "title": "From the floor to the teacher: bits per byte, lower is better",
                "x_label": "",
                "y_label": "bits per byte",
                "series": [row(r, v, 0.03) for r, v in bpb.items()],
                "marks": [],
            },
        ],
        "limits": [
            "An average over text: a capability that little of it needs can be lost without showing here.",
            "One training run: the intervals cover which documents were tested on, not which seed was trained with.",
        ],
    }
    benefit = {
        "name": "benefit",
        "question": "Did the teacher help?",
        "verdict": "PASS",
        "sentence": "The teacher helped: the student saves 0.09 bits per byte [0.07, 0.11] against the same student trained "
        "without the teacher, 47.4 % [39.1, 55.2] of the way from it to the teacher.",
        "reason": "The interval of the paired difference lies above 0.",
        "estimates": [
            estimate("bits per byte saved against control", "student", 0.09, 0.07, 0.11, "bits per byte"),
            estimate("KL from the teacher, control − student", "student", 0.24, 0.22, 0.26, "nats"),
            estimate("bits per byte saved against before", "student", 0.80, 0.76, 0.84, "bits per byte"),
            estimate("performance gap recovered", "student", 47.4, 39.1, 55.2, "%"),
        ],
        "charts": [
            {
                "kind": "forest",
                "title": "What the student is better by: bits per byte, above 0 is better",
                "x_label": "",
                "y_label": "bits per byte",
                "series": [
                    {
                        "name": f"against {r}",
                        "role": "student",
                        "points": [{"x": f"against {r}", "y": v, "low": v - h, "high": v + h}],
                    }
                    for r, v, h in (("control", 0.09, 0.02), ("before", 0.80, 0.04))
                ],
                "marks": [{"value": 0.0, "label": "no difference"}],
            }
        ],
        "limits": ["Judged on the loss on held-out text, at the budget of this run; a longer run may end otherwise."],
    }
    bins = [0.08, 0.17, 0.26, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.96]
    counts = [2412, 3120, 2904, 2301, 1893, 1507, 1288, 1204, 1320, 1925]
    bent = {"student": 0.045, "teacher": 0.012, "control": 0.028, "before": -0.06}
    diagram = [
        {
            "name": role,
            "role": role,
            "points": [
                {
                    "x": x,
                    "y": round(min(1.0, max(0.0, x - b * math.sin(math.pi * x) * 1.2)), 4),
                    "low": max(0.0, x - b * math.sin(math.pi * x) * 1.2 - 0.02),
                    "high": min(1.0, x - b * math.sin(math.pi * x) * 1.2 + 0.02),
                    "n": c,
                }
                for x, c in zip(bins, counts, strict=True)
            ],
        }
        for role, b in bent.items()
    ]
    band = [
        {"x": x, "y": None, "low": x - 1.96 * s, "high": x + 1.96 * s, "n": c}
        for x, c in zip(bins, counts, strict=True)
        for s in [math.sqrt(x * (1 - x) / c)]
    ]
    calibration = {
        "name": "calibration",
        "question": "Is the student as sure as it should be?",
        "verdict": "INCONCLUSIVE",
        "sentence": "The student is over-confident by 3.90 pp [3.30, 4.50] (teacher: 1.20 pp [0.70, 1.70]); its calibration "
        "error is 4.02 pp where chance alone gives 0.83 [0.52, 1.21].",
        "reason": "|gap| may be up to 4.41 pp (allowed 5.00), and up to 3.24 pp beyond the teacher's (allowed 3.00). About "
        "140 documents would decide (61 were used): raise evaluate.tokens.",
        "estimates": [
            *(estimate("confidence − accuracy", r, v, v - h, v + h, "pp") for r, (v, h) in gaps.items()),
            estimate("calibration slope", "student", 0.87, 0.84, 0.90, ""),
            estimate("calibration error above chance", "student", 3.19, None, None, "pp"),
            estimate("p value of perfect calibration", "student", 0.0005, None, None, ""),
        ],
        "charts": [
            {
                "kind": "reliability",
                "title": "Confidence and how often it was right",
                "x_label": "confidence",
                "y_label": "share correct",
                "series": [*diagram, {"name": "chance alone", "points": band}],
                "marks": [],
            },
            {
                "kind": "forest",
                "title": "Confidence − accuracy: above 0 is over-confident",
                "x_label": "",
                "y_label": "pp",
                "series": [row(r, v, h) for r, (v, h) in gaps.items()],
                "marks": [
                    {"value": -5.0, "label": "allowed"},
                    {"value": 0.0, "label": "as sure as it should be"},
                    {"value": 5.0, "label": "allowed"},
                ],
            },
        ],
        "limits": ["Of the next token under teacher-forced text; says nothing of how sure whole answers are."],
    }
    near = {"student": (0.31, 71.2, 74.8), "control": (0.55, 63.9, 67.0), "before": (2.1, 31.0, 35.5)}
    fidelity = {
        "name": "fidelity",
        "question": "How closely does the student behave like the teacher?",
        "verdict": "DESCRIPTIVE",
        "sentence": "The student's first choice is the teacher's at 71.2 % [70.2, 72.2] of the positions; as a draft model it "
        "would have 74.8 % [74.1, 75.5] of its tokens accepted; its mean KL from the teacher is 0.31 nats [0.29, 0.33].",
        "reason": "Nearness to the teacher is described and not judged: a student can be near and wrong, or far and right.",
        "estimates": [
            e
            for r, (kl, agree, accept) in near.items()
            for e in (
                estimate("KL from the teacher, mean", r, kl, kl - 0.02, kl + 0.02, "nats"),
                estimate("same first choice as the teacher", r, agree, agree - 1, agree + 1, "%"),
                estimate("acceptance rate", r, accept, accept - 0.7, accept + 0.7, "%"),
            )
        ],
        "charts": [
            {
                "kind": "bars",
                "title": "Agreement with the teacher",
                "x_label": "",
                "y_label": "%",
                "series": [
                    {
                        "name": r,
                        "role": r,
                        "points": [
                            {"x": "same first choice", "y": a, "low": a - 1, "high": a + 1},
                            {"x": "accepted as draft", "y": d, "low": d - 0.7, "high": d + 0.7},
                        ],
                    }
                    for r, (_, a, d) in near.items()
                ],
                "marks": [],
            },
            {
                "kind": "line",
                "title": "KL from the teacher: most positions and the tail",
                "x_label": "percentile",
                "y_label": "nats",
                "series": [
                    {
                        "name": r,
                        "role": r,
                        "points": [
                            {"x": q, "y": round(kl * f, 4)}
                            for q, f in zip(
                                (5, 10, 25, 50, 75, 90, 95, 99), (0.02, 0.05, 0.2, 0.55, 1.3, 2.4, 3.4, 6), strict=True
                            )
                        ],
                    }
                    for r, (kl, _, _) in near.items()
                ],
                "marks": [],
            },
        ],
        "limits": ["Measured after the words of the held-out text, not after words the student wrote itself."],
    }
    return {
        "schema": 1,
        "run": "smol-24m",
        "recipe_fingerprint": "7f3a91c2d04be815",
        "verdict": "INCONCLUSIVE",
        "sentence": "Not shown to be a replacement for the teacher (2 of 3 gates hold, none failed; undecided: "
        "calibration). The student keeps 93.3 % [91.6, 95.0] of the teacher's skill above the unigram floor "
        "(1.22 bits per byte [1.19, 1.25], teacher 1.12, floor 2.61); asked for: 90 %. |gap| may be up to 4.41 pp (allowed 5.00), and up to 3.24 pp beyond the teacher's (allowed 3.00).",
        "findings": [performance, fidelity, calibration, benefit],
        "models": {
            "teacher": model("HuggingFaceTB/SmolLM2-135M-Instruct", 134_515_008),
            "before": model("smol-24m before training", 63_713_088),
            "student": model("smol-24m", 63_713_088),
            "control": model("smol-24m without the teacher", 63_713_088),
        },
        "power": [
            power("performance", "held-out text", 61, 4.2, 38, ""),
            power("tasks", "chains", 60, None, None, "at the floor"),
        ],
        "counts": {"documents": 61, "tokens": 19_874, "bytes": 84_210},
        "environment": {"torch": "2.13.0", "threads": 2},
        "seconds": {"train student": 2588.1, "train control": 2574.0, "export": 3.2, "evaluate": 281.7},
    }


def power(gate: str, of: str, items: int, seen: float | None, needed: int | None, why: str) -> dict[str, Any]:
    found = {
        "gate": gate,
        "of": of,
        "rule": "90 % of the skill kept",
        "items": items,
        "clusters": items,
        "one": "document",
    }
    return found | {"seen": seen, "unit": "%", "needed": needed, "why": why, "possible": not why}


def changed(*texts: str) -> dict[str, Any]:
    """A capability of which each text is a question, its answers and its names."""
    keys = ("task", "question", "asked", "right", "teacher", "student")
    shown = [
        {"change": "lost" if i % 2 == 0 else "gained", "options": [text]} | dict.fromkeys(keys, text)
        for i, text in enumerate(texts)
    ]
    return {"capability": texts[0], "of": 300, "lost": 31, "gained": 12, "shown": shown}


def model(name: str, parameters: int) -> dict[str, Any]:
    return {"name": name, "parameters": parameters, "bytes": parameters * 4}


def metrics(role: str, steps: int = STEPS) -> list[dict[str, Any]]:
    noise = random.Random(role)
    lines: list[dict[str, Any]] = []
    final, start = (2.92, 5.6) if role == "student" else (3.14, 5.6)
    for step in range(1, steps + 1):
        fallen = math.exp(-step / 90)
        hard = final + (start - final) * fallen + noise.gauss(0, 0.06)
        soft = 0.62 + 4.1 * fallen + noise.gauss(0, 0.04)
        hidden = 0.21 + 0.7 * fallen + noise.gauss(0, 0.01)
        line: dict[str, Any] = {"step": step, "cross_entropy": hard}
        if role == "student":
            weight = 1 - step / steps
            line |= {"forward_kl": soft, "hidden_mse": hidden, "loss": 0.9 * soft + 0.1 * hard + weight * hidden}
        else:
            line["loss"] = hard
        rate = 5e-4 * min(1.0, step / 30) * (0.1 + 0.9 * (1 + math.cos(math.pi * step / steps)) / 2)
        line |= {"gradient_norm": 0.6 + 1.9 * fallen + abs(noise.gauss(0, 0.1)), "learning_rate": rate}
        line |= {"tokens": step * 4096, "seconds": round(4.1 + noise.random() * 0.4, 6)}
        lines.append(line)
        if step % 50 == 0:
            held: dict[str, Any] = {
                "loss": line["loss"] + 0.05,
                "cross_entropy": final + (start - final) * fallen + 0.05,
            }
            if role == "student":
                held |= {"forward_kl": 0.66 + 4.1 * fallen, "hidden_mse": hidden}
            lines.append({"step": step, "validation": held})
    return lines


SAMPLES: list[dict[str, Any]] = [
    {
        "prompt": "The capital of France is",
        "texts": {
            "teacher": " Paris, a city on the Seine. It has been the seat of government since the tenth century and is known "
            "for its museums, its bridges and its food.",
            "before": " the the of of and and the the of of the and of the the of and the of the of",
            "student": " Paris, which is the largest city in the country. It is known for its museums and for the river that "
            "runs through it.",
            "control": " a city in the north of the country, and it is the capital of the country, and it is the capital of the "
            "country.",
        },
        "stop": {"teacher": "eos", "before": "length", "student": "eos", "control": "length"},
    },
    {
        "prompt": "Once upon a time",
        "texts": {
            "teacher": " there was a miller who had three sons.\nThe eldest got the mill, the second the donkey, and the youngest "
            "nothing but the cat.",
            "before": " to to to in in the the a a",
            "student": " there was a little girl who lived in a house at the edge of the wood. One day she found a key that "
            "opened no door.",
            "control": " there was a little boy. He was a little boy. He had a little dog, and the dog was a little dog.",
        },
        "stop": {"teacher": "length", "before": "length", "student": "length", "control": "length"},
    },
]

MANIFEST: dict[str, Any] = {
    "made_of": {"format": 3, "tokenizer": "e5ac1f7b"},
    "facts": {
        "sources": [{"name": "jsonl", "documents": 1240}, {"name": "jsonl", "documents": 611}],
        "documents_read": 1851,
        "duplicates_left_out": 12,
        "train": {"documents": 1747, "tokens": 2_461_204, "loss_positions": 2_459_457},
        "validation": {"documents": 92, "tokens": 129_880, "loss_positions": 129_788},
        "lengths": {"shortest": 18, "median": 903, "longest": 12_410},
        "filtered": 31,
        "filters": [
            {
                "name": "length",
                "options": {"least": 20},
                "seen": 1882,
                "removed": 7,
                "measured": {"5%": "41 words", "50%": "310 words", "95%": "1,204 words"},
                "examples": [
                    {
                        "record": "data.sources.0 (jsonl), record 17",
                        "why": "3 words, at least 20 words is kept",
                        "text": "To be continued.",
                    }
                ],
                "seconds": 0.4,
            },
            {
                "name": "contamination",
                "options": {"files": ["/home/somebody/benchmarks/boolq.jsonl"]},
                "seen": 1875,
                "removed": 24,
                "compared with": {"boolq.jsonl": {"texts": 3270, "documents removed": 24}},
                "examples": [],
                "seconds": 1.2,
            },
        ],
        "diversity": {
            "before": {"distinct_1": 0.2114, "distinct_2": 0.7012, "distinct_3": 0.9311, "self_bleu": 0.2873},
            "after": {"distinct_1": 0.2142, "distinct_2": 0.7101, "distinct_3": 0.9402, "self_bleu": 0.2511},
            "documents": 256,
            "words": 24_106,
        },
    },
}

ENVIRONMENT: dict[str, Any] = {
    "cpu": "An 8-core processor at 2.4 GHz",
    "instructions": "AVX512",
    "cores": 2,
    "threads": 2,
    "memory_bytes": 24_000_000_000,
    "gpu": None,
    "system": "Linux 6.1 x86_64",
    "python": "3.11.7",
    "torch": "2.13.0",
    "transformers": "5.23.0",
    "dtype": {"dtype": "float32", "reason": "bfloat16 matrix products run at 4.1 GFLOP/s here, float32 at 96.0."},
}


def put_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def put_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def build(folder: Path, steps: int = STEPS) -> Path:
    """Write the whole run folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    put_json(folder / "environment.json", ENVIRONMENT)
    put_json(folder / "data" / "manifest.json", MANIFEST)
    put_lines(folder / "metrics.jsonl", metrics("student", steps))
    put_lines(folder / "control" / "metrics.jsonl", metrics("control", steps))
    put_json(folder / "evaluation.json", evaluation())
    put_json(folder / "samples.json", SAMPLES)
    put_json(folder / "evaluation" / "examples.json", [changed("recall", "lamp: north\nriver: seven\nlamp:")])
    (folder / "student").mkdir(exist_ok=True)
    put_json(folder / "student" / "config.json", {"model_type": "llama"})
    return folder


NASTY: dict[str, str] = {
    "script": "<script>window.hacked=1;document.title='hacked'</script>",
    "handler": "<img src=x onerror=window.hacked=2><svg onload=window.hacked=3>",
    "attribute": '" onmouseover="window.hacked=4" x=\'',
    "closing": "</td></tr></table></div></article></main></body></html>",
    "raw text": "</style></title></textarea><!-- <![CDATA[",
    "template": "{{ 7 * 7 }}{% raw %}{# #}",
    "control": "a\x00b\x07c\x1b[31md\x7fe\x85f\rg",
    "override": "safe \u202eexe.gpj\u202c \u2066x \u200f y",
    "invisible": "a\u200bb\u00adc\ufeffd\u2028e\U000e0041f",
    "surrogate": "half \ud83d of a pair \uffff",
    "right to left": "שלום עולם and مرحبا",
    "long word": "W" * 5000,
    "empty": "",
    "huge": "The same words. " * 6400,
    "marks": "e" + "\u0301" * 200,
    "markdown": "``` ```` [x](javascript:alert(1)) | a | **b** <b>c</b> https://example.org www.example.org",
}
"""Texts that models have written or could write."""


def poison(folder: Path) -> Path:
    """Put every nasty text wherever a run folder holds foreign text."""
    roles = ("teacher", "before", "student", "control")
    samples = [{"prompt": text, "texts": dict.fromkeys(roles, text), "stop": {}} for text in NASTY.values()]
    put_json(folder / "samples.json", samples)
    told = evaluation()
    short = [text[:300] for text in NASTY.values()]
    told["run"] = told["sentence"] = told["recipe_fingerprint"] = NASTY["script"] + NASTY["override"]
    for i, found in enumerate(told["findings"]):
        for j, key in enumerate(("name", "question", "sentence", "reason")):
            if key != "name" or i > 1:
                found[key] = short[(i * 4 + j) % len(short)]
        found["limits"] = short
        for chart in found["charts"]:
            chart["title"] = chart["x_label"] = chart["y_label"] = NASTY["closing"] + NASTY["override"]
            chart["marks"] = [{"value": 0.5, "label": text} for text in short]
            for series, text in zip(chart["series"], short, strict=False):
                series["name"] = text
                series["points"][0]["x"] = (
                    series["points"][0]["x"] if chart["kind"] in ("line", "reliability") else text
                )
        for one, text in zip(found["estimates"], short, strict=False):
            one["label"] = one["unit"] = text
    told["power"] = [power(text, text, 9, 1.0, 3, text) for text in short] + [
        {"gate": None, "seen": "x", "items": text} for text in short
    ]
    nasty = list(NASTY.values())
    put_json(
        folder / "evaluation" / "examples.json", [changed(*nasty), {"capability": 3, "shown": "x"}, {"shown": [1, {}]}]
    )
    told["models"]["student"]["name"] = NASTY["script"]
    told["models"]["teacher"]["license"] = "<script>"
    put_json(folder / "evaluation.json", told)
    put_json(folder / "environment.json", NASTY | dict.fromkeys(short, "a key"))
    filters = [
        {
            "name": text[:300],
            "options": {text[:300]: text},
            "seen": text,
            "measured": {text[:300]: text},
            "examples": [{"record": text, "why": text, "text": text}, text],
        }
        for text in NASTY.values()
    ]
    facts = {"deep": {"deeper": NASTY}, "filters": filters, "diversity": {"before": NASTY, "after": [1]}}
    put_json(folder / "data" / "manifest.json", {"facts": facts})
    recipe = RECIPE.replace("smol-24m", json.dumps(NASTY["script"] + NASTY["override"]))
    (folder / "recipe.yaml").write_text(recipe.replace("drop_layers", "'<b>x</b> | y'"), encoding="utf-8")
    (folder / "student" / "a <b> file & more\u202e.txt").write_text("x", encoding="utf-8")
    return folder


if __name__ == "__main__":
    from stillhouse.report import report

    print(report(build(Path(sys.argv[1]))))
