"""The routes of a folder's plugins, as `receiver check --json` tells them, and what they need in the local Pub/Sub.

The plugins are loaded in a process of their own, again at every change: a broken one costs nothing but a line.
"""

from __future__ import annotations

import asyncio
from asyncio.subprocess import PIPE
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from receiver.emulator.rules import checked
from receiver.errors import PluginError
from receiver.settings import PUSH_PATH
from receiver.tasks.naming import dead_letter_topic_name, subscription_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from receiver.dev.child import Tether
    from receiver.emulator.broker import Broker

LOAD_TIMEOUT: Final = 60.0
"""Seconds for plugins to load: longer than any import should take."""

MAX_DELIVERY_ATTEMPTS: Final = 5
"""Locally a message is a dead letter soon, so that people see what that is; in the cloud the default is 100."""


class LocalRoute(msgspec.Struct, frozen=True):
    """What local provisioning needs of a route."""

    name: str
    path: str
    built_in: bool
    schedule: str | None
    schedule_timezone: str | None
    ack_deadline: int
    min_retry_delay: int
    max_retry_delay: int
    topic_name: str
    subscription_name: str


class Loaded(msgspec.Struct, frozen=True):
    """The routes; and what should be mended, though it stops nothing."""

    routes: list[LocalRoute]
    warnings: list[str]


class _Report(msgspec.Struct):
    routes: list[LocalRoute]
    findings: list[str]
    undeclared: list[str]


async def load_routes(folder: Path, environ: Mapping[str, str], tether: Tether) -> Loaded:
    """The routes that a receiver started here would have.

    Raises:
        PluginError: one line: what is wrong with a plugin.
    """
    process = await tether.start(
        ["check", "--json"], folder=folder, environ=environ, stdout=PIPE, stderr=PIPE
    )
    try:
        async with asyncio.timeout(LOAD_TIMEOUT):
            output, errors = await process.communicate()
    except TimeoutError:
        raise PluginError(f"the plugins did not load within {LOAD_TIMEOUT:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    # A plugin may print while it is imported: the report is the last object that begins a line.
    start = output.rfind(b"\n{\n") + 1
    try:
        report = msgspec.json.decode(output[start:], type=_Report)
    except msgspec.DecodeError:
        lines = errors.decode(errors="replace").strip().splitlines() or [f"exit code {process.returncode}"]
        raise PluginError(lines[-1].removeprefix("error: ")) from None
    fatal = [finding for finding in report.findings if finding not in report.undeclared]
    if fatal:
        raise PluginError(fatal[0])
    return Loaded(report.routes, report.undeclared)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the routes of one receiver live: project, its resources' prefix, and the receiver's address and account."""

    project: str
    environment: str
    namespace: str
    url: str
    email: str

    def topic(self, name: str) -> str:
        """A topic's full name."""
        return f"projects/{self.project}/topics/{name}"

    def subscription(self, name: str) -> str:
        """A subscription's full name."""
        return f"projects/{self.project}/subscriptions/{name}"

    @property
    def prefix(self) -> str:
        """How the subscriptions of this receiver's tasks begin; whatever else is in the project is not its own."""
        return self.subscription(f"{self.environment}--{self.namespace}.tasks--")


def provision(broker: Broker, routes: Sequence[LocalRoute], place: Place) -> None:
    """Makes the topics and subscriptions that the routes need; those of routes that are gone push no more."""
    dead_letters = dead_letter_topic_name(place.environment, place.namespace)
    dead_topic = place.topic(dead_letters)
    _put_topic(broker, dead_topic)
    _put(broker, {"name": place.subscription(subscription_name(dead_letters)), "topic": dead_topic})
    wanted = set()
    for route in routes:
        _put_topic(broker, place.topic(route.topic_name))
        body = _subscription(route, place, dead_topic)
        _put(broker, body)
        wanted.add(body["name"])
    for name, subscription in list(broker.subscriptions.items()):
        if name.startswith(place.prefix) and name not in wanted and subscription.push_endpoint:
            broker.put_subscription(name, {**subscription.body, "pushConfig": {}})


def _put_topic(broker: Broker, name: str) -> None:
    if name not in broker.topics:
        broker.put_topic(name, {"name": name})


def _put(broker: Broker, body: Mapping[str, Any]) -> None:
    whole = checked(body)
    known = broker.subscriptions.get(whole["name"])
    if known is None or known.body != whole:
        broker.put_subscription(whole["name"], whole)


def _subscription(route: LocalRoute, place: Place, dead_letters: str) -> dict[str, Any]:
    return {
        "name": place.subscription(route.subscription_name),
        "topic": place.topic(route.topic_name),
        "ackDeadlineSeconds": route.ack_deadline,
        "retryPolicy": {
            "minimumBackoff": f"{route.min_retry_delay}s",
            "maximumBackoff": f"{route.max_retry_delay}s",
        },
        "deadLetterPolicy": {"deadLetterTopic": dead_letters, "maxDeliveryAttempts": MAX_DELIVERY_ATTEMPTS},
        "expirationPolicy": {},
        "pushConfig": {
            "pushEndpoint": place.url + PUSH_PATH,
            "oidcToken": {"serviceAccountEmail": place.email, "audience": place.url},
        },
    }
