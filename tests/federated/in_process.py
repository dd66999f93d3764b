"""A Grid of Flower that calls a ClientApp in this process, in an order of its own, with nodes that can be lost.

Flower ships none. This one sets two things that Flower keeps to itself, so it is for the versions it was written for.
"""

import random
import uuid
from collections.abc import Iterable

import flwr
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from packaging.version import Version

KNOWN = Version("1.42") <= Version(flwr.__version__) < Version("1.43")


class InProcessGrid(Grid):
    """Nodes with random numbers, one for each of `numbers`, the clients' partition-ids.

    `lost`: partition-ids of nodes that do not answer; `sent`: types and partition-ids of all messages so far.
    """

    def __init__(self, app: ClientApp, numbers: Iterable[int], seed: int = 0) -> None:
        from flwr.supercore.task_identity import TaskIdentity

        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
        self.app, self.draw = app, random.Random(seed)
        self.contexts: dict[int, Context] = {}
        self.lost: set[int] = set()
        self.sent: list[tuple[str, int]] = []
        for number in numbers:
            self.connect(number)

    def connect(self, number: int) -> int:
        """A new node."""
        node = self.draw.getrandbits(60)
        self.contexts[node] = Context(1, node, {"partition-id": number}, RecordDict(), {})
        return node

    def set_run(self, run) -> None:
        raise NotImplementedError

    run = property(lambda self: None)

    def create_message(self, *args, **kwargs) -> Message:
        raise NotImplementedError

    def push_messages(self, messages) -> list[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids) -> list[Message]:
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        return list(self.contexts)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        replies = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(uuid.uuid4())
            context = self.contexts[message.metadata.dst_node_id]
            number = context.node_config["partition-id"]
            self.sent.append((message.metadata.message_type, number))
            if number not in self.lost:
                replies.append(self._answer(message, context))
        return self.draw.sample(replies, len(replies))

    def _answer(self, message: Message, context: Context) -> Message:
        try:
            return self.app(message, context)
        except Exception as error:  # as Flower's own process of a ClientApp does
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, str(error)), reply_to=message)
