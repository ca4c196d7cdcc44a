"""The REST API of the local Pub/Sub, as an ASGI app over a `Broker`: the part that this project uses.

Clients that honour `PUBSUB_EMULATOR_HOST` work against it unchanged: topics, subscriptions, publish, pull, acknowledge,
push configuration, PATCH with an update mask, dead-letter policies, errors in Google's JSON form. It also serves the
public half of its signing key (`/oauth2/v3/certs`), so that the receiver verifies tokens as in the cloud.

Next: `receiver.emulator.rules` refuses what Pub/Sub refuses; `receiver.emulator.pushing` pushes what is published.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from receiver.emulator.backlog import PubsubMessage
from receiver.emulator.broker import Broker
from receiver.emulator.rules import (
    MAX_PUBLISH_BYTES,
    SUBSCRIPTION_MASKS,
    TOPIC_MASKS,
    ApiError,
    check_message,
    checked,
    converted,
    patched,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.requests import Request

    from receiver.emulator.backlog import Unacked
    from receiver.emulator.signer import Signer
    from receiver.emulator.subscriptions import Subscription

OIDC_CERTS_PATH: Final = "/oauth2/v3/certs"
MAX_PUBLISH_MESSAGES: Final = 1000

_ID: Final = re.compile(r"(?!goog)[A-Za-z][A-Za-z0-9\-_.~+%]{2,254}")


def create_api(broker: Broker, secret: str, signer: Signer | None = None) -> Starlette:
    """The app. Without a signer it serves no certificates.

    Args:
        secret: letters and digits, the path before those of the API. It is part of `PUBSUB_EMULATOR_HOST`, so that clients send it
            unchanged. Other accounts of this machine and pages in a browser reach the port too, and do not know it.
    """
    api = _Api(broker)
    project = f"/{secret}/v1/projects/{{project}}"
    resource = ["GET", "PUT", "PATCH", "DELETE"]
    return Starlette(
        routes=[
            certificates_route(OIDC_CERTS_PATH, signer),
            Route(f"{project}/topics", _answering(api.list_topics)),
            Route(f"{project}/topics/{{id}}/subscriptions", _answering(api.topic_subscriptions)),
            Route(f"{project}/topics/{{id}}:publish", _answering(api.publish), methods=["POST"]),
            Route(f"{project}/topics/{{id}}", _answering(api.topic), methods=resource),
            Route(f"{project}/subscriptions", _answering(api.list_subscriptions)),
            Route(f"{project}/subscriptions/{{id}}:{{verb}}", _answering(api.act), methods=["POST"]),
            Route(f"{project}/subscriptions/{{id}}", _answering(api.subscription), methods=resource),
        ],
    )


def certificates_route(path: str, signer: Signer | None) -> Route:
    """Serves the signer's public key, in the form of Google's v3 address."""

    async def certificates(_: Request) -> Response:
        keys = signer.keys() if signer is not None else {"keys": []}
        return _json(keys, headers={"cache-control": "public, max-age=3600"})

    return Route(path, certificates)


class _Api:
    """One method for each route: takes the request and its decoded body, returns the body of the answer."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def topic(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        name = _name(request, "topics")
        if request.method == "PUT":
            if name in self._broker.topics:
                raise ApiError("Topic already exists", "ALREADY_EXISTS")
            self._broker.put_topic(name, {**body, "name": name})
        known = _topic(self._broker, name)
        if request.method == "PATCH":
            self._broker.put_topic(name, patched(known, body, "topic", TOPIC_MASKS))
        elif request.method == "DELETE":
            self._broker.delete_topic(name)
            return {}
        return self._broker.topics[name]

    async def list_topics(self, request: Request, _: dict[str, Any]) -> dict[str, Any]:
        return _of_project(request, "topics", self._broker.topics)

    async def topic_subscriptions(self, request: Request, _: dict[str, Any]) -> dict[str, Any]:
        name = _name(request, "topics")
        _topic(self._broker, name)
        found = self._broker.subscriptions.values()
        return {"subscriptions": sorted(one.name for one in found if one.settings.topic == name)}

    async def publish(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        name = _name(request, "topics")
        _topic(self._broker, name)
        messages = converted(body.get("messages"), list[PubsubMessage])
        if not messages:
            raise ApiError("The value for messages is empty.")
        if len(messages) > MAX_PUBLISH_MESSAGES:
            raise ApiError(f"A request holds at most {MAX_PUBLISH_MESSAGES} messages.")
        for message in messages:
            check_message(message)
        return {"messageIds": self._broker.publish(name, messages)}

    async def subscription(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        name = _name(request, "subscriptions")
        if request.method == "PUT":
            if name in self._broker.subscriptions:
                raise ApiError("Subscription already exists", "ALREADY_EXISTS")
            made = checked({**body, "name": name})
            _topic(self._broker, made["topic"])
            self._broker.put_subscription(name, made)
        known = _subscription(self._broker, name)
        if request.method == "PATCH":
            changed = patched(known.body, body, "subscription", SUBSCRIPTION_MASKS)
            self._broker.put_subscription(name, checked(changed))
        elif request.method == "DELETE":
            self._broker.delete_subscription(name)
            return {}
        return known.body

    async def list_subscriptions(self, request: Request, _: dict[str, Any]) -> dict[str, Any]:
        bodies = {name: one.body for name, one in self._broker.subscriptions.items()}
        return _of_project(request, "subscriptions", bodies)

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
                return {"receivedMessages": self._pulled(found, converted(body.get("maxMessages", 0), int))}
            case "acknowledge":
                for unacked in self._leased(found, body):
                    self._broker.ack(found, unacked)
                return {}
            case "modifyAckDeadline":
                by = converted(body.get("ackDeadlineSeconds", 0), int)
                for unacked in self._leased(found, body):
                    if by:
                        self._broker.lease(found, unacked, by)
                    else:
                        self._broker.nack(found, unacked)
                return {}
            case verb:
                raise ApiError(f"There is no method {verb}.", "NOT_FOUND")

    def _pulled(self, subscription: Subscription, most: int) -> list[dict[str, Any]]:
        if most <= 0:
            raise ApiError("The value for max_messages must be greater than 0.")
        pulled: list[dict[str, Any]] = []
        while len(pulled) < most and (unacked := self._broker.take(subscription)) is not None:
            received: dict[str, Any] = {
                "ackId": self._broker.lease(subscription, unacked),
                "message": msgspec.to_builtins(unacked.message),
            }
            if subscription.settings.dead_letter_policy is not None:
                received["deliveryAttempt"] = unacked.attempts
            pulled.append(received)
        return pulled

    def _leased(self, subscription: Subscription, body: Mapping[str, Any]) -> list[Unacked]:
        ack_ids = converted(body.get("ackIds", []), list[str])
        if not ack_ids:
            raise ApiError("No ack ids specified.")
        return subscription.backlog.leased(ack_ids)


def _answering(
    act: Callable[[Request, dict[str, Any]], Awaitable[dict[str, Any]]],
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            return _json(await act(request, await _decoded(request)))
        except ApiError as error:
            body = {"code": error.code, "message": str(error), "status": error.status}
            return _json({"error": body}, error.code)

    return endpoint


async def _decoded(request: Request) -> dict[str, Any]:
    text = await request.body()
    if len(text) > MAX_PUBLISH_BYTES * 4 // 3 + 100_000:
        raise ApiError(f"Request payload size exceeds the limit: {MAX_PUBLISH_BYTES} bytes.")
    try:
        return msgspec.json.decode(text or b"{}", type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ApiError(f"Invalid JSON payload received. {error}") from None


def _json(value: object, code: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), code, media_type="application/json", headers=headers)


def _name(request: Request, kind: str) -> str:
    name = request.path_params["id"]
    if not _ID.fullmatch(name):
        raise ApiError(f"Invalid [{kind}] name: {name!r}.")
    return f"projects/{request.path_params['project']}/{kind}/{name}"


def _topic(broker: Broker, name: str) -> dict[str, Any]:
    if name not in broker.topics:
        raise ApiError(f"Topic not found (resource={name.rpartition('/')[2]}).", "NOT_FOUND")
    return broker.topics[name]


def _subscription(broker: Broker, name: str) -> Subscription:
    if name not in broker.subscriptions:
        raise ApiError(f"Subscription does not exist (resource={name.rpartition('/')[2]}).", "NOT_FOUND")
    return broker.subscriptions[name]


def _of_project(request: Request, kind: str, bodies: Mapping[str, Any]) -> dict[str, Any]:
    """The project's resources, in one page."""
    prefix = f"projects/{request.path_params['project']}/{kind}/"
    return {kind: [bodies[name] for name in sorted(bodies) if name.startswith(prefix)]}
