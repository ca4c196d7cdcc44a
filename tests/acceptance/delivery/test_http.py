"""HTTP around the endpoint: methods, paths, bodies that are too large, clients that go, tokens off, a database away."""

from __future__ import annotations

import re
import select
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from receiver.emulator import push_client as pusher
from receiver.emulator.signer import Signer
from tests.acceptance.conftest import Start
from tests.stage.instance import Instance
from tests.stage.receivers import new_instance
from tests.stage.record import Record
from tests.stage.servers import LocalServer
from tests.stage.tokens import CASES
from tests.stage.waiting import eventually
from tests.stage.wire import Answer, authorization, read_answer

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def instance(
    shared_database_url: str, signer: Signer, certs_url: str, folder: Path, door: Mapping[str, str]
) -> Iterator[Instance]:
    with new_instance(shared_database_url, signer, certs_url, folder, door) as running:
        yield running


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
def test_the_endpoint_takes_post_only(instance: Instance, method: str) -> None:
    response = httpx.request(method, f"{instance.url}/tasks/pubsub/")
    assert response.status_code == 405
    assert "location" not in response.headers


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/tasks/pubsub",
        "/tasks/",
        "/tasks",
        "/tasks/pubsub/x",
        "//tasks/pubsub/",
        "/TASKS/PUBSUB/",
        "/tasks%2fpubsub/",
        "/%74asks/pubsub/",
        "/%68ealth",
        "/nothing",
    ],
)
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_other_paths_do_not_exist_and_never_redirect(instance: Instance, method: str, path: str) -> None:
    """Pub/Sub would follow a redirect as a GET without a body, and take its answer for an ack."""
    headers = instance.pusher().headers()
    response = httpx.request(
        method, instance.url + path, content=pusher.message("succeed", ["x"]), headers=headers
    )
    assert response.status_code == 404
    assert "location" not in response.headers


def test_a_query_does_not_change_the_endpoint(instance: Instance, label: str) -> None:
    body = pusher.message("succeed", [label], task_id=label)
    response = httpx.post(
        f"{instance.url}/tasks/pubsub/?v=1", content=body, headers=instance.pusher().headers()
    )
    assert response.status_code == 200


def test_health_and_readiness_answer_without_a_token(instance: Instance) -> None:
    assert instance.get("/health").status_code == 200
    ready = instance.get("/ready")
    assert ready.status_code == 200
    assert ready.json() == {"database": "ok", "schema": "ok", "certificates": "ok"}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_body_over_the_cap_is_refused_while_it_streams_in(instance: Instance, signer: Signer) -> None:
    """200 MB without a Content-Length: refused long before their end, and never held."""
    before = peak_memory(instance.pid)
    total, chunk = 200, b"%x\r\n" % MIB + b"x" * MIB + b"\r\n"
    name, value = authorization(instance, signer)
    answer: Answer | None = None
    refused_at = total
    with socket.create_connection(("127.0.0.1", instance.port), timeout=20) as connection:
        connection.sendall(
            b"POST /tasks/pubsub/ HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n"
            + name + b": " + value + b"\r\n\r\n"
        )  # fmt: skip
        for number in range(total):
            try:
                connection.sendall(chunk)
            except ConnectionError:
                break
            if answer is None and select.select([connection], [], [], 0)[0]:
                answer, refused_at = read_answer(connection), number
        answer = answer or read_answer(connection)
    assert answer == Answer(400, "The message is too large.")
    assert refused_at < 100
    assert peak_memory(instance.pid) - before < 60 * MIB
    assert instance.get("/health").status_code == 200


def test_a_good_push_may_be_chunked(instance: Instance, label: str) -> None:
    """And a large one arrives whole."""
    body = pusher.message("succeed", kwargs={"label": label, "value": "v" * 900_000}, task_id=label)
    pieces = (body[at : at + 65_536] for at in range(0, len(body), 65_536))
    response = httpx.post(
        f"{instance.url}/tasks/pubsub/", content=pieces, headers=instance.pusher().headers(), timeout=20
    )
    assert (response.status_code, response.text) == (200, "The task completed.")


