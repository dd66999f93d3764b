"""The shell of every command: parse flags, call one function; bad input is one line and exit code 2."""

import os
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from osp_jax.errors import InputError, exit_on_input_error

_COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "of several processes with this command: host:port of the first, or auto (TPU pod, SLURM, GKE)"
)
_PROCESSES = flags.DEFINE_integer("num_processes", None, "how many they are; not with --coordinator=auto")
_PROCESS = flags.DEFINE_integer("process_id", None, "which of them this is, from 0; likewise")
_PATIENCE = flags.DEFINE_integer("patience", 60, "seconds that they wait for each other before all are given up")


def run(main: Callable[[], None], *, keep_programs: bool = True, computes: bool = True, several: bool = False) -> None:
    """Parses the command line and calls `main()`.

    Args:
      several: may run in several processes.
      computes: on all devices; not for a command that leaves them to others.
      keep_programs: keep compiled programs in the user's cache folder, for the next run; not for a command that
        measures what it costs to compile them. Where `JAX_COMPILATION_CACHE_DIR` is set, it says.
    """
    # What libraries log on their way to an error that we answer ourselves would bury the answer.
    logging.set_verbosity(logging.FATAL)
    if keep_programs and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        _keep_programs(Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")) / "osp_jax")
    exit_on_input_error(_parse_and_call, main, computes, several)


def _keep_programs(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    # JAX warns of every program that it cannot write.
    if os.access(folder, os.W_OK):
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def _parse_and_call(main: Callable[[], None], computes: bool, several: bool) -> None:
    _parse(sys.argv)
    if _COORDINATOR.value and not several:
        raise InputError("this command runs in one process, on all devices that it has; leave --coordinator out")
    if computes:
        from osp_jax.distributed import check_same, is_first, join, using_all

        if _COORDINATOR.value:
            join(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value, _PATIENCE.value)
            check_same(re.sub(r"--?process_id[= ]\d+", "", " ".join(sys.argv[1:])), "commands")
        with using_all(), redirect_stdout(sys.stdout if is_first() else None):
            main()
    else:
        main()


def config_of(flag: flags.FlagHolder) -> Any:
    """The value of a config file flag; the file is loaded here, and may not be there.

    Raises:
      InputError: it cannot be loaded.
    """
    try:
        flag.value.keys()  # a file that could not be loaded says so at its first use
        return flag.value
    except OSError as error:
        reason = " ".join(str(error).rpartition("path]:")[2].split())
        raise InputError(
            f"the config file cannot be loaded: {reason}; give a Python file such as configs/digits.py"
        ) from error


def _parse(argv: list[str]) -> None:
    if "--help" in argv:
        app.usage(shorthelp=True, writeto_stdout=True, exitcode=0)
    try:
        rest = flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:  # an override of a field that the config does not have
        message = error.args[0].args[0] if isinstance(error.args[0], KeyError) else error.args[0]
        raise InputError(f"unknown config key {message}") from error
    except (flags.Error, TypeError, ValueError) as error:
        raise InputError(f"{error}; see --help") from error
    if len(rest) > 1:
        raise InputError(f"unexpected argument {rest[1]!r}; every option starts with --, see --help")
