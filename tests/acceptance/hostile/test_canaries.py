"""No secret leaves the service: not in an answer, and not in a line of the log that is not meant for it.

Every ending of a delivery is brought about with secrets in every place that has one. A new ending without a scenario
here is an error.
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import pytest

from receiver.dev.processes import EMAIL
from receiver.emulator import push_client as pusher
from receiver.emulator.signer import Signer
from receiver.endings.outcomes import Broken, Ending
from receiver.settings import PUSH_PATH
from receiver.tasks.naming import dead_letter_topic_name
from tests.acceptance.delivery.scenarios import FAILED
from tests.stage import tokens
from tests.stage.canaries import Canary, address, entries, guarded, out_of_place, sung
from tests.stage.instance import Instance
from tests.stage.receivers import new_instance
from tests.stage.record import Record
from tests.stage.servers import LocalServer
from tests.stage.tokens import forged
from tests.stage.waiting import eventually

MODULE = "canary_tasks"
DEAD_LETTERS = f"{dead_letter_topic_name('dev', 'gyrinx')}-sub"
GIVEN = {"secret": {Canary.KEY: [Canary.ARGUMENT]}}
ENVIRONMENT = {
    "K_SERVICE": "tasks",
    "DATABASE_PASSWORD": Canary.PASSWORD,
    "CANARY_RESULT": Canary.RESULT,
    "CANARY_RAISED": Canary.RAISED,
    "CANARY_SWITCH": "off",
    "TASKS_THREADS": "1",
    "TASKS_DB_POOL_TIMEOUT": "0.2s",
    "TASKS_MAX_BODY_BYTES": "64KiB",
    "TASKS_MAX_REJECTIONS": "2",
    "TASKS_REJECTION_GRACE": "0",
}
HEADERS = {
    "x-api-key": Canary.HEADER,
    "cookie": f"session={Canary.HEADER}",
    "traceparent": Canary.HEADER,
    "user-agent": f"pusher/{Canary.HEADER}",
    "x-cloud-trace-context": f"{Canary.HEADER}/1;o=1",
}
ATTRIBUTES = {
    "secret": Canary.ATTRIBUTE,
    Canary.ATTRIBUTE: "1",
    "googclient_traceparent": f"00-{Canary.ATTRIBUTE}-01",
}


class Cage:
    """A receiver full of canaries, and what one test does to it. Every answer that it gives is listened to."""

    def __init__(self, instance: Instance, postgres: LocalServer, folder: Path, label: str) -> None:
        self.instance = instance
        self.postgres = postgres
        self.record = Record(postgres.url())
        self.folder = folder
        self.label = label
        self._before = len(instance.log())
        self._tokens: set[str] = set()

    async def push(self, task: str, label: str = "", **arguments: Any) -> int:
        """A push of this task with a secret among its arguments."""
        label = label or self.label
        given = arguments or GIVEN
        body = pusher.message(task, [label], given, task_id=label, attributes=ATTRIBUTES)
        return await self.raw(body)

    async def raw(self, body: bytes, authorization: str = "") -> int:
        headers = self.instance.pusher().headers() | HEADERS
        if authorization:
            headers["authorization"] = authorization
        self._tokens |= set(headers["authorization"].removeprefix("Bearer ").split("."))
        answer = await asyncio.to_thread(
            httpx.post, self.instance.url + PUSH_PATH, content=body, headers=headers, timeout=60
        )
        assert sung(f"{answer.headers}{answer.text}") == set()
        return answer.status_code

    @asynccontextmanager
    async def running(self, task: str, label: str = "") -> AsyncIterator[asyncio.Task[int]]:
        """While an execution of this task runs."""
        label = label or self.label
        pushed = asyncio.create_task(self.push(task, label))
        try:
            await eventually((self.folder / label).exists)
            yield pushed
        finally:
            (self.folder / f"{label}.open").touch()
            await pushed

    def log(self) -> list[dict[str, Any]]:
        """What was logged since the test began."""
        return entries(self.instance.log()[self._before :])

    def leaks(self) -> list[tuple[str, Mapping[str, set[str]]]]:
        """The lines since the test began that hold what is not meant for them, a piece of a good token included."""
        return [
            (entry["message"], out)
            for entry in self.log()
            if (
                out := out_of_place(entry) | {token: {token} for token in self._tokens if token in str(entry)}
            )
        ]

    async def ended(self, ending: str) -> None:
        """Returns when the log says that a delivery ended so."""

        def said() -> bool:
            return any(entry.get("ending") == ending for entry in self.log())

        try:
            await eventually(said)
        except AssertionError:
            raise AssertionError(
                f"no delivery ended {ending}: {self.instance.log()[self._before :]}"
            ) from None


Scenario: TypeAlias = Callable[[Cage], Awaitable[Sequence[int]]]


def pushed(task: str, *, times: int = 1, **arguments: Any) -> Scenario:
    async def play(cage: Cage) -> list[int]:
        return [await cage.push(task, **arguments) for _ in range(times)]

    return play


def body(make: Callable[[str], bytes], *, times: int = 1) -> Scenario:
    async def play(cage: Cage) -> list[int]:
        return [await cage.raw(make(cage.label)) for _ in range(times)]

    return play


def enveloped(data: bytes, subscription: str = "s") -> Callable[[str], bytes]:
    """An envelope around a payload of the test's own."""

    def make(label: str) -> bytes:
        message = {"data": base64.b64encode(data).decode(), "messageId": label, "attributes": ATTRIBUTES}
        return json.dumps(
            {"message": message, "subscription": f"projects/p/subscriptions/{subscription}"}
        ).encode()

    return make