async def test_a_client_that_goes_leaves_nothing(instance: Instance, signer: Signer, label: str) -> None:
    """Half a body is no message: nothing is written, and the place in flight is free again."""
    name, value = authorization(instance, signer)
    body = pusher.message("succeed", [label], task_id=label)
    before = len(instance.log())
    with socket.create_connection(("127.0.0.1", instance.port), timeout=20) as connection:
        head = b"POST /tasks/pubsub/ HTTP/1.1\r\nhost: localhost\r\n" + name + b": " + value
        connection.sendall(head + b"\r\ncontent-length: %d\r\n\r\n" % len(body) + body[: len(body) // 2])

    await eventually(lambda: "Disconnected" in instance.log()[before:])
    record = Record(instance.environ["DATABASE_URL"])
    assert await record.row(label) is None
    assert await record.rejected(body) is None


def test_without_push_auth_any_push_is_taken(start: Start, database_url: str, label: str) -> None:
    """For the official emulator, which sends no token."""
    instance = start(database_url, signed=False)
    body = pusher.message("succeed", [label], task_id=label)
    bare = httpx.post(f"{instance.url}/tasks/pubsub/", content=body)
    assert (bare.status_code, bare.text) == (200, "The task completed.")
    hostile = dict(CASES)["one word"](Signer.create(), "", "")
    again = httpx.post(f"{instance.url}/tasks/pubsub/", content=body, headers=hostile)
    assert (again.status_code, again.text) == (200, "The task was already completed.")


async def test_a_database_that_is_down_at_start_is_waited_for(
    start: Start, own_postgres: LocalServer, label: str
) -> None:
    """The instance lives, says it is not ready, nacks, and works as soon as the database is there."""
    own_postgres.halt()
    try:
        instance = start(own_postgres.url())
        body = pusher.message("succeed", [label], task_id=label)
        assert instance.get("/health").status_code == 200
        ready = instance.get("/ready")
        assert (ready.status_code, ready.json()["database"]) == (503, "unavailable")
        answer = instance.pusher().send(body)
        assert (answer.status_code, answer.text) == (500, "The outcome could not be recorded.")
    finally:
        own_postgres.resume()
    assert instance.get("/ready").status_code == 200
    assert instance.pusher().send(body).status_code == 200
    row = await Record(own_postgres.url()).row(label)
    assert row is not None
    assert (row["status"], row["attempt"]) == ("SUCCESSFUL", 1)


async def test_a_settlement_is_never_short_of_a_connection_that_its_claim_had(
    start: Start, own_postgres: LocalServer, label: str
) -> None:
    """With every slot of PostgreSQL taken, a push is refused before it runs or recorded after; it is never left RUNNING."""
    own_postgres.restart()
    instance = start(own_postgres.url())
    taken: list[Any] = []
    try:
        while True:
            try:
                taken.append(await asyncpg.connect(own_postgres.url()))
            except asyncpg.TooManyConnectionsError:
                break
        bodies = [pusher.message("succeed", [f"{label}{n}"], task_id=f"{label}{n}") for n in range(6)]
        answers = []
        for number, body in enumerate(bodies):
            answers.append(instance.pusher().send(body).status_code)
            if number == 0:
                instance.pusher().send(b"malformed")
        running = await taken[0].fetch("SELECT task_id FROM task_executions WHERE status = 'RUNNING'")
        assert not [row for row in running if row["task_id"].startswith(label)]
        assert set(answers) <= {200, 429}
    finally:
        for connection in taken:
            await connection.close()


async def test_sigterm_ends_an_instance_in_order(start: Start, database_url: str) -> None:
    """Exit code 0, and nothing that looks like trouble."""
    instance = start(database_url)
    assert instance.stop() == 0
    assert not re.search(r"Traceback|ERROR|Warning", instance.log())


def peak_memory(pid: int) -> int:
    """The most bytes that the process ever had in memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
