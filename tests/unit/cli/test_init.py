"""What `receiver init` asks, says, and ends with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stage.commands import Commands, clean_environ, one_line
from tests.stage.terminal import shown


@pytest.fixture
def run(tmp_path: Path) -> Commands:
    return Commands(tmp_path, clean_environ())


def test_without_a_terminal_nothing_is_asked(run: Commands) -> None:
    done = run("init", "my-shop")
    assert done.returncode == 0, done
    assert done.stdout.splitlines()[0] == "12 files written into my-shop:"
    assert "  my_shop/tasks.py       three tasks: " in done.stdout
    assert done.stdout.endswith("\n  cd my-shop && pip install -e '.[dev]'\n  receiver dev\n")
    assert not (run.folder / "my-shop" / "my_shop" / "web.py").exists()


def test_a_terminal_is_asked_what_no_flag_says(run: Commands) -> None:
    lines = shown("init", "--workflow", "none", cwd=run.folder, env=run.environ, typed="shop\ny\n")
    text = "\n".join(lines)
    assert text.index("Name of the package [") < text.index("A FastAPI application that enqueues? [y/N]: ")
    assert "GitHub" not in text.partition("15 files")[0]
    assert text.partition("[y/N]: ")[2].startswith("15 files written into .:\n")
    assert (run.folder / "shop" / "web.py").exists()
    assert lines[-2:] == ["  pip install -e '.[dev]'", "  receiver dev"]


def test_yes_asks_nothing(run: Commands) -> None:
    assert shown("init", "shop", "--yes", cwd=run.folder, env=run.environ)[0] == "12 files written into shop:"


def test_files_that_are_there_are_named_and_kept(run: Commands) -> None:
    folder = run.folder / "shop"
    folder.mkdir()
    (folder / "README.md").write_text("mine")
    done = run("init", "shop")
    assert done.returncode == 1
    assert "11 files written into shop:\n" in done.stdout
    assert "\nKept as you have them: README.md\n" in done.stdout
    assert (folder / "README.md").read_text() == "mine"


def test_a_second_time_there_is_nothing_to_do_but_what_is_new(run: Commands) -> None:
    run("init", "shop")
    again = run("init", "shop")
    assert (again.returncode, again.stdout.splitlines()[0]) == (0, "0 files written into shop")
    more = run("init", "shop", "--workflow", "github")
    assert (more.returncode, more.stdout.splitlines()[0]) == (0, "1 file written into shop:")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a.b"], "'a.b' is no name for a package"),
        (["test"], "the package test would hide the installed module test"),
        (["shop", "--name", "receiver"], "the package receiver would hide"),
        (["shop", "--receiver-from", "x.whl"], "--receiver-from: use index"),
        (["/proc/shop"], "/proc/shop: No such file or directory; nothing was written"),
    ],
)
def test_misuse_is_one_line(run: Commands, arguments: list[str], said: str) -> None:
    assert said in one_line(run("init", *arguments))
    assert list(run.folder.iterdir()) == []
