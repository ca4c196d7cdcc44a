"""The fields of each resource that we set, and in which of them two resources differ.

Other fields are left as they are: other labels, a paused job, a schema on a topic of ours. Values are compared by their meaning ("10s" and "10.0s",
the text inside base64, `utc` and `Etc/UTC`), and shown in that form. A field that Google cannot change is `fixed`.

Invariant: `differences(wanted, wanted) == ()`, and an update of the top-level fields that `mask` names leads there.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from receiver.provision.resources import Kind, Resource
from receiver.provision.scope import ENVIRONMENT_LABEL, NAMESPACE_LABEL, SERVICE_LABEL

NEVER: Final = "never"
_UTC: Final = frozenset(
    {"utc", "etc/utc", "gmt", "etc/gmt", "etc/universal", "universal", "zulu", "etc/zulu"}
)


@dataclass(frozen=True, slots=True)
class Difference:
    """One field of a resource that differs: the observed and the desired value, in words; None: absent."""

    field: str
    old: str | None
    new: str | None
    fixed: str | None = None
    """For a field that cannot be changed: the effect of the wrong value. None for other fields."""

    def __str__(self) -> str:
        return f"{self.field}: {_shown(self.old)} → {_shown(self.new)}"


@dataclass(frozen=True, slots=True)
class Field:
    """A field that we set: its path, and how to write its value in words. `read` gets None for an absent field."""

    path: str
    read: Callable[[Any], str | None]
    fixed: str | None = None

    @property
    def top(self) -> str:
        """The field's first part, for an update mask. The emulator refuses deeper paths."""
        return self.path.partition(".")[0]

    def of(self, body: Mapping[str, Any]) -> str | None:
        """Its value in a body, in words."""
        value: Any = body
        for key in self.path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        return self.read(value)


def differences(wanted: Resource, found: Resource) -> tuple[Difference, ...]:
    """The fields in which the found resource differs from the wanted one."""
    pairs = ((field, field.of(found.body), field.of(wanted.body)) for field in FIELDS[wanted.kind])
    return tuple(Difference(field.path, old, new, field.fixed) for field, old, new in pairs if old != new)


def mask(kind: Kind, changed: tuple[Difference, ...]) -> tuple[str, ...]:
    """The top-level fields that an update must name: all of ours when only the state is wrong."""
    paths = {difference.field for difference in changed}
    tops = dict.fromkeys(field.top for field in FIELDS[kind] if field.fixed is None and field.top != STATE)
    if STATE in paths:
        return tuple(tops)
    return tuple(top for top in tops if any(path.partition(".")[0] == top for path in paths))


def merged(wanted: Resource, found: Resource, names: tuple[str, ...]) -> dict[str, Any]:
    """The body of an update: the wanted fields, and the labels of others beside ours."""
    body = {name: wanted.body[name] for name in names if name in wanted.body}
    if "labels" in body:
        body["labels"] = {**found.body.get("labels", {}), **body["labels"]}
    return body


def _shown(value: str | None) -> str:
    return "none" if value is None else value


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _flag(value: Any) -> str | None:
    return "yes" if value else None


def _present(value: Any) -> str | None:
    return None if value is None else "set"


def _unwrapped(value: Any) -> str | None:
    if value is None:
        return None
    return "with metadata" if value.get("writeMetadata") else "without metadata"


def _filter(value: Any) -> str | None:
    return str(value) if value else None


def _sources(value: Any) -> str | None:
    """Where a topic takes in messages from. Its settings of logs alone take in nothing."""
    return ", ".join(sorted(value.keys() - {"platformLogsSettings"})) or None if value else None


def _transforms(value: Any) -> str | None:
    """The kinds of the transforms, in their order; a disabled one may be enabled again."""
    kinds = (", ".join(sorted(one.keys() - {"disabled", "enabled"})) or "unknown" for one in value or ())
    return "; ".join(kinds) or None


def _version(value: Any) -> str | None:
    return None if value in {None, "v1"} else str(value)


