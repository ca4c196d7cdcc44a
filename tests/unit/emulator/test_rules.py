"""What Pub/Sub accepts, and its words when it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from receiver.emulator.backlog import PubsubMessage
from receiver.emulator.rules import SUBSCRIPTION_MASKS, ApiError, check_message, checked, patched

TOPIC = "projects/p/topics/t"


def test_defaults_are_filled_in() -> None:
    assert checked({"topic": TOPIC}) == {
        "topic": TOPIC,
        "ackDeadlineSeconds": 10,
        "messageRetentionDuration": "604800s",
        "pushConfig": {},
    }
    assert checked({"topic": TOPIC, "ackDeadlineSeconds": 0})["ackDeadlineSeconds"] == 10


@pytest.mark.parametrize(
    "fields",
    [
        {"topic": "t"},
        {"topic": ""},
        {"ackDeadlineSeconds": "30"},
        {"ackDeadlineSeconds": True},
        {"labels": []},
        {"pushConfig": None},
        {"retryPolicy": {"minimumBackoff": "ten"}},
        {"retryPolicy": {"minimumBackoff": "nans"}},
        {"pushConfig": {"pushEndpoint": "ftp://x"}},
        {"pushConfig": {"pushEndpoint": "http://"}},
        {"pushConfig": {"pushEndpoint": "http://x:99999"}},
        {"pushConfig": {"pushEndpoint": 7}},
        {"colour": "red"},
    ],
    ids=str,
)
def test_what_is_not_allowed_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as refused:
        checked({"topic": TOPIC, **fields})
    assert refused.value.status == "INVALID_ARGUMENT"


def test_a_mask_names_fields_in_either_spelling_and_fields_of_fields() -> None:
    current = {"a": 1, "retryPolicy": {"minimumBackoff": "1s", "maximumBackoff": "2s"}, "labels": {"x": "y"}}
    body = {
        "subscription": {"retryPolicy": {"minimumBackoff": "3s"}},
        "updateMask": "retry_policy.minimum_backoff, labels",
    }
    assert patched(current, body, "subscription", SUBSCRIPTION_MASKS) == {
        "a": 1,
        "retryPolicy": {"minimumBackoff": "3s", "maximumBackoff": "2s"},
    }
    assert current["labels"] == {"x": "y"}


@pytest.mark.parametrize(
    "body",
    [{"updateMask": "labels"}, {"subscription": [], "updateMask": "labels"}, {"subscription": {}}],
    ids=str,
)
def test_a_change_without_its_parts_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ApiError):
        patched({}, body, "subscription", SUBSCRIPTION_MASKS)


def test_a_message_has_a_hundred_attributes_at_most() -> None:
    check_message(PubsubMessage(attributes={str(number): "" for number in range(100)}))
    with pytest.raises(ApiError):
        check_message(PubsubMessage(attributes={str(number): "" for number in range(101)}))
    with pytest.raises(ApiError):
        check_message(PubsubMessage(attributes={"": "x"}))
