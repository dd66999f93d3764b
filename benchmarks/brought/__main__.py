"""Networks that other people trained, made to forget each class in turn by methods with their default settings.

python -m benchmarks.brought --models=DIR --data_dir=DIR [--json=results/brought/results.json]

The folder --models holds the weights of `benchmarks.brought.networks`. Nothing is chosen for a network: this is what a
user gets who brings one. What the harm check of `osp_jax.unlearn` refuses is judged too, since the error carries it.
With --json, what is finished is kept there after each method; `python -m experiments.tables` makes the table of it.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import osp_jax
from benchmarks import cli
from benchmarks.brought.networks import MEAN, NETWORKS, STD, load
from benchmarks.brought.table import HEADER, rows
from benchmarks.evaluating import accuracies, evaluate_all
from osp_jax.data.sources import Dataset, load_dataset
from osp_jax.data.splits import parse_classes
from osp_jax.methods import get_method
from osp_jax.model import Model
from osp_jax.runtime.arguments import path, several, whole
from osp_jax.runtime.errors import InputError, unknown

METHODS = ("osp-fit", "logit-mask", "concept-erasure", "osp", "subspace", "esc", "ssd", "class-aware")


def main() -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("--models", type=path("folder"), required=True, help="the folder of the weights")
    arguments.add_argument("--data_dir", default="", help="the TFDS folder with cifar10")
    arguments.add_argument("--networks", type=several(_network), default=list(NETWORKS))
    arguments.add_argument("--methods", type=several(_method), default=list(METHODS))
    arguments.add_argument(
        "--images_per_class",
        type=whole(1, 10**6),
        default=500,
        help="training images that a method sees, if it sees any",
    )
    arguments.add_argument("--classes", default="", help="numbers or names, separated by commas; none: each")
    flags = arguments.parse_args()
    dataset = load_dataset("cifar10", flags.data_dir)
    classes = parse_classes(flags.classes, dataset.class_names) or tuple(range(dataset.num_classes))
    given = {"mean": MEAN, "std": STD, "class_names": dataset.class_names}
    models = {name: osp_jax.from_linen(*load(name, flags.models), **given) for name in flags.networks}
    results = {"dataset": dataset.variant, "test_images": len(dataset.test.labels), "networks": {}, "rows": []}
    results["images_per_class"] = flags.images_per_class
    for name, model in models.items():
        start = time.perf_counter()
        statistics = osp_jax.collect_statistics(model, dataset.train.images, dataset.train.labels)
        seconds = time.perf_counter() - start
        counts = _counts(model, [model], dataset)[0]
        before = {"accuracy": float(np.trace(counts) / counts.sum()), "statistics_seconds": seconds}
        results["networks"][name] = before
        print(f"{name}: {before['accuracy']:.2%} right, statistics in {seconds:.0f} s", flush=True)
        for method in flags.methods:
            budget = dict.fromkeys(("retain_per_class", "forget_per_class"), flags.images_per_class)
            answers = [_answer(model, method, c, statistics, dataset, budget) for c in classes]
            results["rows"] += _judged(model, name, method, classes, answers, counts, dataset)
            _show(results["rows"], name, method)
            if flags.json is not None:
                _write(results, flags.json)


class _Answer(NamedTuple):
    """A model, or the error of a method that cannot act on the network; what it costs, whether it was refused."""

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


def _judged(
    model: Model,
    network: str,
    method: str,
    classes: Sequence[int],
    answers: Sequence[_Answer],
    before: np.ndarray,
    dataset: Dataset,
) -> list[dict[str, Any]]:
    """A row a class, with accuracies on the test images."""
    made = [answer.model for answer in answers if answer.model is not None]
    counts = iter(_counts(model, made, dataset) if made else ())
    found = []
    for forgotten, answer in zip(classes, answers, strict=True):
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


def _show(found: list[dict[str, Any]], network: str, method: str) -> None:
    of_method = [row for row in found if (row["network"], row["method"]) == (network, method)]
    for cells in rows(of_method):
        print(", ".join(f"{head} {cell}" for head, cell in zip(HEADER, cells, strict=True)), flush=True)


def _write(results: dict[str, Any], file: Path) -> None:
    from osp_jax.runtime.provenance import provenance
    from osp_jax.runtime.workdir import write_json

    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {**results, "provenance": provenance(seed=0)})


def _network(text: str) -> str:
    if text not in NETWORKS:
        raise unknown("network", text, NETWORKS)
    return text


def _method(text: str) -> str:
    get_method(text)
    return text


if __name__ == "__main__":
    cli.run(main)
