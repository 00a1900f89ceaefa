"""A teacher for a student that kept only some of its tokens: its distributions, put onto the tokens that were kept.

Of what the teacher would say next, a token that was kept stays what it is; one that was dropped becomes the first of the tokens
that the student writes it as. So all of its probability is kept, but for what the student cannot say at all, which counts as no
word of the teacher. It reads its own tokens of the text where it can: where the student is inside of one of them, it says how
the tokens go on that begin so. Else it reads the student's tokens, under its own ids. docs/trimmed_vocabularies.md.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import takewhile
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stillhouse.errors import ModelError, fail
from stillhouse.models import Model
from stillhouse.teacher import Teacher
from stillhouse.teacher.align import Aligned, Alignment, end_of
from stillhouse.types import Batch, Signal
from stillhouse.vocabulary import contents

_Ints = npt.NDArray[np.int64]

BUFFER_BYTES = 48 * 2**20
"""What the teacher's logits over its own tokens may take at one time."""

_NEVER = 1e4
"""How much below the likeliest the logits of what cannot come lie: far enough to have no probability, and finite."""


def kept_ids(student_tokenizer: Any, teacher_tokenizer: Any) -> _Ints | None:
    """The teacher's id of each of the student's tokens, [V]; None if the teacher does not have them all.

    A token is the same if it is written the same and stands for the same.

    Args:
        student_tokenizer: a fast tokenizer of transformers.
        teacher_tokenizer: another.

    """
    ours, theirs = contents(student_tokenizer), contents(teacher_tokenizer)
    their_ids: dict[str, int] = teacher_tokenizer.get_vocab()
    ids_V = np.full(len(ours), -1)
    for token, number in student_tokenizer.get_vocab().items():
        found = their_ids.get(token)
        if found is None or theirs[found] != ours[number]:
            return None
        ids_V[number] = found
    return None if (ids_V < 0).any() else ids_V


def kept(
    teacher: Teacher,
    student_tokenizer: Any,
    texts: Callable[[str], str] | None = None,
    *,
    ends: tuple[int | None, int | None] | None = None,
) -> Teacher:
    """A teacher for a student with some of its tokens; itself where the student has all of them under the same ids.

    Args:
        teacher: with its own tokenizer.
        student_tokenizer: the one that the batches are made with.
        texts: an example's key → its text, whole, as it was tokenised; KeyError if there is none. The teacher reads its own
            tokens of these texts. Of others (the student's own, say) it reads the student's, as it does where its layers are
            asked for, or where it names only some outcomes.
        ends: end token of student and of teacher; those that the tokenizers name if not given.

    Raises:
        ModelError: the student has a token that the teacher does not have.

    """
    ids_V = kept_ids(student_tokenizer, teacher.tokenizer)
    if ids_V is None:
        what = f"has tokens that {teacher.name} does not have"
        raise fail(ModelError, "student", what, "Take a student with the teacher's tokens, or some of them.")
    theirs = contents(teacher.tokenizer)
    if np.array_equal(ids_V, np.arange(len(theirs))):
        return teacher
    return Kept(teacher, student_tokenizer, Onto.of(student_tokenizer, teacher.tokenizer, ids_V), texts, ends)


