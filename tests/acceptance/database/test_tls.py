"""TLS to PostgreSQL: serving, enqueueing and every command, in every mode that verifies or not; and what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import uvloop

import receiver
from receiver.contract.identity import rejection_key
from receiver.dev.processes import PROJECT
from receiver.emulator import in_thread
from receiver.emulator.in_thread import LocalPubSub
from receiver.emulator.push_client import message
from receiver.emulator.signer import Signer
from receiver.enqueue import PubSubBackend
from receiver.errors import DatabaseUnavailable
from receiver.record.database import Database
from receiver.record.migrations import upgrade
from receiver.record.tls import TlsFailed
from receiver.settings import Settings
from receiver.tasks.call import TaskResult
from receiver.tasks.naming import topic_name
from tests.stage import tls_postgres
from tests.stage.commands import Done, clean_environ, run_command
from tests.stage.metadata import metadata
from tests.stage.receivers import PLUGIN, new_instance
from tests.stage.record import NAMESPACE, Record
from tests.stage.slow import some_quick
from tests.stage.tls_postgres import ACCOUNT_ROLE, UNNAMED, NoPostgresError, TlsPostgres
from tests.stage.waiting import eventually

MODULE = "tls_tasks"
CLIENT = "client certificate"
MODES = ("prefer", "require", "verify-ca", "verify-full", CLIENT)
LOOPS = {"asyncio": asyncio.run, "uvloop": uvloop.run}
NOWHERE = Path("/nowhere")
READY = {"database": "ok", "schema": "ok", "certificates": "ok"}

# What of the address is wrong, and what is said then.
REFUSED: dict[str, tuple[Callable[[TlsPostgres], str], str]] = {
    "another CA": (
        lambda server: server.url("verify-full", ca=server.other_ca),
        (
            "the database's certificate is refused (self-signed certificate in certificate chain); in DATABASE_URL sslrootcert "
            "has to name the file of the CA that signed it"
        ),
    ),
    "another host": (
        lambda server: server.url("verify-full", host=UNNAMED),
        (
            "the database's certificate is for another host; put the host name of the certificate into DATABASE_URL, or check "
            "the CA alone with sslmode=verify-ca"
        ),
    ),
}
MISSING: dict[str, tuple[Callable[[TlsPostgres], str], str]] = {
    "no such CA": (
        lambda server: server.url("verify-ca", ca=NOWHERE),
        "the file of sslrootcert cannot be read; check its path in DATABASE_URL, and its permissions",
    ),
    "a CA that has expired": (
        lambda server: server.url("verify-full", ca=server.expired_ca),
        "the database's certificate, or its CA's in sslrootcert, is not valid now (certificate has expired); renew it",
    ),
    "a folder for a CA": (
        lambda server: server.url("verify-ca", ca=server.ca.parent),
        "the file of sslrootcert cannot be read; check its path in DATABASE_URL, and its permissions",
    ),
    "no CA": (
        lambda server: server.url("require").replace("=require", "=verify-full"),
        "sslmode=verify-full needs the server's CA; add sslrootcert=FILE to DATABASE_URL",
    ),
    "no such key": (
        lambda server: server.mutual_url(identity=(server.mutual[0], NOWHERE)),
        "the file of sslkey cannot be read; check its path in DATABASE_URL, and its permissions",
    ),
    "the key of another certificate": (
        lambda server: server.mutual_url(identity=(server.mutual[0], server.stranger[1])),
        "TLS with the database failed (KEY_VALUES_MISMATCH); check sslrootcert, sslcert and sslkey in DATABASE_URL",
    ),
}

DOCTOR = (
    "doctor",
    "--json",
    *(f"--skip={room}" for room in ("certificates", "pubsub", "scheduler", "roles", "service")),
)


@pytest.fixture(scope="module")
def server() -> Iterator[TlsPostgres]:
    """Its database `postgres` is migrated, `empty` is not."""
    try:
        tls_postgres.programs()
    except NoPostgresError as reason:
        pytest.skip(str(reason))
    with tls_postgres.running() as running:
        upgrade(Database.of(running.url("verify-full")))
        running.create_database("empty")
        yield running


@pytest.fixture(scope="module")
def pubsub() -> Iterator[LocalPubSub]:
    """A local Pub/Sub that keeps what it is given."""
    with in_thread.running() as running:
        for name in ("leaf", "look_around", "give_up"):
            topic = f"projects/{PROJECT}/topics/{topic_name('dev', NAMESPACE, f'{MODULE}.{name}')}"
            running.call(lambda broker, topic=topic: broker.put_topic(topic, {"name": topic}))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        yield running


@pytest.fixture(scope="module")
def only_asyncio(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which there is no uvloop."""
    folder = tmp_path_factory.mktemp("without")
    (folder / "uvloop.py").write_text("raise ImportError('there is none here')")
    return {"PYTHONPATH": str(folder), "RECEIVER_TEST_COLD": "1"}  # a warm process has it already


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The plugin's module, in this process."""
    monkeypatch.syspath_prepend(str(PLUGIN))
    return import_module(MODULE)


