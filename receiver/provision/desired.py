"""The desired state: for every route a topic and a push subscription, if scheduled a job, and for a foreign topic another
subscription; and the dead letters.

Pure: routes and settings in, resources out, as Google writes them.

Next: `receiver.provision.planning` compares them with what is there.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from receiver.contract.encode import scheduled_payload
from receiver.errors import SettingError
from receiver.provision.resources import Grant, Kind, Resource, Wanted
from receiver.provision.scope import Scope, service_url
from receiver.settings import DEAD_LETTER_RETENTION, PUSH_PATH, SUBSCRIPTION_RETENTION, PushAuth, Settings
from receiver.tasks.route import TaskRoute

DEAD_LETTER_ACK_DEADLINE: Final = 60
"""Seconds. To write one down takes milliseconds, or as long as a slow database takes."""

DEAD_LETTER_BACKOFF: Final = (10, 600)
"""The shortest and longest pause in seconds between two pushes of one: Pub/Sub's own defaults."""

JOB_RETRIES: Final = 3
"""Times that Cloud Scheduler tries again when publishing fails. Its default is 0, its limit 5."""

JOB_BACKOFF: Final = ("5s", "3600s")
"""The shortest and longest pause between those tries: Cloud Scheduler's own bounds."""

PUBLISHER: Final = "roles/pubsub.publisher"
SUBSCRIBER: Final = "roles/pubsub.subscriber"
MAKES_TOKENS: Final = "roles/iam.serviceAccountTokenCreator"


@dataclass(frozen=True, slots=True)
class PushTarget:
    """How pushes are made.

    Attributes:
        url: of the service.
        account: of the tokens; None: no token.
        max_delivery_attempts: the tries before a message is a dead letter.
        services: the URLs of further services, by the names that routes give them.
    """

    url: str
    account: str | None
    max_delivery_attempts: int
    services: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings) -> PushTarget:
        """The target from the settings.

        Raises:
            SettingError: the service's URL or the account is missing, or Pub/Sub would not push like that.
        """
        url, local = service_url(settings), settings.pubsub_emulator is not None
        services = dict(settings.service_urls)
        addresses = [
            ("CLOUD_RUN_SERVICE_URL", url),
            *(("TASKS_SERVICE_URLS", each) for each in services.values()),
        ]
        for variable, each in addresses:
            if not local and not each.startswith("https://"):
                raise SettingError(variable, each, "Pub/Sub pushes to an https address only")
        is_off = settings.push_auth is PushAuth.OFF
        if is_off and not local:
            raise SettingError(
                "TASKS_PUSH_AUTH", "off", "subscriptions are made with tokens, except in an emulator"
            )
        account = None if is_off else settings.service_account
        if account is None and not is_off:
            raise SettingError(
                "TASKS_SERVICE_ACCOUNT", None, "set it to the service account in the tokens of pushes"
            )
        return cls(url, account, settings.max_delivery_attempts, services)

    def url_for(self, route: TaskRoute) -> str:
        """The URL of the service that runs the route.

        Raises:
            SettingError: it is not known.
        """
        if route.service is None:
            return self.url
        if route.service not in self.services:
            known = ", ".join(self.services) or None
            raise SettingError(
                "TASKS_SERVICE_URLS", known, f"add {route.service}=https://..., where {route.name} runs"
            )
        return self.services[route.service]


def desired(routes: Sequence[TaskRoute], scope: Scope, push: PushTarget) -> tuple[Wanted, ...]:
    """Everything that these routes need, each resource once."""
    present = [one for route in routes for one in _of_route(route, scope, push)]
    former = [
        one
        for route in routes
        for path in sorted(route.former_paths)
        for one in _delivery(route, path, scope, push, former=route.path)
    ]
    found: dict[str, Wanted] = {}
    for one in (*_dead_letters(scope, push), *present, *former):
        found.setdefault(one.item.name, one)
    return tuple(found.values())


def desired_grants(
    wanted: Iterable[Wanted], scope: Scope, push: PushTarget, project_number: str
) -> Iterator[Wanted]:
    """The roles that Pub/Sub's own account needs.

    To write dead letters, to take messages from their subscriptions, and, in projects from before April 2021, to make tokens
    of the push account.
    """
    agent = f"serviceAccount:service-{project_number}@gcp-sa-pubsub.iam.gserviceaccount.com"
    letters = scope.dead_letter_topic
    for one in wanted:
        name = one.item.name
        if name == letters:
            yield Wanted(Grant(name, PUBLISHER, agent), (name,))
        elif isinstance(one.item, Resource) and "deadLetterPolicy" in one.item.body:
            yield Wanted(Grant(name, SUBSCRIBER, agent), (name,), one.former)
    if push.account is not None:
        yield Wanted(Grant(f"projects/-/serviceAccounts/{push.account}", MAKES_TOKENS, agent))


