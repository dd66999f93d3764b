"""Runs a comparison from its config: originals, settings selected on held-out images, every method on every request.

Each finished piece is a separate file in the workdir, so an interrupted run resumes.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from osp_jax import statistics_files
from osp_jax.comparison.cell import Answer, Original, attempt, audit, harm, timed_answer, validation_score
from osp_jax.comparison.plan import Request, check_budget, parse_requests, trials
from osp_jax.data.kinds import channels_of
from osp_jax.data.sources import Dataset
from osp_jax.data.splits import per_class_sample
from osp_jax.interop.linen import from_linen
from osp_jax.loading import indices_of, load_workdir, record_for_report, statistics_of, stored_statistics
from osp_jax.methods import METHODS, method_name
from osp_jax.methods.parts.method import Method
from osp_jax.networks import build_model, variable_shapes
from osp_jax.program.gates import gates_of, noise_images
from osp_jax.runtime import records
from osp_jax.runtime.distributed import place
from osp_jax.runtime.errors import InputError, shown
from osp_jax.runtime.integrity import read_piece, write_piece
from osp_jax.runtime.provenance import provenance
from osp_jax.runtime.settings import Comparison, differing, validated
from osp_jax.runtime.workdir import close_training, keep_tokenizer, read_record, replacing, write_json
from osp_jax.training import checkpoints as checkpoint
from osp_jax.training.loop import check_settings, train

RETRAIN = "retrain"


def check_comparison(
    config: ConfigDict, dataset: Dataset, methods: Mapping[str, Method], *, named: bool = True
) -> dict[str, Method]:
    """The methods that support the network.

    Args:
      named: whether the user chose these methods. If not, those whose defaults do not support the network are left
        out.

    Raises:
      InputError: for anything that would fail after the originals were trained.
    """
    validated(config, Comparison)
    if config.original.data.exclude or not config.original.data.validation:
        raise InputError(
            "a comparison needs original.data.validation above 0, to choose settings on, and no original.data.exclude"
        )
    if dataset.test_held_out:
        raise InputError(
            f"a comparison needs test images beside those of original.data.validation, and {dataset.name} has none; "
            "divide its images into train and test"
        )
    if config.original.training.start_from:
        raise InputError(
            "original.training.start_from names a network that saw every class, so the retrained networks would start "
            "from it too; leave it empty and train for more epochs"
        )
    if not config.seeds:
        raise InputError("seeds is empty; give at least one, as in (0,)")
    check_settings(config.original, dataset.image_shape)
    module, shape = build_model(config.original, dataset.num_classes, dataset.image_shape), dataset.image_shape
    moments = {"mean": (0.0,) * channels_of(shape), "std": (1.0,) * channels_of(shape)}
    draw = np.random.default_rng(0)  # the gates of a network do not depend on its values
    shapes = variable_shapes(module, shape)

    def value(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        """Random values of a magnitude that deep networks preserve."""
        if len(leaf.shape) < 2:
            return draw.uniform(0.1, 1, leaf.shape).astype(leaf.dtype)
        fan_in = math.prod(leaf.shape[:-1])
        return (draw.standard_normal(leaf.shape) * math.sqrt(2 / fan_in)).astype(leaf.dtype)

    variables = jax.tree.map(value, shapes)
    model = from_linen(module, variables, **moments, class_names=dataset.class_names)
    gates = gates_of(model.apply, variables, noise_images(shape))
    fitting = {}
    for name, method in methods.items():
        if name != RETRAIN:
            check_budget(method, _budget(config))
        try:
            method.check(model, gates)
        except InputError:
            if named or method != type(method)():  # with explicit options
                raise
        else:
            fitting[name] = method
    return fitting


def original_of(config: ConfigDict, dataset: Dataset, seed: int, workdir: Path) -> Original:
    """Trains the original of a seed in `workdir`, resumes its training, or reads it if it is finished.

    A finished workdir of `experiments.train` with the same settings, or a link to one, is read as it is.
    """
    settings = ConfigDict(config.original.to_dict())
    settings.seed = seed
    train(settings, dataset, workdir)
    trained = load_workdir(workdir)
    if not (workdir / "statistics").exists():
        statistics_files.save_statistics(workdir / "statistics", statistics_of(trained, dataset))
        close_training(workdir)
    indices, validation = indices_of(trained, dataset)
    if config.tuning.images:
        validation = per_class_sample(dataset.train.labels, validation, config.tuning.images, seed=0)
    return Original(
        model=trained.model,
        statistics=stored_statistics(trained, workdir),
        dataset=dataset,
        preparation=trained.preparation,
        recipe=settings.to_dict(),
        train=indices,
        validation=validation,
        on_device=place((dataset.train.images, dataset.train.labels)),
        budget=_budget(config),
    )


def tune(
    original: Original, method: Method, requests: Sequence[Request], number: int, path: Path, rng: jax.Array
) -> Method:
    """The best of `number` settings by `validation_score` over `requests`; every trial is stored in the file `path`.

    A trial includes the time of its first call: if that compiled, later calls of this process will not.

    Raises:
      InputError: the file has trials of other options than the current ones.
    """
    name, done = method_name(method), records.trials(read_piece(path), path) if path.exists() else []
    candidates = trials(method, number)
    if len(candidates) < 2:
        return method
    for trial, candidate in zip(done, map(dataclasses.asdict, candidates), strict=False):
        # Options that did not exist yet had the behaviour of their current defaults.
        if dataclasses.asdict(type(method)()) | trial["options"] != candidate:
            raise InputError(
                f"{path} holds trials of other options of {name} ({shown(trial['options'])}); delete it and the "
                f"cells of {name}, or choose another --workdir"
            )

    def scores(candidate: Method) -> dict[str, Any]:
        answers = [timed_answer(original, candidate, request, rng, 0.0)[0] for request in requests]
        found = [validation_score(original, a.model, r.forget) for a, r in zip(answers, requests, strict=True)]
        first = answers[0]
        call = {"cold": first.seconds if first.compiled else None, "peak_bytes": first.peak_bytes}
        return {key: float(np.mean([f[key] for f in found])) for key in found[0]} | call

    for candidate in candidates[len(done) :]:
        done.append(
            {"options": dataclasses.asdict(candidate), **attempt(partial(scores, candidate), path.with_suffix(".log"))}
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_piece(path, done)
    best = max(range(len(candidates)), key=lambda i: (done[i].get("score", -1.0), -i))
    return candidates[best]


def run_cell(
    original: Original,
    method: Method,
    request: Request,
    rng: jax.Array,
    config: ConfigDict,
    folder: Path,
    log: Path,
    original_accuracy: float,
) -> dict[str, Any]:
    """A method's settings, accuracies, harm, times and images used, or its error, whose traceback goes to `log`.

    A retrained network is stored in `folder`; it is trained once, whatever `config.timing` says, and not at all if
    `folder` already has it.

    Args:
      original_accuracy: accuracy of the original on the forgotten test images.
    """
    retrains = method_name(method) == RETRAIN
    if retrains:  # the reference uses all retained images, whatever the budget of the others
        original = original._replace(budget=dict.fromkeys(original.budget))

    def answered() -> tuple[Answer, dict[str, Any]]:
        if not retrains:
            return timed_answer(original, method, request, rng, config.timing.limit)
        if kept := _kept(original, folder, request):
            return kept
        result, seconds = timed_answer(original, method, request, rng, 0.0)
        _keep(folder, request, result.model.variables)
        return result, seconds

    def work() -> dict[str, Any]:
        result, seconds = answered()
        found = audit(original, result.model, request.forget, config.audit, original_accuracy=original_accuracy)
        return {
            **found,
            "harm": harm(original, result.model, request.forget) if config.audit.harm else None,
            "seconds": seconds,
            "seen": result.seen,
            "peak_bytes": result.peak_bytes,
        }

    return {"options": dataclasses.asdict(method), **attempt(work, log)}


def compare(
    config: ConfigDict,
    dataset: Dataset,
    workdir: Path,
    methods: Mapping[str, Method],
    requests: Sequence[Request],
    seeds: Sequence[int],
    on_work: Callable[[str], None],
) -> None:
    """Runs the unfinished cells; `on_work(text)` is called before each tuning and each cell.

    Settings are selected on the config's first seed and first `tuning.requests` requests, and used for all.
    """
    first, *_ = config.seeds
    tuned_on = parse_requests(config.forget, dataset.class_names)[: config.tuning.requests]
    needed = dict.fromkeys((first, *seeds))
    originals = {seed: original_of(config, dataset, seed, workdir / f"seed{seed}" / "original") for seed in needed}
    commit, chosen = provenance(config.seed)["commit"], {}
    for name, method in methods.items():
        on_work(f"tuning {name}")
        path, key = workdir / "tuning" / f"{name}.json", jax.random.key(config.seed)
        chosen[name] = tune(originals[first], method, tuned_on, config.tuning.trials, path, key)
    for seed in seeds:
        original, folder = originals[seed], workdir / f"seed{seed}"
        for request in requests:
            cells = folder / "cells" / slug(request)
            cells.mkdir(parents=True, exist_ok=True)
            about = {"seed": seed, "request": request.name, "kind": request.kind, "forget": list(request.forget)}
            first = cells / "original.json"
            if not first.exists():
                found = audit(original, original.model, request.forget, config.audit, original_accuracy=None)
                write_piece(first, {**about, "method": "original", **found})
            before = records.cell(read_piece(first), first)["accuracy"]["test_forget_accuracy"]
            for name, method in chosen.items():
                on_work(f"{name}: {request.name}")
                path = cells / f"{name}.json"
                if not path.exists():
                    log, key = path.with_suffix(".log"), jax.random.key(seed)
                    result = run_cell(original, method, request, key, config, folder, log, before)
                    write_piece(path, {**about, "method": name, **result, "commit": commit})


def collect(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """All finished cells and tunings of a workdir, as the content of `results.json`."""
    trained = load_workdir(next(iter(sorted(workdir.glob("seed*/original")))))
    return {
        **record_for_report(trained),
        "config": json.loads(json.dumps(config.to_dict())),
        "methods": list(METHODS),
        "cells": [records.cell(read_piece(path), path) for path in sorted(workdir.glob("seed*/cells/*/*.json"))],
        "tuning": {path.stem: records.trials(read_piece(path), path) for path in sorted(workdir.glob("tuning/*.json"))},
        "provenance": provenance(config.seed),
    }


def _kept(original: Original, folder: Path, request: Request) -> tuple[Answer, dict[str, Any]] | None:
    """The retrained network in `folder`, from a comparison or from `experiments.train`; None if there is none.

    Its seed may differ from that of the original.

    Raises:
      InputError: it was trained by another recipe, or with or without other classes.
    """
    workdir = folder / "retrained" / slug(request)
    if not (workdir / "config.json").exists():
        return None
    trained, dataset = load_workdir(workdir), original.dataset
    others = differing(trained.record["config"], original.recipe)
    if others or trained.model.forgotten != request.forget:
        what = ", ".join(others) or f"it never saw the classes {shown(trained.model.forgotten)}"
        raise InputError(f"{workdir} is not the original's recipe without {request.name} ({what}); delete it")
    labels = dataset.train.labels[indices_of(trained, dataset)[0]]
    seen = {str(c): int(n) for c, n in zip(*np.unique(labels, return_counts=True), strict=True)}
    log = workdir / "metrics.jsonl"
    epochs = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    seconds = sum(epoch["seconds"] for epoch in epochs) if epochs else None
    return Answer(trained.model, 0.0, False, seen, None), {"cold": seconds, "warm": None, "calls": 0}


def _keep(folder: Path, request: Request, variables: Any) -> None:
    """Stores a retrained network as a workdir, which `experiments.eval --reference` can read."""
    workdir, record = folder / "retrained" / slug(request), read_record(folder / "original")
    record["config"]["data"]["exclude"] = ",".join(map(str, request.forget))
    workdir.parent.mkdir(parents=True, exist_ok=True)
    with replacing(workdir) as content:
        checkpoint.save_variables(content, variables)
        write_json(content / "config.json", record)
        keep_tokenizer(folder / "original", content)


def slug(request: Request) -> str:
    """A folder name for a request: '3', '3-5', or '3_then_5' for a sequence."""
    return "_then_".join("-".join(map(str, step)) for step in request.steps)


def _budget(config: ConfigDict) -> dict[str, int | None]:
    """Images per class by side; below 0 means all."""
    return {side: None if config.budget[side] < 0 else config.budget[side] for side in ("retain", "forget")}
