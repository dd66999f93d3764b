"""A closed-form head on a network trained on other data: accuracy, speed, and comparison with a refit.

python -m benchmarks.exact_head --network=micronet --data=cifar10 --models=DIR --data_dir=DIR --features=DIR \
    [--json=results/exact/cifar10.json]

The network comes from the folder --models (`benchmarks.brought`) and has seen none of the images of --data. Computing
its features takes most of the time; they are cached in --features. Stages, random features and ridge are selected on a
tenth of the training images, then the head is fitted to all of them.

Then requests: each class, sets of classes, single images. A request is compared with a fit that never saw the forgotten
images, whose moments are summed from the features of the other images in another order: weights, accuracy, membership
attacks, a linear probe, a new head, relearning, and U-LiRA over shadow heads on random halves of the images. The halves
are sums of chunks of images, so that all shadow heads together cost one pass over the features.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.linalg

from benchmarks import cli
from benchmarks.brought.imports import IMPORTED
from osp_jax.audit.difference import with_differences
from osp_jax.audit.lira import scaled_confidence, u_lira
from osp_jax.audit.measure import share
from osp_jax.audit.membership import membership
from osp_jax.audit.probes import probes
from osp_jax.audit.subject import Look
from osp_jax.data.sources import Dataset, load_dataset
from osp_jax.data.splits import hold_out
from osp_jax.head_fit import Fitted, fit_features, network_features
from osp_jax.interop.imported import import_network
from osp_jax.interop.network_source import find_source, network_of
from osp_jax.interop.weight_files import read_weights
from osp_jax.methods import unlearn_classes
from osp_jax.methods.exact_head import ExactHead
from osp_jax.model import Model
from osp_jax.program.stages import feature_widths
from osp_jax.ridge import cholesky
from osp_jax.ridge.moments import HeadMoments, RandomFeatures, class_moments, expanded
from osp_jax.ridge.network import draw_random_features, with_ridge_head
from osp_jax.runtime.arguments import path, whole
from osp_jax.runtime.errors import InputError
from osp_jax.runtime.provenance import provenance
from osp_jax.runtime.workdir import read_json, write_json

STAGES = (4, 8, 12)
RANDOM = (0, 1024)
RIDGES = (1.0, 10.0, 100.0)
SELECTED_ON = 20_000  # training images to select the settings on, besides those held out
NEAR = 0.005  # tolerance in accuracy: time and size of a request grow with the square of the number of features
SCALE = 10.0
AUDITED = 3  # classes
PART = 1000  # images per part of an audit
CHUNKS = 128


def main() -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("--network", choices=sorted(IMPORTED), required=True)
    arguments.add_argument(
        "--data", choices=["cifar10", "cifar100"], required=True, help="whose classes the head tells"
    )
    arguments.add_argument("--models", type=path("folder"), required=True, help="the folder of the weights")
    arguments.add_argument("--data_dir", default="", help="the TFDS folder with the data set")
    arguments.add_argument("--features", type=path("folder"), required=True, help="where features of images are kept")
    arguments.add_argument("--shadows", type=whole(8, 512), default=64)
    arguments.add_argument("--batch_size", type=whole(1, 10**4), default=100)
    flags = arguments.parse_args()
    if IMPORTED[flags.network].dataset == flags.data:
        raise InputError(f"{flags.network} was trained on {flags.data}; give --data of classes that it never saw")
    dataset = load_dataset(flags.data, flags.data_dir)
    bare = backbone(flags.network, flags.models, dataset)
    seen = pooled(bare, dataset, flags.features / f"{flags.network}_on_{flags.data}", flags.batch_size)
    keep = partial(_keep, flags.json)
    result: dict[str, Any] = {"network": flags.network, "dataset": dataset.variant}
    result |= {"train_images": len(seen.train), "test_images": len(seen.test)}
    result |= _kept(flags.json, result) | {"provenance": provenance(0)}
    if "selection" not in result:
        keep(result, selection=select(seen))
    chosen = choice(result["selection"])
    head = fitted(bare, dataset, seen, chosen)
    keep(result, settings=chosen | {"scale": SCALE, "flip": True}, **about(head, seen))
    print({name: result[name] for name in ("settings", "features", "test_accuracy", "bytes_a_class")}, flush=True)
    parts = {"classes": each_class, "seconds": timed, "removals": hundred_removals, "audit": audited}
    for name, part in parts.items():
        if name not in result:
            start = time.perf_counter()
            keep(result, **{name: part(head, seen)})
            print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    for row in shadowed(head, seen, flags.shadows, [row["request"] for row in result.get("u_lira", ())]):
        print(row, flush=True)
        keep(result, u_lira=[*result.get("u_lira", ()), row])
    show(result)


def _kept(file: Path | None, wanted: dict[str, Any]) -> dict[str, Any]:
    """The finished parts of an interrupted measurement of the same network and images."""
    found = read_json(file) if file is not None and file.exists() else {}
    return found if all(found.get(name) == value for name, value in wanted.items()) else {}


def _keep(file: Path | None, result: dict[str, Any], **found: Any) -> None:
    result |= found
    result |= summary(result)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, result)


# Features


class Seen(NamedTuple):
    """A network's features of the images, float32 `(n, f)`, the labels `(n,)`, and the widths by stage."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    widths: tuple[int, ...]

    def last_of(self, moments: HeadMoments) -> "Seen":
        """The features of the stages that a head reads."""
        width = len(moments.random.kernel)
        sums = np.cumsum(self.widths[::-1])
        return self.last(int(np.searchsorted(sums, width)) + 1)

    def last(self, stages: int) -> "Seen":
        """The features of the last stages."""
        start = sum(self.widths[: len(self.widths) - stages])
        return self._replace(
            train=self.train[:, start:], test=self.test[:, start:], widths=self.widths[len(self.widths) - stages :]
        )


