"""Topics and subscriptions, with Pub/Sub's limits, defaults and refusals."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tests.google_fake.discovery import Call, Refused
from tests.google_fake.paging import page

ID = re.compile(r"(?!goog)[A-Za-z][A-Za-z0-9\-_.~+%]{2,254}")
LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")
FIXED = {"name", "topic", "filter", "enableMessageOrdering"}
DELETED = "_deleted-topic_"


class Pubsub:
    """What is there, by full name."""

    def __init__(self) -> None:
        self.topics: dict[str, dict[str, Any]] = {}
        self.subscriptions: dict[str, dict[str, Any]] = {}

    def answer(self, call: Call) -> dict[str, Any]:
        kind, verb = call.method.removeprefix("pubsub.projects.").split(".")
        known = self.topics if kind == "topics" else self.subscriptions
        one = kind.removesuffix("s")
        match verb:
            case "list":
                start = f"{call.name}/{kind}/"
                return page(
                    kind, [known[name] for name in sorted(known) if name.startswith(start)], call.query, 1000
                )
            case "create":
                if not ID.fullmatch(call.name.rpartition("/")[2]):
                    raise _invalid(f"Invalid [{kind}] name: (name={call.name})")
                if call.body.get("name", call.name) != call.name:
                    raise _invalid("The name in the body is not the one in the path.")
                if call.name in known:
                    raise Refused(
                        409,
                        "ALREADY_EXISTS",
                        f"Resource already exists in the project (resource={call.name}).",
                    )
                known[call.name] = self._checked(kind, {**call.body, "name": call.name}, is_new=True)
                return known[call.name]
            case "get":
                return _found(known, call.name)
            case "patch":
                changed = _patched(_found(known, call.name), call.body, one)
                known[call.name] = self._checked(kind, changed, is_new=False)
                return known[call.name]
            case "delete":
                _found(known, call.name)
                del known[call.name]
                if kind == "topics":
                    for subscription in self.subscriptions.values():
                        if subscription["topic"] == call.name:
                            subscription["topic"] = DELETED
                return {}
            case _:
                raise Refused(501, "UNIMPLEMENTED", f"nobody has taught this {call.method}")

    def _checked(self, kind: str, body: dict[str, Any], *, is_new: bool) -> dict[str, Any]:
        for key, value in body.get("labels", {}).items():
            if not (LABEL_KEY.fullmatch(key) and LABEL_VALUE.fullmatch(value)) or len(body["labels"]) > 64:
                raise _invalid(f"Invalid label: {key}={value}")
        if kind == "topics":
            return {**body, "state": "ACTIVE"}
        if is_new and body.get("topic") not in self.topics:
            raise Refused(404, "NOT_FOUND", f"Resource not found (resource={body.get('topic')}).")
        made = {"pushConfig": {}, "messageRetentionDuration": "604800s", **body, "state": "ACTIVE"}
        made["ackDeadlineSeconds"] = made.get("ackDeadlineSeconds") or 10
        made.setdefault("expirationPolicy", {"ttl": "2678400s"})
        self._check_subscription(made)
        if made["pushConfig"].get("pushEndpoint"):
            attributes = {"x-goog-version": "v1"} | made["pushConfig"].get("attributes", {})
            made["pushConfig"] = made["pushConfig"] | {"attributes": attributes}
        return made

    def _check_subscription(self, made: Mapping[str, Any]) -> None:
        if not 10 <= made["ackDeadlineSeconds"] <= 600:
            raise _invalid("Invalid ack deadline given: it must be 10 to 600 seconds.")
        if not 600 <= _seconds(made["messageRetentionDuration"]) <= 31 * 86400:
            raise _invalid("Invalid message retention duration: it must be 10 minutes to 31 days.")
        retry = made.get("retryPolicy")
        if retry is not None:
            least, most = (
                _seconds(retry.get("minimumBackoff", "10s")),
                _seconds(retry.get("maximumBackoff", "600s")),
            )
            if not 0 <= least <= most <= 600:
                raise _invalid("Invalid retry policy: 0 to 600 seconds, the minimum not over the maximum.")
        letters = made.get("deadLetterPolicy")
        if letters is not None:
            if not 5 <= letters.get("maxDeliveryAttempts", 5) <= 100:
                raise _invalid("Invalid max delivery attempts: it must be 5 to 100.")
            if letters.get("deadLetterTopic") not in self.topics:
                raise Refused(
                    404, "NOT_FOUND", f"Resource not found (resource={letters.get('deadLetterTopic')})."
                )
        endpoint = made["pushConfig"].get("pushEndpoint", "https://none")
        if not re.match(r"https://|http://(127\.0\.0\.1|localhost)\b", endpoint):
            raise _invalid(f"Invalid push endpoint given (endpoint={endpoint}).")
        token = made["pushConfig"].get("oidcToken")
        if token is not None and "@" not in token.get("serviceAccountEmail", ""):
            raise _invalid("The oidc token has no service account email.")


def _patched(current: Mapping[str, Any], body: Mapping[str, Any], one: str) -> dict[str, Any]:
    fields = [field for field in body.get("updateMask", "").split(",") if field]
    if not fields:
        raise _invalid(
            f"The update_mask in the Update{one.title()}Request must be set, and must contain a non-empty paths list."
        )
    wanted = body.get(one, {})
    if wanted.get("name") != current["name"]:
        raise _invalid(f"The name in the body is not the one in the path: {wanted.get('name')}")
    changed = dict(current)
    for field in fields:
        top, _, inner = field.partition(".")
        if top in FIXED:
            raise _invalid(f"Invalid update_mask provided: the {top} field in the {one} is not mutable.")
        value = wanted.get(top)
        if inner:
            value = {**current.get(top, {}), inner: (value or {}).get(inner)}
        if value is None:
            changed.pop(top, None)
        else:
            changed[top] = value
    return changed


def _found(known: Mapping[str, dict[str, Any]], name: str) -> dict[str, Any]:
    if name not in known:
        raise Refused(404, "NOT_FOUND", f"Resource not found (resource={name.rpartition('/')[2]}).")
    return known[name]


def _invalid(message: str) -> Refused:
    return Refused(400, "INVALID_ARGUMENT", message)


def _seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))
