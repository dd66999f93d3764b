"""Computes requests to forget classes in advance; experiments.unlearn then looks them up.

python -m experiments.prepare --workdir=runs/digits --classes=all --method=osp-fit

The workdir keeps what each request changes, in prepared/. Resumable: the same command continues where it stopped.
"""

import time
from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli

_WORKDIR = cli.folder_flag("workdir", "the trained model", required=True)
_CLASSES = flags.DEFINE_string("classes", "all", "classes to prepare, by number or name: 3,5 or cat,dog; or all")
_METHOD = cli.method_flags()


def main() -> None:
    from osp_jax.data.splits import classes_in_turn
    from osp_jax.loading import dataset_of, load_workdir, statistics_of, stored_statistics
    from osp_jax.prepared.classes import Prepared, fingerprint, prepare_class, request_settings
    from osp_jax.prepared.files import discard_stale, folder_of, list_prepared, prepared_classes, save_prepared
    from osp_jax.runtime.workdir import check_writable
    from osp_jax.workdir_requests import check_recipe, harm_of_request, request_input

    workdir = Path(_WORKDIR.value)
    method = _METHOD.parsed()
    trained = load_workdir(workdir)
    model, names = trained.model, trained.model.class_names
    classes = classes_in_turn(_CLASSES.value, names, model.forgotten)
    check_recipe(trained, method, _METHOD.name.value)
    check_writable(workdir, 0)

    network = fingerprint(model)
    budget = _METHOD.budget()
    settings = request_settings(method, budget, _METHOD.seed.value)
    folder = folder_of(workdir, settings)
    if stale := discard_stale(workdir, network, model.known):
        print(f"removed {stale} prepared requests of other weights, or for classes that are forgotten")
    list_prepared(workdir)
    missing = [number for number in classes if number not in prepared_classes(folder)]
    if len(missing) < len(classes):
        print(f"{len(classes) - len(missing)} of {len(classes)} classes are prepared already")
    if not missing:
        return

    stored = (workdir / "statistics").exists()
    dataset = None if stored else dataset_of(trained, _METHOD.data_dir.value)
    statistics = stored_statistics(trained, workdir) if stored else statistics_of(trained, dataset)
    statistics = statistics.without(model.forgotten)

    def images() -> Any:
        nonlocal dataset
        dataset = dataset or dataset_of(trained, _METHOD.data_dir.value)
        return dataset

    for number in missing:
        start, forget = time.perf_counter(), (number,)
        data = request_input(trained, method, forget, statistics, images, budget)

        def estimate(after: Any, forget: tuple[int, ...] = forget) -> Any:
            return harm_of_request(trained, after, forget, statistics, images, accept=True)

        given = {"data": data, "statistics": statistics, "seed": _METHOD.seed.value, "estimate": estimate}
        made = prepare_class(method, model, number, **given)
        save_prepared(folder, number, names[number], Prepared(method, network, settings, {number: made}))
        exact = "the same bits" if made.is_exact else "the same to float rounding"
        print(
            f"prepared {names[number]}: {time.perf_counter() - start:.2f} s, {made.nbytes:,} bytes, {exact}", flush=True
        )
    print(f"prepared requests for {len(classes)} classes by {_METHOD.name.value}: {folder}")


if __name__ == "__main__":
    cli.run(main)
