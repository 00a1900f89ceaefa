"""Datasets of the Hugging Face hub, or of the `datasets` library on this disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stillhouse.data.reading import Record, Tell, reads, untold
from stillhouse.errors import DataError, did_you_mean, fail


def _inputs(options: dict[str, Any]) -> list[Path]:
    place = Path(options["dataset"])
    return sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else []


@reads(_inputs)
def hub(
    tell: Tell = untold,
    *,
    dataset: str,
    config: str | None = None,
    split: str = "train",
    streaming: bool = True,
    revision: str | None = None,
) -> Iterator[Record]:
    """A dataset of the Hugging Face hub, or a local folder of one; code in a dataset is never run.

    Args:
        tell: called with the share of the rows that was read; never if it is streamed, as its length is not known then.
        dataset: an id such as ``HuggingFaceFW/fineweb-edu``; a folder of data files; or a folder that
            ``Dataset.save_to_disk`` has written.
        config: which of the dataset's configurations.
        split: which of its splits.
        streaming: read it while it is fetched; false fetches all of it into the cache first.
        revision: a commit or tag of the hub. Without one, a later rebuild may see other data.

    Raises:
        DataError: there is no such dataset, configuration or split, or the hub cannot be reached.
    """
    try:
        rows = _load(dataset, config, split, streaming, revision)
        length = len(rows) if hasattr(rows, "__len__") else None
        for number, row in enumerate(rows):
            if length:
                tell(number / length)
            yield dict(row)
        tell(1.0)
    except DataError:
        raise
    # `datasets` has no common base for what it raises; each of these carries a message made for its user
    except (ConnectionError, TimeoutError) as error:
        way_out = "Go online, or fetch the dataset elsewhere and name its folder (or use the source parquet)."
        raise fail(DataError, dataset, f"the hub cannot be reached: {_first_line(error)}", way_out) from None
    except (OSError, ValueError, RuntimeError, KeyError, NotImplementedError) as error:
        raise fail(
            DataError,
            dataset,
            f"cannot be read as a dataset: {_first_line(error)}",
            "Check the names of dataset, config and split on its page; datasets that need code cannot be used.",
        ) from None


def _load(dataset: str, config: str | None, split: str, streaming: bool, revision: str | None) -> Any:
    import datasets

    place = Path(dataset)
    if (place / "dataset_dict.json").is_file() or (place / "state.json").is_file():
        saved = datasets.load_from_disk(dataset)
        if not isinstance(saved, datasets.DatasetDict):
            return saved
        if split not in saved:
            raise fail(DataError, dataset, f"has no split '{split}'", did_you_mean(split, list(saved)))
        return saved[split]
    return datasets.load_dataset(dataset, config, split=split, streaming=streaming, revision=revision)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
