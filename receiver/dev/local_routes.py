"""The routes of a folder's plugins, and their topics and subscriptions in the local Pub/Sub.

`receiver check --json` lists the routes in its own process at every change, so a broken plugin does not break `receiver dev`.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from subprocess import PIPE
from typing import TYPE_CHECKING, Any, Final

import msgspec

from receiver.emulator.rules import checked
from receiver.errors import PluginError
from receiver.settings import PUSH_PATH
from receiver.tasks.naming import dead_letter_topic_name, foreign_prefix, subscription_name, topic_prefix

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from receiver.dev.processes import ParentPipe
    from receiver.emulator.broker import Broker

LOAD_TIMEOUT: Final = 60.0
"""Seconds for plugins to load: longer than any import should take."""

MAX_DELIVERY_ATTEMPTS: Final = 5
"""Low, so that a dead letter can be seen on a laptop; in the cloud the default is 100."""


class LocalRoute(msgspec.Struct, frozen=True):
    """The values of a route that local provisioning and the scheduler need."""

    name: str
    topic_name: str
    ack_deadline: int = 300
    min_retry_delay: int = 10
    max_retry_delay: int = 600
    built_in: bool = False
    schedule: str | None = None
    schedule_timezone: str | None = None
    former_topic_names: list[str] = []
    topic: str | None = None
    foreign_subscription_name: str | None = None


class Loaded(msgspec.Struct, frozen=True):
    """The routes, and the warnings: problems that stop nothing."""

    routes: list[LocalRoute]
    warnings: list[str]


class _Report(msgspec.Struct):
    routes: list[LocalRoute]
    findings: list[str]
    tolerated: list[str]
    warnings: list[str]


def load_routes(folder: Path, environ: Mapping[str, str], parent: ParentPipe) -> Loaded:
    """The routes that a receiver started here would have.

    Raises:
        PluginError: one line: what is wrong with a plugin.
    """
    with parent.start(
        ["check", "--json"], folder=folder, environ=environ, stdout=PIPE, stderr=PIPE
    ) as process:
        try:
            output, errors = process.communicate(timeout=LOAD_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            raise PluginError(f"the plugins did not load within {LOAD_TIMEOUT:g} s") from None
    # A plugin may print while it is imported: the report is the last object that begins a line.
    start = output.rfind(b"\n{\n") + 1
    try:
        report = msgspec.json.decode(output[start:], type=_Report)
    except msgspec.DecodeError:
        lines = errors.decode(errors="replace").strip().splitlines() or [f"exit code {process.returncode}"]
        raise PluginError(lines[-1].removeprefix("error: ")) from None
    fatal = [finding for finding in report.findings if finding not in report.tolerated]
    if fatal:
        raise PluginError(fatal[0])
    return Loaded(report.routes, [*report.tolerated, *report.warnings])


@dataclass(frozen=True, slots=True)
class LocalProject:
    """The project of one local receiver: the names of its resources, and the receiver's URL and push account."""

    id: str
    environment: str
    namespace: str
    url: str
    email: str

    def topic(self, name: str) -> str:
        """A topic's full name."""
        return f"projects/{self.id}/topics/{name}"

    def subscription(self, name: str) -> str:
        """A subscription's full name."""
        return f"projects/{self.id}/subscriptions/{name}"

    @property
    def prefixes(self) -> tuple[str, str]:
        """How the names of this receiver's push subscriptions begin. Others in the project are left alone."""
        parts = self.environment, self.namespace
        return self.subscription(topic_prefix(*parts)), self.subscription(foreign_prefix(*parts))


def provision(broker: Broker, routes: Sequence[LocalRoute], project: LocalProject) -> None:
    """Creates the topics and subscriptions of the routes. Those of removed routes stop pushing, unless an alias remembers them."""
    dead_letters = dead_letter_topic_name(project.environment, project.namespace)
    token = {"serviceAccountEmail": project.email, "audience": project.url}
    pushing = {
        "pushConfig": {"pushEndpoint": project.url + PUSH_PATH, "oidcToken": token},
        "expirationPolicy": {},
    }
    wanted = set()

    def put(name: str, topic: str, body: Mapping[str, Any]) -> None:
        if topic not in broker.topics:
            broker.put_topic(topic, {"name": topic})
        whole = checked({"name": project.subscription(name), "topic": topic, **pushing, **body})
        known = broker.subscriptions.get(whole["name"])
        if known is None or known.body != whole:
            broker.put_subscription(whole["name"], whole)
        wanted.add(whole["name"])

    put(
        subscription_name(dead_letters),
        project.topic(dead_letters),
        {"retryPolicy": {"minimumBackoff": "10s"}},
    )
    names = {route.topic_name: route for route in routes}
    for route in routes:
        for name in route.former_topic_names:
            if project.topic(name) in broker.topics:
                names.setdefault(name, route)
    policy = {
        "deadLetterTopic": project.topic(dead_letters),
        "maxDeliveryAttempts": MAX_DELIVERY_ATTEMPTS,
    }
    for name, route in names.items():
        delays = {
            "minimumBackoff": f"{route.min_retry_delay}s",
            "maximumBackoff": f"{route.max_retry_delay}s",
        }
        body = {"ackDeadlineSeconds": route.ack_deadline, "retryPolicy": delays, "deadLetterPolicy": policy}
        put(subscription_name(name), project.topic(name), body)
        if route.topic is not None and route.foreign_subscription_name is not None:
            # Somebody else's topic: here nobody else makes it.
            put(route.foreign_subscription_name, route.topic, body)
    for name, subscription in list(broker.subscriptions.items()):
        if name.startswith(project.prefixes) and name not in wanted and subscription.body["pushConfig"]:
            broker.put_subscription(name, {**subscription.body, "pushConfig": {}})
