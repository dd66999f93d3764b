"""Runs an app with Flower's own processes on this machine: a SuperLink, and a SuperNode for each client.

They communicate over 127.0.0.1 without encryption, install nothing, report nothing, and are always stopped. Each
message starts a Python process on the client's side, so an exchange takes seconds even for a small network.
"""

import contextlib
import json
import os
import socket
import subprocess
import sysconfig
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from osp_jax.runtime.errors import InputError

_PAUSE, _GRACE = 0.2, 3.0  # seconds; a signal leaves 5 for cleanup (`runtime.signals`)
_LINES = 30  # lines of a failed process's log to show

_PROJECT = """\
[project]
name = "osp-jax-app"
version = "0.1.0"
description = "A federation of osp_jax"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "osp-jax"

[tool.flwr.app.components]
serverapp = "{module}:server"
clientapp = "{module}:client"

[tool.flwr.app.config]
{config}
"""

_CONNECTION = """\
[superlink]
default = "loopback"

[superlink.loopback]
address = "127.0.0.1:{port}"
insecure = true
"""


def run_app(module: str, config: Mapping[str, str], clients: int, folder: Path, seconds: float) -> None:
    """Runs the ServerApp `server` and the ClientApp `client` of an installed module with one node per client.

    Args:
      config: Flower's run config, texts by name.
      clients: number of clients; their `partition-id` are 0, 1, ...
      folder: new folder for logs, keys and Flower's files.
      seconds: time limit of the run.

    Raises:
      InputError: the run exceeded the limit.
      RuntimeError: a process failed; with the end of its log.
    """
    end = time.monotonic() + seconds
    app, home = folder / "app", folder / "home"
    for path in (app, home):
        path.mkdir(parents=True)
    entries = "\n".join(f"{name} = {json.dumps(value)}" for name, value in config.items())
    (app / "pyproject.toml").write_text(_PROJECT.format(module=module, config=entries), encoding="utf-8")
    link, *ports = _free_ports(1 + clients)
    (home / "config.toml").write_text(_CONNECTION.format(port=link), encoding="utf-8")
    started: list[subprocess.Popen] = []
    try:
        log = folder / "flower-superlink.log"
        started += [_start("flower-superlink", log, f"--port={link}", "--disable-runtime-dependency-installation")]
        _wait_for(link, started[0], log, end)
        for number, port in enumerate(ports):
            given = f"--superlink=127.0.0.1:{link}", f"--port={port}", f"--node-config=partition-id={number}"
            started += [_start("flower-supernode", folder / f"node{number}.log", *given)]
        started += [_start("flwr", folder / "flwr.log", "run", str(app), "loopback", "--stream")]
        if code := started[-1].wait(max(end - time.monotonic(), 0)):
            raise RuntimeError(f"flwr run ended with {code}:\n{log_end(folder / 'flwr.log')}")
    except subprocess.TimeoutExpired as error:
        message = f"the run over Flower took longer than {seconds:.0f} s; give it more minutes, or fewer rounds"
        raise InputError(message) from error
    finally:
        stop(started)


def log_end(path: Path) -> str:
    """The last lines of a log."""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-_LINES:])


def _start(program: str, log: Path, *arguments: str) -> subprocess.Popen:
    """Starts a program of Flower that writes to a log."""
    secure = [] if program == "flwr" else ["--insecure"]
    command = [str(Path(sysconfig.get_path("scripts")) / program), *arguments, *secure]
    with log.open("wb") as file:
        given = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, env=_environment(log.parent / "home"), **given)


def _environment(home: Path) -> dict[str, str]:
    paths = [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")]
    programs = [sysconfig.get_path("scripts"), os.environ.get("PATH", "")]
    shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # all processes share an accelerator's memory
    own = {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": os.pathsep.join(filter(None, programs)),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    return shared | os.environ | own


def stop(processes: Sequence[subprocess.Popen], grace: float = _GRACE) -> None:
    """Terminates processes and all their children, and kills those that remain after `grace` seconds."""
    family = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            one = psutil.Process(process.pid)
            family += [one, *one.children(recursive=True)]
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                end(member)
        last = time.monotonic() + grace
        while (family := list(filter(runs, family))) and time.monotonic() < last:
            time.sleep(_PAUSE)
    for process in processes:
        process.wait()


def runs(process: psutil.Process) -> bool:
    """Whether a process is running; a zombie is not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _wait_for(port: int, process: subprocess.Popen, log: Path, end: float) -> None:
    while process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if time.monotonic() > end:
            raise InputError("Flower's SuperLink did not start in time; give it more minutes")
        time.sleep(_PAUSE)
    raise RuntimeError(f"flower-superlink ended with {process.returncode}:\n{log_end(log)}")
