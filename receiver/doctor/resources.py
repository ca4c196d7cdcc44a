"""What is provisioned, judged: everything in which it is not as provisioning would make it, and what ails what is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from receiver.doctor.findings import Check, Finding, Severity
from receiver.provision.desired import MAKES_TOKENS, PUBLISHER
from receiver.provision.planning import ChangeRefused, Create, Delete, Kept, Update
from receiver.provision.resources import Kind

if TYPE_CHECKING:
    from receiver.doctor.google_look import Provisioned, Roles
    from receiver.provision.fields import Difference
    from receiver.provision.observed import Observed
    from receiver.provision.resources import Grant, Resource

APPLY: Final = "receiver provision --apply"

NO_SUCH_TOPIC: Final = 5
"""NOT_FOUND, as Cloud Scheduler tells of a firing whose topic is not there."""

_MISSING: Final = {
    Kind.TOPIC: "what is published for it is lost to its enqueuer, who is told an error",
    Kind.SUBSCRIPTION: "what is published for it is never delivered",
    Kind.JOB: "its schedule never fires",
}

_FIELDS: Final = {
    "pushConfig.pushEndpoint": (Severity.ERROR, "endpoint", "messages are pushed elsewhere"),
    "pushConfig.oidcToken.audience": (Severity.ERROR, "audience", "every push is answered 403"),
    "pushConfig.oidcToken.serviceAccountEmail": (Severity.ERROR, "account", "every push is answered 403"),
    "pushConfig.noWrapper": (
        Severity.ERROR,
        "unwrapped",
        "the receiver reads wrapped messages only: each is rejected",
    ),
    "deadLetterPolicy.deadLetterTopic": (
        Severity.WARNING,
        "dead-letters",
        "a message that can never be delivered comes for ever, or is kept where nobody looks",
    ),
    "retryPolicy.minimumBackoff": (
        Severity.WARNING,
        "backoff",
        "without a policy a failed delivery is repeated at once, again and again; it ends at 600 s",
    ),
    "ackDeadlineSeconds": (
        Severity.WARNING,
        "ack-deadline",
        "pushes are given up at another time than the task counts on, and are delivered again beside it",
    ),
    "expirationPolicy": (
        Severity.WARNING,
        "expiration",
        "a subscription without a message for that long is deleted, with its schedule's next firing",
    ),
    "messageRetentionDuration": (Severity.WARNING, "retention", "an outage that is longer loses messages"),
    "schedule": (Severity.ERROR, "schedule", "it fires at other times"),
    "timeZone": (Severity.ERROR, "schedule", "it fires at other times"),
    "pubsubTarget.topicName": (Severity.ERROR, "job-target", "it fires into another topic"),
    "pubsubTarget.data": (Severity.ERROR, "job-target", "what it sends names another task, or none"),
}
"""What a wrong field is worth. The fields that are not here cost little."""

_SAID: Final = {
    "retryPolicy.maximumBackoff": "retryPolicy.minimumBackoff",
    "deadLetterPolicy.maxDeliveryAttempts": "deadLetterPolicy.deadLetterTopic",
}
"""Fields that are worth what another one is."""

_ROLES: Final = {
    PUBLISHER: (Severity.WARNING, "a message that used up its deliveries is not moved, and goes on coming"),
    MAKES_TOKENS: (
        Severity.NOTE,
        "only projects from before April 2021 need it, to make the tokens of pushes",
    ),
}
_TAKES: Final = (Severity.WARNING, "a dead letter is not taken from its subscription, and goes on coming")


def judge(seen: Provisioned, check: Check) -> list[Finding]:
    """Findings about resources of the check's kinds."""
    return [*_absent(seen, check), *_drifted(seen, check), *_ailing(seen.observed, check)]


def judge_roles(roles: Roles) -> list[Finding]:
    """One finding a role, with what it is missing on."""
    missing: dict[str, list[Grant]] = {}
    for grant in roles.missing:
        missing.setdefault(grant.role, []).append(grant)
    found = []
    for role, grants in missing.items():
        severity, why = _ROLES.get(role, _TAKES)
        found.append(
            Finding(
                Check.ROLES,
                severity,
                "role-missing",
                f"{grants[0].member.removeprefix('serviceAccount:')} has no {role} on "
                f"{_some([grant.target.rpartition('/')[2] for grant in grants])}",
                f"{why}, unless the project gives it",
                "receiver provision --grant --apply",
            )
        )
    return found


