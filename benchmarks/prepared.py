"""Time and size of prepared requests, and the distance of composed sets from the joint request.

python -m benchmarks.prepared --network=resnet20 --models=DIR --data_dir=DIR --json=results/prepared/resnet20.json

--network is one of `benchmarks.brought` (with its weights in --models) or a workdir. Statistics are collected on
--images_per_class training images, with cached inputs of the last kernels for --cached_inputs of them.

Times are from the request to new parameters that are ready: for a prepared request from the class number, with the
changes in memory. Warm times are medians of calls that alternate over the classes; cold is the first call in the
process, and for a prepared request includes reading the changes and compilation. Sets of two and three classes are
drawn by a seed. Their results are evaluated on the test images.
"""

import statistics as stats
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

import osp_jax
from benchmarks import cli
from benchmarks.brought.imports import IMPORTED, Imported
from benchmarks.brought.networks import MEAN, NETWORKS, STD, load
from benchmarks.evaluating import accuracies, evaluate_all
from osp_jax.data.sources import Dataset, Split, load_dataset
from osp_jax.data.splits import per_class_sample
from osp_jax.interop.imported import import_network
from osp_jax.interop.network_source import find_source, network_of
from osp_jax.interop.weight_files import read_weights
from osp_jax.loading import dataset_of, load_workdir
from osp_jax.methods import get_method
from osp_jax.model import Model
from osp_jax.prepared.changes import applied, new_leaves
from osp_jax.prepared.classes import Prepared, answer_prepared
from osp_jax.prepared.files import folder_of, load_prepared, save_prepared
from osp_jax.prepared.sets import answer_set, composed
from osp_jax.runtime.arguments import path, several, whole
from osp_jax.runtime.errors import InputError, unknown
from osp_jax.runtime.provenance import provenance
from osp_jax.runtime.workdir import read_json, write_json
from osp_jax.statistics import Statistics
from osp_jax.stored_features import stored_features
from osp_jax.trees import leaves_by_path

METHODS = ("osp-fit", "logit-mask", "concept-erasure")


def main() -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("--network", required=True, help="of benchmarks.brought, or a workdir")
    arguments.add_argument("--models", type=path("folder"), default=None, help="the folder of the weights")
    arguments.add_argument("--data_dir", default="", help="the TFDS folder with the data set")
    arguments.add_argument("--methods", type=several(_method), default=list(METHODS))
    arguments.add_argument("--images_per_class", type=whole(1, 10**6), default=500)
    arguments.add_argument("--cached_inputs", type=whole(0, 10**6), default=3000)
    arguments.add_argument("--test_images", type=whole(1, 10**6), default=10000, help="the same of each class")
    arguments.add_argument(
        "--few", type=whole(3, 10**6), default=4, help="classes to prepare by a method that sees images"
    )
    arguments.add_argument("--sets", type=whole(0, 10**4), default=10, help="of two classes, and as many of three")
    arguments.add_argument("--calls", type=whole(1, 10**6), default=300, help="of a prepared request")
    arguments.add_argument("--direct_calls", type=whole(1, 10**6), default=10, help="of one that is computed")
    flags = arguments.parse_args()
    name, model, dataset = _brought(flags)
    labels, known = dataset.train.labels, model.known
    rows = per_class_sample(labels, np.flatnonzero(np.isin(labels, known)), flags.images_per_class * len(known), seed=0)
    given = dataset.train.images[rows], labels[rows]
    collected = _statistics(model, given, flags.cached_inputs)
    everything = np.arange(len(dataset.test.labels))
    judged = per_class_sample(dataset.test.labels, everything, flags.test_images, seed=0)
    before = evaluate_all(model, [model], dataset.test, judged)[0]
    results = {
        "network": name,
        "dataset": dataset.variant,
        "accuracy": float(np.trace(before) / before.sum()),
        "test_images": len(judged),
        "images_per_class": flags.images_per_class,
        "cached_inputs": len(collected.cached_inputs[0]) if collected.cached_inputs else 0,
        "parameters_bytes": sum(leaf.nbytes for leaf in leaves_by_path(model.variables).values()),
        "rows": [],
        "sets": [],
    }
    for name in flags.methods:
        try:
            row, prepared = _measured(name, model, collected, given, flags)
        except InputError as error:
            results["rows"].append({"method": name, "error": str(error)})
            print(f"{name}: {error}", flush=True)
            continue
        number = 2 if prepared.method.sees else flags.sets
        sets = _sets(prepared, model, collected, given, (dataset.test, judged), before, number)
        results["rows"].append(row)
        results["sets"] += [{"method": name, **found} for found in sets]
        print(row, *sets, sep="\n", flush=True)
        if flags.json:
            flags.json.parent.mkdir(parents=True, exist_ok=True)
            old = read_json(flags.json) if flags.json.exists() else {"rows": [], "sets": []}
            kept = {
                key: [found for found in old[key] if found["method"] not in flags.methods] for key in ("rows", "sets")
            }
            merged = {key: kept[key] + results[key] for key in kept}
            write_json(flags.json, {**results, **merged, "provenance": provenance(seed=0)})


