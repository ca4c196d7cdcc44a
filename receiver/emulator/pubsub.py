"""A local Pub/Sub: the part of its REST API that this project uses, as an ASGI app over a `Broker`.

Whatever honours `PUBSUB_EMULATOR_HOST` works against it unchanged: topics, subscriptions, publish, pull, acknowledge,
push configuration, PATCH with an update mask, dead-letter policies, errors in Google's JSON form. It also serves the
certificate that its tokens are signed with (`/oauth2/v1/certs`), so that the real verifier checks them.

Pushing is `receiver.emulator.pushing`'s.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import Route

from receiver.emulator.broker import Broker, Published
from receiver.emulator.browsers import NoBrowsers
from receiver.emulator.rules import (
    MAX_PUBLISH_BYTES,
    SUBSCRIPTION_MASKS,
    TOPIC_MASKS,
    GoogleError,
    check_message,
    checked,
    patched,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.requests import Request

    from receiver.emulator.backlog import Owed, Subscription
    from receiver.emulator.signer import Signer

T = TypeVar("T")

CERTS_PATH: Final = "/oauth2/v1/certs"
MAX_PUBLISH_MESSAGES: Final = 1000
PAGE_SIZE: Final = 100
LONGEST_PAGE: Final = 1000

_ID: Final = re.compile(r"(?!goog)[A-Za-z][A-Za-z0-9\-_.~+%]{2,254}")
_CODES: Final = {"INVALID_ARGUMENT": 400, "OUT_OF_RANGE": 400, "NOT_FOUND": 404, "ALREADY_EXISTS": 409}


def create_pubsub(broker: Broker, signer: Signer | None = None) -> Starlette:
    """The app. Without a signer it serves no certificates."""
    api = _Api(broker)

    async def certificates(_: Request) -> Response:
        keys = signer.certificates() if signer is not None else {}
        return _json(keys, headers={"cache-control": "public, max-age=3600"})

    project = "/v1/projects/{project}"
    return Starlette(
        middleware=[Middleware(NoBrowsers)],
        routes=[
            Route(CERTS_PATH, certificates),
            Route(f"{project}/topics", _answering(api.list_topics)),
            Route(f"{project}/topics/{{id}}/subscriptions", _answering(api.topic_subscriptions)),
            Route(f"{project}/topics/{{id}}:publish", _answering(api.publish), methods=["POST"]),
            Route(
                f"{project}/topics/{{id}}", _answering(api.topic), methods=["GET", "PUT", "PATCH", "DELETE"]
            ),
            Route(f"{project}/subscriptions", _answering(api.list_subscriptions)),
            Route(f"{project}/subscriptions/{{id}}:{{verb}}", _answering(api.act), methods=["POST"]),
            Route(
                f"{project}/subscriptions/{{id}}",
                _answering(api.subscription),
                methods=["GET", "PUT", "PATCH", "DELETE"],
            ),
        ],
    )


class _Api:
    """One method a resource; each takes the request and its decoded body, and returns what is answered."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def topic(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        name = _name(request, "topics")
        known = self._broker.topics.get(name)
        match request.method:
            case "PUT":
                if known is not None:
                    raise GoogleError("ALREADY_EXISTS", "Topic already exists")
                self._broker.put_topic(name, {**body, "name": name})
            case "PATCH":
                changed = patched(_topic(self._broker, name), body, "topic", TOPIC_MASKS)
                self._broker.put_topic(name, changed)
            case "DELETE":
                _topic(self._broker, name)
                self._broker.delete_topic(name)
                return {}
            case _:
                pass
        return _topic(self._broker, name)

    async def list_topics(self, request: Request, _: dict[str, Any]) -> dict[str, Any]:
        prefix = f"projects/{request.path_params['project']}/topics/"
        names = sorted(name for name in self._broker.topics if name.startswith(prefix))
        page, token = _page(request, names)
        return {"topics": [self._broker.topics[name] for name in page], **token}

    async def topic_subscriptions(self, request: Request, _: dict[str, Any]) -> dict[str, Any]:
        name = _name(request, "topics")
        _topic(self._broker, name)
        names = sorted(one.name for one in self._broker.subscriptions.values() if one.topic == name)
        page, token = _page(request, names)
        return {"subscriptions": page, **token}

    async def publish(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        name = _name(request, "topics")
        _topic(self._broker, name)
        messages = _converted(body.get("messages"), list[Published])
        if not messages:
            raise GoogleError("INVALID_ARGUMENT", "The value for messages is empty.")
        if len(messages) > MAX_PUBLISH_MESSAGES:
            raise GoogleError("INVALID_ARGUMENT", f"A request holds at most {MAX_PUBLISH_MESSAGES} messages.")
        for message in messages:
            check_message(message)
        return {"messageIds": self._broker.publish(name, messages)}

    async def subscription(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        name = _name(request, "subscriptions")
        known = self._broker.subscriptions.get(name)
        match request.method:
            case "PUT":
                if known is not None:
                    raise GoogleError("ALREADY_EXISTS", "Subscription already exists")
                made = checked({**body, "name": name})
                _topic(self._broker, made["topic"])
                self._broker.put_subscription(name, made)
            case "PATCH":
                current = _subscription(self._broker, name)
                changed = patched(current.body, body, "subscription", SUBSCRIPTION_MASKS)
                self._broker.put_subscription(name, checked(changed))
            case "DELETE":
                _subscription(self._broker, name)
                self._broker.delete_subscription(name)
                return {}
            case _:
                pass
        return _subscription(self._broker, name).body

    async def list_subscriptions(self, request: Request, _: dict[str, Any]) -> dict[str, Any]:
        prefix = f"projects/{request.path_params['project']}/subscriptions/"
        names = sorted(name for name in self._broker.subscriptions if name.startswith(prefix))
        page, token = _page(request, names)
        return {"subscriptions": [self._broker.subscriptions[name].body for name in page], **token}

    async def act(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        name = _name(request, "subscriptions")
        found = _subscription(self._broker, name)
        match request.path_params["verb"]:
            case "modifyPushConfig":
                self._broker.put_subscription(
                    name, checked({**found.body, "pushConfig": body.get("pushConfig", {})})
                )
                return {}
            case "pull":
                return {"receivedMessages": self._pulled(found, _converted(body.get("maxMessages", 0), int))}
            case "acknowledge":
                for owed in self._leased(found, body):
                    self._broker.ack(found, owed)
                return {}
            case "modifyAckDeadline":
                by = _converted(body.get("ackDeadlineSeconds", 0), int)
                for owed in self._leased(found, body):
                    if by:
                        self._broker.extend(found, owed, by)
                    else:
                        self._broker.nack(found, owed)
                return {}
            case verb:
                raise GoogleError("NOT_FOUND", f"There is no method {verb}.")

    def _pulled(self, subscription: Subscription, most: int) -> list[dict[str, Any]]:
        if most <= 0:
            raise GoogleError("INVALID_ARGUMENT", "The value for max_messages must be greater than 0.")
        pulled: list[dict[str, Any]] = []
        while len(pulled) < most and (owed := self._broker.take(subscription)) is not None:
            received: dict[str, Any] = {
                "ackId": self._broker.lease(subscription, owed),
                "message": _message(owed),
            }
            if subscription.dead_letter is not None:
                received["deliveryAttempt"] = owed.attempts
            pulled.append(received)
        return pulled

    def _leased(self, subscription: Subscription, body: Mapping[str, Any]) -> list[Owed]:
        ack_ids = _converted(body.get("ackIds", []), list[str])
        if not ack_ids:
            raise GoogleError("INVALID_ARGUMENT", "No ack ids specified.")
        return subscription.backlog.leased(ack_ids)


def _converted(value: Any, kind: type[T]) -> T:
    """A part of the body as what it must be."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise GoogleError("INVALID_ARGUMENT", f"Invalid JSON payload received. {error}") from None


def _answering(
    act: Callable[[Request, dict[str, Any]], Awaitable[dict[str, Any]]],
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            return _json(await act(request, await _decoded(request)))
        except GoogleError as error:
            code = _CODES[error.status]
            return _json({"error": {"code": code, "message": error.message, "status": error.status}}, code)

    return endpoint


async def _decoded(request: Request) -> dict[str, Any]:
    text = await request.body()
    if len(text) > MAX_PUBLISH_BYTES * 4 // 3 + 100_000:
        raise GoogleError(
            "INVALID_ARGUMENT", f"Request payload size exceeds the limit: {MAX_PUBLISH_BYTES} bytes."
        )
    try:
        return msgspec.json.decode(text or b"{}", type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise GoogleError("INVALID_ARGUMENT", f"Invalid JSON payload received. {error}") from None


def _json(value: object, code: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), code, media_type="application/json", headers=headers)


def _name(request: Request, kind: str) -> str:
    name = request.path_params["id"]
    if not _ID.fullmatch(name):
        raise GoogleError("INVALID_ARGUMENT", f"Invalid [{kind}] name: {name!r}.")
    return f"projects/{request.path_params['project']}/{kind}/{name}"


def _topic(broker: Broker, name: str) -> dict[str, Any]:
    if name not in broker.topics:
        raise GoogleError("NOT_FOUND", f"Topic not found (resource={name.rpartition('/')[2]}).")
    return broker.topics[name]


def _subscription(broker: Broker, name: str) -> Subscription:
    if name not in broker.subscriptions:
        raise GoogleError("NOT_FOUND", f"Subscription does not exist (resource={name.rpartition('/')[2]}).")
    return broker.subscriptions[name]


def _page(request: Request, names: list[str]) -> tuple[list[str], dict[str, str]]:
    wanted = request.query_params.get("pageSize") or "0"
    if not wanted.isdigit():
        raise GoogleError("INVALID_ARGUMENT", "Invalid page_size given: it must be a whole number.")
    size = min(int(wanted[:9]), LONGEST_PAGE) or PAGE_SIZE
    after = request.query_params.get("pageToken", "")
    rest = [name for name in names if name > after]
    page = rest[:size]
    return page, ({"nextPageToken": page[-1]} if len(rest) > size else {})


def _message(owed: Owed) -> dict[str, Any]:
    message = owed.message
    made: dict[str, Any] = {"messageId": message.message_id, "publishTime": message.publish_time}
    if message.data:
        made["data"] = message.data
    if message.attributes:
        made["attributes"] = message.attributes
    if message.ordering_key:
        made["orderingKey"] = message.ordering_key
    return made