def backbone(name: str, models: Path, dataset: Dataset) -> Model:
    """The network `name` of `IMPORTED`; its class names are numbers, since they are not used."""
    given = IMPORTED[name]
    weights = read_weights(models / given.file)
    mean, std = (tuple(map(float, text.split(","))) for text in (given.mean, given.std))
    moments = [values if len(values) == 3 else values * 3 for values in (mean, std)]
    classes = 100 if given.dataset == "cifar100" else 10
    network = network_of(find_source(f"benchmarks.brought.torch_networks:{name}"))
    names = list(map(str, range(classes)))
    made = import_network(network, weights, dataset.image_shape, mean=moments[0], std=moments[1], class_names=names)
    return made.model


def pooled(bare: Model, dataset: Dataset, folder: Path, batch_size: int) -> Seen:
    """Means and maxima of all stages for all images, from the cache in `folder` if possible.

    A few images verify that the cache belongs to the network.

    Raises:
      InputError: the cached features are not those of the network.
    """
    stages = len(_all_stages(bare, dataset))
    model = with_ridge_head(
        bare, dataset.image_shape, dataset.class_names, stages=stages, flip=True, random_features=0, seed=0
    )
    found = []
    for name in ("train", "test"):
        split, file = getattr(dataset, name), folder / f"{name}.npy"
        if file.exists():
            kept = np.load(file, mmap_mode="r")
            few = np.arange(batch_size)
            now = network_features(model, split, few, batch_size)
            size = np.abs(now).max()
            if kept.shape != (len(split.labels), now.shape[1]) or np.abs(kept[few] - now).max() > 1e-3 * size:
                raise InputError(f"{file} does not hold the features of this network; remove it")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            kept = network_features(model, split, np.arange(len(split.labels)), batch_size)
            np.save(file, kept)
        found += [np.array(kept), split.labels]
    return Seen(*found, tuple(feature_widths(model.apply.stages)))


def _all_stages(bare: Model, dataset: Dataset) -> Sequence[Any]:
    from osp_jax.program.stages import find_stages

    return find_stages(bare.apply, bare.variables, dataset.image_shape).found


# Selection and fit


def select(seen: Seen) -> list[dict[str, Any]]:
    """The accuracies of heads on held-out images, by settings. Both sides are training images."""
    fit, held = hold_out(seen.train_labels, 0.1, seed=0)
    fit, tried = np.random.default_rng(0).permutation(fit)[:SELECTED_ON], []
    for stages in sorted({min(number, len(seen.widths)) for number in STAGES}):
        of = seen.last(stages)
        random = draw_random_features(of.train.shape[1], max(RANDOM), seed=0)
        moments = class_moments(of.train[fit], of.train_labels[fit], random)
        rows = expanded(of.train[held], random)
        for count in RANDOM:
            # The random features of a smaller number are the first of a larger one.
            chosen = np.r_[: of.train.shape[1] + count, rows.shape[1] - 1]
            fewer = RandomFeatures(random.kernel[:, :count], random.bias[:count])
            classes = {number: matrix[np.ix_(chosen, chosen)] for number, matrix in moments.items()}
            for ridge in RIDGES:
                head = HeadMoments(classes, len(classes), ridge, SCALE, fewer).head()
                right = float(np.mean((rows[:, chosen] @ head).argmax(1) == of.train_labels[held]))
                tried.append({"stages": stages, "random_features": count, "ridge": ridge, "features": len(chosen) - 1})
                tried[-1]["accuracy"] = right
                print(tried[-1], flush=True)
    return tried


