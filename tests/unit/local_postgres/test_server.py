"""The local PostgreSQL, really started."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from receiver.local_postgres import files
from receiver.local_postgres.files import LocalPostgresError
from receiver.local_postgres.server import Postgres
from tests.stage import databases, second_account
from tests.stage.servers import LocalServer
from tests.stage.waiting import wait_until


def query(server: Postgres, sql: str, database: str = "postgres") -> object:
    async def ask() -> object:
        connection = await asyncpg.connect(server.url(database))
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    return asyncio.run(ask())


def alive(pid: int) -> bool:
    """Whether the process runs; one that waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # it may end between the opening and the reading
        return False


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that the account PostgreSQL runs as can enter (pytest's own are private to this user)."""
    with tempfile.TemporaryDirectory(prefix="receiver-test-", dir=files.temporary_folder()) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="module")
def initialised() -> Iterator[Path]:
    """A given folder with data, whose server has stopped."""
    with tempfile.TemporaryDirectory(prefix="receiver-test-", dir=files.temporary_folder()) as folder:
        Path(folder).chmod(0o755)
        with Postgres(Path(folder) / "kept"):
            pass
        yield Path(folder) / "kept"


class TestLife:
    def test_it_starts_listens_on_loopback_only_and_leaves_nothing_behind(self) -> None:
        with Postgres(settings={"max_connections": "33"}) as server:
            pid, folder = server.pid, server.folder
            assert query(server, "SHOW listen_addresses") == "127.0.0.1"
            assert query(server, "SHOW unix_socket_directories") == ""
            assert query(server, "SHOW max_connections") == "33"
            assert query(server, "SHOW synchronous_commit") == "on"
            assert query(server, "SHOW server_encoding") == "UTF8"
            assert query(server, "SHOW timezone") == "UTC"
            assert "ready to accept connections" in (folder / "server.log").read_text()
        assert not alive(pid)
        assert not folder.exists()

    def test_a_stopped_server_can_be_started_again_and_stopping_twice_is_no_error(
        self, initialised: Path
    ) -> None:
        server = Postgres(initialised)
        server.start()
        server.stop()
        server.stop()
        server.start()
        server.stop()

    def test_a_restart_keeps_the_port_and_changes_the_process(self, initialised: Path) -> None:
        with LocalServer(initialised) as server:
            port, pid = server.port, server.pid
            server.restart("fast")
            assert server.port == port
            assert server.pid != pid
            assert query(server, "SELECT 1") == 1

    def test_what_was_committed_survives_an_immediate_restart(self, initialised: Path) -> None:
        with LocalServer(initialised) as server:
            query(server, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
            server.restart("immediate")
            assert query(server, "SELECT count(*) FROM kept") == 1000
            assert "was not properly shut down" in (server.folder / "server.log").read_text()

    def test_a_halted_server_refuses_connections_until_it_resumes(self, initialised: Path) -> None:
        with Postgres(initialised) as server:
            server.halt("immediate")
            with pytest.raises(OSError, match=r"refused|Connect call failed"):
                query(server, "SELECT 1")
            server.resume()
            assert query(server, "SELECT 1") == 1

    def test_nobody_else_is_shown_the_owners_environment(
        self, initialised: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Every account may read a process's arguments, and the server's own account its environment."""
        monkeypatch.setenv("SOME_API_KEY", "hunter2-of-the-owner")
        with Postgres(initialised) as server:
            assert server._guard is not None
            guard = Path(f"/proc/{server._guard.process.pid}")
            shown = (guard / "cmdline").read_bytes() + Path(f"/proc/{server.pid}/cmdline").read_bytes()
            assert b"hunter2" not in shown + Path(f"/proc/{server.pid}/environ").read_bytes()
            assert b"/guard.py" in shown

    def test_data_meant_to_last_is_synced(self, initialised: Path) -> None:
        with Postgres(initialised, fsync=True) as server:
            assert query(server, "SHOW fsync") == "on"
            assert query(server, "SHOW full_page_writes") == "on"


OWNER = """
import sys, time
from pathlib import Path
from receiver.local_postgres.server import Postgres
server = Postgres(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
server.start()
print(server.pid, server.folder, flush=True)
time.sleep(600)
"""


class TestOthers:
    """Other accounts of the machine reach the port, and shared folders."""

    def test_nobody_logs_in_without_the_password(self, initialised: Path) -> None:
        with Postgres(initialised) as server:
            assert second_account.asked_by(server.port) == second_account.SASL
            with pytest.raises(LocalPostgresError, match="password authentication failed"):
                asyncio.run(databases._execute(re.sub(":[0-9a-f]+@", ":guess@", server.url()), "SELECT 1"))
            assert second_account.reads(server.folder / "server.log") == "PermissionError"
            assert server.folder.stat().st_uid == os.geteuid()

    def test_a_password_is_kept_where_it_is_given_again(self, initialised: Path) -> None:
        with Postgres(initialised, password="ab12") as first:
            url = first.url()
        with Postgres(initialised, password="ab12", port=first.port) as second:
            assert second.url() == url
            assert query(second, "SELECT 1") == 1

    def test_data_of_an_earlier_version_which_trusted_everybody_is_closed(self, reachable: Path) -> None:
        folder = reachable / "kept"
        with Postgres(folder) as server:
            query(server, "CREATE TABLE kept AS SELECT 42 AS n")
            query(server, "ALTER ROLE postgres PASSWORD NULL")
        assert "trust" in (folder / "data" / "pg_hba.conf").read_text(), "initdb wrote it"
        (folder / "pg_hba.conf").unlink()
        (folder / "server.log").unlink()
        with Postgres(folder) as server:
            assert query(server, "SELECT n FROM kept") == 42
            assert second_account.asked_by(server.port) == second_account.SASL

    @pytest.mark.parametrize("squatted", ["a link", "another account's", "another account's data"])
    def test_what_another_account_has_made_is_not_adopted(self, reachable: Path, squatted: str) -> None:
        folder = reachable / "data-of-root"
        stranger = 54321  # none of those that root borrows
        if squatted == "a link":
            (reachable / "elsewhere").mkdir()
            folder.symlink_to(reachable / "elsewhere")
        elif os.geteuid() != 0:
            return  # only root can give it to another account
        else:
            (folder / "data").mkdir(parents=True)
            os.chown(folder if squatted == "another account's" else folder / "data", stranger, stranger)
        with pytest.raises(LocalPostgresError, match="remove it") as caught:
            Postgres(folder).start()
        assert "\n" not in str(caught.value)


class TestOwner:
    @pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM])
    def test_a_killed_owner_takes_its_server_and_temporary_folder_along(self, death: signal.Signals) -> None:
        with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as owner:
            assert owner.stdout is not None
            pid, folder = owner.stdout.readline().split()
            assert alive(int(pid))
            owner.send_signal(death)
            owner.wait()
            wait_until(lambda: not alive(int(pid)) and not Path(folder).exists())

    def test_a_killed_owner_leaves_a_given_folder_usable(self, initialised: Path) -> None:
        argv = [sys.executable, "-c", OWNER, str(initialised)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as owner:
            assert owner.stdout is not None
            pid, _ = owner.stdout.readline().split()
            owner.kill()
            owner.wait()
            wait_until(lambda: not alive(int(pid)))
        with Postgres(initialised) as server:
            assert query(server, "SELECT 1") == 1

    def test_another_child_of_the_owner_does_not_keep_the_server_alive(self) -> None:
        owner_code = OWNER.replace(
            "print(",
            "import subprocess; child = subprocess.Popen(['sleep', '600'], close_fds=False); print(child.pid, ",
        )
        with subprocess.Popen([sys.executable, "-c", owner_code], stdout=subprocess.PIPE, text=True) as owner:
            assert owner.stdout is not None
            child, pid, _ = owner.stdout.readline().split()
            owner.kill()
            owner.wait()
            try:
                wait_until(lambda: not alive(int(pid)))
            finally:
                os.kill(int(child), signal.SIGKILL)

    def test_a_server_that_lost_its_guard_is_reported(self) -> None:
        server = LocalServer()
        server.start()
        assert server._guard is not None
        server._guard.process.terminate()
        server._guard.process.wait()
        with pytest.raises(LocalPostgresError, match="guard of the local PostgreSQL has ended"):
            server.restart()
        server.stop()


class TestFolder:
    def test_a_given_folder_keeps_its_data(self, reachable: Path) -> None:
        folder = reachable / "deep" / "er"
        folder.parent.mkdir(mode=0o755)
        with Postgres(folder) as server:
            query(server, "CREATE TABLE kept AS SELECT 42 AS n")
        with Postgres(folder) as server:
            assert query(server, "SELECT n FROM kept") == 42

    def test_a_folder_of_another_version_is_refused_in_one_line(self, reachable: Path) -> None:
        (reachable / "data").mkdir()
        (reachable / "data" / "PG_VERSION").write_text("9\n")
        with pytest.raises(LocalPostgresError, match="was made by PostgreSQL 9") as caught:
            Postgres(reachable).start()
        assert "\n" not in str(caught.value)

    def test_a_folder_in_use_is_refused_in_one_line(self, initialised: Path) -> None:
        with Postgres(initialised):
            with pytest.raises(LocalPostgresError, match="in use by another PostgreSQL") as caught:
                Postgres(initialised).start()
            assert "\n" not in str(caught.value)

    def test_a_stale_lock_file_does_not_stop_the_start(self, initialised: Path) -> None:
        ended = subprocess.Popen(["true"])
        ended.wait()
        (initialised / "data" / "postmaster.pid").write_text(
            f"{ended.pid}\n{initialised}/data\n0\n1\n\n\n\nready\n"
        )
        with Postgres(initialised) as server:
            assert server.pid != ended.pid
            assert query(server, "SELECT 1") == 1

    def test_a_folder_that_is_not_postgresqls_is_refused_in_one_line(self, reachable: Path) -> None:
        (reachable / "data").mkdir(mode=0o755)
        (reachable / "data" / "letter.txt").write_text("dear reader")
        with pytest.raises(LocalPostgresError, match="could not be made into a PostgreSQL folder") as caught:
            Postgres(reachable).start()
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("existing", [True, False])
    def test_root_is_told_of_a_folder_that_the_server_could_not_enter(
        self, reachable: Path, monkeypatch: pytest.MonkeyPatch, *, existing: bool
    ) -> None:
        account = files.Account("nobody", 65534, 65534)
        programs = files.find()
        monkeypatch.setattr(files, "find", lambda _: files.Programs(programs.bin, programs.major, account))
        monkeypatch.setattr(os, "chown", lambda *_: None)  # only root may; the rest is the same
        private = reachable / "private"
        private.mkdir(mode=0o700)
        folder = private / "data"
        if existing:
            folder.mkdir()
        with pytest.raises(LocalPostgresError, match="the account nobody cannot enter"):
            Postgres(folder).start()
        assert folder.exists() is existing

    def test_settings_that_the_server_refuses_come_back_in_its_words(self, initialised: Path) -> None:
        with pytest.raises(LocalPostgresError, match="unrecognized configuration parameter") as caught:
            Postgres(initialised, settings={"no_such_parameter": "1"}).start()
        assert "\n" not in str(caught.value)


class TestPort:
    def test_an_asked_port_is_used(self, initialised: Path) -> None:
        with Postgres(initialised) as server:
            port = server.port
        with Postgres(initialised, port=port) as server:
            assert server.port == port

    def test_an_asked_port_that_is_taken_is_an_error(self, initialised: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(LocalPostgresError, match=f"port {port} on 127.0.0.1 is taken"):
                Postgres(initialised, port=port).start()

    def test_a_chosen_port_that_was_taken_meanwhile_is_replaced(
        self, initialised: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from receiver.local_postgres import server as postgres  # noqa: PLC0415 - the module, beside the class of the same name

        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            lost = taken.getsockname()[1]
            ports = iter([lost, lost, postgres.free_port()])
            monkeypatch.setattr(postgres, "free_port", lambda: next(ports))
            with Postgres(initialised) as server:
                assert server.port != lost
                assert query(server, "SELECT 1") == 1


class TestDatabases:
    def test_a_database_is_copied_from_its_template_and_dropped_with_its_connections(
        self, postgres_server: LocalServer
    ) -> None:
        postgres_server.create_database("origin")
        query(postgres_server, "CREATE TABLE told AS SELECT 7 AS n", "origin")
        postgres_server.create_database("copy", template="origin")
        assert query(postgres_server, "SELECT n FROM told", "copy") == 7

        async def drop_while_connected() -> None:
            connection = await asyncpg.connect(postgres_server.url("copy"))
            await asyncio.to_thread(postgres_server.drop_database, "copy")
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
                await connection.fetchval("SELECT 1")
            connection.terminate()

        asyncio.run(drop_while_connected())
        postgres_server.drop_database("copy")  # already gone: no error
        postgres_server.drop_database("origin")

    def test_a_name_that_exists_is_an_error_in_postgresqls_words(self, postgres_server: LocalServer) -> None:
        with pytest.raises(LocalPostgresError, match="already exists"):
            postgres_server.create_database("postgres")

    def test_variables_of_another_server_are_ignored(
        self, postgres_server: LocalServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PGHOST", "nowhere.invalid")
        monkeypatch.setenv("PGOPTIONS", "-c nonsense=1")
        monkeypatch.setenv("PGSSLMODE", "require")
        postgres_server.create_database("steady")
        postgres_server.drop_database("steady")
