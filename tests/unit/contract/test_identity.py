"""What a refused body is about, whatever it is."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from receiver.contract.encode import encode_envelope, encode_payload
from receiver.contract.identity import Identity, identify, rejection_key

PUBLISHED = datetime(2026, 3, 1, 12, 30, 15, 250_000, tzinfo=UTC)


def refused(payload: bytes) -> bytes:
    return encode_envelope(payload, "17", PUBLISHED, "s")


@pytest.mark.parametrize(
    ("payload", "task_id"),
    [
        (encode_payload("id-1", "send"), "id-1"),
        (encode_payload("scheduled-send", "send"), "scheduled-send-17"),
        (encode_payload("scheduled-send", "send", enqueued_at=PUBLISHED), "scheduled-send"),
        (b'{"task_id":"id-1","task_name":"send","args":"no list"}', "id-1"),
    ],
)
def test_a_payload_that_names_task_and_id_means_that_execution(payload: bytes, task_id: str) -> None:
    assert identify(refused(payload)) == Identity(task_id, frozenset({"send"}), "17")


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        refused(b"{"),
        refused(encode_payload(None, "send")),
        refused(b'{"task_id":5,"task_name":"send"}'),
        refused(encode_payload("a\nb", "send")),
        refused(encode_payload("i" * 501, "send")),
    ],
)
def test_any_other_body_means_no_execution(body: bytes) -> None:
    assert identify(body) is None


@pytest.mark.parametrize(
    ("sent", "key"),
    [
        (b'{"message":{"messageId":"1"},"subscription":"s"}', "s 1"),
        (b'{"message":{"message_id":"1"},"subscription":"s"}', "s 1"),
        (
            b'{"message":{"messageId":"1","data":7,"attributes":[]},"subscription":"s","deliveryAttempt":"x"}',
            "s 1",
        ),
        (b'{"message":{"messageId":"1"}}', "1"),
        (b'{"message":{"messageId":"1"},"subscription":5}', "1"),
    ],
)
def test_a_body_with_a_message_id_is_counted_under_it(sent: bytes, key: str) -> None:
    assert rejection_key(sent) == key


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\xff",
        b"[" * 100_000,
        b'{"message":' * 100_000,
        b'{"message":"m"}',
        b'{"message":{"messageId":""}}',
        b'{"message":{"messageId":5}}',
        b'{"message":{"messageId":"a\\u0000"}}',
        b'{"message":{"messageId":"a\\nb"}}',
        b'{"message":{"messageId":"\\ud800"}}',
        b'{"message":{"messageId":"\xff"}}',
        b'{"message":{"messageId":"%s"}}' % (b"1" * 1001),
    ],
)
def test_any_other_body_is_counted_under_its_hash(sent: bytes) -> None:
    assert rejection_key(sent).startswith("sha256:")
    assert rejection_key(sent) != rejection_key(sent + b" ")


def test_redeliveries_of_one_message_share_a_key() -> None:
    keys = {
        rejection_key(encode_envelope(b"x", "1", PUBLISHED, "s", delivery_attempt=attempt))
        for attempt in range(1, 6)
    }
    assert keys == {"s 1"}
