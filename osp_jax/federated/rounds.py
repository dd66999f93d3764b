"""Rounds of federated training: selects the clients, sends the model, and aggregates their answers.

FedAvg (McMahan et al., 2017, arXiv 1602.05629) has one exchange per round. FCOT, the training of FedOrtho (arXiv
2506.19891 v2), has two, rebuilt from secondary formulas: clients train with a penalty on kernels, the mean of their
models becomes the round's reference, and they train again with a pull towards it (`LocalTraining.align`). Without the
first exchange this is FedProx (Li et al., 2020, arXiv 1812.06127).
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from osp_jax.federated.client import ClientData, LocalTraining
from osp_jax.federated.server import mean_of, size_of
from osp_jax.federated.simulator import local_updates
from osp_jax.methods.parts.options import check_choices
from osp_jax.model import Model
from osp_jax.runtime.errors import InputError

STARTS = ("reference", "local")
RATES = ("constant", "cosine")


class Traffic(NamedTuple):
    """Bytes that the server sent to all clients together, and received from them: arrays without any encoding."""

    down: int = 0
    up: int = 0

    def plus(self, other: "Traffic") -> "Traffic":
        """The sum of both."""
        return Traffic(self.down + other.down, self.up + other.up)


class Exchange(NamedTuple):
    """The server's data after one answer of the clients.

    Attributes:
      start: the variables that it sent.
      ids: clients that answered, ascending.
      updates: their variables, stacked along a first axis in this order.
      counts: number of images of each, float32 `(ids,)`.
      metrics: means over clients.
    """

    start: Any
    ids: tuple[int, ...]
    updates: Any
    counts: np.ndarray
    metrics: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Rounds of training.

    `fusion` is the second exchange of FCOT; None: FedAvg, or FedProx if `local.align` is above 0. Secondary sources do
    not say whether it starts from the 'reference' that the server sends or from the client's own 'local' model of the
    first exchange.
    """

    local: LocalTraining
    rounds: int = 20
    fusion: LocalTraining | None = None
    fusion_start: str = "reference"
    rate: str = "constant"  # or 'cosine', from round to round
    clients: int = 0  # number drawn for each round; 0: all
    dropout: float = 0.0  # probability that a client does not answer

    def __post_init__(self) -> None:
        """Raises `InputError` for a setting out of range."""
        check_choices(self, fusion_start=STARTS, rate=RATES)
        for name, low, high in (("rounds", 0, None), ("clients", 0, None), ("dropout", 0, 1)):
            value = getattr(self, name)
            if value < low or (high is not None and value >= high):
                raise InputError(f"{name} is {value}; give a number from {low} on{' and below 1' if high else ''}")


class Trained(NamedTuple):
    """The variables after the rounds, the last exchange (None without rounds), and the traffic."""

    variables: Any
    last: Exchange | None
    traffic: Traffic


def client_key(key: jax.Array, number: int, exchange: int, client: int) -> jax.Array:
    """The key of a client in exchange 0 or 1 of round `number`, independent of other clients."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, number), exchange), client)


def participants(key: jax.Array, number: int, able: Sequence[int], clients: int, dropout: float) -> tuple[int, ...]:
    """The clients of `able` that are drawn for round `number` and answer, ascending; `clients` are drawn, 0: all."""
    draw = np.random.default_rng([*np.asarray(jax.random.key_data(key)).tolist(), number])
    asked = sorted(draw.permutation(able)[:clients].tolist()) if clients else sorted(able)
    answers = draw.random(len(asked)) >= dropout
    return tuple(int(client) for client, there in zip(asked, answers, strict=True) if there)


def run_round(
    model: Model,
    clients: ClientData,
    key: jax.Array,
    number: int,
    schedule: Schedule,
    *,
    mask: Any = None,
    engine: str = "auto",
) -> Trained:
    """One round from the variables of `model`.

    Args:
      clients: stacked; those without a `present` image are never asked.
      number: number of the round, from 0.
      mask: as `client_update`.

    Raises:
      InputError: no client has an image, or none answered.
    """
    able = np.flatnonzero(clients.present.any(1)).tolist()
    if not able:
        raise InputError("no client has an image to train on; leave some clients or images in the federation")
    ids = participants(key, number, able, schedule.clients, schedule.dropout)
    if not ids:
        raise InputError(f"no client answered in round {number}; lower the dropout, or ask more clients")
    size, sent, variables, last = size_of(model.variables), Traffic(), model.variables, None
    for exchange, settings in exchanges_of(schedule, number):
        starts = last.updates if last is not None and schedule.fusion_start == "local" else None
        given = {"starts": starts, "mask": mask, "engine": engine}
        last = _exchange(model.replace(variables=variables), clients, ids, key, (number, exchange), settings, **given)
        variables = mean_of(last.updates, last.counts)
        sent = sent.plus(Traffic(size * len(ids), size * len(ids)))
    return Trained(variables, last, sent)


def exchanges_of(schedule: Schedule, number: int) -> tuple[tuple[int, LocalTraining], ...]:
    """The exchanges of round `number`, 0 or 1 each, and their settings."""
    settings = ((0, schedule.local if schedule.local.trains else None), (1, schedule.fusion))
    factor = _factor(schedule, number)
    return tuple((exchange, _slower(one, factor)) for exchange, one in settings if one is not None)


def train(
    model: Model,
    clients: ClientData,
    key: jax.Array,
    schedule: Schedule,
    *,
    mask: Any = None,
    first: int = 0,
    on_round: Callable[[int, Trained], None] = lambda number, trained: None,
    engine: str = "auto",
) -> Trained:
    """Runs the rounds from `first`; each depends only on `key` and its number, so a run can resume at any round."""
    trained = Trained(model.variables, None, Traffic())
    for number in range(first, schedule.rounds):
        given = {"mask": mask, "engine": engine}
        done = run_round(model.replace(variables=trained.variables), clients, key, number, schedule, **given)
        trained = Trained(done.variables, done.last, trained.traffic.plus(done.traffic))
        on_round(number, done)
    return trained


def _exchange(
    model: Model,
    clients: ClientData,
    ids: tuple[int, ...],
    key: jax.Array,
    at: tuple[int, int],
    settings: LocalTraining,
    **given: Any,
) -> Exchange:
    keys = [client_key(key, *at, client) for client in ids]
    updates, counts, metrics = local_updates(model, clients, ids, keys, settings, **given)
    return Exchange(model.variables, ids, updates, counts, metrics)


def _factor(schedule: Schedule, number: int) -> float:
    if schedule.rate == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * number / max(schedule.rounds, 1)))


def _slower(settings: LocalTraining, factor: float) -> LocalTraining:
    return dataclasses.replace(settings, learning_rate=settings.learning_rate * factor)
