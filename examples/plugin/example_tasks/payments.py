"""Payments: errors that a retry can help, errors that it cannot, and an effect that must not happen twice."""

from __future__ import annotations

from typing import TypedDict

from receiver import PermanentError, TaskContext, task


class ProviderUnavailableError(Exception):
    """The payment provider does not answer. Any ordinary exception is retried."""


class Charged(TypedDict):
    order_id: str
    pence: int
    reference: str


@task
async def charge(ctx: TaskContext, order_id: str, pence: int, card: str = "card_ok") -> Charged:
    """Charge a card once.

    `ctx.task_id` is the same on every attempt: given to the provider as the idempotency key, it makes a retry after
    a lost answer harmless.
    """
    if pence <= 0:
        raise PermanentError(f"an order of {pence} pence cannot be charged")
    return {"order_id": order_id, "pence": pence, "reference": await _provider(card, key=ctx.task_id)}


async def _provider(card: str, *, key: str) -> str:
    """Stands in for a provider's client, with the test cards that providers offer."""
    if card == "card_declined":
        raise PermanentError("the card was declined")
    if card == "card_timeout":
        raise ProviderUnavailableError("no answer from the payment provider")
    return f"ch_{key[-12:]}"
