"""Kills a process at each of its steps on the file system, one after another."""

import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

_STEPS = {
    "open",
    "ctypes.dlsym",
    *(f"os.{name}" for name in ("chmod", "link", "mkdir", "remove", "rename", "rmdir", "scandir", "symlink", "utime")),
}
_KILLED = 9


def run_killed_at(step: int, work: Callable[[], None]) -> bool:
    """Calls `work` in a fork that ends, without any clean-up, before its step number `step`; whether it came so far."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX warns of forks; the child does not compute
        child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, _KILLED), f"the work failed with exit code {code}"
        return code == _KILLED
    count = 0

    def watch(event: str, _: tuple) -> None:
        nonlocal count
        if event in _STEPS:
            count += 1
            if count > step:
                os._exit(_KILLED)

    try:
        sys.addaudithook(watch)
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def kills(work: Callable[[], None], prepare: Callable[[], None], every: int = 1) -> Iterator[int]:
    """Yields after each kill of `work`, each after a `prepare()`: at its first step, and then at each `every`th one."""
    step = 0
    while True:
        prepare()
        if not run_killed_at(step, work):
            assert step > 3, "the work has no steps"
            return
        yield step
        step += every


def contents(folder: Path) -> dict[str, bytes]:
    """All files below `folder`, hidden ones too, by relative name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
