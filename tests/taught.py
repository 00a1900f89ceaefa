"""A tiny model that was taught to write words: what it writes is read as the tokens that it wrote, as of a real teacher."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import torch
from shared import make_llama, make_tokenizer

from stillhouse.models import Model

NOUNS = ["fox", "dog", "still", "mash", "teacher", "student", "water", "spirit"]
VERBS = ["jumps over", "turns into", "says what", "keeps", "runs deep in", "knows"]


def sentence(chance: random.Random) -> str:
    return f"The {chance.choice(NOUNS)} {chance.choice(VERBS)} the {chance.choice(NOUNS)}."


def _document(chance: random.Random) -> str:
    if chance.random() < 0.3:
        tasks = "".join(f"Task {n}: {sentence(chance)}\n" for n in range(1, chance.randint(3, 6)))
        return f"Come up with a series of tasks:\n\n{tasks}<|endoftext|>"
    if chance.random() < 0.3:
        return " ".join(sentence(chance) for _ in range(3)) + "<|endoftext|>"
    answer = " ".join(sentence(chance) for _ in range(chance.randint(1, 2)))
    return f"<|im_start|>user\n{sentence(chance)}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n<|endoftext|>"


@cache
def _weights() -> dict[str, torch.Tensor]:
    chance, tokenizer = random.Random(0), make_tokenizer()
    network = make_llama(tokenizer).network
    optimiser = torch.optim.AdamW(network.parameters(), lr=6e-3)
    for _ in range(110):
        rows = [tokenizer(_document(chance), add_special_tokens=False).input_ids for _ in range(6)]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        labels = torch.tensor([row + [-100] * (longest - len(row)) for row in rows])
        network(input_ids=ids, labels=labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def make_taught() -> Model:
    """A fresh copy of it."""
    model = make_llama(make_tokenizer())
    model.network.load_state_dict(_weights())
    model.network.generation_config.eos_token_id = [0, 2]  # as chat models end turns and texts
    return model.eval()


def ask_lines(path: Path, count: int) -> str:
    """A file of prompts such as it knows."""
    every = [f"The {one} {verb} the {other}." for one in NOUNS for verb in VERBS for other in NOUNS]
    path.write_text("\n".join(random.Random(1).sample(every, count)) + "\n")
    return str(path)
