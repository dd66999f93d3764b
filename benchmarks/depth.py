"""Concept erasure from the last kernels backwards: cost of each step, and the remaining information in the features.

python -m benchmarks.depth --workdir=DIR --reference=DIR --forget=cat [--json=results/depth/NAME.json]

The reference is a workdir trained without the class. There is one row for the original, the reference and each of
--settings: accuracy on test images of the class and of the others, and at the last stage of each width the balanced
accuracy of a linear probe and the accuracy of a new head on the class (`osp_jax.audit.probes`). A request is timed
twice; the second is warm. --relearn adds the steps in which 50 images of each class restore the class. --each_class
forgets every class in turn with each of --settings, evaluated on all test images.
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import cli
from benchmarks.evaluating import accuracies, evaluate_all
from osp_jax.audit.probes import new_head, probes
from osp_jax.audit.relearn import Settings, relearning
from osp_jax.audit.subject import Images, Subject, images_of, look, recognised, stages_of
from osp_jax.data.sources import Split
from osp_jax.data.splits import parse_classes
from osp_jax.loading import dataset_of, indices_of, load_workdir, stored_statistics, subject_of
from osp_jax.methods.concept_erasure import ConceptErasure
from osp_jax.model import Model
from osp_jax.runtime.arguments import path, whole
from osp_jax.runtime.errors import InputError
from osp_jax.runtime.provenance import provenance
from osp_jax.runtime.workdir import read_json, write_json
from osp_jax.workdir_requests import request_data_of

SETTINGS = "share=0,depth=0;depth=0;depth=1;depth=2;depth=3"


def main() -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("--workdir", type=path("workdir"), required=True, help="the original")
    arguments.add_argument("--reference", type=path("workdir"), default=None, help="trained without the class")
    arguments.add_argument("--forget", default="", help="a class, by number or name")
    arguments.add_argument("--data_dir", default="", help="the TFDS folder")
    arguments.add_argument("--settings", default=SETTINGS, help="of concept-erasure, NAME=VALUE,...;NAME=VALUE,...")
    arguments.add_argument("--images", type=whole(10, 10**6), default=1000, help="of a part, that are probed")
    arguments.add_argument(
        "--held_out", action="store_true", help="images that training held out, in place of the test's"
    )
    arguments.add_argument("--relearn", action="store_true", help="with the steps of relearning")
    arguments.add_argument("--each_class", action="store_true", help="every class in turn, accuracies only")
    flags = arguments.parse_args()
    trained = load_workdir(flags.workdir)
    dataset, statistics = dataset_of(trained, flags.data_dir), stored_statistics(trained, flags.workdir)
    if flags.held_out:
        _, held_out = indices_of(trained, dataset)
        test = Split(dataset.train.images[held_out], dataset.train.labels[held_out])
        dataset = dataclasses.replace(dataset, test=test)
    settings = [_settings(text) for text in flags.settings.split(";")]
    about = {"network": trained.record["config"]["model"]["name"], "dataset": dataset.variant}
    about |= {"images": "held-out training images" if flags.held_out else "test images"}
    keep = _Keeper(flags.json, about)

    def answer(given: dict[str, Any], forget: tuple[int, ...], calls: int) -> tuple[Model, list[float]]:
        method, seconds = ConceptErasure(**given), []
        for _ in range(calls):
            data = request_data_of(trained, dataset, forget)
            start = time.perf_counter()
            model = method.unlearn(trained.model, forget, data=data, statistics=statistics, rng=jax.random.key(0))
            jax.block_until_ready(model.variables)
            seconds.append(time.perf_counter() - start)
        return model, seconds

    if flags.each_class:
        classes = [(c,) for c in range(dataset.num_classes)]
        indices = np.arange(len(dataset.test.labels))
        for given in settings:
            made = [answer(given, forget, 1)[0] for forget in classes]
            counts = evaluate_all(trained.model, [trained.model, *made], dataset.test, indices)
            before = accuracies(np.repeat(counts[:1], len(classes), 0), classes)
            after = accuracies(counts[1:], classes)
            keep("each_class", {"settings": given, **_changes(before, after)})
        return
    (forget,) = [parse_classes(flags.forget, dataset.class_names)]
    if len(forget) != 1 or flags.reference is None:
        raise InputError("one class and one reference are compared; give --forget and --reference, or --each_class")
    train, _ = indices_of(trained, dataset)
    images = images_of(dataset, train, forget, flags.images, 0)
    original = subject_of(trained)
    stages = last_of_each_width(original.model, dataset.image_shape)
    found = {"original": original, "reference": subject_of(load_workdir(flags.reference))}
    right = float(recognised(original.model, images).mean())
    reference = {}
    for name, subject in found.items():
        row = {"name": name, "class": dataset.class_names[forget[0]], **_measured(subject, images, stages)}
        if flags.relearn and name == "reference":
            row |= _relearned(subject, images, right)
        keep("rows", row)
        reference = row
    for given in settings:
        model, seconds = answer(given, forget, 2)
        subject = Subject(model, original.preparation)
        row = {"name": _text(given), "class": dataset.class_names[forget[0]]}
        row |= _measured(subject, images, stages) | {"cold_seconds": seconds[0], "warm_seconds": seconds[1]}
        if flags.relearn:
            row |= _relearned(subject, images, right)
        gaps = {f"{key}_gap": row[key] - reference[key] for key in row if key.startswith(("probe_", "head_"))}
        keep("rows", row | gaps)


def last_of_each_width(model: Model, image_shape: Sequence[int]) -> list[str]:
    """The last of the stages with the same number of channels, in program order; the features are the last of all."""
    gates, last = stages_of(model, tuple(image_shape)), {}
    for group in gates.groups:
        last[group.channels] = group.name
    return [*(name for name in last.values() if name != gates.features), gates.features]


def _measured(subject: Subject, images: Images, stages: Sequence[str]) -> dict[str, float]:
    parts = ("train_forget", "train_retain", "test_forget", "test_retain")
    looks = {part: look(subject, images, part) for part in parts}
    row = {}
    for side in ("forget", "retain"):
        tested = looks[f"test_{side}"]
        row[f"{side}_accuracy"] = float((tested.logits.argmax(-1) == tested.labels).mean())
    for stage in stages:
        row[f"probe_{stage}"] = probes(looks, [stage])[f"linear_{stage}"]["value"]
        row[f"head_{stage}"] = new_head(looks, stage)["new_head_forget_accuracy"]["value"]
    return row


def _relearned(subject: Subject, images: Images, right: float) -> dict[str, float | None]:
    settings = Settings(counts=(50,), layers=("all_layers",), steps=100)
    measures, _ = relearning(subject, images, right, settings)
    return {f"relearn_{share}": measures[f"all_layers_50_images_to_{share}_percent"]["value"] for share in ("50", "95")}


def _changes(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> dict[str, Any]:
    forgotten = [row["forget_accuracy"] for row in after]
    pairs = zip(before, after, strict=True)
    others = [row["retain_accuracy"] - was["retain_accuracy"] for was, row in pairs]
    return {
        "forgotten_mean": float(np.mean(forgotten)),
        "forgotten_worst": float(np.max(forgotten)),
        "others_mean": float(np.mean(others)),
        "others_worst": float(np.min(others)),
        "others": others,
    }


class _Keeper:
    """Prints each result, and adds it to a file immediately; a row of the same name is replaced."""

    def __init__(self, file: Path | None, about: dict[str, Any]) -> None:
        self.file, self.about = file, about

    def __call__(self, kind: str, row: dict[str, Any]) -> None:
        print(", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        results = {"rows": [], "each_class": []} | (read_json(self.file) if self.file.exists() else {}) | self.about
        labels = ("name", "class", "settings")
        others = [old for old in results[kind] if any(old.get(key) != row.get(key) for key in labels)]
        write_json(self.file, results | {kind: [*others, row], "provenance": provenance(seed=0)})


def _settings(text: str) -> dict[str, Any]:
    fields = {field.name: type(field.default) for field in ConceptErasure.__dataclass_fields__.values()}
    given = {}
    for pair in filter(None, text.split(",")):
        name, _, value = pair.partition("=")
        if name not in fields:
            raise InputError(f"concept-erasure has no setting {name!r}; choose of {', '.join(fields)}")
        given[name] = fields[name](value)
    return given


def _text(given: dict[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in given.items()) or "the default"


if __name__ == "__main__":
    cli.run(main)
