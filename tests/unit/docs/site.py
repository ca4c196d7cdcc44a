"""The script that builds the site, as a module, and the pages of the project."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[3]
FENCED: Final = re.compile(r"^(```+).*?^\1$", re.MULTILINE | re.DOTALL)


def script() -> ModuleType:
    """`scripts/build_site.py`."""
    spec = importlib.util.spec_from_file_location("build_site", ROOT / "scripts" / "build_site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prose(path: Path) -> str:
    """A page without its code."""
    return FENCED.sub("", path.read_text())


def anchors(path: Path) -> set[str]:
    """What a link may end with on this page: its headings, in lower case, with dashes, as site and GitHub both write them."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    plain = [re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", heading).replace("`", "") for heading in headings]
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", each).strip().lower()) for each in plain}
