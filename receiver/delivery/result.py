"""The result of a task as JSON text, for the record. Next: `receiver.delivery.run` makes it part of the outcome."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from receiver.contract.convert import to_json, to_plain
from receiver.contract.failure import Failure
from receiver.text import holds_nul


def encoded(value: Any, max_bytes: int) -> str | Failure:
    """The value as JSON text, or why it cannot be stored. Never raises."""
    try:
        text = to_json(value)
        if type(value) is msgspec.Raw:  # written as it is, and nobody could read a number like 1e1000000
            msgspec.json.decode(text)
        if len(text) > max_bytes:
            reason = f"it has {len(text)} bytes, TASKS_MAX_RESULT_BYTES is {max_bytes}"
        elif not _is_finite(value, text):
            reason = "it has a NaN or an infinite number, and JSON has none"
        elif holds_nul(text):  # PostgreSQL would refuse it too, and quote the result in its log
            reason = "it has a NUL character"
        else:
            return text.decode()
    except BaseException as error:  # noqa: BLE001 - encoding calls the value's own code, which may raise anything
        reason = Failure.of(error).message
    return Failure("ResultNotStorable", f"the task returned, but its result cannot be stored: {reason}")


def _is_finite(value: Any, text: bytes) -> bool:
    """Whether no number of the value is NaN or infinite. Those are written as null.

    So only a value with a null is encoded again, by the standard library, which can refuse them.
    """
    if value is None or b"null" not in text:
        return True
    try:
        json.dumps(to_plain(value), allow_nan=False)
    except ValueError:
        return False
    return True
