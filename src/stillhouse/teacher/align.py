"""A teacher that cuts text into other tokens than its student, made to speak at the student's positions.

Both tokenise the same text. A student's position is to say what comes from some byte on; the teacher speaks there if one of
its own tokens begins at the same byte, and of the same thing if that token is the same piece of text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from stillhouse.errors import DataError, fail
from stillhouse.models import Model
from stillhouse.teacher import Teacher
from stillhouse.types import Batch, Head, Signal
from stillhouse.vocabulary import Tokens, contents, locate, shared_ids

_Ints = npt.NDArray[np.int64]

TEXTS_KEPT = 4096
"""Texts whose tokens are kept, so that an epoch does not tokenise again what is small enough."""


CHUNK = 256
"""Positions whose logits exist at one time."""


def aligned(
    teacher: Teacher,
    student_tokenizer: Any,
    texts: Callable[[str], str],
    *,
    ends: tuple[int | None, int | None] | None = None,
) -> Teacher:
    """A teacher for a student with another tokenizer.

    Args:
        teacher: with its own tokenizer.
        student_tokenizer: the one that the batches were made with.
        texts: an example's key → its text, whole, as it was tokenised.
        ends: end token of student and of teacher; those that the tokenizers name if not given (end of text, else separator).
    """
    ends = ends or (end_of(student_tokenizer), end_of(teacher.tokenizer))
    return Aligned(teacher, Alignment(student_tokenizer, teacher.tokenizer, ends), texts)


def end_of(tokenizer: Any) -> int | None:
    """The id of the token that ends a text; None if there is none."""
    found = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    return None if found is None else int(found)


class Alignment:
    """What two tokenizers make of the same text.

    Args:
        student: a fast tokenizer.
        teacher: another.
        ends: their end tokens; None where there is none.
    """

    def __init__(self, student: Any, teacher: Any, ends: tuple[int | None, int | None]) -> None:
        self._tokenizers = (student, teacher)
        self._meanings = (contents(student), contents(teacher))
        self.ends = ends
        ours_M, theirs_M = shared_ids(student, teacher)
        if ends[0] is not None and ends[1] is not None:
            keep_M = (ours_M != ends[0]) & (theirs_M != ends[1])
            ours_M, theirs_M = np.append(ours_M[keep_M], ends[0]), np.append(theirs_M[keep_M], ends[1])
        self.shared = (torch.from_numpy(ours_M), torch.from_numpy(theirs_M))
        self.outcomes = len(self._meanings[1])
        """Ids that the teacher's tokenizer knows; its head may have more, which mean nothing."""
        self.twin_V = np.full(len(self._meanings[0]), -1)
        """The teacher's id of the same outcome, for each of the student's; −1 if there is none."""
        self.twin_V[ours_M] = theirs_M

    def student(self, text: str, *, special: bool) -> Tokens:
        """The text as the student's tokens, with the end token."""
        return self._ended(0, text, special)

    def teacher(self, text: str, *, special: bool) -> Tokens:
        """The text as the teacher's tokens, with its end token."""
        return self._ended(1, text, special)

    def _ended(self, side: int, text: str, special: bool) -> Tokens:
        tokens = locate(self._tokenizers[side], text, self._meanings[side], special=special)
        end = self.ends[side]
        if end is None or (len(tokens.ids_L) and int(tokens.ids_L[-1]) == end):
            return tokens
        return Tokens(np.append(tokens.ids_L, end), np.append(tokens.borders_L1, tokens.text), tokens.text)


def match(student: Tokens, teacher: Tokens, ends: tuple[int | None, int | None]) -> tuple[_Ints, npt.NDArray[np.bool_]]:
    """For each of the student's tokens the teacher's that begins at the same byte, and whether they end there too.

    A token that is no text has no partner, but the end of one text is the end of the other.

    Args:
        student: its tokens of a text.
        teacher: its tokens of the same text.
        ends: their end tokens.

    Returns:
        the number of the teacher's token, −1 where none begins; whether both are the same bytes.
    """
    text = np.flatnonzero(np.diff(teacher.borders_L1) > 0)
    at = np.full(teacher.text + 1, -1)
    at[teacher.borders_L1[text]] = text
    partner_L = np.where(np.diff(student.borders_L1) > 0, at[student.borders_L1[:-1]], -1)
    same_L = (partner_L >= 0) & (teacher.borders_L1[partner_L + 1] == student.borders_L1[1:])
    if _at_end(student, ends[0]) and _at_end(teacher, ends[1]):
        partner_L[-1], same_L[-1] = len(teacher.ids_L) - 1, True
    return partner_L, same_L


