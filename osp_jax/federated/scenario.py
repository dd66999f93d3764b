"""A request to a trained federation, or an attack on it, and the result of a method."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from osp_jax.data.dataset import Dataset
from osp_jax.data.splits import parse_classes
from osp_jax.federated.attacks import KINDS as ATTACKS
from osp_jax.federated.attacks import Attack, attacked, confused_pair
from osp_jax.federated.audit import soft_confusion
from osp_jax.federated.client import ClientData
from osp_jax.federated.editing import Ask, Edit, FederatedMethod, Situation
from osp_jax.federated.requests import LEVELS, Request, forget_class, forget_clients, forget_samples
from osp_jax.federated.rounds import Schedule, Trained
from osp_jax.federated.world import EDIT, RECOVER, World, recovery_of, schedules_of, trained_of
from osp_jax.runtime.errors import InputError
from osp_jax.runtime.integrity import read_piece, write_piece

SCENARIOS = (*LEVELS, *ATTACKS)


class Scenario(NamedTuple):
    """A request to a trained federation.

    Attributes:
      clients: the training clients, including poisoned images.
      trained, retrained: names of the trainings with and without the images to forget.
      attack, poisoned: for an attack, else None.
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


def scenario_of(world: World, name: str, on_work: Callable[[str], None] = lambda text: None) -> Scenario:
    """The request or attack `name` of `SCENARIOS`."""
    config, clients, asked = world.config, world.clients, world.config.departures
    schedules, methods = schedules_of(config), methods_of(config, name)
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


def forgotten(
    world: World,
    scenario: Scenario,
    method: FederatedMethod,
    original: Trained,
    ask: Ask,
    recover: Callable[..., Trained],
) -> tuple[Edit, Trained | None]:
    """The edit of `method` to the trained model, and the recovery rounds after it; None for a method without them.

    Args:
      recover: runs the rounds, `recover(model, key, schedule, mask=mask)`, with the remaining clients.
    """
    model = world.model.replace(variables=original.variables)
    edit_key, recover_key = (jax.random.fold_in(world.key, purpose) for purpose in (EDIT, RECOVER))
    edit = method.edit(Situation(model, world.dataset.image_shape, ask, original.last, edit_key), scenario.request)
    if not (method.recovers and world.config.recovery.rounds):
        return edit, None
    schedule = recovery_of(scenario.schedule, world.config.recovery)
    return edit, recover(model.replace(variables=edit.variables), recover_key, schedule, mask=edit.mask)


def _attack(world: World, kind: str, on_work: Callable[[str], None]) -> Attack:
    settings = world.config.attack
    common = {"target": settings.target, "side": settings.side}
    if kind == "backdoor":
        return Attack(kind, settings.backdoor_share, **common)
    if settings.flip_classes:
        pair = class_pair(settings.flip_classes, world.dataset)
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


def class_pair(text: str, dataset: Dataset) -> tuple[int, ...]:
    """The two classes of `attack.flip_classes`."""
    pair = parse_classes(text, dataset.class_names)
    if len(pair) != 2:
        raise InputError(f"attack.flip_classes is {text!r}; name two classes, or none for those most confused")
    return pair


def methods_of(config: ConfigDict, scenario: str) -> tuple[str, ...]:
    """The methods of a config for a scenario, with their options as text."""
    return tuple(config.methods[f"of_{scenario if scenario in LEVELS else 'attack'}"])
