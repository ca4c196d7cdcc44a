"""How each ending of the contract is brought about: a scenario plays on a `Stage` and hands back the push in question."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

import asyncpg

from receiver.contract.encode import encode_envelope, encode_payload
from receiver.dev.processes import EMAIL
from receiver.emulator import push_client as pusher
from receiver.tasks.naming import dead_letter_topic_name, topic_name
from tests.stage import malformed, tokens
from tests.stage.receivers import Stage
from tests.stage.record import MODULE, NAMESPACE
from tests.stage.waiting import eventually
from tests.stage.wire import Answer


@dataclass(frozen=True, slots=True)
class Sent:
    """One push: what it was told, what it was, and which execution it was about."""

    answer: Answer
    body: bytes
    task_id: str


Scenario: TypeAlias = Callable[[Stage], Awaitable[Sent]]


def message(stage: Stage, task: str, **kwargs: Any) -> bytes:
    """A message for this task under the stage's label."""
    return pusher.message(task, kwargs={"label": stage.label, **kwargs}, task_id=stage.label)


async def send(stage: Stage, body: bytes, task_id: str | None = None) -> Sent:
    return Sent(await stage.push(body), body, task_id or stage.label)


def push(task: str, *, times: int = 1, **kwargs: Any) -> Scenario:
    """One message, delivered so many times; the last delivery counts."""

    async def play(stage: Stage) -> Sent:
        body = message(stage, task, **kwargs)
        for _ in range(times - 1):
            await stage.push(body)
        return await send(stage, body)

    return play


def with_row(play: Scenario, task: str, **columns: Any) -> Scenario:
    """The record knows the execution already."""

    async def then(stage: Stage) -> Sent:
        await stage.record.insert(stage.label, task, **columns)
        return await play(stage)

    return then


SUCCESSFUL: dict[str, Any] = {
    "status": "SUCCESSFUL", "final": True, "attempt": 1, "fence": 1, "started_at_in": -9, "finished_at_in": -8,
}  # fmt: skip
FAILED: dict[str, Any] = {
    "status": "FAILED", "attempt": 2, "fence": 2, "started_at_in": -9, "finished_at_in": -8,
    "error_type": "ValueError", "error_message": "out of paper",
}  # fmt: skip
LEFT_RUNNING: dict[str, Any] = {
    "status": "RUNNING", "attempt": 2, "fence": 2, "started_at_in": -90, "lease_expires_at_in": -30,
    "lease_owner": "an instance that is gone", "ran_on": "an instance that is gone",
    "claim_token": "7f3c5a38-9d7b-4d56-8f35-6ad2cb4f0000",
}  # fmt: skip


async def positional(stage: Stage) -> Sent:
    return await send(stage, pusher.message("succeed", [stage.label, 7], task_id=stage.label))


async def without_task_id(stage: Stage) -> Sent:
    raw = json.dumps({"task_name": "succeed", "kwargs": {"label": stage.label}}).encode()
    body = malformed.envelope(data=malformed.data(raw), messageId=stage.label)
    return await send(stage, body)


def scheduled(firings: int) -> Scenario:
    """Cloud Scheduler's message, fired so many times; the last firing is delivered twice."""

    async def play(stage: Stage) -> Sent:
        ids = [f"{stage.label}{number}" for number in range(firings)]
        for message_id in ids:
            await stage.push(pusher.scheduled_message("tick", message_id=message_id))
        for message_id in ids:
            fired = f"scheduled-tick-{message_id}"
            row = await stage.record.row(fired)
            assert row is not None
            assert (row["status"], row["attempt"], stage.calls(fired)) == ("SUCCESSFUL", 1, 1)
        body = pusher.scheduled_message("tick", message_id=ids[-1])
        return await send(stage, body, f"scheduled-tick-{ids[-1]}")

    return play


async def replayed_firing(stage: Stage) -> Sent:
    """A firing's own id, sent with an enqueued_at as a replay does, is not extended a second time."""
    task_id = f"scheduled-tick-{stage.label}"
    return await send(stage, pusher.message("tick", task_id=task_id), task_id)


async def while_running(stage: Stage) -> Sent:
    async with running(stage, "wait"):
        return await send(stage, message(stage, "wait"))


@asynccontextmanager
async def running(stage: Stage, task: str, *labels: str, **kwargs: Any) -> AsyncIterator[None]:
    """Executions that run until the block ends, and then succeed."""
    names = labels or (stage.label,)
    bodies = [pusher.message(task, kwargs={"label": name, **kwargs}, task_id=name) for name in names]
    pushes = [asyncio.create_task(stage.push(body)) for body in bodies]
    try:
        for name in names:
            await stage.called(name)
        yield
    finally:
        for name in names:
            stage.let_go(name)
        answers = await asyncio.gather(*pushes)
    assert {answer.status for answer in answers} == {200}


