"""One division of the data among clients, the untrained model of a seed, and the trainings from it."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from osp_jax.data.augment import channel_moments
from osp_jax.data.dataset import Dataset
from osp_jax.federated.client import ClientData, LocalTraining
from osp_jax.federated.rounds import Exchange, Schedule, Traffic, Trained, train
from osp_jax.federated.simulator import stacked_clients
from osp_jax.federated.splits import Division, divided
from osp_jax.interop.linen import from_linen
from osp_jax.model import Model
from osp_jax.networks import build_model, init_variables
from osp_jax.runtime.arrays import load_tree, save_tree

_INIT, TRAIN, EDIT, RECOVER = range(4)  # purposes of keys


class World(NamedTuple):
    """One division of the data: the untrained model of a seed, the clean clients, and the folder of its pieces."""

    model: Model
    clients: ClientData
    parts: list[np.ndarray]
    dataset: Dataset
    config: ConfigDict
    key: jax.Array
    folder: Path
    seed: int


def world_of(config: ConfigDict, dataset: Dataset, split: str, seed: int, workdir: Path) -> World:
    """Divides the training images, and creates the untrained model."""
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


def recovery_of(schedule: Schedule, recovery: ConfigDict) -> Schedule:
    """Rounds like those of the training, at one learning rate: that of the training, or that of `recovery`."""

    def changed(settings: LocalTraining | None) -> LocalTraining | None:
        rate = recovery.learning_rate
        return settings and dataclasses.replace(settings, learning_rate=rate or settings.learning_rate)

    local, fusion = changed(schedule.local), changed(schedule.fusion)
    return dataclasses.replace(schedule, rounds=recovery.rounds, rate="constant", local=local, fusion=fusion)


def trained_of(
    world: World, name: str, clients: ClientData, schedule: Schedule, on_work: Callable[[str], None]
) -> Trained:
    """The training `name` of `clients`, read from its folder if it is finished, else started or resumed."""
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
