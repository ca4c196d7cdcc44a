"""Rules for resources: their differences from the plan of provisioning, and their own faults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from receiver.doctor.findings import Rule, Severity
from receiver.provision.desired import MAKES_TOKENS, PUBLISHER, SUBSCRIBER
from receiver.provision.planning import ChangeRefused, Create, Delete, Kept, Paused, Update
from receiver.provision.resources import Kind

if TYPE_CHECKING:
    from receiver.doctor.google_look import Provisioned, Roles
    from receiver.provision.resources import Grant, Resource

E = TypeVar("E", Delete, Kept, Paused, ChangeRefused)

APPLY: Final = "receiver provision --apply"
NAMED: Final = 3
"""Resources that a finding names; of the others it says the number."""

NO_SUCH_TOPIC: Final = 5
"""NOT_FOUND: Cloud Scheduler's status for a firing whose topic does not exist."""

_MISSING: Final = {
    Kind.TOPIC: "enqueuing fails, because its messages cannot be published",
    Kind.SUBSCRIPTION: "messages that are published for it are never delivered",
    Kind.JOB: "its schedule never fires",
}


def _missing(seen: Provisioned) -> Iterator[Mapping[str, str]]:
    """One finding a kind."""
    for kind, why in _MISSING.items():
        entries = seen.plan.entries
        names = [one.item.id for one in entries if isinstance(one, Create) and one.item.kind is kind]
        if names:
            many = f"there are no {len(names)} {kind}s {_some(names)}"
            yield {"what": f"there is no {kind} {names[0]}" if len(names) == 1 else many, "why": why}


def _is_pulled(entry: Update) -> bool:
    """Whether it is a subscription without a push endpoint. Those of tasks that are ours are `Paused`."""
    return any(one.field == "pushConfig.pushEndpoint" and one.old is None for one in entry.differences)


def _pulled(seen: Provisioned) -> Iterator[str]:
    for entry in seen.plan.entries:
        if isinstance(entry, Update) and _is_pulled(entry):
            yield entry.item.id


def _drifted(fields: Sequence[str], seen: Provisioned) -> Iterator[str]:
    """One finding for each resource in which some of these fields differ. No fields: the fields that no other rule has."""
    for entry in seen.plan.entries:
        if isinstance(entry, Update):
            named = [
                str(one)
                for one in entry.differences
                if not (one.field.startswith("pushConfig.") and _is_pulled(entry))
                and not (
                    one.field.startswith("pushConfig.oidcToken.") and one.new is None
                )  # nobody checks it
                and (one.field in fields if fields else one.field not in _NAMED_FIELDS)
            ]
            if named:
                yield f"{entry.item.kind} {entry.item.id}: {', '.join(named)}"


