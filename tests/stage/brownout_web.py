"""A web application as many are: a small pool, one transaction a request, and a task enqueued in it."""

from __future__ import annotations

import os
import socket
import sys

import uvicorn
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from receiver import task
from tests.stage.brownout import ENQUEUES, LOOKS, POOL
from tests.stage.servers import for_sqlalchemy


@task
def confirm(order: int) -> None:
    """What an order leads to."""


engine = create_async_engine(
    for_sqlalchemy(os.environ["DATABASE_URL"], "asyncpg"), pool_size=POOL, max_overflow=0, pool_timeout=120
)


async def order(_: Request) -> Response:
    """Writes, and enqueues."""
    async with AsyncSession(engine) as session, session.begin():
        await session.execute(text("SELECT 1"))
        result = await confirm.using(connection=session).aenqueue(1)
    return PlainTextResponse(result.id)


async def look(_: Request) -> Response:
    """Only reads."""
    async with AsyncSession(engine) as session, session.begin():
        await session.execute(text("SELECT 1"))
    return PlainTextResponse("seen")


app = Starlette(routes=[Route(ENQUEUES, order, methods=["POST"]), Route(LOOKS, look, methods=["POST"])])


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0)) as listening:
        host, port = listening.getsockname()
        sys.stdout.write(f"{host}:{port}\n")
        sys.stdout.flush()
        # By its import path: a task of the module `__main__` cannot be enqueued.
        config = uvicorn.Config(
            "tests.stage.brownout_web:app", log_level="warning", lifespan="off", timeout_keep_alive=120
        )
        uvicorn.Server(config).run(sockets=[listening])
