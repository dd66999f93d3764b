"""The Flower strategy that runs a `Schedule`: FedAvg, FedProx and FCOT, with an optional mask.

Each exchange of a schedule is a round of Flower, so a round of FCOT is two. The strategy keeps the clients' models of
the last exchange (`last`), which FedUP needs, and sums in ascending order of the clients, whatever their order of
answers, so that results are bit-identical.
"""

import logging
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from osp_jax.federated.flower.arrays import record_of, tree_of
from osp_jax.federated.flower.federation import Federation
from osp_jax.federated.flower.messages import request_config, training_config
from osp_jax.federated.requests import Request
from osp_jax.federated.rounds import Exchange, Schedule, Traffic, Trained, exchanges_of, participants
from osp_jax.federated.server import mean_of, size_of, stacked_updates
from osp_jax.model import Model
from osp_jax.runtime.errors import InputError

_LOG = logging.getLogger("flwr")  # Flower's own logger, which it prints


class ScheduledRounds(FedAvg):
    """FedAvg over the exchanges of a schedule, as `rounds.train` runs them.

    A client that does not answer an exchange is left out of its mean; the clients of a round depend on the key and the
    connected clients.

    Args:
      federation: the connected clients.
      model: the network of all clients; its variables are not used.
      key: the key of the run.
      request: images that the clients leave out; None: none.
      mask: factors on every update of the parameters, sent with each exchange; None: all change.
      evaluate: whether the clients evaluate each new model on their images.

    Attributes:
      trained: the variables after the last exchange, that exchange, and the bytes sent in each direction.
    """

    def __init__(
        self,
        federation: Federation,
        model: Model,
        key: jax.Array,
        schedule: Schedule,
        *,
        request: Request | None = None,
        mask: Any = None,
        evaluate: bool = False,
    ) -> None:
        number = federation.clients
        super().__init__(
            fraction_evaluate=float(evaluate),
            min_train_nodes=number,
            min_evaluate_nodes=number,
            min_available_nodes=number,
        )
        self.federation, self.model, self.key, self.schedule = federation, model, key, schedule
        self.request, self.mask = request, mask
        self.trained = Trained(model.variables, None, Traffic())
        self._start: Any = None
        self._ids: tuple[int, ...] = ()
        self._mask = {} if mask is None else {"mask": record_of(mask)}

    @property
    def exchanges(self) -> list[tuple[int, int, Any]]:
        """For each round of Flower, the round and exchange of the schedule, and the settings."""
        rounds = range(self.schedule.rounds)
        return [(number, *each) for number in rounds for each in exchanges_of(self.schedule, number)]

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """A message to each client that takes part in this exchange."""
        number, exchange, settings = self.exchanges[server_round - 1]
        there = self.federation.images(self.request)
        self._ids = ids = self._asked(server_round, number, [client for client, images in there.items() if images])
        again = bool(exchange) and self.schedule.fusion_start == "local" and self.schedule.local.trains
        keep = not exchange and self.schedule.fusion is not None and self.schedule.fusion_start == "local"
        given = {"start": "local" if again else "received", "keep": keep, "server-round": server_round}
        entries = training_config(settings, self.key, number, exchange, **given)
        self._start = tree_of(arrays, self.model.variables, "the server")
        size = size_of(self._start) + (0 if self.mask is None else size_of(self.mask))
        self._sent(Traffic(down=size * len(ids)))
        return self._messages(MessageType.TRAIN, ids, arrays, {**config, **entries}, self._mask)

    def _asked(self, server_round: int, number: int, able: list[int]) -> tuple[int, ...]:
        """The clients of an exchange: those drawn for a round, and in its second exchange those that answered."""
        begun = server_round > 1 and self.exchanges[server_round - 2][0] == number
        if begun:
            ids = tuple(client for client in self.trained.last.ids if client in able)
        else:
            ids = participants(self.key, number, able, self.schedule.clients, self.schedule.dropout) if able else ()
        if not ids:
            raise InputError(f"no client with images is there in round {number}; start clients, or ask more of them")
        return ids

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The mean of the clients' models, weighted by images.

        Raises:
          InputError: a client refused, has another network or sent values that are not finite, or none answered.
        """
        contents = {
            client: content
            for client, content in self.federation.accepted(replies).items()
            if content["metrics"]["num-examples"] > 0
        }
        ids = tuple(contents)
        if silent := sorted(set(self._ids) - set(ids)):
            _LOG.warning("no answer from clients %s; they are left out of the mean", silent)
        like = self.model.variables
        updates = [tree_of(contents[client]["arrays"], like, f"client {client}") for client in ids]
        stacked = stacked_updates(updates, ids)
        counts = np.array([contents[client]["metrics"]["num-examples"] for client in ids], np.float32)
        losses = [contents[client]["metrics"]["loss"] for client in ids if "loss" in contents[client]["metrics"]]
        metrics = {"loss": float(np.mean(losses))} if losses else {}
        variables = mean_of(stacked, counts)
        self._sent(Traffic(up=size_of(like) * len(ids)))
        self.trained = self.trained._replace(
            variables=variables, last=Exchange(self._start, ids, stacked, counts, metrics)
        )
        return record_of(variables), MetricRecord(metrics)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """A message to each client that has images."""
        if not self.fraction_evaluate:
            return []
        ids = [client for client, images in self.federation.images(self.request).items() if images]
        return self._messages(MessageType.EVALUATE, ids, arrays, {**config, "server-round": server_round}, {})

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Means of the clients' metrics, weighted by images. Raises `InputError` if a client refused."""
        replies = list(replies)
        self.federation.accepted(replies)
        ordered = sorted(replies, key=lambda reply: self.federation.client_of(reply.metadata.src_node_id))
        return super().aggregate_evaluate(server_round, ordered)

    def _messages(
        self, kind: str, ids: Iterable[int], arrays: ArrayRecord, config: dict[str, Any], more: dict[str, ArrayRecord]
    ) -> list[Message]:
        def content(client: int) -> RecordDict:
            entries = ConfigRecord({**config, **request_config(self.request, client)})
            return RecordDict({"arrays": arrays, "config": entries, **more})

        return self.federation.messages(kind, {client: content(client) for client in ids})

    def _sent(self, traffic: Traffic) -> None:
        self.trained = self.trained._replace(traffic=self.trained.traffic.plus(traffic))


def train(
    federation: Federation,
    model: Model,
    key: jax.Array,
    schedule: Schedule,
    *,
    request: Request | None = None,
    mask: Any = None,
    evaluate: bool = False,
) -> Trained:
    """`rounds.train` with Flower: all rounds of the schedule from the variables of `model`; arguments as there.

    Args:
      request: images that the clients leave out, in the retraining and in the rounds after an edit.
      evaluate: whether the clients evaluate each new model, which Flower logs.

    Raises:
      InputError: as `Federation.images` and `ScheduledRounds.aggregate_train`.
    """
    strategy = ScheduledRounds(federation, model, key, schedule, request=request, mask=mask, evaluate=evaluate)
    rounds, arrays = len(strategy.exchanges), record_of(model.variables)
    strategy.start(federation.grid, arrays, num_rounds=rounds, timeout=federation.timeout)
    return strategy.trained
