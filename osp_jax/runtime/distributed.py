"""The only file that names devices: what runs where, and what differs between kinds of device.

Programs are written for one device. Where a mesh is in use (`using`), XLA makes of each one that runs on all devices of
the mesh: images are split over its axis `data` where they enter a program (`split_rows`), parameters are everywhere,
and what is summed over a batch, gradients and the statistics of batch norms included, is summed over all devices.
"""

import hashlib
import os
import platform
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from osp_jax.runtime.errors import InputError


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


def join(coordinator: str, processes: int | None = None, process: int | None = None, patience: int = 60) -> None:
    """Makes this process one of several that run the same command; before anything else that uses JAX.

    Args:
      coordinator: host:port of process 0, or 'auto' where the environment tells all (TPU pods, SLURM, GKE, MPI).
      processes, process: how many there are, and which this is, from 0; not with 'auto'.
      patience: seconds to wait for the others, and until one that stopped answering is given up, and all with it.

    Raises:
      InputError: numbers that do not fit, or processes that do not come.
    """
    waits = ("initialization_timeout", "heartbeat_timeout_seconds", "shutdown_timeout_seconds")
    given: dict[str, Any] = dict.fromkeys(waits, patience)
    if coordinator != "auto":
        if processes is None or process is None or not 0 <= process < processes:
            raise InputError(
                f"process {process} of {processes}: give --num_processes, and --process_id from 0 below it"
            )
        if process:
            _wait_for(coordinator, patience)
        given |= {"coordinator_address": coordinator, "num_processes": processes, "process_id": process}
    # Orbax asks that service too, with numbers of its own, after which the processes may disagree on when to stop.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(**given)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"no processes found together by {coordinator} ({reason}); start all of them") from error


def _wait_for(coordinator: str, patience: float) -> None:
    """Raises `InputError` unless it answers in time: JAX itself would abort the process without a word of Python."""
    host, _, port = coordinator.rpartition(":")
    end = time.monotonic() + patience
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=patience).close()
            return
        except ValueError as error:
            raise InputError(
                f"the coordinator {coordinator!r} is not host:port; give --coordinator=HOST:PORT"
            ) from error
        except OSError as error:
            if time.monotonic() > end:
                raise InputError(
                    f"no process 0 at {coordinator} within {patience} s ({error}); start it, or raise --patience"
                ) from error
            time.sleep(0.1)


def whole() -> Sharding:
    """Of an array that every device of the mesh in use has all of; without one, that the first device has."""
    mesh = jax.sharding.get_mesh()
    return SingleDeviceSharding(jax.devices()[0]) if mesh.empty else NamedSharding(mesh, PartitionSpec())


def place(tree: Any) -> Any:
    """Arrays of the host, the same in every process, on all devices in use; what is on devices stays as it is."""
    if jax.sharding.get_mesh().empty:
        return jax.tree.map(jnp.asarray, tree)

    def placed(leaf: Any) -> jax.Array:
        return leaf if isinstance(leaf, jax.Array) else jax.device_put(np.asarray(leaf), whole())

    return jax.tree.map(placed, tree)


def own_rows(batch: int) -> np.ndarray:
    """Which rows of a batch, split over `data`, the devices of this process have: sorted, `(rows,)`."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return np.arange(batch)
    slices = NamedSharding(mesh, PartitionSpec("data")).addressable_devices_indices_map((batch,)).values()
    return np.unique(np.concatenate([np.arange(batch)[index] for index in slices]))


def place_rows(tree: Any) -> Any:
    """Arrays of the host, the `own_rows` of this process, as arrays of all rows, split over `data`."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return jax.tree.map(jnp.asarray, tree)
    return jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("data")), tree)


def is_first() -> bool:
    """Whether this is the process that writes reports; true where there is but one."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Returns once every process has called it, with the same words."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def said_by_first(number: int) -> int:
    """What the first process gives, for a choice that all have to make alike and that each would make by its clock."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(number))) if jax.process_count() > 1 else number


def check_same(text: str, what: str) -> None:
    """Raises `InputError` on every process unless all were given the same text."""
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest()[:8], np.uint32)
    found = multihost_utils.process_allgather(digest)
    if (found != found[0]).any():
        raise InputError(f"the processes have different {what}; start all with the same command on the same code")


@contextmanager
def termination() -> Iterator[Callable[[], bool]]:
    """Yields a function that tells whether SIGTERM came, to this process or another: save, and stop.

    Several processes get the same answer to the same question: all have to ask equally often. Outside of the main
    thread, which alone hears signals, nothing comes.
    """
    came, main = threading.Event(), threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, lambda *_: came.set()) if main else None

    def came_to_any() -> bool:
        # What arrives after the question is for the next one: the others know nothing of it.
        return bool(multihost_utils.process_allgather(np.asarray(came.is_set())).any())

    try:
        yield came_to_any if jax.process_count() > 1 else came.is_set
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


def data_devices() -> int:
    """Over how many devices a batch is split."""
    return dict(jax.sharding.get_abstract_mesh().shape).get("data", 1)


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
        # A process may be bound to some of the machine's cores.
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return f"cpu, {_cpu_name()}, {cores} core{'' if cores == 1 else 's'}"
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
