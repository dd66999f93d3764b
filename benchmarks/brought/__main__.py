"""Makes other people's networks forget each class in turn, by methods with their default settings.

python -m benchmarks.brought --models=DIR --data_dir=DIR [--networks=resnet20,vit] [--json=results/brought/results.json]

The folder --models holds the weights of `benchmarks.brought.networks` (Flax, read here) and of
`benchmarks.brought.imports` (PyTorch, imported by `experiments.import_model`; PyTorch must be installed). No setting is
tuned for a network: this is what a user gets. Results that the harm check of `osp_jax.unlearn` refuses are evaluated
too, since the error contains them. The results of the method --home on PyTorch networks are also exported:
`experiments.export` writes each as a file of the original format, and PyTorch reads it.

With --json, results are written as soon as they are finished, and results of other networks and methods in the file are
kept, so that a long measurement can be split. `python -m experiments.tables` makes the tables.
"""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import osp_jax
from benchmarks import cli
from benchmarks.brought import imports
from benchmarks.brought.home import take_home
from benchmarks.brought.imports import IMPORTED
from benchmarks.brought.networks import MEAN, NETWORKS, STD, load
from benchmarks.brought.table import HEADER, HOME_HEADER, home_rows, rows
from benchmarks.evaluating import accuracies, evaluate_all
from osp_jax.data.sources import Dataset, load_dataset
from osp_jax.data.splits import parse_classes
from osp_jax.loading import load_workdir, stored_statistics
from osp_jax.methods import get_method
from osp_jax.model import Model
from osp_jax.runtime.arguments import path, several, whole
from osp_jax.runtime.errors import InputError, unknown
from osp_jax.runtime.provenance import provenance
from osp_jax.runtime.workdir import read_json, write_json
from osp_jax.statistics import Statistics
from osp_jax.trees import differing_paths, leaves_by_path

METHODS = ("osp-fit", "logit-mask", "osp", "esc", "concept-erasure", "class-aware")


def main() -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("--models", type=path("folder"), required=True, help="the folder of the weights")
    arguments.add_argument("--data_dir", default="", help="the TFDS folder with the data set")
    arguments.add_argument("--networks", type=several(_network), default=list(NETWORKS), help="of one data set")
    arguments.add_argument("--methods", type=several(_method), default=list(METHODS))
    arguments.add_argument(
        "--images_per_class",
        type=whole(1, 10**6),
        default=500,
        help="training images that a method sees, if it sees any",
    )
    arguments.add_argument("--classes", default="", help="numbers or names, separated by commas; none: each")
    arguments.add_argument("--home", type=_method, default="osp-fit", help="the method whose results go home")
    arguments.add_argument(
        "--scratch",
        type=path("folder"),
        default=Path("runs/brought"),
        help="where PyTorch networks are imported, and what goes home; what it has already is used again",
    )
    flags = arguments.parse_args()
    dataset = load_dataset(_dataset_of(flags.networks), flags.data_dir)
    classes = parse_classes(flags.classes, dataset.class_names) or tuple(range(dataset.num_classes))
    about = {"dataset": dataset.variant, "test_images": len(dataset.test.labels)}
    about |= {"images_per_class": flags.images_per_class}
    budget = dict.fromkeys(("retain_per_class", "forget_per_class"), flags.images_per_class)
    for name in flags.networks:
        model, statistics, seconds = _brought(name, flags, dataset)
        counts = _counts(model, [model], dataset)[0]
        before = {"accuracy": float(np.trace(counts) / counts.sum()), "statistics_seconds": seconds}
        print(f"{name}: {before['accuracy']:.2%} right", flush=True)
        keep = partial(_keep, flags.json, about, name, before, {"methods": list(flags.methods), **provenance(seed=0)})
        answers = {}
        for method in flags.methods:
            print(f"{name}: {method}", flush=True)
            answers[method] = [_answer(model, method, c, statistics, dataset, budget) for c in classes]
        for group in _judged_together(model, answers):
            found = _judged(model, name, {method: answers[method] for method in group}, classes, counts, dataset)
            _show(HEADER, rows(found))
            keep(found, [])
        if name in IMPORTED:
            given = (flags.home, classes, flags.models, flags.scratch, dataset)
            found = take_home(name, flags.scratch / name, *given)
            _show(HOME_HEADER, home_rows(found))
            keep([], found)


def _brought(name: str, flags: Any, dataset: Dataset) -> tuple[Model, Statistics, float]:
    """(the network, its statistics, the seconds to import the network and to collect them)."""
    start = time.perf_counter()
    if name in IMPORTED:
        workdir = imports.import_model(name, flags.models, flags.data_dir, flags.scratch)
        seconds, trained = time.perf_counter() - start, load_workdir(workdir)
        return trained.model, stored_statistics(trained, workdir), seconds
    given = {"mean": MEAN, "std": STD, "class_names": dataset.class_names}
    model = osp_jax.from_linen(*load(name, flags.models), **given)
    statistics = osp_jax.collect_statistics(model, dataset.train.images, dataset.train.labels)
    return model, statistics, time.perf_counter() - start


