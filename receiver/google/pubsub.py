"""Publishing: messages to one topic, in batches that Pub/Sub takes.

A publish whose answer is lost is sent again. Messages may then come twice; the record absorbs the second, because
both have the same task_id. So no message is lost as long as the caller handles the error.

Next: `receiver.enqueue` marks what was published.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, TypeVar
from urllib.parse import quote

import msgspec

from receiver.errors import GoogleMissing, GoogleUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from receiver.google.client import GoogleClient

MAX_MESSAGES: Final = 1000
"""Messages of one request: Pub/Sub's limit."""

MAX_BYTES: Final = 9_500_000
"""Bytes of one request with several messages. Pub/Sub's limit is 10 MB; how it counts is not documented to the byte."""

MAX_DATA: Final = 10_000_000
"""Bytes of one message's data, before base64: Pub/Sub's limit."""

_OVERHEAD: Final = 100
"""Bytes of a message beside its data and its attributes, about."""


class Sized(Protocol):
    """An item of a batch."""

    @property
    def size(self) -> int:
        """Bytes, about."""


S = TypeVar("S", bound=Sized)


@dataclass(frozen=True, slots=True)
class Message:
    """One message: at most 10 MB of data, 100 attributes, 256 bytes a key, 1024 bytes a value."""

    data: bytes = field(repr=False)
    attributes: Mapping[str, str]

    @property
    def size(self) -> int:
        """Bytes it adds to its request, about."""
        texts = sum(len(key.encode()) + len(value.encode()) for key, value in self.attributes.items())
        return len(self.data) + texts + _OVERHEAD


class _Published(msgspec.Struct):
    ids: list[str] = msgspec.field(name="messageIds", default_factory=list)


class Pubsub:
    """Pub/Sub, as a publisher.

    Args:
        url: of the API, as in `Endpoints.pubsub`.
    """

    def __init__(self, client: GoogleClient, url: str) -> None:
        self._client = client
        self._url = url

    async def publish(self, topic: str, messages: Sequence[Message]) -> list[str]:
        """Publishes one batch to a topic, `projects/{project}/topics/{name}`; the messages' ids, in their order.

        Raises:
            GoogleMissing: there is no such topic.
            GoogleError: as `GoogleClient.request`.
        """
        body = {"messages": [{"data": each.data, "attributes": each.attributes} for each in messages]}
        url = f"{self._url}/{quote(topic, safe='/')}:publish"
        try:
            answer = await self._client.request("POST", url, body=body, repeatable=True)
        except GoogleMissing as error:
            name = topic.rpartition("/")[2]
            message = (
                f"there is no topic {name}: is the task in the list `tasks`? Then run `receiver provision`; "
                "`receiver dev` does it when it has reloaded"
            )
            raise GoogleMissing(error.status, error.reason, message) from error
        try:
            ids = msgspec.convert(answer, _Published).ids
        except msgspec.ValidationError:
            ids = []
        if len(ids) != len(messages):
            raise GoogleUnavailable("Pub/Sub answers a publish without the messages' ids")
        return ids


def batches(
    items: Sequence[S], most: int = MAX_MESSAGES, most_bytes: int = MAX_BYTES
) -> Iterator[Sequence[S]]:
    """The items in their order, in parts of at most so many items and bytes; an item that is larger is alone."""
    start = size = 0
    for index, item in enumerate(items):
        more = item.size
        if index > start and (index - start == most or size + more > most_bytes):
            yield items[start:index]
            start, size = index, 0
        size += more
    if start < len(items):
        yield items[start:]
