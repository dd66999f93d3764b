"""The one exception for bad input, and its way to the shell: one line on stderr, exit code 2."""

import errno
import sys
from collections.abc import Callable, Iterable

_DISK_ERRORS = {
    errno.ENOSPC: "no space left on the device; free some or choose another folder",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another folder",
    errno.EACCES: "permission denied; choose a folder you may write to",
    errno.EPERM: "permission denied; choose a folder you may write to",
    errno.EROFS: "the file system is read-only; choose a folder you may write to",
    errno.ENOTDIR: "a part of this path is a file, not a folder; choose another path",
}


class InputError(Exception):
    """Something the caller gave cannot be used. The message is one line and names the remedy."""


class Stopped(Exception):  # noqa: N818 (it is none)
    """Asked to end, and all saved that the same command needs to go on. The message is one line."""


def unknown(what: str, got: object, known: Iterable[object]) -> InputError:
    """An `InputError` for a name that is not one of `known`, which it lists."""
    return InputError(f"unknown {what} {got!r}; choose one of: {', '.join(map(str, known))}")


def exit_on_input_error(main: Callable[..., None], *args: object) -> None:
    """Calls `main(*args)`; an `InputError` or a disk failure becomes one line on stderr and exit code 2.

    `Stopped` becomes a line, too, and exit code 0.
    """
    try:
        main(*args)
    except Stopped as stop:
        print(stop, file=sys.stderr)
        sys.exit(0)
    except InputError as error:
        sys.exit(_report(str(error)))
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        sys.exit(_report(f"{error.filename or 'writing'}: {_DISK_ERRORS[error.errno]}"))


def _report(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2
