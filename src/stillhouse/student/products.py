"""The products of two thin matrices that lie nearest to a matrix, where it counts what comes in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from stillhouse.models import Model
from stillhouse.student.importance import TOKENS, documents, watching


@torch.no_grad()
def split_rows(weight_VH: Tensor, counts_V: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best product for rows that are looked up, each as often as it comes.

    Of all A [V, r] and B [r, H] the ones with the least Σ_v counts_v ‖W_v − A_v B‖²: B's rows are the leading right singular
    vectors of W with its rows multiplied by √counts, and A = W Bᵀ (GroupReduce with one group, Chen et al. 2018,
    arXiv:1806.06950).

    Args:
        weight_VH: W.
        counts_V: weights of the rows, all above 0.
        rank: r.

    Returns:
        A and B; the rows of B are orthonormal.

    """
    wide_VH = weight_VH.double()
    moments_HH = (wide_VH * counts_V.double()[:, None]).t() @ wide_VH
    basis_RH = _leading(moments_HH, rank).t()
    return (wide_VH @ basis_RH.t()).to(weight_VH), basis_RH.to(weight_VH)


@torch.no_grad()
def split_map(weight_OI: Tensor, moments: Tensor | None, rank: int) -> tuple[Tensor, Tensor]:
    """The best product for a linear map y = W x of what really comes in.

    Of all U [O, r] and D [r, I] the ones with the least E‖W x − U D x‖²: U's columns are the leading eigenvectors of E[y yᵀ],
    and D = Uᵀ W (DRONE, Chen et al. 2021, "Data-aware low-rank compression for large NLP models", NeurIPS).

    Args:
        weight_OI: W.
        moments: Σ y yᵀ [O, O], or Σ x xᵀ [I, I] where that is smaller (see ``moments_of``); None for x that are alike in all
            directions: the truncated singular value decomposition of W.
        rank: r.

    Returns:
        U and D; the columns of U are orthonormal.

    """
    wide_OI = weight_OI.double()
    if moments is None:
        up_OR = torch.linalg.svd(wide_OI, full_matrices=False).U[:, :rank]
    elif _by_outputs(weight_OI):
        up_OR = _leading(moments.double(), rank)
    else:
        values_I, vectors_II = torch.linalg.eigh(moments.double())
        root_II = vectors_II * values_I.clamp_min(0.0).sqrt()
        up_OR = torch.linalg.svd(wide_OI @ root_II, full_matrices=False).U[:, :rank]
    return up_OR.to(weight_OI), (up_OR.t() @ wide_OI).to(weight_OI)


@torch.no_grad()
def moments_of(teacher: Model, names: Iterable[str], texts: Sequence[str]) -> Mapping[str, Tensor]:
    """Second moments of what linear maps say or hear on a sample, whichever is the smaller matrix.

    Args:
        teacher: whose; with its weights.
        names: of the maps in its network.
        texts: the sample.

    Returns:
        by name Σ y yᵀ over tokens, y the output without its bias, or Σ x xᵀ of the inputs.

    Raises:
        DataError: there is no text.

    """
    maps = {name: teacher.network.get_submodule(name) for name in names}
    sums: dict[str, Tensor] = {}

    def ran(name: str, args: tuple[Tensor, ...], out: Tensor) -> None:
        linear = maps[name]
        assert isinstance(linear, nn.Linear)
        if _by_outputs(linear.weight):
            seen_NX = (out if linear.bias is None else out - linear.bias).flatten(0, -2)
        else:
            seen_NX = args[0].flatten(0, -2)
        moments_XX = seen_NX.t() @ seen_NX
        sums[name] = sums[name] + moments_XX if name in sums else moments_XX

    with watching(maps, ran):
        for ids_1P in documents(teacher, texts, TOKENS):
            teacher.trunk(input_ids=ids_1P, use_cache=False)
    return sums


def _by_outputs(weight_OI: Tensor) -> bool:
    """Whether a map has no more outputs than inputs."""
    return weight_OI.shape[0] <= weight_OI.shape[1]


def _leading(moments_XX: Tensor, rank: int) -> Tensor:
    """The eigenvectors of the largest eigenvalues, [X, rank], largest first."""
    vectors_XX: Tensor = torch.linalg.eigh(moments_XX).eigenvectors
    return vectors_XX.flip(1)[:, :rank]
