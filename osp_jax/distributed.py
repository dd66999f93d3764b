"""The only file that names devices: what runs where, and what differs between kinds of device.

Programs are written for one device. Where a mesh is in use (`using`), XLA makes of each one that runs on all devices of
the mesh: images are split over its axis `data` where they enter a program (`split_rows`), parameters are everywhere,
and what is summed over a batch, gradients and the statistics of batch norms included, is summed over all devices.
"""

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, PartitionSpec

from osp_jax.errors import InputError


def on_cpu() -> bool:
    """True where JAX computes on the host's own cores; decided once per process, by JAX itself."""
    return jax.default_backend() == "cpu"


def device_count() -> int:
    """How many devices all processes have together."""
    return jax.device_count()


def make_mesh(model: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All devices, or these, as `model` along the axis `model` (replicas of one recipe) and the rest along `data`.

    Raises:
      InputError: `model` does not divide their number.
    """
    devices = jax.devices() if devices is None else devices
    if len(devices) % model:
        raise InputError(f"{len(devices)} devices cannot hold {model} models at a time; give a divisor of their number")
    shape = len(devices) // model, model
    return jax.make_mesh(shape, ("data", "model"), axis_types=(AxisType.Auto,) * 2, devices=devices)


def using(mesh: Mesh) -> AbstractContextManager[Any]:
    """Within this context programs run on all devices of the mesh, and arrays that are made lie on all of them."""
    return jax.set_mesh(mesh)


def using_all() -> AbstractContextManager[Any]:
    """`using` a mesh of all devices along `data`; with one device nothing changes."""
    return using(make_mesh()) if device_count() > 1 else nullcontext()


def on_one_device() -> bool:
    """Whether the program that is being traced, or made, is for one device; also true inside `shard_map`."""
    return not _automatic()


def split_rows(rows: jax.Array) -> jax.Array:
    """In a program: the first axis split over `data`, where it divides; without a mesh nothing."""
    mesh = jax.sharding.get_abstract_mesh()
    if not _automatic() or rows.shape[0] % mesh.shape["data"]:
        return rows
    return jax.lax.with_sharding_constraint(rows, PartitionSpec("data"))


def everywhere(tree: Any) -> Any:
    """In a program: a pytree of which every device is to have the whole; without a mesh nothing."""
    return jax.lax.with_sharding_constraint(tree, PartitionSpec()) if _automatic() else tree


def _automatic() -> bool:
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.size > 1 and not mesh.empty and all(kind == AxisType.Auto for kind in mesh.axis_types)


def describe_device() -> str:
    """The devices in words, for the record that goes with every result."""
    devices = jax.devices()
    if on_cpu():
        return f"cpu, {_cpu_name()}, {os.cpu_count()} cores"
    return f"{len(devices)} x {devices[0].device_kind}"


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@contextmanager
def peak_memory() -> Iterator[Callable[[], int | None]]:
    """Yields a function that tells, after the block, how many bytes above its start the block needed at its peak.

    On accelerators it is None where the block stayed below an earlier peak of the process, which JAX cannot reset; on a
    CPU it is the resident memory of the process, and None where the system does not tell it (not Linux).
    """
    _memory(reset=True)
    start, earlier = _memory(reset=False)
    end = None
    yield lambda: None if None in (start, end) or (end <= earlier and not on_cpu()) else end - start
    end = _memory(reset=False)[1]


@contextmanager
def count_compilations() -> Iterator[Callable[[], int]]:
    """Yields a function that tells how many programs were compiled, or read from the cache, since the block began."""
    count = 0

    def listen(event: str, *_: Any, **__: Any) -> None:
        nonlocal count
        count += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield lambda: count
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def _memory(*, reset: bool) -> tuple[int | None, int | None]:
    """(bytes in use, peak since the last reset) of this process."""
    if not on_cpu():
        statistics = jax.local_devices()[0].memory_stats() or {}
        return statistics.get("bytes_in_use"), statistics.get("peak_bytes_in_use")
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return tuple(1024 * int(lines[name].split()[0]) for name in ("VmRSS", "VmHWM"))
    except (OSError, KeyError, ValueError):
        return None, None