def payload(subscription: str = "s", **fields: object) -> Callable[[str], bytes]:
    return enveloped(json.dumps({"task_name": "succeed", **fields}).encode(), subscription)


async def not_due(cage: Cage) -> list[int]:
    await cage.record.insert(cage.label, "succeed", task_path=f"{MODULE}.succeed", run_after_in=3600)
    return [await cage.push("succeed")]


async def exhausted(cage: Cage) -> list[int]:
    await cage.record.insert(cage.label, "try_once", task_path=f"{MODULE}.try_once", **FAILED)
    return [await cage.push("try_once")]


async def busy(cage: Cage) -> list[int]:
    async with cage.running("wait"):
        return [await cage.push("wait")]


async def full(cage: Cage) -> list[int]:
    async with cage.running("wait_in_thread"):
        return [await cage.push("wait_in_thread", f"{cage.label}-other")]


async def lost(cage: Cage) -> list[int]:
    async with cage.running("wait") as answer:
        await cage.record.fetch("UPDATE task_executions SET fence = fence + 9 WHERE task_id = $1", cage.label)
    return [await answer]


async def abandoned(cage: Cage) -> list[int]:
    try:
        return [await cage.push("refuse_to_stop")]
    finally:
        (cage.folder / f"{cage.label}.open").touch()


async def database_down(cage: Cage) -> list[int]:
    cage.postgres.halt()
    try:
        return [await cage.push("succeed")]
    finally:
        cage.postgres.resume()


async def password_changed(cage: Cage) -> list[int]:
    """The database refuses the password that the service was started with, at a claim and inside a task."""
    role = f'ALTER ROLE "{Canary.USER}" PASSWORD'
    drop = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'receiver %'"
    await cage.record.fetch(f"{role} 'another'")
    try:
        await cage.record.fetch(drop)
        return [await cage.push("succeed")]
    finally:
        await cage.record.fetch(f"{role} '{Canary.PASSWORD}'")


async def forbidden(cage: Cage) -> list[int]:
    """Tokens whose every text is a canary; the catalogue of hostile ones has its own listener (`scenarios.hostile`)."""
    signer = tokens.stranger()
    secrets = [
        Canary.TOKEN,
        f"{Canary.TOKEN}.{Canary.TOKEN}.{Canary.TOKEN}",
        forged(signer, Canary.TOKEN, f"{Canary.TOKEN}@example.com", header={"kid": Canary.TOKEN}),
        forged(signer, cage.instance.url, EMAIL, header={"kid": Canary.TOKEN, "alg": Canary.TOKEN}),
    ]
    message = pusher.message("succeed", [cage.label], GIVEN, attributes=ATTRIBUTES)
    return [await cage.raw(message, f"Bearer {secret}") for secret in secrets]


async def disconnected(cage: Cage) -> list[int]:
    """Half of a body, and the client is gone."""
    fields = {"host": "localhost", "content-length": "1000", **cage.instance.pusher().headers(), **HEADERS}
    head = "\r\n".join([f"POST {PUSH_PATH} HTTP/1.1", *(f"{key}: {value}" for key, value in fields.items())])

    def send() -> None:
        with socket.create_connection(("127.0.0.1", cage.instance.port), timeout=30) as connection:
            connection.sendall(f"{head}\r\n\r\n{Canary.ARGUMENT}".encode())

    await asyncio.to_thread(send)
    return []


