"""Signals as bytes: what one position's signal becomes in the store, and back. The format is on docs/store.md.

A codec gives every position the same number of bytes in each of its columns, so that any rows are found without an index
and decoded together. It does not pack bits: the store's compression finds what little the bytes say.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stillhouse.errors import ModelError, fail
from stillhouse.types import Batch, Head, Signal

Bytes = npt.NDArray[np.uint8]
Columns = dict[str, Bytes]
"""Name → uint8 [N, bytes of a position]."""

DEPTH = 32.0
"""Nats below the likeliest outcome at which codes end: what lies deeper (a 10⁻¹⁴th of its probability) is stored as that."""

_CHUNK_BYTES = 16 * 2**20


class Codec(Protocol):
    """How a kind of signal is written and read."""

    @property
    def outcomes(self) -> int:
        """V."""
        ...

    @property
    def form(self) -> str:
        """``dense``, ``topk`` or ``sampled``, as in ``Signal``."""
        ...

    @property
    def widths(self) -> dict[str, int]:
        """Column → bytes of a position."""
        ...

    def settings(self) -> dict[str, Any]:
        """The kind and all that decides the bytes, as plain values."""
        ...

    def encode(self, signal: Signal, batch: Batch) -> Columns:
        """The bytes of a batch's positions, from a dense signal of them."""
        ...

    def decode(self, columns: Mapping[str, Bytes], device: torch.device, head: Head | None) -> Signal:
        """The signal of some rows; ``head`` is the teacher's where the kind needs it."""
        ...


@dataclass(frozen=True)
class TopK:
    """The k likeliest outcomes, likeliest first, and the remainder.

    Depth below the likeliest, d nats, becomes a code c of ``bits`` bits with d ≈ ``DEPTH`` · (c / (2^bits − 1))²: fine where
    the probability is, coarse where it is not. Codes rise along a position, so their differences are stored. Of the
    remainder r the logit log(r / (1 − r)) is stored, as float16; the named outcomes are scaled to add up to 1 − r exactly.

    Args:
        outcomes: V.
        k: outcomes to name.
        bits: of a code.

    """

    outcomes: int
    k: int = 64
    bits: int = 8
    form: ClassVar[str] = "topk"

    @property
    def named(self) -> int:
        """K: as many as asked for, or all there are."""
        return min(self.k, self.outcomes)

    @property
    def widths(self) -> dict[str, int]:
        """See ``Codec``."""
        return {**_id_widths(self.outcomes, self.named), "depth": self.named, "rest": 2}

    def settings(self) -> dict[str, Any]:
        """See ``Codec``."""
        return {"kind": "topk", "k": self.k, "bits": self.bits}

    @torch.no_grad()
    def encode(self, signal: Signal, batch: Batch) -> Columns:
        """See ``Codec``."""
        parts = []
        for logits_NV, _ in _chunks(signal, len(batch.select_N), self.outcomes):
            top_NK, ids_NK = logits_NV.topk(self.named)
            # what is left, measured and not inferred: 1 − Σ would drown in rounding where the teacher is sure
            logits_NV.scatter_(1, ids_NK, -math.inf)
            most_N1 = top_NK[:, :1]
            rest_N = logits_NV.sub_(most_N1).exp_().sum(-1).log()
            named_N = torch.logsumexp(top_NK - most_N1, -1)
            parts.append((ids_NK.cpu(), (most_N1 - top_NK).cpu(), (rest_N - named_N).cpu()))
        ids, depths, logits = zip(*parts, strict=True)
        depth_NK = torch.cat(depths).numpy()
        codes_NK = np.rint(np.sqrt(np.minimum(depth_NK, DEPTH) / DEPTH) * self._steps).astype(np.uint8)
        return {
            **_split_ids(torch.cat(ids).numpy(), self.outcomes),
            "depth": np.diff(codes_NK, axis=1, prepend=np.uint8(0)),
            "rest": _float16_bytes(torch.cat(logits).numpy()[:, None]),
        }

    def decode(self, columns: Mapping[str, Bytes], device: torch.device, head: Head | None) -> Signal:  # noqa: ARG002
        """See ``Codec``."""
        ids_NK = torch.from_numpy(_join_ids(columns, self.outcomes))
        codes_NK = torch.from_numpy(np.cumsum(columns["depth"], axis=1, dtype=np.uint8))
        logit_N = torch.from_numpy(_float16(columns["rest"])[:, 0])
        depth_NK = (codes_NK.float() / self._steps).square_().mul_(-DEPTH)
        named_N = torch.nn.functional.logsigmoid(-logit_N) - torch.logsumexp(depth_NK, -1)
        rest_N = torch.nn.functional.logsigmoid(logit_N)
        return Signal(
            ids_NK=ids_NK.to(device), logp_NK=depth_NK.add_(named_N[:, None]).to(device), rest_N=rest_N.to(device)
        )

    @property
    def _steps(self) -> int:
        return (1 << self.bits) - 1


