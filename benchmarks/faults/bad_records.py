"""Records with valid checksums and invalid content, as from a buggy program or a manual edit."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.faults.artifacts import TRAIN
from benchmarks.faults.malformed import Case

_TEXTS = {
    "empty": b"",
    "no JSON": b"{",
    "not UTF-8": b'{"config": "\xff"}',
    "a list": b"[]",
    "a number": b"3",
    "null": b"null",
    "empty object": b"{}",
    "NaN": b"NaN",
    "deep": b"[" * 100_000,
    "binary": bytes(range(256)),
    "twice": b"{}{}",
}
_CONFIG = {
    "config": (None, 3, [], "x", {}),
    "dataset": (None, 3, [], {}),
    "config.model": (None, {}, "resnet8"),
    "config.model.name": (None, 3, "unknown", "../x"),
    "config.model.width": (-1, "4", 10**12, None, 1.5, 8),
    "config.data": (None, {}),
    "config.data.name": (3, "unknown_set", None, ""),
    "config.data.exclude": ("99", 3, None),
    "config.data.validation": (-1, "x", 2),
    "config.seed": (-1, "x", None, 10**30),
    "config.training.epochs": (0, "x", 10**30, None),
    "dataset.class_names": (None, 3, [], ["a"], ["a"] * 10, [1] * 10, ["\x1b[31m"] * 10, "0123456789"),
    "dataset.image_shape": (None, [], [8], [8, 8, -1], [10**6, 10**6, 1], ["8", "8", "1"], [8, 8, 3]),
    "dataset.mean": (None, [], ["x"], [0.5, 0.5]),
    "dataset.std": (None, [], [0.0], [-1.0]),
    "forgotten": ("x", [99], [-1], [1.5], 3),
}
_REQUEST = {
    "forget": (None, [], [-1], [99], ["x"], 3, [3, 3], list(range(10)), [1.5]),
    "harm": (3, "x", [], {"forgotten": 2}, {"retained_after": "x"}),
    "method": (None, 3, "unknown", "", "\x1b[31m"),
    "original": (None, 3, "nowhere", "", "foreign", "circle", "a\nb", "x" * 5000),
    "trained": (3, "nowhere", "", "foreign", "circle", "a\nb", "x" * 5000),
    "channels": (None, 3, "x"),
    "options": (3, "x"),
}


_RESULTS = tuple(f"unlearned/{name}" for name in ("SHA256SUMS", "eval.json", "report.md", "report.html"))


def cases() -> list[Case]:
    return [*_of_configs(), *_of_requests(), *_of_metrics(), *_of_pieces(), *_of_data()]


def _of_configs() -> list[Case]:
    calls = {
        "unlearn": ("--workdir=model", "--forget=3", "--accept", "--out=new"),
        "eval": ("--workdir=model", "--audit=none"),
        "sweep": ("--workdir=model", "--methods=logit-mask", "--out=new"),
        "shadows": ("--workdir=model", "--forget=3", "--number=4", "--out=new"),
        "train": (*TRAIN, "--workdir=model"),
    }
    found = []
    for command, arguments in calls.items():
        for what, content in _TEXTS.items():
            spoil = _replaces("model/config.json", content)
            found.append(Case(f"config.json/{command}: {what}", command, arguments, ("model",), spoil))
    for index, (field, values) in enumerate(_CONFIG.items()):
        for number, value in enumerate(values):
            command = ("unlearn", "eval", "sweep", "shadows")[(index + number) % 4]
            name = f"config.json/{command}: {field} = {json.dumps(value)[:40]}"
            spoil = _sets("model/config.json", field, value)
            found.append(Case(name, command, calls[command], ("model",), spoil, may_work=_harmless(field, value)))
    return found


def _harmless(field: str, value: Any) -> bool:
    """Whether a command that reads the model does not need the field; it then works, or refuses with one line."""
    # An empty section has the defaults, which are those of the model here.
    known = (("dataset.class_names", ["\x1b[31m"] * 10), ("config.data", {}))
    return field in ("config.seed", "config.training.epochs", "config.data.validation") or (field, value) in known


def _of_requests() -> list[Case]:
    found = []
    call = ("--workdir=unlearned", "--audit=none")
    for what, content in _TEXTS.items():
        spoil = _replaces("unlearned/unlearn.json", content)
        found.append(Case(f"unlearn.json/eval: {what}", "eval", call, ("model", "unlearned"), spoil))
    for field, values in _REQUEST.items():
        for value in values:
            name = f"unlearn.json/eval: {field} = {json.dumps(value)[:40]}"
            spoil = _sets("unlearned/unlearn.json", field, value)
            # Of the previous model only the name is used, if the record names the trained one.
            named = field == "original" and value in ("nowhere", "foreign", "circle")
            found.append(Case(name, "eval", call, ("model", "unlearned"), spoil, may_work=named, own=_RESULTS * named))
    for what, content in _TEXTS.items():
        spoil = _replaces("audits/one/eval.json", content)
        arguments = ("--evaluations=audits", "--out=new")
        found.append(Case(f"eval.json/audits: {what}", "audits", arguments, ("audits",), spoil))
    for field in ("dataset", "model", "audit", "unlearned", "retrained", "original", "forget", "method"):
        for value in (3, "x"):
            name = f"eval.json/audits: {field} = {json.dumps(value)}"
            spoil = _sets("audits/one/eval.json", field, value)
            label = (field, value) == ("method", "x")  # a name that the table shows, of whatever method
            arguments = ("--evaluations=audits", "--out=new")
            found.append(Case(name, "audits", arguments, ("audits",), spoil, may_work=label))
    return found


def _of_metrics() -> list[Case]:
    """`metrics.jsonl` that is unusable; a training may restore it from its checkpoint."""
    found = []
    for what, content in _TEXTS.items():
        spoil = _replaces("unfinished/metrics.jsonl", content)
        arguments = (*TRAIN, "--workdir=unfinished")
        case = Case(f"metrics.jsonl/train: {what}", "train", arguments, ("unfinished",), spoil, may_work=True)
        found.append(dataclasses.replace(case, own=("unfinished/",)))
    return found


def _of_pieces() -> list[Case]:
    found = []
    arguments = ("--workdir=model", "--methods=logit-mask", "--out=sweep_unfinished")
    for what, content in _TEXTS.items():

        def spoil(folder: Path, content: bytes = content) -> None:
            (path,) = (folder / "sweep_unfinished").rglob("classes/2.json")
            digest = hashlib.sha256(content).hexdigest().encode()
            path.write_bytes(b'{"sha256": "' + digest + b'",\n"content": ' + content + b"}\n")

        found.append(Case(f"row/sweep: {what}", "sweep", arguments, ("model", "sweep_unfinished"), spoil))
    return found


def _of_data() -> list[Case]:
    found = []
    arguments = (
        *TRAIN,
        "--workdir=new",
        "--config.data.name=cifar10",
        "--config.data.dir=tfds",
        "--config.training.batch_size=8",
    )
    info = "tfds/cifar10/3.0.2/dataset_info.json"
    changes: dict[str, Callable[[Path], None]] = {
        f"{name}: {what}": _replaces(f"tfds/cifar10/3.0.2/{name}", content)
        for name in ("dataset_info.json", "features.json")
        for what, content in _TEXTS.items()
    }
    for field, values in {
        "name": (None, 3),
        "version": ("x", None, 3),
        "fileFormat": ("tfrecord", 3, None, "unknown"),
        "splits": (None, [], {}, "x", 3),
    }.items():
        for value in values:
            changes[f"dataset_info.json: {field} = {json.dumps(value)}"] = _sets(info, field, value)
    for names in ("a\nb", "", "a\n" * 10, "\x1b[31m\n" * 10):
        changes[f"label names {names[:12]!r}"] = _replaces("tfds/cifar10/3.0.2/label.labels.txt", names.encode())
    for split in ("train", "test"):
        for what, spoil in {
            "cut off": _cuts,
            "empty": _empties,
            "damaged": _damages,
            "missing": _removes,
            "a folder": _swaps,
        }.items():
            changes[f"{split} records {what}"] = _on_records(split, spoil)
    for what, spoil in changes.items():
        renamed = what == "dataset_info.json: name = 3"
        found.append(Case(f"data set/{what}", "train", arguments, ("tfds",), spoil, may_work=renamed))
    return found


# Changes of files, with matching checksums


def _replaces(name: str, content: bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(content)
        _seal(folder, folder / name)

    return spoil


def _sets(name: str, field: str, value: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        record = json.loads((folder / name).read_bytes())
        *parents, last = field.split(".")
        place = record
        for parent in parents:
            place = place[parent]
        place[last] = value
        (folder / name).write_text(json.dumps(record, indent=1), encoding="utf-8")
        _seal(folder, folder / name)

    return spoil


def _seal(folder: Path, path: Path) -> None:
    """Corrects the checksum of a file in each `SHA256SUMS` above it that lists it."""
    for parent in path.parents:
        if not parent.is_relative_to(folder):
            return
        sums = parent / "SHA256SUMS"
        if not sums.exists():
            continue
        digest, name = hashlib.sha256(path.read_bytes()).hexdigest(), path.relative_to(parent).as_posix()
        lines = sums.read_text(encoding="utf-8").splitlines()
        changed = [f"{digest}  {name}" if line.endswith(f"  {name}") else line for line in lines]
        sums.write_text("\n".join(changed) + "\n", encoding="utf-8")
        path = sums


def _on_records(split: str, change: Callable[[Path], None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (path,) = folder.glob(f"tfds/cifar10/3.0.2/*-{split}.array_record*")
        change(path)

    return spoil


def _cuts(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empties(path: Path) -> None:
    path.write_bytes(b"")


def _damages(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for place in range(1000, len(content), 997):
        content[place] ^= 255
    path.write_bytes(content)


def _removes(path: Path) -> None:
    path.unlink()


def _swaps(path: Path) -> None:
    path.unlink()
    path.mkdir()
