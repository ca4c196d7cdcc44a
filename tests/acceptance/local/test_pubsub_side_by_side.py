"""One suite of expectations, kept by Google's emulator and by ours. Where they differ, `DIFFERENCES` says how.

Where the emulator differs from the service itself, ours follows the service.
"""

from __future__ import annotations

import base64
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from receiver.emulator.signer import Signer
from tests.stage import emulator, endpoint
from tests.stage.endpoint import Endpoint
from tests.stage.waiting import eventually

DIFFERENCES: dict[str, dict[str, Any]] = {
    # The service acks by 102, 200, 201, 202 and 204 only. The emulator takes 203 for an ack, and 202 for a nack.
    "acks by 202": {"ours": True, "official": False},
    "acks by 203": {"ours": False, "official": True},
    # The service counts deliveries where there is a dead-letter policy, in push and pull; the emulator never says so.
    "says deliveryAttempt in a push": {"ours": True, "official": False},
    # The service signs a token for a subscription that wants one. The emulator ignores `oidcToken`.
    "sends a token": {"ours": True, "official": False},
    # An attribute-only message has no data; the emulator writes an empty one.
    "data of a message without": {"ours": None, "official": ""},
    # The service lets labels, the expiration policy and a field of a field be changed; the emulator refuses the mask.
    "changes labels": {"ours": True, "official": False},
    "changes a field of a field": {"ours": True, "official": False},
    # Limits of the service that the emulator does not check.
    "refuses an ack deadline under 10 s": {"ours": True, "official": False},
    "refuses long keys and values": {"ours": True, "official": False},
}


