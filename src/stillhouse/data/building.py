"""Documents → arrays on disk: tokenised a batch at a time, each kept once, on its side, and counted."""

from __future__ import annotations

import itertools
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stillhouse.data import pace, screening
from stillhouse.data.augment import augmented
from stillhouse.data.readers import Reader, is_held_out, key_of, rendered_in_turn, share_of, turn
from stillhouse.data.render import NO_LOSS, UNKNOWN, Example, Examples, Rendered, classified, tokenise
from stillhouse.data.store import (
    COLUMNS,
    DOCUMENT,
    TEST,
    TRAIN,
    VALIDATION,
    Column,
    Seen,
    below,
    column,
    partitions,
    sides,
)
from stillhouse.errors import DataError, Problem, fail
from stillhouse.recipe import Data

Report = Callable[[str, float | None, bool], None]
"""``progress(text, left, at_least)``: what is done; seconds left, None where that is not known; whether it may be more."""

_BATCH_DOCUMENTS = 256
_BATCH_CHARACTERS = 1 << 20
_ROWS_AT_ONCE = 1 << 18
_SECONDS_BETWEEN_REPORTS = 0.3


def build(
    section: Data,
    readers: list[Reader],
    tokenizer: Any,
    end: int | None,
    folder: Path,
    progress: Report,
    screen: Callable[..., screening.Screened],
) -> dict[str, Any]:
    """Read all sources and write the arrays.

    Args:
        section: the recipe's section.
        readers: its sources.
        tokenizer: the student's.
        end: the end token's id; None where texts have classes.
        folder: for the arrays.
        progress: called with what is done and the seconds left.
        screen: what filters do to the documents.

    Returns:
        what was read, kept and left out.

    Raises:
        DataError: a source cannot be read, a record not used, or there is too little to learn from.
    """
    began = reported = time.monotonic()
    with ExitStack() as stack:
        builder = Builder(section, tokenizer, end, folder, stack)
        paces = [reader.pace for reader in readers]

        read = 0

        def report() -> None:
            nonlocal reported
            now = time.monotonic()
            if now - reported >= _SECONDS_BETWEEN_REPORTS:
                reported = now
                documents = read or builder.documents + len(builder.waiting)
                left, at_least = pace.left(paces, documents, section.max_documents)
                progress(_counted(documents, left, now - began), left, at_least or bool(read))

        def told(documents: int) -> None:
            nonlocal read
            read = documents
            report()

        for each in paces:
            each.told = report  # a record may take a minute
        # Of equal texts the first is kept: held out before learned from, labelled before not.
        groups = itertools.groupby(sorted(readers, key=turn), turn)
        read_in_turn = (each for _, group in groups for each in rendered_in_turn(list(group), tokenizer))
        screened = None
        documents: Iterator[tuple[str, Rendered, int, bool]]
        if section.filters:
            screened = screen(read_in_turn, told=told)
            read, paces = 0, [pace.Pace()]
            documents = _kept(screened, paces[0])
        else:
            documents = ((*each, True) for each in read_in_turn)
        for where, rendered, side, twice in documents:
            builder.add(where, rendered, side, twice)
            if side == TRAIN and builder.learned + len(builder.waiting) >= (section.max_documents or sys.maxsize):
                builder.flush()  # some that wait may be dropped: count what is really there
                if builder.full:
                    break
            report()
        builder.flush()
        builder.augment(report)
    progress(_counted(builder.documents, 0.0, time.monotonic() - began), 0.0, False)
    facts: dict[str, Any] = {**builder.counts, **(screened.facts if screened else {})}
    numbers = {name: n for name, n in facts.items() if isinstance(n, int)}
    _refuse_too_little(builder.learned, numbers, held_out=bool(section.validation_sources))
    rows = column(folder, "documents", writable=True)
    if not section.validation_sources:
        _split(rows, section, None if screened is None else screened.moved)
    rows.flush()
    sums_ST = _sums(rows, max(len(section.task_names), 1))
    _refuse_empty_tasks(section.task_names, sums_ST[TRAIN], builder.records_of)
    facts |= {
        "documents": len(rows),
        "without_label": builder.without_label,
        **_facts_of_sides(sums_ST.sum(axis=1), section),
        **({"tasks": _task_facts(section.task_names, sums_ST)} if section.task_names else {}),
        "end_token": None if end is None else tokenizer.convert_ids_to_tokens(end),
        "seconds": round(time.monotonic() - began, 3),
        "lengths": {name: c.length for name, c in builder.columns.items()},
    }
    _refuse_short(facts, section.block)
    _put_in_order(folder)
    if screened is not None:
        screened.log_removed(folder / "removed.jsonl")
    return facts


