"""What lm-evaluation-harness says of 200 questions, frozen: ``python tests/evaluate/lm_eval/make.py [--model FOLDER]``.

Runs where lm-eval is installed (``pip install 'stillhouse[lm-eval]'``), offline. The questions are made up here (``facts``, ``recall``, ``chains``),
so nothing of anybody's data is in the fixture; the model is a small one that is trained here on such lines and lies beside it.
With --model the same questions are asked of another model by both, and the largest difference is printed; nothing is written.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))  # where the tests' helpers lie

# ruff: noqa: E402
import torch
from shared import make_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from stillhouse.evaluate.asking import ask
from stillhouse.evaluate.questions import Question
from stillhouse.evaluate.tasks.chains import chains
from stillhouse.evaluate.tasks.facts import facts
from stillhouse.evaluate.tasks.recall import recall
from stillhouse.models import Model, load


def questions() -> dict[str, list[Question]]:
    """Two hundred: some with options, some with a word."""
    return {
        "facts": list(facts(questions=27, people=5).questions)[:80],
        "recall": list(recall(pairs=(4, 8), questions=30).questions),
        "chains": list(chains(steps=(1, 2, 3), questions=20).questions),
    }


def train(folder: Path) -> None:
    """A model of 40,000 parameters that has seen such lines: neither always right nor always wrong."""
    tokenizer = make_tokenizer(400)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = Model(LlamaForCausalLM(config), tokenizer, "small")
    seen = [*facts(questions=300, people=5, seed=1).questions, *recall(pairs=(4, 8), questions=300, seed=1).questions,
            *chains(questions=300, seed=1).questions]  # fmt: skip
    texts = [q.context(q.gold) + q.options[q.gold] + (q.end or ".\n") for q in seen]
    order = torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    with model.generating() as network:
        for _ in range(400):
            chosen = [texts[i] for i in torch.randint(0, len(texts), (16,), generator=order).tolist()]
            batch = tokenizer(chosen, return_tensors="pt", padding=True)
            labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
            loss = network(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=labels).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    model.network.half()  # half the size; read as float32 by both
    model.save(folder)


def harness(model: str, asked: dict[str, list[Question]]) -> dict[str, list[dict[str, Any]]]:
    """lm-eval's log-likelihoods and choices, question by question."""
    from lm_eval import simple_evaluate

    configs = []
    with tempfile.TemporaryDirectory() as folder:
        for name, listed in asked.items():
            path = Path(folder) / f"{name}.jsonl"
            rows = [{"context": q.context(0), "choices": [o.strip(" ") for o in q.options], "gold": q.gold, "target": q.options[0] + q.end}
                    for q in listed]  # fmt: skip
            path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
            common = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(path)}},
                      "test_split": "test", "doc_to_text": "{{context}}", "metadata": {"version": 1}}  # fmt: skip
            if len(listed[0].options) > 1:
                configs.append(common | {
                    "output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": "gold",
                    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
                })  # fmt: skip
            else:
                configs.append(common | {
                    "output_type": "loglikelihood", "doc_to_target": "{{target}}", "target_delimiter": "",
                    "metric_list": [{"metric": "acc"}],
                })  # fmt: skip
        found = simple_evaluate(
            model="hf", model_args={"pretrained": model, "dtype": "float32", "device": "cpu"}, tasks=configs, batch_size=8,
            log_samples=True, bootstrap_iters=0,
        )  # fmt: skip
    samples: dict[str, list[dict[str, Any]]] = {}
    for name, listed in found["samples"].items():
        samples[name] = [
            {
                "ll": [round(float(each[0][0]), 4) for each in sample["resps"]],
                "greedy": [str(each[0][1]) == "True" for each in sample["resps"]],
                "acc": float(sample["acc"]),
                "acc_norm": float(sample.get("acc_norm", sample["acc"])),
            }
            for sample in sorted(listed, key=lambda s: s["doc_id"])
        ]
    return samples


def largest_difference(
    model: Model, asked: dict[str, list[Question]], theirs: dict[str, list[dict[str, Any]]]
) -> float:
    """Over all options, nats."""
    worst = 0.0
    for name, listed in asked.items():
        end = model.tokenizer.bos_token_id or model.tokenizer.eos_token_id
        for reply, sample in zip(ask(model, listed, end, [end]), theirs[name], strict=True):
            worst = max(worst, *(abs(a - b) for a, b in zip(reply.ll, sample["ll"], strict=True)))
            assert list(reply.greedy) == sample["greedy"] or len(reply.greedy) > 1
    return worst


def main() -> None:
    """Make the fixture, or compare on another model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", help="a folder: compare on it and write nothing")
    given = parser.parse_args().model
    asked = questions()
    if given:
        theirs = harness(given, asked)
        print(
            f"largest difference: {largest_difference(load(given), asked, theirs):.5f} nats over {sum(map(len, asked.values()))} questions"
        )
        return
    train(HERE / "model")
    theirs = harness(str(HERE / "model"), asked)
    content = {"lm-eval": version("lm-eval"), "samples": theirs}
    (HERE / "samples.json").write_text(json.dumps(content) + "\n", encoding="utf-8")
    print(f"largest difference: {largest_difference(load(str(HERE / 'model')), asked, theirs):.5f} nats")


if __name__ == "__main__":
    main()
