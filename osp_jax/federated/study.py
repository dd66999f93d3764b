"""A federated study from its config: every division, request and attack, and the methods beside retraining.

Each training and each cell of the table is a piece of its own in the workdir, and trainings are saved on their way, so
a run that is killed goes on where it was.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from osp_jax.data.augment import channel_moments
from osp_jax.data.dataset import Dataset
from osp_jax.data.splits import check_forget, parse_classes
from osp_jax.data.stored import StoredImages
from osp_jax.federated.attacks import KINDS as ATTACKS
from osp_jax.federated.attacks import Attack, attacked, confused_pair
from osp_jax.federated.audit import Asked, answers_of, asked_of, figures, soft_confusion
from osp_jax.federated.client import ClientData, LocalTraining
from osp_jax.federated.editing import FederatedMethod, Situation
from osp_jax.federated.methods import parse_method, settings_of
from osp_jax.federated.requests import LEVELS, Request, forget_class, forget_clients, forget_samples
from osp_jax.federated.rounds import Exchange, Schedule, Traffic, Trained, train
from osp_jax.federated.simulator import asking, stacked_clients
from osp_jax.federated.splits import KINDS as SPLITS
from osp_jax.federated.splits import Division, divided, holdings
from osp_jax.interop.linen import from_linen
from osp_jax.model import Model, parameters_of
from osp_jax.networks import build_model, init_variables
from osp_jax.runtime.arrays import load_tree, save_tree
from osp_jax.runtime.errors import InputError, unknown
from osp_jax.runtime.integrity import read_piece, write_piece
from osp_jax.runtime.provenance import provenance

SCENARIOS = (*LEVELS, *ATTACKS)

_INIT, TRAIN, EDIT, RECOVER = range(4)  # purposes of keys


class World(NamedTuple):
    """One division of the data: the untrained model of a seed, the clean clients, and where pieces are kept."""

    model: Model
    clients: ClientData
    parts: list[np.ndarray]
    dataset: Dataset
    config: ConfigDict
    key: jax.Array
    folder: Path
    seed: int


class Scenario(NamedTuple):
    """A request to a trained federation.

    Attributes:
      clients: what they trained on, poisoned images included.
      trained, retrained: names of the trainings with and without what is to be forgotten.
      attack, poisoned: of an attack.
    """

    name: str
    request: Request
    clients: ClientData
    schedule: Schedule
    trained: str
    retrained: str
    methods: tuple[str, ...]
    attack: Attack | None = None
    poisoned: np.ndarray | None = None


def check_study(config: ConfigDict, dataset: Dataset) -> None:
    """Raises `InputError` for what would fail after hours of training."""
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
        _pair(config.attack.flip_classes, dataset)
    for scenario in SCENARIOS:
        for text in _methods(config, scenario):
            method = parse_method(text)
            level = scenario if scenario in LEVELS else "client"
            if level not in method.levels:
                raise InputError(f"{text} answers no request at {level} level; it has: {', '.join(method.levels)}")
    schedules_of(config)


def schedules_of(config: ConfigDict) -> dict[str, Schedule]:
    """The two trainings: 'fcot' for classes, clients and samples, 'fedavg' for attacks."""
    settings, fcot = config.training, config.fcot
    names = ("optimiser", "learning_rate", "momentum", "weight_decay", "batch_size")
    plain = {name: settings[name] for name in names} | {"pad": config.data.pad, "flip": config.data.flip}
    common = {name: settings[name] for name in ("rounds", "rate", "clients", "dropout")}
    penalty = {name: fcot[name] for name in ("penalty", "penalty_weight", "penalty_layers")}
    first = LocalTraining(**plain, **penalty, epochs=fcot.epochs, steps=fcot.steps)
    fusion = dataclasses.replace(first, epochs=fcot.fusion_epochs, steps=fcot.fusion_steps, align=fcot.align)
    return {
        "fcot": Schedule(first, fusion=fusion, fusion_start=fcot.fusion_start, **common),
        "fedavg": Schedule(LocalTraining(**plain, epochs=settings.epochs, steps=settings.steps), **common),
    }


def world_of(config: ConfigDict, dataset: Dataset, split: str, seed: int, workdir: Path) -> World:
    """Divides the training images, and makes the untrained model."""
    division = Division(split, **config.division.to_dict())
    parts = divided(dataset.train.labels, division, config.seed)
    mean, std = config.data.mean, config.data.std
    if not mean:
        mean, std = channel_moments(dataset.train.images)
    key = jax.random.key(seed)
    module = build_model(config, dataset.num_classes, dataset.image_shape)
    variables = init_variables(module, dataset.image_shape, jax.random.fold_in(key, _INIT))
    model = from_linen(module, variables, mean=mean, std=std, class_names=dataset.class_names)
    clients = stacked_clients(dataset.train.images, dataset.train.labels, parts)
    return World(model, clients, parts, dataset, config, key, workdir / split / f"seed{seed}", seed)


def run_study(config: ConfigDict, dataset: Dataset, workdir: Path, on_work: Callable[[str], None]) -> None:
    """Runs the cells that are not there yet; `on_work(text)` is called before each training and each cell."""
    for split in config.splits:
        for seed in config.seeds:
            world = world_of(config, dataset, split, seed, workdir)
            for name in config.scenarios:
                scenario = scenario_of(world, name, on_work)
                _run_scenario(world, scenario, lambda text, at=f"{split}, seed {seed}: ": on_work(at + text))


def cells_of(config: ConfigDict) -> int:
    """How many cells the table of a config has, the trained and retrained models among them."""
    return len(config.splits) * len(config.seeds) * sum(2 + len(_methods(config, name)) for name in config.scenarios)


def scenario_of(world: World, name: str, on_work: Callable[[str], None] = lambda text: None) -> Scenario:
    """The request or attack `name` of `SCENARIOS`."""
    config, clients, asked = world.config, world.clients, world.config.departures
    schedules, methods = schedules_of(config), _methods(config, name)
    if name in ATTACKS:
        attack = _attack(world, name, on_work)
        poisoned_clients, poisoned = attacked(clients, config.attack.malicious, attack, config.seed)
        request = forget_clients(clients, config.attack.malicious)
        given = (schedules["fedavg"], name, "without-malicious", methods, attack, poisoned)
        return Scenario(name, request, poisoned_clients, *given)
    classes = parse_classes(asked.classes, world.dataset.class_names)
    request = {
        "class": lambda: forget_class(clients, classes),
        "client": lambda: forget_clients(clients, asked.clients),
        "sample": lambda: forget_samples(clients, asked.sample_clients, asked.sample_share, config.seed),
    }[name]()
    return Scenario(name, request, clients, schedules["fcot"], "all", f"without-{name}", methods)


def trained_of(
    world: World, name: str, clients: ClientData, schedule: Schedule, on_work: Callable[[str], None]
) -> Trained:
    """The training `name` of `clients`, from its folder if it is there, or as far as it is there."""
    folder, rounds = world.folder / "trainings" / name, schedule.rounds
    done = max((int(path.name) for path in folder.glob("*") if path.name.isdecimal()), default=0)
    start, sent, last = world.model.variables, Traffic(), None
    if done:
        tree, record = load_tree(folder / str(done))
        start, sent = tree["variables"], Traffic(**record["traffic"])
        last = Exchange(tree["start"], tuple(record["ids"]), tree["updates"], np.asarray(tree["counts"]), {})
    if done == rounds:
        return Trained(start, last, sent)

    def keep(number: int, trained: Trained) -> None:
        nonlocal sent
        sent = sent.plus(trained.traffic)
        if (number + 1) % world.config.save_every and number + 1 < rounds:
            return
        exchange = trained.last
        tree = {"variables": trained.variables, "start": exchange.start, "updates": exchange.updates}
        record = {"ids": list(exchange.ids), "traffic": sent._asdict()}
        save_tree(folder / str(number + 1), {**tree, "counts": exchange.counts}, record)
        for path in folder.glob("*"):
            if path.name.isdecimal() and int(path.name) <= number:
                shutil.rmtree(path)

    on_work(f"training {name}")
    model = world.model.replace(variables=start)
    key = jax.random.fold_in(world.key, TRAIN)
    run = train(model, clients, key, schedule, first=done, on_round=keep)
    return Trained(run.variables, run.last, sent)


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
    asked = asked_of(world.dataset, scenario.clients, scenario.request, scenario.attack, scenario.poisoned)
    reference = answers_of(world.model.replace(variables=retrained.variables), asked)
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
                row = _answered(world, scenario, method, original, left, asked, reference)
            except InputError as error:  # what a method refuses is a result
                row = {"error": str(error)}
            named = {"method": text, "settings": settings_of(method), "note": method.note}
            write_piece(paths[text], {**about, **named, **row})


def _answered(
    world: World,
    scenario: Scenario,
    method: FederatedMethod,
    original: Trained,
    left: ClientData,
    asked: Asked,
    reference: dict[str, Any],
) -> dict[str, Any]:
    """A method's figures at once and after each round that follows, and what was sent for them."""
    model = world.model.replace(variables=original.variables)
    situation = Situation(
        model,
        world.dataset.image_shape,
        asking(scenario.clients),
        original.last,
        jax.random.fold_in(world.key, EDIT),
    )
    edit = method.edit(situation, scenario.request)
    rounds = world.config.recovery.rounds if method.recovers else 0
    after, sent = [_measured(world, edit.variables, asked, reference)], edit.traffic

    def measure(number: int, trained: Trained) -> None:
        del number
        after.append(_measured(world, trained.variables, asked, reference))

    if rounds:
        schedule = recovery_of(scenario.schedule, world.config.recovery)
        key = jax.random.fold_in(world.key, RECOVER)
        start = model.replace(variables=edit.variables)
        sent = sent.plus(train(start, left, key, schedule, mask=edit.mask, on_round=measure).traffic)
    return {"after": after, "rounds": rounds, "traffic": sent._asdict(), "about": edit.about}


