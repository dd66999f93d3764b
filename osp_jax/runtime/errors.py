"""The exception for invalid input, and the exit of a command: one line on stderr, and an exit code.

0: done. 2: invalid input, or a machine that cannot run the command. 3: refused, because the result would do harm.
130: Ctrl-C. 143: SIGTERM. 141: closed output pipe. 1, with a traceback: a bug of osp_jax.
"""

import contextlib
import errno
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable

from osp_jax.runtime import signals

INPUT, REFUSED, INTERRUPTED, PIPE_CLOSED, STOPPED = 2, 3, 130, 141, 143

# Control characters, direction and line marks, and surrogates, which stand for bytes that are not UTF-8.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_VALUE, _WORD, _LINE = 80, 300, 900  # longest value, word and message to show, in characters

_DISK_ERRORS = {
    errno.ENOSPC: "no space left on the device; free some or choose another folder",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another folder",
    errno.EFBIG: "the file grows larger than this file system or user may write; choose another folder",
    errno.EIO: "the disk failed to read or write; choose another folder",
    errno.EACCES: "permission denied; choose a folder you may write to",
    errno.EPERM: "permission denied; choose a folder you may write to",
    errno.EROFS: "the file system is read-only; choose a folder you may write to",
    errno.ENOTDIR: "a part of this path is a file, not a folder; choose another path",
    errno.EISDIR: "this is a folder where a file is needed; choose another path",
    errno.EEXIST: "this exists already and is no folder; choose another path",
    errno.ENOTEMPTY: "this folder is not empty; choose another path",
    errno.ELOOP: "the links of this path lead in a circle; choose another path",
    errno.ENAMETOOLONG: "this name is too long for the file system; choose a shorter one",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n)",
    errno.ENFILE: "too many open files on this machine; close some",
    errno.ENOMEM: "out of memory; close other programs or take a machine with more",
}


class InputError(Exception):
    """Invalid input from the caller. The message is one line and names the remedy."""

    exit_code = INPUT


class Stopped(Exception):  # noqa: N818 (not an error)
    """Stopped by SIGTERM after saving all that the same command needs to resume. The message is one line."""


def unknown(what: str, got: object, known: Iterable[object]) -> InputError:
    """An `InputError` for a name that is not one of `known`, which it lists."""
    return InputError(f"unknown {what} {shown(got)}; choose one of: {', '.join(map(str, known))}")


def printable(text: str) -> str:
    """Escapes control characters and broken Unicode, which a terminal would interpret or cannot encode."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def shown(value: object, most: int = _VALUE) -> str:
    """`repr(value)` for a message: printable, and shortened in the middle to at most `most` characters."""
    return _cut(printable(repr(value)), most)


def one_line(message: str) -> str:
    """A message on one line without control characters, with long words and long text shortened."""
    words = (_cut(printable(word), _WORD) for word in message.split())
    return _cut(" ".join(words), _LINE)


def exit_on_input_error(main: Callable[..., None], *args: object) -> None:
    """Calls `main(*args)`; errors caused by the user or the machine end the process with one line, as described above.

    A signal that `main` swallowed still ends the process after `main` returns.
    """
    try:
        signals.interruptible(True)
        main(*args)
        _flush()
        signals.interruptible(False)
    except SystemExit as error:
        signals.interruptible(False)
        with contextlib.suppress(OSError):
            _flush()
            raise
        raise SystemExit(error.code or PIPE_CLOSED) from None
    except BaseException as error:
        signals.interruptible(False)
        answer = (None, "") if signals.arrived() else _answer(error)
        if answer is None:
            raise
        code, line = answer
        # Suppresses warnings about leftovers, such as coroutines that were never awaited, so that one line is printed.
        warnings.simplefilter("ignore")
    else:
        code, line = 0, ""
    signals.exit_if_signalled()
    if code:
        if line:
            with contextlib.suppress(OSError):
                print(one_line(line), file=sys.stderr)
        with contextlib.suppress(OSError):
            _flush()
        sys.exit(code)


def _answer(error: BaseException) -> tuple[int, str] | None:
    """(exit code, line) for an error caused by the user or the machine; None for a bug."""
    match error:
        case KeyboardInterrupt():
            return INTERRUPTED, "interrupted"
        case Stopped():
            return STOPPED, str(error)
        case InputError():
            return error.exit_code, f"error: {error}"
        case BrokenPipeError():
            return PIPE_CLOSED, ""
        case OSError() if error.errno in _DISK_ERRORS:
            return INPUT, f"error: {error.filename or 'writing'}: {_DISK_ERRORS[error.errno]}"
    # XLA's own error type; JAX is not imported for it.
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error)):
        reason = _cut(" ".join(str(error).split()).removeprefix("RESOURCE_EXHAUSTED: "), _VALUE)
        remedy = "lower the batch size, the width or the image size, or take a machine with more memory"
        return INPUT, f"error: out of memory{f' ({reason})' if reason else ''}; {remedy}"
    return None


def _flush() -> None:
    """Flushes the output; if that fails, discards the rest, so that the interpreter exits silently."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    tail = most // 3
    return f"{text[: most - tail - 5]} ... {text[-tail:]}"
