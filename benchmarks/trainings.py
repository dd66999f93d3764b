r"""Epochs, hours and test accuracy in the docstrings of configs, compared with those of finished trainings.

python -m benchmarks.trainings --config=configs/cifar10_resnet20.py --runs=runs/figures/resnet20 [--json=FILE]

`--runs` is a folder; every finished training in it counts, and its settings must equal those of the config except for
the seed and the excluded classes. The accuracy is on the test images of the trained classes. Hours are wall time,
including the effect of other work on the machine. With `--json`, rows of other configs in FILE are kept.
"""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

from benchmarks import cli
from osp_jax.data.splits import without_classes
from osp_jax.forward import predict_logits
from osp_jax.loading import dataset_of, load_workdir
from osp_jax.runtime.arguments import path
from osp_jax.runtime.errors import InputError
from osp_jax.runtime.settings import differing, validated
from osp_jax.runtime.workdir import read_json

_PROMISE = re.compile(r"(\d+) epochs, ([\d.]+) hours .*?Expected test accuracy: ([\d.]+)%", re.DOTALL)


def main() -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("--config", type=path("file"), required=True, help="a config of this repository")
    arguments.add_argument("--runs", type=path("folder"), required=True, help="the folder of its trainings")
    arguments.add_argument("--data_dir", default="", help="the TFDS folder")
    flags = arguments.parse_args()
    config, promise = read_config(flags.config)
    workdirs = sorted(folder.parent for folder in flags.runs.rglob("statistics") if folder.is_dir())
    if not workdirs:
        raise InputError(f"{flags.runs} holds no training; give the folder of workdirs (--runs)")
    given = flags.runs, config, promise, flags.data_dir
    rows = [{"config": flags.config.stem, **row_of(workdir, *given)} for workdir in workdirs]
    kept = read_json(flags.json)["rows"] if flags.json and flags.json.exists() else []
    cli.report([row for row in kept if row["config"] != flags.config.stem] + rows, flags.json)


def read_config(file: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """The settings of a config, and the figures in its docstring: `epochs`, `hours`, `accuracy` (percent).

    Raises:
      InputError: there is no such file, or its docstring has no figures.
    """
    if not file.is_file():
        raise InputError(f"{file} is no file (--config)")
    spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = _PROMISE.search(module.__doc__ or "")
    if not found:
        raise InputError(
            f"the docstring of {file} does not say '20 epochs, 0.6 hours ... Expected test accuracy: 90.5%.'; add it"
        )
    epochs, hours, accuracy = found.groups()
    return validated(module.get_config()).to_dict(), {
        "epochs": int(epochs),
        "hours": float(hours),
        "accuracy": float(accuracy),
    }


def row_of(
    workdir: Path, runs: Path, config: dict[str, Any], promise: dict[str, float], data_dir: str
) -> dict[str, Any]:
    """One training compared with the expected figures.

    Raises:
      InputError: the settings differ from those of the config.
    """
    trained = load_workdir(workdir)
    settings = trained.record["config"]
    for name in differing(settings, config):
        raise InputError(f"{workdir} has another {name} than the config; leave it out of --runs")
    epochs = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    dataset = dataset_of(trained, data_dir)
    chosen = without_classes(dataset.test.labels, trained.model.forgotten)
    logits = predict_logits(trained.model, dataset.test, chosen)
    accuracy = float((logits.argmax(-1) == dataset.test.labels[chosen]).mean())
    return {
        "training": str(workdir.relative_to(runs)),
        "seed": settings["seed"],
        "without": settings["data"]["exclude"] or "nothing",
        "epochs": len(epochs),
        "epochs expected": promise["epochs"],
        "hours": sum(epoch["seconds"] for epoch in epochs) / 3600,
        "hours expected": promise["hours"],
        "held-out accuracy": epochs[-1].get("validation_accuracy"),
        "test accuracy": accuracy,
        "test accuracy expected": promise["accuracy"] / 100,
        "commit": trained.record["provenance"]["commit"],
    }


if __name__ == "__main__":
    cli.run(main)