@dataclass(frozen=True)
class Onto:
    """Where the teacher's probability goes: T of its own outcomes, onto the V of the student.

    Args:
        ids_V: the teacher's id of each of the student's tokens.
        onto_T: the student's token that each of the teacher's goes to; −1: to none.
        dropped: the teacher's ids that go to a token other than themselves.
        groups: which of ``firsts`` each of these goes to.
        firsts: the student's ids that get more than their own, rising.
        lost: the teacher's ids that go to none though they are outcomes.
        inside: the beginning of what dropped tokens are written as → their ids, and what comes next in each.

    """

    ids_V: Tensor
    onto_T: Tensor
    dropped: Tensor
    groups: Tensor
    firsts: Tensor
    lost: Tensor
    inside: dict[tuple[int, ...], tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, student_tokenizer: Any, teacher_tokenizer: Any, ids_V: _Ints) -> Onto:
        """By what the student's tokenizer makes of each of the teacher's tokens.

        Args:
            student_tokenizer: the student's.
            teacher_tokenizer: the teacher's.
            ids_V: the teacher's id of each of the student's tokens.

        """
        meaning = contents(teacher_tokenizer)
        onto_T = np.full(len(meaning), -1)
        onto_T[ids_V] = np.arange(len(ids_V))
        names = {number: token for token, number in teacher_tokenizer.get_vocab().items()}
        write = _writer(student_tokenizer)
        others = [n for n in np.flatnonzero(onto_T < 0).tolist() if meaning[n] is not None]
        inside: defaultdict[tuple[int, ...], list[tuple[int, int]]] = defaultdict(list)
        for number in others:  # a special token is no text that could be written otherwise
            parts = write(names[number]) if isinstance(meaning[number], bytes) else []
            if parts:
                onto_T[number] = parts[0]
            for stop in range(1, len(parts)):
                inside[tuple(parts[:stop])].append((number, parts[stop]))
        dropped = np.asarray([n for n in others if onto_T[n] >= 0], dtype=np.int64)
        firsts, groups = np.unique(onto_T[dropped], return_inverse=True)
        lost = np.asarray([n for n in others if onto_T[n] < 0], dtype=np.int64)
        return cls(
            ids_V=torch.from_numpy(ids_V),
            onto_T=torch.from_numpy(onto_T),
            dropped=torch.from_numpy(dropped),
            groups=torch.from_numpy(groups),
            firsts=torch.from_numpy(firsts),
            lost=torch.from_numpy(lost),
            inside={begun: _columns(each) for begun, each in inside.items()},
        )

    def to(self, device: torch.device) -> Onto:
        """The same on a device, but for what is inside of tokens, which is looked up a position at a time."""
        moved: dict[str, Any] = {name: x.to(device) for name, x in vars(self).items() if isinstance(x, Tensor)}
        return replace(self, **moved)

    def dense(self, theirs_NT: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits over the student's tokens from those over the teacher's.

        Only those of tokens that get more than their own change; the normaliser stays that of all outcomes that are not lost.

        Returns:
            logits [N, V]; the probability that is not lost [N], None if nothing can be.

        """
        logits_NV = theirs_NT.index_select(1, self.ids_V)
        if len(self.dropped):
            parts_ND = theirs_NT.index_select(1, self.dropped)
            most_N1 = parts_ND.amax(-1, keepdim=True)
            more_NF = parts_ND.new_zeros(len(parts_ND), len(self.firsts))
            more_NF.index_add_(1, self.groups, parts_ND.sub_(most_N1).exp_())
            own_NF = logits_NV.index_select(1, self.firsts)
            logits_NV.index_copy_(1, self.firsts, torch.logaddexp(own_NF, more_NF.log_().add_(most_N1)))
        if not len(self.lost):
            return logits_NV, None
        lost_N = theirs_NT.index_select(1, self.lost).logsumexp(-1)
        return logits_NV, torch.sigmoid(logits_NV.logsumexp(-1) - lost_N)

    def within(self, begun: tuple[int, ...], theirs_T: Tensor) -> Tensor:
        """Logits over the student's tokens inside of a token of the teacher: those of the tokens that are written so.

        Args:
            begun: what the student has of the token.
            theirs_T: the teacher's logits where the token begins.

        """
        ids, after = (each.to(theirs_T.device) for each in self.inside[begun])
        some = theirs_T[ids]
        most = some.max()
        p_V = theirs_T.new_zeros(len(self.ids_V)).index_add_(0, after, (some - most).exp())
        return (p_V.log_() + most).clamp_min_(float(most) - _NEVER)

    def named(self, said: Signal) -> Signal:
        """A truncated signal in the student's ids; what goes to one token is added up.

        The remainder may hold some of a named token's probability: what the teacher does not name may begin with it.
        """
        assert said.ids_NK is not None and said.logp_NK is not None
        onto_NK = self.onto_T[said.ids_NK.clamp_min(0)]
        onto_NK = onto_NK.masked_fill(said.ids_NK < 0, -1)
        p_NK = said.logp_NK.double().exp()
        lost_N = p_NK.masked_fill(onto_NK >= 0, 0.0).sum(-1)  # what fills a row up has none
        ids_NK, order_NK = onto_NK.sort(dim=-1, stable=True)
        new_NK = torch.ones_like(ids_NK, dtype=torch.bool)
        new_NK[:, 1:] = ids_NK[:, 1:] != ids_NK[:, :-1]
        place_NK = new_NK.cumsum(-1) - 1
        sums_NK = torch.zeros_like(p_NK).scatter_add_(-1, place_NK, p_NK.gather(-1, order_NK))
        ids_NK = torch.full_like(ids_NK, -1).scatter_(-1, place_NK, ids_NK)
        logp_NK = sums_NK.log().masked_fill(ids_NK < 0, -torch.inf)
        logp_NK, order_NK = logp_NK.sort(dim=-1, descending=True, stable=True)
        ids_NK = ids_NK.gather(-1, order_NK)
        if said.sampled:  # an estimate of each probability by itself, and linear in it: nothing to normalise
            return replace(said, ids_NK=ids_NK, logp_NK=logp_NK.to(said.logp_NK.dtype))
        assert said.rest_N is not None
        kept_N = (1.0 - lost_N).clamp_min(torch.finfo(torch.float32).tiny)
        weight_N = kept_N.float() if said.weight_N is None else kept_N.float() * said.weight_N
        return replace(
            said,
            ids_NK=ids_NK,
            logp_NK=(logp_NK - kept_N.log()[:, None]).to(said.logp_NK.dtype),
            rest_N=(said.rest_N.double() - kept_N.log()).to(said.rest_N.dtype),
            weight_N=weight_N if bool((lost_N > 0).any()) else said.weight_N,
        )


def _columns(pairs: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    first, second = torch.tensor(pairs).unbind(-1)
    return first, second


def _writer(tokenizer: Any) -> Callable[[str], list[int]]:
    """A token of a larger vocabulary → those that a tokenizer writes it as, as far as it can."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    inner = tokenizer.backend_tokenizer.model
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    if model["type"] == "WordPiece":
        prefix = model["continuing_subword_prefix"]

        def longest(token: str) -> list[int]:
            found: list[int] = []
            while token != prefix:
                least = len(prefix) if token.startswith(prefix) else 0
                stop = next((stop for stop in range(len(token), least, -1) if token[:stop] in vocabulary), None)
                if stop is None:
                    break
                found.append(vocabulary[token[:stop]])
                token = prefix + token[stop:]
            return found

        return longest
    unknown = model.get("unk_token")
    if model.get("unk_id") is not None:
        unknown = model["vocab"][model["unk_id"]][0]

    def written(token: str) -> list[int]:
        return [int(part.id) for part in takewhile(lambda part: part.value != unknown, inner.tokenize(token))]

    return written


@dataclass(frozen=True)
class KeptSignal(Signal):
    """A dense signal over the teacher's outcomes that is put onto the student's as its rows are asked for.

    Args:
        inner: the teacher's own, of the same positions.
        onto: where its probability goes.
        begun: of positions inside of a token of the teacher, what the student has of it.

    """

    inner: Signal | None = None
    onto: Onto | None = None
    begun: dict[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def vocabulary(self) -> int:
        """The student's number of outcomes."""
        assert self.onto is not None
        return len(self.onto.ids_V)

    def rows(self, start: int, stop: int, out: Tensor | None = None) -> Signal:
        """The signal of positions ``start:stop`` as logits over the student's outcomes, a few positions at a time."""
        assert self.inner is not None and self.onto is not None
        theirs = self.inner.vocabulary
        assert theirs is not None, "a whole distribution"
        length = max(16, BUFFER_BYTES // (4 * theirs))
        logits: list[Tensor] = []
        weights: list[Tensor | None] = []
        for first in range(start, max(stop, start + 1), length):
            last = min(first + length, stop)
            said = self.inner.rows(first, last)
            assert said.logits_NV is not None
            logits_NV, weight_N = self.onto.dense(said.logits_NV)
            for n in self.begun.keys() & range(first, last):
                logits_NV[n - first] = self.onto.within(self.begun[n], said.logits_NV[n - first])
                if weight_N is not None:
                    weight_N[n - first] = 1.0
            both = [each for each in (weight_N, said.weight_N) if each is not None]
            logits.append(logits_NV)
            weights.append(torch.stack(both).prod(0) if both else None)
        joined = [each for each in weights if each is not None]
        return Signal(logits_NV=torch.cat(logits, out=out), weight_N=torch.cat(joined) if joined else None)


class Kept(Teacher):
    """A teacher that answers for batches of some of its own tokens, numbered otherwise.

    Args:
        teacher: with its own tokenizer.
        student_tokenizer: what the batches are made with.
        onto: where its probability goes.
        texts: an example's key → its text; the teacher reads its own tokens of it.
        ends: end token of student and of teacher.

    """

    def __init__(
        self,
        teacher: Teacher,
        student_tokenizer: Any,
        onto: Onto,
        texts: Callable[[str], str] | None = None,
        ends: tuple[int | None, int | None] | None = None,
    ) -> None:
        self.model = teacher.model
        self.inner = teacher
        self.forms, self.shows, self.alone = teacher.forms, teacher.shows, teacher.alone
        self.student_tokenizer, self.onto, self.texts, self.ends = student_tokenizer, onto, texts, ends

    @property
    def own(self) -> Teacher:
        """The teacher as it reads its own tokens."""
        return self.inner

    def placed(self, place: Callable[[Model], Model]) -> Teacher:
        """The same with the teacher's networks where training wants them."""
        return Kept(self.inner.placed(place), self.student_tokenizer, self.onto, self.texts, self.ends)

    @torch.no_grad()
    def signal(self, batch: Batch, want: frozenset[str] = frozenset()) -> Signal:
        """What the teacher says of the batch's positions, in the student's ids.

        Args:
            batch: of the student's tokens; where the teacher reads its own, with the keys of its examples.
            want: layers; they are those at the student's tokens.

        Raises:
            DataError: a text is not the one that the batch was made of.

        """
        onto = self.onto.to(batch.input_ids_P.device)
        if self._own is not None and not want and self._known(batch):
            return self._own_reading(self._own, onto, batch)
        theirs = replace(batch, input_ids_P=onto.ids_V[batch.input_ids_P], labels_N=onto.ids_V[batch.labels_N])
        said = self.inner.signal(theirs, want)
        if said.dense:
            return KeptSignal(inner=said, onto=onto, layers=said.layers)
        return onto.named(said)

    def _known(self, batch: Batch) -> bool:
        """Whether all texts of a batch are there."""
        assert self.texts is not None
        try:
            return all(self.texts(key) is not None for key in batch.keys)
        except KeyError:
            return False

    def nll(self, batch: Batch) -> Tensor | None:
        """−log of the probability that the teacher gives the text of each label where it reads its own tokens, [N], nats.

        None where it does not: then its signal says what it gives the label.
        """
        return None if self._own is None else self._own.nll(batch)

    @cached_property
    def _own(self) -> Aligned | None:
        """The teacher where it reads its own tokens."""
        if self.texts is None or self.forms != {"dense"}:
            return None
        ends = self.ends or (end_of(self.student_tokenizer), end_of(self.inner.tokenizer))
        return Aligned(self.inner, Alignment(self.student_tokenizer, self.inner.tokenizer, ends), self.texts)

    def _own_reading(self, own: Aligned, onto: Onto, batch: Batch) -> Signal:
        theirs, row_N, _ = own.translate(batch)
        begun, has_N = _fill(row_N, batch, onto)
        if not len(theirs.select_N):
            silent_NV = torch.zeros(len(row_N), len(onto.ids_V), device=batch.input_ids_P.device)
            return Signal(logits_NV=silent_NV, weight_N=torch.zeros_like(batch.weight_N))
        said = _picked(self.inner.signal(theirs.to(batch.input_ids_P.device)), row_N.to(batch.input_ids_P.device))
        weight_N = has_N.to(batch.weight_N)
        weight_N = weight_N if said.weight_N is None else weight_N * said.weight_N
        return KeptSignal(inner=replace(said, weight_N=weight_N), onto=onto, begun=begun)


def _fill(row_N: Tensor, batch: Batch, onto: Onto) -> tuple[dict[int, tuple[int, ...]], Tensor]:
    """Rows for the positions at which no token of the teacher begins: that of the token which they are inside of.

    Args:
        row_N: the teacher's row for each position, −1 where there is none; filled up in place: where it has nothing to say,
            with any.
        batch: of the student's tokens.
        onto: where probability goes.

    Returns:
        what the student has of the token, of each position inside of one; whether the teacher has something to say.

    """
    begun: dict[int, tuple[int, ...]] = {}
    rows, select, labels = row_N.tolist(), batch.select_N.tolist(), batch.labels_N.tolist()
    document = batch.document_N.tolist()
    start = 0
    for n, row in enumerate(rows):
        if row >= 0:
            start = n
            continue
        together = document[start] == document[n] and select[n] - select[start] == n - start
        so_far = tuple(labels[start:n])
        if (
            together
            and rows[start] >= 0
            and so_far in onto.inside
            and bool((onto.inside[so_far][1] == labels[n]).any())
        ):
            begun[n] = so_far
        row_N[n] = max(rows[start], 0)
    has_N = torch.tensor([row >= 0 or n in begun for n, row in enumerate(rows)])
    return begun, has_N


def _picked(said: Signal, row_N: Tensor) -> Signal:
    """Some rows of a dense signal, in any order."""
    rows: dict[str, Any] = {
        name: None if value is None else value.index_select(0, row_N)
        for name in ("logits_NV", "hidden_NH", "weight_N")
        for value in (getattr(said, name),)
    }
    shares = tuple(share.index_select(0, row_N) if isinstance(share, Tensor) else share for share in said.shares)
    return replace(said, **rows, members=tuple(_picked(member, row_N) for member in said.members), shares=shares)
