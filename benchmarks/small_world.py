"""A language so small that a model of half a million parameters learns it in minutes, with skills that questions can ask for.

Kinds of text: capitals (knowledge), agreement across a phrase in between (grammar), sums of one to four steps (reasoning), a pronoun behind an
occupation, which leans as the texts do (no skill), and values by keys (recall), which takes longer to learn and is not asked. A model that was taught them is a
teacher that stands far above every floor, so that a few hundred questions decide; on its answers the evaluation itself is tried
(``defects.py``).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from stillhouse.evaluate.questions import Task, choice
from stillhouse.evaluate.sums import chain
from stillhouse.evaluate.tasks.chains import chains
from stillhouse.evaluate.tasks.recall import _KEYS, _VALUES
from stillhouse.models import Model, load
from stillhouse.types import Batch

END = "<|end|>"
REGIONS = ("north", "south", "east", "west", "coast", "isles")
COUNTRIES = 16
"""In each region."""

_SYLLABLES = "ba be bo da de do ka ke ko la le lo ma me mo na ne no ra re ro sa se so ta te to va ve vo".split()  # noqa: SIM905
_NOUNS = "key book lamp boat child dog farmer house letter road song stone teacher tree wall window".split()  # noqa: SIM905
_BEHIND = ("near", "behind", "above", "beside")
_VERBS = (("is", "are"), ("was", "were"), ("has been", "have been"), ("seems", "seem"))
_HOW = ("old", "green", "small", "lost", "warm", "new")
_JOBS = (  # noqa: SIM905 – easier to read
    "baker banker barber builder butcher carer clerk cook dancer doctor driver farmer guard hunter janitor judge lawyer librarian "
    "mechanic miner nurse officer painter pilot plumber poet porter sailor singer smith soldier tailor teacher thief trader tutor "
    "usher waiter weaver writer"
).split()
_DID = ("was late", "came home", "had a plan", "saw the boat", "would wait", "felt well")


def _names(rng: random.Random, count: int, syllables: int, ending: str) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(rng.choice(_SYLLABLES) for _ in range(syllables)).capitalize() + ending] = None
    return list(found)


_RNG = random.Random(7)
CAPITALS = dict(
    zip(_names(_RNG, COUNTRIES * len(REGIONS), 3, "r"), _names(_RNG, COUNTRIES * len(REGIONS), 3, "n"), strict=True)
)
REGION = {country: REGIONS[i // COUNTRIES] for i, country in enumerate(CAPITALS)}
LEANS = {job: round(_RNG.uniform(0.3, 0.9), 2) for job in _JOBS}
"""How often a text has the stereotyped pronoun behind an occupation; which of the two that is alternates."""


def _stereotype(job: str) -> str:
    return ("he", "she")[_JOBS.index(job) % 2]


def _other(pronoun: str) -> str:
    return "she" if pronoun == "he" else "he"


def _capital(rng: random.Random) -> str:
    return "".join(f"The capital of {c} is {CAPITALS[c]}.\n" for c in rng.sample(list(CAPITALS), 6))


def _subject(rng: random.Random) -> tuple[str, int]:
    """A subject with another noun behind it that may have the other number, and which form of the verb it takes; the second word is what
    it is of.
    """
    one, two = rng.sample(_NOUNS, 2)
    many, other = rng.randrange(2), rng.randrange(2)
    return f"The {one}{'s' * many} {rng.choice(_BEHIND)} the {two}{'s' * other}", many


def _agreement(rng: random.Random) -> str:
    lines = []
    for _ in range(6):
        subject, many = _subject(rng)
        lines.append(f"{subject} {rng.choice(_VERBS)[many]} {rng.choice(_HOW)}.\n")
    return "".join(lines)


def _recall(rng: random.Random) -> str:
    count = rng.choice((4, 8))
    pairs = list(zip(rng.sample(_KEYS, count), rng.sample(_VALUES, count), strict=True))
    return "".join(f"{k}: {v}\n" for k, v in [*pairs, *rng.sample(pairs, 4)])


def _sums(rng: random.Random) -> str:
    level = rng.choice((1, 2, 3, 4))
    return "".join(f"{text} = {value}\n" for text, value in (chain(rng, level) for _ in range(5)))


def _pronouns(rng: random.Random) -> str:
    lines = []
    for job in rng.sample(_JOBS, 5):
        own = _stereotype(job)
        pronoun = own if rng.random() < LEANS[job] else _other(own)
        lines.append(f"The {job} said that {pronoun} {rng.choice(_DID)}.\n")
    return "".join(lines)


KINDS: dict[str, Callable[[random.Random], str]] = {
    "knowledge": _capital, "grammar": _agreement, "recall": _recall, "reasoning": _sums, "probe": _pronouns,
}  # fmt: skip
_SHARES = (3, 1, 4, 4, 1)


def document(rng: random.Random) -> str:
    """A text of one kind."""
    return KINDS[kind(rng)](rng)


def kind(rng: random.Random) -> str:
    """Which kind the next text is of."""
    return rng.choices(list(KINDS), _SHARES)[0]


def tasks(questions: int = 960) -> dict[str, Task]:
    """What is asked: a task a skill, and the probe."""
    return {
        "capitals": capitals(questions=questions),
        "agreement": agreement(questions=questions * 5 // 3),
        "chains": chains(questions=questions // 4, shots=2),
        "pronouns": pronouns(),
    }


def capitals(*, questions: int = 960) -> Task:
    """Does it know the capitals?

    Args:
        questions: how many; a country is a cluster.
    """
    rng = random.Random(11)
    rounds = -(-questions // len(CAPITALS))
    order = [c for _ in range(rounds) for c in rng.sample(list(CAPITALS), len(CAPITALS))]
    found = []
    for number, country in enumerate(order[:questions]):
        wrong = rng.sample([city for c, city in CAPITALS.items() if c != country], 3)
        options = rng.sample([CAPITALS[country], *wrong], 4)
        found.append(
            choice(
                str(number), f"The capital of {country} is", [f" {o}" for o in options], options.index(CAPITALS[country]),
                cluster=country, tags={"region": REGION[country]},
            )
        )  # fmt: skip
    return Task(tuple(found), "knowledge", normalisation="raw")


def agreement(*, questions: int = 960) -> Task:
    """Does its verb have the number of its subject?

    Args:
        questions: how many.
    """
    rng = random.Random(12)
    found = []
    for number in range(questions):
        subject, many = _subject(rng)
        pair = rng.choice(_VERBS)
        turned = rng.randrange(2)
        options = [f" {pair[turned]} {rng.choice(_HOW)}.", f" {pair[1 - turned]} {rng.choice(_HOW)}."]
        options = [options[0], options[0].replace(pair[turned], pair[1 - turned])]
        found.append(
            choice(
                str(number), subject, options, 0 if turned == many else 1,
                tags={"number": "plural" if many else "singular", "noun": subject.split()[1].removesuffix("s")},
            )
        )  # fmt: skip
    return Task(tuple(found), "grammar", normalisation="raw")


def pronouns() -> Task:
    """Does it expect "he" behind an occupation?"""
    rng = random.Random(13)
    found = []
    for job in _JOBS:
        for number in range(10):
            did, he = rng.choice(_DID), rng.randrange(2)
            options = [f" {p} {did}." for p in (("he", "she") if he == 0 else ("she", "he"))]
            found.append(choice(f"{job}.{number}", f"The {job} said that", options, he, cluster=job))
    return Task(tuple(found), "bias", normalisation="raw", skill=False)


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, with a token for nearly every word there is."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    rng = random.Random(3)
    inner.train_from_iterator((document(rng) for _ in range(6000)), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=END, pad_token=END)


def teacher(folder: Path, *, steps: int, rows: int, seed: int, tell: Callable[[str], None]) -> Model:
    """A Llama of half a million parameters that was taught all of it; read from its folder if it is there, and goes on where it was killed."""
    if (folder / "config.json").is_file():
        return load(str(folder))
    words = tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=96, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4,
        max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=None, eos_token_id=words.eos_token_id,
    )  # fmt: skip
    network = LlamaForCausalLM(config)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    warm, decay = max(1, steps // 20), max(1, steps // 5)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / warm, 1.0, max(0.02, (steps - step) / decay))
    )
    rng, waiting, length, kept = random.Random(seed), [], 96, folder.with_suffix(".pt")
    begin = 0
    if kept.is_file():
        state = torch.load(kept, weights_only=False)
        for part, values in zip((network, optimiser, schedule), state["parts"], strict=True):
            part.load_state_dict(values)
        rng.setstate(state["rng"])
        begin, waiting = state["step"], state["waiting"]
    for step in range(begin, steps):
        while len(waiting) < rows * length + 1:
            waiting += [*words(document(rng)).input_ids, words.eos_token_id]
        ids = torch.tensor(waiting[: rows * length]).view(rows, length)
        waiting = waiting[rows * length :]
        loss = network(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        if step % 50 == 49:
            parts = [part.state_dict() for part in (network, optimiser, schedule)]
            kept.parent.mkdir(parents=True, exist_ok=True)
            torch.save({"parts": parts, "rng": rng.getstate(), "step": step + 1, "waiting": waiting}, kept)
            tell(f"teacher, step {step + 1} of {steps}: {float(loss.detach()):.3f} nats")
    taught = Model(network.eval(), words, "small world")
    taught.save(folder)
    kept.unlink(missing_ok=True)
    return taught


def held_out(words: PreTrainedTokenizerFast, documents: int) -> tuple[list[tuple[Batch, np.ndarray]], np.ndarray]:
    """Batches of texts that no training drew, with the bytes of their labels; and how often each token comes in other ones."""
    rng = random.Random("held out")
    texts = [words(document(rng)).input_ids for _ in range(documents)]
    end = words.eos_token_id
    size = np.array([len(words.decode([i]).encode()) for i in range(len(words))])
    size[end] = 0
    batches = []
    for first in range(0, documents, 64):
        part = [[end, *ids, end] for ids in texts[first : first + 64]]
        lengths = [len(ids) - 1 for ids in part]
        labels = torch.tensor([i for ids in part for i in ids[1:]])
        borders = tuple(torch.tensor([0, *lengths]).cumsum(0).tolist())
        batch = Batch(
            torch.tensor([i for ids in part for i in ids[:-1]]),
            torch.cat([torch.arange(n) for n in lengths]),
            borders,
            torch.arange(borders[-1]),
            labels,
            torch.ones(borders[-1]),
            torch.cat([torch.full((n,), d) for d, n in enumerate(lengths)]),
            tuple(f"{first + d}" for d in range(len(part))),
        )
        batches.append((batch, size[labels.numpy()]))
    rng = random.Random("counted")
    counted = [i for _ in range(2000) for i in [*words(document(rng)).input_ids, end]]
    return batches, np.bincount(counted, minlength=len(words))
