"""A model in a GGUF file."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import transformers
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

from stillhouse import models
from stillhouse.errors import ModelError, RunError, did_you_mean, fail
from stillhouse.files import atomic_folder, cache_folder, sha256_file
from stillhouse.packages import PREFIX, inside_package
from stillhouse.progress import takes

_SECONDS = 15.0
_SECONDS_PER_BYTE = 8.0 / 98e6
"""Of the first reading. Measured with SmolLM2-135M, 98 MB of Q4_1, on two cores of a server: the header, of which the
49,152 tokens of the vocabulary are most, is read five times (check, configuration, tokenizer, model: 2.7 s each), and bringing
the weights back, saving and loading them takes 8 s."""


_AS_GPT2 = (
    "default", "exaone4", "gigachat", "gpt-2", "granite-docling", "jais", "jina-de", "jina-es", "jina-v2-de", "jina-v2-es",
    "mpt", "olmo", "phi-2", "roberta-bpe", "trillion",
)  # fmt: skip
_DIGITS_APART = ("codeshell", "command-r", "exaone", "minerva-7b", "refact", "smollm", "starcoder")
"""llama.cpp's names of rules that cut text into words before the merges of a byte-level BPE: GPT-2's, and the same with every
digit a word of its own before all else. transformers cuts both, and every rule that it does not know, as GPT-2 did."""

_READER = 2
"""Counts the changes of what is read, so that what an older version kept is read anew."""


def _first_reading(options: dict[str, Any]) -> float | None:
    """Seconds until a file that was not read before is loaded, about; None if it is kept already, or not there."""
    try:
        path = _path(options["model"])
    except ModelError:  # loading says it
        return None
    if not path.is_file() or (_kept(path) / "config.json").is_file():
        return None
    return _SECONDS + _SECONDS_PER_BYTE * path.stat().st_size


@takes(_first_reading)
def gguf(*, model: str, empty: bool = False) -> models.Model:
    """A GGUF file, its weights brought back to float32; pkg:NAME takes the one inside an installed Python package.

    Reading the format is slow (half a minute for 135 million parameters), so what was read is kept as safetensors in the
    user's cache (``XDG_CACHE_HOME``, else ``~/.cache``, in ``stillhouse/``), under the file's hash; it may be deleted any time.

    Args:
        model: the file, or ``pkg:NAME``.
        empty: only the shapes, no weights.

    """
    path = _path(model)
    if not path.is_file():
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*.gguf")]) if path.parent.is_dir() else ""
        raise fail(ModelError, "teacher.model", f"there is no file '{path}'", near)
    folder = _kept(path)
    name = re.sub(r"(\.[IQF]?\d\w*)?\.gguf$", "", path.name)
    if not (folder / "config.json").is_file():
        rule = _check_whole(path)
        read = models.load(str(path.parent), gguf_file=path.name, name=name, where="teacher.model")
        _cut_words(read.tokenizer, rule)
        try:
            with atomic_folder(folder) as writing:
                read.save(writing)
        except (OSError, RunError):  # no room, or no home: read it again next time
            return read.to("meta") if empty else read
    return models.load(str(folder), name=name, where="teacher.model", empty=empty)


def read_into(model: str) -> Path:
    """The folder that a file, or ``pkg:NAME``, is read into when it is first loaded; it may not be there yet."""
    return _kept(_path(model))


def _path(model: str) -> Path:
    return inside_package(model, "*.gguf", "teacher.model") if model.startswith(PREFIX) else Path(model)


def _kept(path: Path) -> Path:
    """Where what was read of a file is kept."""
    stat = path.stat()
    sha256 = _sha256_file(path, stat.st_size, stat.st_mtime_ns)
    return cache_folder() / f"gguf-{sha256[:16]}-transformers-{transformers.__version__}-{_READER}"


@functools.lru_cache
def _sha256_file(path: Path, _size: int, _mtime_ns: int) -> str:
    return sha256_file(path)


def _check_whole(path: Path) -> str | None:
    """Refuse a file that is no GGUF or ends before its tensors do, by its header alone.

    Returns:
        the name of the rule that cuts text into words; None where its tokenizer is no byte-level BPE.

    """
    from gguf import GGUFReader

    way_out = "Fetch the file again and compare its size with the original's."
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise fail(
                ModelError, "teacher.model", f"'{path}' is not a GGUF file", "Give a .gguf file or a model folder."
            )
    try:
        reader = GGUFReader(path)
        tensors = reader.tensors
        kind, rule = (reader.get_field(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    except Exception as error:  # the reader maps the file and fails in many ways on a short one
        raise fail(ModelError, "teacher.model", f"'{path}' is cut short or broken ({error})", way_out) from None
    end = max((int(t.data_offset) + int(t.n_bytes) for t in tensors), default=0)
    if not tensors or path.stat().st_size < end:
        raise fail(
            ModelError, "teacher.model", f"'{path}' is cut short: {path.stat().st_size:,} of {end:,} bytes", way_out
        )
    if kind is None or kind.contents() != "gpt2":
        return None
    return "default" if rule is None else str(rule.contents())


def _cut_words(tokenizer: Any, rule: str | None) -> None:
    """Cut text into words as the file says; refuse a rule that is not known: the model would run, on other tokens than it learned."""
    cuts = tokenizer.backend_tokenizer.pre_tokenizer
    if rule is None or not isinstance(cuts, ByteLevel):  # transformers knows the rule
        return
    if rule in _DIGITS_APART:
        words = ByteLevel(add_prefix_space=False, use_regex=True)
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), words])
    elif rule not in _AS_GPT2:
        what = f"the file cuts text into words by the rule '{rule}', which is not known here"
        raise fail(
            ModelError, "teacher.model", what, "Give the folder that the file was made from: it has a tokenizer.json."
        )