class Waiting(NamedTuple):
    """A document that is kept if it can be."""

    where: str
    key: bytes
    rendered: Rendered
    side: int
    made: bool = False


class Builder:
    """Tokenises batches of documents and appends them to the arrays."""

    def __init__(self, section: Data, tokenizer: Any, end: int | None, folder: Path, stack: ExitStack) -> None:
        self.section, self.tokenizer, self.end = section, tokenizer, end
        self.columns = {n: stack.enter_context(Column(folder / f"{n}.npy", d)) for n, d in COLUMNS.items()}
        self.counts = dict.fromkeys(
            (
                "records",
                "empty",
                "duplicates_dropped",
                "augmented",
                "prompts_dropped",
                "without_loss_dropped",
                "responses_truncated",
                "texts_truncated",
            ),
            0,
        )
        self.records_of: Counter[int] = Counter()
        self.seen = Seen()
        self.waiting: list[Waiting] = []
        self.characters = 0
        self.learned = 0
        self.without_label = 0
        self.originals: list[tuple[str, bytes, Rendered]] = []

    @property
    def documents(self) -> int:
        """How many were kept so far."""
        return self.columns["documents"].length

    @property
    def full(self) -> bool:
        """Whether as many are kept of the sources to learn from as the recipe wants."""
        return self.section.max_documents is not None and self.learned >= self.section.max_documents

    def add(self, where: str, rendered: Rendered, side: int, twice: bool = True) -> None:
        """Take a document, if it is new: it need not be remembered if it is known that no other one has its text."""
        self.counts["records"] += 1
        self.records_of[rendered.task] += 1
        if not rendered.text:
            self.counts["empty"] += 1
            return
        key = key_of(where, rendered)
        if (twice or self.section.augment) and not self.seen.add(key):
            self.counts["duplicates_dropped"] += 1
            return
        self._take(Waiting(where, key, rendered, side))

    def augment(self, report: Callable[[], None]) -> None:
        """Make more of the documents to learn from; those that are new are kept."""
        for where, rendered in augmented(self.section.augment, self.originals, self.section.seed):
            key = key_of(where, rendered)
            if rendered.text and self.seen.add(key):
                self.counts["augmented"] += 1
                self._take(Waiting(where, key, rendered, TRAIN, made=True))
            report()
        self.flush()

    def _take(self, document: Waiting) -> None:
        """Keep a document."""
        rendered = document.rendered
        self.waiting.append(document)
        self.characters += len(rendered.content)
        if len(self.waiting) >= _BATCH_DOCUMENTS or self.characters >= _BATCH_CHARACTERS:
            self.flush()

    def flush(self) -> None:
        """Tokenise and write what waits."""
        block = self.section.block
        examples = self._tokenised([each.rendered for each in self.waiting])
        has_loss_P = examples.labels_P != NO_LOSS
        # of all positions before each: how many carry loss, and the bytes of those
        loss_P1 = np.concatenate([[0], np.cumsum(has_loss_P)])
        bytes_P1 = np.concatenate([[0], np.cumsum(np.where(has_loss_P, examples.bytes_P, 0), dtype=np.int64)])
        kept_P = np.ones(len(has_loss_P), dtype=bool)
        rows: list[tuple[Any, ...]] = []
        texts: list[bytes] = []
        place, text = self.columns["inputs"].length, self.columns["texts"].length
        borders, truncated = examples.borders_D1.tolist(), examples.truncated_D.tolist()
        for d, ((where, key, rendered, side, made), start, stop) in enumerate(
            zip(self.waiting, borders, borders[1:], strict=False)
        ):
            original = side == TRAIN and not made
            end = min(stop, start + block) if rendered.whole else stop
            loss = int(loss_P1[end] - loss_P1[start])
            if not self._taken(where, original, loss, examples[d] if end < stop or not loss else None):
                kept_P[start:stop] = False
                continue
            kept_P[end:stop] = False
            self.counts["responses_truncated"] += end < stop
            self.counts["texts_truncated"] += truncated[d]
            content = rendered.content.encode()
            share, truth = share_of(key, self.section.seed), rendered.label != UNKNOWN
            sums = (loss, int(bytes_P1[end] - bytes_P1[start]))
            of = rendered.task, rendered.weight, text, len(content)
            rows.append((key, share, place, end - start, *sums, rendered.whole, truth, side, *of))
            texts.append(content)
            place, text = place + end - start, text + len(content)
            self.learned += original
            self.without_label += not truth
            if original and self.section.augment and not (truth and is_held_out(self.section, key)):
                self.originals.append((where, key, rendered))
        if rows:
            for name, values in (
                ("inputs", examples.inputs_P),
                ("labels", examples.labels_P),
                ("bytes", examples.bytes_P),
            ):
                self.columns[name].append(values if kept_P.all() else values[kept_P])
            self.columns["documents"].append(np.array(rows, dtype=DOCUMENT))
            self.columns["texts"].append(np.frombuffer(b"".join(texts), dtype=np.uint8))
        self.waiting, self.characters = [], 0

    def _taken(self, where: str, original: bool, loss: int, example: Example | None) -> bool:
        """Whether a document is kept; if not, it is counted.

        Args:
            where: it came from.
            original: whether it is of the sources to learn from.
            loss: how many labels carry loss within a block, if it may not be cut; else in all.
            example: itself, if something is wrong with it.
        """
        if original and self.full:
            return False
        if loss:
            return True
        assert example is not None
        carrying = np.flatnonzero(example.labels != NO_LOSS)
        if not len(carrying):
            self.counts["without_loss_dropped"] += 1
        elif self.section.long_prompts == "error":
            block, prompt = self.section.block, int(carrying[0]) + 1
            what = f"the prompt has {prompt} tokens, which leaves no room for an answer in a block of {block}"
            raise fail(DataError, where, what, f"Set data.block above {prompt}, or data.long_prompts=drop.")
        else:
            self.counts["prompts_dropped"] += 1
        return False

    def _tokenised(self, batch: list[Rendered]) -> Examples:
        if self.end is None:
            return classified(batch, self.tokenizer, self.section.block)
        return tokenise(batch, self.tokenizer, self.end)


