"""Topics, subscriptions and the messages that each subscription still owes: the state of the local Pub/Sub.

Everything is in memory and in one SQLite file, so that messages survive a restart of `receiver dev`. A message is owed
once for each subscription of its topic, until it is acked or moved to the dead-letter topic; nothing else removes it
but the end of its subscription.

Next: `receiver.emulator.pubsub` speaks REST about it, `receiver.emulator.pushing` pushes what is due.
"""

from __future__ import annotations

import sqlite3
import time
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import msgspec

from receiver.emulator.backlog import Message, Owed, Subscription
from receiver.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS resources (name TEXT PRIMARY KEY, kind TEXT NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS owed (
    subscription TEXT NOT NULL, message_id TEXT NOT NULL, message BLOB NOT NULL, attempts INTEGER NOT NULL,
    PRIMARY KEY (subscription, message_id)
);
"""
# A killed process loses nothing of this; a power cut may lose the last messages, which is fine on a laptop.
PRAGMAS: Final = "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;"

LATE: Final = 1.0
"""Seconds at least by which a dropped delivery is late."""

DELETED_TOPIC: Final = "_deleted-topic_"
"""What a subscription's topic is called once it is gone."""


class Published(msgspec.Struct, frozen=True, rename="camel"):
    """A message as `topics.publish` takes it."""

    data: str = ""
    attributes: dict[str, str] = {}
    ordering_key: str = ""


class Broker:
    """All of it. Used from one event loop.

    Args:
        file: where it is kept; None keeps it in memory only.
        clock: seconds, in which backoffs and leases are measured.

    Raises:
        ConfigurationError: the file cannot be used.
    """

    def __init__(self, file: Path | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.topics: dict[str, dict[str, Any]] = {}
        self.subscriptions: dict[str, Subscription] = {}
        self.clock = clock
        self.changed: Callable[[], None] = lambda: None
        """Called whenever something may have become due earlier than was known."""
        self._next = count(int(time.time() * 1_000_000))
        try:
            self._database = sqlite3.connect(file or ":memory:", isolation_level=None)
            self._database.executescript(PRAGMAS + SCHEMA)
            self._load()
        except (sqlite3.Error, msgspec.DecodeError) as error:
            raise ConfigurationError(f"{file}: {error}; delete it, and its messages are forgotten") from error

    def close(self) -> None:
        """Closes the file."""
        self._database.close()

    def put_topic(self, name: str, body: Mapping[str, Any]) -> None:
        """Makes or replaces a topic."""
        self.topics[name] = dict(body)
        self._keep(name, "topic", body)

    def delete_topic(self, name: str) -> None:
        """Removes a topic; its subscriptions stay and receive nothing more."""
        del self.topics[name]
        self._database.execute("DELETE FROM resources WHERE name = ?", (name,))
        for subscription in self.subscriptions.values():
            if subscription.topic == name:
                self.put_subscription(subscription.name, {**subscription.body, "topic": DELETED_TOPIC})

    def put_subscription(self, name: str, body: Mapping[str, Any]) -> None:
        """Makes a subscription, or replaces what it is; what it owes stays."""
        known = self.subscriptions.get(name)
        if known is None:
            self.subscriptions[name] = Subscription(name, dict(body))
        else:
            known.body = dict(body)
        self._keep(name, "subscription", body)
        self.changed()

    def delete_subscription(self, name: str) -> None:
        """Removes a subscription and what it owes."""
        del self.subscriptions[name]
        self._database.execute("DELETE FROM resources WHERE name = ?", (name,))
        self._database.execute("DELETE FROM owed WHERE subscription = ?", (name,))

    def publish(self, topic: str, messages: Sequence[Published]) -> list[str]:
        """Owes the messages to every subscription of the topic; returns their ids, in order."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        made = [
            Message(str(next(self._next)), now, one.data, one.attributes, one.ordering_key)
            for one in messages
        ]
        listening = [one for one in self.subscriptions.values() if one.topic == topic]
        if listening:
            written = [(message.message_id, msgspec.json.encode(message), 0) for message in made]
            rows = [(one.name, *row) for one in listening for row in written]
            # Kept before anything is promised, and all or nothing.
            self._database.execute("BEGIN")
            self._database.executemany("INSERT INTO owed VALUES (?, ?, ?, ?)", rows)
            self._database.execute("COMMIT")
            for subscription in listening:
                subscription.backlog.add(Owed(message) for message in made)
            self.changed()
        return [message.message_id for message in made]

    def take(self, subscription: Subscription) -> Owed | None:
        """The next message that the subscription may deliver now."""
        now = self.clock()
        for owed in subscription.backlog.lapsed(now):
            self.nack(subscription, owed)
        return subscription.backlog.take(now)

    def lease(self, subscription: Subscription, owed: Owed) -> str:
        """A taken message belongs to a pull for the ack deadline; its ack id."""
        return subscription.backlog.lease(owed, self.clock() + subscription.ack_deadline)

    def extend(self, subscription: Subscription, owed: Owed, by: float) -> None:
        """The pull keeps it for so many seconds from now."""
        subscription.backlog.extend(owed, self.clock() + by)

    def ack(self, subscription: Subscription, owed: Owed) -> None:
        """The message is delivered: no longer owed."""
        subscription.backlog.remove(owed)
        self._database.execute(
            "DELETE FROM owed WHERE subscription = ? AND message_id = ?",
            (subscription.name, owed.message.message_id),
        )

    def nack(self, subscription: Subscription, owed: Owed) -> None:
        """The message is owed again after its backoff, or is moved to the dead-letter topic."""
        dead_letter = subscription.dead_letter
        if dead_letter is not None and owed.attempts >= dead_letter[1] and dead_letter[0] in self.topics:
            self._bury(subscription, owed, dead_letter[0])
            return
        pause = subscription.backoff(owed.attempts)
        subscription.backlog.put_back(owed, until=self.clock() + pause if pause else None)
        self._database.execute(
            "UPDATE owed SET attempts = ? WHERE subscription = ? AND message_id = ?",
            (owed.attempts, subscription.name, owed.message.message_id),
        )
        self.changed()

    def hold_back(self, subscription: Subscription, owed: Owed, *, late: bool = False) -> None:
        """The message has not been delivered after all: nothing is counted. With `late` it waits for its backoff."""
        until = self.clock() + max(subscription.backoff(owed.attempts), LATE) if late else None
        owed.attempts -= 1
        owed.late |= late
        subscription.backlog.put_back(owed, until=until)
        self.changed()

    def _bury(self, subscription: Subscription, owed: Owed, topic: str) -> None:
        message = owed.message
        _, project, _, name = subscription.name.split("/", 3)
        source = {
            "CloudPubSubDeadLetterSourceDeliveryCount": str(owed.attempts),
            "CloudPubSubDeadLetterSourceSubscription": name,
            "CloudPubSubDeadLetterSourceSubscriptionProject": project,
            "CloudPubSubDeadLetterSourceTopicPublishTime": message.publish_time,
        }
        copy = Published(message.data, {**message.attributes, **source}, message.ordering_key)
        self.publish(topic, [copy])  # first: a message is there twice rather than not at all
        self.ack(subscription, owed)

    def _keep(self, name: str, kind: str, body: Mapping[str, Any]) -> None:
        row = (name, kind, msgspec.json.encode(body))
        self._database.execute("INSERT OR REPLACE INTO resources VALUES (?, ?, ?)", row)

    def _load(self) -> None:
        for name, kind, body in self._database.execute("SELECT name, kind, body FROM resources"):
            decoded = msgspec.json.decode(body, type=dict[str, Any])
            if kind == "topic":
                self.topics[name] = decoded
            else:
                self.subscriptions[name] = Subscription(name, decoded)
        decode = msgspec.json.Decoder(Message).decode
        rows = self._database.execute("SELECT subscription, message, attempts FROM owed ORDER BY message_id")
        for name, message, attempts in rows:
            if name in self.subscriptions:
                self.subscriptions[name].backlog.add([Owed(decode(message), attempts)])
