"""A shop that is provisioned: its tasks, its place, and what Google would list of it."""

from __future__ import annotations

from typing import Any

from receiver import TaskRoute, task
from receiver.provision.desired import PushTarget, desired
from receiver.provision.observed import Observed
from receiver.provision.resources import Kind, Resource, Wanted
from receiver.provision.scope import Scope

URL = "https://shop-abc-ew.a.run.app"
ACCOUNT = "push@shop-prod.iam.gserviceaccount.com"


@task
def send_mail(to: str) -> None: ...


@task
def clean_up() -> None: ...


HERE = send_mail.path.rpartition(".")[0]
SCOPE = Scope("shop-prod", "europe-west2", "prod", "shop", "shop-abc-ew.a.run.app")
PUSH = PushTarget(URL, ACCOUNT, 100)
MAIL = TaskRoute(send_mail, ack_deadline=60, min_retry_delay=5, max_retry_delay=120)
CLEAN = TaskRoute(clean_up, schedule="0 3 * * *", schedule_timezone="Europe/London")
ROUTES = (MAIL, CLEAN)


def wanted(*routes: TaskRoute, scope: Scope = SCOPE) -> tuple[Wanted, ...]:
    """What the routes need: both, unless some are named."""
    return desired(routes or ROUTES, scope, PUSH)


def resources(found: tuple[Wanted, ...]) -> list[Resource]:
    """The resources among what is wanted."""
    return [one.item for one in found if isinstance(one.item, Resource)]


def as_listed(item: Resource) -> Resource:
    """The resource as Google lists it: with its own fields beside ours, durations and states written its way."""
    body: dict[str, Any] = {**item.body}
    match item.kind:
        case Kind.SUBSCRIPTION:
            body |= {"state": "ACTIVE", "messageRetentionDuration": "604800.000s"}
        case Kind.JOB:
            body |= {"state": "ENABLED", "scheduleTime": "2030-01-01T00:00:00Z"}
            body["retryConfig"] = {**body["retryConfig"], "maxDoublings": 5}
        case _:
            body |= {"state": "ACTIVE"}
    return Resource(item.kind, item.name, body)


def settled(*routes: TaskRoute, scope: Scope = SCOPE) -> Observed:
    """What is there when everything is as it should be."""
    return Observed.of(as_listed(item) for item in resources(wanted(*routes, scope=scope)))


def changed(item: Resource, **fields: Any) -> Resource:
    """The resource with other values of top-level fields; None takes one away."""
    body = {**item.body, **fields}
    return Resource(item.kind, item.name, {key: value for key, value in body.items() if value is not None})
