"""Tasks of an application with Django's logging and Sentry, both set up as their documentation says."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from pathlib import Path

import django
import sentry_sdk
from django.conf import settings
from sentry_sdk.integrations.asyncio import enable_asyncio_integration

from receiver import PermanentError, TaskContext, TaskRoute, task

FOLDER = Path(os.environ.get("MARKS_FOLDER", "."))
log = logging.getLogger("shop")

LOGGING = {
    "version": 1,
    "disable_existing_loggers": True,
    "formatters": {"own": {"format": "own %(message)s"}},
    "handlers": {"own": {"class": "logging.StreamHandler", "formatter": "own"}},
    "loggers": {"shop": {}, "shop.own": {"handlers": ["own"], "propagate": False, "level": "INFO"}},
}


def set_up() -> None:
    """TASKS_SETUP."""
    settings.configure(LOGGING=LOGGING, DEBUG=False)
    django.setup()
    sentry_sdk.init(dsn=os.environ["SENTRY_DSN"])


def arrive(label: str) -> Path:
    """Leaves a mark; the path of the gate."""
    with (FOLDER / label).open("a") as marks:
        marks.write("x")
    return FOLDER / f"{label}.open"


def known_as(user: str | None) -> None:
    if user is not None:
        sentry_sdk.set_user({"id": user})
        sentry_sdk.set_tag(f"tag-{user}", "yes")


async def sold_out(article: str) -> None:
    raise LookupError(f"{article} is sold out")


@task
async def buy(label: str, user: str | None = None, *, permanent: bool = False, child: bool = False) -> None:
    """Waits at its gate, then fails."""
    known_as(user)
    gate = arrive(label)
    while not gate.exists():  # noqa: ASYNC110 - a gate of the test
        await asyncio.sleep(0.01)
    if permanent:
        raise PermanentError("no such article")
    if child:
        await asyncio.create_task(sold_out("a book"))
    await sold_out("a book")


@task
def buy_in_thread(label: str, user: str | None = None) -> None:
    """The same, in a thread."""
    known_as(user)
    gate = arrive(label)
    while not gate.exists():
        time.sleep(0.01)
    raise LookupError("a book is sold out")


@task
async def wait(label: str) -> None:
    arrive(label)
    await asyncio.sleep(60)


@task
def wait_in_thread(ctx: TaskContext, label: str) -> None:
    arrive(label)
    while not ctx.cancelled:
        time.sleep(0.01)
    raise InterruptedError("called off")


@task
async def note_error(label: str) -> None:
    """Logs its exception, and lets it go on, as many do."""
    arrive(label)
    try:
        await sold_out("a book")
    except LookupError:
        log.exception("cannot buy", extra={"task_id": label})
        raise


@task
async def watch_child_tasks(label: str) -> None:
    enable_asyncio_integration()
    arrive(label)


@task
async def speak(label: str) -> None:
    """Says something in every place where a task's code can be."""
    arrive(label)
    loop = asyncio.get_running_loop()

    async def child() -> None:
        log.info("child", extra={"json_fields": {"order": 17}, "labels": {"tenant": "acme"}})

    await asyncio.create_task(child())
    await asyncio.to_thread(log.info, "thread")
    await loop.run_in_executor(None, log.info, "executor")
    loop.call_soon(log.info, "callback")
    await asyncio.sleep(0)
    logging.getLogger("shop.own").info("formatted")
    log.warning("spoken", extra={"http_request": {"status": 404}, "operation": {"id": label}})


@task
def speak_in_thread(label: str) -> None:
    arrive(label)
    log.info("spoken")


tasks = [
    TaskRoute(buy, max_attempts=2),
    TaskRoute(buy_in_thread),
    TaskRoute(wait, timeout=1),
    TaskRoute(wait_in_thread, timeout=1),
    TaskRoute(note_error),
    TaskRoute(watch_child_tasks),
    TaskRoute(speak),
    TaskRoute(speak_in_thread),
]