@dataclass(frozen=True, slots=True)
class PubSub:
    """One of the two, in a project that nobody else uses."""

    which: str
    client: httpx.Client
    host: str
    project: str

    def differs(self, what: str) -> Any:
        """How this one behaves, where they differ."""
        return DIFFERENCES[what][self.which]

    def ask(self, method: str, path: str, body: object = None) -> httpx.Response:
        url = f"http://{self.host}/v1/projects/{self.project}/{path}"
        return self.client.request(method, url, json=body, timeout=30)

    def call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        response = self.ask(method, path, body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def refuses(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        """Code and status of the error, in Google's form."""
        response = self.ask(method, path, body)
        error = response.json()["error"]
        assert error["code"] == response.status_code
        assert error["message"]
        return error["code"], error["status"]

    def topic(self) -> str:
        """A topic of the test's own: its id."""
        name = f"t-{uuid.uuid4().hex}"
        self.call("PUT", f"topics/{name}", {})
        return name

    def topic_path(self, name: str) -> str:
        return f"projects/{self.project}/topics/{name}"

    def subscription(self, topic: str, **fields: object) -> str:
        """A subscription to it: its id."""
        name = f"s-{uuid.uuid4().hex}"
        self.call("PUT", f"subscriptions/{name}", {"topic": self.topic_path(topic), **fields})
        return name

    def publish(self, topic: str, *messages: dict[str, Any]) -> list[str]:
        ids: list[str] = self.call("POST", f"topics/{topic}:publish", {"messages": list(messages)})[
            "messageIds"
        ]
        return ids

    def pull(self, subscription: str) -> list[dict[str, Any]]:
        body = {"maxMessages": 10, "returnImmediately": True}
        found: list[dict[str, Any]] = self.call("POST", f"subscriptions/{subscription}:pull", body).get(
            "receivedMessages", []
        )
        return found

    async def pulled(self, subscription: str) -> list[dict[str, Any]]:
        return await eventually(lambda: self.pull(subscription))


def text(of: str) -> dict[str, Any]:
    return {"data": base64.b64encode(of.encode()).decode()}


@pytest.fixture(scope="module", params=emulator.BOTH)
def pubsub(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PubSub]:
    with ExitStack() as stack:
        host = stack.enter_context(
            emulator.offered(request.param, tmp_path_factory.mktemp("emulator"), Signer.create())
        )
        client = stack.enter_context(httpx.Client(trust_env=False))
        yield PubSub(request.param, client, host, f"p-{uuid.uuid4().hex[:12]}")


@pytest.fixture
def target() -> Iterator[Endpoint]:
    with endpoint.listening() as made:
        yield made


class TestTopics:
    def test_a_topic_is_made_read_listed_and_deleted(self, pubsub: PubSub) -> None:
        name = pubsub.topic()
        assert pubsub.call("GET", f"topics/{name}")["name"] == pubsub.topic_path(name)
        listed = pubsub.call("GET", "topics?pageSize=1000")["topics"]
        assert pubsub.topic_path(name) in {topic["name"] for topic in listed}
        assert pubsub.call("DELETE", f"topics/{name}") == {}
        assert pubsub.refuses("GET", f"topics/{name}") == (404, "NOT_FOUND")

    def test_a_topic_is_made_once(self, pubsub: PubSub) -> None:
        assert pubsub.refuses("PUT", f"topics/{pubsub.topic()}", {}) == (409, "ALREADY_EXISTS")

    def test_what_does_not_exist_is_not_found(self, pubsub: PubSub) -> None:
        for method in ("GET", "DELETE"):
            assert pubsub.refuses(method, "topics/never-made") == (404, "NOT_FOUND")

    @pytest.mark.parametrize("name", ["ab", "1abc", "goog-abc"])
    def test_a_name_that_pubsub_does_not_allow_is_refused(self, pubsub: PubSub, name: str) -> None:
        assert pubsub.refuses("PUT", f"topics/{name}", {}) == (400, "INVALID_ARGUMENT")

    def test_its_subscriptions_are_listed(self, pubsub: PubSub) -> None:
        topic = pubsub.topic()
        names = {pubsub.subscription(topic) for _ in range(2)}
        found = pubsub.call("GET", f"topics/{topic}/subscriptions")["subscriptions"]
        assert {path.rpartition("/")[2] for path in found} == names

    def test_a_subscription_outlives_its_topic(self, pubsub: PubSub) -> None:
        topic = pubsub.topic()
        name = pubsub.subscription(topic)
        pubsub.call("DELETE", f"topics/{topic}")
        assert pubsub.call("GET", f"subscriptions/{name}")["topic"] == "_deleted-topic_"


class TestSubscriptions:
    def test_a_subscription_is_made_read_listed_and_deleted(self, pubsub: PubSub) -> None:
        topic = pubsub.topic()
        name = pubsub.subscription(topic)
        made = pubsub.call("GET", f"subscriptions/{name}")
        assert made["name"] == f"projects/{pubsub.project}/subscriptions/{name}"
        assert made["topic"] == pubsub.topic_path(topic)
        assert made["ackDeadlineSeconds"] == 10
        assert made["pushConfig"] == {}
        listed = pubsub.call("GET", "subscriptions?pageSize=1000")["subscriptions"]
        assert made["name"] in {each["name"] for each in listed}
        assert pubsub.call("DELETE", f"subscriptions/{name}") == {}
        assert pubsub.refuses("GET", f"subscriptions/{name}") == (404, "NOT_FOUND")

    def test_a_subscription_is_made_once_and_to_a_topic_that_exists(self, pubsub: PubSub) -> None:
        topic = pubsub.topic()
        name = pubsub.subscription(topic)
        body = {"topic": pubsub.topic_path(topic)}
        assert pubsub.refuses("PUT", f"subscriptions/{name}", body) == (409, "ALREADY_EXISTS")
        body = {"topic": pubsub.topic_path("never-made")}
        assert pubsub.refuses("PUT", f"subscriptions/{name}-2", body) == (404, "NOT_FOUND")

    @pytest.mark.parametrize("attempts", [4, 101])
    def test_dead_letters_come_after_5_to_100_deliveries(self, pubsub: PubSub, attempts: int) -> None:
        topic = pubsub.topic_path(pubsub.topic())
        policy = {"deadLetterTopic": topic, "maxDeliveryAttempts": attempts}
        body = {"topic": topic, "deadLetterPolicy": policy}
        assert pubsub.refuses("PUT", f"subscriptions/s-{uuid.uuid4().hex}", body) == (400, "OUT_OF_RANGE")

    def test_an_ack_deadline_is_10_seconds_at_least(self, pubsub: PubSub) -> None:
        body = {"topic": pubsub.topic_path(pubsub.topic()), "ackDeadlineSeconds": 9}
        refused = pubsub.ask("PUT", f"subscriptions/s-{uuid.uuid4().hex}", body).status_code == 400
        assert refused is pubsub.differs("refuses an ack deadline under 10 s")

    @pytest.mark.parametrize(
        "fields",
        [
            {"ackDeadlineSeconds": 601},
            {"retryPolicy": {"minimumBackoff": "30s", "maximumBackoff": "20s"}},
            {"retryPolicy": {"minimumBackoff": "601s"}},
            {"pushConfig": {"pushEndpoint": "no address"}},
        ],
        ids=str,
    )
    def test_what_is_out_of_bounds_is_refused(self, pubsub: PubSub, fields: dict[str, Any]) -> None:
        body = {"topic": pubsub.topic_path(pubsub.topic()), **fields}
        assert pubsub.refuses("PUT", f"subscriptions/s-{uuid.uuid4().hex}", body) == (400, "INVALID_ARGUMENT")

    def test_a_mask_changes_what_it_names_and_nothing_else(self, pubsub: PubSub, target: Endpoint) -> None:
        topic = pubsub.topic()
        name = pubsub.subscription(topic, retryPolicy={"minimumBackoff": "1s", "maximumBackoff": "2s"})
        change = {
            "subscription": {"ackDeadlineSeconds": 30, "pushConfig": {"pushEndpoint": target.url}},
            "updateMask": "ackDeadlineSeconds",
        }
        pubsub.call("PATCH", f"subscriptions/{name}", change)
        found = pubsub.call("GET", f"subscriptions/{name}")
        assert found["ackDeadlineSeconds"] == 30
        assert found["pushConfig"] == {}
        assert found["retryPolicy"] == {"minimumBackoff": "1s", "maximumBackoff": "2s"}
        pubsub.call("PATCH", f"subscriptions/{name}", {**change, "updateMask": "push_config"})
        assert pubsub.call("GET", f"subscriptions/{name}")["pushConfig"]["pushEndpoint"] == target.url

    def test_a_policy_that_a_mask_names_and_the_body_does_not_hold_is_removed(self, pubsub: PubSub) -> None:
        topic = pubsub.topic()
        name = pubsub.subscription(topic, retryPolicy={"minimumBackoff": "1s", "maximumBackoff": "2s"})
        pubsub.call("PATCH", f"subscriptions/{name}", {"subscription": {}, "updateMask": "retryPolicy"})
        assert "retryPolicy" not in pubsub.call("GET", f"subscriptions/{name}")

    def test_a_mask_is_never_empty(self, pubsub: PubSub) -> None:
        name = pubsub.subscription(pubsub.topic())
        for mask in ({}, {"updateMask": ""}):
            body = {"subscription": {"ackDeadlineSeconds": 30}, **mask}
            assert pubsub.refuses("PATCH", f"subscriptions/{name}", body) == (400, "INVALID_ARGUMENT")

    @pytest.mark.parametrize("field", ["topic", "filter", "enableMessageOrdering", "nonsense"])
    def test_what_is_immutable_cannot_be_changed(self, pubsub: PubSub, field: str) -> None:
        topic = pubsub.topic()
        name = pubsub.subscription(topic)
        values = {
            "topic": pubsub.topic_path(pubsub.topic()),
            "filter": "attributes:a",
            "enableMessageOrdering": True,
        }
        body = {"subscription": {field: values[field]} if field in values else {}, "updateMask": field}
        assert pubsub.refuses("PATCH", f"subscriptions/{name}", body) == (400, "INVALID_ARGUMENT")
        assert pubsub.call("GET", f"subscriptions/{name}")["topic"] == pubsub.topic_path(topic)

    @pytest.mark.parametrize(
        ("what", "body"),
        [
            ("changes labels", {"subscription": {"labels": {"a": "b"}}, "updateMask": "labels"}),
            (
                "changes a field of a field",
                {
                    "subscription": {"retryPolicy": {"minimumBackoff": "3s"}},
                    "updateMask": "retryPolicy.minimumBackoff",
                },
            ),
        ],
    )
    def test_masks_that_only_the_service_takes(self, pubsub: PubSub, what: str, body: dict[str, Any]) -> None:
        name = pubsub.subscription(
            pubsub.topic(), retryPolicy={"minimumBackoff": "1s", "maximumBackoff": "9s"}
        )
        if not pubsub.differs(what):
            assert pubsub.refuses("PATCH", f"subscriptions/{name}", body) == (400, "INVALID_ARGUMENT")
            return
        pubsub.call("PATCH", f"subscriptions/{name}", body)
        found = pubsub.call("GET", f"subscriptions/{name}")
        if "labels" in what:
            assert found["labels"] == {"a": "b"}
        else:
            assert found["retryPolicy"] == {"minimumBackoff": "3s", "maximumBackoff": "9s"}


class TestPublishAndPull:
    async def test_what_is_published_is_pulled_and_acked(self, pubsub: PubSub) -> None:
        topic = pubsub.topic()
        name = pubsub.subscription(topic)
        ids = pubsub.publish(topic, {**text("one"), "attributes": {"a": "1"}}, text("two"))
        assert len(set(ids)) == 2
        found: dict[str, dict[str, Any]] = {}

        def both() -> bool:
            found.update({each["message"]["messageId"]: each for each in pubsub.pull(name)})
            return len(found) == 2

        await eventually(both)
        first = found[ids[0]]["message"]
        assert base64.b64decode(first["data"]) == b"one"
        assert first["attributes"] == {"a": "1"}
        assert first["publishTime"].endswith("Z")
        acks = [each["ackId"] for each in found.values()]
        assert pubsub.call("POST", f"subscriptions/{name}:acknowledge", {"ackIds": acks}) == {}
        pubsub.call(
            "POST", f"subscriptions/{name}:modifyAckDeadline", {"ackIds": acks, "ackDeadlineSeconds": 0}
        )
        assert pubsub.pull(name) == []

    async def test_a_pulled_message_is_leased_until_it_is_given_back(self, pubsub: PubSub) -> None:
        topic = pubsub.topic()
        name = pubsub.subscription(topic)
        (message_id,) = pubsub.publish(topic, text("one"))
        (first,) = await pubsub.pulled(name)
        assert pubsub.pull(name) == []
        back = {"ackIds": [first["ackId"]], "ackDeadlineSeconds": 0}
        assert pubsub.call("POST", f"subscriptions/{name}:modifyAckDeadline", back) == {}
        (second,) = await pubsub.pulled(name)
        assert second["message"]["messageId"] == message_id
        assert second["ackId"] != first["ackId"]

    def test_an_empty_message_is_refused(self, pubsub: PubSub) -> None:
        topic = pubsub.topic()
        empty: list[list[dict[str, str]]] = [[], [{}], [{"data": ""}]]
        for messages in empty:
            asked = pubsub.refuses("POST", f"topics/{topic}:publish", {"messages": messages})
            assert asked == (400, "INVALID_ARGUMENT")

    @pytest.mark.parametrize(
        "message", [{"data": "not base64!"}, {"attributes": {"k": 1, "l": []}}], ids=["data", "attributes"]
    )
    def test_a_malformed_message_is_refused(self, pubsub: PubSub, message: dict[str, Any]) -> None:
        asked = pubsub.refuses("POST", f"topics/{pubsub.topic()}:publish", {"messages": [message]})
        assert asked == (400, "INVALID_ARGUMENT")

    @pytest.mark.parametrize("attributes", [{"k" * 257: "v"}, {"k": "v" * 1025}], ids=["key", "value"])
    def test_keys_and_values_are_short(self, pubsub: PubSub, attributes: dict[str, str]) -> None:
        body = {"messages": [{"attributes": attributes}]}
        refused = pubsub.ask("POST", f"topics/{pubsub.topic()}:publish", body).status_code == 400
        assert refused is pubsub.differs("refuses long keys and values")

    def test_what_does_not_exist_is_not_found(self, pubsub: PubSub) -> None:
        body = {"messages": [text("one")]}
        assert pubsub.refuses("POST", "topics/never-made:publish", body) == (404, "NOT_FOUND")
        for verb, asked in (
            ("pull", {"maxMessages": 1}),
            ("acknowledge", {"ackIds": ["a"]}),
            ("modifyAckDeadline", {"ackIds": ["a"], "ackDeadlineSeconds": 0}),
            ("modifyPushConfig", {"pushConfig": {}}),
        ):
            assert pubsub.refuses("POST", f"subscriptions/never-made:{verb}", asked) == (404, "NOT_FOUND")

    def test_nothing_published_before_a_subscription_reaches_it(self, pubsub: PubSub) -> None:
        topic = pubsub.topic()
        pubsub.publish(topic, text("early"))
        assert pubsub.pull(pubsub.subscription(topic)) == []


class TestPush:
    async def test_a_push_holds_the_message_and_its_subscription(
        self, pubsub: PubSub, target: Endpoint
    ) -> None:
        topic = pubsub.topic()
        name = pubsub.subscription(topic, pushConfig={"pushEndpoint": target.url})
        (message_id,) = pubsub.publish(topic, {**text("one"), "attributes": {"a": "1"}})
        (push,) = await eventually(lambda: target.of(message_id))
        assert push.headers["content-type"].startswith("application/json")
        assert push.envelope["subscription"] == f"projects/{pubsub.project}/subscriptions/{name}"
        assert "deliveryAttempt" not in push.envelope
        assert "authorization" not in push.headers
        message = push.message
        assert base64.b64decode(message["data"]) == b"one"
        assert message["attributes"] == {"a": "1"}
        assert message["messageId"] == message["message_id"] == message_id
        assert message["publishTime"] == message["publish_time"]

    async def test_a_message_without_data(self, pubsub: PubSub, target: Endpoint) -> None:
        topic = pubsub.topic()
        pubsub.subscription(topic, pushConfig={"pushEndpoint": target.url})
        (message_id,) = pubsub.publish(topic, {"attributes": {"a": "1"}})
        (push,) = await eventually(lambda: target.of(message_id))
        assert push.message.get("data") == pubsub.differs("data of a message without")

    async def test_tokens_and_delivery_attempts(self, pubsub: PubSub, target: Endpoint) -> None:
        topic, dead = pubsub.topic(), pubsub.topic()
        oidc = {"serviceAccountEmail": "push@p.iam.gserviceaccount.com", "audience": "https://x"}
        pubsub.subscription(
            topic,
            pushConfig={"pushEndpoint": target.url, "oidcToken": oidc},
            deadLetterPolicy={"deadLetterTopic": pubsub.topic_path(dead), "maxDeliveryAttempts": 5},
        )
        (message_id,) = pubsub.publish(topic, text("one"))
        (push,) = await eventually(lambda: target.of(message_id))
        assert ("authorization" in push.headers) is pubsub.differs("sends a token")
        assert (push.envelope.get("deliveryAttempt") == 1) is pubsub.differs("says deliveryAttempt in a push")

    @pytest.mark.parametrize("status", [200, 201, 202, 203, 204, 301, 400, 403, 404, 429, 500, 503])
    async def test_a_status_acks_or_the_message_comes_again(
        self, pubsub: PubSub, target: Endpoint, status: int
    ) -> None:
        """A message that was acked does not come again before one that is published after it has come."""
        differing = f"acks by {status}"
        acks = pubsub.differs(differing) if differing in DIFFERENCES else 200 <= status < 300
        target.answer = lambda _: status
        topic = pubsub.topic()
        pubsub.subscription(topic, pushConfig={"pushEndpoint": target.url})
        (message_id,) = pubsub.publish(topic, text("one"))
        if acks:
            await eventually(lambda: target.of(message_id))
            (later,) = pubsub.publish(topic, text("two"))
            await eventually(lambda: target.of(later))
            assert len(target.of(message_id)) == 1
        else:
            await eventually(lambda: len(target.of(message_id)) > 1)
            target.answer = lambda _: 200

    async def test_a_nacked_message_waits_for_its_backoff(self, pubsub: PubSub, target: Endpoint) -> None:
        target.answer = lambda _: 500
        topic = pubsub.topic()
        policy = {"minimumBackoff": "1s", "maximumBackoff": "1s"}
        pubsub.subscription(topic, pushConfig={"pushEndpoint": target.url}, retryPolicy=policy)
        (message_id,) = pubsub.publish(topic, text("one"))
        first, second, *_ = await eventually(lambda: target.twice(message_id))
        target.answer = lambda _: 200
        assert 0.9 < second.at - first.at < 4

    @pytest.mark.slow
    async def test_the_ack_deadline_is_the_time_that_a_push_has(
        self, pubsub: PubSub, target: Endpoint
    ) -> None:
        """Past it the message comes again, while the first push still has no answer."""
        held = threading.Event()
        target.answer = lambda push: 200 if held.wait(20) else 500
        topic = pubsub.topic()
        pubsub.subscription(topic, pushConfig={"pushEndpoint": target.url}, ackDeadlineSeconds=10)
        (message_id,) = pubsub.publish(topic, text("one"))
        first, second, *_ = await eventually(lambda: target.twice(message_id), patience=30)
        held.set()
        assert 9.5 < second.at - first.at < 15

    async def test_a_message_that_is_always_nacked_becomes_a_dead_letter(
        self, pubsub: PubSub, target: Endpoint
    ) -> None:
        target.answer = lambda _: 500
        topic, dead = pubsub.topic(), pubsub.topic()
        letters = pubsub.subscription(dead)
        name = pubsub.subscription(
            topic,
            pushConfig={"pushEndpoint": target.url},
            deadLetterPolicy={"deadLetterTopic": pubsub.topic_path(dead), "maxDeliveryAttempts": 5},
            retryPolicy={"minimumBackoff": "0.1s", "maximumBackoff": "0.1s"},
        )
        (message_id,) = pubsub.publish(topic, {**text("one"), "attributes": {"a": "1"}})
        (letter,) = await pubsub.pulled(letters)
        assert len(target.of(message_id)) == 5
        message = letter["message"]
        assert message["messageId"] != message_id
        assert base64.b64decode(message["data"]) == b"one"
        source = "CloudPubSubDeadLetterSource"
        assert message["attributes"].pop(f"{source}TopicPublishTime")
        assert message["attributes"] == {
            "a": "1",
            f"{source}DeliveryCount": "5",
            f"{source}Subscription": name,
            f"{source}SubscriptionProject": pubsub.project,
        }

    async def test_a_pull_subscription_begins_to_push(self, pubsub: PubSub, target: Endpoint) -> None:
        topic = pubsub.topic()
        name = pubsub.subscription(topic)
        (message_id,) = pubsub.publish(topic, text("one"))
        config = {"pushConfig": {"pushEndpoint": target.url}}
        assert pubsub.call("POST", f"subscriptions/{name}:modifyPushConfig", config) == {}
        await eventually(lambda: target.of(message_id))