async def two_suspects(stage: Stage) -> Sent:
    """A suspect while another one runs."""
    first = f"{stage.label}-first"
    await stage.record.insert(first, "wait", crashes=2)
    await stage.record.insert(stage.label, "succeed", crashes=2)
    async with running(stage, "wait", first):
        return await send(stage, message(stage, "succeed"))


def beside(task: str, then: str, *, others: int, size: int = 0) -> Scenario:
    """A push while so many other executions run."""

    async def play(stage: Stage) -> Sent:
        ballast = {"ballast": "b" * size} if size else {}
        async with running(stage, task, *(f"{stage.label}-{number}" for number in range(others)), **ballast):
            return await send(stage, message(stage, then, **ballast))

    return play


async def out_of_slots(stage: Stage) -> Sent:
    """Somebody else has every connection that PostgreSQL allows."""
    stage.postgres.restart()
    taken: list[Any] = []
    try:
        while True:
            try:
                taken.append(await stage.record.connect())
            except asyncpg.TooManyConnectionsError:
                break
        return await send(stage, message(stage, "succeed"))
    finally:
        for connection in taken:
            await connection.close()


async def pool_timeout(stage: Stage) -> Sent:
    """The ledger's connection for claims is held up by a lock, and another claim waits behind it."""
    connection = await stage.record.connect()
    async with connection.transaction():
        await connection.execute("LOCK TABLE task_executions IN ACCESS EXCLUSIVE MODE")
        other = f"{stage.label}-other"
        first = asyncio.create_task(stage.push(pusher.message("succeed", [other], task_id=other)))
        waiting = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'receiver ledger' AND wait_event_type = 'Lock'"
        await eventually(lambda: stage.record.fetch(waiting))
        sent = await send(stage, message(stage, "succeed"))
    await connection.close()
    assert (await first).status == 200
    return sent


async def locked_out(stage: Stage) -> Sent:
    """The table stays locked for longer than a claim is repeated."""
    connection = await stage.record.connect()
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE task_executions IN ACCESS EXCLUSIVE MODE")
            return await send(stage, message(stage, "succeed"))
    finally:
        await connection.close()


async def database_down(stage: Stage) -> Sent:
    stage.postgres.halt()
    try:
        return await send(stage, message(stage, "succeed"))
    finally:
        stage.postgres.resume()


def dead_letter_of(project: str) -> Scenario:
    """The copy of the message that Pub/Sub has given up, from a project's subscription of the dead letters."""

    async def play(stage: Stage) -> Sent:
        payload = encode_payload(stage.label, "succeed", [], {"label": stage.label}, datetime.now(UTC))
        subscription = f"projects/{project}/subscriptions/{dead_letter_topic_name('dev', NAMESPACE)}-sub"
        return await send(
            stage, encode_envelope(payload, pusher.new_message_id(), datetime.now(UTC), subscription, {})
        )

    return play


dead_letter = dead_letter_of("local")


def by(path: str, task: str | None = None, project: str = "local") -> Scenario:
    """A message that comes by the subscription of a path: of a module, or of a task of the plugin."""

    async def play(stage: Stage) -> Sent:
        whole = path if "." in path else f"{MODULE}.{path}"
        subscription = f"projects/{project}/subscriptions/{topic_name('dev', NAMESPACE, whole)}-sub"
        kwargs = {"label": stage.label}
        return await send(
            stage, pusher.message(task or path, (), kwargs, task_id=stage.label, subscription=subscription)
        )

    return play


async def database_down_for_a_dead_letter(stage: Stage) -> Sent:
    stage.postgres.halt()
    try:
        return await dead_letter(stage)
    finally:
        stage.postgres.resume()


async def back_again(stage: Stage) -> Sent:
    await database_down(stage)
    return await send(stage, message(stage, "succeed"))


async def down_while_running(stage: Stage) -> Sent:
    """The task has run, and nothing can be written about it, however long that is tried."""
    body = message(stage, "wait_briefly")
    first = asyncio.create_task(stage.push(body))
    await stage.called()
    stage.postgres.halt()
    try:
        stage.let_go()
        answer = await first
    finally:
        stage.postgres.resume()
    return Sent(answer, body, stage.label)


async def restarted_while_running(stage: Stage) -> Sent:
    """The settlement finds a dead connection and a database that comes back."""
    body = message(stage, "wait")
    first = asyncio.create_task(stage.push(body))
    await stage.called()
    stage.postgres.halt()
    stage.let_go()
    stage.postgres.resume()
    return Sent(await first, body, stage.label)


async def abandoned(stage: Stage) -> Sent:
    """Its time is over and it does not stop; while its code runs on, nobody else may run it."""
    body = message(stage, "refuse_to_stop")
    sent = await send(stage, body)
    assert (await stage.push(body)).status == 429
    stage.let_go()

    async def settled() -> bool:
        row = await stage.record.row(stage.label)
        return row is not None and row["status"] == "FAILED"

    await eventually(settled)
    return sent


