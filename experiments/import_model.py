"""Makes a workdir of a network that was trained elsewhere, for all other commands.

python -m experiments.import_model --network=my_network.py:build --weights=model.pt --data=folder:images
    --mean=0.485,0.456,0.406 --std=0.229,0.224,0.225 --workdir=runs/model

The function makes the network: a torch module, a Flax module or a function (variables, images) -> logits. Its file is
executed, now and whenever a command reads the workdir: use only files that you trust.
"""

import re
import sys
from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli

_NETWORK = flags.DEFINE_string(
    "network", None, "FILE.py:FUNCTION or MODULE:FUNCTION, which makes the network without arguments", required=True
)
_WEIGHTS = cli.path_flag(
    "weights", "a file of PyTorch, safetensors, Flax msgpack or npz, or an Orbax folder", required=True
)
_DATA = flags.DEFINE_string(
    "data", None, "the images: folder:PATH, npz:FILE, digits, or the name of a TFDS set", required=True
)
_DATA_DIR = cli.tfds_flag()
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", 0, "resize the square in the middle to so many pixels a side; 0: as stored", 0, 16384
)
_CHANNELS = flags.DEFINE_enum("channels", "0", ["0", "1", "3"], "1: as greyscale, 3: as colour; 0: as stored")
_CLASS_NAMES = flags.DEFINE_string(
    "class_names", "", "the classes in the order of the logits, separated by commas; empty: as the data have them"
)
_MEAN = flags.DEFINE_string(
    "mean", None, "mean of the normalisation in training, from 0 to 1, one number or one for each channel; 0: none"
)
_STD = flags.DEFINE_string("std", None, "standard deviation of the normalisation, in the same form; 1: none")
_VALIDATION = flags.DEFINE_float(
    "validation",
    0.0,
    "share of the training images to hold out; of images without a test split, the test split",
    0,
    0.99,
)
_EXCLUDE = flags.DEFINE_string("exclude", "", "classes that the network was not trained on, by number or name")
_RECIPE = flags.DEFINE_string("recipe", None, "a config file with the settings of the training, for methods that train")
_BACKBONE = flags.DEFINE_bool(
    "backbone", False, "import any network, without statistics, only to fit heads on it (config.training.start_from)"
)
_WORKDIR = cli.folder_flag("workdir", "where the model is written", required=True)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace an imported model in --workdir")


def main() -> None:
    import json
    import time

    import jax

    from osp_jax.audit.first_look import first_look
    from osp_jax.data.dataset import describe_dataset
    from osp_jax.data.splits import parse_classes, without_classes
    from osp_jax.interop.imported import import_network
    from osp_jax.interop.network_source import find_source, network_of
    from osp_jax.interop.stored_network import keep_weights, network_record
    from osp_jax.interop.weight_files import read_weights
    from osp_jax.loading import TrainedModel, indices_of, statistics_of
    from osp_jax.program.gates import gates_of, noise_images
    from osp_jax.program.stages import find_stages
    from osp_jax.runtime.overwriting import check_import
    from osp_jax.runtime.provenance import provenance
    from osp_jax.runtime.workdir import check_writable, replacing, write_json
    from osp_jax.statistics_files import save_statistics
    from osp_jax.training.checkpoints import save_variables
    from osp_jax.training.loop import check_settings

    workdir, path = Path(_WORKDIR.value), Path(_WEIGHTS.value).expanduser()
    moments = _moments()
    recipe = _recipe()
    source = find_source(_NETWORK.value)
    check_import(workdir, (path, source.file), _OVERWRITE.value)
    weights, network = read_weights(path), network_of(source)

    config = _config(recipe, source.function, moments)
    dataset = _images(config.data)
    mean, std = config.data.mean, config.data.std = _each_channel(moments, dataset.image_shape[2])
    names, shape = dataset.class_names, dataset.image_shape
    check_settings(config, shape)
    given = {"mean": mean, "std": std, "class_names": names, "forgotten": parse_classes(_EXCLUDE.value, names)}
    model, keys = import_network(network, weights, shape, where=str(path), **given)
    if _BACKBONE.value:
        find_stages(model.apply, model.variables, shape)
    else:
        # A network that no method can act on is refused now.
        gates_of(model.apply, model.variables, noise_images(shape))

    record = {
        "config": config.to_dict(),
        "dataset": describe_dataset(dataset, mean, std),
        "network": network_record(source, network, path, weights, keys, recipe is not None),
        "provenance": provenance(config.seed),
    }
    trained = TrainedModel(model, json.loads(json.dumps(record)))
    train, _ = indices_of(trained, dataset)
    found = first_look(model, dataset.test, without_classes(dataset.test.labels, model.forgotten))
    if found.warning:
        print(f"warning: test accuracy is {found.accuracy:.1%}; {found.warning}", file=sys.stderr)
    statistics = None
    if not _BACKBONE.value:
        start = time.perf_counter()
        statistics = jax.block_until_ready(statistics_of(trained, dataset))
        print(f"class statistics of {len(train):,} images in {time.perf_counter() - start:.1f} s", file=sys.stderr)

    size = sum(leaf.nbytes for leaf in jax.tree.leaves((model.variables, statistics)))
    check_writable(workdir.resolve().parent, 2 * size + sum(array.nbytes for array in weights.arrays.values()))
    with replacing(workdir, before=lambda: check_import(workdir, (path, source.file), _OVERWRITE.value)) as folder:
        write_json(folder / "config.json", record)
        save_variables(folder, model.variables)
        if statistics is not None:
            save_statistics(folder / "statistics", statistics)
        keep_weights(path, folder)
    print(f"imported: {workdir}; test accuracy {found.accuracy:.2%} of {found.images:,} images")


