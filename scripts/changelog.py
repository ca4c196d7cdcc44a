"""What CHANGELOG.md says of the version in pyproject.toml. `make notes` prints it, and `make release` asks for it.

Nothing is imported but the standard library: the step of the release workflow that may write to the repository runs no other code.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent


def version(root: Path = ROOT) -> str:
    """The project's version; it stands nowhere else."""
    found: str = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    return found


def section(number: str, root: Path = ROOT) -> str:
    """What is below `## [number] - date`; empty without such a heading."""
    heading = rf"^## \[{re.escape(number)}\] - \d{{4}}-\d\d-\d\d\n(.*?)(?=^## |\Z)"
    found = re.search(heading, (root / "CHANGELOG.md").read_text(), re.MULTILINE | re.DOTALL)
    return found[1].strip() if found else ""


def main() -> int:
    """Prints the notes of the release; the argument is its image with the digest."""
    text = section(version())
    if not text:
        print(f"notes: CHANGELOG.md has no section for {version()}", file=sys.stderr)
        return 1
    print(f"{text}\n\n### Image\n\n`{sys.argv[1]}`" if sys.argv[1:] else text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
