"""A workdir: `config.json`, `metrics.jsonl`, `checkpoints/`, `statistics/`; written atomically, read with checks.

During a training, `SHA256SUMS` lists `config.json` alone; each checkpoint holds a copy of `config.json` and
`metrics.jsonl` and has its own `SHA256SUMS`. After the training, `SHA256SUMS` lists all files.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from osp_jax.runtime import records, settings
from osp_jax.runtime.distributed import is_first, wait_for_all
from osp_jax.runtime.errors import InputError
from osp_jax.runtime.integrity import SUMS, check_sums, read_sums, write_sums
from osp_jax.runtime.provenance import provenance
from osp_jax.runtime.replacing import building, remove_all_leftovers, updating, write_text

EVALUATION = ("eval.json", "report.md", "report.html")
"""The files that `experiments.eval` writes into a workdir."""

TOKENIZER = "tokenizer.json"
"""The tokenizer of a network of texts, in the format of the library `tokenizers`."""


def write_json(path: Path, content: Any) -> None:
    """Writes to a temporary name and renames it, so that `path` is always complete; only the first process does so."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file; raises `InputError` if it does not exist or is not JSON as `write_json` writes it."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; is {path.parent} a workdir of experiments.train?") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give another folder, or restore it") from error
    return records.parse_json(content, path)


def claim_workdir(
    workdir: Path,
    config: ConfigDict,
    dataset: dict[str, Any],
    complete: Callable[[dict[str, Any]], dict[str, Any]] = settings.completed,
) -> None:
    """Writes `config.json` and its checksum, or checks that the existing one belongs to this run.

    Args:
      complete: adds the defaults of settings that a config of an older version lacks.

    Raises:
      InputError: it is damaged, was written for other settings or data, or is missing next to other files of a run.
    """
    _claim(workdir, config, dataset, complete)
    wait_for_all("the workdir is claimed")


def _claim(workdir: Path, config: ConfigDict, dataset: dict[str, Any], complete: Callable[[Any], Any]) -> None:
    path = workdir / "config.json"
    wanted = json.loads(json.dumps({"config": config.to_dict(), "dataset": dataset}))
    if is_first():
        remove_all_leftovers(workdir)
    if path.exists():
        required = required_files(workdir)
        checked = bool(required) and (workdir / SUMS).exists()
        if checked:
            check_sums(workdir, _remedy(workdir), only=required, required=required)
        _check_same_run(workdir, wanted, complete)
        # The process was killed before it wrote the checksum: nothing depends on this file yet.
        if checked or any((workdir / name).exists() for name in _OF_RUNS):
            return
    elif found := [name for name in _OF_RUNS if (workdir / name).exists()]:
        raise InputError(f"{workdir} holds {found[0]} but no config.json; restore it, or choose another --workdir")
    write_json(path, {**wanted, "provenance": provenance(config.seed)})
    write_sums(workdir, ["config.json"], fresh=True)


_OF_RUNS = ("metrics.jsonl", "checkpoints", "statistics", "stopped")


def _check_same_run(workdir: Path, wanted: dict[str, Any], complete: Callable[[Any], Any]) -> None:
    remedy, path = "it was not written by this command; choose another --workdir.", workdir / "config.json"
    record = records.checked(read_json(path), records.Claim, path, remedy)
    if record.get("network"):
        raise InputError(f"{workdir} holds an imported network; choose another --workdir")
    whole = complete(settings.of_any_version(record["config"]))
    found = json.loads(json.dumps(whole))  # defaults that are tuples become lists, as in JSON
    found, asked = (traverse_util.flatten_dict(fields, sep=".") for fields in (found, wanted["config"]))
    # The location of the data may change between two runs, the data may not.
    differing = [name for name in asked if name.split(".")[-2:] != ["data", "dir"] and found.get(name) != asked[name]]
    if differing:
        raise InputError(
            f"{workdir} holds a run with other settings ({', '.join(differing)}); choose another --workdir"
        )
    data = record.get("dataset")
    data = data if isinstance(data, dict) else {}
    differing = [name for name, value in wanted["dataset"].items() if name in data and not _alike(data[name], value)]
    if differing:
        raise InputError(
            f"{workdir} holds a run on other data ({', '.join(differing)}); give the data of that run, or choose "
            "another --workdir"
        )


def _alike(found: Any, wanted: Any) -> bool:
    """Whether two values are equal; lists of numbers, up to the rounding that differs between machines."""
    if isinstance(found, list) and all(isinstance(value, float) for value in found):
        return np.shape(found) == np.shape(wanted) and np.allclose(found, wanted, rtol=1e-4)
    return found == wanted


def is_open(workdir: Path) -> bool:
    """Whether `SHA256SUMS` lists no more than the start of a training writes."""
    return set(read_sums(workdir, _remedy(workdir)) or {}) <= {"config.json"}


def open_training(workdir: Path) -> None:
    """Makes `SHA256SUMS` list `config.json` alone, before a training resumes."""
    if not is_open(workdir):
        write_sums(workdir, ["config.json"], fresh=True)