def _kept(screened: screening.Screened, own: pace.Pace) -> Iterator[tuple[str, Rendered, int, bool]]:
    """What the filters kept; the time left is that of a source of so many documents."""
    with own.turn():
        for number, document in enumerate(screened.documents()):
            if number % _BATCH_DOCUMENTS == 0:
                own.tell(number / len(screened))
            yield document
    own.finished = True


def _counted(documents: int, left: float | None, seconds: float) -> str:
    """How many documents; and at what rate, where that is all there is to judge the time left by."""
    rate = f", {documents / seconds:,.0f} a second" if left is None and documents >= seconds > 0.0 else ""
    return f"{documents:,} document{'' if documents == 1 else 's'}{rate}"


def _split(rows: Any, section: Data, moved: Any) -> None:
    """Hold out the documents whose number says so; of each task at least one, and never all.

    Args:
        rows: of all documents; those to learn from with known labels are split, in place.
        section: the recipe's.
        moved: numbers of the documents whose side the filters changed, for they have looked at what is held out; None without.

    Raises:
        DataError: a side is empty, or would be but for a document of which others were made.
    """
    mine = np.flatnonzero((rows["side"] == TRAIN) & rows["truth"])
    share = rows["share"][mine]
    if not len(mine):
        raise fail(DataError, "data.sources", "no text has a label, and some must be held out", "Add labelled texts.")
    asked = below(share, section.validation)
    if moved is not None:  # no document changes its side any more
        out = asked ^ np.isin(share, moved)
        if out.all() or not out.any():
            what = "of the documents that the filters kept, those of one side were all dropped for other reasons"
            raise fail(DataError, "data.validation", what, "Raise it, or see the counts of what was dropped.")
    else:
        out = sides(share, rows["task"][mine], section.validation)
    if section.augment and (out != asked).any():
        what = f"is {section.validation:g}, which puts all labelled texts, or all of a task, on one side"
        raise fail(DataError, "data.validation", what, "Change it, or give data.validation_sources.")
    rows["side"][mine[out]] = VALIDATION