SCENARIOS: list[tuple[str, list[int], Scenario]] = [
    ("Succeeded", [200], pushed("succeed")),
    ("Succeeded", [200], pushed("succeed_in_thread")),
    ("Succeeded", [200], pushed("write", secret=Canary.ARGUMENT)),
    ("Done", [200, 200], pushed("succeed", times=2)),
    ("Skipped", [200], pushed("switched")),
    ("NotDue", [200], not_due),
    ("Exhausted", [200], exhausted),
    ("Failed", [500], pushed("fail")),
    ("Failed", [500], pushed("fail_in_thread")),
    ("Failed", [200], pushed("give_up")),
    ("Failed", [200], pushed("try_once")),
    ("Failed", [200], pushed("return_the_unstorable", secret=Canary.ARGUMENT)),
    ("Failed", [200], pushed("return_an_object", secret=Canary.ARGUMENT)),
    ("Failed", [200], pushed("return_too_much", secret=Canary.ARGUMENT)),
    ("Failed", [200], pushed("write_and_return_the_unstorable", secret=Canary.ARGUMENT)),
    ("Failed", [500], pushed("hide_an_error", secret=Canary.ARGUMENT)),
    ("Failed", [500], pushed("commit_behind_its_back", secret=Canary.ARGUMENT)),
    ("Failed", [500], pushed("break_a_rule", secret=Canary.ARGUMENT)),
    ("Failed", [500], pushed("exceed")),
    ("Abandoned", [500], abandoned),
    ("Lost", [500], lost),
    ("Refused", [400], body(lambda _: Canary.ARGUMENT.encode())),
    ("Refused", [400], body(lambda _: b'{"message": {"data": "%b"}}' % Canary.ARGUMENT.encode())),
    ("Refused", [400], body(lambda _: b'{"message": "%b"}' % Canary.ARGUMENT.encode())),
    ("Refused", [400], body(enveloped(Canary.ARGUMENT.encode()))),
    ("Refused", [400], body(enveloped(b'{"args": ["%b", ]}' % Canary.ARGUMENT.encode()))),
    ("Refused", [400], body(payload(args=Canary.ARGUMENT))),
    ("Refused", [400], body(payload(args={Canary.KEY: Canary.ARGUMENT}))),
    ("Refused", [400], body(payload(kwargs=[Canary.ARGUMENT]))),
    ("Refused", [400], body(payload(enqueued_at=Canary.ARGUMENT))),
    ("Refused", [400], body(payload(args=[Canary.ARGUMENT, "\0"]))),
    ("Refused", [400], body(payload(args=[Canary.ARGUMENT] * 9))),
    ("Refused", [400], body(payload(kwargs={"label": Canary.ARGUMENT}))),
    ("Refused", [400], body(enveloped(
        b'{"task_name": "succeed", "args": ["x", {"%b": 1e1000000}]}' % Canary.KEY.encode()))),
    ("Refused", [400], body(payload(task_name="nobody_knows", args=[Canary.ARGUMENT]))),
    ("Refused", [400, 200], body(payload(task_name="nobody_knows", kwargs=GIVEN), times=2)),
    ("DeadLettered", [200], body(payload(DEAD_LETTERS, kwargs=GIVEN))),
    ("DeadLettered", [200], body(enveloped(Canary.ARGUMENT.encode(), DEAD_LETTERS))),
    ("Oversized", [400], pushed("succeed", secret=Canary.ARGUMENT * 10_000)),
    ("Denied", [403] * 4, forbidden),
    ("Busy", [429], busy),
    ("Full", [429], full),
    ("Disconnected", [], disconnected),
    ("Unrecorded", [500], database_down),
    ("Unrecorded", [500], password_changed),
]  # fmt: skip
HANDED_BACK = "HandedBack"


@contextmanager
def receiver(
    postgres: LocalServer, signer: Signer, certs_url: str, folder: Path, env: Mapping[str, str] | None = None
) -> Iterator[Instance]:
    url = address(postgres, password=Canary.STALE_PASSWORD)
    with new_instance(url, signer, certs_url, folder, ENVIRONMENT | dict(env or {}), MODULE) as running:
        yield running


@pytest.fixture(scope="module")
def postgres() -> Iterator[LocalServer]:
    with guarded() as server:
        yield server


@pytest.fixture(scope="module")
def instance(postgres: LocalServer, signer: Signer, certs_url: str, folder: Path) -> Iterator[Instance]:
    with receiver(postgres, signer, certs_url, folder) as running:
        yield running


@pytest.mark.parametrize(
    ("ending", "statuses", "play"),
    SCENARIOS,
    ids=[f"{number}-{ending}" for number, (ending, _, _) in enumerate(SCENARIOS)],
)
async def test_no_secret_leaves_with_an_ending(
    instance: Instance, postgres: LocalServer, folder: Path, label: str,
    ending: str, statuses: list[int], play: Scenario,
) -> None:  # fmt: skip
    cage = Cage(instance, postgres, folder, label)

    assert await play(cage) == statuses

    await cage.ended(ending)
    assert cage.leaks() == []


