"""Runs commands one after the other in one process, since a new process imports and compiles everything again.

Reads lines of JSON `[module, arguments]`, runs each as `python -m module arguments` would in a process of its own, and
answers with a line `[exit code, stdout, stderr]`.
"""

import contextlib
import gc
import json
import os
import runpy
import sys
import tempfile
import traceback
from collections.abc import Iterator

from absl import flags

from experiments import cli  # noqa: F401 (its flags belong to every command)


@contextlib.contextmanager
def only_these_flags() -> Iterator[None]:
    """Afterwards the flags of a command are undefined again: another command defines some of the same names."""
    before, modules = set(flags.FLAGS), set(sys.modules)
    try:
        yield
    finally:
        flags.FLAGS.unparse_flags()
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)
        for name in before:
            flags.FLAGS[name].unparse()
        for name in set(sys.modules) - modules:
            if name.startswith("experiments."):
                del sys.modules[name]


def run(module: str, arguments: list[str]) -> int:
    """The exit code of a command."""
    sys.argv = [module, *arguments]
    try:
        with only_these_flags():
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
            return 1
        return error.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    gc.set_threshold(100_000, 20, 20)  # as in the process of the tests
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            os.dup2(stdout.fileno(), 1)
            os.dup2(stderr.fileno(), 2)
            code = run(*json.loads(line))
            sys.stdout.flush()
            sys.stderr.flush()
            written = []
            for file in (stdout, stderr):
                file.seek(0)
                written.append(file.read().decode(errors="replace"))
        print(json.dumps([code, *written]), file=answers, flush=True)


if __name__ == "__main__":
    main()
