"""STEU and its controls on the requests of a finished comparison of texts: effects of the head and of the tokens.

    python -m benchmarks.token_edits --workdir=runs/benchmark/newsgroups --json=FILE --markdown=FILE

Each row is a mean over the requests: accuracy and F1 of the forgotten class, mean F1 of the other classes, a linear
probe and a new head on the features, and the number of changed scalars. `original` and `retrained` are those of the
comparison, and all variants have its settings of `steu`.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import cli
from benchmarks.text_tables import edits
from osp_jax.audit.accuracy import f1_scores, predictions_of
from osp_jax.audit.probes import new_head, probes
from osp_jax.audit.subject import Subject, stages_of
from osp_jax.comparison.cell import Original, answer
from osp_jax.comparison.chosen import chosen_settings
from osp_jax.comparison.plan import Request, parse_requests
from osp_jax.comparison.questions import HEAD, PROBE, comparison_images, looks_of
from osp_jax.comparison.run import original_of, slug
from osp_jax.data.sources import load_data
from osp_jax.loading import load_workdir
from osp_jax.methods import parse_options
from osp_jax.methods.steu import Steu
from osp_jax.model import Model
from osp_jax.runtime.arguments import path
from osp_jax.runtime.errors import InputError
from osp_jax.runtime.provenance import provenance
from osp_jax.runtime.settings import Comparison, completed
from osp_jax.runtime.workdir import read_json, read_tokenizer, write_json, write_text
from osp_jax.trees import leaves_by_path

VARIANTS: dict[str, dict[str, Any]] = {
    "steu": {},
    "steu, softmax": {"loss": "softmax"},
    "steu, all logits": {"over": "all"},
    "head alone": {"k": 0},
    "embeddings alone": {"head": False},
    "random rows and head": {"tokens": "random"},
    "frequent rows and head": {"tokens": "frequent"},
}


def measured(original: Original, model: Model, forget: tuple[int, ...], train_texts: int) -> dict[str, float]:
    """The values of `text_tables.EDITS` for one model."""
    images = comparison_images(original.dataset, original.train, forget, test_images=0, train_images=train_texts)
    subject = Subject(model, original.preparation)
    looks = looks_of(subject, images)
    test = [looks[f"test_{side}"] for side in ("forget", "retain")]
    predictions, labels = (
        np.concatenate(parts)
        for parts in ([predictions_of(look.logits) for look in test], [look.labels for look in test])
    )
    scores, gone = f1_scores(predictions, labels, model.num_classes), np.isin(np.arange(model.num_classes), forget)
    forgotten = np.isin(labels, forget)
    last = stages_of(model, original.dataset.image_shape).features
    return {
        "forget_accuracy": float((predictions == labels)[forgotten].mean()),
        "forget_f1": float(scores[gone].mean()),
        "retain_accuracy": float((predictions == labels)[~forgotten].mean()),
        "retain_f1": float(scores[~gone].mean()),
        PROBE: probes(looks, [last])[f"linear_{last}"]["value"],
        HEAD: new_head(looks, last)[HEAD]["value"],
        "changed": float(changed(original.model, model)),
    }


def changed(before: Model, after: Model) -> int:
    """The number of scalars in the variables that differ."""
    old, new = leaves_by_path(before.variables), leaves_by_path(after.variables)
    return sum(int((np.asarray(leaf) != np.asarray(new[name])).sum()) for name, leaf in old.items())


def rows_of(
    original: Original, requests: Sequence[Request], folder: Path, method: Steu, train_texts: int
) -> list[dict[str, Any]]:
    """One row per request and model: `request`, `model`, `options` of a variant, and the measures."""
    found = []
    for request in requests:
        models = {"original": original.model, "retrained": load_workdir(folder / "retrained" / slug(request)).model}
        options: dict[str, Mapping[str, Any]] = {}
        for name, changes in VARIANTS.items():
            variant = dataclasses.replace(method, **changes)
            models[name] = answer(original, variant, request, jax.random.key(0)).model
            options[name] = dataclasses.asdict(variant)
        for name, model in models.items():
            values = measured(original, model, request.forget, train_texts)
            found.append({"request": request.name, "model": name, "options": options.get(name), **values})
    return found


def _run() -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("--workdir", type=path("folder"), required=True, help="of experiments.benchmark, on texts")
    arguments.add_argument("--markdown", type=path("file"), default=None, metavar="FILE", help="also write the table")
    given = arguments.parse_args()
    workdir = Path(given.workdir)
    config = ConfigDict(completed(read_json(workdir / "config.json")["config"], Comparison))
    seed = config.seeds[0]
    folder = workdir / f"seed{seed}"
    dataset = load_data(config.original.data, read_tokenizer(folder / "original"))
    if not dataset.tokenizer:
        raise InputError(f"{workdir} compares networks of images; give a comparison on texts")
    original = original_of(config, dataset, seed, folder / "original")
    requests = parse_requests(config.forget, dataset.class_names)
    method = parse_options("steu", chosen_settings(workdir / "results.json", "steu"))
    rows = rows_of(original, requests, folder, method, config.audit.train_images)
    text = edits(rows)
    print(text)
    if given.json:
        about = {"dataset": dataset.variant, "requests": [request.name for request in requests], "seed": seed}
        write_json(Path(given.json), json.loads(json.dumps({**about, "rows": rows, "provenance": provenance(seed)})))
    if given.markdown:
        write_text(Path(given.markdown), text + "\n")


if __name__ == "__main__":
    cli.run(_run)