class _Answer(NamedTuple):
    """A model, or the error of a method that does not support the network; its cost, and whether it was refused."""

    model: Model | None
    seconds: float
    harm: dict[str, Any] | None = None
    refused: bool = False
    error: str | None = None


def _answer(
    model: Model, method: str, forgotten: int, statistics: Any, dataset: Dataset, budget: dict[str, int]
) -> _Answer:
    start, refused = time.perf_counter(), False
    data = (dataset.train.images, dataset.train.labels)
    try:
        result = osp_jax.unlearn(model, [forgotten], method, statistics=statistics, data=data, **budget)
    except osp_jax.HarmError as error:
        result, refused = error.result, True
    except InputError as error:
        return _Answer(None, time.perf_counter() - start, error=str(error))
    return _Answer(result.model, time.perf_counter() - start, result.report["harm"], refused)


def _judged_together(model: Model, answers: dict[str, list[_Answer]]) -> list[list[str]]:
    """Groups of methods that are evaluated in one pass: those that change no convolution kernel share one."""
    leaves = leaves_by_path(model.variables)

    def changes_convolutions(method: str) -> bool:
        made = [answer.model.variables for answer in answers[method] if answer.model is not None]
        return any(leaves[path].ndim > 3 for path in (differing_paths(model.variables, made) if made else ()))

    alone = [method for method in answers if changes_convolutions(method)]
    together = [method for method in answers if method not in alone]
    return [group for group in (together, *([method] for method in alone)) if group]


def _judged(
    model: Model,
    network: str,
    answers: dict[str, list[_Answer]],
    classes: Sequence[int],
    before: np.ndarray,
    dataset: Dataset,
) -> list[dict[str, Any]]:
    """One row per method and class, with accuracies on the test images."""
    made = [answer.model for each in answers.values() for answer in each if answer.model is not None]
    counts = iter(_counts(model, made, dataset) if made else ())
    found = []
    for method, forgotten, answer in [
        (method, *pair) for method, each in answers.items() for pair in zip(classes, each, strict=True)
    ]:
        was = accuracies(before[None], [(forgotten,)])[0]
        now = accuracies(next(counts)[None], [(forgotten,)])[0] if answer.model is not None else {}
        found.append(
            {
                "network": network,
                "method": method,
                "class": forgotten,
                "name": dataset.class_names[forgotten],
                "forgotten_before": was["forget_accuracy"],
                "forgotten_after": now.get("forget_accuracy"),
                "others_before": was["retain_accuracy"],
                "others_after": now.get("retain_accuracy"),
                "refused": answer.refused,
                "harm": answer.harm,
                "seconds": answer.seconds,
                "error": answer.error,
            }
        )
    return found


def _counts(model: Model, models: Sequence[Model], dataset: Dataset) -> np.ndarray:
    """`evaluate_all` on all test images."""
    return evaluate_all(model, models, dataset.test, np.arange(len(dataset.test.labels)))


def _merged(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All rows; those of the networks and methods in `new` replace older ones."""
    measured = {(row["network"], row["method"]) for row in new}
    return [row for row in old if (row["network"], row["method"]) not in measured] + new


def _show(header: Sequence[str], found: list[list[str]]) -> None:
    for cells in found:
        print(", ".join(f"{head} {cell}" for head, cell in zip(header, cells, strict=True)), flush=True)


def _keep(
    file: Path | None,
    about: dict[str, Any],
    name: str,
    before: dict[str, Any],
    run: dict[str, Any],
    found: list[dict[str, Any]],
    home: list[dict[str, Any]],
) -> None:
    """Adds to the file, if one is given, what a run found for a network; it is read again, as others may write."""
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    results = {"networks": {}, "rows": [], "home": []} | (read_json(file) if file.exists() else {}) | about
    runs = _with_run(results["networks"].get(name, {}).get("runs", []), run)
    results["networks"][name] = before | {"runs": runs}
    results |= {"rows": _merged(results["rows"], found), "home": _merged(results["home"], home)}
    write_json(file, results)


def _with_run(runs: list[dict[str, Any]], run: dict[str, Any]) -> list[dict[str, Any]]:
    """The provenance of each run that measured a network, with its methods; those of the new run replace older ones."""
    older = [{**each, "methods": [name for name in each["methods"] if name not in run["methods"]]} for each in runs]
    return [each for each in older if each["methods"]] + [run]


def _dataset_of(networks: Sequence[str]) -> str:
    found = {IMPORTED[name].dataset if name in IMPORTED else "cifar10" for name in networks}
    if len(found) > 1:
        raise InputError(f"the networks were trained on {' and '.join(sorted(found))}; name those of one data set")
    return found.pop()


def _network(text: str) -> str:
    if text not in (*NETWORKS, *IMPORTED):
        raise unknown("network", text, (*NETWORKS, *IMPORTED))
    return text


def _method(text: str) -> str:
    get_method(text)
    return text


if __name__ == "__main__":
    cli.run(main)
