"""Ctrl-C and SIGTERM end a command in one line, at any moment and whatever swallows exceptions.

The first signal raises `Ended` in the main thread, so that files are closed and children end; from then on nothing is
written to stderr. Python loses an exception that is raised within a callback of C++ code or of the garbage collector:
it is raised again, and a thread ends the process a few seconds later if it is still there. A second signal ends it at
once, and so does one that comes before the command has begun or after it has ended. A training takes SIGTERM itself, to
save its state (`distributed.termination`).
"""

import contextlib
import os
import signal
import sys
import threading
import time
from typing import Any

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
_GRACE = 5.0  # seconds for what has to be closed
_UNTOUCHED = (signal.SIG_DFL, signal.default_int_handler)  # a signal that the caller has us ignore stays ignored

_came: list[int] = []
_may_raise, _lost = threading.Event(), threading.Event()


class Ended(KeyboardInterrupt):
    """A signal came. Libraries treat it as they do Ctrl-C."""


def catch_for(package: str) -> None:
    """`catch`, in a process that was started as `python -m package...`; called first, before what takes long."""
    started = sys.orig_argv[1:]
    if "-m" in started[:-1] and started[started.index("-m") + 1].startswith(package):
        catch()


def catch() -> None:
    """From now on SIGINT and SIGTERM end this process in one line."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in CODES:
        if signal.getsignal(number) in _UNTOUCHED:
            signal.signal(number, _on_signal)
    sys.unraisablehook = _raise_again
    read, write = os.pipe()
    os.set_blocking(write, False)
    # The main thread may be within a program that XLA compiles, where no handler of Python runs.
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_end_late, args=(read,), daemon=True, name="signals").start()


def interruptible(begun: bool) -> None:
    """Whether a signal raises an exception; otherwise it ends the process at once."""
    (_may_raise.set if begun else _may_raise.clear)()


def came() -> bool:
    """Whether a signal came that this process is to end for."""
    return bool(_came)


def leave_if_one_came() -> None:
    """Ends the process with one line if a signal came; threads that still run are not waited for."""
    if _came:
        _leave(_came[0])


def _on_signal(number: int, frame: Any) -> None:
    again = _lost.is_set()
    _lost.clear()
    if not _may_raise.is_set() or (_came and not again) or _is_importing(frame):
        _leave(number)
    if not again:
        _say(number)
        _came.append(number)
    raise Ended(_WORDS[signal.Signals(number)])


def _is_importing(frame: Any) -> bool:
    """Whether a module is being imported: there is nothing to close yet, and extensions crash on an exception."""
    while frame:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _raise_again(lost: Any) -> None:
    """`sys.unraisablehook`: of exceptions that Python cannot raise where they came up."""
    if _is_late_write(lost):
        return
    if not isinstance(lost.exc_value, Ended):
        sys.__unraisablehook__(lost)
    elif _came:
        _lost.set()
        # A little later: within this function the exception would be lost again.
        again = threading.Timer(0.05, signal.pthread_kill, (threading.main_thread().ident, _came[0]))
        again.daemon = True
        again.start()


def _is_late_write(lost: Any) -> bool:
    """Whether TensorStore reports a write to an event loop that Orbax closed when an earlier write failed.

    The failure itself is raised in the main thread; these reports would bury its line.
    """
    return lost.object is None and isinstance(lost.exc_value, RuntimeError) and "loop is closed" in str(lost.exc_value)


def _end_late(read: int) -> None:
    while numbers := os.read(read, 64):
        for number in numbers:
            if number in CODES and signal.getsignal(number) is _on_signal:
                time.sleep(_GRACE)
                _leave(number)


def _leave(number: int) -> None:
    if not _came:
        _say(number)
    os._exit(CODES[signal.Signals(number)])


def _say(number: int) -> None:
    """Writes the line, and lets nobody write another to stderr: libraries print what they catch."""
    with contextlib.suppress(OSError):
        cursor = "\x1b[?25h" if os.isatty(2) else ""  # a progress bar may have hidden it
        os.write(2, f"{cursor}{_WORDS[signal.Signals(number)]}\n".encode())
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
