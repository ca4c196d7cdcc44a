"""No command prints a password or a key, whatever is wrong with the database's address or with what else it was given.

A role's name is no secret: PostgreSQL's own words name it to the operator who runs a command, and nobody else.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from receiver.dev.processes import EMAIL
from receiver.doctor import record_look
from receiver.emulator import push_client as pusher
from receiver.errors import ReceiverError
from receiver.reading import newest, queries
from receiver.record import migrations
from receiver.record.database import Database
from receiver.record.whose import Whose
from receiver.settings import Settings
from tests.stage.canaries import Canary, address, guarded, sung
from tests.stage.commands import Done, run_command
from tests.stage.instance import Instance
from tests.stage.servers import LocalServer
from tests.stage.slow import some_quick
from tests.stage.waiting import eventually

SECRETS = set(Canary) - {Canary.USER}
ADDRESS = f"postgresql://{Canary.USER}:{Canary.PASSWORD}@"

# What the address is, {port} being the guarded server's; every one of them fails in another place.
WRONG: Mapping[str, str] = {
    "a password that is refused": f"postgresql://{Canary.USER}:{Canary.STALE_PASSWORD}@127.0.0.1:{{port}}/postgres",
    "a database that is down": f"{ADDRESS}127.0.0.1:1/postgres",
    "a host that is none": f"{ADDRESS}nowhere.invalid/postgres",
    "a socket that is none": f"{ADDRESS}/postgres?host=/nowhere",
    "TLS that the server refuses": f"{ADDRESS}127.0.0.1:{{port}}/postgres?sslmode=require",
    "TLS without a root certificate": f"{ADDRESS}127.0.0.1:{{port}}/postgres?sslmode=verify-full",
    "a key that is none": f"{ADDRESS}127.0.0.1:{{port}}/postgres?sslmode=require&sslcert=/etc/hostname"
    f"&sslkey=/etc/hostname&sslpassword={Canary.STALE_PASSWORD}",
    "a driver's option": f"{ADDRESS}127.0.0.1:{{port}}/postgres?target_session_attrs=none",
    "an @ in the password": f"postgresql://{Canary.USER}:secret@{Canary.PASSWORD}@127.0.0.1:{{port}}/postgres",
    "a / in the password": f"postgresql://{Canary.USER}:secret/{Canary.PASSWORD}@127.0.0.1:{{port}}/postgres",
    "a ? in the password": f"postgresql://{Canary.USER}:1?{Canary.PASSWORD}@127.0.0.1:{{port}}/postgres",
    "a # in the password": f"postgresql://{Canary.USER}:1#{Canary.PASSWORD}@127.0.0.1:{{port}}/postgres",
    "a % in the password": f"postgresql://{Canary.USER}:%zz{Canary.PASSWORD}@127.0.0.1:{{port}}/postgres",
    "another database": f"mysql://{Canary.USER}:{Canary.PASSWORD}@127.0.0.1/postgres",
    "no address at all": str(Canary.PASSWORD),
}
PLUGIN = """
from receiver import TaskRoute, task

@task
async def succeed(secret: str) -> str:
    return secret

tasks = [TaskRoute(succeed)]
"""
BROKEN_PLUGIN = """
import os

def connect(secret):
    raise ConnectionError("no broker answers")

connect(os.environ["DATABASE_PASSWORD"])
"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[LocalServer]:
    with guarded() as server:
        yield server


