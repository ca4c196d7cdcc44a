"""What sends a reader to a page names one that exists: messages and comments of the code, templates, and the project's own files."""

from __future__ import annotations

import re
from pathlib import Path

from tests.unit.docs.site import ROOT

FOLDERS = ("receiver", "alembic", "examples", "scripts")


def named(folder: Path, root: Path) -> list[str]:
    """The pages that files below a folder name and that do not exist: file, page."""
    return [
        f"{path.relative_to(root)}: {page}"
        for path in sorted(folder.rglob("*"))
        if path.suffix != ".pyc" and path.is_file()
        for page in re.findall(r"\bdocs/[\w/.-]+\.md\b", path.read_text(errors="ignore"))
        if not (root / page).is_file()
    ]


def test_every_page_that_is_named_exists() -> None:
    assert [line for folder in FOLDERS for line in named(ROOT / folder, ROOT)] == []


def test_one_that_does_not_is_told(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "there.md").touch()
    (tmp_path / "receiver").mkdir()
    (tmp_path / "receiver" / "a.py").write_text('"see docs/there.md, (docs/gone.md)"')
    assert named(tmp_path / "receiver", tmp_path) == ["receiver/a.py: docs/gone.md"]
