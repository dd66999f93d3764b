"""A fork server: imports the libraries once, then runs each command in a forked process, as `python -m` would.

The parent neither starts threads nor initialises a JAX backend, so that forking is safe.
"""

import atexit
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
LIMIT = 60.0  # seconds, after which a command counts as hanging

# Imported before the first fork; the command modules themselves define flags and are imported by each child.
_LIBRARIES = (
    "osp_jax.training.checkpoints",
    "tensorflow_datasets",
    "sklearn.datasets",
    "sklearn.model_selection",
    "rich.progress",
    "experiments.cli",
    "osp_jax.runtime.workdir",
    "osp_jax.loading",
    "osp_jax.training.loop",
    "osp_jax.audit.shadow.train",
    "osp_jax.methods",
    "osp_jax.comparison.each_class",
    "osp_jax.comparison.run",
    "osp_jax.audit.run",
    "osp_jax.report.page",
)


class Ended(NamedTuple):
    """The end of a command; `code` is negative for a signal, None for a command stopped at the limit."""

    code: int | None
    seconds: float
    stdout: str
    stderr: str


Call = Callable[..., Ended]


def start(cache: Path) -> None:
    """Imports the libraries; compiled programs are kept in `cache`. Call it before anything imports JAX."""
    cache.mkdir(parents=True, exist_ok=True)
    cache.chmod(0o777)  # children without privileges write to it too
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_COMPILATION_CACHE_DIR": str(cache.absolute()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "OPENBLAS_NUM_THREADS": "1",
        "TFDS_DATA_DIR": str((cache.parent / "no_data").absolute()),
    }
    if hasattr(os, "sched_setaffinity"):
        # With another number of threads XLA sums in another order, and results are compared bit by bit.
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for name in _LIBRARIES:
        importlib.import_module(name)
    check_forkable()


def check_forkable() -> None:
    """Raises `RuntimeError` if a fork would copy the lock of a running thread, or a backend."""
    from jax._src import xla_bridge

    tasks = Path("/proc/self/task")
    threads = len(list(tasks.iterdir())) if tasks.exists() else threading.active_count()
    if threads > 1 or xla_bridge._backends:
        raise RuntimeError(f"cannot fork: {threads} threads, backends {list(xla_bridge._backends)}")


def call(
    module: str,
    arguments: Sequence[str],
    folder: Path,
    before: Callable[[], None] | None = None,
    limit: float = LIMIT,
) -> Ended:
    """Runs `python -m module arguments` in `folder`; `before` is called in the child first."""

    def run() -> int:
        if before is not None:
            before()
        return _as_main(module, arguments)

    return _forked(run, folder, limit)


def call_for_real(module: str, arguments: Sequence[str], folder: Path) -> Ended:
    """The same by `python -m`, in a new process, which `call` imitates."""
    begin = time.monotonic()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace")
    return Ended(done.returncode, time.monotonic() - begin, done.stdout, done.stderr)


def ask(function: Callable[..., Any], folder: Path, *arguments: Any) -> Any:
    """The JSON-ready result of `function(*arguments)`, called in a child in `folder`: it may use JAX.

    Raises:
      RuntimeError: the child did not answer.
    """

    def run() -> int:
        print(f"\n{json.dumps(function(*arguments))}", flush=True)
        return 0

    ended = _forked(run, folder, LIMIT)
    if ended.code != 0:
        raise RuntimeError(f"{function.__name__} failed: {ended.stderr[-2000:]}")
    return json.loads(ended.stdout.splitlines()[-1])


def _forked(run: Callable[[], int], folder: Path, limit: float) -> Ended:
    outputs = [os.memfd_create(name) for name in ("stdout", "stderr")]
    begin = time.monotonic()
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX and Python warn about forks in processes with threads; there are none
        child = os.fork()
        if child == 0:
            _become(outputs, folder)
            _end(run)
    code = _wait(child, begin + limit)
    seconds = time.monotonic() - begin
    texts = []
    for output in outputs:
        with os.fdopen(output, "rb") as file:
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
    return Ended(code, seconds, *texts)


def _become(outputs: Sequence[int], folder: Path) -> None:
    os.setpgid(0, 0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, source in enumerate((nothing, *outputs)):
        os.dup2(source, number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 (they stay open as long as the process)
    sys.stdout = open(1, "w", encoding="utf-8", errors="strict", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.closerange(3, 64)
    os.chdir(folder)
    sys.path[0] = str(ROOT)


def _end(run: Callable[[], int]) -> None:
    """Ends the child as the interpreter would: waits for threads, calls exit handlers, flushes streams."""
    code = 1
    try:
        code = run()
        threading._shutdown()
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                code = code or 120
        os._exit(code)


def _as_main(module: str, arguments: Sequence[str]) -> int:
    from osp_jax.runtime import signals

    signals.catch()
    sys.argv = [module, *arguments]
    sys.modules.pop(module, None)
    warnings.simplefilter("ignore", DeprecationWarning)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        return 130
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _wait(child: int, end: float) -> int | None:
    pause = 0.002
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(pause)
        pause = min(2 * pause, 0.02)
