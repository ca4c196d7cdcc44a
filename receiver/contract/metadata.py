"""A call's metadata: small, text to text, inherited by what its task enqueues.

It travels as one attribute of the message, which revisions that do not know it ignore, and stands in its row, from which the
message is made again. Bound: what Pub/Sub takes as an attribute's value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from receiver.text import is_storable

METADATA_ATTRIBUTE: Final = "receiver_metadata"

MAX_METADATA_BYTES: Final = 1024
"""As JSON."""

_READ: Final = msgspec.json.Decoder(dict[str, str])


def encode_metadata(metadata: Mapping[str, str]) -> str:
    """The metadata as JSON text.

    Raises:
        TypeError: it is no mapping of text to text.
        ValueError: it is larger than `MAX_METADATA_BYTES`, or has NUL or a lone surrogate.
    """
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata maps text to text; it is of type {type(metadata).__qualname__}")
    plain = {_plain(key): _plain(value) for key, value in metadata.items()}
    made = msgspec.json.encode(plain)
    if len(made) > MAX_METADATA_BYTES:
        raise ValueError(
            f"metadata has {len(made)} bytes as JSON, of at most {MAX_METADATA_BYTES}; pass an id of it"
        )
    return made.decode()


def read_metadata(attributes: Mapping[str, str]) -> dict[str, str] | None:
    """The metadata of a message; None without any. What is none is left out, as it is with a trace context."""
    text = attributes.get(METADATA_ATTRIBUTE)
    if text is None or len(text) > MAX_METADATA_BYTES:
        return None
    try:
        found = _READ.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None
    return found if all(is_storable(each) for pair in found.items() for each in pair) else None


def decode_metadata(stored: bytes) -> dict[str, str] | None:
    """The metadata of a row; None of one that another program has written in another form."""
    try:
        return _READ.decode(stored)
    except msgspec.DecodeError:
        return None


def _plain(text: object) -> str:
    if not isinstance(text, str):
        raise TypeError(
            f"metadata maps text to text; it has a key or value of type {type(text).__qualname__}"
        )
    if not is_storable(text):
        raise ValueError("metadata has a NUL or a lone surrogate, which no message can carry")
    return str.__str__(text)
