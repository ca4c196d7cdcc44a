"""What a skilled developer writes by hand: raw asyncpg from a pool, verified tokens remembered, two statements a delivery.

The states and the guard are there (a duplicate does not run twice, a failure is recorded); leases with a heartbeat,
fences, rejections, hand-back, timeouts and everything else that a receiver needs at night are not.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx
import msgspec
import uvicorn
from google.auth import jwt
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

POOL = 10
TABLE = """
CREATE TABLE IF NOT EXISTS executions (
    task_id text PRIMARY KEY, task_name text NOT NULL, args jsonb NOT NULL, kwargs jsonb NOT NULL, status text NOT NULL,
    attempt int NOT NULL, lease_until timestamptz, result jsonb, error text, enqueued_at timestamptz,
    started_at timestamptz, finished_at timestamptz)
"""
CLAIM = """
INSERT INTO executions (task_id, task_name, args, kwargs, status, attempt, lease_until, started_at)
VALUES ($1, $2, $3, $4, 'RUNNING', 1, now() + interval '60 seconds', now())
ON CONFLICT (task_id) DO UPDATE SET status = 'RUNNING', attempt = executions.attempt + 1,
    lease_until = now() + interval '60 seconds', started_at = now()
WHERE executions.status = 'FAILED' OR (executions.status = 'RUNNING' AND executions.lease_until < now())
RETURNING attempt
"""
SETTLE = """
UPDATE executions SET status = $3, result = $4, error = $5, finished_at = now(), lease_until = NULL
WHERE task_id = $1 AND attempt = $2 AND status = 'RUNNING'
"""


class Message(msgspec.Struct):
    """As Pub/Sub wraps it."""

    data: bytes


class Envelope(msgspec.Struct):
    """The body of a push."""

    message: Message


class Payload(msgspec.Struct):
    """What a task is called with."""

    task_id: str
    task_name: str
    args: list[Any]
    kwargs: dict[str, Any]


async def add(*parts: Any) -> int:
    """The task."""
    return len(parts)


TASKS = {"add": add}
envelope = msgspec.json.Decoder(Envelope)
payload = msgspec.json.Decoder(Payload)
known: dict[str, float] = {}


def verify(token: str, certs: dict[str, str]) -> float:
    """When the token ends; raises for one that is not ours."""
    claims = jwt.decode(token, certs=certs, audience=os.environ["AUDIENCE"])
    if claims["email"] != os.environ["EMAIL"] or not claims["email_verified"]:
        raise ValueError("not ours")
    return float(claims["exp"])


async def push(request: Request) -> Response:
    """One delivery."""
    token = request.headers["authorization"].removeprefix("Bearer ")
    if known.get(token, 0) < time.time():
        try:
            known[token] = await run_in_threadpool(verify, token, request.app.state.certs)
        except ValueError:
            return Response(status_code=403)
    task = payload.decode(envelope.decode(await request.body()).message.data)
    pool: asyncpg.Pool = request.app.state.pool
    encode = msgspec.json.encode
    attempt = await pool.fetchval(
        CLAIM, task.task_id, task.task_name, encode(task.args).decode(), encode(task.kwargs).decode()
    )
    if attempt is None:
        status = await pool.fetchval("SELECT status FROM executions WHERE task_id = $1", task.task_id)
        return Response(status_code=200 if status == "SUCCESSFUL" else 429)
    try:
        result = await TASKS[task.task_name](*task.args, **task.kwargs)
    except Exception as error:  # noqa: BLE001 - whatever a task raises is its failure
        await pool.execute(SETTLE, task.task_id, attempt, "FAILED", None, repr(error))
        return Response(status_code=500)
    await pool.execute(SETTLE, task.task_id, attempt, "SUCCESSFUL", encode(result).decode(), None)
    return Response("ok")


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """The pool and the certificates."""
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=1, max_size=POOL) as pool:
        await pool.execute(TABLE)
        app.state.pool = pool
        async with httpx.AsyncClient() as client:
            app.state.certs = (await client.get(os.environ["CERTS_URL"])).json()
        yield


app = Starlette(routes=[Route("/tasks/pubsub/", push, methods=["POST"])], lifespan=lifespan)

if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        http="httptools",
        loop="uvloop",
        access_log=False,
        log_level="warning",
    )
