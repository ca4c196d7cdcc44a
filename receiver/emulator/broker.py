"""Topics, subscriptions and their unacked messages: the state of the local Pub/Sub.

Everything is in memory and in one SQLite file, so that messages survive a restart of `receiver dev`. Each subscription
of a topic keeps its own copy of a message until that is acked, moved to the dead-letter topic, or the subscription is
deleted.

Next: `receiver.emulator.api` is its REST API, `receiver.emulator.pushing` pushes what is due.
"""

from __future__ import annotations

import sqlite3
import time
import weakref
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import msgspec

from receiver.contract.dead_letter_source import attributes_of
from receiver.emulator.backlog import PubsubMessage, Unacked
from receiver.emulator.subscriptions import DELETED_TOPIC, Subscription, SubscriptionSettings
from receiver.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS resources (name TEXT PRIMARY KEY, kind TEXT NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS unacked (
    subscription TEXT NOT NULL, message_id TEXT NOT NULL, message BLOB NOT NULL, attempts INTEGER NOT NULL,
    PRIMARY KEY (subscription, message_id)
);
"""
# A killed process loses nothing. A power cut may lose the last messages, which is fine on a laptop.
PRAGMAS: Final = "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;"

DROP_DELAY: Final = 1.0
"""Seconds, at least, by which a dropped delivery is late."""


class Broker:
    """The state, used from one event loop.

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
        """Called when a message may be due earlier than before."""
        self._next = count(int(time.time() * 1_000_000))
        try:
            self._database = sqlite3.connect(
                file or ":memory:", isolation_level=None, check_same_thread=False
            )
            weakref.finalize(self, self._database.close)  # of one that nobody closes
            self._database.executescript(PRAGMAS + SCHEMA)
            self._load()
        except (sqlite3.Error, msgspec.DecodeError) as error:
            raise ConfigurationError(f"{file}: {error}; delete it, and its messages are forgotten") from error

    def close(self) -> None:
        """Closes the file."""
        self._database.close()

    def put_topic(self, name: str, body: Mapping[str, Any]) -> None:
        """Creates or replaces a topic."""
        self.topics[name] = dict(body)
        self._keep(name, "topic", body)

    def delete_topic(self, name: str) -> None:
        """Deletes a topic. Its subscriptions stay and receive nothing more."""
        del self.topics[name]
        self._database.execute("DELETE FROM resources WHERE name = ?", (name,))
        for subscription in self.subscriptions.values():
            if subscription.settings.topic == name:
                self.put_subscription(subscription.name, {**subscription.body, "topic": DELETED_TOPIC})

    def put_subscription(self, name: str, body: Mapping[str, Any]) -> None:
        """Creates a subscription, or changes its settings and keeps its messages."""
        settings = msgspec.convert(body, SubscriptionSettings)
        known = self.subscriptions.setdefault(name, Subscription(name, {}, settings))
        known.body, known.settings = dict(body), settings
        self._keep(name, "subscription", body)
        self.changed()

    def delete_subscription(self, name: str) -> None:
        """Deletes a subscription and its messages."""
        del self.subscriptions[name]
        self._database.execute("DELETE FROM resources WHERE name = ?", (name,))
        self._database.execute("DELETE FROM unacked WHERE subscription = ?", (name,))

    def publish(self, topic: str, messages: Sequence[PubsubMessage]) -> list[str]:
        """Gives the messages to every subscription of the topic; returns their ids, in order."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        made = [
            msgspec.structs.replace(message, message_id=str(next(self._next)), publish_time=now)
            for message in messages
        ]
        listening = [one for one in self.subscriptions.values() if one.settings.topic == topic]
        if listening:
            written = [(message.message_id, msgspec.json.encode(message), 0) for message in made]
            rows = [(one.name, *row) for one in listening for row in written]
            # Written before an id is returned, and all or nothing.
            self._database.execute("BEGIN")
            self._database.executemany("INSERT INTO unacked VALUES (?, ?, ?, ?)", rows)
            self._database.execute("COMMIT")
            for subscription in listening:
                for message in made:
                    subscription.backlog.add(Unacked(message), self.clock())
            self.changed()
        return [message.message_id for message in made]

    def take(self, subscription: Subscription) -> Unacked | None:
        """The next message that the subscription may deliver now, with one more delivery counted. Leases that ended are nacked first."""
        while (unacked := subscription.backlog.take(self.clock())) is not None:
            if unacked.lease is None:
                unacked.attempts += 1
                return unacked
            self.nack(subscription, unacked)
        return None

    def lease(self, subscription: Subscription, unacked: Unacked, by: float | None = None) -> str:
        """Leases a message to a pull for the ack deadline, or makes its lease end `by` seconds from now; returns the ack id."""
        ack_id = unacked.lease or f"{unacked.message.message_id}-{unacked.attempts}"
        until = self.clock() + (subscription.settings.ack_deadline if by is None else by)
        subscription.backlog.put_back(unacked, until, ack_id)
        return ack_id

    def ack(self, subscription: Subscription, unacked: Unacked) -> None:
        """The message is delivered, and forgotten."""
        subscription.backlog.remove(unacked)
        self._database.execute(
            "DELETE FROM unacked WHERE subscription = ? AND message_id = ?",
            (subscription.name, unacked.message.message_id),
        )

    def nack(self, subscription: Subscription, unacked: Unacked) -> None:
        """The message is delivered again after its backoff, or moved to the dead-letter topic."""
        policy, attempts = subscription.settings.dead_letter_policy, unacked.attempts
        if (
            policy is not None
            and attempts >= policy.max_delivery_attempts
            and policy.dead_letter_topic in self.topics
        ):
            self._dead_letter(subscription, unacked, policy.dead_letter_topic)
            return
        subscription.backlog.put_back(unacked, self.clock() + subscription.settings.backoff(attempts))
        self._database.execute(
            "UPDATE unacked SET attempts = ? WHERE subscription = ? AND message_id = ?",
            (attempts, subscription.name, unacked.message.message_id),
        )
        self.changed()

    def give_back(self, subscription: Subscription, unacked: Unacked, *, late: bool = False) -> None:
        """A taken message was not delivered: the attempt is not counted. With `late` it waits for its backoff."""
        pause = max(subscription.settings.backoff(unacked.attempts), DROP_DELAY) if late else 0.0
        unacked.attempts -= 1
        unacked.late |= late
        subscription.backlog.put_back(unacked, self.clock() + pause)
        self.changed()

    def _dead_letter(self, subscription: Subscription, unacked: Unacked, topic: str) -> None:
        message = unacked.message
        source = attributes_of(subscription.name, message.publish_time, unacked.attempts)
        copy = msgspec.structs.replace(message, attributes={**message.attributes, **source})
        self.publish(topic, [copy])  # published before the ack: a crash between leaves it twice, never lost
        self.ack(subscription, unacked)

    def _keep(self, name: str, kind: str, body: Mapping[str, Any]) -> None:
        row = (name, kind, msgspec.json.encode(body))
        self._database.execute("INSERT OR REPLACE INTO resources VALUES (?, ?, ?)", row)

    def _load(self) -> None:
        for name, kind, body in self._database.execute("SELECT name, kind, body FROM resources"):
            decoded = msgspec.json.decode(body, type=dict[str, Any])
            if kind == "topic":
                self.topics[name] = decoded
            else:
                settings = msgspec.convert(decoded, SubscriptionSettings)
                self.subscriptions[name] = Subscription(name, decoded, settings)
        decode = msgspec.json.Decoder(PubsubMessage).decode
        rows = self._database.execute(
            "SELECT subscription, message, attempts FROM unacked ORDER BY message_id"
        )
        for name, message, attempts in rows:
            if name in self.subscriptions:
                self.subscriptions[name].backlog.add(Unacked(decode(message), attempts), self.clock())
