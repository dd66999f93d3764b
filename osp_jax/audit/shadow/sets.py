"""Sets of shadow models on disk, found by what determines them: recipe, pool, halves and excluded classes."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from osp_jax.audit.shadow.pool import draw_keep
from osp_jax.data.augment import Preparation
from osp_jax.data.sources import Split
from osp_jax.interop.linen import from_linen
from osp_jax.model import Model
from osp_jax.networks import build_model, variable_shapes
from osp_jax.runtime import records
from osp_jax.runtime.errors import InputError
from osp_jax.runtime.integrity import read_piece, write_piece
from osp_jax.runtime.provenance import provenance
from osp_jax.training import checkpoints as checkpoint
from osp_jax.training.recipe import image_moments, preparation_of


class Shadows(NamedTuple):
    """A finished set: a model whose variables are stacked along a leading axis N, and its training data.

    Shadow model i was trained on the images `keep[i]` of `pool`, bool `(N, pool)`, without the classes `exclude`.
    `folder` holds the set, and may hold data derived from it.
    """

    model: Model
    config: ConfigDict
    pool: Split
    keep: np.ndarray
    exclude: tuple[int, ...]
    preparation: Preparation
    folder: Path


class Network(NamedTuple):
    """A network from outside `osp_jax.networks`: its module, and an identifier, such as a checksum."""

    module: nn.Module
    digest: str


def shadow_preparation(config: ConfigDict, pool: Split) -> Preparation:
    """Normalisation and augmentation of all shadow models on a pool; models without a class share it, as `retrain`."""
    return preparation_of(config, *image_moments(config, pool.images, np.arange(len(pool.images))))


def find_shadows(
    config: ConfigDict,
    pool: Split,
    num_classes: int,
    folder: Path,
    forget: Sequence[int],
    network: Network | None = None,
) -> tuple[Shadows, Shadows]:
    """Finished sets under `folder` for a recipe: shadow models of every class, and those without `forget`.

    Both have the `keep` that `draw_keep` draws by the seed of the recipe; their number of epochs may differ from that
    of `config`. Among several such pairs, the one with the most models is returned, then that of the longest training.

    Raises:
      InputError: there is no such pair.
    """
    found = set()
    for path in sorted(folder.glob("*/record.json")) if folder.is_dir() else []:
        record = records.checked(read_piece(path), records.ShadowSet, path)
        record["config"] = records.config_of(record["config"], path)
        epochs = record["config"]["training"]["epochs"]
        if is_finished(path.parent) and _settings(record["config"]) == _settings(_with_epochs(config, epochs)):
            found.add((record["number"], epochs))
    for number, epochs in sorted(found, reverse=True):
        settings = _with_epochs(config, epochs)
        keep = draw_keep(pool.labels, number, settings.seed)
        folders = [shadow_folder(settings, pool, keep, folder, exclude, network) for exclude in ((), forget)]
        if all(map(is_finished, folders)):
            module = shadow_module(settings, num_classes, pool.images.shape[1:], network)
            like = stacked_shapes(settings, pool, num_classes, number, network)
            preparation = shadow_preparation(settings, pool)
            about = {
                "mean": preparation.mean,
                "std": preparation.std,
                "class_names": list(map(str, range(num_classes))),
            }
            sets = []
            for here, exclude in zip(folders, ((), tuple(forget)), strict=True):
                variables = checkpoint.load_variables(here / "models", like)
                model = from_linen(module, variables, **about, forgotten=exclude)
                sets.append(Shadows(model, settings, pool, keep, exclude, preparation, here))
            return tuple(sets)
    classes = ",".join(map(str, forget))
    raise InputError(
        f"{folder} holds no finished shadow models of this recipe with and without the classes {classes}; "
        f"train them: python -m experiments.shadows --workdir=... --forget={classes} --out={folder}"
    )


def shadow_folder(
    config: ConfigDict,
    pool: Split,
    keep: np.ndarray,
    folder: Path,
    exclude: Sequence[int] = (),
    network: Network | None = None,
) -> Path:
    """The folder of the set of this recipe, pool, `keep` and `exclude` under `folder`; it need not exist.

    Older names did not depend on `config.features`, so that sets of different recipes shared a name: such a set is used
    only if its record has this recipe.
    """
    what = {"exclude": sorted(map(int, exclude)), **digests_of(pool, keep)}
    if network:
        what["network"] = network.digest
    settings = _settings(config)
    old = folder / _digest_of(what | {"settings": {k: v for k, v in settings.items() if k != "features"}})
    path = old / "record.json"
    if path.exists():
        record = records.checked(read_piece(path), records.ShadowSet, path)
        if _settings(records.config_of(record["config"], path)) == settings:
            return old
    return folder / _digest_of(what | {"settings": settings})


def seconds_per_shadow(folder: Path) -> float:
    """The training time of each model of the finished set in `folder`, including its share of the compilation."""
    record = records.checked(read_piece(folder / "record.json"), records.ShadowSet, folder / "record.json")
    return sum(epoch["seconds"] for epoch in record["epochs"]) / record["number"]


def _settings(config: ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
    """The part of a config that a shadow model depends on."""
    fields = json.loads(json.dumps(config.to_dict() if isinstance(config, ConfigDict) else config))
    fields["data"].pop("dir", None)  # the location of the data may change; the pool itself is part of the key
    # Later settings are part of the key only if they differ from their defaults, so that finished sets keep theirs.
    later = (
        ("data", "pad_mode", "reflect"),
        ("training", "last_batch", "drop"),
        ("training", "optimiser", "sgd"),
        ("training", "gradient", "jax"),
    )
    for section, name, default in later:
        if fields[section].get(name) == default:
            del fields[section][name]
    fields.setdefault("features", {"penalty": "none", "weight": 0.0})  # older recipes lack this penalty
    return {name: fields[name] for name in ("seed", "data", "model", "training", "orthogonality", "features")}


def _digest_of(what: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]


def _with_epochs(config: ConfigDict, epochs: int) -> ConfigDict:
    changed = ConfigDict(config.to_dict())
    changed.training.epochs = epochs
    return changed


def digests_of(pool: Split, keep: np.ndarray) -> dict[str, str]:
    """Checksums of the images and labels, and of who sees which."""

    def digest(*arrays: np.ndarray) -> str:
        made = hashlib.sha256()
        for array in arrays:
            made.update(f"{array.shape}{array.dtype}".encode())
            made.update(np.ascontiguousarray(array).data)
        return made.hexdigest()[:16]

    return {"pool": digest(pool.images, pool.labels), "keep": digest(keep)}


def shadow_module(config: ConfigDict, num_classes: int, image_shape: Any, network: Network | None) -> nn.Module:
    """The module of a set: `network`'s, or the one that `config.model` names."""
    return network.module if network else build_model(config, num_classes, image_shape)


def stacked_shapes(
    config: ConfigDict, pool: Split, num_classes: int, number: int, network: Network | None
) -> dict[str, Any]:
    """Shapes and dtypes of the stacked variables."""
    image_shape = pool.images.shape[1:]
    model = shadow_module(config, num_classes, image_shape, network)
    one = variable_shapes(model, image_shape)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((number, *leaf.shape), leaf.dtype), one)


def is_finished(folder: Path) -> bool:
    """Whether the set in `folder` is trained."""
    return (folder / "models" / "checkpoints" / "0").is_dir()


def set_record(
    folder: Path, config: ConfigDict, pool: Split, keep: np.ndarray, exclude: Sequence[int]
) -> dict[str, Any]:
    """The content of `record.json`: what an interrupted run wrote, else that of a new set."""
    path = folder / "record.json"
    if path.exists():
        return records.checked(read_piece(path), records.ShadowSet, path)
    record = {
        "number": len(keep),
        "exclude": sorted(map(int, exclude)),
        "seed": config.seed,
        "images": len(pool.labels),
        **digests_of(pool, keep),
        "config": json.loads(json.dumps(config.to_dict())),
        "provenance": provenance(config.seed),
        "epochs": [],
    }
    write_piece(path, record)
    return record