def _put_in_order(folder: Path) -> None:
    """Write the documents' rows anew in the order in which they are read: side by side, each by its hash."""
    rows = column(folder, "documents")
    sides, shares = np.array(rows["side"]), np.array(rows["share"])
    with Column(folder / "documents.npy.tmp", DOCUMENT) as ordered:
        for side in (TRAIN, VALIDATION, TEST):
            for part in partitions(shares):
                mine = part[sides[part] == side]
                ordered.append(rows[mine[np.argsort(shares[mine], kind="stable")]])
    del rows
    (folder / "documents.npy.tmp").replace(folder / "documents.npy")


_SUMMED = ("length", "loss", "bytes")


def _sums(rows: Any, tasks: int) -> Any:
    """Of each side and task how many documents there are, their positions, those with loss, and the bytes of these; [3, T, 4]."""
    found = np.zeros((3 * tasks, 1 + len(_SUMMED)), dtype=np.int64)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = np.array(rows[start : start + _ROWS_AT_ONCE])
        cell = part["side"].astype(np.int64) * tasks + np.minimum(part["task"], tasks - 1)
        found[:, 0] += np.bincount(cell, minlength=3 * tasks)
        for i, name in enumerate(_SUMMED, 1):  # sums below 2⁵³ are exact
            found[:, i] += np.bincount(cell, part[name].astype(np.float64), 3 * tasks).astype(np.int64)
    return found.reshape(3, tasks, -1)


def _facts_of_sides(sums_S: Any, section: Data) -> dict[str, Any]:
    """What is on each side.

    Raises:
        DataError: nothing is.
    """
    found = {}
    for side, name in enumerate(("train", "validation", "test")):
        if side == TEST and not section.test_sources:
            continue
        if not sums_S[side][0]:
            what = f"hold no text that is not held out{' already' if side else ''}"
            raise fail(DataError, f"data.{name}_sources" if side else "data.sources", what, "Give each side its own.")
        found[name] = _side_facts(sums_S[side])
    return found


def _side_facts(sums: Any) -> dict[str, Any]:
    documents, tokens, loss, bytes_ = sums.tolist()
    return {
        "documents": documents,
        "tokens": tokens,
        "loss_positions": loss,
        "bytes": bytes_,
        "mean_document_tokens": round(tokens / documents, 1) if documents else 0.0,
    }


def _task_facts(names: Sequence[str], sums_ST: Any) -> dict[str, Any]:
    """Of each task what there is to learn from, and how much is held out."""
    held_out_T = sums_ST[VALIDATION, :, 0] + sums_ST[TEST, :, 0]
    return {
        name: {**_side_facts(sums_ST[TRAIN, task]), "held_out": int(held_out_T[task])}
        for task, name in enumerate(names)
    }


def _refuse_too_little(documents: int, counts: dict[str, int], *, held_out: bool) -> None:
    left_out = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in counts.items() if n and name != "records")
    read = f"{counts['records']} records read{', ' + left_out if left_out else ''}"
    if not documents and counts["without_loss_dropped"]:
        raise fail(
            DataError,
            "data.sources",
            f"no label carries loss: all are masked ({read})",
            "Check that the answers are not empty and that conversations have turns of the role 'assistant'.",
        )
    if not documents:
        raise fail(DataError, "data.sources", f"there is no document to learn from ({read})")
    if documents < 2 and not held_out:
        raise fail(
            DataError,
            "data.sources",
            f"there is one document only, but one must be held out ({read})",
            r'Add text, or cut the file into documents: separator: "\n\n" cuts at empty lines.',
        )


def _refuse_empty_tasks(names: Sequence[str], sums_T: Any, records: Counter[int]) -> None:
    """Refuse tasks that have nothing to learn from; all of them at once."""
    problems = [
        Problem(
            f"data.sources, task '{name}'",
            f"has no document to learn from ({records[task]} records read; others may have the same texts)",
            "See that its sources hold rows and that its format leaves answers with loss, or take the task out.",
        )
        for task, name in enumerate(names)
        if not sums_T[task][0]
    ]
    if problems:
        raise DataError(*problems)


def _refuse_short(facts: dict[str, Any], block: int) -> None:
    tokens = facts["train"]["tokens"]
    if tokens < block:
        raise fail(
            DataError,
            "data.sources",
            f"there are only {tokens} tokens to train on, fewer than one block of {block}",
            f"Add text, or set data.block to {tokens} or less." if tokens >= 8 else "Add text.",
        )