_DRIFT: Final[tuple[tuple[Severity, str, list[str], str], ...]] = (
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
_NAMED_FIELDS: Final = frozenset(field for _, _, fields, _ in _DRIFT for field in fields)


def _entries(kind: type[E], seen: Provisioned) -> list[E]:
    return [entry for entry in seen.plan.entries if isinstance(entry, kind)]


def _refused(seen: Provisioned) -> Iterator[Mapping[str, object]]:
    for entry in _entries(ChangeRefused, seen):
        reason, _, mend = entry.why.rpartition("; ")
        if not reason:
            reason, mend = entry.why, "receiver provision, which says what to do"
        yield {"item": entry.item, "reason": reason, "mend": mend}


def _kept(seen: Provisioned) -> Iterator[Mapping[str, object]]:
    """Resources that no task needs. People must decide about those that provisioning never touches."""
    for entry in _entries(Kept, seen):
        prunes = "--prune" in entry.why
        mend = "receiver provision --prune --apply" if prunes else f"gcloud {_named(entry.item, 'describe')}"
        yield {"item": entry.item, "why": entry.why, "mend": mend}


def _in_state(state: str, verb: str, seen: Provisioned) -> Iterator[Mapping[str, str]]:
    """The jobs in a state, and the arguments with which gcloud does something about it."""
    for found in seen.observed.resources:
        if found.kind is Kind.JOB and found.body.get("state") == state:
            yield {"id": found.id, "mend": _named(found, verb)}


def _failing(seen: Provisioned) -> Iterator[Mapping[str, object]]:
    """The jobs whose last attempt failed."""
    for found in seen.observed.resources:
        status: Any = found.body.get("status") or {}
        if found.kind is Kind.JOB and (code := status.get("code")):
            said = " ".join(str(status.get("message", "")).split())[:200]
            yield {
                "id": found.id,
                "code": f"{code} ({said})" if said else f"{code}",
                "mend": APPLY if code == NO_SUCH_TOPIC else f"gcloud {_named(found, 'run')}",
            }


def _named(item: Resource, verb: str) -> str:
    """The arguments with which gcloud does something to a resource."""
    _, project, *_, collection, name = item.name.split("/")
    if item.kind is Kind.JOB:
        location = item.name.split("/")[3]
        return f"scheduler jobs {verb} {name} --location {location} --project {project}"
    return f"pubsub {collection} {verb} {name} --project {project}"


RESOURCE_RULES: Final[tuple[Rule[Provisioned], ...]] = (
    Rule(Severity.ERROR, "missing", _missing, "{item[what]}", "{item[why]}", APPLY),
    *(
        Rule(severity, code, partial(_drifted, fields), "{item}", why, APPLY)
        for severity, code, fields, why in _DRIFT
    ),
    Rule(
        Severity.ERROR,
        "pulled",
        _pulled,
        "subscription {item} has no push endpoint",
        "its messages reach nobody; those of the dead letters leave their executions waiting for ever",
        APPLY,
    ),
    Rule(
        Severity.WARNING,
        "paused",
        partial(_entries, Paused),
        "subscription {item.item.id} is paused: its push endpoint is empty",
        "its messages wait, and Pub/Sub drops them after 7 days",
        "receiver provision --resume --apply",
    ),
    Rule(
        Severity.WARNING,
        "orphan",
        partial(_entries, Delete),
        "{item.item.kind} {item.item.id}: {item.why}",
        "it fires for a task that does not exist, and its messages are rejected",
        APPLY,
    ),
    Rule(
        Severity.ERROR,
        "not-ours",
        _refused,
        "{item[item].kind} {item[item].id}: {item[reason]}",
        "provisioning cannot change it",
        "{item[mend]}",
    ),
    Rule(
        Severity.NOTE,
        "kept",
        _kept,
        "{item[item].kind} {item[item].id}: {item[why]}",
        "it costs little and does nothing",
        "{item[mend]}",
    ),
    Rule(
        Severity.WARNING,
        "job-paused",
        partial(_in_state, "PAUSED", "resume"),
        "scheduler job {item[id]} is paused",
        "its schedule never fires",
        "gcloud {item[mend]}",
    ),
    Rule(
        Severity.ERROR,
        "job-disabled",
        partial(_in_state, "DISABLED", "delete"),
        "scheduler job {item[id]} is disabled",
        "its schedule never fires; a job that Cloud Scheduler has disabled cannot be resumed",
        f"gcloud {{item[mend]}} --quiet && {APPLY}",
    ),
    Rule(
        Severity.ERROR,
        "job-failing",
        _failing,
        "scheduler job {item[id]}: its last attempt failed with code {item[code]}",
        "its message was not published; Cloud Scheduler tries three times, and then at the next firing",
        "{item[mend]}",
    ),
)


def _lacking(role: str, seen: Roles) -> Iterator[Mapping[str, str]]:
    """One finding, with everything that the role is missing on."""
    grants: list[Grant] = [grant for grant in seen.missing if grant.role == role]
    if grants:
        targets = [grant.target.rpartition("/")[2] for grant in grants]
        yield {
            "what": f"{grants[0].member.removeprefix('serviceAccount:')} has no {role} on {_some(targets)}"
        }


def _role(severity: Severity, role: str, why: str) -> Rule[Roles]:
    mend = "receiver provision --grant --apply"
    why = f"{why}, unless the project gives it"
    return Rule(severity, "role-missing", partial(_lacking, role), "{item[what]}", why, mend)


ROLE_RULES: Final[tuple[Rule[Roles], ...]] = (
    Rule(
        Severity.ERROR,
        "public-topic",
        lambda seen: seen.public,
        "there is {item.id}",
        "everybody can run tasks, or read their messages",
        "{item.removal}",
    ),
    _role(
        Severity.WARNING,
        PUBLISHER,
        "a message that used up its deliveries is not moved, and is delivered again",
    ),
    _role(
        Severity.WARNING,
        SUBSCRIBER,
        "a dead letter is not taken from its subscription, and is delivered again",
    ),
    _role(
        Severity.NOTE,
        MAKES_TOKENS,
        "only projects from before April 2021 need it, to make the tokens of pushes",
    ),
)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMED])
    return shown if len(names) <= NAMED else f"{shown} and {len(names) - NAMED} more"
