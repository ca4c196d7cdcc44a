"""The README is true: its commands run in order in a clean environment."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from receiver.local_postgres.server import free_port
from tests.stage.pages import blocks


def clone(source: Path, target: Path) -> None:
    """A copy of what git tracks or would track, as a clone of the next commit would be."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=source,
        check=True,
        capture_output=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_commands_of_the_readme_run_in_order_in_a_clean_environment(
    project_root: Path, tmp_path: Path, empty_database_url: str
) -> None:
    """From a fresh clone and an empty database: make demo, then a plugin, serve, push, list."""
    home = tmp_path / "clone"
    clone(project_root, home)
    readme = (home / "README.md").read_text()
    for extra, code in blocks(readme, "python"):
        title = re.search(r'title="([^"]+)"', extra)
        if title:
            (home / title.group(1)).write_text(code)
    script = "set -euo pipefail\n" + "\n".join(code for _, code in blocks(readme, "sh"))
    script = re.sub(r"postgresql://localhost/shop", empty_database_url, script)
    script = script.replace(":8080", f":{free_port()}").replace(":8081", f":{free_port()}")
    port = re.search(r"CLOUD_RUN_SERVICE_URL=http://127.0.0.1:(\d+)", script)
    assert port is not None
    kept = (
        "PATH",
        "HOME",
        "LANG",
        "PIP_",
        "PYENV_",
        "SSL_",
        "REQUESTS_",
        "COVERAGE_",
        "http",
        "HTTP",
        "TMPDIR",
    )
    environ = {name: value for name, value in os.environ.items() if name.startswith(kept)}
    process = subprocess.Popen(
        ["bash", "-m", "-c", script],
        cwd=home,
        env={**environ, "PORT": port.group(1)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=280)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, output
    assert output.count("200 The task completed.") >= 2, output
    assert "resize_image" in output
    assert "Traceback" not in output
    left = subprocess.run(["git", "init", "-q", "."], cwd=home, check=True, capture_output=True)
    assert left.returncode == 0
    status = subprocess.run(
        ["git", "status", "--short", "--ignored"], cwd=home, check=True, capture_output=True, text=True
    )
    ignored = {line[3:] for line in status.stdout.splitlines() if line.startswith("!!")}
    assert not {
        name
        for name in ignored
        if not name.startswith((".venv", ".receiver", "__pycache__")) and "__pycache__" not in name
    }
