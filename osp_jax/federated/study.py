"""A federated study from its config: every division, request and attack, the methods, and retraining.

Each training and each cell of the table is a separate piece in the workdir, and trainings save checkpoints, so an
interrupted study resumes.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from osp_jax.data.dataset import Dataset
from osp_jax.data.kinds import is_text
from osp_jax.data.splits import check_forget, parse_classes
from osp_jax.data.stored import StoredImages
from osp_jax.federated.attacks import KINDS as ATTACKS
from osp_jax.federated.audit import AuditImages, audit_images, audit_logits, figures
from osp_jax.federated.client import ClientData
from osp_jax.federated.editing import FederatedMethod
from osp_jax.federated.methods import parse_method, settings_of
from osp_jax.federated.requests import LEVELS
from osp_jax.federated.rounds import Schedule, Trained, train
from osp_jax.federated.scenario import SCENARIOS, Scenario, class_pair, forgotten, methods_of, scenario_of
from osp_jax.federated.simulator import asking
from osp_jax.federated.splits import KINDS as SPLITS
from osp_jax.federated.splits import holdings
from osp_jax.federated.world import World, schedules_of, trained_of, world_of
from osp_jax.model import Model, parameters_of
from osp_jax.runtime.errors import InputError, unknown
from osp_jax.runtime.integrity import read_piece, write_piece
from osp_jax.runtime.provenance import provenance


def check_study(config: ConfigDict, dataset: Dataset) -> None:
    """Raises `InputError` for anything that would fail after hours of training."""
    for name, known, what in ((config.splits, SPLITS, "split"), (config.scenarios, SCENARIOS, "scenario")):
        for given in name:
            if given not in known:
                raise unknown(what, given, known)
        if not name:
            raise InputError(f"{what}s is empty; give at least one of: {', '.join(known)}")
    if config.data.exclude or config.data.cutout or config.data.pad_mode != "reflect":
        raise InputError(
            "a federated study leaves classes out by departures.classes, and augments by data.pad and data.flip; "
            "leave data.exclude, data.cutout and data.pad_mode out"
        )
    if is_text(dataset.image_shape):
        raise InputError(f"a federated study is on images, and {dataset.name} has texts; give a set of images")
    if isinstance(dataset.train.images, StoredImages):
        raise InputError("the simulator needs images in memory; leave data.stream out")
    number = config.division.clients
    given = (config.departures.clients, config.departures.sample_clients, config.attack.malicious)
    if wrong := [client for ids in given for client in ids if client >= number]:
        raise InputError(f"there is no client {wrong[0]}; give numbers from 0 to {number - 1}")
    if 2 * len(config.attack.malicious) >= number and set(config.scenarios) & set(ATTACKS):
        raise InputError(f"{len(config.attack.malicious)} of {number} clients are malicious; name fewer than half")
    if config.attack.target >= dataset.num_classes:
        raise InputError(f"attack.target is {config.attack.target}; give a class from 0 to {dataset.num_classes - 1}")
    check_forget(parse_classes(config.departures.classes, dataset.class_names), dataset.num_classes)
    if config.attack.flip_classes:
        class_pair(config.attack.flip_classes, dataset)
    for scenario in SCENARIOS:
        for text in methods_of(config, scenario):
            method = parse_method(text)
            level = scenario if scenario in LEVELS else "client"
            if level not in method.levels:
                raise InputError(f"{text} answers no request at {level} level; it has: {', '.join(method.levels)}")
    schedules_of(config)


def run_study(config: ConfigDict, dataset: Dataset, workdir: Path, on_work: Callable[[str], None]) -> None:
    """Runs the unfinished cells; `on_work(text)` is called before each training and each cell."""
    for split in config.splits:
        for seed in config.seeds:
            world = world_of(config, dataset, split, seed, workdir)
            for name in config.scenarios:
                scenario = scenario_of(world, name, on_work)
                _run_scenario(world, scenario, lambda text, at=f"{split}, seed {seed}: ": on_work(at + text))


def cells_of(config: ConfigDict) -> int:
    """The number of cells in the table of a config, including the trained and retrained models."""
    return len(config.splits) * len(config.seeds) * sum(2 + len(methods_of(config, name)) for name in config.scenarios)


def _run_scenario(world: World, scenario: Scenario, on_work: Callable[[str], None]) -> None:
    folder = world.folder / scenario.name
    wanted = {"trained": None, "retrained": None} | {text: parse_method(text) for text in scenario.methods}
    paths = {text: folder / f"{_slug(text)}.json" for text in wanted}
    if all(path.exists() for path in paths.values()):
        return
    folder.mkdir(parents=True, exist_ok=True)
    schedule, left = scenario.schedule, scenario.request.retained(scenario.clients)
    original = trained_of(world, scenario.trained, scenario.clients, schedule, on_work)
    retrained = trained_of(world, scenario.retrained, left, schedule, on_work)
    asked = audit_images(world.dataset, scenario.clients, scenario.request, scenario.attack, scenario.poisoned)
    reference = audit_logits(world.model.replace(variables=retrained.variables), asked)
    about = {"split": world.folder.parent.name, "seed": world.seed, "scenario": scenario.name}
    about |= {"commit": provenance(world.seed)["commit"]}
    for name, run in (("trained", original), ("retrained", retrained)):
        if not paths[name].exists():
            on_work(f"{scenario.name}: {name}")
            row = {"after": [_measured(world, run.variables, asked, reference)], "rounds": schedule.rounds}
            write_piece(paths[name], {**about, "method": name, **row, "traffic": run.traffic._asdict()})
    for text, method in wanted.items():
        if method is not None and not paths[text].exists():
            on_work(f"{scenario.name}: {text}")
            try:
                row = _run_method(world, scenario, method, original, left, asked, reference)
            except InputError as error:  # a refusal is a result
                row = {"error": str(error)}
            named = {"method": text, "settings": settings_of(method), "note": method.note}
            write_piece(paths[text], {**about, **named, **row})


def _run_method(
    world: World,
    scenario: Scenario,
    method: FederatedMethod,
    original: Trained,
    left: ClientData,
    asked: AuditImages,
    reference: dict[str, Any],
) -> dict[str, Any]:
    """A method's figures after the edit and after each recovery round, and the traffic until then."""
    after: list[dict[str, float | None]] = []

    def measure(number: int, trained: Trained) -> None:
        del number
        after.append(_measured(world, trained.variables, asked, reference))

    def recover(model: Model, key: jax.Array, schedule: Schedule, mask: Any) -> Trained:
        return train(model, left, key, schedule, mask=mask, on_round=measure)

    edit, recovered = forgotten(world, scenario, method, original, asking(scenario.clients), recover)
    after.insert(0, _measured(world, edit.variables, asked, reference))
    sent = edit.traffic if recovered is None else edit.traffic.plus(recovered.traffic)
    return {"after": after, "rounds": len(after) - 1, "traffic": sent._asdict(), "about": edit.about}