@dataclass(frozen=True)
class Sampled:
    """Outcomes drawn with replacement: an unbiased estimate of the whole distribution.

    Of D draws from q ∝ p^t, an outcome drawn n times is estimated as n / D · p / q: its mean over draws is p. Sparse Logit
    Sampling, Anshumann et al. 2025, arXiv:2503.16870, §3. The draws follow from the example's key and the position alone.

    Args:
        outcomes: V.
        draws: D, at most 255.
        proposal: t; 1 draws from the teacher itself, less than 1 more from its tail.

    """

    outcomes: int
    draws: int = 50
    proposal: float = 1.0
    form: ClassVar[str] = "sampled"

    @property
    def widths(self) -> dict[str, int]:
        """See ``Codec``."""
        ratio = {} if self.proposal == 1.0 else {"ratio": 2 * self.draws}
        return {**_id_widths(self.outcomes, self.draws), "times": self.draws, **ratio}

    def settings(self) -> dict[str, Any]:
        """See ``Codec``."""
        return {"kind": "sampled", "draws": self.draws, "proposal": self.proposal}

    @torch.no_grad()
    def encode(self, signal: Signal, batch: Batch) -> Columns:
        """See ``Codec``."""
        uniform_ND = torch.from_numpy(uniform(batch, self.draws))
        ids, ratios = [], []
        for logits_NV, part in _chunks(signal, len(batch.select_N), self.outcomes):
            logits_NV.sub_(logits_NV.amax(-1, keepdim=True))
            total_NV = (self.proposal * logits_NV).exp_().cumsum(-1, dtype=torch.float64)
            point_ND = uniform_ND[part].to(total_NV.device) * total_NV[:, -1:]
            # right: an outcome whose interval is empty, with no probability, is never the answer
            ids_ND = torch.searchsorted(total_NV, point_ND, right=True).clamp_max_(self.outcomes - 1)
            ids_ND = ids_ND.sort(-1).values
            ids.append(ids_ND.cpu())
            if self.proposal != 1.0:  # p / q, where p = exp(l) / Σ exp(l) and q = exp(t·l) / Σ exp(t·l)
                scale_N1 = total_NV[:, -1:].log() - torch.logsumexp(logits_NV, -1, keepdim=True)
                ratios.append(((1.0 - self.proposal) * logits_NV.gather(-1, ids_ND) + scale_N1).cpu())
        drawn_ND = torch.cat(ids).numpy()
        first_ND = np.diff(drawn_ND, axis=1, prepend=-1) != 0
        place_ND = np.cumsum(first_ND, axis=1) - 1 + np.arange(len(drawn_ND))[:, None] * self.draws
        count = np.bincount(place_ND.ravel(), minlength=drawn_ND.size).reshape(drawn_ND.shape)
        each = np.zeros_like(drawn_ND)
        each.ravel()[place_ND[first_ND]] = drawn_ND[first_ND]
        columns = {**_split_ids(each, self.outcomes), "times": count.astype(np.uint8)}
        if self.proposal != 1.0:
            ratio = np.zeros(drawn_ND.shape)
            ratio.ravel()[place_ND[first_ND]] = torch.cat(ratios).numpy()[first_ND]
            columns["ratio"] = _float16_bytes(ratio)
        return columns

    def decode(self, columns: Mapping[str, Bytes], device: torch.device, head: Head | None) -> Signal:  # noqa: ARG002
        """See ``Codec``."""
        longest = int((columns["times"] > 0).sum(1).max(initial=1))
        count_NK = torch.from_numpy(columns["times"][:, :longest].astype(np.float32))
        ids_NK = torch.from_numpy(_join_ids(columns, self.outcomes)[:, :longest])
        logp_NK = torch.log(count_NK / self.draws)
        if self.proposal != 1.0:
            logp_NK = logp_NK + torch.from_numpy(_float16(columns["ratio"])[:, :longest])
        ids_NK = ids_NK.masked_fill(count_NK == 0, -1)
        rest_N = torch.full((len(ids_NK),), -math.inf)
        return Signal(ids_NK=ids_NK.to(device), logp_NK=logp_NK.to(device), rest_N=rest_N.to(device), sampled=True)


