"""Machines that lack something: permissions, disk space, open files, a home, a readable model."""

import ctypes
import os
import resource
import struct
from collections.abc import Callable
from pathlib import Path

from benchmarks.faults.artifacts import TRAIN
from benchmarks.faults.malformed import Case

_CAPABILITIES = 0x20080522  # the version of capset's arguments
_NEW_MOUNTS, _PRIVATE = 0x20000, 0x44000  # CLONE_NEWNS; MS_REC | MS_PRIVATE
_COMMANDS = {
    "train": ((*TRAIN, "--workdir=new/run"), ()),
    "unlearn": (("--workdir=model", "--forget=3", "--method=logit-mask", "--out=new/run"), ("model",)),
    "sweep": (("--workdir=model", "--methods=logit-mask", "--out=new/run"), ("model",)),
    "shadows": (("--workdir=model", "--forget=3", "--number=4", "--epochs=1", "--out=new/run"), ("model",)),
    "audits": (("--evaluations=audits", "--out=new/run"), ("audits",)),
    "paper": (("--workdir=new/run", "--minutes=0.1"), ()),
    "prepare": (("cifar10", "--dir=new/run", "--archive=plain"), ()),
}


def cases() -> list[Case]:
    found, may_mount = [], _may_mount()
    for command, (arguments, start) in _COMMANDS.items():
        found.append(
            Case(f"machine/{command}: no right to write", command, arguments, start, _closed, _without_privileges)
        )
        found.append(
            Case(
                f"machine/{command}: 16 open files",
                command,
                arguments,
                start,
                before=_files(16),
                may_work=command in ("prepare", "audits", "paper"),
            )
        )
        found.append(
            Case(
                f"machine/{command}: no home",
                command,
                (*arguments[:-1], arguments[-1]),
                start,
                before=_homeless,
                may_work=True,
            )
            if command != "paper"
            else Case(
                "machine/paper: no home, unknown entry", command, (*arguments, "--entries=x"), start, before=_homeless
            )
        )
        for kilobytes in (16, 128) if may_mount else ():
            fits = kilobytes > 16 and command in ("sweep", "audits")
            title = f"machine/{command}: a disk of {kilobytes} KB"
            found.append(Case(title, command, arguments, start, _closed, _full(kilobytes), may_work=fits, late=True))
        if command not in ("paper", "prepare"):
            found.append(
                Case(
                    f"machine/{command}: files of at most 512 bytes",
                    command,
                    arguments,
                    start,
                    before=_size(512),
                    late=True,
                )
            )
            found.append(
                Case(
                    f"machine/{command}: files of at most 4 KB",
                    command,
                    arguments,
                    start,
                    before=_size(4096),
                    may_work=command in ("sweep", "audits"),
                    late=True,
                )
            )
    for command, folder in (("unlearn", "model"), ("sweep", "model"), ("shadows", "model")):
        arguments, start = _COMMANDS[command]
        for name in ("", "/config.json", "/checkpoints", "/SHA256SUMS"):
            title = f"machine/{command}: no right to read {folder}{name}"
            found.append(Case(title, command, arguments, start, _unreadable(f"{folder}{name}"), _without_privileges))
    arguments = ("--workdir=unlearned", "--audit=none")
    found.append(
        Case(
            "machine/eval: no right to write",
            "eval",
            arguments,
            ("model", "unlearned"),
            _closed_result,
            _without_privileges,
        )
    )
    found.append(
        Case(
            "machine/eval: files of at most 512 bytes",
            "eval",
            arguments,
            ("model", "unlearned"),
            before=_size(512),
            late=True,
        )
    )
    found.append(
        Case(
            "machine/train: a config without the right to read",
            "train",
            (*TRAIN, "--workdir=new"),
            (),
            _unreadable("tiny.py"),
            _without_privileges,
        )
    )
    return found


def _closed(folder: Path) -> None:
    (folder / "new").mkdir()
    (folder / "new").chmod(0o555)


def _closed_result(folder: Path) -> None:
    (folder / "unlearned").chmod(0o555)
    folder.chmod(0o555)


def _without_privileges() -> None:
    """Drops root's privileges to read and write everything, so that file modes apply as for other users."""
    if os.getuid() == 0:
        header, nothing = struct.pack("Ii", _CAPABILITIES, 0), bytes(24)
        if ctypes.CDLL(None).capset(header, nothing):
            raise OSError("cannot drop the privileges of root")


def _unreadable(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / "new").mkdir(mode=0o777)
        (folder / "new").chmod(0o777)
        (folder / name).chmod(0)

    return spoil


def _files(number: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (number, number))


def _size(number: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))


def _homeless() -> None:
    for name in ("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"):
        os.environ.pop(name, None)


def _full(kilobytes: int) -> Callable[[], None]:
    """A disk of this size at `new`, which only the child sees."""

    def before() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        options = f"size={kilobytes}k".encode()
        for failed in (
            libc.unshare(_NEW_MOUNTS),
            libc.mount(b"none", b"/", None, _PRIVATE, None),
            libc.mount(b"tmpfs", b"new", b"tmpfs", 0, options),
        ):
            if failed:
                raise OSError(ctypes.get_errno(), "cannot mount a small disk")

    return before


def _may_mount() -> bool:
    """Whether this user may mount a disk; tried in a child."""
    child = os.fork()
    if child == 0:
        failed = ctypes.CDLL(None).unshare(_NEW_MOUNTS) if os.getuid() == 0 else 1
        os._exit(1 if failed else 0)
    return os.waitpid(child, 0)[1] == 0
