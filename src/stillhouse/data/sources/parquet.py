"""Parquet files."""

from __future__ import annotations

from collections.abc import Iterator

from stillhouse.data.reading import Record, Tell, files, in_turn, matching, reads, untold
from stillhouse.errors import DataError, fail

_ENDINGS = (".parquet",)
_ROWS = 256


@reads(lambda options: matching(options["path"], _ENDINGS))
def parquet(tell: Tell = untold, *, path: str) -> Iterator[Record]:
    """Parquet files, a few rows at a time: each row is a record, each column a field.

    Args:
        tell: called with the share of the rows that was read, files weighted by their size.
        path: a file, a folder (its .parquet files at any depth) or a glob.

    Raises:
        DataError: no file matches, or a file is not Parquet.
    """
    import pyarrow
    from pyarrow.parquet import ParquetFile

    for file, tell_of_it in in_turn(files(path, _ENDINGS), tell):
        try:
            with ParquetFile(file) as table:
                # a row group is decoded a batch at a time, so memory does not depend on how the file was written
                rows = 0
                for batch in table.iter_batches(batch_size=_ROWS):
                    tell_of_it(rows / table.metadata.num_rows)
                    yield from batch.to_pylist()
                    rows += batch.num_rows
        except (pyarrow.ArrowException, OSError) as error:
            raise fail(DataError, str(file), f"is not a readable Parquet file: {error}") from None