@dataclass(frozen=True)
class Hidden:
    """The hidden states before the head: with the head, the whole distribution at any temperature.

    Args:
        outcomes: V.
        width: H.
        precision: type of each number.

    """

    outcomes: int
    width: int
    precision: Literal["float16", "bfloat16", "float32"] = "float16"
    form: ClassVar[str] = "dense"

    @property
    def widths(self) -> dict[str, int]:
        """See ``Codec``."""
        return {"hidden": self.width * self._dtype.itemsize}

    def settings(self) -> dict[str, Any]:
        """See ``Codec``."""
        return {"kind": "hidden", "width": self.width, "precision": self.precision}

    @torch.no_grad()
    def encode(self, signal: Signal, batch: Batch) -> Columns:  # noqa: ARG002
        """See ``Codec``.

        Raises:
            ModelError: a state is too large for the type.

        """
        hidden_NH = signal.hidden_NH
        assert hidden_NH is not None, "label refuses this kind where the teacher speaks for other tokens"
        kept_NH = hidden_NH.to(self._dtype)
        if not bool(torch.isfinite(kept_NH).all()):
            what = f"hidden states reach {float(hidden_NH.abs().max()):.3g}, too much for {self.precision}"
            raise fail(ModelError, "teacher.precision", what, "Set teacher.precision=bfloat16 or float32.")
        return {"hidden": kept_NH.cpu().contiguous().view(torch.uint8).numpy()}

    def decode(self, columns: Mapping[str, Bytes], device: torch.device, head: Head | None) -> Signal:
        """See ``Codec``."""
        assert head is not None
        hidden_NH = torch.from_numpy(columns["hidden"]).view(self._dtype)
        return Signal(hidden_NH=hidden_NH.to(device).float(), head=head)

    @property
    def _dtype(self) -> torch.dtype:
        dtype = getattr(torch, self.precision)
        assert isinstance(dtype, torch.dtype)
        return dtype


@dataclass(frozen=True)
class Weighted:
    """Another codec's bytes, and how much the teacher's word counts at each position (``Signal.weight_N``), as a float16.

    For a teacher that speaks for a student of some of its tokens: it may have nothing to say, or only a part of its probability
    may be of what the student can say.

    Args:
        inner: how the signal itself is written.
    """

    inner: Codec

    @property
    def outcomes(self) -> int:
        """See ``Codec``."""
        return self.inner.outcomes

    @property
    def form(self) -> str:
        """See ``Codec``."""
        return self.inner.form

    @property
    def widths(self) -> dict[str, int]:
        """See ``Codec``."""
        return {**self.inner.widths, "weight": 2}

    def settings(self) -> dict[str, Any]:
        """See ``Codec``."""
        return {**self.inner.settings(), "weighted": True}

    @torch.no_grad()
    def encode(self, signal: Signal, batch: Batch) -> Columns:
        """See ``Codec``. The signal itself is written as if it counted in full."""
        noted: list[Tensor] = []
        columns = self.inner.encode(_Noting(inner=signal, noted=noted), batch)
        return {**columns, "weight": _float16_bytes(torch.cat(noted).numpy()[:, None])}

    def decode(self, columns: Mapping[str, Bytes], device: torch.device, head: Head | None) -> Signal:
        """See ``Codec``."""
        weight_N = torch.from_numpy(_float16(columns["weight"])[:, 0]).to(device)
        return replace(self.inner.decode(columns, device, head), weight_N=weight_N)


