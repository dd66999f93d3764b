"""Ctrl-C and SIGTERM end a command with one line, at any moment, even in code that swallows exceptions.

The first signal raises `Ended` in the main thread, so that files are closed and child processes end; after it, nothing
else is written to stderr. Python loses an exception raised within a callback of C++ code or of the garbage collector:
it is raised again, and a thread ends the process after a few seconds. A second signal ends it immediately, as does one
before the command begins or after it ends. A training handles SIGTERM itself and saves its state
(`distributed.termination`).
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
_GRACE = 5.0  # seconds for cleanup
_UNTOUCHED = (signal.SIG_DFL, signal.default_int_handler)  # signals that the caller ignores stay ignored

_came: list[int] = []
_may_raise, _lost = threading.Event(), threading.Event()


class Ended(KeyboardInterrupt):
    """A signal arrived. Libraries handle it like Ctrl-C."""


def catch_for(package: str) -> None:
    """Calls `catch` if the process was started as `python -m package...`; call it before slow imports."""
    started = sys.orig_argv[1:]
    if "-m" in started[:-1] and started[started.index("-m") + 1].startswith(package):
        catch()


def catch() -> None:
    """Makes SIGINT and SIGTERM end this process with one line."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in CODES:
        if signal.getsignal(number) in _UNTOUCHED:
            signal.signal(number, _on_signal)
    sys.unraisablehook = _raise_again
    read, write = os.pipe()
    os.set_blocking(write, False)
    # The main thread may be inside a program compiled by XLA, where no Python handler runs.
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_end_late, args=(read,), daemon=True, name="signals").start()


def interruptible(begun: bool) -> None:
    """Sets whether a signal raises an exception; otherwise it ends the process immediately."""
    (_may_raise.set if begun else _may_raise.clear)()


def arrived() -> bool:
    """Whether a signal that ends this process arrived."""
    return bool(_came)


def exit_if_signalled() -> None:
    """Ends the process with one line if a signal arrived, without waiting for running threads."""
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
    """Whether a module is being imported: there is nothing to clean up yet, and extensions crash on an exception."""
    while frame:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _raise_again(lost: Any) -> None:
    """`sys.unraisablehook`, for exceptions that Python cannot raise at their origin."""
    if _is_late_write(lost):
        return
    if not isinstance(lost.exc_value, Ended):
        sys.__unraisablehook__(lost)
    elif _came:
        _lost.set()
        # Delayed, because the exception would be lost again within this function.
        again = threading.Timer(0.05, signal.pthread_kill, (threading.main_thread().ident, _came[0]))
        again.daemon = True
        again.start()


def _is_late_write(lost: Any) -> bool:
    """Whether TensorStore reports a write to an event loop that Orbax closed after an earlier failed write.

    The failure itself is raised in the main thread; these reports would hide its line.
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
    """Writes the line and silences stderr, since libraries print exceptions that they catch."""
    with contextlib.suppress(OSError):
        cursor = "\x1b[?25h" if os.isatty(2) else ""  # shows the cursor, which a progress bar may have hidden
        os.write(2, f"{cursor}{_WORDS[signal.Signals(number)]}\n".encode())
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
