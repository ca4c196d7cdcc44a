"""A pushed body as the service reads it, in one step."""

from __future__ import annotations

from receiver.contract.message import Delivery, arguments_of, delivery_of, open_push


def decode(body: bytes) -> Delivery:
    """The delivery, once its arguments can be read too; raises Rejected."""
    delivery = delivery_of(open_push(body))
    arguments_of(delivery)
    return delivery