# Measurements


def _measured(
    name: str, model: Model, collected: Statistics, given: Any, flags: Any
) -> tuple[dict[str, Any], Prepared]:
    """(a row, the prepared requests) of a method."""
    method, classes = get_method(name)(), model.known
    calls = flags.direct_calls
    if method.sees:
        classes, calls = classes[: flags.few], min(calls, 2)
    unlearn = partial(osp_jax.unlearn, model, method=method, statistics=collected, data=given, accept=True)
    first = unlearn([classes[0]])
    start = time.perf_counter()
    prepared = osp_jax.prepare(model, classes, method, statistics=collected, data=given)
    total = time.perf_counter() - start
    made = list(prepared.classes.values())
    turns = [classes[i % len(classes)] for i in range(flags.calls)]
    direct = [unlearn([number]).report["seconds"]["cold"] for number in turns[:calls]]
    found = answer_prepared(prepared, model, classes[0]).variables
    pairs = zip(*map(jax.tree.leaves, (first.model.variables, found)), strict=True)
    equal = all(np.array_equal(*pair) for pair in pairs)
    with tempfile.TemporaryDirectory() as scratch:
        cold_prepared, stored = _cold(prepared, model, classes[0], Path(scratch))
    warm = _times([partial(_prepared_request, prepared, model, number) for number in turns])
    whole_call = _times([partial(osp_jax.unlearn, model, [number], prepared=prepared, accept=True) for number in turns])
    kinds = sorted({change.kind for each in made for change in each.changes.values()})
    return {
        "method": name,
        "classes": len(classes),
        "prepare_seconds": stats.median(each.seconds for each in made),
        "prepare_seconds_first": made[0].seconds,
        "prepare_seconds_all": total,
        "bytes_a_class": stats.mean(each.nbytes for each in made),
        "bytes_on_disk": stored,
        "leaves": len(made[0].changes),
        "forms": kinds,
        "bit_identical": bool(equal),
        "warm_seconds_prepared": stats.median(warm),
        "warm_seconds_prepared_p99": float(np.percentile(warm, 99)),
        "warm_seconds_prepared_donated": _donated(prepared, model, turns),
        "warm_seconds_prepared_with_report": stats.median(whole_call),
        "cold_seconds_prepared": cold_prepared,
        "warm_seconds": stats.median(direct),
        "cold_seconds": first.report["seconds"]["cold"],
        "images_at_request": sum(first.data_seen["request"]["train"].values()),
        "command": provenance(seed=0)["command"],
    }, prepared


def _prepared_request(prepared: Prepared, model: Model, number: int) -> Any:
    return answer_prepared(prepared, model, number).variables


def _times(calls: Sequence[Callable[[], Any]]) -> list[float]:
    """Seconds of each call, until its result is ready, after each was made once."""
    for call in calls[:100]:
        jax.block_until_ready(_arrays(call()))
    times = []
    for call in calls:
        start = time.perf_counter()
        jax.block_until_ready(_arrays(call()))
        times.append(time.perf_counter() - start)
    return times


def _arrays(result: Any) -> Any:
    return result.model.variables if isinstance(result, osp_jax.api.Result) else result


def _donated(prepared: Prepared, model: Model, turns: Sequence[int]) -> float:
    """Median seconds if the new leaves may reuse the memory of the old ones, with a copy for each call."""
    times = []
    for number in turns:
        variables = jax.block_until_ready(jax.tree.map(lambda leaf: leaf + 0, model.variables))
        start = time.perf_counter()
        jax.block_until_ready(applied(variables, prepared.changes_of(number), donate=True))
        times.append(time.perf_counter() - start)
    return stats.median(times)


def _cold(prepared: Prepared, model: Model, number: int, workdir: Path) -> tuple[float, int]:
    """(seconds to read the changes of a class and apply them with a newly compiled program, bytes on disk)."""
    save_prepared(folder_of(workdir, prepared.settings), number, "", prepared)
    stored = sum(file.stat().st_size for file in workdir.rglob("*") if file.is_file())
    new_leaves.clear_cache()
    start = time.perf_counter()
    found = load_prepared(workdir, prepared.method, prepared.settings, model, [number])
    jax.block_until_ready(answer_prepared(found, model, number).variables)
    return time.perf_counter() - start, stored