def close_training(workdir: Path) -> None:
    """Adds all unlisted files of a finished training to `SHA256SUMS`.

    Raises:
      InputError: a listed file is damaged.
    """
    listed = read_sums(workdir, _remedy(workdir)) or {}
    if listed:
        check_sums(workdir, _remedy(workdir), skip=EVALUATION)
    if set(listed) <= set(EVALUATION) and not any(workdir.glob(f"checkpoints/*/{SUMS}")):
        return  # an older version trained it
    folders = sorted(path.parent.name for path in workdir.glob(f"checkpoints/*/{SUMS}") if path.parent.name.isdecimal())
    sums = [*(f"checkpoints/{name}/{SUMS}" for name in folders), f"statistics/{SUMS}"]
    names = ["config.json", TOKENIZER, "metrics.jsonl", *sums]
    write_sums(workdir, [name for name in names if name not in listed and (workdir / name).exists()])


def _remedy(workdir: Path) -> Any:
    """The remedy for a damaged file of a workdir, by its name."""
    again = command_of(workdir)

    def remedy(name: str) -> str:
        folder = workdir / Path(name).parent
        if name in EVALUATION:
            return f"run experiments.eval on {workdir} again"
        if name.startswith("statistics/"):
            return f"restore it, or delete {folder}, and the statistics are collected again"
        if name.startswith("checkpoints/") and again != "experiments.import_model":
            return f"restore it, or delete {folder} and run {again} again"
        if again == "experiments.train" and name == "metrics.jsonl":
            return "restore it, or run the same experiments.train again, which restores it from the newest checkpoint"
        if again == "experiments.train" and name == "config.json":
            return f"restore it: each folder in {workdir / 'checkpoints'} holds a copy"
        if again == "experiments.train" and name == SUMS:
            return f"delete it and run the same {again} again"
        return f"restore it, or make {workdir} again with {again}"

    return remedy


def command_of(workdir: Path) -> str:
    """The command that wrote a workdir: 'experiments.unlearn', 'experiments.import_model' or 'experiments.train'."""
    if (workdir / "unlearn.json").exists():
        return "experiments.unlearn"
    if (workdir / "head").exists():
        return "experiments.train"
    return "experiments.import_model" if (workdir / records.IMPORTED).exists() else "experiments.train"


def read_record(workdir: Path, unread: Collection[str] = ()) -> dict[str, Any]:
    """Reads `config.json` of a model, completed, after comparing the files of the workdir with their checksums.

    Args:
      unread: files whose damage is ignored, because the caller replaces them.

    Raises:
      InputError: as `read_json`, or a file is damaged or a field is invalid.
    """
    if (workdir / "config.json").exists() or (workdir / SUMS).exists():
        check_sums(workdir, _remedy(workdir), skip=unread, required=required_files(workdir))
    return records.trained(read_json(workdir / "config.json"), workdir / "config.json")


def required_files(workdir: Path) -> tuple[str, ...]:
    """The files that `SHA256SUMS` must list; in a workdir of an older version, an evaluation lists only its own."""
    listed = set(read_sums(workdir, _remedy(workdir)) or ())
    return () if listed and listed <= set(EVALUATION) else ("config.json",)


def read_tokenizer(workdir: Path) -> str:
    """The tokenizer of a workdir whose network reads texts, JSON; empty if it has none."""
    path = workdir / TOKENIZER
    try:
        return path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({' '.join(str(error).split())[:120]}); restore it") from error


def keep_tokenizer(workdir: Path, folder: Path) -> None:
    """Copies the tokenizer of `workdir`, if it has one, to `folder`; only the first process does so."""
    if (workdir / TOKENIZER).exists() and is_first():
        shutil.copyfile(workdir / TOKENIZER, folder / TOKENIZER)


def read_request(workdir: Path) -> dict[str, Any] | None:
    """`unlearn.json` as `experiments.unlearn` wrote it; None for a trained model. Raises as `read_record`."""
    path = workdir / "unlearn.json"
    if not os.path.lexists(path):
        return None
    classes = read_record(workdir, EVALUATION)["dataset"]["class_names"]
    return records.request(read_json(path), path, len(classes))


def load_evaluation(workdir: Path) -> dict[str, Any]:
    """Reads `eval.json`, after comparing the evaluation's files with their checksums."""
    check_sums(workdir, _remedy(workdir), only=EVALUATION, required=("eval.json",))
    return records.evaluation(read_json(workdir / "eval.json"), workdir / "eval.json")


@contextmanager
def replacing(out: Path, before: Callable[[], object] = lambda: None) -> Iterator[Path]:
    """Yields an empty folder that replaces `out` at the end, with its checksums; several processes fill it together.

    `before` is called last, and may raise to keep `out`.
    """
    with building(out.resolve(), overwrite=True) as temporary:
        if is_first():
            temporary.mkdir()
        wait_for_all("the folder is made")
        yield temporary
        wait_for_all("the folder is filled")
        write_sums(temporary)
        if is_first():
            before()
    wait_for_all("the folder is in its place")


@contextmanager
def adding(folder: Path, names: Collection[str], drop: Collection[str] = ()) -> Iterator[Path]:
    """Yields a folder to write the files `names` to, which then appear in `folder` atomically, with their checksums.

    `drop` names folders in `folder` that are removed in the same step.
    """
    with updating(folder, drop) as content:
        yield content
        write_sums(content, names)


def check_writable(folder: Path, needed_bytes: int) -> None:
    """Creates `folder`, and raises `InputError` unless it is writable and has `needed_bytes` free."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise InputError(f"cannot write to {folder} ({error.strerror}); choose a folder you may write to") from error
    if free < needed_bytes:
        raise InputError(
            f"{folder} has {free / 1e6:.0f} MB free and {needed_bytes / 1e6:.0f} MB are needed; "
            "free some space or choose another folder"
        )