def _duration(value: Any) -> str | None:
    """A duration as `"10s"`, in any of Google's forms; zero when it is left out of a message that exists."""
    if value is None:
        return None
    try:
        seconds = float(str(value).removesuffix("s"))
    except ValueError:
        return str(value)
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def _limit(value: Any) -> str | None:
    return _duration("0s" if value is None else value)


def _expiry(value: Any) -> str | None:
    """`{}` is never; nothing at all is Google's default, 31 idle days."""
    if value is None:
        return "after 31 idle days (default)"
    return f"after {value['ttl']} idle" if value.get("ttl") else NEVER


def _zone(value: Any) -> str | None:
    return "UTC" if value is None or str(value).lower() in _UTC else str(value)


def _payload(value: Any) -> str | None:
    if value is None:
        return None
    try:
        return base64.b64decode(value, validate=True).decode(errors="backslashreplace")
    except (binascii.Error, ValueError):
        return str(value)


def _mapping(value: Any) -> str | None:
    return " ".join(f"{key}={text}" for key, text in sorted(value.items())) if value else None


def _count(value: Any) -> str | None:
    return str(value or 0)


def _state(value: Any) -> str | None:
    """A job whose last update failed stays broken until an update succeeds; any other state is not ours to change."""
    return "UPDATE_FAILED" if value == "UPDATE_FAILED" else None


STATE: Final = "state"
_LABELS: Final = tuple(
    Field(f"labels.{key}", _text) for key in (ENVIRONMENT_LABEL, NAMESPACE_LABEL, SERVICE_LABEL)
)

FIELDS: Final[Mapping[Kind, tuple[Field, ...]]] = {
    Kind.TOPIC: (
        Field("ingestionDataSourceSettings", _sources),
        Field("messageTransforms", _transforms),
        *_LABELS,
    ),
    Kind.SUBSCRIPTION: (
        Field("topic", _text, "it receives nothing of this topic"),
        Field("filter", _filter, "it drops messages that do not match"),
        Field("detached", _flag, "it receives nothing any more"),
        Field("bigqueryConfig", _present, "it writes to BigQuery instead"),
        Field("bigtableConfig", _present, "it writes to Bigtable instead"),
        Field("cloudStorageConfig", _present, "it writes to Cloud Storage instead"),
        Field("pushConfig.pushEndpoint", _filter),
        Field("pushConfig.oidcToken.serviceAccountEmail", _text),
        Field("pushConfig.oidcToken.audience", _text),
        Field("pushConfig.noWrapper", _unwrapped),
        Field("pushConfig.attributes.x-goog-version", _version),
        Field("messageTransforms", _transforms),
        Field("ackDeadlineSeconds", _count),
        Field("retryPolicy.minimumBackoff", _duration),
        Field("retryPolicy.maximumBackoff", _duration),
        Field("deadLetterPolicy.deadLetterTopic", _text),
        Field("deadLetterPolicy.maxDeliveryAttempts", _text),
        Field("messageRetentionDuration", _duration),
        Field("expirationPolicy", _expiry),
        *_LABELS,
    ),
    Kind.JOB: (
        Field("description", _filter),
        Field("schedule", _text),
        Field("timeZone", _zone),
        Field("pubsubTarget.topicName", _text),
        Field("pubsubTarget.data", _payload),
        Field("pubsubTarget.attributes", _mapping),
        Field("retryConfig.retryCount", _count),
        Field("retryConfig.minBackoffDuration", _duration),
        Field("retryConfig.maxBackoffDuration", _duration),
        Field("retryConfig.maxRetryDuration", _limit),
        Field(STATE, _state),
    ),
}
"""The fields that are compared, in the order in which they are shown."""

UNOWNED_ONLY: Final = (
    Field("kmsKeyName", _text, "who has the key can stop its messages"),
    Field("schemaSettings.schema", _text, "who has the schema decides which messages it takes"),
)
"""What a topic without an owner must not have: on one of ours they are an operator's choice, which stays."""


def held_by(found: Resource) -> tuple[Difference, ...]:
    """What somebody else may hold a topic by, if it becomes ours as it is."""
    read = ((field, field.of(found.body)) for field in UNOWNED_ONLY if found.kind is Kind.TOPIC)
    return tuple(Difference(field.path, old, None, field.fixed) for field, old in read if old is not None)