def _at_end(tokens: Tokens, end: int | None) -> bool:
    """Whether the last token is the end token and no text."""
    return len(tokens.ids_L) > 0 and int(tokens.ids_L[-1]) == end and int(tokens.borders_L1[-2]) == tokens.text


@dataclass(frozen=True)
class _Pair:
    """A text as both see it.

    Args:
        student: its tokens.
        teacher: its tokens.
        partner_L: see ``match``.
        same_L: see ``match``.
        leading: the teacher's special tokens before the text.
    """

    student: Tokens
    teacher: Tokens
    partner_L: _Ints
    same_L: npt.NDArray[np.bool_]
    leading: int


def _shared_out(
    pair: _Pair, label_n: _Ints, read_r: _Ints, costs_r: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """What the student's tokens ``label_n`` cost, given what the teacher's tokens ``read_r`` do.

    A token's cost lies evenly on its bytes; that of a token without bytes, such as the end, on the student's of the same place.
    """
    begins_r, stops_r = pair.teacher.borders_L1[read_r], pair.teacher.borders_L1[read_r + 1]
    text = stops_r > begins_r
    # The cost of all bytes before each border, linear in between: a piecewise linear curve, read at the student's borders.
    at = np.concatenate([begins_r[text], stops_r[text][-1:]]).astype(np.float64)
    total = np.concatenate([[0.0], np.cumsum(costs_r[text])])
    ours = pair.student.borders_L1
    found_n = np.zeros(len(label_n))
    if len(at) > 1:
        found_n = np.interp(ours[label_n + 1], at, total) - np.interp(ours[label_n], at, total)
    after = ~text & (begins_r >= ours[label_n[0]])  # the end token; not what the teacher begins every text with
    found_n[-1] += float(costs_r[after].sum())
    return found_n


class Aligned(Teacher):
    """A teacher that answers for batches of another tokenizer's tokens.

    Its signals are its own distributions over its own outcomes, one row for each of the student's positions, with

    * ``shared``: the ids of the outcomes that both know;
    * ``exact_N``: where the next tokens of both are the same outcome at the same bytes of the text;
    * ``weight_N``: 0 where no token of the teacher begins, so that it has nothing to say.

    It reads no more of a text than the student: the teacher's tokens within the bytes of the student's run.

    Args:
        teacher: with its own tokenizer; its signals must be dense.
        alignment: of the two tokenizers.
        texts: an example's key → its text.
    """

    forms = frozenset({"dense"})
    shows = frozenset()
    same_outcomes = False

    def __init__(self, teacher: Teacher, alignment: Alignment, texts: Callable[[str], str]) -> None:
        self.model = teacher.model
        self.inner = teacher
        self.alone = teacher.alone
        self.alignment = alignment
        self.texts = texts
        self._pair = lru_cache(maxsize=TEXTS_KEPT)(self._make_pair)

    @property
    def own(self) -> Teacher:
        """The teacher as it reads its own tokens."""
        return self.inner

    def placed(self, place: Callable[[Model], Model]) -> Teacher:
        """The same with the teacher's networks where training wants them."""
        return Aligned(self.inner.placed(place), self.alignment, self.texts)

    @torch.no_grad()
    def signal(self, batch: Batch, want: frozenset[str] = frozenset()) -> Signal:
        """What the teacher says at the student's positions.

        Args:
            batch: of the student's tokens, with the keys of its examples.
            want: nothing: layers are of the teacher's tokens, which are not the student's.

        Raises:
            DataError: a text is not the one that the batch was made of.
        """
        assert not want, "a teacher of other tokens has no layers at the student's positions"
        theirs, row_N, exact_N = self.translate(batch)
        device = batch.input_ids_P.device
        row_N = row_N.to(device)
        said = self.inner.signal(theirs.to(device)) if len(theirs.select_N) else None
        has_N = row_N >= 0
        if said is None:
            silent_NV = torch.zeros(len(row_N), self.alignment.outcomes, device=device)
            return Signal(logits_NV=silent_NV, **self._fields(has_N, exact_N.to(device)))
        assert said.dense and not said.members, "only whole distributions of one teacher can be aligned"
        row_N = row_N.clamp_min(0)
        fields = self._fields(has_N, exact_N.to(device))
        if said.weight_N is not None:
            fields["weight_N"] = fields["weight_N"] * said.weight_N.index_select(0, row_N)
        if said.logits_NV is not None:
            return Signal(logits_NV=said.logits_NV.index_select(0, row_N)[:, : self.alignment.outcomes], **fields)
        assert said.hidden_NH is not None and said.head is not None
        return Signal(hidden_NH=said.hidden_NH.index_select(0, row_N), head=self._cut(said.head), **fields)

    @torch.no_grad()
    def nll(self, batch: Batch) -> Tensor:
        """−log of the probability that the teacher gives the text of each of the student's labels, [N], nats.

        What a token of the teacher costs is shared out evenly over its bytes, and a label of the student gets what its bytes
        cost: so both are charged for the same text, and sums over documents are the teacher's own. The bytes of the first
        token of a run, which the teacher is given, cost nothing.

        Raises:
            DataError: a text is not the one that the batch was made of.
        """
        runs: list[_Run] = []
        spans: list[tuple[_Pair, int, _Ints, _Ints]] = []
        for d, offset, here_n, label_n, pair in self._documents(batch):
            # Its tokens that begin in the student's run, inputs and labels together.
            borders_L1 = pair.student.borders_L1
            first = max(int(np.searchsorted(pair.teacher.borders_L1[:-1], borders_L1[offset])), pair.leading)
            last = int(np.searchsorted(pair.teacher.borders_L1[:-1], borders_L1[int(label_n.max()) + 1]))
            if _at_end(pair.student, self.alignment.ends[0]) and int(label_n.max()) == len(pair.student.ids_L) - 1:
                last = len(pair.teacher.ids_L)  # the end of the text is a label too
            read = np.concatenate([np.arange(pair.leading), np.arange(first, max(last, first))])
            if len(read) < 2:
                continue
            runs.append(_Run(d, pair.teacher.ids_L[read[:-1]], np.arange(len(read) - 1), pair.teacher.ids_L[read[1:]]))
            spans.append((pair, int(here_n[0]), label_n, read[1:]))
        out_N = torch.zeros(len(batch.labels_N), dtype=torch.float64)
        if not runs:
            return out_N
        costs = self._costs(_batch(runs, batch).to(batch.input_ids_P.device))
        done = 0
        for pair, row, label_n, read_r in spans:
            costs_r = costs[done : done + len(read_r)]
            done += len(read_r)
            out_N[row : row + len(label_n)] = torch.from_numpy(_shared_out(pair, label_n, read_r, costs_r))
        return out_N

    def _costs(self, theirs: Batch) -> npt.NDArray[np.float64]:
        """−log probability of each label of a batch of the teacher's tokens."""
        said = self.inner.signal(theirs)
        parts = []
        for start in range(0, len(theirs.labels_N), CHUNK):
            stop = min(start + CHUNK, len(theirs.labels_N))
            logits_NV = said.rows(start, stop).logits_NV
            assert logits_NV is not None
            logits_NV = logits_NV[:, : self.alignment.outcomes].float()
            parts.append(F.cross_entropy(logits_NV, theirs.labels_N[start:stop], reduction="none").double().cpu())
        return torch.cat(parts).numpy()

    def _fields(self, has_N: Tensor, exact_N: Tensor) -> dict[str, Any]:
        ours_M, theirs_M = self.alignment.shared
        shared = (ours_M.to(has_N.device), theirs_M.to(has_N.device))
        return {"shared": shared, "exact_N": exact_N, "weight_N": has_N.float()}

    def _cut(self, head: Head) -> Head:
        """Without the entries that no token has (a head padded to a round size): they would take probability."""
        known = self.alignment.outcomes
        bias_V = None if head.bias_V is None else head.bias_V[:known]
        return replace(head, weight_VH=head.weight_VH[:known], bias_V=bias_V)

    def translate(self, batch: Batch) -> tuple[Batch, Tensor, Tensor]:
        """The batch as the teacher's tokens.

        Returns:
            the teacher's batch, with the positions whose word is wanted; for each position of the student's the row of its
            signal, −1 where there is none; whether both speak of the same outcome.

        Raises:
            DataError: a text is not the one that the batch was made of.
        """
        labels_N = batch.labels_N.cpu().numpy()
        row_N, exact_N = np.full(len(labels_N), -1), np.zeros(len(labels_N), dtype=bool)
        runs: list[_Run] = []
        rows = 0
        for d, offset, here_n, label_n, pair in self._documents(batch):
            # The teacher reads what it begins every text with, and its tokens that begin in the student's run.
            begin = max(
                int(np.searchsorted(pair.teacher.borders_L1[:-1], pair.student.borders_L1[offset])), pair.leading
            )
            cut = begin > pair.leading  # in a run that begins inside a text its first token follows on nothing
            partner_n = pair.partner_L[label_n]
            place_n = pair.leading + partner_n - begin - 1  # which of the tokens read comes before the partner
            has_n = (partner_n >= begin + cut) & (place_n >= 0)
            if not has_n.any():
                continue
            use, row_n = np.unique(place_n[has_n], return_inverse=True)
            row_N[here_n[has_n]] = rows + row_n
            twin_n = self.alignment.twin_V[labels_N[here_n]]
            exact_N[here_n] = has_n & pair.same_L[label_n] & (twin_n == pair.teacher.ids_L[partner_n])
            read = np.concatenate([np.arange(pair.leading), np.arange(begin, begin + use[-1] + 1 - pair.leading)])
            labels = pair.teacher.ids_L[use + 1 + begin - pair.leading]
            runs.append(_Run(d, pair.teacher.ids_L[read], use, labels))
            rows += len(use)
        return _batch(runs, batch), torch.from_numpy(row_N), torch.from_numpy(exact_N)

    def _documents(self, batch: Batch) -> Iterator[tuple[int, int, _Ints, _Ints, _Pair]]:
        """Each document of a batch in which a position counts, as both see it.

        Yields:
            its number; the token of its text that it begins with; its positions that count, and which token of the text each
            of them is to say; the text.
        """
        starts, stops = batch.borders_D1[:-1], batch.borders_D1[1:]
        offsets = batch.offsets_D or (0,) * len(starts)
        ids_P, select_N, labels_N = (x.cpu().numpy() for x in (batch.input_ids_P, batch.select_N, batch.labels_N))
        of_N = np.searchsorted(np.asarray(stops), select_N, side="right")
        for d, (start, stop, offset) in enumerate(zip(starts, stops, offsets, strict=True)):
            here_n = np.flatnonzero(of_N == d)
            if len(here_n):
                label_n = offset + 1 + select_N[here_n] - start
                pair = self._checked(batch.keys[d], ids_P[start:stop], offset, label_n, labels_N[here_n])
                yield d, offset, here_n, label_n, pair

    def _checked(self, key: str, ids_L: _Ints, offset: int, label_n: _Ints, labels_n: _Ints) -> _Pair:
        """The pair of a key's text, which must have the run's tokens at the offset, and its labels."""
        for special in (False, True):
            pair = self._pair(key, special)
            known = pair.student.ids_L
            there = np.array_equal(known[offset : offset + len(ids_L)], ids_L)
            if there and label_n.max(initial=0) < len(known) and np.array_equal(known[label_n], labels_n):
                return pair
        raise fail(
            DataError,
            "data",
            f"the text kept for the example {key} does not give the tokens that were made of it",
            "Delete the run's data folder: it is made again.",
        )

    def _make_pair(self, key: str, special: bool) -> _Pair:
        text = self.texts(key)
        student, teacher = (
            tokens(text, special=special) for tokens in (self.alignment.student, self.alignment.teacher)
        )
        partner_L, same_L = match(student, teacher, self.alignment.ends)
        is_text = np.diff(teacher.borders_L1) > 0
        leading = int(np.argmax(is_text)) if is_text.any() else 0
        return _Pair(student, teacher, partner_L, same_L, leading)


@dataclass(frozen=True)
class _Run:
    """One of a batch's documents as the teacher reads it.

    Args:
        number: of the document in the student's batch.
        inputs: the teacher's tokens.
        places: those after which its word is wanted, rising.
        labels: what follows there.
    """

    number: int
    inputs: _Ints
    places: _Ints
    labels: _Ints


def _batch(runs: list[_Run], batch: Batch) -> Batch:
    """The teacher's batch of the runs."""
    borders = (0, *accumulate(len(run.inputs) for run in runs))

    def joined(parts: Iterable[_Ints]) -> Tensor:
        return torch.from_numpy(np.concatenate([np.zeros(0, dtype=np.int64), *parts]).astype(np.int64))

    return Batch(
        input_ids_P=joined(run.inputs for run in runs),
        position_ids_P=joined(np.arange(len(run.inputs)) for run in runs),
        borders_D1=borders,
        select_N=joined(run.places + start for run, start in zip(runs, borders, strict=False)),
        labels_N=joined(run.labels for run in runs),
        weight_N=torch.ones(sum(len(run.places) for run in runs)),
        document_N=joined(np.full(len(run.places), d) for d, run in enumerate(runs)),
        keys=tuple(batch.keys[run.number] for run in runs),
        tasks=tuple(batch.tasks[run.number] for run in runs) if batch.tasks else (),
    )
