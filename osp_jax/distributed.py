"""The only file that names devices: what runs where, and what differs between kinds of device."""

import os
import platform

import jax


def on_cpu() -> bool:
    """True where JAX computes on the host's own cores; decided once per process, by JAX itself."""
    return jax.default_backend() == "cpu"


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
