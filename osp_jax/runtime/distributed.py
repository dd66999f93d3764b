"""Devices and processes: the only module that depends on their kind and number.

Programs are written for one device. Under a context-managed mesh (`using`), XLA runs each on all devices of the mesh:
images are split over its axis `data` where they enter a program (`split_rows`), parameters are replicated, and sums
over a batch, including gradients and batch-norm statistics, are over all devices.
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
    """Whether JAX runs on the CPU; JAX decides this once per process."""
    return jax.default_backend() == "cpu"


def device_count() -> int:
    """The number of devices of all processes."""
    return jax.device_count()


def make_mesh(model: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of all devices, or of `devices`: `model` along the axis `model` (replicas of one recipe), the rest along
    `data`.

    Raises:
      InputError: `model` does not divide their number.
    """
    devices = jax.devices() if devices is None else devices
    if len(devices) % model:
        raise InputError(f"{len(devices)} devices cannot hold {model} models at a time; give a divisor of their number")
    shape = len(devices) // model, model
    return jax.make_mesh(shape, ("data", "model"), axis_types=(AxisType.Auto,) * 2, devices=devices)


def using(mesh: Mesh) -> AbstractContextManager[Any]:
    """In this context, programs run and arrays are created on all devices of the mesh."""
    return jax.set_mesh(mesh)


def using_all() -> AbstractContextManager[Any]:
    """`using` a mesh of all devices along `data`; has no effect with one device."""
    return using(make_mesh()) if device_count() > 1 else nullcontext()


def join(coordinator: str, processes: int | None = None, process: int | None = None, patience: int = 60) -> None:
    """Joins this process with others that run the same command; call it before anything else that uses JAX.

    Args:
      coordinator: host:port of process 0, or 'auto' if the environment provides everything (TPU pods, SLURM, GKE, MPI).
      processes, process: the number of processes and the number of this one, from 0; not with 'auto'.
      patience: seconds to wait for the others, and for one that stops responding before all processes are aborted.

    Raises:
      InputError: the numbers are inconsistent, or the other processes do not join.
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
    # Orbax also uses that service, with its own numbers, after which the processes may disagree on when to stop.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(**given)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"the processes do not connect through {coordinator} ({reason}); start them all") from error


def _wait_for(coordinator: str, patience: float) -> None:
    """Raises `InputError` unless the coordinator responds in time; JAX itself would abort the process."""
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
    """The sharding of a fully replicated array on the mesh in use; without a mesh, of an array on the first device."""
    mesh = jax.sharding.get_mesh()
    return SingleDeviceSharding(jax.devices()[0]) if mesh.empty else NamedSharding(mesh, PartitionSpec())


def place(tree: Any) -> Any:
    """Puts host arrays, the same in every process, on all devices in use; device arrays are unchanged."""
    if jax.sharding.get_mesh().empty:
        return jax.tree.map(jnp.asarray, tree)

    def placed(leaf: Any) -> jax.Array:
        return leaf if isinstance(leaf, jax.Array) else jax.device_put(np.asarray(leaf), whole())

    return jax.tree.map(placed, tree)


def own_rows(batch: int) -> np.ndarray:
    """The rows of a batch, split over `data`, that are on devices of this process: sorted, `(rows,)`."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return np.arange(batch)
    slices = NamedSharding(mesh, PartitionSpec("data")).addressable_devices_indices_map((batch,)).values()
    return np.unique(np.concatenate([np.arange(batch)[index] for index in slices]))


def place_rows(tree: Any) -> Any:
    """Combines host arrays, the `own_rows` of each process, into arrays of all rows, split over `data`."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return jax.tree.map(jnp.asarray, tree)
    return jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("data")), tree)


def is_first() -> bool:
    """Whether this process writes reports; always true for a single process."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Blocks until every process has called it with the same text."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def broadcast_from_first(number: int) -> int:
    """Returns the first process's `number` in every process, for decisions that depend on a local clock."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(number))) if jax.process_count() > 1 else number


def check_same(text: str, what: str) -> None:
    """Raises `InputError` in every process unless all pass the same text."""
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest()[:8], np.uint32)
    found = multihost_utils.process_allgather(digest)
    if (found != found[0]).any():
        raise InputError(f"the processes have different {what}; start all with the same command on the same code")


@contextmanager
def termination() -> Iterator[Callable[[], bool]]:
    """Yields a function that returns whether any process received SIGTERM, so that the caller can save and stop.

    All processes get the same answers, so they must call it equally often. Outside of the main thread, which receives
    the signals, it returns False.
    """
    came, main = threading.Event(), threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, lambda *_: came.set()) if main else None

    def arrived_anywhere() -> bool:
        # A signal that arrives after this call counts in the next: the other processes do not know of it yet.
        return bool(multihost_utils.process_allgather(np.asarray(came.is_set())).any())

    try:
        yield arrived_anywhere if jax.process_count() > 1 else came.is_set
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


def data_devices() -> int:
    """The number of devices that a batch is split over."""
    return dict(jax.sharding.get_abstract_mesh().shape).get("data", 1)


def on_one_device() -> bool:
    """Whether the program being traced or created is for one device; also true inside `shard_map`."""
    return not _automatic()


def split_rows(rows: jax.Array) -> jax.Array:
    """Splits the first axis over `data`, if that divides it; use it in a program. Has no effect without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    if not _automatic() or rows.shape[0] % mesh.shape["data"]:
        return rows
    return jax.lax.with_sharding_constraint(rows, PartitionSpec("data"))


def everywhere(tree: Any) -> Any:
    """Replicates a pytree on every device; use it in a program. Has no effect without a mesh."""
    return jax.lax.with_sharding_constraint(tree, PartitionSpec()) if _automatic() else tree


def _automatic() -> bool:
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.size > 1 and not mesh.empty and all(kind == AxisType.Auto for kind in mesh.axis_types)


def describe_device() -> str:
    """A description of the devices, recorded with every result."""
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
    """Yields a function that returns, after the block, its peak memory above the level at its start, in bytes.

    On accelerators it returns None if the block stayed below an earlier peak of the process, which JAX cannot reset.
    On a CPU it is the resident memory of the process, or None on systems that do not report it (other than Linux).
    """
    _memory(reset=True)
    start, earlier = _memory(reset=False)
    end = None
    yield lambda: None if None in (start, end) or (end <= earlier and not on_cpu()) else end - start
    end = _memory(reset=False)[1]


@contextmanager
def count_compilations() -> Iterator[Callable[[], int]]:
    """Yields a function that returns the number of programs compiled, or read from the cache, since the block began."""
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
