"""Messages of topics that are not ours, as deliveries: the data is the one argument, the attributes go with it.

Next: `receiver.tasks.foreign_topics` says which messages these are, and to which task they go.
"""

from __future__ import annotations

import binascii
import hashlib

import msgspec

from receiver.contract.envelope import FOREIGN_PREFIX
from receiver.contract.message import Delivery, Pushed


def foreign_id(pushed: Pushed) -> str:
    """The id of a foreign message's execution: the same for each delivery of one message to one subscription."""
    text = f"{pushed.subscription} {pushed.message_id}"
    return FOREIGN_PREFIX + hashlib.sha256(text.encode()).hexdigest()[:32]


def foreign_delivery(pushed: Pushed, task_name: str, *, raw: bool) -> Delivery:
    """The delivery of a foreign message: its data is the one argument. A message without data gives none.

    Args:
        raw: the data is any bytes, and becomes base64, which the function's annotation turns into bytes again; otherwise it is JSON.
    """
    data = pushed.data
    args = b'["%b"]' % binascii.b2a_base64(data, newline=False) if raw else b"[%b]" % data
    return Delivery(
        *pushed.head,
        foreign_id(pushed),
        task_name,
        args,
        b"{}",
        pushed.publish_time,
        pushed.traceparent,
        foreign=pushed.attributes,
    )


def recalled(delivery: Delivery, args: bytes, attributes: dict[str, str]) -> Delivery:
    """A delivery that only names the execution of a foreign message, with what its row says."""
    return msgspec.structs.replace(delivery, args=args, kwargs=b"{}", foreign=attributes, recorded=True)
