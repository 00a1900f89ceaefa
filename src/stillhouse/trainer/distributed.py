"""Several processes as one: the only file that knows ``torch.distributed``.

A run on one process never starts a process group: every function here then does the obvious thing at once. Under
``torchrun`` each process reads its own micro-batches, holds a slice of every parameter, gradient and optimiser moment
(FSDP2), and reads and writes its slice of a checkpoint.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from stillhouse.errors import RunError, StillhouseError, fail

FILE_BYTES = 1 << 26
"""About how much goes into one file of a checkpoint. The writer builds each file in memory before it writes it."""


@dataclass(frozen=True)
class Ranks:
    """Which of the processes this one is.

    Args:
        rank: its number; 0 writes what only one may write.
        world: how many there are.
        device: where it computes.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0


def start(device: str = "auto") -> Ranks:
    """Join the other processes if ``torchrun`` started several, else be alone.

    Args:
        device: ``auto`` (CUDA if there is one), ``cpu`` or ``cuda``.

    Raises:
        RunError: CUDA was asked for and is not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise fail(RunError, "trainer.device", "there is no CUDA device here", "Write device: auto or device: cpu.")
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
    rank = dist.get_rank() if dist.is_initialized() else 0
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        return Ranks(rank, world, torch.device("cuda", torch.cuda.current_device()))
    return Ranks(rank, world, torch.device("cpu"))


def stop() -> None:
    """Leave the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def leave(code: int) -> NoReturn:
    """End this process now, without Python's own shutting down; for a process that had others beside it.

    gloo's threads can outlive the group for a moment and still hold tensors. One that lets go of a tensor while the
    interpreter shuts down is ended in the middle of it, and the process aborts after all its work is done: torchrun
    would call a complete run failed.

    Args:
        code: the exit code.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def is_main() -> bool:
    """Whether this process is the one that writes and speaks."""
    return not dist.is_initialized() or dist.get_rank() == 0


def barrier() -> None:
    """Wait until every process is here."""
    if dist.is_initialized():
        dist.barrier()


def sum_over_ranks(values: Sequence[float]) -> list[float]:
    """The sum of each number over all processes, in float64; the same bits on every process."""
    if not dist.is_initialized():
        return [float(v) for v in values]
    total = torch.tensor(list(values), dtype=torch.float64, device=_device())
    dist.all_reduce(total)
    return [float(v) for v in total.tolist()]


def from_main(value: Any) -> Any:
    """What process 0 holds, on every process; plain JSON values, sent as text."""
    if not dist.is_initialized():
        return value
    text = json.dumps(value).encode() if is_main() else b""
    length = torch.tensor([len(text)], dtype=torch.int64, device=_device())
    dist.broadcast(length, 0)
    content = torch.empty(int(length), dtype=torch.uint8, device=_device())
    if is_main():
        content.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
    dist.broadcast(content, 0)
    return json.loads(content.cpu().numpy().tobytes())


def by_main(action: Callable[[], None]) -> None:
    """Do something on process 0 while the others wait; if it fails there, it fails on all.

    Raises:
        StillhouseError: what the action raised, on process 0; a RunError that repeats it on the others.
    """
    problem: StillhouseError | None = None
    if is_main():
        try:
            action()
        except StillhouseError as error:
            problem = error
    text = from_main(str(problem) if problem else None)
    if problem is not None:
        raise problem
    if text is not None:
        raise fail(RunError, "", text)


def together(action: Callable[[], None]) -> None:
    """Do something on every process; if it fails on one for want of a file or of space, it fails on all.

    Raises:
        OSError: on every process.
    """
    problem: OSError | None = None
    try:
        action()
    except OSError as error:
        problem = error
    failures = sum_over_ranks([float(problem is not None)])[0]
    if problem is not None:
        raise problem
    if failures:
        raise OSError("another process could not write")


def _device() -> torch.device:
    """Where the process group's collectives take their tensors from."""
    return torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")


def layers_of(module: nn.Module) -> list[nn.Module]:
    """The repeated layers of a model: the children of its longest list that is not inside another list."""
    best: list[nn.Module] = []
    stack = [module]
    while stack:
        for child in stack.pop().children():
            if isinstance(child, nn.ModuleList):
                best = list(child) if len(child) > len(best) else best
            else:
                stack.append(child)
    return best