def _moments() -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) as given: one number, or one for each channel."""
    from osp_jax.runtime.errors import InputError, shown

    usual = (
        "such as --mean=0.485,0.456,0.406 --std=0.229,0.224,0.225 (ImageNet), or --mean=0 --std=1 for a network that "
        "takes images from 0 to 1 or normalises them itself"
    )
    found = []
    for name, text in (("mean", _MEAN.value), ("std", _STD.value)):
        if not (text or "").strip():
            raise InputError(f"--{name} is missing; give that of the training for each channel, {usual}")
        try:
            values = tuple(float(word) for word in text.split(","))
        except ValueError:
            raise InputError(f"--{name} is {shown(text)}; give numbers separated by commas, {usual}") from None
        low, most = (0, 1) if name == "mean" else (1e-6, 1000)
        if not all(low <= value <= most for value in values):
            raise InputError(
                f"--{name} is {shown(text)}; give it for images from 0 to 1 (of images from 0 to 255, divide it by "
                f"255), {usual}"
            )
        found.append(values)
    return tuple(found)


def _each_channel(moments: tuple[tuple[float, ...], ...], channels: int) -> list[tuple[float, ...]]:
    """The moments with a number for each channel."""
    from osp_jax.runtime.errors import InputError

    for name, values in zip(("mean", "std"), moments, strict=True):
        if len(values) not in (1, channels):
            raise InputError(
                f"--{name} has {len(values)} numbers and the images have {channels} channels; give one for each, one "
                "for all, or other --channels"
            )
    return [values if len(values) == channels else values * channels for values in moments]


def _recipe() -> Any:
    """The config of the training; None where none is given."""
    from osp_jax.runtime.config_files import load_config
    from osp_jax.runtime.settings import validated

    return validated(load_config(_RECIPE.value, "--recipe")) if _RECIPE.value else None


def _config(recipe: Any, function: str, moments: tuple[tuple[float, ...], ...]) -> Any:
    """The settings of the training, with the given data and network.

    Without a recipe, the settings are defaults that no training uses, without augmentation.
    """
    from osp_jax.data.paths import with_absolute_paths
    from osp_jax.runtime.settings import completed, validated

    fields = recipe.to_dict() if recipe else completed({"data": {"pad": 0}, "orthogonality": {"penalty": "none"}})
    given = {
        "name": _DATA.value,
        "dir": _DATA_DIR.value,
        "image_size": _IMAGE_SIZE.value,
        "channels": int(_CHANNELS.value),
        "class_names": _CLASS_NAMES.value,
        "mean": moments[0],
        "std": moments[1],
        "validation": _VALIDATION.value,
        "exclude": _EXCLUDE.value,
        "stream": False,
        "crop": "",
    }
    data = with_absolute_paths({**fields["data"], **given})
    return validated({**fields, "data": data, "model": {"name": function}}, where="the import")


def _images(data: Any) -> Any:
    """The data set; errors name the flags of this command."""
    from osp_jax.data.sources import load_data
    from osp_jax.runtime.errors import InputError

    try:
        return load_data(data)
    except InputError as error:
        setting = r"(?:--)?(?:config\.)?data\.\w+(?:=\S+)?"
        words = re.sub(rf"{setting}(?: and {setting})? \(import_model: ([^)]*)\)", r"\1", str(error))
        other = r"(?:--)?(?:config\.)?data\.(image_size|channels|class_names|validation|exclude)\b"
        raise InputError(re.sub(other, r"--\1", words)) from error


if __name__ == "__main__":
    cli.run(main)
