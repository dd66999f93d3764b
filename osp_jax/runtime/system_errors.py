"""Turns the errors that libraries make of a failed system call back into the `OSError` that it was."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from osp_jax.runtime.errors import InputError

_CODES = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EMFILE,
    errno.ENFILE,
)


@contextmanager
def system_errors(path: Path) -> Iterator[None]:
    """Raises `OSError` with the code of the system where an error of this context tells of it, and `path` as its file.

    TensorStore, Orbax, TFDS and array_record put the text of the system ('No space left on device') into an error of
    their own, or raise theirs while they handle that of the system.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if code := code_of(error):
            raise OSError(code, os.strerror(code), str(path)) from error
        raise


def code_of(error: BaseException) -> int | None:
    """The code of the system error that `error` is, tells of or was raised from; None where there is none."""
    seen: BaseException | None = error
    while seen:
        for code in _CODES:
            if (isinstance(seen, OSError) and seen.errno == code) or (
                not isinstance(seen, OSError) and os.strerror(code) in str(seen)
            ):
                return code
        for inner in seen.exceptions if isinstance(seen, BaseExceptionGroup) else ():
            if code := code_of(inner):
                return code
        seen = seen.__cause__ or seen.__context__
    return None
