"""Forgets classes in turn by each method, and writes a paper's single-class table.

python -m experiments.sweep --workdir=runs/cifar10 --methods=osp,osp-fit --out=runs/cifar10_sweep

--split=validation evaluates on the images that the training held out instead of the test images; choose options on
that split. Resumable: after an interruption the same command continues after the last finished class.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli

_WORKDIR = cli.folder_flag("workdir", "the trained model", required=True)
_METHODS = cli.names_flag("methods", "methods, separated by commas", ["osp", "osp-fit", "logit-mask"])
_CLASSES = flags.DEFINE_string("classes", "all", "classes to forget in turn, by number or name: 3,5 or cat,dog; or all")
_OPTION = flags.DEFINE_multi_string("option", [], "an option of one method, as method:name=value; may be given again")
_SPLIT = flags.DEFINE_enum("split", "test", ["test", "validation"], "the split to evaluate on")
_OUT = cli.folder_flag("out", "folder for results.json and table.md", required=True)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace the results in --out")
_PROBES = flags.DEFINE_bool(
    "probes", False, "also measure how well a linear probe reads the class from the last features"
)
_DATA_DIR = cli.data_dir_flag()
_SEED = flags.DEFINE_integer("seed", 0, "seed of the random numbers that a method draws", **cli.SEEDS)


def main() -> None:
    from ml_collections import ConfigDict

    from osp_jax.comparison.each_class import forget_each_class, predictor
    from osp_jax.comparison.plan import parse_methods
    from osp_jax.data.splits import classes_in_turn, without_classes
    from osp_jax.loading import dataset_of, indices_of, load_workdir, record_for_report, stored_statistics
    from osp_jax.report.sweep import sweep_markdown
    from osp_jax.runtime.errors import InputError
    from osp_jax.runtime.overwriting import check_results, check_unfinished
    from osp_jax.runtime.provenance import provenance
    from osp_jax.runtime.workdir import adding, check_writable, claim_workdir, write_json, write_text
    from osp_jax.workdir_requests import check_recipe

    workdir, out = Path(_WORKDIR.value), Path(_OUT.value)
    names = "results.json", "table.md"
    check_results(out, names, _OVERWRITE.value)
    check_unfinished(out / "unfinished")
    methods = parse_methods(_METHODS.value, _OPTION.value)

    trained = load_workdir(workdir)
    for name, method in methods.items():
        check_recipe(trained, method, name)
    classes = classes_in_turn(_CLASSES.value, trained.model.class_names, trained.model.forgotten)
    statistics = stored_statistics(trained, workdir)
    dataset = dataset_of(trained, _DATA_DIR.value)
    split = dataset.test if _SPLIT.value == "test" else dataset.train
    held_out = indices_of(trained, dataset)[1]
    known = without_classes(split.labels, trained.model.forgotten)
    indices = known if _SPLIT.value == "test" else held_out
    if not len(indices):
        raise InputError(
            "the training held out no examples; train with --config.data.validation=0.04 (import with "
            "--validation=0.04), or use --split=test"
        )
    check_writable(out, 10**6)
    chosen = {name: dataclasses.asdict(value) for name, value in methods.items()}
    settings = {"split": _SPLIT.value, "probes": _PROBES.value, "seed": _SEED.value}
    asked = {"options": chosen, "classes": list(classes), **settings}
    unfinished = out / "unfinished"
    unfinished.mkdir(parents=True, exist_ok=True)
    config = {"workdir": str(workdir), **asked}
    completed = partial(_completed, classes=list(trained.model.known))
    claim_workdir(unfinished, ConfigDict(config), trained.record["dataset"], completed)

    rows = []
    given = trained, dataset, statistics, methods, classes, split, indices
    for row in forget_each_class(*given, features=_PROBES.value, seed=_SEED.value, folder=unfinished / "classes"):
        rows.append(row)
        print(f"{row['name']}: " + ", ".join(f"{m} {row[m]['forget_accuracy']:.1%}" for m in methods), flush=True)
    right = predictor(trained.model, split, indices)(trained.model) == split.labels[indices]
    results = {
        **record_for_report(trained),
        "split": _SPLIT.value,
        "num_images": len(indices),
        "accuracy": float(right.mean()),
        "options": chosen,
        "classes": rows,
        "training": {key: trained.record[key] for key in ("config", "provenance")},
        "provenance": provenance(_SEED.value),
    }
    with adding(out, names, drop=["unfinished"]) as folder:
        write_json(folder / "results.json", results)
        write_text(folder / "table.md", sweep_markdown(results))
    print(f"written: {out / 'results.json'}, {out / 'table.md'}")


def _completed(config: dict[str, Any], classes: list[int]) -> dict[str, Any]:
    """The settings with the defaults of those that did not exist when the sweep began; it was of all `classes`."""
    from osp_jax.methods import METHODS

    config = {"classes": classes} | config
    options = config.get("options")
    if not isinstance(options, dict):
        return config
    known = {name: dataclasses.asdict(METHODS[name]()) for name in options if name in METHODS}
    return config | {"options": {name: known.get(name, {}) | (given or {}) for name, given in options.items()}}


if __name__ == "__main__":
    cli.run(main)
