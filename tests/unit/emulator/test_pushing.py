"""The window grows and shrinks, tokens are signed once, and what is under way at the end is owed again."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from receiver.emulator.backlog import PubsubMessage
from receiver.emulator.broker import Broker
from receiver.emulator.faults import Faults, FaultSettings
from receiver.emulator.pushing import FIRST_WINDOW, LARGEST_WINDOW, LONGEST_PAUSE, Deliveries, Window
from receiver.emulator.signer import Signer
from tests.stage.endpoint import Endpoint, listening
from tests.stage.waiting import eventually

TOPIC, NAME = "projects/p/topics/t", "projects/p/subscriptions/s"


@pytest.fixture
def target() -> Iterator[Endpoint]:
    with listening() as made:
        yield made


@asynccontextmanager
async def running(
    target: Endpoint, faults: FaultSettings | None = None, signer: Signer | None = None, **fields: Any
) -> AsyncIterator[tuple[Broker, Deliveries]]:
    broker = Broker()
    broker.put_topic(TOPIC, {"name": TOPIC})
    config = {"pushEndpoint": target.url, **fields.pop("pushConfig", {})}
    broker.put_subscription(NAME, {"name": NAME, "topic": TOPIC, "pushConfig": config, **fields})
    deliveries = Deliveries(broker, signer=signer, faults=Faults(faults or FaultSettings()))
    run = asyncio.create_task(deliveries.run())
    try:
        yield broker, deliveries
    finally:
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)


def owed(broker: Broker) -> int:
    return len(broker.subscriptions[NAME].backlog)


class TestWindow:
    def test_it_grows_with_every_ack_up_to_its_largest(self) -> None:
        window = Window()
        window.acked()
        assert window.size == FIRST_WINDOW + 1
        for _ in range(100):
            window.acked()
        assert window.size == LARGEST_WINDOW

    def test_it_is_halved_by_every_nack_and_then_pauses(self) -> None:
        window, sizes = Window(), []
        for _ in range(4):
            window.nacked(0)
            sizes.append((window.size, window.pause))
        assert sizes == [(5, 0), (2, 0), (1, 0), (1, 0.1)]
        for _ in range(10):
            window.nacked(7)
        assert (window.pause, window.until) == (LONGEST_PAUSE, 7 + LONGEST_PAUSE)
        window.acked()
        assert (window.size, window.pause, window.until) == (2, 0, 0)


async def test_no_more_are_under_way_than_the_window_allows(target: Endpoint) -> None:
    gate = threading.Event()
    target.answer = lambda _: 200 if gate.wait(10) else 500
    async with running(target) as (broker, _):
        broker.publish(TOPIC, [PubsubMessage("YQ==")] * 30)
        await eventually(lambda: len(target.arrived) == FIRST_WINDOW)
        assert owed(broker) == 30
        gate.set()
        await eventually(lambda: owed(broker) == 0)
    assert len(target.arrived) == 30


async def test_a_token_is_signed_once_for_its_audience(
    target: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    signer, sign, signed = Signer.create(), Signer.token, []

    def counting(self: Signer, *arguments: Any) -> str:
        signed.append(arguments)
        return sign(self, *arguments)

    monkeypatch.setattr(Signer, "token", counting)
    oidc = {"oidcToken": {"serviceAccountEmail": "push@p", "audience": "https://service"}}
    async with running(target, signer=signer, pushConfig=oidc) as (broker, _):
        broker.publish(TOPIC, [PubsubMessage("YQ==")] * 3)
        await eventually(lambda: owed(broker) == 0)
    (token,) = {push.headers["authorization"] for push in target.arrived}
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    assert (claims["aud"], claims["email"]) == ("https://service", "push@p")
    assert signed == [("https://service", "push@p")]


async def test_without_an_audience_it_is_the_endpoint(target: Endpoint) -> None:
    oidc = {"oidcToken": {"serviceAccountEmail": "push@p"}}
    async with running(target, signer=Signer.create(), pushConfig=oidc) as (broker, _):
        broker.publish(TOPIC, [PubsubMessage("YQ==")])
        await eventually(lambda: owed(broker) == 0)
    claims = json.loads(
        base64.urlsafe_b64decode(target.arrived[0].headers["authorization"].split(".")[1] + "==")
    )
    assert claims["aud"] == target.url


async def test_nothing_is_delivered_while_nobody_is_there(target: Endpoint) -> None:
    """A pause costs no attempt."""
    async with running(target, deadLetterPolicy={"deadLetterTopic": TOPIC}) as (broker, deliveries):
        deliveries.pause()
        (message_id,) = broker.publish(TOPIC, [PubsubMessage("YQ==")])
        (waiting,) = broker.subscriptions[NAME].backlog
        for _ in range(20):  # turns of the loop: one is what it takes to start a delivery
            await asyncio.sleep(0)
        assert (waiting.attempts, target.arrived) == (0, [])
        deliveries.resume()
        await eventually(lambda: owed(broker) == 0)
    assert [push.envelope["deliveryAttempt"] for push in target.of(message_id)] == [1]


async def test_what_a_receiver_gives_back_on_its_way_out_was_no_delivery(target: Endpoint) -> None:
    """An answer that is no ack costs the message no attempt once its receiver is being stopped; after that it does."""
    gate = threading.Event()
    target.answer = lambda _: 500 if gate.wait(10) else 200
    async with running(target) as (broker, deliveries):
        broker.publish(TOPIC, [PubsubMessage("YQ==")])
        (one,) = broker.subscriptions[NAME].backlog
        await eventually(lambda: target.arrived)
        deliveries.pause(stopping=True)
        gate.set()
        await eventually(lambda: one.attempts == 0)
        assert deliveries._windows[NAME].size == FIRST_WINDOW
        deliveries.resume()
        await eventually(lambda: one.attempts > 1)


async def test_an_ack_on_the_way_out_is_an_ack(target: Endpoint) -> None:
    gate = threading.Event()
    target.answer = lambda _: 200 if gate.wait(10) else 500
    async with running(target) as (broker, deliveries):
        broker.publish(TOPIC, [PubsubMessage("YQ==")])
        await eventually(lambda: target.arrived)
        deliveries.pause(stopping=True)
        gate.set()
        await eventually(lambda: owed(broker) == 0)


async def test_what_is_under_way_at_the_end_is_owed_again(target: Endpoint) -> None:
    gate = threading.Event()
    target.answer = lambda _: 200 if gate.wait(10) else 500
    async with running(target) as (broker, _):
        broker.publish(TOPIC, [PubsubMessage("YQ==")])
        await eventually(lambda: target.arrived)
    gate.set()
    taken = broker.take(broker.subscriptions[NAME])
    assert taken is not None
    assert taken.attempts == 1


async def test_an_endpoint_that_is_not_there_is_a_nack() -> None:
    async with running(Endpoint("http://127.0.0.1:9/push")) as (broker, _):
        broker.publish(TOPIC, [PubsubMessage("YQ==")])
        (one,) = broker.subscriptions[NAME].backlog
        await eventually(lambda: one.attempts > 1)


@pytest.mark.parametrize(
    ("faults", "pushes"),
    [
        (FaultSettings(duplicate_rate=1), lambda count: count == 2),
        (FaultSettings(drop_rate=1), lambda count: count == 1),
    ],
    ids=["duplicates", "drops"],
)
async def test_faults_lose_nothing(
    target: Endpoint, faults: FaultSettings, pushes: Callable[[int], bool]
) -> None:
    async with running(target, faults) as (broker, _):
        broker.publish(TOPIC, [PubsubMessage("YQ==")])
        await eventually(lambda: owed(broker) == 0)
    assert pushes(len(target.arrived))


async def test_a_subscription_deleted_meanwhile_owes_nothing(target: Endpoint) -> None:
    gate = threading.Event()
    target.answer = lambda _: 500 if gate.wait(10) else 200
    async with running(target) as (broker, _):
        broker.publish(TOPIC, [PubsubMessage("YQ==")])
        await eventually(lambda: target.arrived)
        broker.delete_subscription(NAME)
        gate.set()
    assert NAME not in broker.subscriptions
