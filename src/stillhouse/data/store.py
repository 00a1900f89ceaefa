"""Arrays on disk that grow while they are written and are mapped, not read, afterwards."""

from __future__ import annotations

import io
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from stillhouse.files import write_bytes

DOCUMENT = np.dtype(
    [
        ("key", "V16"),  # hash of the text
        ("share", "<u8"),  # hash of key and seed: its place in the order of documents, and its side
        ("start", "<i8"),  # of its positions in the arrays
        ("length", "<i8"),  # positions
        ("loss", "<i8"),  # positions that carry loss
        ("bytes", "<i8"),  # UTF-8 bytes of the labels that carry loss
        ("whole", "?"),  # never cut into pieces
        ("validation", "?"),
    ]
)
"""One row a document."""

COLUMNS: dict[str, np.dtype[Any]] = {
    "inputs": np.dtype("<i4"),
    "labels": np.dtype("<i4"),
    "bytes": np.dtype("<u4"),
    "documents": DOCUMENT,
    "texts": np.dtype("u1"),
    "text_ends": np.dtype("<i8"),
}
"""Array → what it holds: inputs, labels and bytes have one entry a position, documents after one another; ``texts`` the UTF-8
bytes of all documents as they were tokenised, and ``text_ends`` where each ends in them."""


class Column:
    """A one-dimensional .npy file that is appended to; memory does not grow with it."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self.length = 0
        self._file = path.open("wb")
        self._file.write(self._header())

    def _header(self) -> bytes:
        header = io.BytesIO()
        content = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(header, content)
        return header.getvalue()

    def append(self, values: npt.NDArray[Any]) -> None:
        """Add values at the end."""
        assert values.dtype == self.dtype and values.ndim == 1, (values.dtype, values.shape)
        self._file.write(values.tobytes())
        self.length += len(values)

    def close(self) -> None:
        """Write the length into the header, for which numpy leaves room."""
        old, new = self._file.tell(), self._header()
        self._file.seek(0)
        self._file.write(new)
        assert old == len(new) + self.length * self.dtype.itemsize
        self._file.close()

    def __enter__(self) -> Column:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()


def write_array(path: Path, values: npt.NDArray[Any]) -> None:
    """Write a whole .npy file, or leave the old one as it was; a matrix column by column, so that one can be mapped alone."""
    content = io.BytesIO()
    np.save(content, np.asfortranarray(values), allow_pickle=False)
    write_bytes(path, content.getvalue())


def out_of(shares_D: npt.NDArray[np.uint64], validation: float) -> tuple[npt.NDArray[np.bool_], int | None]:
    """Which documents are held out: those whose number lies below the share; at least one, and never all.

    Args:
        shares_D: of each document a number that is as good as random.
        validation: the share to be held out.

    Returns:
        Whether each is held out; and, where its number alone would have left a side empty, the row that was moved.
    """
    out_D = shares_D < np.uint64(min(int(validation * 2.0**64), 2**64 - 1))
    moved = None
    if len(out_D) and not out_D.any():
        moved = int(np.argmin(shares_D))
        out_D[moved] = True
    if out_D.all() and len(out_D):
        moved = int(np.argmax(shares_D))
        out_D[moved] = False
    return out_D, moved


def column(folder: Path, name: str, writable: bool = False) -> np.memmap[Any, np.dtype[Any]]:
    """One of the arrays, mapped."""
    array = np.load(folder / f"{name}.npy", mmap_mode="r+" if writable else "r", allow_pickle=False)
    if not isinstance(array, np.memmap):
        raise ValueError(f"{name}.npy is no array")
    if array.dtype != COLUMNS[name]:
        raise ValueError(f"{name}.npy holds {array.dtype}, not {COLUMNS[name]}")
    return array
