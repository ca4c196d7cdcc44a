"""A push of an unwrapped subscription (`noWrapper` with `writeMetadata`) becomes the envelope of a wrapped one.

Pub/Sub sends the data as the body, its own metadata as `x-goog-pubsub-*` headers, and the message's attributes as plain headers
beside those of HTTP. Invariant: a header with metadata stands once, or the message is refused: a publisher may name its attributes
like them. The token and the front end's headers never become attributes.

Next: `receiver.contract.message` opens the envelope, like every other one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from receiver.contract.envelope import envelope_fault

MESSAGE_ID: Final = b"x-goog-pubsub-message-id"
"""A request with this header is unwrapped."""

_METADATA: Final = b"x-goog-pubsub-"
_OF_HTTP: Final = frozenset(
    {
        b"accept", b"accept-encoding", b"authorization", b"connection", b"content-length", b"forwarded", b"from", b"host",
        b"traceparent", b"tracestate", b"transfer-encoding", b"user-agent", b"via", b"x-cloud-trace-context",
        b"x-serverless-authorization",
    }
)  # fmt: skip
_OF_FRONT_ENDS: Final = (b"x-forwarded-", b"x-goog-", b"x-appengine-")


def rewrapped(headers: Iterable[tuple[bytes, bytes]], data: bytes) -> bytes:
    """The envelope. Names of attributes are in lower case, as HTTP has no other.

    Args:
        headers: as in an ASGI scope, names in lower case.

    Raises:
        Rejected: malformed_envelope.
    """
    metadata: dict[bytes, str] = {}
    attributes: dict[str, str] = {}
    for name, value in headers:
        if name.startswith(_METADATA):
            if name in metadata:
                raise envelope_fault(f"more than one header {name.decode(errors='replace')}")
            metadata[name] = value.decode(errors="replace")
        elif name not in _OF_HTTP and not name.startswith(_OF_FRONT_ENDS):
            attributes[name.decode(errors="replace")] = value.decode(errors="replace")
    message = {
        "data": data,
        "attributes": attributes,
        "messageId": metadata.get(MESSAGE_ID),
        "publishTime": metadata.get(_METADATA + b"publish-time"),
    }
    return msgspec.json.encode(
        {"message": message, "subscription": metadata.get(_METADATA + b"subscription-name")}
    )
