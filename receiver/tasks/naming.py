"""The names of topics, subscriptions and scheduler jobs.

Invariant: Pub/Sub and Cloud Scheduler accept every name, and two tasks never share one. A short and plain path is used
unchanged. Any other path is cut, its odd characters become `_`, and `-` plus ten hex digits of the SHA-256 of the whole
path are added. A plain path that ends like such a digest gets a digest too, so that the two forms never collide.

Next: `receiver.tasks.route` has these names as properties; provisioning creates the resources.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

TOPIC_LIMIT: Final = 251
"""Pub/Sub allows 255 characters; the subscription's `-sub` takes four."""

JOB_LIMIT: Final = 500
"""Cloud Scheduler's limit for a job id."""

_DIGITS: Final = 10
_LOOKS_HASHED: Final = re.compile(rf"[-.][0-9a-f]{{{_DIGITS}}}\Z")


def topic_prefix(environment: str, namespace: str) -> str:
    """The prefix of the topics and subscriptions of one receiver's tasks. It is unique: neither part contains `--`."""
    return f"{environment}--{namespace}.tasks--"


def topic_name(environment: str, namespace: str, path: str) -> str:
    """The topic of a task, `{environment}--{namespace}.tasks--{path}`, at most 251 characters.

    Args:
        environment: as `Settings.environment`, already checked (so is `namespace`).
        namespace: the middle part.
        path: the task's full module path.
    """
    return _for_pubsub(topic_prefix(environment, namespace), path)


def subscription_name(topic: str) -> str:
    """The push subscription of a topic."""
    return f"{topic}-sub"


def foreign_prefix(environment: str, namespace: str) -> str:
    """The prefix of the subscriptions of one receiver on topics that are not its own. No topic of ours begins like that."""
    return f"{environment}--{namespace}.foreign--"


def foreign_subscription_name(environment: str, namespace: str, path: str) -> str:
    """The push subscription of a task on a topic that is not its own, `{environment}--{namespace}.foreign--{path}-sub`."""
    return subscription_name(_for_pubsub(foreign_prefix(environment, namespace), path))


def scheduler_job_name(environment: str, namespace: str, path: str) -> str:
    """The scheduler job of a task, `{environment}--{namespace}-scheduler--{path}`, with hyphens for dots.

    At most 500 characters. A job id cannot contain a dot. If environment or namespace have one, the digest is of the
    whole name, so that the names of `a.b` and `a-b` differ.
    """
    whole = f"{environment}--{namespace}-scheduler--{path}"
    prefix = scheduler_job_prefix(environment, namespace)
    dotted = "." in environment or "." in namespace
    # Hyphens are odd here: `a.b` becomes `a-b`, so the path `a-b` needs a digest.
    if not dotted and _is_plain(path, r"[A-Za-z0-9_.]+", JOB_LIMIT - len(prefix)):
        return prefix + path.replace(".", "-")
    slug = re.sub(r"[^A-Za-z0-9_-]", "_", path.replace(".", "-"))
    return _hashed(prefix, slug, whole if dotted else path, JOB_LIMIT)


def scheduler_job_prefix(environment: str, namespace: str) -> str:
    """The prefix of the scheduler jobs of one receiver.

    It is not unique: `a.b` and `a-b` have the same prefix, and that of `shop` is also the beginning of that of
    `shop-scheduler-`. The description of a job names its owner.
    """
    return f"{environment}--{namespace}-scheduler--".replace(".", "-")


def dead_letter_topic_name(environment: str, namespace: str) -> str:
    """The topic for messages that no subscription of this receiver could deliver."""
    return f"{environment}--{namespace}.dead-letters"


def _for_pubsub(prefix: str, path: str) -> str:
    if _is_plain(path, r"[A-Za-z0-9_.~+%-]+", TOPIC_LIMIT - len(prefix)):
        return prefix + path
    return _hashed(prefix, re.sub(r"[^A-Za-z0-9_.~+%-]", "_", path), path, TOPIC_LIMIT)


def _is_plain(path: str, allowed: str, room: int) -> bool:
    return len(path) <= room and bool(re.fullmatch(allowed, path)) and not _LOOKS_HASHED.search(path)


def _hashed(prefix: str, slug: str, identity: str, limit: int) -> str:
    digest = hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
    room = limit - len(prefix) - 1 - _DIGITS
    return f"{prefix}{slug[:room]}-{digest}"
