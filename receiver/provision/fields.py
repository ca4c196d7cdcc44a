"""The fields of each resource that we set, and in which of them two resources differ.

Other fields are left as they are: other labels, a paused job, a schema on a topic of ours. Values are compared by their meaning ("10s" and "10.0s",
the text inside base64, `utc` and `Etc/UTC`), and shown in that form. A field that Google cannot change is `fixed`.

Invariant: `differences(wanted, wanted) == ()`, and an update of the top-level fields that `mask` names leads there.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from receiver.provision.resources import Kind, Resource
from receiver.provision.scope import ENVIRONMENT_LABEL, NAMESPACE_LABEL, SERVICE_LABEL

_UTC: Final = frozenset({"utc", "etc/utc", "gmt", "etc/gmt"})


@dataclass(frozen=True, slots=True)
class Difference:
    """One field of a resource that differs: the observed and the desired value, in words; None: absent."""

    field: str
    old: str | None
    new: str | None
    fixed: str | None = None
    """For a field that cannot be changed: the effect of the wrong value. None for other fields."""

    def __str__(self) -> str:
        return f"{self.field}: {self.old or 'none'} → {self.new or 'none'}"


def _words(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)


@dataclass(frozen=True, slots=True)
class Field:
    """A field that we set: its path, and how to write its value in words. `absent` stands for a value that is not there."""

    path: str
    read: Callable[[Any], str | None] = _words
    fixed: str | None = None
    absent: str | None = None

    @property
    def top(self) -> str:
        """The field's first part, for an update mask. The emulator refuses deeper paths."""
        return self.path.partition(".")[0]

    def of(self, body: Mapping[str, Any]) -> str | None:
        """Its value in a body, in words."""
        value: Any = body
        for key in self.path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        return self.absent if value is None else self.read(value)


def differences(wanted: Resource, found: Resource) -> tuple[Difference, ...]:
    """The fields in which the found resource differs from the wanted one."""
    pairs = ((field, field.of(found.body), field.of(wanted.body)) for field in FIELDS[wanted.kind])
    return tuple(Difference(field.path, old, new, field.fixed) for field, old, new in pairs if old != new)


def mask(kind: Kind, changed: tuple[Difference, ...]) -> tuple[str, ...]:
    """The top-level fields that an update must name: all of ours when only the state is wrong."""
    wrong = {difference.field.partition(".")[0] for difference in changed}
    tops = dict.fromkeys(field.top for field in FIELDS[kind] if field.fixed is None and field.top != STATE)
    return tuple(top for top in tops if top in wrong or STATE in wrong)


def merged(wanted: Resource, found: Resource, names: tuple[str, ...]) -> dict[str, Any]:
    """The body of an update: the wanted fields, and the labels of others beside ours."""
    body = {name: wanted.body[name] for name in names if name in wanted.body}
    if "labels" in body:
        body["labels"] = {**found.body.get("labels", {}), **body["labels"]}
    return body


def _set(_: Any) -> str:
    return "set"


def _unwrapped(value: Any) -> str | None:
    return "with metadata" if value.get("writeMetadata") else "without metadata"


def _sources(value: Any) -> str | None:
    """Where a topic takes in messages from. Its settings of logs alone take in nothing."""
    return ", ".join(sorted(value.keys() - {"platformLogsSettings"})) or None


def _transforms(value: Any) -> str | None:
    """The kinds of the transforms, in their order; a disabled one may be enabled again."""
    kinds = (", ".join(sorted(one.keys() - {"disabled", "enabled"})) or "unknown" for one in value)
    return "; ".join(kinds) or None


def _duration(value: str) -> str:
    """`10s` for `10.000s`."""
    return f"{float(value.removesuffix('s')):.12g}s"


def _expiry(value: Any) -> str | None:
    return f"after {value['ttl']} idle" if value.get("ttl") else "never"


def _zone(value: str) -> str:
    return "UTC" if value.lower() in _UTC else value


def _payload(value: str) -> str:
    return base64.b64decode(value).decode(errors="backslashreplace")


def _mapping(value: Any) -> str | None:
    return " ".join(f"{key}={text}" for key, text in sorted(value.items())) or None


STATE: Final = "state"
_LABELS: Final = tuple(Field(f"labels.{key}") for key in (ENVIRONMENT_LABEL, NAMESPACE_LABEL, SERVICE_LABEL))

FIELDS: Final[Mapping[Kind, tuple[Field, ...]]] = {
    Kind.TOPIC: (
        Field("ingestionDataSourceSettings", _sources),
        Field("messageTransforms", _transforms),
        *_LABELS,
    ),
    Kind.SUBSCRIPTION: (
        Field("topic", fixed="it receives nothing of this topic"),
        Field("filter", fixed="it drops messages that do not match"),
        Field("detached", lambda value: "yes" if value else None, "it receives nothing any more"),
        Field("bigqueryConfig", _set, "it writes to BigQuery instead"),
        Field("bigtableConfig", _set, "it writes to Bigtable instead"),
        Field("cloudStorageConfig", _set, "it writes to Cloud Storage instead"),
        Field("pushConfig.pushEndpoint"),
        Field("pushConfig.oidcToken.serviceAccountEmail"),
        Field("pushConfig.oidcToken.audience"),
        Field("pushConfig.noWrapper", _unwrapped),
        Field("pushConfig.attributes.x-goog-version", lambda value: None if value == "v1" else value),
        Field("messageTransforms", _transforms),
        Field("ackDeadlineSeconds", absent="0"),
        Field("retryPolicy.minimumBackoff", _duration),
        Field("retryPolicy.maximumBackoff", _duration),
        Field("deadLetterPolicy.deadLetterTopic"),
        Field("deadLetterPolicy.maxDeliveryAttempts"),
        Field("messageRetentionDuration", _duration),
        Field("expirationPolicy", _expiry, absent="after 31 idle days (default)"),
        *_LABELS,
    ),
    Kind.JOB: (
        Field("description"),
        Field("schedule"),
        Field("timeZone", _zone, absent="UTC"),
        Field("pubsubTarget.topicName"),
        Field("pubsubTarget.data", _payload),
        Field("pubsubTarget.attributes", _mapping),
        Field("retryConfig.retryCount", absent="0"),
        Field("retryConfig.minBackoffDuration", _duration),
        Field("retryConfig.maxBackoffDuration", _duration),
        Field("retryConfig.maxRetryDuration", _duration, absent="0s"),
        # A job whose last update failed stays broken until an update succeeds. Other states are not ours to change.
        Field(STATE, lambda value: value if value == "UPDATE_FAILED" else None),
    ),
}
"""The fields that are compared, in the order in which they are shown."""

UNOWNED_ONLY: Final = (
    Field("kmsKeyName", fixed="who has the key can stop its messages"),
    Field("schemaSettings.schema", fixed="who has the schema decides which messages it takes"),
)
"""What a topic without an owner must not have: on one of ours they are an operator's choice, which stays."""


def held_by(found: Resource) -> tuple[Difference, ...]:
    """What somebody else may hold a topic by, if it becomes ours as it is."""
    read = ((field, field.of(found.body)) for field in UNOWNED_ONLY if found.kind is Kind.TOPIC)
    return tuple(Difference(field.path, old, None, field.fixed) for field, old in read if old is not None)
