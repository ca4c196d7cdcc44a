"""What is saved is seen, whatever else lies in the folder."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from receiver.dev.session import saves
from receiver.errors import ConfigurationError

WATCHES = """
import asyncio, sys
from pathlib import Path
from receiver.dev.session import saves

async def until_saved(folder: Path) -> None:
    stop = asyncio.Event()
    async for _ in saves(folder, stop):
        stop.set()
        print("seen")

asyncio.run(until_saved(Path(sys.argv[1])))
"""
POWERLESS = [
    "setpriv",
    "--bounding-set=-dac_override,-dac_read_search",
    "--inh-caps=-dac_override,-dac_read_search",
]
"""Root may enter every folder; without these powers it is like anybody."""


def test_a_folder_that_may_not_be_entered_hides_no_save(tmp_path: Path, project_root: Path) -> None:
    closed = tmp_path / "pgdata"
    closed.mkdir(mode=0)
    if os.geteuid() == 0:
        os.chown(closed, 1, 1)
    plugin = tmp_path / "plug.py"
    process = subprocess.Popen(
        [*(POWERLESS if os.geteuid() == 0 else []), sys.executable, "-c", WATCHES, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(project_root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        saved = 0
        while process.poll() is None:  # until it watches; nothing says from when on
            saved += 1
            assert saved < 1000
            plugin.write_text(f"x = {saved}\n")
            try:
                process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
        said = process.communicate()
    finally:
        process.kill()
        closed.chmod(0o700)
    assert (process.returncode, *said) == (0, "seen\n", "")


async def test_a_folder_that_cannot_be_watched_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be watched for changes"):
        async for _ in saves(tmp_path / "missing", asyncio.Event()):
            pass
