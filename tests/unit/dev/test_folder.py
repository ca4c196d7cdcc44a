"""`.receiver` ignores itself, belongs to one at a time, and tells others what they need."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from receiver.dev import folder
from receiver.dev.folder import Folder, Ports
from receiver.errors import ConfigurationError
from receiver.local_postgres import files
from receiver.local_postgres.files import Account, Programs


@pytest.fixture
def made(tmp_path: Path) -> Folder:
    one = Folder(tmp_path)
    one.make()
    return one


def test_it_ignores_itself(made: Folder) -> None:
    assert (made.path / ".gitignore").read_text() == "*\n"


def test_where_nothing_can_be_written_it_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="run in a folder that can be written"):
        Folder(tmp_path / "file").make()


def test_one_at_a_time_has_it(made: Folder) -> None:
    with (
        made.locked(),
        pytest.raises(ConfigurationError, match=rf"\(process {os.getpid()}\); stop it first"),
        made.locked(),
    ):
        pass
    with made.locked():
        pass


def test_ports_are_kept_and_a_damaged_note_is_none(made: Folder) -> None:
    assert made.ports() is None
    made.keep_ports(Ports(1, 2, 3))
    assert made.ports() == Ports(1, 2, 3)
    (made.path / "dev.json").write_text("{")
    assert made.ports() is None


def test_its_environment_is_read_as_it_was_written_and_by_a_shell_too(made: Folder) -> None:
    values = {"A": "plain", "B": "two words & more", "C": "it's", "D": ""}
    assert made.environ() == {}
    made.keep_environ(values)
    assert made.environ() == values
    script = f'. {made.path / "env"}; printf "%s|" "$A" "$B" "$C" "$D"'
    assert subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout == (
        "plain|two words & more|it's||"
    )


def test_an_environment_that_others_may_have_written_is_not_read(
    made: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = made.path / "env"
    made.keep_environ({"A": "1"})
    assert env.stat().st_mode & 0o777 == 0o600
    for where, mode in ((env, 0o660), (env, 0o602), (made.path, 0o775)):
        former = where.stat().st_mode
        where.chmod(mode)
        with pytest.raises(
            ConfigurationError, match="is not read: it is another user's, or others may write it"
        ):
            made.environ()
        where.chmod(former)
    assert made.environ() == {"A": "1"}
    env.rename(tmp_path / "elsewhere")
    env.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="is not read"):
        made.environ()
    env.unlink()
    env.write_text("A=2\n")
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    with pytest.raises(ConfigurationError, match="is not read"):
        made.environ()


def test_an_environment_that_is_reached_by_a_link_or_through_what_others_may_write_is_not_read(
    made: Folder, tmp_path: Path
) -> None:
    made.keep_environ({"A": "1"})
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / ".receiver").symlink_to(made.path)
    with pytest.raises(ConfigurationError, match="is not read"):
        Folder(tmp_path / "theirs").environ()
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigurationError, match=rf"others may write {tmp_path}; run chmod o-w") as caught:
        made.environ()
    assert "\n" not in str(caught.value)
    tmp_path.chmod(0o1777)  # as /tmp: nobody renames what is another's
    assert made.environ() == {"A": "1"}


def test_a_folder_that_another_account_has_made_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".receiver").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match=r"is not a folder of yours .*; remove it"):
        Folder(tmp_path).make()
    (tmp_path / ".receiver").unlink()
    if os.geteuid() == 0:
        (tmp_path / ".receiver").mkdir()
        os.chown(tmp_path / ".receiver", 1, 1)
        with pytest.raises(ConfigurationError, match="belongs to another user; remove it"):
            Folder(tmp_path).make()


def test_a_former_folder_is_closed_to_others(tmp_path: Path) -> None:
    one = Folder(tmp_path)
    one.path.mkdir()
    one.path.chmod(0o775)
    one.make()
    one.keep_environ({"A": "1"})
    assert one.environ() == {"A": "1"}
    # Root's is entered by the account that PostgreSQL runs as.
    assert one.path.stat().st_mode & 0o777 == (0o700 if os.geteuid() else 0o711)


def test_the_data_is_where_postgresqls_account_can_go(made: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mock stands for being root, or not."""
    own = Programs(Path("/bin"), 18, None)
    monkeypatch.setattr(files, "find", lambda: own)
    assert made.data() == made.path / "postgres"
    nobody = Programs(Path("/bin"), 18, Account("nobody", 65534, 65534))
    monkeypatch.setattr(files, "find", lambda: nobody)
    made.path.chmod(0o700)
    assert made.data().parent == folder.ROOT_DATA_PARENT