def _measured(world: World, variables: Any, asked: AuditImages, reference: dict[str, Any]) -> dict[str, float | None]:
    if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(variables)):
        raise InputError("the model is no longer finite; lower the learning rate")
    return figures(audit_logits(world.model.replace(variables=variables), asked), asked, reference)


def _slug(text: str) -> str:
    """A file name for a method and its settings."""
    return text.replace(":", "_").replace(",", "_").replace("/", "-")


def collect(config: ConfigDict, dataset: Dataset, workdir: Path) -> dict[str, Any]:
    """All finished cells of a workdir, and the images of each client, as the content of `results.json`."""
    cells, held, requests = [], {}, {}
    for split in config.splits:
        for seed in config.seeds:
            world = world_of(config, dataset, split, seed, workdir)
            if seed == config.seeds[0]:
                held[split] = holdings(dataset.train.labels, world.parts, dataset.num_classes).tolist()
            for name in config.scenarios:
                folder = world.folder / name
                paths = [folder / f"{_slug(text)}.json" for text in ("trained", "retrained", *methods_of(config, name))]
                found = [read_piece(path) for path in paths if path.exists()]
                if found and seed == config.seeds[0]:
                    requests.setdefault(split, {})[name] = _described(scenario_of(world, name))
                cells += found
    return {
        "dataset": {
            "name": dataset.name,
            "variant": dataset.variant,
            "class_names": list(dataset.class_names),
            "num_train": len(dataset.train.labels),
            "num_test": len(dataset.test.labels),
        },
        "model": {"name": config.model.name, "parameters": parameters_of(world.model)},
        "config": json.loads(json.dumps(config.to_dict())),
        "held": held,
        "requests": requests,
        "cells": cells,
        "provenance": provenance(config.seed),
    }


def _described(scenario: Scenario) -> dict[str, Any]:
    """The forgotten clients or classes with their numbers of images, JSON-ready."""
    present, request, attack = scenario.clients.present, scenario.request, scenario.attack
    return {
        "level": request.level,
        "classes": list(request.classes),
        "clients": list(request.clients),
        "images": int((request.forget & present).sum()),
        "of": int(present.sum()),
        "attack": attack and dataclasses.asdict(attack),
        "poisoned": None if scenario.poisoned is None else int((scenario.poisoned & present).sum()),
    }
