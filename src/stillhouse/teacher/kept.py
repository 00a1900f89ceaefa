"""A teacher for a student that kept only some of its tokens: its distributions, put onto the tokens that were kept.

The teacher reads the student's tokens under its own ids. Of what it would say next, a token that was kept stays what it is;
one that was dropped becomes the first of the tokens that the student writes it as. So all of its probability is kept, but for
what the student cannot say at all, which counts as no word of the teacher. The mathematics: docs/trimmed_vocabularies.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stillhouse.errors import ModelError, fail
from stillhouse.models import Model
from stillhouse.teacher import Teacher
from stillhouse.teacher.align import aligned
from stillhouse.types import Batch, Signal
from stillhouse.vocabulary import contents

_Ints = npt.NDArray[np.int64]

BUFFER_BYTES = 48 * 2**20
"""What the teacher's logits over its own tokens may take at one time."""


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
        texts: an example's key → its text, whole; with it, ``nll`` is that of the teacher's own tokens.
        ends: end token of student and of teacher, for ``nll``; those that the tokenizers name if not given.

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

    """

    ids_V: Tensor
    onto_T: Tensor
    dropped: Tensor
    groups: Tensor
    firsts: Tensor
    lost: Tensor

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
        first = _first_token(student_tokenizer)
        others = [n for n in np.flatnonzero(onto_T < 0).tolist() if meaning[n] is not None]
        for number in others:  # a special token is no text that could be written otherwise
            onto_T[number] = first(names[number]) if isinstance(meaning[number], bytes) else -1
        dropped = np.asarray([n for n in others if onto_T[n] >= 0], dtype=np.int64)
        firsts, groups = np.unique(onto_T[dropped], return_inverse=True)
        lost = np.asarray([n for n in others if onto_T[n] < 0], dtype=np.int64)
        return cls(*(torch.from_numpy(x.astype(np.int64)) for x in (ids_V, onto_T, dropped, groups, firsts, lost)))

    def to(self, device: torch.device) -> Onto:
        """The same on a device."""
        return Onto(**{name: value.to(device) for name, value in vars(self).items()})

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

    def named(self, said: Signal) -> Signal:
        """A truncated signal in the student's ids; what goes to one token is added up.

        The remainder may hold some of a named token's probability: what the teacher does not name may begin with it.
        """
        assert said.ids_NK is not None and said.logp_NK is not None
        onto_NK = self.onto_T[said.ids_NK.clamp_min(0)]
        onto_NK = onto_NK.masked_fill(said.ids_NK < 0, -1)
        p_NK = said.logp_NK.double().exp()
        lost_N = p_NK.masked_fill((onto_NK >= 0) | (said.ids_NK < 0), 0.0).sum(-1)
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


def _first_token(tokenizer: Any) -> Callable[[str], int]:
    """A token of a larger vocabulary → the first of those that a tokenizer writes it as; −1 if it cannot."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    inner = tokenizer.backend_tokenizer.model
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    if model["type"] == "WordPiece":
        prefix = model["continuing_subword_prefix"]

        def longest(token: str) -> int:
            least = len(prefix) if token.startswith(prefix) else 0
            found = (vocabulary.get(token[:stop]) for stop in range(len(token), least, -1))
            return next((number for number in found if number is not None), -1)

        return longest
    unknown = model.get("unk_token") or (
        model["vocab"][model["unk_id"]][0] if model.get("unk_id") is not None else None
    )

    def written(token: str) -> int:
        parts = inner.tokenize(token)
        return -1 if not parts or parts[0].value == unknown else int(parts[0].id)

    return written


@dataclass(frozen=True)
class KeptSignal(Signal):
    """A dense signal over the teacher's outcomes that is put onto the student's as its rows are asked for.

    Args:
        inner: the teacher's own.
        onto: where its probability goes.

    """

    inner: Signal | None = None
    onto: Onto | None = None

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
            said = self.inner.rows(first, min(first + length, stop))
            assert said.logits_NV is not None
            logits_NV, weight_N = self.onto.dense(said.logits_NV)
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
        texts: an example's key → its text.
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

    def placed(self, place: Callable[[Model], Model]) -> Teacher:
        """The same with the teacher's networks where training wants them."""
        return Kept(self.inner.placed(place), self.student_tokenizer, self.onto, self.texts, self.ends)

    @torch.no_grad()
    def signal(self, batch: Batch, want: frozenset[str] = frozenset()) -> Signal:
        """What the teacher says of the batch's positions, in the student's ids.

        Args:
            batch: of the student's tokens.
            want: layers; they are those at the same tokens.

        """
        onto = self.onto.to(batch.input_ids_P.device)
        theirs = replace(batch, input_ids_P=onto.ids_V[batch.input_ids_P], labels_N=onto.ids_V[batch.labels_N])
        said = self.inner.signal(theirs, want)
        if said.dense:
            return KeptSignal(inner=said, onto=onto, layers=said.layers)
        return onto.named(said)

    def nll(self, batch: Batch) -> Tensor | None:
        """−log of the probability that the teacher gives the text of each label where it reads its own tokens, [N], nats.

        None where the texts are not there, or whole distributions: then its signal says what it gives the label.
        """
        return None if self._own is None else self._own.nll(batch)

    @cached_property
    def _own(self) -> Teacher | None:
        """The teacher where it reads its own tokens."""
        if self.texts is None or self.forms != {"dense"}:
            return None
        return aligned(self.inner, self.student_tokenizer, self.texts, ends=self.ends)