def shard(module: nn.Module, layers: Iterable[nn.Module], ranks: Ranks) -> None:
    """Split a module's parameters over the processes, in place (FSDP2): each layer on its own, the rest at the root.

    The forward pass must go through ``module`` itself, or its method ``read`` if it has one: calling a part of it, such as
    the head, would skip the gathering of its weights and the reduction of its gradients.

    FSDP2 averages gradients over processes. The loss here is already divided by the count of positions of *all*
    processes, so that the sum over them is the gradient: the divisor is set to 1 and the reduction to a plain sum
    (gloo knows neither the average nor the scaled sum).

    Raises:
        RunError: the processes do not hold the same weights to begin with.
    """
    if ranks.world == 1:
        return
    # Each process keeps a slice of the weights it built itself, so they must have built the same.
    mine = sum(float(p.detach().double().abs().sum()) for p in module.parameters())
    together = sum_over_ranks([mine if rank == ranks.rank else 0.0 for rank in range(ranks.world)])
    if any(value != together[0] for value in together):
        raise fail(
            RunError,
            "torchrun",
            "the processes built students with different weights",
            "Give every process the same files and the same seed.",
        )
    mesh = init_device_mesh(ranks.device.type, (ranks.world,))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh)
    if hasattr(module, "read"):
        register_fsdp_forward_method(module, "read")
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
    # Other libraries fall back to whole copies on a CPU without a word; this must not.
    assert all(isinstance(p, DTensor) for p in module.parameters()), "a parameter escaped sharding"


def gather_again(module: nn.Module) -> None:
    """Drop gathered copies of the weights, so that the next forward pass gathers what the slices hold now."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor of a slice (collective), or the tensor itself."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def full_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """All weights, whole and on the CPU; on process 0 only if there are several (the others get an empty one).

    Collective: every process must call it.
    """
    gather_again(module)
    sharded = any(isinstance(p, DTensor) for p in module.parameters())
    options = StateDictOptions(full_state_dict=sharded, cpu_offload=sharded)
    state: dict[str, Any] = get_model_state_dict(module, options=options)
    return state


def save_tensors(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors into a folder; slices are written by the process that holds them. Collective.

    Raises:
        OSError: on every process, if one could not write.
    """
    content = {name: t.detach() if isinstance(t, DTensor) else t.detach().contiguous() for name, t in tensors.items()}
    writer = HuggingFaceStorageWriter(str(folder), fqn_to_index_mapping=_files(content), save_distributed=True)
    with _dcp_errors():
        save(dict(content), storage_writer=writer, no_dist=not dist.is_initialized())


def _files(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Tensor → number of its file, from 1, in order, filled to about ``FILE_BYTES``."""
    files: dict[str, int] = {}
    number, filled = 1, 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if filled and filled + size > FILE_BYTES:
            number, filled = number + 1, 0
        files[name] = number
        filled += size
    return files


def load_tensors(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill tensors in place with what was stored under their names, by however many processes. Collective.

    Raises:
        OSError: a file cannot be read.
    """
    # A view shares memory and drops the graph; a tensor whose strides are not plain is filled through a plain copy.
    views = {name: t.detach() for name, t in tensors.items()}
    plain = {name: t if isinstance(t, DTensor) or t.is_contiguous() else t.contiguous() for name, t in views.items()}
    with _dcp_errors():
        load(dict(plain), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=not dist.is_initialized())
    for name, view in views.items():
        if plain[name] is not view:
            view.copy_(plain[name])


def stored(folder: Path) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Name → shape and dtype of the whole tensors in a folder."""
    metadata = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {name: (tuple(m.size), m.properties.dtype) for name, m in metadata.items()}  # type: ignore[union-attr]


@contextmanager
def _dcp_errors() -> Iterator[None]:
    """Turn the collective exception of ``torch.distributed.checkpoint`` back into the error behind it."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            yield
    except CheckpointException as error:
        for cause, _ in error.failures.values():
            if isinstance(cause, OSError):
                raise cause from None
        raise OSError(str(error).splitlines()[-1]) from error
