"""Commands find the `receiver dev` of their folder, and never mix it with another place."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from receiver.cli import COMMANDS, receiver
from receiver.cli.here import NOT_HERE, PLACE, adopt, is_dev, told
from receiver.dev.folder import LOCK_FILE, Folder
from receiver.errors import ConfigurationError, DatabaseUnavailable

FILE = {
    "DATABASE_URL": "postgresql://postgres@127.0.0.1:5433/postgres",
    "PUBSUB_EMULATOR_HOST": "127.0.0.1:8085",
    "CLOUD_RUN_SERVICE_URL": "http://127.0.0.1:8080",
    "TASKS_MODULES": "shop",
}


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The variables of a process in a folder where `receiver dev` runs."""
    one = Folder(tmp_path)
    one.make()
    one.keep_environ(FILE)
    monkeypatch.chdir(tmp_path)
    made = {"DATABASE_URL": " "}
    monkeypatch.setattr(os, "environ", made)
    return made


def known(environ: dict[str, str]) -> dict[str, str]:
    """The variables that the file has too."""
    return {name: value for name, value in environ.items() if name in FILE}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_finds_it_but_those_that_are_for_the_cloud(
    environ: dict[str, str], command: str
) -> None:
    assert CliRunner().invoke(receiver, [command, "--help"]).exit_code == 0
    never = {*NOT_HERE, "serve"}
    assert known(environ) == ({"DATABASE_URL": " "} if command in never else FILE)
    assert is_dev(environ) is (command not in never)


@pytest.mark.parametrize("name", PLACE)
def test_what_says_another_place_is_never_mixed_with_it(environ: dict[str, str], name: str) -> None:
    environ[name] = "x"
    before = dict(environ)
    adopt("executions")
    assert environ == before
    assert not is_dev(environ)


def test_a_push_goes_to_it_whatever_database_is_meant(environ: dict[str, str]) -> None:
    environ["DATABASE_URL"] = "postgresql://mine"
    adopt("push")
    assert known(environ) == FILE | {"DATABASE_URL": "postgresql://mine"}


def test_a_push_to_another_port_is_not_for_it(environ: dict[str, str]) -> None:
    environ["PORT"] = "9000"
    adopt("push")
    assert known(environ) == {"DATABASE_URL": " "}


def test_what_is_set_wins(environ: dict[str, str]) -> None:
    environ["TASKS_MODULES"] = "other"
    adopt("check")
    assert environ["TASKS_MODULES"] == "other"


def test_another_users_file_is_left_alone_and_said(
    environ: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".receiver" / "env").chmod(0o666)
    adopt("executions")
    assert "DATABASE_URL" not in environ or not environ["DATABASE_URL"].strip()
    said = capsys.readouterr().err
    assert said.startswith("note: ")
    assert "is not read" in said
    assert not is_dev(FILE)


def test_an_error_says_that_the_receiver_dev_which_is_asked_is_not_running(
    environ: dict[str, str], tmp_path: Path
) -> None:
    away = DatabaseUnavailable("no answer")
    assert told(away) == "no answer", "it is not asked"
    adopt("executions")
    assert told(away).startswith("no answer; that is the `receiver dev` of this folder")
    assert told(ConfigurationError("a typing error")) == "a typing error"
    with Folder(tmp_path).locked():
        assert told(away) == "no answer", "it runs"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (Folder(tmp_path).path / LOCK_FILE).write_text(str(gone.pid))
    assert "which is not running" in told(away)