def body_of(
    make: Callable[[Stage], bytes], task_id: Callable[[Stage], str] = lambda stage: stage.label
) -> Scenario:
    """A body of the test's own making, delivered once."""

    async def play(stage: Stage) -> Sent:
        return await send(stage, make(stage), task_id(stage))

    return play


def poison(body: bytes) -> Scenario:
    """A body of the catalogue of malformed ones, delivered twice."""

    async def play(stage: Stage) -> Sent:
        await stage.record.forget(body)
        assert (await stage.push(body)).status == 400
        return await send(stage, body)

    return play


async def unreadable_number(stage: Stage) -> Sent:
    """Valid JSON with a number that is larger than any that Python reads, beside a good message that it must not harm."""
    raw = b'{"task_id": "%s", "task_name": "succeed", "args": ["x", 1e1000000]}' % stage.label.encode()
    other = f"{stage.label}-other"
    good = asyncio.create_task(stage.push(pusher.message("succeed", [other], task_id=other)))
    sent = await send(stage, malformed.envelope(data=malformed.data(raw), messageId=stage.label))
    assert (await good).status == 200
    return sent


async def until_acked(stage: Stage) -> Sent:
    """The same unknown message again and again."""
    body = pusher.message("nobody_knows", task_id=stage.label)
    counted = 0

    async def acked() -> Sent | None:
        nonlocal counted
        counted += 1
        answer = await stage.push(body)
        return Sent(answer, body, stage.label) if answer.status != 400 else None

    sent = await eventually(acked)
    kept = await stage.record.rejected(body)
    assert kept is not None
    assert kept["count"] == counted >= 3
    assert (kept["last_seen"] - kept["first_seen"]).total_seconds() >= 0.3
    return sent


async def announced_too_large(stage: Stage) -> Sent:
    """Its length alone is enough: nothing of it is ever sent."""
    length = (b"content-length", b"%d" % (21 * 1024 * 1024))
    headers = [length, *((name.encode(), value.encode()) for name, value in stage.pusher.headers().items())]
    return Sent(await stage.raw(headers, b""), message(stage, "succeed"), stage.label)


def hostile(build: tokens.Build) -> Scenario:
    """A good message with a bad token. Nothing is read: the body is announced, and never sent."""

    async def play(stage: Stage) -> Sent:
        before = len(stage.instance.log())
        signer = stage.instance.signer
        assert signer is not None
        headers = build(signer, stage.instance.url, EMAIL)
        body = message(stage, "succeed")
        answer = await stage.raw([*headers, (b"content-length", b"%d" % len(body))], b"")

        async def logged() -> str | None:
            log = stage.instance.log()[before:]
            return log if "403 push" in log and log.endswith("\n") else None

        line = await eventually(logged)
        for secret in secrets(headers):
            assert secret not in line
        return Sent(answer, body, stage.label)

    return play


def secrets(headers: tokens.Headers) -> set[str]:
    """Whatever of a token must not be in a log: its segments, and what they hold in clear."""
    pieces = {piece for _, value in headers for part in value.split() for piece in part.split(b".")}
    clear = set()
    for piece in pieces:
        try:
            decoded = json.loads(base64.urlsafe_b64decode(piece + b"=="))
        except (ValueError, RecursionError):
            continue
        if isinstance(decoded, dict):
            clear |= {str(decoded.get(name)) for name in ("kid", "sub", "azp", "email")}
    texts = {piece.decode("latin-1") for piece in pieces} | clear
    return {text for text in texts if len(text) >= 8}


def written(times: int, *, fail: bool = False) -> Scenario:
    """What the task wrote through its context is there so many times."""

    async def play(stage: Stage) -> Sent:
        sent = await push("write", fail=fail)(stage)
        made = await stage.record.fetch("SELECT 1 WHERE to_regclass('effects') IS NOT NULL")
        effects = (
            await stage.record.fetch("SELECT * FROM effects WHERE label = $1", stage.label) if made else []
        )
        assert len(effects) == times
        return sent

    return play


async def from_an_alias(stage: Stage) -> Sent:
    """A former name, with arguments that no longer fit."""
    return await send(stage, pusher.message("former_name", ["too", "many", "now"], task_id=stage.label))


def spelled(payload: Mapping[str, Any]) -> Callable[[Stage], bytes]:
    """A payload with these fields put over a sound one."""

    def make(stage: Stage) -> bytes:
        fields = json.loads(encode_payload(stage.label, "succeed", [stage.label], {}, None)) | payload
        return encode_envelope(
            json.dumps(fields).encode(), stage.label, datetime.now(UTC), pusher.SUBSCRIPTION, {}
        )

    return make
