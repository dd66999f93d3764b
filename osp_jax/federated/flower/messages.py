"""The contents of Flower's messages besides the arrays of a network: how server and clients write and read them.

A message has at most three records: 'arrays', the variables; 'mask', factors on their updates; and 'config', everything
else by name: the fields of `LocalTraining` or `Query`, and those below. An answer has 'arrays' or 'sums' and 'metrics'.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from osp_jax.federated.client import ClientData, LocalTraining, Query, Sums
from osp_jax.federated.flower.arrays import numpy_of
from osp_jax.federated.requests import Request
from osp_jax.federated.rounds import client_key
from osp_jax.runtime.errors import InputError

REFUSED = 1001  # error code of a client's refusal; Flower's own are below 100
ABOUT, SUMS = "query.about", "query.sums"  # types of messages


def training_config(
    settings: LocalTraining, key: jax.Array, number: int | None = None, exchange: int = 0, **given: Any
) -> dict[str, Any]:
    """The entries of 'config' for local training.

    Args:
      key: the key of the run.
      number: number of the round; None: that of Flower's `server-round`, which starts at 1.
      given: `start`, 'received' or 'local', the client's own model of the last exchange with `keep`; and `keep`.
    """
    entries = {**dataclasses.asdict(settings), "key": np.asarray(jax.random.key_data(key)).tolist()}
    entries |= {"exchange": exchange, **given}
    return entries if number is None else {**entries, "round": number}


def settings_from(config: Mapping[str, Any]) -> LocalTraining:
    """The settings of local training; missing ones have their defaults. Raises `InputError` for values out of range."""
    names = [field.name for field in dataclasses.fields(LocalTraining)]
    return LocalTraining(**{name: config[name] for name in names if name in config})


def key_from(config: Mapping[str, Any], client: int) -> jax.Array:
    """The key of a client in this exchange. Raises `InputError` if the server sent none."""
    if "key" not in config or not {"round", "server-round"} & set(config):
        raise InputError("the server sent no key; give the strategy train_config=ConfigRecord(training_config(...))")
    key = jax.random.wrap_key_data(np.asarray(config["key"], np.uint32))
    number = config["round"] if "round" in config else config["server-round"] - 1
    return client_key(key, number, config.get("exchange", 0), client)


def request_config(request: Request | None, client: int | None = None) -> dict[str, Any]:
    """The entries of 'config' that determine which images a client forgets.

    `client`: the client of these images; only requests for samples differ between clients.
    """
    if request is None:
        return {}
    entries: dict[str, Any] = {"forget-level": request.level}
    if request.level == "class":
        entries["forget-classes"] = list(request.classes)
    elif request.level == "client":
        entries["forget-clients"] = list(request.clients)
    elif client in request.clients:
        entries["forget-samples"] = np.flatnonzero(request.forget[client]).tolist()
    return entries


def forget_from(config: Mapping[str, Any], data: ClientData, client: int) -> np.ndarray:
    """The images of a client to forget, bool `(n,)`; none if the server sent no request.

    Raises:
      InputError: the server named an image that the client does not have.
    """
    labels = np.asarray(data.labels)
    if config.get("forget-level") == "class":
        return np.isin(labels, config["forget-classes"])
    if config.get("forget-level") == "client":
        return np.full(len(labels), client in config["forget-clients"])
    samples = np.asarray(config.get("forget-samples", []), np.int64)
    if wrong := [int(sample) for sample in samples if not 0 <= sample < len(labels)]:
        raise InputError(f"there is no image {wrong[0]} to forget; give numbers from 0 to {len(labels) - 1}")
    return np.isin(np.arange(len(labels)), samples)


def query_from(config: Mapping[str, Any]) -> Query:
    """The query behind the entries of `Query._asdict()`."""
    return Query(**{name: config[name] for name in Query._fields})


def sums_content(sums: Sums) -> RecordDict:
    """An answer to a query."""
    arrays = ArrayRecord({name: Array(np.asarray(values)) for name, values in sums.sums.items()})
    return RecordDict({"count": ArrayRecord({"count": Array(np.asarray(sums.count))}), "sums": arrays})


def sums_from(content: RecordDict, query: Query, sender: str) -> Sums:
    """The sums of an answer. Raises `InputError` for shapes that do not match the query, or values not finite."""
    count = numpy_of(content["count"]["count"], f"the count of {sender}")
    sums = {name: numpy_of(array, f"{name} of {sender}") for name, array in content["sums"].items()}
    wrong = [name for name, values in sums.items() if values.ndim != 2 or len(values) != query.groups]
    if wrong or count.shape != (query.groups,):
        raise InputError(f"{sender} answered about other groups than {query.groups}; run the same version on all nodes")
    if bad := [name for name, values in {"count": count, **sums}.items() if not np.isfinite(values).all()]:
        raise InputError(f"{sender} sent sums that are not finite ({bad[0]}); leave it out")
    return Sums(count, sums)


def config_of(content: RecordDict) -> ConfigRecord:
    """The record 'config' of a message; empty if there is none."""
    return content.config_records.get("config", ConfigRecord())
