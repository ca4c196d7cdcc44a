"""Pushes of unwrapped subscriptions: metadata and attributes are headers, the body is the data."""

from __future__ import annotations

import pytest

from receiver.contract.message import open_push
from receiver.contract.unwrapped import rewrapped
from receiver.errors import Rejected

METADATA = [
    (b"x-goog-pubsub-subscription-name", b"projects/p/subscriptions/s"),
    (b"x-goog-pubsub-message-id", b"17"),
    (b"x-goog-pubsub-publish-time", b"2026-01-02T03:04:05.678Z"),
]
OF_HTTP = [
    (b"host", b"shop.run.app"),
    (b"authorization", b"Bearer secret"),
    (b"user-agent", b"APIs-Google"),
    (b"content-length", b"3"),
    (b"x-forwarded-for", b"1.2.3.4"),
    (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
]


@pytest.mark.parametrize("data", [b"", b"\x00\xff", b'{"message": {"messageId": "1"}}'])
def test_an_unwrapped_push_is_the_message_that_a_wrapped_one_would_be(data: bytes) -> None:
    attributes = [(b"eventtype", "é".encode()), (b"content-type", b"text/plain")]
    pushed = open_push(rewrapped([*OF_HTTP, *METADATA, *attributes], data))
    assert (pushed.message_id, pushed.subscription, pushed.data) == ("17", "projects/p/subscriptions/s", data)
    assert pushed.publish_time is not None
    assert pushed.publish_time.isoformat() == "2026-01-02T03:04:05.678000+00:00"
    assert pushed.attributes == {"eventtype": "é", "content-type": "text/plain"}


@pytest.mark.parametrize("name", [name for name, _ in METADATA])
def test_a_publisher_cannot_pass_an_attribute_off_as_metadata(name: bytes) -> None:
    with pytest.raises(Rejected, match=f"more than one header {name.decode()}"):
        rewrapped([*METADATA, (name, b"mine")], b"x")


def test_what_is_no_envelope_says_what_an_unwrapped_subscription_needs() -> None:
    with pytest.raises(Rejected, match=r"if its subscription is unwrapped \(noWrapper\), set writeMetadata$"):
        open_push(b'{"bucket": "uploads"}')
