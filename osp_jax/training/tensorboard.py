"""The metrics of a training as TensorBoard event files, beside `metrics.jsonl`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from osp_jax.runtime.distributed import is_first
from osp_jax.runtime.errors import InputError


@contextmanager
def event_files(folder: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that writes the metrics of an epoch, a line of `metrics.jsonl`, as scalars at its `step`.

    A metric by layer becomes `name/layer`. A run that goes on replaces what an interrupted one wrote of the same steps.

    Raises:
      InputError: tensorboardX is not installed.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        remedy = "install it: pip install 'osp_jax[tensorboard]'"
        raise InputError(f"--tensorboard needs tensorboardX ({error}); {remedy}") from error
    writer = None

    def write(metrics: dict[str, Any]) -> None:
        nonlocal writer
        if not is_first():
            return
        if writer is None:  # the suffix keeps runs apart that begin in the same second
            writer = SummaryWriter(str(folder), purge_step=metrics["step"], filename_suffix=f".{metrics['step']}")
        for name, value in metrics.items():
            layers = (
                {f"{name}/{layer}": one for layer, one in value.items()} if isinstance(value, dict) else {name: value}
            )
            for tag, one in layers.items():
                if tag != "step":
                    writer.add_scalar(tag, one, metrics["step"])
        writer.flush()

    try:
        yield write
    finally:
        if writer:
            writer.close()