def recovery_of(schedule: Schedule, recovery: ConfigDict) -> Schedule:
    """Rounds like those of the training, at one learning rate: that of the training, or another."""

    def changed(settings: LocalTraining | None) -> LocalTraining | None:
        rate = recovery.learning_rate
        return settings and dataclasses.replace(settings, learning_rate=rate or settings.learning_rate)

    local, fusion = changed(schedule.local), changed(schedule.fusion)
    return dataclasses.replace(schedule, rounds=recovery.rounds, rate="constant", local=local, fusion=fusion)


def _measured(world: World, variables: Any, asked: Asked, reference: dict[str, Any]) -> dict[str, float | None]:
    if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(variables)):
        raise InputError("the model is not finite any more; lower the learning rate")
    return figures(answers_of(world.model.replace(variables=variables), asked), asked, reference)


def _attack(world: World, kind: str, on_work: Callable[[str], None]) -> Attack:
    settings = world.config.attack
    common = {"target": settings.target, "side": settings.side}
    if kind == "backdoor":
        return Attack(kind, settings.backdoor_share, **common)
    if settings.flip_classes:
        pair = _pair(settings.flip_classes, world.dataset)
    else:
        path = world.folder / "confused.json"
        if not path.exists():
            schedule = schedules_of(world.config)["fcot"]
            clean = trained_of(world, "all", world.clients, schedule, on_work)
            model = world.model.replace(variables=clean.variables)
            split = world.dataset.train
            path.parent.mkdir(parents=True, exist_ok=True)
            write_piece(path, confused_pair(soft_confusion(model, split, np.arange(len(split.labels)))))
        pair = read_piece(path)
    return Attack(kind, settings.flip_share, *pair, **common)


