"""Folders and files that a command must not overwrite, or that are not what their names say."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks.faults.artifacts import TRAIN
from benchmarks.faults.malformed import Case

_MODEL = ("--workdir=model", "--forget=3", "--accept")
_SWEEP = ("--workdir=model", "--methods=logit-mask")


def cases() -> list[Case]:
    return [*_overwriting(), *_swapped()]


def _overwriting() -> list[Case]:
    found = []
    outs = {
        "the model": "model",
        "the model, by another path": "foreign/../model",
        "its parent": ".",
        "a parent of that": "..",
        "within the model": "model/new",
        "its checkpoints": "model/checkpoints",
        "a foreign folder": "foreign",
        "within a file": "plain/new",
        "a file": "plain",
        "a link to the model": "link",
        "a circle": "circle",
        "another trained model": "retrained",
        "results": "sweep",
    }
    for what, out in outs.items():
        for extra in ((), ("--overwrite",)):
            name = f"overwrite/unlearn {' '.join(extra)} onto {what}"
            arguments = (*_MODEL, f"--out={out}", *extra)
            found.append(Case(name, "unlearn", arguments, ("model", "retrained", "link", "sweep")))
    for what, spoil in {
        "with a file of somebody in it": _adds("unlearned/notes.txt"),
        "with a folder of somebody in it": _adds("unlearned/mine/notes.txt"),
        "with a file of somebody among its checkpoints": _adds("unlearned/checkpoints/0/notes.txt"),
    }.items():
        arguments = (*_MODEL, "--out=unlearned", "--overwrite")
        found.append(
            Case(f"overwrite/unlearn onto a result {what}", "unlearn", arguments, ("model", "unlearned"), spoil)
        )
    for name in ("new.new", "new.old", "new.tmp", ".new.tmp", "new.osp_jax", ".new.osp_jax"):
        spoil = _adds(f"{name}/photo.png")
        found.append(
            Case(
                f"overwrite/unlearn beside {name}", "unlearn", (*_MODEL, "--out=new"), ("model",), spoil, may_work=True
            )
        )
    foreign = {"results.json": "results.json", "table.md": "table.md"}
    for extra in ((), ("--overwrite",)):
        for what, name in foreign.items():
            for command, arguments, start in (
                ("sweep", (*_SWEEP, "--out=new"), ("model",)),
                ("audits", ("--evaluations=audits", "--out=new"), ("audits",)),
                ("orthogonality", ("--models=models", "--out=new"), ("model",)),
            ):
                for kind, spoil in {
                    "file": _adds(f"new/{name}"),
                    "folder": _adds(f"new/{name}/x"),
                    "link": _links(f"new/{name}"),
                }.items():
                    title = f"overwrite/{command} {' '.join(extra)} onto somebody's {what} ({kind})"
                    both = _both(spoil, _held_out) if command == "orthogonality" else spoil
                    found.append(Case(title, command, (*arguments, *extra), start, both))
    for name in ("eval.json", "report.md", "report.html"):
        for kind, spoil in {
            "file": _adds(f"unlearned/{name}"),
            "folder": _adds(f"unlearned/{name}/x"),
            "link": _links(f"unlearned/{name}"),
        }.items():
            arguments = ("--workdir=unlearned", "--audit=none")
            found.append(
                Case(
                    f"overwrite/eval onto somebody's {name} ({kind})", "eval", arguments, ("model", "unlearned"), spoil
                )
            )
    for name in ("eval.json.new", "report.html.new", "config.json.new"):
        arguments = ("--workdir=unlearned", "--audit=none")
        title = f"overwrite/eval beside {name}"
        # It writes into the folder that it evaluates: refused, or no file of others is changed.
        found.append(
            Case(title, "eval", arguments, ("model", "unlearned"), _both(_adds(f"unlearned/{name}/x"), _spoils_model))
        )
    for name in ("config.json", "metrics.jsonl", "checkpoints", "statistics", "config.json/x", "checkpoints/x"):
        spoil = _adds(f"new/{name}")
        found.append(Case(f"overwrite/train onto somebody's {name}", "train", (*TRAIN, "--workdir=new"), (), spoil))
    found.append(
        Case(
            "overwrite/train onto a model of other settings",
            "train",
            (*TRAIN, "--workdir=model", "--config.seed=1"),
            ("model",),
        )
    )
    found.append(
        Case("overwrite/train onto a result of unlearning", "train", (*TRAIN, "--workdir=unlearned"), ("unlearned",))
    )
    found.append(
        Case(
            "overwrite/sweep onto an unfinished one of other options",
            "sweep",
            (*_SWEEP, "--seed=1", "--out=sweep_unfinished"),
            ("model", "sweep_unfinished"),
        )
    )
    return found


def _swapped() -> list[Case]:
    """A folder instead of a file, the reverse, nothing, or a circular link."""
    found = []
    readers = {
        "unlearn": (*_MODEL, "--out=new"),
        "sweep": (*_SWEEP, "--out=new"),
        "eval": ("--workdir=model", "--audit=none"),
        "train": (*TRAIN, "--workdir=model"),
    }
    names = (
        "config.json",
        "metrics.jsonl",
        "checkpoints",
        "checkpoints/2",
        "checkpoints/2/variables",
        "statistics",
        "SHA256SUMS",
    )
    results = tuple(f"model/{name}" for name in ("SHA256SUMS", "eval.json", "report.md", "report.html"))
    own = {"unlearn": (), "sweep": (), "eval": results, "train": ("model/SHA256SUMS", "model/metrics.jsonl")}
    changes = {"gone": _deletes, "a file": _files, "a folder": _folders, "a circle": _circles}
    for command, arguments in readers.items():
        for name in names:
            for what, change in changes.items():
                folder = not name.endswith(("json", "jsonl", "SUMS"))
                if (what, folder) in (("a file", False), ("a folder", True)):
                    continue
                title, spoil = f"swapped/{command}: {name} is {what}", _changes(f"model/{name}", change)
                # Statistics are collected again, a training resumes from what exists, old folders have no sums.
                may_work = what in ("gone", "a circle") and (
                    name in ("statistics", "SHA256SUMS")
                    or (name in ("metrics.jsonl", "checkpoints/2", "checkpoints") and command == "train")
                )
                found.append(Case(title, command, arguments, ("model",), spoil, may_work=may_work, own=own[command]))
    for what in ("gone", "a folder", "a circle"):
        spoil = _changes("unlearned/unlearn.json", changes[what])
        found.append(
            Case(
                f"swapped/eval: unlearn.json is {what}",
                "eval",
                ("--workdir=unlearned", "--audit=none"),
                ("model", "unlearned"),
                spoil,
            )
        )
    return found


def _adds(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("not yours\n", encoding="utf-8")

    return spoil


def _links(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(folder / "plain")

    return spoil


def _both(first: Callable[[Path], None], second: Callable[[Path], None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        first(folder)
        second(folder)

    return spoil


def _held_out(folder: Path) -> None:
    shutil.copytree(folder / "model", folder / "models/one")


def _spoils_model(folder: Path) -> None:
    (folder / "unlearned/unlearn.json").write_text("{", encoding="utf-8")


def _changes(name: str, change: Callable[[Path], None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
        change(path)

    return spoil


def _deletes(path: Path) -> None:
    pass


def _files(path: Path) -> None:
    path.write_bytes(b"x")


def _folders(path: Path) -> None:
    path.mkdir()


def _circles(path: Path) -> None:
    os.symlink(path.name, path)