def choice(tried: list[dict[str, Any]]) -> dict[str, Any]:
    """The settings with the fewest features within `NEAR` of the best accuracy."""
    best = max(one["accuracy"] for one in tried)
    near = [one for one in tried if one["accuracy"] >= best - NEAR]
    least = min(near, key=lambda one: (one["features"], -one["accuracy"]))
    return {name: least[name] for name in ("stages", "random_features", "ridge")}


def fitted(bare: Model, dataset: Dataset, seen: Seen, chosen: dict[str, Any]) -> Fitted:
    """The head with the selected settings, on all training images."""
    given = {"stages": chosen["stages"], "random_features": chosen["random_features"], "flip": True, "seed": 0}
    model = with_ridge_head(bare, dataset.image_shape, dataset.class_names, **given)
    settings = {"ridge": chosen["ridge"], "scale": SCALE, "keep_features": True}
    values, numbers = seen.last(chosen["stages"]).train, np.arange(len(seen.train))
    start = time.perf_counter()
    found = fit_features(model, values, seen.train_labels, numbers, dataset.image_shape, settings, prepare=False)
    print(f"fitted in {time.perf_counter() - start:.1f} s", flush=True)
    return found


def about(head: Fitted, seen: Seen) -> dict[str, Any]:
    """Sizes, and accuracy on the test images."""
    moments = head.statistics.head
    size = len(moments.total)
    logits = logits_of(moments, moments.head(), seen.last_of(moments).test)
    return {
        "features": size - 1,
        "test_accuracy": _plain(share(logits.argmax(1) == seen.test_labels)),
        "bytes_a_class": {"moments": 8 * size * (size + 1) // 2, "prepared": 8 * size * moments.num_classes},
        "condition": condition(moments),
    }


def condition(moments: HeadMoments) -> float:
    """A lower bound on the condition number of the solved matrix, from the diagonal of its factor."""
    diagonal = np.diag(moments.factor)
    return float((diagonal.max() / diagonal.min()) ** 2)


def logits_of(moments: HeadMoments, head: np.ndarray, values: np.ndarray, known: Sequence[int] = ()) -> np.ndarray:
    """Logits `(n, classes)` for the network's features; those of classes without images are -1e9."""
    logits = np.concatenate([moments.expanded(rows) @ head for rows in np.array_split(values, len(values) // 2000 + 1)])
    logits[:, ~np.isin(np.arange(moments.num_classes), list(known or moments.classes))] = -1e9
    return logits


# Requests


def refit(moments: HeadMoments, kept: np.ndarray, seed: int = 0) -> HeadMoments:
    """A fit to the images with the rows `kept`, bool: their moments are summed again, in another order."""
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(kept))
    features = moments.features
    classes = class_moments(features.values[rows], features.labels[rows], moments.random)
    return HeadMoments(classes, moments.num_classes, moments.ridge, moments.scale, moments.random)


def relative(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference over the largest entry."""
    return float(np.abs(one - other).max() / np.abs(other).max())


def each_class(head: Fitted, seen: Seen) -> list[dict[str, Any]]:
    """Accuracy after each request for one class."""
    moments, rows = head.statistics.head, []
    test = seen.last_of(moments).test
    before = logits_of(moments, moments.head(), test).argmax(1) == seen.test_labels
    for number in moments.classes:
        left = [other for other in moments.classes if other != number]
        after = logits_of(moments, moments.head_without([number], prepared=False), test, left).argmax(1)
        gone, right = seen.test_labels == number, after == seen.test_labels
        rows.append(
            {
                "class": number,
                "forgotten_before": float(before[gone].mean()),
                "forgotten_after": float(right[gone].mean()),
                "others_before": float(before[~gone].mean()),
                "others_after": float(right[~gone].mean()),
            }
        )
    return rows


def timed(head: Fitted, seen: Seen) -> dict[str, Any]:
    """Seconds of requests, wall and CPU, medians of warm ones; of the preparation, and of the work after a request."""
    del seen
    moments = head.statistics.head
    start = time.perf_counter()
    ready = moments.with_prepared()
    prepare = time.perf_counter() - start
    first = next(iter(moments.classes))
    statistics = {True: head.statistics.replace(head=ready), False: head.statistics}
    given = {"rng": jax.random.key(0)}

    def request(prepared: bool, forget: tuple[int, ...] = (first,)) -> Any:
        method = ExactHead(prepared=prepared)
        return unlearn_classes(method, head.model, forget, statistics=statistics[prepared], **given).variables["head"]

    several = tuple(moments.classes)[:3]
    found = {
        "prepare_all": prepare,
        "class_prepared": _median(partial(request, True), 100),
        "class": _median(partial(request, False), 7),
        "three_classes": _median(partial(request, False, several), 7),
    }
    numbers = np.random.default_rng(0).permutation(moments.features.numbers)
    for count in (1, 10, 100):
        found[f"images_{count}"] = _median(lambda count=count: moments.without_images(numbers[:count]).head(), 5)
    return found


def _median(call: Callable[[], Any], calls: int) -> dict[str, float]:
    jax.block_until_ready(call())
    wall, cpu = [], []
    for _ in range(calls):
        start = time.perf_counter(), time.process_time()
        jax.block_until_ready(call())
        wall.append(time.perf_counter() - start[0])
        cpu.append(time.process_time() - start[1])
    return {"wall": float(np.median(wall)), "cpu": float(np.median(cpu)), "wall_p95": float(np.percentile(wall, 95))}


def hundred_removals(head: Fitted, seen: Seen) -> dict[str, Any]:
    """The largest difference from a refit after 100 removals of images, in two orders, and then of a class."""
    del seen
    moments = head.statistics.head
    chosen = np.random.default_rng(1).permutation(moments.features.numbers)[:300]
    found: dict[str, Any] = {"removals": 100, "images": len(chosen), "differences": []}
    kept = ~np.isin(moments.features.numbers, chosen)
    expected = refit(moments, kept)
    gone = next(iter(moments.classes))
    without = expected.without([gone]).head()
    for seed in (0, 1):
        left = moments
        for taken in np.array_split(np.random.default_rng(seed).permutation(chosen), 100):
            left = left.without_images(taken)
        found["differences"].append(relative(left.head(), expected.head()))
        found["differences"].append(relative(left.head_without([gone], prepared=False), without))
    return found


# Audit


def audited(head: Fitted, seen: Seen) -> list[dict[str, Any]]:
    """Measures of the head before and after a request, and of a refit, for some classes; with their differences."""
    moments = head.statistics.head
    return [_audited(moments, number, seen.last_of(moments)) for number in _asked(moments)]


def _asked(moments: HeadMoments) -> list[int]:
    """The classes of an audit: airplane, cat and truck of CIFAR-10; the first, middle and last for others."""
    known = sorted(moments.classes)
    return [0, 3, 9] if len(known) == 10 else [known[0], known[len(known) // 2], known[-1]][:AUDITED]


def _audited(moments: HeadMoments, number: int, seen: Seen) -> dict[str, Any]:
    left = [other for other in moments.classes if other != number]
    retrained = refit(moments, moments.features.labels != number)
    heads = {
        "original": (moments.head(), list(moments.classes)),
        "unlearned": (moments.head_without([number], prepared=False), left),
        "retrained": (retrained.head(), left),
    }
    draw, parts = np.random.default_rng(0), {}
    for name, values, labels in (("train", seen.train, seen.train_labels), ("test", seen.test, seen.test_labels)):
        for side, members in (("forget", labels == number), ("retain", labels != number)):
            rows = draw.permutation(np.flatnonzero(members))[:PART]
            parts[f"{name}_{side}"] = values[rows], labels[rows]
    found = {}
    for name, (weights, known) in heads.items():
        answers = {part: (logits_of(moments, weights, v, known), labels) for part, (v, labels) in parts.items()}
        right = {part: logits.argmax(1) == labels for part, (logits, labels) in answers.items()}
        measures = {
            f"{part}_accuracy": share(hits, leak="high" if "forget" in part else None) for part, hits in right.items()
        }
        looks = {
            part: Look(answers[part][0], labels, {"features": moments.expanded(values)[:, :-1].astype(np.float32)})
            for part, (values, labels) in parts.items()
        }
        found[name] = {
            "accuracy": measures,
            "membership": membership(answers)[0],
            "probes": probes(looks, ["features"]),
            "relearning": {"steps": relearned(moments, weights, parts, number)},
        }
    compared = with_differences(found)
    gaps = [
        {"measure": f"{question}.{name}", "original": found["original"][question][name]["value"]} | _gap(measure)
        for question, named in compared["unlearned"].items()
        for name, measure in named.items()
    ]
    return {
        "class": number,
        "weights": relative(heads["unlearned"][0], heads["retrained"][0]),
        "gaps": gaps,
        "largest_gap": max(abs(gap["gap"]) for gap in gaps if gap["gap"] is not None),
    }


def _gap(measure: dict[str, Any]) -> dict[str, Any]:
    difference = measure.get("difference") or {"value": None, "ci95": None}
    return {"value": measure["value"], "gap": difference["value"], "gap_ci95": difference["ci95"]}


def relearned(moments: HeadMoments, weights: np.ndarray, parts: dict[str, Any], number: int) -> dict[str, Any]:
    """Steps of gradient descent on 50 images of the class, and as many others, until half of it is recognised."""
    from osp_jax.audit.measure import measure, never

    rows = [moments.expanded(parts[f"train_{side}"][0][:50]) for side in ("forget", "retain")]
    labels = np.concatenate([parts[f"train_{side}"][1][:50] for side in ("forget", "retain")])
    inputs, asked = np.concatenate(rows), moments.expanded(parts["test_forget"][0])
    weights, rate = weights.copy(), 2.0 / np.mean(np.sum(inputs**2, 1))
    for step in range(1000):
        if np.mean((asked @ weights).argmax(1) == number) >= 0.5:
            return measure(step, leak="low")
        logits = inputs @ weights
        answers = np.exp(logits - logits.max(1, keepdims=True))
        answers /= answers.sum(1, keepdims=True)
        answers[np.arange(len(labels)), labels] -= 1
        weights -= rate * inputs.T @ answers / len(labels)
    return never(1000, leak="low")


# Shadow heads


class Halves(NamedTuple):
    """Shadow heads: chunks of images, the chunks of each head `(heads, chunks)`, and the heads `(heads, m, k)`."""

    chunks: list[np.ndarray]
    seen: np.ndarray
    packed: np.ndarray
    targets: np.ndarray
    heads: np.ndarray


def shadowed(head: Fitted, seen: Seen, number: int, done: Sequence[str]) -> Iterator[dict[str, Any]]:
    """U-LiRA over heads on random halves of the images, for requests of a class and of a set of images.

    Args:
      done: requests to leave out.
    """
    moments = head.statistics.head
    of = seen.last_of(moments)
    draw = np.random.default_rng(2)
    chunks = np.array_split(draw.permutation(len(of.train)), CHUNKS)
    sides = np.array([draw.permutation(CHUNKS) < CHUNKS // 2 for _ in range(number)])
    images = np.zeros(len(of.train), bool)
    images[draw.permutation(len(of.train))[: len(of.train) // 50]] = True
    requests = [(f"class {gone}", of.train_labels == gone, gone) for gone in _asked(moments)]
    requests = [(f"{images.sum()} images", images, None), *requests]
    requests = [request for request in requests if request[0] not in done]
    if not requests:
        return
    sums = _halves(_chunk_moments(moments, of, chunks), sides)
    heads = np.stack([_solved(moments, *both) for both in zip(*sums, strict=True)])
    halves = Halves(chunks, sides, *sums, heads)
    for name, gone, label in requests:
        yield {"request": name, "shadows": number} | _u_lira(moments, of, halves, gone, label)


def _chunk_moments(
    moments: HeadMoments, seen: Seen, chunks: Sequence[np.ndarray], among: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(packed second moments `(chunks, m (m + 1) / 2)`, targets `(chunks, m, classes)`) of chunks of the images."""
    second, targets = [], []
    one_hot = np.eye(moments.num_classes) * moments.scale
    for chunk in chunks:
        rows = chunk if among is None else chunk[among[chunk]]
        inputs = moments.expanded(seen.train[rows])
        packed, _ = scipy.linalg.lapack.dtrttp(np.asfortranarray(inputs.T @ inputs), uplo="L")
        second.append(packed)
        targets.append(inputs.T @ one_hot[seen.train_labels[rows]])
    return np.stack(second), np.stack(targets)


def _halves(found: tuple[np.ndarray, np.ndarray], halves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums over the chunks of each half."""
    second, targets = found
    weights = halves.astype(np.float64)
    return weights @ second, np.tensordot(weights, targets, 1)


def _u_lira(
    moments: HeadMoments,
    seen: Seen,
    halves: Halves,
    gone: np.ndarray,
    number: int | None,
) -> dict[str, Any]:
    """The attack on heads that forgot the images `gone`, bool, compared with heads fitted without them.

    `u_lira_auc_hidden` is that of heads that forgot nothing; for a class, only its logit is left out.
    """
    learnt = _halves(_chunk_moments(moments, seen, halves.chunks, gone), halves.seen)
    never = _halves(_chunk_moments(moments, seen, halves.chunks, ~gone), halves.seen)
    asked = np.flatnonzero(gone)[:PART]
    of_chunk = np.empty(len(seen.train), int)
    for place, chunk in enumerate(halves.chunks):
        of_chunk[chunk] = place
    keep, inputs = halves.seen[:, of_chunk[asked]], moments.expanded(seen.train[asked])
    known = np.arange(moments.num_classes) != number
    answers: dict[str, list[np.ndarray]] = {"hidden": [], "unlearned": [], "retrained": []}
    differences = []
    for half, before in enumerate(halves.heads):
        left = halves.packed[half] - learnt[0][half], halves.targets[half] - learnt[1][half]
        heads = {"unlearned": _solved(moments, *left), "retrained": _solved(moments, never[0][half], never[1][half])}
        differences.append(relative(heads["unlearned"][:, known], heads["retrained"][:, known]))
        for name, weights in (heads | {"hidden": before}).items():
            logits = inputs @ weights
            logits[:, ~known] = -1e9
            answers[name].append(logits)
    # The logit of a forgotten class carries no information: an image is evaluated on its predicted class instead.
    labels = seen.train_labels[asked]
    if number is not None:
        labels = np.mean(answers["retrained"], axis=0).argmax(1)
    stacked = {name: np.stack([scaled_confidence(of, labels) for of in values]) for name, values in answers.items()}
    measured = {name: u_lira(stacked[name], stacked["retrained"], keep).measures for name in ("unlearned", "hidden")}
    return {
        "images": len(asked),
        "u_lira_auc": _plain(measured["unlearned"]["u_lira_auc"]),
        "u_lira_auc_hidden": _plain(measured["hidden"]["u_lira_auc"]),
        "largest_weight_difference": max(differences),
    }


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    """A measure in its written form."""
    return {name: found[name] for name in ("value", "ci95", "n")}


def _solved(moments: HeadMoments, packed: np.ndarray, targets: np.ndarray) -> np.ndarray:
    lower, _ = scipy.linalg.lapack.dtpttr(len(targets), packed, uplo="L")
    return cholesky.solved(cholesky.factor(lower, moments.ridge), targets)


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """The values for other tables: `gaps` by class and measure, the U-LiRA furthest from 0.5, and seconds."""
    found: dict[str, Any] = {}
    if "audit" in result:
        found["gaps"] = {
            f"class {audit['class']}, {gap['measure']}": {
                "value": gap["gap"],
                "ci95": gap["gap_ci95"] or [gap["gap"]] * 2,
            }
            for audit in result["audit"]
            for gap in audit["gaps"]
            if gap["gap"] is not None
        }
    if "u_lira" in result:
        areas = [request["u_lira_auc"] for request in result["u_lira"]]
        found["u_lira_auc"] = max(areas, key=lambda area: abs(area["value"] - 0.5))
    if "seconds" in result:
        found["warm_seconds"] = result["seconds"]["class"]["wall"]
        found["warm_seconds_prepared"] = result["seconds"]["class_prepared"]["wall"]
    return found


def show(result: dict[str, Any]) -> None:
    rows = result["classes"]
    print(f"test accuracy {result['test_accuracy']['value']:.2%}, {result['features']} features")
    drop = np.mean([row["others_after"] - row["others_before"] for row in rows])
    print(f"others {100 * drop:+.2f} points, forgotten {max(row['forgotten_after'] for row in rows):.2%}")
    print({name: value for name, value in result["seconds"].items()})
    print(result["removals"], [audit["largest_gap"] for audit in result["audit"]])


if __name__ == "__main__":
    cli.run(main)
