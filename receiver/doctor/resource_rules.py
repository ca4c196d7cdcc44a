"""Rules for resources: their differences from the plan of provisioning, and their own faults."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from receiver.doctor.findings import Check, Findings, Severity
from receiver.provision.desired import MAKES_TOKENS, PUBLISHER, SUBSCRIBER
from receiver.provision.planning import ChangeRefused, Create, Delete, Kept, Paused, Update
from receiver.provision.resources import Kind

if TYPE_CHECKING:
    from receiver.doctor.google_look import Provisioned, Roles
    from receiver.provision.planning import Plan
    from receiver.provision.resources import Resource

APPLY: Final = "receiver provision --apply"
NAMED: Final = 3
"""A finding names so many resources, and counts the others."""

NO_SUCH_TOPIC: Final = 5
"""NOT_FOUND: Cloud Scheduler's status for a firing whose topic does not exist."""

_MISSING: Final = {
    Kind.TOPIC: "enqueuing fails, because its messages cannot be published",
    Kind.SUBSCRIPTION: "messages that are published for it are never delivered",
    Kind.JOB: "its schedule never fires",
}

DRIFT: Final[tuple[tuple[Severity, str, list[str], str], ...]] = (
    (Severity.ERROR, "endpoint", ["pushConfig.pushEndpoint"], "messages are pushed elsewhere"),
    (Severity.ERROR, "audience", ["pushConfig.oidcToken.audience"], "every push is answered 403"),
    (Severity.ERROR, "account", ["pushConfig.oidcToken.serviceAccountEmail"], "every push is answered 403"),
    (
        Severity.ERROR,
        "ingestion",
        ["ingestionDataSourceSettings", "messageTransforms"],
        "something else than the enqueuing applications makes or rewrites its messages",
    ),
    (
        Severity.WARNING,
        "unwrapped",
        ["pushConfig.noWrapper"],
        "without writeMetadata each message is rejected; with it the names of attributes lose their case",
    ),
    (
        Severity.WARNING,
        "dead-letters",
        ["deadLetterPolicy.deadLetterTopic", "deadLetterPolicy.maxDeliveryAttempts"],
        "a message that can never be delivered is delivered again for ever, or is kept where no subscription reads it",
    ),
    (
        Severity.WARNING,
        "backoff",
        ["retryPolicy.minimumBackoff", "retryPolicy.maximumBackoff"],
        "without a policy a failed delivery is repeated at once, again and again; it ends at 600 s",
    ),
    (
        Severity.WARNING,
        "ack-deadline",
        ["ackDeadlineSeconds"],
        "Pub/Sub gives up a push at another time than the task counts on, and delivers it again beside it",
    ),
    (
        Severity.WARNING,
        "expiration",
        ["expirationPolicy"],
        "without a message for that long the subscription is deleted, and the next firing of its schedule is lost",
    ),
    (
        Severity.WARNING,
        "retention",
        ["messageRetentionDuration"],
        "an outage that is longer loses messages",
    ),
    (Severity.ERROR, "schedule", ["schedule", "timeZone"], "it fires at other times"),
    (Severity.ERROR, "job-target", ["pubsubTarget.topicName"], "it fires into another topic"),
    (Severity.ERROR, "job-target", ["pubsubTarget.data"], "its message names another task, or none"),
    (Severity.NOTE, "drift", [], "it is not as it was provisioned"),
)
_NAMED_FIELDS: Final = frozenset(field for _, _, fields, _ in DRIFT for field in fields)


_ROLES: Final = (
    (
        Severity.WARNING,
        PUBLISHER,
        "a message that used up its deliveries is not moved, and is delivered again",
    ),
    (
        Severity.WARNING,
        SUBSCRIBER,
        "a dead letter is not taken from its subscription, and is delivered again",
    ),
    (
        Severity.NOTE,
        MAKES_TOKENS,
        "only projects from before April 2021 need it, to make the tokens of pushes",
    ),
)


def judge_resources(check: Check, seen: Provisioned) -> Findings:
    """What provisioning would change, or cannot; and what ails the jobs."""
    found = Findings(check)
    _judge_missing(found, seen.plan)
    _judge_drift(found, seen.plan)
    _judge_others(found, seen.plan)
    for resource in seen.observed.resources:
        if resource.kind is Kind.JOB:
            _judge_job(found, resource)
    return found


def judge_roles(seen: Roles) -> Findings:
    """Roles that Pub/Sub's own account lacks, and those that everybody has."""
    found = Findings(Check.ROLES)
    for grant in seen.public:
        found.error(
            "public-topic",
            f"there is {grant.id}",
            "everybody can run tasks, or read their messages",
            grant.removal,
        )
    for severity, role, why in _ROLES:
        lacking = [grant for grant in seen.missing if grant.role == role]
        if lacking:
            targets = _some([grant.target.rpartition("/")[2] for grant in lacking])
            found.add(
                severity,
                "role-missing",
                f"{lacking[0].member.removeprefix('serviceAccount:')} has no {role} on {targets}",
                f"{why}, unless the project gives it",
                "receiver provision --grant --apply",
            )
    return found