class Commands:
    """Runs commands in a folder with a plugin, with canaries in their environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "plugin.py").write_text(PLUGIN)
        (folder / "broken.py").write_text(BROKEN_PLUGIN)
        kept = ("PATH", "HOME", "LANG", "COVERAGE_PROCESS_START", "PYTHONPATH")
        self.environ = {name: os.environ[name] for name in kept if name in os.environ} | {
            "TASKS_MODULES": "plugin",
            "GCP_PROJECT_ID": "local",
            "CLOUD_RUN_SERVICE_URL": "http://127.0.0.1:1",
            "TASKS_SERVICE_ACCOUNT": EMAIL,
            "TASKS_PUSH_AUTH": "off",
        }

    def start(self, *arguments: str, **env: str) -> Done:
        """A command, to its end."""
        return run_command(*arguments, cwd=self.folder, env=self.environ | env)

    def run(self, *arguments: str, **env: str) -> Done:
        """A command that must fail, in one line, without a secret; and what it said."""
        done = self.start(*arguments, **env)
        said = done.stdout + done.stderr
        assert done.returncode in {1, 2}, said
        assert "Traceback" not in said
        assert len(said.splitlines()) == 1, said
        assert sung(said) & SECRETS == set(), said
        return done


def read(database: Database) -> None:
    """What `receiver executions list` does."""

    async def visit() -> None:
        async with queries.reading(database) as connection:
            await newest.executions(connection, Whose("gyrinx", "dev"))

    asyncio.run(visit())


def look(database: Database) -> None:
    """What `receiver doctor` does."""
    asyncio.run(record_look.look(database, Whose("gyrinx", "dev")))


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    return Commands(tmp_path)


@some_quick("arguments", [("migrate",), ("executions", "list")])
def test_a_command_says_in_one_line_that_it_is_refused(
    commands: Commands, postgres: LocalServer, arguments: tuple[str, ...]
) -> None:
    url = WRONG["a password that is refused"].format(port=postgres.port)
    assert "password authentication failed" in commands.run(*arguments, DATABASE_URL=url).stderr


@some_quick("arguments", [("sweep",), ("rejected", "list"), ("enqueue", "succeed", "--args", '["x"]')])
def test_every_way_to_the_database_is_silent_about_how_it_logs_in(
    commands: Commands, postgres: LocalServer, arguments: tuple[str, ...]
) -> None:
    commands.run(*arguments, DATABASE_URL=WRONG["a password that is refused"].format(port=postgres.port))


def test_the_doctor_is_silent_about_it_too(commands: Commands, postgres: LocalServer) -> None:
    url = WRONG["a password that is refused"].format(port=postgres.port)
    said = commands.start("doctor", DATABASE_URL=url, NO_GCE_CHECK="true")
    assert "database" in said.stdout
    assert "Traceback" not in said.stdout + said.stderr
    assert sung(said.stdout + said.stderr) & SECRETS == set()


@pytest.mark.parametrize("read", [migrations.current, read, look], ids=["migrate", "executions", "doctor"])
@pytest.mark.parametrize("wrong", WRONG)
def test_no_error_of_an_address_holds_its_password(
    postgres: LocalServer, wrong: str, read: Callable[[Database], object]
) -> None:
    """Every error that is made on purpose is what a command prints; any other would be a traceback."""
    environ = {"DATABASE_URL": WRONG[wrong].format(port=postgres.port)}
    with pytest.raises(ReceiverError) as refused:
        read(Database.configured(Settings.from_environ(environ)))
    assert sung(str(refused.value)) & SECRETS == set()
    assert "\n" not in str(refused.value)


@some_quick("arguments", [("serve",), ("check",)])
def test_a_plugin_that_fails_is_told_without_what_it_was_given(
    commands: Commands, arguments: tuple[str, ...]
) -> None:
    said = commands.run(
        *arguments,
        TASKS_MODULES="broken",
        DATABASE_URL=f"{ADDRESS}127.0.0.1:1/postgres",
        DATABASE_PASSWORD=Canary.PASSWORD,
    )
    assert "no broker answers" in said.stderr


@some_quick(
    "key",
    [
        Canary.TOKEN,
        {"type": "service_account", "client_email": EMAIL, "private_key": Canary.TOKEN},
        {
            "type": "service_account",
            "client_email": EMAIL,
            "private_key": f"-----BEGIN PRIVATE KEY-----\n{Canary.TOKEN}\n-----END PRIVATE KEY-----\n",
            "token_uri": f"http://127.0.0.1:1/{Canary.TOKEN}",
        },
        {
            "type": "authorized_user",
            "client_id": "us",
            "client_secret": Canary.TOKEN,
            "refresh_token": Canary.TOKEN,
            "token_uri": "http://127.0.0.1:1/token",
        },
        {"type": Canary.TOKEN},
    ],
    ids=["no JSON", "no PEM", "no key", "refresh token", "type"],
)
def test_a_key_of_googles_that_is_none_is_not_printed(
    commands: Commands, key: object, tmp_path: Path
) -> None:
    file = tmp_path / "key.json"
    file.write_text(key if isinstance(key, str) else json.dumps(key))
    commands.run("provision", GOOGLE_APPLICATION_CREDENTIALS=str(file), NO_GCE_CHECK="true")


@some_quick("wrong", ["a password that is refused", "a database that is down", "a driver's option"])
async def test_a_service_whose_database_refuses_it_says_so_and_no_more(
    commands: Commands, postgres: LocalServer, tmp_path: Path, wrong: str
) -> None:
    """It starts, is not ready, answers pushes with 429 or 500, and none of it says how it tried to log in."""
    instance = Instance(
        database_url=WRONG[wrong].format(port=postgres.port),
        modules="plugin",
        signer=None,
        certs_url=None,
        folder=tmp_path,
    )
    with instance:
        ready = instance.get("/ready")
        assert ready.status_code == 503
        answer = await asyncio.to_thread(instance.pusher().send, pusher.message("succeed", [Canary.ARGUMENT]))
        assert answer.status_code in {429, 500}
        assert sung(f"{ready.headers}{ready.text}{answer.headers}{answer.text}") == set()
        await eventually(lambda: "succeed" in instance.log())
        log = instance.log()
    assert "Traceback" not in log
    assert sung(log) == set()


def test_the_right_password_is_not_printed_either(commands: Commands, postgres: LocalServer) -> None:
    """What commands print of a record that they may read, and of a task that is not there."""
    url = address(postgres, password=Canary.STALE_PASSWORD)
    commands.run("executions", "show", "nothing", DATABASE_URL=url, DATABASE_PASSWORD=Canary.PASSWORD)