@dataclass(frozen=True)
class _Noting(Signal):
    """A signal that notes the weights of the rows it is asked for: they are known only when the logits are."""

    inner: Signal | None = None
    noted: list[Tensor] = field(default_factory=list)

    def rows(self, start: int, stop: int, out: Tensor | None = None) -> Signal:
        """See ``Signal``."""
        assert self.inner is not None
        part = self.inner.rows(start, stop, out)
        self.noted.append(torch.ones(stop - start) if part.weight_N is None else part.weight_N.float().cpu())
        return part


def codec(settings: Mapping[str, Any], outcomes: int) -> Codec:
    """The codec that ``Codec.settings`` tells of."""
    kinds: dict[str, type[Any]] = {"topk": TopK, "sampled": Sampled, "hidden": Hidden}
    options = {k: v for k, v in settings.items() if k not in ("kind", "weighted")}
    found: Codec = kinds[settings["kind"]](outcomes, **options)
    return Weighted(found) if settings.get("weighted") else found


def uniform(batch: Batch, draws: int) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1) for each position that counts, [N, draws], which its example's key and its place in it decide."""
    rows = []
    select, document = batch.select_N.cpu().numpy(), batch.document_N.cpu().numpy()
    for d, (key, offset) in enumerate(zip(batch.keys, batch.offsets_D, strict=True)):
        start, stop = batch.borders_D1[d : d + 2]
        seed = int.from_bytes(hashlib.blake2b(f"{key} {offset}".encode(), digest_size=16).digest(), "little")
        # numpy promises the raw numbers of a bit generator for ever
        raw = np.random.PCG64(np.random.SeedSequence(seed)).random_raw((stop - start) * draws)
        rows.append((raw >> np.uint64(11)).reshape(-1, draws)[select[document == d] - start] * 2.0**-53)
    return np.concatenate(rows)


def _chunks(signal: Signal, count: int, outcomes: int) -> Iterator[tuple[Tensor, slice]]:
    """The logits of a few of ``count`` positions at a time, which may be written to, and which positions they are.

    Raises:
        ModelError: they are not finite.
    """
    length = max(16, _CHUNK_BYTES // (4 * outcomes))
    buffer_NV: Tensor | None = None
    for start in range(0, count, length):
        part = slice(start, min(start + length, count))
        if buffer_NV is None and signal.hidden_NH is not None:
            buffer_NV = signal.hidden_NH.new_empty(part.stop, outcomes)
        logits_NV = signal.rows(
            part.start, part.stop, None if buffer_NV is None else buffer_NV[: part.stop - start]
        ).logits_NV
        assert logits_NV is not None, "a whole distribution"
        if not bool(torch.isfinite(logits_NV.amax(-1)).all()):
            raise fail(ModelError, "teacher", "its logits are not finite", "Set teacher.dtype=float32.")
        yield logits_NV, part


def _id_bytes(outcomes: int) -> int:
    return max(1, math.ceil((outcomes - 1).bit_length() / 8))


def _id_widths(outcomes: int, count: int) -> dict[str, int]:
    return {f"ids_{byte}": count for byte in range(_id_bytes(outcomes))}


def _split_ids(ids_NK: npt.NDArray[np.int64], outcomes: int) -> Columns:
    """Ids as one column a byte, lowest first: high bytes repeat and compress, low ones do not."""
    return {f"ids_{byte}": (ids_NK >> 8 * byte).astype(np.uint8) for byte in range(_id_bytes(outcomes))}


def _join_ids(columns: Mapping[str, Bytes], outcomes: int) -> npt.NDArray[np.int64]:
    ids = columns["ids_0"].astype(np.int64)
    for byte in range(1, _id_bytes(outcomes)):
        ids |= columns[f"ids_{byte}"].astype(np.int64) << 8 * byte
    return ids


def _float16_bytes(values: npt.NDArray[Any]) -> Bytes:
    return np.ascontiguousarray(values, dtype="<f2").view(np.uint8)


def _float16(columns: Bytes) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(columns).view("<f2").astype(np.float32)
