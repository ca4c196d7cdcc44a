"""The tasks. The list `tasks` is what the receiver serves; everything else is ordinary Python."""

from __future__ import annotations

import logging
from datetime import timedelta

from sqlalchemy import text

from receiver import PermanentError, TaskContext, TaskRoute, task

logger = logging.getLogger(__name__)

# Your migrations will own the tables of your tasks. Until there are some, a task makes the one that it needs.
CREATE = text(
    "CREATE TABLE IF NOT EXISTS orders"
    " (id text PRIMARY KEY, article text NOT NULL, placed_at timestamptz NOT NULL DEFAULT now())"
)
INSERT = text("INSERT INTO orders (id, article) VALUES (:id, :article)")
DELETE = text("DELETE FROM orders WHERE placed_at < now() - CAST(:age AS interval)")


@task
async def send_welcome_email(user: str, *, language: str = "en") -> dict[str, str]:
    """An ordinary task. What it returns is stored as its result: keep it small, and free of secrets."""
    subject = {"de": "Willkommen", "fr": "Bienvenue"}.get(language, "Welcome")
    logger.info("sending %r to %s", subject, user)  # here you would await your mail provider
    return {"sent_to": user, "subject": subject}


@task
async def place_order(ctx: TaskContext, article: str) -> str:
    """Writes in its own transaction, which commits together with the record of its success, or not at all."""
    if not article:
        raise PermanentError("an order needs an article")  # final: no retry can help
    connection = await ctx.connection()
    await connection.execute(CREATE)
    await connection.execute(INSERT, {"id": ctx.task_id, "article": article})
    await ctx.enqueue(send_welcome_email, f"the buyer of {article}")  # joins the same transaction
    return ctx.task_id


@task
async def delete_old_orders(ctx: TaskContext) -> int:
    """Runs every night; see its route."""
    connection = await ctx.connection()
    await connection.execute(CREATE)
    deleted = await connection.execute(DELETE, {"age": timedelta(days=90)})
    return deleted.rowcount


tasks = [
    TaskRoute(send_welcome_email),
    TaskRoute(place_order, max_attempts=5),
    TaskRoute(
        delete_old_orders,
        schedule="0 3 * * *",  # UTC, unless schedule_timezone names a zone
        kill_switch="ENABLE_DELETE_OLD_ORDERS",  # this variable set to off skips it, without new code
    ),
]
