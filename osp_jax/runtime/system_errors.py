"""Recovers the `OSError` of a failed system call from the errors that libraries raise for it."""

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
    """Raises `OSError` with the system's error code if an error in this context reports one, with `path` as its file.

    TensorStore, Orbax, TFDS and array_record copy the system's text ('No space left on device') into their own errors,
    or raise these while they handle that of the system.
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
    """The code of the system error that `error` is, reports or was raised from; None if there is none."""
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
