"""The stand-in is strict: what Google's discovery documents do not describe never passes."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest

from tests import google_fake

P = "projects/shop-prod"
TOPIC = f"{P}/topics/prod--shop.tasks--a"
JOB = f"{P}/locations/europe-west2/jobs/a"


@pytest.mark.parametrize(
    ("verb", "path", "body"),
    [
        ("PUT", f"v1/{TOPIC}", {"lables": {}}),
        ("PUT", f"v1/{TOPIC}", {"labels": {"a": 1}}),
        ("PUT", f"v1/{TOPIC}", {"state": "ACTIVE"}),
        ("PUT", f"v1/{P}/topic/a", {}),
        ("POST", f"v1/{TOPIC}", {}),
        ("PUT", f"v1/{P}/subscriptions/aaa", {"topic": TOPIC, "ackDeadline": 10}),
        ("PUT", f"v1/{P}/subscriptions/aaa", {"topic": TOPIC, "ackDeadlineSeconds": "10"}),
        ("PUT", f"v1/{P}/subscriptions/aaa", {"topic": TOPIC, "ackDeadlineSeconds": True}),
        ("PUT", f"v1/{P}/subscriptions/aaa", {"topic": TOPIC, "messageRetentionDuration": "7d"}),
        ("PUT", f"v1/{P}/subscriptions/aaa", {"topic": TOPIC, "pushConfig": {"oidcToken": {"email": "a@b"}}}),
        ("PATCH", f"v1/{P}/subscriptions/aaa", {"subscription": {}, "updateMask": "ackDeadline"}),
        ("PATCH", f"v1/{P}/subscriptions/aaa", {"subscription": {}, "updateMask": "pushConfig.endpoint"}),
        ("PATCH", f"v1/{P}/subscriptions/aaa", {"subscription": {}, "updateMask": "state"}),
        ("PATCH", f"v1/{P}/subscriptions/aaa?updateMask=labels", {"subscription": {}}),
        ("POST", f"v1/{P}/locations/europe-west2/jobs?jobId=a", {"name": JOB}),
        ("POST", f"v1/{P}/locations/europe-west2/jobs", {"name": JOB, "timezone": "UTC"}),
        (
            "POST",
            f"v1/{P}/locations/europe-west2/jobs",
            {"name": JOB, "pubsubTarget": {"data": "not base64"}},
        ),
        ("PATCH", f"v1/{JOB}?updateMask=schedules", {"name": JOB}),
        ("PATCH", f"v1/{JOB}?updateMask=state", {"name": JOB}),
        ("GET", f"v1/{P}/topics?page_size=1", None),
        ("GET", f"v1/{P}/topics?pageSize=many", None),
        ("POST", f"v1/{TOPIC}:getIamPolicy", {}),
        ("POST", f"v1/{TOPIC}:setIamPolicy", {"policy": {"binding": []}}),
        ("GET", "v1/projects/-/serviceAccounts/a@b.iam.gserviceaccount.com:getIamPolicy", None),
        ("GET", "v3/project/shop-prod", None),
    ],
)
def test_a_misspelt_request_is_refused_and_fails_its_test(
    verb: str, path: str, body: dict[str, Any] | None
) -> None:
    def send() -> None:
        with google_fake.running() as fake:
            with httpx.Client(trust_env=False) as client:
                answers.append(client.request(verb, f"{fake.url}/{path}", json=body).status_code)
            assert fake.everything() == {}

    answers: list[int] = []
    with pytest.raises(AssertionError, match=f"describes no such request: {verb} /v[13]/"):
        send()
    assert answers == [400]


def test_a_described_request_that_makes_no_sense_is_refused_as_google_does() -> None:
    with google_fake.running() as fake, httpx.Client(trust_env=False, base_url=f"{fake.url}/v1/") as client:

        def answered(verb: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
            answer = client.request(verb, path, json=body)
            return answer.status_code, answer.json().get("error", {}).get("status", "")

        target = {"topicName": TOPIC, "data": base64.b64encode(b"x").decode()}
        job = {"name": JOB, "schedule": "* * * * *", "pubsubTarget": target}
        sub, jobs = f"{P}/subscriptions/aaa", f"{P}/locations/europe-west2/jobs"
        assert answered("PUT", f"{P}/topics/aa", {}) == (400, "INVALID_ARGUMENT")
        assert answered("PUT", TOPIC, {"labels": {"Receiver": "x"}}) == (400, "INVALID_ARGUMENT")
        assert answered("PUT", sub, {"topic": TOPIC}) == (404, "NOT_FOUND")
        assert answered("PUT", TOPIC, {}) == (200, "")
        assert answered("PUT", TOPIC, {}) == (409, "ALREADY_EXISTS")
        assert answered("PUT", sub, {"topic": TOPIC, "ackDeadlineSeconds": 9}) == (400, "INVALID_ARGUMENT")
        letters = {"deadLetterTopic": f"{P}/topics/none", "maxDeliveryAttempts": 5}
        assert answered("PUT", sub, {"topic": TOPIC, "deadLetterPolicy": letters}) == (404, "NOT_FOUND")
        assert answered("PUT", sub, {"topic": TOPIC}) == (200, "")
        patch = {"subscription": {"name": sub, "topic": TOPIC}, "updateMask": "topic"}
        assert answered("PATCH", sub, patch) == (400, "INVALID_ARGUMENT")
        assert answered("PATCH", sub, {**patch, "updateMask": ""})[0] == 400
        assert answered("GET", f"{P}/locations/mars/jobs") == (404, "NOT_FOUND")
        assert answered("POST", jobs, {**job, "schedule": "@daily"}) == (400, "INVALID_ARGUMENT")
        assert answered("POST", jobs, {**job, "retryConfig": {"retryCount": 6}}) == (400, "INVALID_ARGUMENT")
        assert answered("POST", jobs, {**job, "name": f"{JOB}.b"}) == (400, "INVALID_ARGUMENT")
        assert answered("PATCH", f"{JOB}?updateMask=schedule", job) == (404, "NOT_FOUND")
        assert answered("POST", jobs, job) == (200, "")
        assert answered("PATCH", JOB, job) == (400, "INVALID_ARGUMENT")
        assert answered("DELETE", TOPIC) == (200, "")
        assert client.get(sub).json()["topic"] == "_deleted-topic_"
        fake.undescribed.clear()  # an empty mask names no field; Google refuses it as well
