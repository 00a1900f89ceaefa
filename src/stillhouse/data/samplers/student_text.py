"""Text that the student writes while it learns, so that it is taught where it will stand: on-policy distillation."""

from __future__ import annotations

import hashlib
import itertools
import json
import struct
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from transformers import GenerationConfig

from stillhouse.errors import Problem, RecipeError, RunError, fail
from stillhouse.files import write_bytes
from stillhouse.models import Model, writing_by
from stillhouse.types import Batch

_FORMAT = 1
"""Version of the files."""
_WHERE = "data.sampler"
_NGRAM = 4


class _Pieces(Protocol):
    def step(
        self, step: int, *, tokens_per_step: int, micro_tokens: int, rank: int, world: int, seed: int
    ) -> list[Batch]: ...

    def all(self, micro_tokens: int, max_tokens: int | None = None) -> Iterator[Batch]: ...


def student_text(
    pieces: _Pieces,
    ends: Sequence[int] = (),
    *,
    share: float = 0.5,
    every: int = 8,
    prompt_tokens: int = 32,
    new_tokens: int = 64,
    temperature: float = 1.0,
    top_p: float = 1.0,
    together: int = 64,
) -> StudentText:
    """A share of the micro-batches as the student itself goes on from their beginnings (GKD, arXiv:2306.13649, Algorithm 1).

    Args:
        pieces: the training side of the corpus.
        ends: tokens that end a text; the student's own end tokens always do.
        share: of the micro-batches, λ in the paper: 0 for none, 1 for all.
        every: steps between two writings; each time the text of the steps to come is written with the weights of then.
        prompt_tokens: of a plain document, the beginning of each stretch that is given; of an example of prompt and
            answer, the whole prompt is.
        new_tokens: that the student writes after each beginning, at most.
        temperature: of the sampling; 0 takes the likeliest token each time.
        top_p: only the likeliest tokens that together have this probability.
        together: texts written at the same time; more is faster and takes more memory.

    Raises:
        RecipeError: an option is outside its range.

    """
    problems = [
        Problem(f"{_WHERE}.{name}", f"is {value}, which is not {range_}")
        for name, value, range_, right in (
            ("share", share, "a share from 0 to 1", 0.0 <= share <= 1.0),
            ("every", every, "a number of steps above 0", every >= 1),
            ("prompt_tokens", prompt_tokens, "a number of tokens above 0", prompt_tokens >= 1),
            ("new_tokens", new_tokens, "a number of tokens above 0", new_tokens >= 1),
            ("temperature", temperature, "a number from 0 up", temperature >= 0.0),
            ("top_p", top_p, "a share above 0, up to 1", 0.0 < top_p <= 1.0),
            ("together", together, "a number of texts above 0", together >= 1),
        )
        if not right
    ]
    if problems:
        raise RecipeError(*problems)
    settings = Settings(share, every, prompt_tokens, new_tokens, temperature, top_p, together)
    return StudentText(pieces, tuple(ends), settings)


@dataclass(frozen=True)
class Settings:
    """The options of ``student_text``, as there."""

    share: float
    every: int
    prompt_tokens: int
    new_tokens: int
    temperature: float
    top_p: float
    together: int


@dataclass(frozen=True)
class Prompt:
    """What the student is given to go on from.

    Args:
        step: whose text it will be.
        index: which micro-batch of the step.
        document: which document of that micro-batch it is the beginning of, or of a stretch of.
        ids: its tokens.
        most: tokens that may be added.
    """

    step: int
    index: int
    document: int
    ids: tuple[int, ...]
    most: int


@dataclass(frozen=True)
class Written:
    """What the student added to a prompt.

    Args:
        prompt: what it was given.
        ids: the tokens added, at least one; the last one ends the text if ``ended``.
        ended: whether the student ended it; else the length did.
    """

    prompt: Prompt
    ids: tuple[int, ...]
    ended: bool


