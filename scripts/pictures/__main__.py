"""Draws the pictures of the documentation into docs/pictures. `make pictures`."""

from __future__ import annotations

import sys
from pathlib import Path

from scripts.pictures.recording import RECORDED, record
from scripts.pictures.stories import STORIES

DOCS = Path(__file__).resolve().parents[2] / "docs" / "pictures"


def main() -> None:
    """Draws them all. `--record`: runs `receiver dev` first, and keeps what its terminal shows."""
    if "--record" in sys.argv[1:]:
        RECORDED.write_text(record())
    DOCS.mkdir(exist_ok=True)
    for name, draw in STORIES.items():
        (DOCS / f"{name}.svg").write_text(str(draw()))


if __name__ == "__main__":
    main()
