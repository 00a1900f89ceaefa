"""Numbers of each step for TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from stillhouse.errors import RunError, fail


def tensorboard(
    folder: Path, step: int, *, path: str | None = None
) -> Callable[[int, Mapping[str, float] | None], None]:
    """Write event files for ``tensorboard --logdir``.

    Args:
        folder: the run's folder.
        step: steps already taken: later ones, of a run that was interrupted, are hidden.
        path: where to write; ``tensorboard`` in the run's folder if not given.

    Returns:
        A function of step and numbers; called with None at the end.

    Raises:
        RunError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise fail(
            RunError, "trainer.loggers", f"tensorboard cannot be used: {error}", "pip install 'stillhouse[tensorboard]'"
        ) from None
    writer = SummaryWriter(path or str(folder / "tensorboard"), purge_step=step + 1)

    def log(step: int, metrics: Mapping[str, float] | None) -> None:
        if metrics is None:
            writer.close()
            return
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)

    return log