class StudentText:
    """Pieces of which a share is the student's own text. The trainer binds it to the student and asks it as it asks pieces.

    What a step holds is a function of its arguments and of the weights at the last refresh, a step whose number is a
    multiple of ``every``. What was written then is on disk before the step is taken, so a run that is killed and started
    again sees the same text: read from there if its checkpoint is of a later step, else written anew, to the same tokens.

    Args:
        pieces: what the rest of the micro-batches are, and the prompts are from.
        ends: tokens that end a text.
        settings: the options.
    """

    def __init__(self, pieces: _Pieces, ends: tuple[int, ...], settings: Settings) -> None:
        self.pieces = pieces
        self.ends = ends
        self.settings = settings
        self._student: Model | None = None
        self._folder = Path()
        self._steps = 0
        self._made: tuple[dict[str, Any], list[Written]] | None = None
        self._facts: dict[str, float] = {}

    def bind(self, student: Model, folder: Path, *, steps: int, world: int) -> None:
        """Say who writes, before the first step of a sitting.

        Args:
            student: its weights are read at each refresh; nothing of it is changed.
            folder: of the run.
            steps: of the whole run: nothing is written for later ones.
            world: processes that train.

        Raises:
            RunError: there are several processes.
        """
        if world > 1:
            raise fail(
                RunError,
                _WHERE,
                f"the student cannot write while its weights are split over {world} processes",
                "Train with one process, or take data.sampler out of the recipe.",
            )
        inner = getattr(self.pieces, "bind", None)  # pieces that a mixture or another sampler makes an order of
        if inner is not None:
            inner(student, folder, steps=steps, world=world)
        self._student, self._folder, self._steps = student, folder / "on_policy", steps
        self._made = None
        for leftover in self._folder.glob(".*.tmp"):  # of a process that was killed
            leftover.unlink(missing_ok=True)

    def all(self, micro_tokens: int, max_tokens: int | None = None) -> Iterator[Batch]:
        """Each document of the pieces once; nothing of the student's."""
        return self.pieces.all(micro_tokens, max_tokens)

    def own(self, step: int, index: int, seed: int) -> bool:
        """Whether the micro-batch of this number in a step is the student's: a coin that falls the same way each time."""
        digest = hashlib.blake2b(struct.pack("<qqq", seed, step, index), digest_size=8, person=b"own text").digest()
        return int.from_bytes(digest, "little") < self.settings.share * 2.0**64

    def step(
        self, step: int, *, tokens_per_step: int, micro_tokens: int, rank: int = 0, world: int = 1, seed: int
    ) -> list[Batch]:
        """The micro-batches of a step; arguments as those of ``Pieces.step``.

        The student's have ``truth_N`` zero, loss on what it wrote only, and as many documents as fit in ``micro_tokens``
        if each were as long as it may be. Most are shorter: how many positions count is known only now.

        Raises:
            RunError: what the pieces raise; or the text of the last refresh is gone or damaged and the weights have
                moved on since; or it cannot be written to disk.
        """
        assert world == 1 and rank == 0, "several processes are refused when the student is bound"
        arguments = {"tokens_per_step": tokens_per_step, "micro_tokens": micro_tokens, "seed": seed}
        batches = self.pieces.step(step, **arguments, rank=0, world=1)
        theirs: dict[str, float] = getattr(self.pieces, "facts", dict)()  # before later steps are asked for
        mine = [index for index in range(len(batches)) if self.own(step, index, seed)]
        texts: list[Written] = []
        if mine or (step % self.settings.every == 0 and self.settings.share > 0.0):  # written now, for later steps too
            texts = [w for w in self._texts(step, arguments) if w.prompt.step == step]
        for index in mine:
            rows = [w for w in texts if w.prompt.index == index]
            if rows:  # none where no document of the micro-batch has a position that counts
                batches[index] = _batch(rows, batches[index])
        self._facts = theirs | _facts(texts, batches)
        return batches

    def facts(self) -> dict[str, float]:
        """Of the last step: share of its positions that are the student's; its texts' mean length, ended and repeated share."""
        return dict(self._facts)

    def forget(self, oldest: int) -> None:
        """Remove the texts that no run can ask for again that goes on from this step or a later one."""
        for path in self._folder.glob("step-*.safetensors"):
            if int(path.stem.removeprefix("step-")) + self.settings.every <= oldest:
                path.unlink(missing_ok=True)

    def _texts(self, step: int, arguments: dict[str, int]) -> list[Written]:
        """All that the student wrote at the last refresh, which is this step or one before."""
        assert self._student is not None, "bind comes first"
        refresh = step - step % self.settings.every
        wanted = {
            "format": _FORMAT,
            "step": refresh,
            "until": min(refresh + self.settings.every, self._steps),
            "ends": self._ends(),
            **arguments,
            **vars(self.settings),
        }
        if step != refresh and self._made is not None and self._made[0] == wanted:
            return self._made[1]
        path = self._folder / f"step-{refresh:08d}.safetensors"
        if step == refresh:
            weights = fingerprint(self._student)
            texts = read(path, {**wanted, "weights": weights})
            if texts is None:
                texts = self._write(refresh, wanted["until"], arguments)
                self._keep(path, texts, {**wanted, "weights": weights})
        else:
            texts = read(path, wanted)
            if texts is None:
                raise fail(
                    RunError,
                    str(path),
                    f"is missing or damaged: it held what the student wrote at step {refresh} for the steps up to "
                    f"{wanted['until']}, and its weights are those of step {step} now",
                    f"Delete the folders in {self._folder.parent / 'checkpoints'} of steps after {refresh}: the run then "
                    "goes on from the one before, or starts anew if there is none.",
                )
        self._made = (wanted, texts)
        return texts

    def _ends(self) -> list[int]:
        """All tokens that end a text: the corpus's, the tokenizer's, and those the model itself names."""
        assert self._student is not None
        theirs = getattr(self._student.network.generation_config, "eos_token_id", None)
        named = theirs if isinstance(theirs, list) else [theirs]
        found = {*self.ends, *named, self._student.tokenizer.eos_token_id} - {None}
        return sorted(int(end) for end in found)

    def _write(self, refresh: int, until: int, arguments: dict[str, int]) -> list[Written]:
        """Let the student go on from all beginnings of the steps from one refresh up to the next."""
        assert self._student is not None
        context = int(getattr(self._student.config, "max_position_embeddings", None) or 1 << 30)
        asked: list[Prompt] = []
        for step in range(refresh, until):
            for index, batch in enumerate(self.pieces.step(step, **arguments, rank=0, world=1)):
                if self.own(step, index, arguments["seed"]):
                    asked += prompts(batch, step, index, self.settings, arguments["micro_tokens"], context)
        # Texts of about equal length together: little is padded.
        asked.sort(key=lambda p: (p.most, len(p.ids), p.step, p.index, p.document, p.ids))
        calls: list[list[Prompt]] = []
        for _most, group in itertools.groupby(asked, key=lambda p: p.most):
            rows = list(group)
            calls += [rows[i : i + self.settings.together] for i in range(0, len(rows), self.settings.together)]
        texts: list[Written] = []
        for number, rows in enumerate(calls):
            seed = _seed(arguments["seed"], refresh, number)
            texts += write(self._student, rows, self._ends(), self.settings, seed)
        return texts

    def _keep(self, path: Path, texts: list[Written], made_of: dict[str, Any]) -> None:
        rows, tokens = [], []
        for w in texts:
            p = w.prompt
            rows.append((p.step, p.index, p.document, p.most, len(p.ids), len(w.ids), int(w.ended)))
            tokens += [*p.ids, *w.ids]
        tensors = {
            "rows": torch.tensor(rows, dtype=torch.int64).reshape(-1, 7),
            "tokens": torch.tensor(tokens, dtype=torch.int64),
        }
        # One entry: the order of several differs from process to process.
        about = json.dumps({"made_of": made_of, "sha256": _digest(tensors.values())}, sort_keys=True)
        try:
            write_bytes(path, safetensors.torch.save(tensors, {"about": about}))
        except OSError as error:
            raise fail(
                RunError,
                str(path),
                f"what the student wrote could not be saved: {error.strerror or error}. The last checkpoint stands.",
                "Make room or give write access, then run the same command again: it continues from there.",
            ) from error


