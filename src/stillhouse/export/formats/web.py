"""A page that runs a classifier in the browser."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from stillhouse.errors import ModelError, Problem, fail
from stillhouse.export.artefact import Artefact, format_of
from stillhouse.files import atomic_folder, cache_folder
from stillhouse.find import find
from stillhouse.models import Model
from stillhouse.running import browser_program

LIBRARIES = {
    "onnxruntime-web@1.30.0": ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
    "@huggingface/tokenizers@0.2.0": ("tokenizers.min.mjs",),
}
"""Packages of registry.npmjs.org (MIT and Apache-2.0), and the files of their ``dist/`` that the page needs."""
_LIBRARIES_BYTES = 14_400_000


def _refuses(model: Model, options: dict[str, Any]) -> Problem | None:
    if not model.classifies:
        what = f"a {type(model.network).__name__} is no classifier, which is what the page runs"
        return Problem("web", what, "Export a language model with gguf or onnx.")
    if shutil.which("npm") is None and not _kept().is_dir():
        what = "needs onnxruntime-web, which npm fetches, and there is no npm"
        return Problem("web", what, "Install Node.js, which has it.")
    refused: Problem | None = find("export", "onnx").refuses(model, options)  # type: ignore[attr-defined]
    return refused


def _size(model: Model, options: dict[str, Any]) -> int:
    return _LIBRARIES_BYTES + int(find("export", "onnx").size(model, options))  # type: ignore[attr-defined]


@format_of(
    runtime_package="onnxruntime",
    extra="onnx",
    packages=("onnx", "onnxscript", "onnxruntime"),
    refuses=_refuses,
    size=_size,
)
def web(student: Model, folder: Path, *, precision: Literal["float32", "int8", "int4"] = "int8") -> Artefact:
    """A folder with index.html that runs a classifier in the browser, on any server of files; no text leaves the page.

    It holds what ``onnx`` writes, onnxruntime-web, a tokenizer's code, and classify.js, which other pages may use as well.

    Args:
        student: what to write.
        folder: where; it is there already.
        precision: of the matrices, as of ``onnx``.

    Raises:
        ModelError: no classifier, or the libraries cannot be fetched.

    """
    problem = _refuses(student, {"precision": precision, "opset": 20})
    if problem is not None:
        raise ModelError(problem)
    made: Artefact = find("export", "onnx")(student, folder, precision=precision)
    kept = _libraries()
    for names in LIBRARIES.values():
        for name in names:
            shutil.copyfile(kept / name, folder / name)
    for page in files("stillhouse.export").joinpath("page").iterdir():
        (folder / page.name).write_bytes(page.read_bytes())
    facts = (*made.facts, ("libraries", ", ".join(LIBRARIES)))
    # without a browser its graph is tested at least
    return Artefact(folder, "browser" if browser_program() else made.runtime, made.same_as, made.tolerance, facts)


def _kept() -> Path:
    """Where the libraries lie, fetched once."""
    versions = "-".join(package.rpartition("@")[2] for package in LIBRARIES)
    return cache_folder() / f"web-{versions}"


def _libraries() -> Path:
    """Fetch the libraries with npm, which compares their checksums, unless they are there.

    Raises:
        ModelError: npm cannot fetch them.

    """
    kept = _kept()
    if kept.is_dir():
        return kept
    with atomic_folder(kept) as writing, tempfile.TemporaryDirectory() as packed:
        for package, names in LIBRARIES.items():
            command = ["npm", "pack", package, "--silent", "--pack-destination", packed]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
                way_out = "The page needs the network once; afterwards they are kept."
                raise fail(ModelError, "web", f"npm cannot fetch {package}: {said}", way_out)
            with tarfile.open(Path(packed) / done.stdout.strip().splitlines()[-1]) as archive:
                for name in names:
                    member = archive.extractfile(f"package/dist/{name}")
                    assert member is not None, name
                    (writing / name).write_bytes(member.read())
    return kept
