"""The clients behind Flower's nodes: connections, messages and answers."""

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from osp_jax.federated.client import Query, Sums
from osp_jax.federated.flower.arrays import record_of
from osp_jax.federated.flower.messages import ABOUT, REFUSED, SUMS, request_config, sums_from
from osp_jax.federated.requests import Request
from osp_jax.model import Model
from osp_jax.runtime.errors import InputError

_LOG = logging.getLogger("flwr")  # Flower's own logger, which it prints
_PAUSE = 0.5  # seconds between checks of the connections


class Federation:
    """The clients behind Flower's nodes.

    Flower numbers nodes at random, so each is asked once for its client: its `partition-id`. All `clients` must be
    connected before the first message; after that, the run continues with the connected ones.

    Args:
      grid: the argument of the ServerApp's `main`.
      clients: number of clients.
      patience: seconds to wait for them to connect.
      timeout: seconds to wait for answers; a client without an answer by then has dropped out.
    """

    def __init__(self, grid: Grid, clients: int, *, patience: float = 600.0, timeout: float = 3600.0) -> None:
        self.grid, self.clients, self.patience, self.timeout = grid, clients, patience, timeout
        self._client: dict[int, int] = {}  # by node; if two nodes have one client, the later counts
        self._images: dict[Any, dict[int, int]] = {}  # by request, by node

    def images(self, request: Request | None = None) -> dict[int, int]:
        """The number of training images of each connected client, ascending by client.

        Args:
          request: images to leave out; None: none.

        Raises:
          InputError: too few clients connected in time, a client refused, or two have one number.
        """
        entries = {} if request is not None and request.level == "sample" else request_config(request)
        known = self._images.setdefault(str(sorted(entries.items())), {})
        new = [node for node in self._connected() if node not in known]
        content = RecordDict({"config": ConfigRecord(entries)})
        first = not self._client
        for reply in self._answers(Message(content, node, ABOUT) for node in new):
            node, metrics = reply.metadata.src_node_id, reply.content["metrics"]
            if first and metrics["client"] in self._client.values():
                raise InputError(f"two nodes have partition-id={metrics['client']}; give each SuperNode its own number")
            self._client[node], known[node] = int(metrics["client"]), int(metrics["num-examples"])
        if first and len(self._client) < self.clients:
            raise self._too_few(len(self._client))
        found = {client: known[node] for client, node in self.nodes().items() if node in known}
        if request is not None and request.level == "sample":
            left = {client: int(request.forget[client].sum()) for client in request.clients}
            found = {client: images - left.get(client, 0) for client, images in found.items()}
        return found

    def nodes(self) -> dict[int, int]:
        """The node of each connected and known client, ascending by client."""
        there = set(self.grid.get_node_ids())
        found = {client: node for node, client in self._client.items() if node in there}
        return dict(sorted(found.items()))

    def client_of(self, node: int) -> int:
        """The number of the client at a node."""
        return self._client[node]

    def messages(self, kind: str, contents: Mapping[int, RecordDict]) -> list[Message]:
        """A message of type `kind` to each client, except those that are no longer connected."""
        nodes = self.nodes()
        return [Message(content, nodes[client], kind) for client, content in contents.items() if client in nodes]

    def accepted(self, replies: Iterable[Message]) -> dict[int, RecordDict]:
        """The contents of answers, ascending by client; without clients that failed or dropped out.

        Raises:
          InputError: a client refused its message; the text is the client's own.
        """
        contents = {}
        for reply in self._checked(replies):
            contents[self.client_of(reply.metadata.src_node_id)] = reply.content
        return dict(sorted(contents.items()))

    def ask(self, model: Model, query: Query, request: Request, grouping: str) -> list[Sums]:
        """The answers of all connected clients to a query, as for `editing.Situation.ask`."""
        self.images()  # updates the connected clients
        arrays = record_of(model.variables)
        contents = {}
        for client in self.nodes():
            entries = {**query._asdict(), "grouping": grouping, **request_config(request, client)}
            contents[client] = RecordDict({"arrays": arrays, "config": ConfigRecord(entries)})
        replies = self.grid.send_and_receive(self.messages(SUMS, contents), timeout=self.timeout)
        return [sums_from(content, query, f"client {client}") for client, content in self.accepted(replies).items()]

    def _connected(self) -> list[int]:
        """Nodes, ascending; waits for all before the first message."""
        end = time.monotonic() + self.patience
        while len(nodes := sorted(self.grid.get_node_ids())) < self.clients and not self._client:
            if time.monotonic() > end:
                raise self._too_few(len(nodes))
            time.sleep(_PAUSE)
        return nodes

    def _answers(self, messages: Iterable[Message]) -> list[Message]:
        messages = list(messages)
        return self._checked(self.grid.send_and_receive(messages, timeout=self.timeout)) if messages else []

    def _checked(self, replies: Iterable[Message]) -> list[Message]:
        """The answers that have a content."""
        found = []
        for reply in replies:
            node = reply.metadata.src_node_id
            name = f"client {self._client[node]}" if node in self._client else f"the client at node {node}"
            if reply.has_error():
                if reply.error.code == REFUSED:
                    raise InputError(f"{name}: {reply.error.reason}")
                _LOG.warning("%s dropped out: %s", name, reply.error.reason)
            else:
                found.append(reply)
        return found

    def _too_few(self, number: int) -> InputError:
        asked = f"{number} of {self.clients} clients answered within {self.patience:.0f} s"
        return InputError(f"{asked}; start the others, or expect fewer")