def _sets(
    prepared: Prepared,
    model: Model,
    collected: Statistics,
    given: Any,
    judged: tuple[Split, np.ndarray],
    before: np.ndarray,
    number: int,
) -> list[dict[str, Any]]:
    """One row per set: the joint request, the composed changes, and the repaired ones."""
    draw, known = np.random.default_rng(0), sorted(prepared.classes)
    forgets = [
        tuple(sorted(draw.choice(known, size, replace=False).tolist())) for size in (2, 3) for _ in range(number)
    ]
    found, models = [], []
    for forget in forgets:
        direct = partial(osp_jax.unlearn, model, forget, prepared.method, statistics=collected, data=given, accept=True)
        joint = direct()
        bare, compose_seconds = _timed(partial(composed, prepared, model, forget))
        answer, seconds = _timed(partial(answer_set, prepared, model, forget, collected))
        shown = stored_features(model, bare, collected)
        variants = {"joint": joint.model, "composed": bare, **({"repaired": answer[0]} if answer else {})}
        models += variants.values()
        row = {
            "forget": list(forget),
            "joint_seconds": joint.report["seconds"]["cold"],
            "compose_seconds": compose_seconds,
            "repair_seconds": seconds if answer else None,
            "shown_by": shown.source if shown else None,
            "variants": list(variants),
        }
        for name, variant in variants.items():
            if name != "joint":
                row[f"{name}_difference"] = _difference(variant, joint.model, model)
        found.append(row)
    counts = iter(evaluate_all(model, models, *judged) if models else ())
    for row in found:
        forget = [tuple(row["forget"])]
        was = accuracies(before[None], forget)[0]["retain_accuracy"]
        for name in row.pop("variants"):
            now = accuracies(next(counts)[None], forget)[0]
            row[f"{name}_forgotten"] = now["forget_accuracy"]
            row[f"{name}_others_change"] = now["retain_accuracy"] - was
    return found


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """(the result, seconds of a second call)."""
    call()
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def _difference(one: Model, other: Model, original: Model) -> float:
    """The distance of two sets of parameters over that of the second from the original's, 0 if they are equal."""
    leaves = [leaves_by_path(model.variables) for model in (one, other, original)]
    paths = [path for path in leaves[0] if original.is_parameter(path)]
    first, second, start = ([np.asarray(each[path], np.float64) for path in paths] for each in leaves)
    apart = sum(((a - b) ** 2).sum() for a, b in zip(first, second, strict=True))
    moved = sum(((a - b) ** 2).sum() for a, b in zip(second, start, strict=True))
    return float(np.sqrt(apart / moved)) if apart else 0.0


# Inputs


def _brought(flags: Any) -> tuple[str, Model, Dataset]:
    """(name of the network, the network, its data set)."""
    name = flags.network
    if name in NETWORKS:
        dataset = load_dataset("cifar10", flags.data_dir)
        moments = {"mean": MEAN, "std": STD, "class_names": dataset.class_names}
        return name, osp_jax.from_linen(*load(name, flags.models), **moments), dataset
    if name in IMPORTED:
        return name, *_imported(IMPORTED[name], name, flags)
    workdir = Path(name)
    if not (workdir / "config.json").exists():
        raise unknown("network", name, [*NETWORKS, *IMPORTED, "or a workdir"])
    trained = load_workdir(workdir)
    called = f"{trained.record['config']['model']['name']}, trained here"
    return called, trained.model, dataset_of(trained, flags.data_dir)


def _imported(about: Imported, name: str, flags: Any) -> tuple[Model, Dataset]:
    """A PyTorch network as `experiments.import_model` reads it, without the pass over all training images."""
    dataset, file = load_dataset(about.dataset, flags.data_dir), flags.models / about.file
    network = network_of(find_source(f"benchmarks.brought.torch_networks:{name}"))
    moments = {key: tuple(map(float, getattr(about, key).split(","))) for key in ("mean", "std")}
    moments = {key: value * (3 // len(value)) for key, value in moments.items()}
    given = {**moments, "class_names": dataset.class_names, "forgotten": ()}
    model, _ = import_network(network, read_weights(file), dataset.image_shape, where=str(file), **given)
    has_masks = any(path.endswith(".mask") for path in model.variables)
    return (_with_pruned_weights(model, name) if has_masks else model), dataset


def _with_pruned_weights(model: Model, name: str) -> Model:
    """A network whose weights are products with masks: its head is a product, which cannot be changed."""
    from benchmarks.brought import torch_networks

    network = torch_networks.without_masks(getattr(torch_networks, name)())
    moments = {"mean": model.mean, "std": model.std, "class_names": model.class_names}
    bare = osp_jax.from_torch(network, torch_networks.torch.zeros(2, 3, 32, 32), **moments)
    masks = {
        path.removesuffix("mask") + "weight": leaf for path, leaf in model.variables.items() if path.endswith(".mask")
    }
    return bare.replace(variables={path: model.variables[path] * masks.get(path, 1) for path in bare.variables})


def _statistics(model: Model, given: Any, cached_inputs: int) -> Statistics:
    """Statistics with inputs of the last kernels, if the network has such kernels."""
    try:
        return osp_jax.collect_statistics(model, *given, cached_inputs=cached_inputs)
    except InputError as error:
        print(f"no cached inputs: {error}", flush=True)
        return osp_jax.collect_statistics(model, *given)


def _method(name: str) -> str:
    get_method(name)
    return name


if __name__ == "__main__":
    cli.run(main)
