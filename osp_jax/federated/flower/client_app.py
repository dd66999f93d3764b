"""The client's side: a Flower ClientApp whose handlers are `client_update` and `client_query`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from flwr.app import Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from osp_jax.data.dataset import Split
from osp_jax.federated.client import ClientData, client_query, client_update, groups_of
from osp_jax.federated.flower.arrays import record_of, tree_of
from osp_jax.federated.flower.messages import (
    ABOUT,
    REFUSED,
    SUMS,
    config_of,
    forget_from,
    key_from,
    query_from,
    settings_from,
    sums_content,
)
from osp_jax.forward import predict_logits
from osp_jax.model import Model
from osp_jax.runtime.errors import InputError
from osp_jax.training.descent import split_variables
from osp_jax.training.loss import cross_entropy

Setup = Callable[[Context], tuple[Model, ClientData]]

_SERVER = "the server"


def client_app(setup: Setup) -> ClientApp:
    """A ClientApp with handlers for `train`, `evaluate`, `query.about` and `query.sums`.

    Args:
      setup: returns the network and the node's own images. It is called for each message; a process that answers
        several should create the network once, so that programs are not compiled again. The number of the node's client
        is `context.node_config["partition-id"]`.

    An `InputError` of the client becomes an answer that ends the run with its message. Flower logs any other exception,
    and answers without arrays, as for a client that drops out.
    """
    app = ClientApp()
    app.train()(_handler(setup, _train))
    app.evaluate()(_handler(setup, _evaluate))
    app.query(ABOUT.partition(".")[2])(_handler(setup, _about))
    app.query(SUMS.partition(".")[2])(_handler(setup, _sums))
    return app


class _ClientRequest(NamedTuple):
    """A client's network and all its images, and the received message; `forget` bool `(n,)`, by the request."""

    client: int
    model: Model
    data: ClientData
    forget: np.ndarray
    content: RecordDict
    config: Any
    state: RecordDict

    @property
    def retained(self) -> ClientData:
        return self.data._replace(present=self.data.present & ~self.forget)

    @property
    def received(self) -> Any:
        return tree_of(self.content["arrays"], self.model.variables, _SERVER)


def _handler(setup: Setup, answer: Callable[[_ClientRequest], RecordDict]) -> Callable[[Message, Context], Message]:
    def handle(message: Message, context: Context) -> Message:
        try:
            client = _number(context)
            model, data = setup(context)
            config = config_of(message.content)
            forget = forget_from(config, data, client)
            content = answer(_ClientRequest(client, model, data, forget, message.content, config, context.state))
        except InputError as error:
            return Message(Error(REFUSED, str(error)), reply_to=message)
        return Message(content, reply_to=message)

    return handle


def _number(context: Context) -> int:
    number = context.node_config.get("partition-id")
    if not isinstance(number, int) or number < 0:
        raise InputError(
            "a node has no number; start its SuperNode with --node-config 'partition-id=0', a number of its own"
        )
    return number


def _about(asked: _ClientRequest) -> RecordDict:
    """The client's number, and its number of training images."""
    about = {"client": asked.client, "num-examples": int(asked.retained.present.sum())}
    return RecordDict({"metrics": MetricRecord(about)})


def _train(asked: _ClientRequest) -> RecordDict:
    received, config, data = asked.received, asked.config, asked.retained
    if not data.present.any():
        return _trained(record_of(received), 0, {"loss": 0.0})
    start = received
    if config.get("start") == "local":
        start = tree_of(asked.state["local"], asked.model.variables, "the client's own state")
    mask = None
    if "mask" in asked.content:
        mask = tree_of(asked.content["mask"], split_variables(asked.model)[0], _SERVER)
    model = asked.model.replace(variables=start)
    key, settings = key_from(config, asked.client), settings_from(config)
    update = client_update(model, data, key, settings, reference=received, mask=mask)
    arrays = record_of(update.variables)
    if config.get("keep"):
        asked.state["local"] = arrays
    return _trained(arrays, update.num_examples, update.metrics)


def _trained(arrays: Any, num_examples: int, metrics: dict[str, float]) -> RecordDict:
    return RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": num_examples, **metrics})})


def _evaluate(asked: _ClientRequest) -> RecordDict:
    """Accuracy and loss on the client's images that are not to be forgotten."""
    model, data = asked.model.replace(variables=asked.received), asked.retained
    indices = np.flatnonzero(data.present)
    metrics = {"num-examples": len(indices), "accuracy": 0.0, "loss": 0.0}
    if len(indices):
        labels = np.asarray(data.labels)
        logits = predict_logits(model, Split(np.asarray(data.images), labels), indices)
        metrics["accuracy"] = float((logits.argmax(1) == labels[indices]).mean())
        metrics["loss"] = float(cross_entropy(logits, labels[indices]))
    return RecordDict({"metrics": MetricRecord(metrics)})


def _sums(asked: _ClientRequest) -> RecordDict:
    """Sums of channel activations by the server's grouping, over all the client's images."""
    groups = groups_of(asked.data, asked.forget, asked.config["grouping"])
    model = asked.model.replace(variables=asked.received)
    return sums_content(client_query(model, asked.data, groups, query_from(asked.config)))