def _dead_letters(scope: Scope, push: PushTarget) -> Iterator[Wanted]:
    topic = scope.dead_letter_topic
    yield Wanted(Resource(Kind.TOPIC, topic, {"labels": scope.labels}))
    body = _subscription(topic, push.url, scope, push, DEAD_LETTER_ACK_DEADLINE, DEAD_LETTER_BACKOFF)
    body["messageRetentionDuration"] = _seconds(DEAD_LETTER_RETENTION)
    yield Wanted(Resource(Kind.SUBSCRIPTION, scope.dead_letter_subscription, body), (topic,))


def _of_route(route: TaskRoute, scope: Scope, push: PushTarget) -> Iterator[Wanted]:
    yield from _delivery(route, route.path, scope, push)
    if route.schedule is not None:
        body = _job(route, route.schedule, scope)
        yield Wanted(Resource(Kind.JOB, scope.job(route.path), body), (scope.topic(route.path),))


def _delivery(
    route: TaskRoute, path: str, scope: Scope, push: PushTarget, former: str | None = None
) -> Iterator[Wanted]:
    topic, dead_letters = scope.topic(path), scope.dead_letter_topic
    to = "" if route.service is None else f"pushes to {route.service}"
    backoff = (route.min_retry_delay, route.max_retry_delay)
    body = _subscription(topic, push.url_for(route), scope, push, route.ack_deadline, backoff)
    body["deadLetterPolicy"] = {
        "deadLetterTopic": dead_letters,
        "maxDeliveryAttempts": push.max_delivery_attempts,
    }
    yield Wanted(Resource(Kind.TOPIC, topic, {"labels": scope.labels}), former=former)
    yield Wanted(
        Resource(Kind.SUBSCRIPTION, scope.subscription(path), body), (topic, dead_letters), former, note=to
    )
    if route.topic is not None:
        # The topic is another owner's: it is never made, changed or deleted, and nobody's role on it.
        body = {**body, "topic": route.topic}
        if route.topic_filter is not None:
            body["filter"] = route.topic_filter
        # Beside one under a former name it would take each message once more.
        others = [scope.foreign_subscription(other) for other in route.former_paths if former is None]
        yield Wanted(
            Resource(Kind.SUBSCRIPTION, scope.foreign_subscription(path), body),
            (dead_letters,),
            former,
            note=f"of {route.topic}" + (to and f", {to}"),
            unless=tuple(sorted(others)),
        )


def _subscription(
    topic: str, url: str, scope: Scope, push: PushTarget, ack_deadline: int, backoff: tuple[int, int]
) -> dict[str, Any]:
    push_config: dict[str, Any] = {"pushEndpoint": url + PUSH_PATH}
    if push.account is not None:
        push_config["oidcToken"] = {"serviceAccountEmail": push.account, "audience": url}
    shortest, longest = backoff
    return {
        "topic": topic,
        "pushConfig": push_config,
        "ackDeadlineSeconds": ack_deadline,
        # Always: without it Pub/Sub tries again at once.
        "retryPolicy": {"minimumBackoff": f"{shortest}s", "maximumBackoff": f"{longest}s"},
        "messageRetentionDuration": _seconds(SUBSCRIPTION_RETENTION),
        # Never: a monthly task's subscription would be gone after 31 days without a message.
        "expirationPolicy": {},
        "labels": scope.labels,
    }


def _job(route: TaskRoute, schedule: str, scope: Scope) -> dict[str, Any]:
    shortest, longest = JOB_BACKOFF
    return {
        "description": scope.description,
        "schedule": schedule,
        "timeZone": route.schedule_timezone,
        "pubsubTarget": {
            "topicName": scope.topic(route.path),
            "data": base64.b64encode(scheduled_payload(route.name)).decode(),
            "attributes": {"task_name": route.name},
        },
        "retryConfig": {
            "retryCount": JOB_RETRIES,
            "minBackoffDuration": shortest,
            "maxBackoffDuration": longest,
            "maxRetryDuration": "0s",
        },
    }


def _seconds(value: timedelta) -> str:
    return f"{value.total_seconds():.0f}s"
