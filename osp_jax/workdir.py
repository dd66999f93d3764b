"""A workdir: `config.json`, `metrics.jsonl`, `checkpoints/`, `statistics/`; written atomically, read with checks."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from flax import linen as nn
from flax import traverse_util
from ml_collections import ConfigDict

from osp_jax import checkpoint, records, settings
from osp_jax.data.sources import Dataset
from osp_jax.distributed import is_first, wait_for_all
from osp_jax.errors import InputError
from osp_jax.models import create_model, variable_shapes
from osp_jax.provenance import provenance


class TrainedModel(NamedTuple):
    """A workdir, read: the module, its variables, and `record`, the content of `config.json`."""

    model: nn.Module
    variables: dict[str, Any]
    record: dict[str, Any]


def write_json(path: Path, content: Any) -> None:
    """Writes to a temporary name and renames, so that `path` is never half written; of several processes the first."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """As `write_json`, for text."""
    if not is_first():
        return
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def read_json(path: Path) -> Any:
    """Raises `InputError` where there is no such file, or it is not JSON as `write_json` writes it."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; is {path.parent} a workdir of experiments.train?") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give another folder, or restore it") from error
    return records.parse_json(content, path)


def describe_dataset(dataset: Dataset, mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Any]:
    """The part of `config.json` that lets later commands do without the data."""
    return {
        "name": dataset.name,
        "variant": dataset.variant,
        "class_names": list(dataset.class_names),
        "image_shape": list(dataset.image_shape),
        "num_train": len(dataset.train.labels),
        "num_test": len(dataset.test.labels),
        "mean": list(mean),
        "std": list(std),
    }


def claim_workdir(
    workdir: Path,
    config: ConfigDict,
    dataset: dict[str, Any],
    complete: Callable[[dict[str, Any]], dict[str, Any]] = settings.completed,
) -> None:
    """Writes `config.json`, or raises `InputError` if the one there is not of this very run.

    Args:
      complete: gives a config the defaults of settings that it lacks, as one of a version before them does.
    """
    path = workdir / "config.json"
    wanted = json.loads(json.dumps(config.to_dict()))
    if not path.exists():
        write_json(path, {"config": wanted, "dataset": dataset, "provenance": provenance(config.seed)})
        return
    remedy = "it was not written by this command; choose another --workdir."
    found = complete(records.checked(read_json(path), records.Claim, path, remedy)["config"])
    found = json.loads(json.dumps(found))  # tuples of defaults as the lists that JSON has
    found, wanted = (traverse_util.flatten_dict(fields, sep=".") for fields in (found, wanted))
    # Where the data lie may change between two runs; what they are may not.
    differing = [name for name in wanted if name.split(".")[-2:] != ["data", "dir"] and found.get(name) != wanted[name]]
    if differing:
        raise InputError(
            f"{workdir} holds a run with other settings ({', '.join(differing)}); choose another --workdir"
        )


def build_model(config: ConfigDict, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """The module that `config.model` names."""
    options = {key: config.model[key] for key in ("width", "stem", "dtype")}
    return create_model(config.model.name, num_classes, tuple(image_shape), **options)


def read_record(workdir: Path) -> dict[str, Any]:
    """`config.json` of a model, completed; raises `InputError` as `read_json`, and where a field cannot be used."""
    return records.trained(read_json(workdir / "config.json"), workdir / "config.json")


def read_request(workdir: Path) -> dict[str, Any] | None:
    """`unlearn.json`, what `experiments.unlearn` wrote of a model; None for a trained one. Raises as `read_record`."""
    path = workdir / "unlearn.json"
    if not path.exists():
        return None
    return records.request(read_json(path), path, len(read_record(workdir)["dataset"]["class_names"]))


def load_workdir(workdir: Path) -> TrainedModel:
    """Reads the model of a workdir.

    Raises:
      InputError: not a workdir, no checkpoint, a damaged one, or one of another model.
    """
    record = read_record(workdir)
    shape = tuple(record["dataset"]["image_shape"])
    model = build_model(ConfigDict(record["config"]), len(record["dataset"]["class_names"]), shape)
    like = variable_shapes(model, shape)
    return TrainedModel(model, checkpoint.load_variables(workdir, like), record)


def check_new(out: Path, overwrite: bool) -> None:
    """Raises `InputError` where `out` exists and `overwrite` is not set."""
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists; choose another --out or add --overwrite")


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """Yields an empty folder that takes the place of `out` once it is filled; several processes fill it together."""
    temporary = out.with_name(out.name + ".new")
    if is_first():
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
    wait_for_all("the folder is made")
    yield temporary
    wait_for_all("the folder is filled")
    if is_first():
        if out.exists():
            shutil.rmtree(out)
        temporary.rename(out)


def check_writable(folder: Path, needed_bytes: int) -> None:
    """Makes `folder`, and raises `InputError` unless it can be written to and `needed_bytes` are free."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".write_probe"
        probe.touch()
        probe.unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise InputError(f"cannot write to {folder} ({error.strerror}); choose a folder you may write to") from error
    if free < needed_bytes:
        raise InputError(
            f"{folder} has {free / 1e6:.0f} MB free and {needed_bytes / 1e6:.0f} MB are needed; "
            "free some space or choose another folder"
        )