def address(server: TlsPostgres, mode: str) -> str:
    return server.mutual_url() if mode == CLIENT else server.url(mode)


def environ(url: str, pubsub: LocalPubSub) -> dict[str, str]:
    return {"DATABASE_URL": url, "GCP_PROJECT_ID": PROJECT, "PUBSUB_EMULATOR_HOST": pubsub.host}


async def enqueued(tasks: Any, backend: PubSubBackend, label: str) -> list[TaskResult]:
    """From a thread without a loop, from asyncio's loop, and from uvloop's."""

    async def in_a_loop() -> TaskResult:
        try:
            result: TaskResult = await tasks.look_around.aenqueue(label)
            return result
        finally:
            await backend.aclose()

    in_a_thread = await asyncio.to_thread(tasks.look_around.enqueue, label)
    return [in_a_thread, *[await asyncio.to_thread(run, in_a_loop()) for run in LOOPS.values()]]


@some_quick(
    ("mode", "loop"),
    [
        (CLIENT, "uvloop"),
        ("prefer", "asyncio"),
        *((mode, "uvloop") for mode in MODES[:-1]),
        (CLIENT, "asyncio"),
    ],
    quick=2,
)
async def test_a_service_and_an_application_do_all_they_do(
    server: TlsPostgres,
    pubsub: LocalPubSub,
    signer: Signer,
    certs_url: str,
    folder: Path,
    only_asyncio: dict[str, str],
    tasks: Any,
    label: str,
    mode: str,
    loop: str,
) -> None:
    url = address(server, mode)
    given = environ(url, pubsub) | (only_asyncio if loop == "asyncio" else {})
    backend = PubSubBackend(Settings.from_environ(environ(url, pubsub)))
    receiver.configure(backend)
    try:
        with new_instance(url, signer, certs_url, folder, given, MODULE) as instance:
            assert instance.get("/ready").json() == READY
            results = await enqueued(tasks, backend, label)
            for result in results:
                body = message("look_around", [label], task_id=result.id)
                answer = await asyncio.to_thread(instance.pusher().send, body)
                assert answer.status_code == 200, answer.text
                ended = await backend.aget_result(result.id)
                assert ended.status == "SUCCESSFUL"
                module, has_tls, leaf = ended.return_value
                assert (module.partition(".")[0], has_tls) == (loop, True)
                assert (await backend.aget_result(leaf)).status == "READY"
            assert instance.stop() == 0
            assert "connections not closed" not in instance.log()
    finally:
        receiver.configure(None)
        await backend.aclose()


def test_a_service_and_its_commands_log_in_with_tokens(
    server: TlsPostgres, signer: Signer, certs_url: str, folder: Path, tmp_path: Path, label: str
) -> None:
    """As with Cloud SQL's IAM login: the server takes the account's token for its password, and takes it under TLS only."""
    with metadata() as machine:
        server.psql(f"CREATE ROLE \"{ACCOUNT_ROLE}\" LOGIN SUPERUSER PASSWORD '{machine.tokens[0]}'")
        server.create_database("tokens")
        url = server.url("verify-full", database="tokens").replace("postgres@", "")
        env = {"DATABASE_AUTH": "iam", "CLOUDSDK_CONFIG": str(tmp_path)} | machine.environ
        done = run_command("migrate", cwd=tmp_path, env=clean_environ() | {"DATABASE_URL": url} | env)
        assert done.stdout.startswith("migrated: nothing"), done.stderr
        with new_instance(url, signer, certs_url, folder, env, MODULE) as instance:
            assert instance.get("/ready").json() == READY
            assert instance.pusher().send(message("leaf", [label], task_id=label)).status_code == 200
        assert set(machine.scopes) == {"https://www.googleapis.com/auth/sqlservice.login"}
        in_clear = clean_environ() | {"DATABASE_URL": server.url("disable").replace("postgres@", "")} | env
        done = run_command("executions", "list", cwd=tmp_path, env=in_clear)
        assert "PostgreSQL refuses the login: no pg_hba.conf entry" in done.stderr