def read(path: Path, made_of: dict[str, Any]) -> list[Written] | None:
    """What the student wrote, from a file; None if there is none, it is damaged, or it was made of other things.

    Args:
        path: the file.
        made_of: what it must have been made of; of what is not named here, anything.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            rows, tokens = file.get_tensor("rows"), file.get_tensor("tokens")
        about = json.loads(metadata["about"])
        theirs, whole = about["made_of"], about["sha256"] == _digest([rows, tokens])
    except (OSError, ValueError, KeyError, safetensors.SafetensorError):
        return None
    if not whole or any(theirs.get(name) != value for name, value in made_of.items()):
        return None
    texts, at, ids = [], 0, tokens.tolist()
    for step, index, document, most, given, added, ended in rows.tolist():
        prompt = Prompt(step, index, document, tuple(ids[at : at + given]), most)
        texts.append(Written(prompt, tuple(ids[at + given : at + given + added]), bool(ended)))
        at += given + added
    return texts


def prompts(batch: Batch, step: int, index: int, settings: Settings, micro_tokens: int, context: int) -> list[Prompt]:
    """Beginnings of the documents of a micro-batch, as many as fit in one again when the student has gone on from them.

    A document whose first positions carry no loss is an example: its prompt is what comes before the first label that
    counts. Any other is plain: each stretch of it as long as a beginning with its continuation gives its first tokens; a
    rest shorter than a beginning gives none, unless it is all there is, and then its first half.

    Args:
        batch: the micro-batch.
        step: its step.
        index: its number in the step.
        settings: the options.
        micro_tokens: positions that the student's micro-batch may have.
        context: tokens that the student can see at most.
    """
    select, ids = batch.select_N.tolist(), batch.input_ids_P.tolist()
    owner = batch.document_N.tolist()
    first = dict(zip(reversed(owner), reversed(select), strict=True))
    beginnings: list[tuple[int, tuple[int, ...]]] = []
    stretch = settings.prompt_tokens + settings.new_tokens - 1
    for document, (start, stop) in enumerate(itertools.pairwise(batch.borders_D1)):
        if document not in first:
            continue
        if first[document] > start:
            beginnings.append((document, tuple(ids[start : first[document] + 1])))
            continue
        for a in range(start, stop, stretch):
            length = min(stretch, stop - a)
            if a > start and length < settings.prompt_tokens:
                continue
            given = min(settings.prompt_tokens, max(1, length // 2))
            beginnings.append((document, tuple(ids[a : a + given])))
    found, filled = [], 0
    for document, given_ids in beginnings:
        # The last token written is nobody's input: it takes no position.
        most = min(settings.new_tokens, min(micro_tokens, context) - len(given_ids) + 1)
        if most < 1:
            continue
        size = len(given_ids) + most - 1
        if filled + size <= micro_tokens:
            found.append(Prompt(step, index, document, given_ids, most))
            filled += size
    return found


@torch.no_grad()
def write(student: Model, rows: Sequence[Prompt], ends: Sequence[int], settings: Settings, seed: int) -> list[Written]:
    """Let the student go on from prompts that may all grow by the same number of tokens.

    Args:
        student: who writes.
        rows: the prompts.
        ends: tokens that end a text.
        settings: temperature and top_p.
        seed: of the sampling; the random generators are afterwards as they were.
    """
    (most,) = {row.most for row in rows}
    longest = max(len(row.ids) for row in rows)
    pad = ends[0] if ends else 0
    ids_BL = torch.tensor([[pad] * (longest - len(row.ids)) + list(row.ids) for row in rows])
    mask_BL = torch.tensor([[0] * (longest - len(row.ids)) + [1] * len(row.ids) for row in rows])
    sampling = {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0}
    config = GenerationConfig(
        max_new_tokens=most,
        do_sample=settings.temperature > 0.0,
        eos_token_id=list(ends) or None,
        pad_token_id=pad,
        **(sampling if settings.temperature > 0.0 else {}),
    )
    low = student.compute_dtype != torch.float32
    with student.generating() as network, writing_by(network, config):
        device = network.device
        with (
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            torch.autocast(device.type, student.compute_dtype) if low else nullcontext(),
        ):
            torch.manual_seed(seed)
            out_BL = network.generate(ids_BL.to(device), attention_mask=mask_BL.to(device))
    texts = []
    for row, added in zip(rows, out_BL[:, longest:].tolist(), strict=True):
        stop = next((i + 1 for i, token in enumerate(added) if token in ends), 0)
        texts.append(Written(row, tuple(added[: stop or len(added)]), stop > 0))
    return texts


def _batch(rows: Sequence[Written], source: Batch) -> Batch:
    """What the student wrote as a micro-batch: the loss is on what it wrote, and nothing of it is a truth."""
    borders = [0]
    ids: list[int] = []
    positions: list[int] = []
    select: list[int] = []
    labels: list[int] = []
    owner: list[int] = []
    keys: list[str] = []
    tasks: list[str] = []
    if source.tasks:  # those of a task lie together
        rows = sorted(rows, key=lambda row: source.tasks.index(source.tasks[row.prompt.document]))
    weight_D = torch.ones(len(source.keys))
    weight_D[source.document_N] = source.weight_N
    for d, row in enumerate(rows):
        text = (*row.prompt.ids, *row.ids)
        select += range(len(ids) + len(row.prompt.ids) - 1, len(ids) + len(text) - 1)
        labels += row.ids
        owner += [d] * len(row.ids)
        ids += text[:-1]
        positions += range(len(text) - 1)
        borders.append(len(ids))
        # A key of its own: nothing that was stored of the document holds for what the student made of it.
        keys.append(
            hashlib.blake2b(struct.pack(f"<{len(text)}q", *text), digest_size=16, person=b"own text").hexdigest()
        )
        tasks += [source.tasks[row.prompt.document]] if source.tasks else []
    count = len(labels)
    return replace(
        source,
        input_ids_P=torch.tensor(ids),
        position_ids_P=torch.tensor(positions),
        borders_D1=tuple(borders),
        select_N=torch.tensor(select),
        labels_N=torch.tensor(labels),
        weight_N=weight_D[torch.tensor([row.prompt.document for row in rows])][torch.tensor(owner)],
        document_N=torch.tensor(owner),
        keys=tuple(keys),
        offsets_D=(0,) * len(rows),
        tasks=tuple(tasks),
        truth_N=torch.zeros(count),
    )


def _facts(texts: Sequence[Written], batches: Sequence[Batch]) -> dict[str, float]:
    """Numbers of a step for its line in the metrics; see ``StudentText.facts``."""
    positions = sum(len(batch.labels_N) for batch in batches)
    written = sum(len(text.ids) for text in texts)
    found = {"own_share": written / positions if positions else 0.0}
    if texts:
        found["own_length"] = written / len(texts)
        found["own_ended"] = sum(text.ended for text in texts) / len(texts)
        grams = [list(zip(*(text.ids[i:] for i in range(_NGRAM)), strict=False)) for text in texts]
        total = sum(map(len, grams))
        found["own_repeated"] = 1.0 - sum(len(set(g)) for g in grams) / total if total else 0.0
    return found


def fingerprint(student: Model) -> str:
    """SHA-256 of all weights, by name."""
    digest = hashlib.sha256()
    for name, parameter in student.network.named_parameters():
        digest.update(name.encode() + b"\0")
        digest.update(_bytes(parameter.detach()))
    return digest.hexdigest()


def _digest(tensors: Any) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> Any:
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _seed(*numbers: int) -> int:
    digest = hashlib.blake2b(struct.pack(f"<{len(numbers)}q", *numbers), digest_size=8, person=b"own seed").digest()
    return int.from_bytes(digest, "little") >> 1