async def test_no_secret_leaves_with_a_shutdown(
    postgres: LocalServer, signer: Signer, certs_url: str, folder: Path, label: str
) -> None:
    with receiver(postgres, signer, certs_url, folder, {"TASKS_SHUTDOWN_GRACE": "0"}) as instance:
        cage = Cage(instance, postgres, folder, label)
        pushed = asyncio.create_task(cage.push("wait"))
        await eventually((folder / label).exists)
        instance.terminate()
        assert await pushed == 500
        assert await asyncio.to_thread(instance.process.wait, 60) == 0
        await cage.ended(HANDED_BACK)
        assert cage.leaks() == []


def test_every_ending_is_listened_to() -> None:
    """All but Broken, which takes a defect of the receiver's own."""
    known = {kind.__name__ for kind in typing.get_args(Ending)} - {Broken.__name__}
    assert {ending for ending, _, _ in SCENARIOS} | {HANDED_BACK} == known


STRAY = [
    ("GET", f"/{Canary.HEADER}?{Canary.HEADER}={Canary.HEADER}", 404),
    ("GET", f"{PUSH_PATH}?{Canary.HEADER}", 405),
    ("DELETE", f"{PUSH_PATH}?{Canary.HEADER}", 405),
    ("GET", f"/health?{Canary.HEADER}", 200),
    ("GET", f"/ready?{Canary.HEADER}", 200),
    ("GET", f"/tasks/status?group={Canary.HEADER}", 404),
]


@pytest.mark.parametrize(("method", "path", "status"), STRAY)
async def test_nothing_of_any_other_request_is_repeated(
    instance: Instance, postgres: LocalServer, folder: Path, label: str, method: str, path: str, status: int
) -> None:
    cage = Cage(instance, postgres, folder, label)
    answer = await asyncio.to_thread(
        httpx.request,
        method,
        instance.url + path,
        headers=HEADERS,
        content=Canary.ARGUMENT.encode(),
        timeout=60,
    )
    assert answer.status_code == status
    assert sung(f"{answer.headers}{answer.text}") == set()
    assert await cage.push("succeed") == 200  # what was logged before this is there when this is
    await cage.ended("Succeeded")
    assert cage.leaks() == []


@pytest.mark.parametrize(
    "request_",
    [
        f"{Canary.HEADER}\r\n\r\n",
        f"POST {PUSH_PATH} HTTP/9.9\r\nx: {Canary.HEADER}\r\n\r\n",
        f"POST {PUSH_PATH} HTTP/1.1\r\nauthorization: {Canary.TOKEN}\x00\r\n\r\n",
        f"POST {PUSH_PATH} HTTP/1.1\r\nauthorization: {Canary.TOKEN * 9_000}\r\n\r\n",
        f"CONNECT {Canary.HEADER}:443 HTTP/1.1\r\n\r\n",
    ],
    ids=["no HTTP", "version", "NUL", "large", "CONNECT"],
)
async def test_nothing_of_what_is_no_request_is_repeated(
    instance: Instance, postgres: LocalServer, folder: Path, label: str, request_: str
) -> None:
    cage = Cage(instance, postgres, folder, label)

    def ask() -> str:
        with (
            socket.create_connection(("127.0.0.1", instance.port), timeout=60) as connection,
            suppress(OSError),
        ):
            connection.sendall(request_.encode())
            return connection.recv(65536).decode()
        return ""  # closed before it was all sent

    assert sung(await asyncio.to_thread(ask)) == set()
    assert await cage.push("succeed") == 200
    await cage.ended("Succeeded")
    assert cage.leaks() == []


def test_neither_the_database_nor_the_process_list_is_told_a_secret(
    instance: Instance, postgres: LocalServer, folder: Path, label: str
) -> None:
    """What others see of the service: the database's log and activity, and the command that it was started with."""
    cage = Cage(instance, postgres, folder, label)

    async def play() -> list[dict[str, Any]]:
        for task in ("succeed", "write", "fail", "hide_an_error", "write_and_return_the_unstorable"):
            await cage.push(task, f"{label}-{task}", secret=Canary.ARGUMENT)
        return await cage.record.fetch("SELECT query FROM pg_stat_activity WHERE pid <> pg_backend_pid()")

    activity = asyncio.run(play())
    command = Path(f"/proc/{instance.pid}/cmdline").read_text()
    log = (postgres.folder / "server.log").read_text()
    assert "current transaction is aborted" in log
    assert sung(f"{activity}{command}{log}") <= {Canary.USER}