@pytest.mark.parametrize("run", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize("wrong", [*REFUSED, *MISSING])
def test_what_tls_does_not_find_is_said_in_one_line(
    server: TlsPostgres, wrong: str, run: Callable[..., None]
) -> None:
    make_url, sentence = (REFUSED | MISSING)[wrong]
    with pytest.raises(TlsFailed) as refused:
        run(Database.of(make_url(server)).connect("a test"))
    assert str(refused.value) == sentence


async def test_a_file_that_a_variable_names_is_said_to_be_there(
    server: TlsPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGSSLROOTCERT", str(NOWHERE))
    with pytest.raises(TlsFailed, match="check its path in PGSSLROOTCERT"):
        await Database.of(server.url("require")).connect("a test")


async def test_a_server_without_tls_is_said_to_have_none(database_url: str) -> None:
    with pytest.raises(
        DatabaseUnavailable, match=r"the database's server has no TLS; turn it on there \(ssl=on\)"
    ):
        await Database.of(f"{database_url}?sslmode=require").connect("a test")


@pytest.mark.parametrize("wrong", REFUSED)
async def test_serve_and_ready_and_doctor_say_why_a_certificate_is_refused(
    server: TlsPostgres,
    pubsub: LocalPubSub,
    signer: Signer,
    certs_url: str,
    folder: Path,
    wrong: str,
) -> None:
    make_url, sentence = REFUSED[wrong]
    url = make_url(server)
    with new_instance(url, signer, certs_url, folder, environ(url, pubsub), MODULE) as instance:
        ready = instance.get("/ready")
        assert (ready.status_code, ready.json()["database"]) == (503, sentence)
        await eventually(lambda: f"the database cannot be used yet: {sentence}" in instance.log())
    said = run(url, pubsub, *DOCTOR)
    assert said.returncode == 2
    assert any(sentence in one["what"] for one in json.loads(said.stdout)["findings"])
    assert run(url, pubsub, "migrate").stderr == f"error: {sentence}\n"


def run(url: str, pubsub: LocalPubSub, *arguments: str) -> Done:
    """A command with a client certificate, to its end."""
    variables = clean_environ() | environ(url, pubsub) | {"TASKS_MODULES": MODULE}
    return run_command(*arguments, cwd=PLUGIN, env=variables)


@pytest.fixture(scope="module")
def _stored(server: TlsPostgres) -> None:
    """Two failed executions, one of a group, and a rejected message."""

    async def store() -> None:
        record, body = Record(server.url("verify-full")), message("unknown", message_id="17")
        ended = {"status": "FAILED", "final": True, "attempt": 1, "fence": 1, "error_type": "LookupError"}
        times = {"finished_at_in": -60, "published_at_in": -100, "enqueued_at_in": -120}
        columns = {"task_path": f"{MODULE}.leaf"} | ended | times
        await record.insert("failed", "leaf", group_key="a group", **columns)
        await record.insert("again", "leaf", **columns)
        await record.fetch(
            "INSERT INTO rejected_messages (key, body, namespace, reason, detail, task_name, count, first_seen, last_seen)"
            " VALUES ($1, $2, $3, 'unknown_task', 'unknown', 'unknown', 5, now(), now())",
            rejection_key(body),
            body,
            NAMESPACE,
        )

    asyncio.run(store())


@pytest.mark.usefixtures("_stored")
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("migrate", "--check"), 0, "up to date"),
        (("executions", "list"), 0, "LookupError"),
        (("executions", "show", "failed"), 0, "LookupError"),
        (("group", "a group", "--once", "--json"), 1, '"failed": 1'),
        (("rejected", "list"), 0, "unknown_task"),
        (("rejected", "show", "17"), 0, "unknown_task"),
        (("replay", "again"), 0, "1 execution published again"),
        (("enqueue", "leaf", "--args", '["by hand"]'), 0, "-7"),  # an id of version 7
        (("sweep",), 0, "nothing"),
        (("prune",), 0, "0 executions"),
        (DOCTOR, 2, "the database has 97 for this role"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else "",
)
def test_every_command_comes_with_a_client_certificate(
    server: TlsPostgres, pubsub: LocalPubSub, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = run(server.mutual_url(), pubsub, *arguments)
    assert said in done.stdout, done
    assert (done.returncode, done.stderr) == (code, "")


def test_migrate_comes_with_a_client_certificate(server: TlsPostgres, pubsub: LocalPubSub) -> None:
    done = run(server.mutual_url(database="empty"), pubsub, "migrate")
    assert (done.returncode, done.stdout.startswith("migrated: nothing")) == (0, True), done.stderr
