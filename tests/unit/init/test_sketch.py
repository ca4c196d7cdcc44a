from __future__ import annotations

import os
from pathlib import Path

import pytest

from receiver.errors import ConfigurationError
from receiver.init.sketch import Sketch
from receiver.init.template import ProjectFile

FILES = [
    ProjectFile("pyproject.toml", b"ours", ""),
    ProjectFile("shop/tasks.py", b"ours", ""),
    ProjectFile("deploy/deploy.sh", b"ours", ""),
]


def there(folder: Path) -> dict[str, str]:
    """All files, with their content."""
    return {
        path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()
    }


def refused(folder: Path) -> str:
    with pytest.raises(ConfigurationError) as error:
        Sketch.of(folder, FILES)
    return str(error.value)


def test_a_folder_that_is_not_there_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "shop"
    Sketch.of(folder, FILES).write()
    assert there(folder) == {file.path: "ours" for file in FILES}
    assert os.access(folder / "deploy/deploy.sh", os.X_OK)
    assert not os.access(folder / "pyproject.toml", os.X_OK)


def test_what_is_there_stays_and_what_differs_is_named(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "tasks.py").write_text("theirs")
    (tmp_path / "pyproject.toml").write_text("ours")
    sketch = Sketch.of(tmp_path, FILES)
    sketch.write()
    assert sketch.kept == ["shop/tasks.py"]
    assert there(tmp_path) == {
        "pyproject.toml": "ours",
        "shop/tasks.py": "theirs",
        "deploy/deploy.sh": "ours",
    }
    assert Sketch.of(tmp_path, FILES).new == []


@pytest.mark.parametrize("name", ["shop", ""])
def test_a_file_where_a_folder_must_be_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "here"
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("theirs")
    assert "is in the way: a folder must be there; nothing was written" in refused(folder)


def test_a_folder_where_a_file_must_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").mkdir()
    assert "pyproject.toml is in the way: a file must be there; nothing was written" in refused(tmp_path)


def test_links_are_not_followed(tmp_path: Path) -> None:
    """Not to a folder, nor to a file that is not there; but the folder itself may be one."""
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "here"
    elsewhere.mkdir()
    folder.symlink_to(elsewhere, target_is_directory=True)
    (elsewhere / "pyproject.toml").symlink_to(tmp_path / "nothing")
    sketch = Sketch.of(folder, FILES)
    sketch.write()
    assert sketch.kept == ["pyproject.toml"]
    assert not (tmp_path / "nothing").exists()
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "shop").symlink_to(elsewhere)
    assert "shop is in the way" in refused(tmp_path / "second")


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    """The last file's folder cannot be made: somebody has put a file there after the look."""
    folder = tmp_path / "here"
    sketch = Sketch.of(folder, FILES)
    folder.mkdir()
    (folder / "deploy").write_text("theirs")
    with pytest.raises(ConfigurationError, match=r"Not a directory; nothing was written"):
        sketch.write()
    assert there(tmp_path) == {"here/deploy": "theirs"}


def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    sketch = Sketch.of(tmp_path, FILES)
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "tasks.py").write_text("theirs")
    with pytest.raises(ConfigurationError, match="File exists; nothing was written"):
        sketch.write()
    assert there(tmp_path) == {"shop/tasks.py": "theirs"}
