"""Parquet files."""

from __future__ import annotations

from collections.abc import Iterator

from stillhouse.data.reading import Record, files, matching, reads
from stillhouse.errors import DataError, fail

_ENDINGS = (".parquet",)
_ROWS = 256


@reads(lambda options: matching(options["path"], _ENDINGS))
def parquet(*, path: str) -> Iterator[Record]:
    """Parquet files, a few rows at a time: each row is a record, each column a field.

    Args:
        path: a file, a folder (its .parquet files at any depth) or a glob.

    Raises:
        DataError: no file matches, or a file is not Parquet.
    """
    import pyarrow
    from pyarrow.parquet import ParquetFile

    for file in files(path, _ENDINGS):
        try:
            with ParquetFile(file) as table:
                # a row group is decoded a batch at a time, so memory does not depend on how the file was written
                for batch in table.iter_batches(batch_size=_ROWS):
                    yield from batch.to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise fail(DataError, str(file), f"is not a readable Parquet file: {error}") from None
