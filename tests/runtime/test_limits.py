"""System limits: too few open files, files that may not grow, full disks."""

import errno
import os
import resource
from contextlib import contextmanager
from pathlib import Path

import jax.numpy as jnp
import pytest

from osp_jax.runtime.arrays import save_tree
from osp_jax.runtime.errors import InputError
from osp_jax.runtime.limits import require_open_files
from osp_jax.runtime.system_errors import code_of, system_errors


@pytest.fixture
def limits(monkeypatch):
    """The limits on open files, as a list [soft, hard] that a test sets."""
    found = [0, 0]

    def change(kind, wanted):
        found[:] = wanted

    monkeypatch.setattr(resource, "getrlimit", lambda kind: tuple(found))
    monkeypatch.setattr(resource, "setrlimit", change)
    return found


@pytest.mark.parametrize("few", [16, 32, 64, 127])
def test_too_few_open_files_are_refused_with_the_command_that_raises_them(few, limits):
    limits[:] = few, few
    with pytest.raises(InputError, match=rf"at most {few} files may be open at once .* ulimit -n 4096"):
        require_open_files()


def test_the_soft_limit_is_raised_as_far_as_the_hard_one_lets(limits):
    for before, after in (((16, 1024), [1024, 1024]), ((256, 10**6), [4096, 10**6]), ((20_000, 30_000), None)):
        limits[:] = before
        require_open_files()
        assert limits == (after or list(before))
    limits[:] = 256, resource.RLIM_INFINITY
    require_open_files()
    assert limits[0] == 4096


def test_a_soft_limit_that_cannot_be_raised_stays(limits, monkeypatch):
    monkeypatch.setattr(resource, "setrlimit", lambda *_: (_ for _ in ()).throw(ValueError("not allowed")))
    limits[:] = 256, 10**6
    require_open_files()
    limits[:] = 16, 10**6
    with pytest.raises(InputError, match="at most 16 files"):
        require_open_files()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EMFILE])
def test_a_system_error_is_found_however_a_library_wraps_it(code):
    text = f'OUT_OF_RANGE: Failed writing "x": {os.strerror(code)} [os_error_code={code}]'
    inner = OSError(code, os.strerror(code))
    raised_from, while_handled = RuntimeError("cannot save"), ValueError("no checkpoint")
    raised_from.__cause__, while_handled.__context__ = inner, raised_from
    for error in (ValueError(text), inner, raised_from, while_handled, ExceptionGroup("of threads", [raised_from])):
        assert code_of(error) == code
        with pytest.raises(OSError, match=os.strerror(code)) as caught, system_errors(Path("folder")):
            raise error
        assert (caught.value.errno, caught.value.filename) == (code, "folder")


def test_other_errors_pass_as_they_are():
    for error in (ValueError("x"), InputError(os.strerror(errno.ENOSPC)), FileNotFoundError(2, "No such file", "x")):
        with pytest.raises(type(error)) as caught, system_errors(Path("folder")):
            raise error
        assert caught.value is error


@contextmanager
def files_of_at_most(size: int):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_that_may_not_grow_ends_in_an_error_of_the_system(tmp_path):
    tree = {"kernel": jnp.arange(4096.0)}
    with pytest.raises(OSError, match="File too large") as caught, files_of_at_most(2048):
        save_tree(tmp_path / "tree", tree, {})
    assert caught.value.errno == errno.EFBIG