def _absent(seen: Provisioned, check: Check) -> Iterator[Finding]:
    missing: dict[Kind, list[str]] = {}
    for entry in seen.plan.entries:
        if isinstance(entry, Create):
            missing.setdefault(entry.item.kind, []).append(entry.item.id)
    for kind, names in missing.items():
        yield Finding(
            check,
            Severity.ERROR,
            "missing",
            f"there is no {kind} {names[0]}"
            if len(names) == 1
            else f"there are no {len(names)} {kind}s {_some(names)}",
            _MISSING[kind],
            APPLY,
        )


def _drifted(seen: Provisioned, check: Check) -> Iterator[Finding]:
    for entry in seen.plan.entries:
        match entry:
            case Update(item=item, differences=differences):
                yield from _differing(item, differences, check)
            case Delete(item=item, why=why):
                what = f"{item.kind} {item.id}: {why}"
                yield Finding(
                    check, Severity.WARNING, "orphan", what, "it fires for a task that rejects it", APPLY
                )
            case ChangeRefused(item=item, why=why):
                reason, _, way = why.rpartition("; ")
                yield Finding(
                    check,
                    Severity.ERROR,
                    "not-ours",
                    f"{item.kind} {item.id}: {reason or why}",
                    "provisioning cannot make it right by itself",
                    way if reason else "receiver provision, which says what to do",
                )
            case Kept(item=item, why=why):
                what = f"{item.kind} {item.id}: {why}"
                yield Finding(
                    check,
                    Severity.NOTE,
                    "kept",
                    what,
                    "it costs little and does nothing",
                    "receiver provision --prune --apply" if "--prune" in why else _look_at(item),
                )
            case _:
                pass


def _differing(item: Resource, differences: Sequence[Difference], check: Check) -> Iterator[Finding]:
    """One finding for each sort of difference, with all its fields."""
    sorts: dict[tuple[Severity, str, str], list[str]] = {}
    for difference in differences:
        field = _SAID.get(difference.field, difference.field)
        worth = _FIELDS.get(field, (Severity.NOTE, "drift", "it is not as it was provisioned"))
        sorts.setdefault(worth, []).append(str(difference))
    for (severity, code, why), fields in sorts.items():
        yield Finding(check, severity, code, f"{item.kind} {item.id}: {', '.join(fields)}", why, APPLY)


def _ailing(observed: Observed, check: Check) -> Iterator[Finding]:
    for found in observed.resources:
        if found.kind is Kind.JOB:
            yield from _job(found, check)
        elif found.body.get("state") == "RESOURCE_ERROR":
            yield Finding(
                check,
                Severity.ERROR,
                "resource-error",
                f"{found.kind} {found.id} is in state RESOURCE_ERROR",
                "Pub/Sub cannot use it as it is",
                f"gcloud pubsub subscriptions describe {found.id} --project {found.name.split('/')[1]}",
            )


def _job(job: Resource, check: Check) -> Iterator[Finding]:
    _, project, _, location, _, name = job.name.split("/")
    flags = f"{name} --location {location} --project {project}"
    state = job.body.get("state")
    if state in {"PAUSED", "DISABLED"}:
        yield Finding(
            check,
            Severity.WARNING if state == "PAUSED" else Severity.ERROR,
            "job-paused" if state == "PAUSED" else "job-disabled",
            f"scheduler job {name} is {str(state).lower()}",
            "its schedule never fires",
            # Only a paused job can be resumed; what Cloud Scheduler itself has disabled is made anew.
            f"gcloud scheduler jobs resume {flags}"
            if state == "PAUSED"
            else f"gcloud scheduler jobs delete {flags} --quiet && {APPLY}",
        )
    status: Any = job.body.get("status") or {}
    if status.get("code"):
        said = " ".join(str(status.get("message", "")).split())[:200]
        yield Finding(
            check,
            Severity.ERROR,
            "job-failing",
            f"scheduler job {name}: its last attempt failed with code {status['code']}"
            + (f" ({said})" if said else ""),
            "its message was not published; Cloud Scheduler tries three times, and then at the next firing",
            APPLY if status["code"] == NO_SUCH_TOPIC else f"gcloud scheduler jobs run {flags}",
        )


def _look_at(item: Resource) -> str:
    """What provisioning never touches is somebody's to decide about."""
    _, project, kinds, name = item.name.split("/", 3)
    if item.kind is Kind.JOB:
        location, _, name = name.split("/")
        return f"gcloud scheduler jobs describe {name} --location {location} --project {project}"
    return f"gcloud pubsub {kinds} describe {name} --project {project}"


def _some(names: Sequence[str], most: int = 3) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