def _judge_missing(found: Findings, plan: Plan) -> None:
    """One finding a kind."""
    for kind, why in _MISSING.items():
        names = [one.item.id for one in plan.entries if isinstance(one, Create) and one.item.kind is kind]
        if names:
            many = f"there are no {len(names)} {kind}s {_some(names)}"
            found.error("missing", f"there is no {kind} {names[0]}" if len(names) == 1 else many, why, APPLY)


def _judge_drift(found: Findings, plan: Plan) -> None:
    """One finding for each resource in which some of a row's fields differ, or some that no row names."""
    updates = [entry for entry in plan.entries if isinstance(entry, Update)]
    for severity, code, fields, why in DRIFT:
        for entry in updates:
            named = [
                str(one)
                for one in entry.differences
                if not (one.field.startswith("pushConfig.") and _is_pulled(entry))
                # Nobody checks a token that is not meant to be there.
                and not (one.field.startswith("pushConfig.oidcToken.") and one.new is None)
                and (one.field in fields if fields else one.field not in _NAMED_FIELDS)
            ]
            if named:
                what = f"{entry.item.kind} {entry.item.id}: {', '.join(named)}"
                found.add(severity, code, what, why, APPLY)
    for entry in filter(_is_pulled, updates):
        found.error(
            "pulled",
            f"subscription {entry.item.id} has no push endpoint",
            "its messages reach nobody; those of the dead letters leave their executions waiting for ever",
            APPLY,
        )


def _is_pulled(entry: Update) -> bool:
    """Whether it is a subscription without a push endpoint. Those of tasks that are ours are `Paused`."""
    return any(one.field == "pushConfig.pushEndpoint" and one.old is None for one in entry.differences)


def _judge_others(found: Findings, plan: Plan) -> None:
    """What provisioning leaves alone, or deletes."""
    for entry in plan.entries:
        what = f"{entry.item.kind} {entry.item.id}"
        match entry:
            case Paused():
                found.warning(
                    "paused",
                    f"{what} is paused: its push endpoint is empty",
                    "its messages wait, and Pub/Sub drops them after 7 days",
                    "receiver provision --resume --apply",
                )
            case Delete(why=why):
                found.warning(
                    "orphan",
                    f"{what}: {why}",
                    "it fires for a task that does not exist, and its messages are rejected",
                    APPLY,
                )
            case ChangeRefused(why=why):
                reason, _, mend = why.rpartition("; ")
                if not reason:
                    reason, mend = why, "receiver provision, which says what to do"
                found.error("not-ours", f"{what}: {reason}", "provisioning cannot change it", mend)
            case Kept(item=item, why=why):
                # People must decide about what provisioning never touches.
                mend = f"gcloud {_named(item, 'describe')}"
                if "--prune" in why:
                    mend = "receiver provision --prune --apply"
                found.note("kept", f"{what}: {why}", "it costs little and does nothing", mend)
            case _:
                pass


def _judge_job(found: Findings, job: Resource) -> None:
    if job.body.get("state") == "PAUSED":
        found.warning(
            "job-paused",
            f"scheduler job {job.id} is paused",
            "its schedule never fires",
            f"gcloud {_named(job, 'resume')}",
        )
    if job.body.get("state") == "DISABLED":
        found.error(
            "job-disabled",
            f"scheduler job {job.id} is disabled",
            "its schedule never fires; a job that Cloud Scheduler has disabled cannot be resumed",
            f"gcloud {_named(job, 'delete')} --quiet && {APPLY}",
        )
    status: Any = job.body.get("status") or {}
    if code := status.get("code"):
        said = " ".join(str(status.get("message", "")).split())[:200]
        found.error(
            "job-failing",
            f"scheduler job {job.id}: its last attempt failed with code {code}{f' ({said})' if said else ''}",
            "its message was not published; Cloud Scheduler tries three times, and then at the next firing",
            APPLY if code == NO_SUCH_TOPIC else f"gcloud {_named(job, 'run')}",
        )


def _named(item: Resource, verb: str) -> str:
    """The arguments with which gcloud does something to a resource."""
    _, project, *_, collection, name = item.name.split("/")
    if item.kind is Kind.JOB:
        location = item.name.split("/")[3]
        return f"scheduler jobs {verb} {name} --location {location} --project {project}"
    return f"pubsub {collection} {verb} {name} --project {project}"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMED])
    return shown if len(names) <= NAMED else f"{shown} and {len(names) - NAMED} more"