def _pair(text: str, dataset: Dataset) -> tuple[int, ...]:
    pair = parse_classes(text, dataset.class_names)
    if len(pair) != 2:
        raise InputError(f"attack.flip_classes is {text!r}; name two classes, or none for those most confused")
    return pair


def _methods(config: ConfigDict, scenario: str) -> tuple[str, ...]:
    return tuple(config.methods[f"of_{scenario if scenario in LEVELS else 'attack'}"])


def _slug(text: str) -> str:
    """A file name for a method and its settings."""
    return text.replace(":", "_").replace(",", "_").replace("/", "-")


def collect(config: ConfigDict, dataset: Dataset, workdir: Path) -> dict[str, Any]:
    """All finished cells of a workdir, and who holds what, as the content of `results.json`."""
    cells, held, requests = [], {}, {}
    for split in config.splits:
        for seed in config.seeds:
            world = world_of(config, dataset, split, seed, workdir)
            if seed == config.seeds[0]:
                held[split] = holdings(dataset.train.labels, world.parts, dataset.num_classes).tolist()
            for name in config.scenarios:
                folder = world.folder / name
                paths = [folder / f"{_slug(text)}.json" for text in ("trained", "retrained", *_methods(config, name))]
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
    """Who left and with how much, JSON-ready."""
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
