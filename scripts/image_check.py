"""Runs the Dockerfile's install steps in a temporary folder, where no Docker is at hand.

The same locks, flags and order: two environments, hash-checked binary installs, a wheel built without isolation, byte
code. Then the installed command must answer from outside the checkout, with the migrations inside the wheel. What it
cannot tell is whether the base image suits. Exits 1 at the first step that fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONTEXT = ("pyproject.toml", "README.md", "LICENSE", "alembic", "receiver", "requirements")  # what is copied
PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check", "--no-cache-dir")
HASHED = ("install", "--require-hashes", "--only-binary", ":all:", "-r")


def main() -> int:
    """Every step in the Dockerfile's order."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="receiver-image-") as folder:
        place = Path(folder)
        build, final = place / "opt-build" / "bin" / "python", place / "opt-receiver" / "bin" / "python"
        source, wheels, outside = place / "src", place / "wheel", place / "srv"
        source.mkdir()
        outside.mkdir()
        for name in CONTEXT:
            step("cp", "-R", ROOT / name, source / name)
        into = ("--python", final)
        step(sys.executable, "-m", "venv", build.parent.parent)
        step(build, *PIP, *HASHED, source / "requirements" / "build.txt")
        step(sys.executable, "-m", "venv", "--without-pip", final.parent.parent)
        step(build, *PIP, *into, *HASHED, source / "requirements" / "runtime.txt")
        step(build, *PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, source)
        step(build, *PIP, *into, "install", "--no-deps", "--no-index", *wheels.glob("*.whl"))
        step(final, "-m", "compileall", "-q", "-j", "0", final.parent.parent / "lib")
        step(build, *PIP, *into, "check", cwd=outside)
        step(final, "-c", NO_PIP, cwd=outside)
        receiver = final.parent / "receiver"
        for command in (["--help"], ["serve", "--help"], ["migrate", "--help"]):
            step(receiver, *command, cwd=outside)
        step(final, "-c", MIGRATIONS, cwd=outside)
    print(f"image-check: the Dockerfile's steps hold ({time.monotonic() - started:.0f} s)")
    return 0


NO_PIP = """
from importlib.util import find_spec
assert find_spec("pip") is None, "the environment that is served has pip"
"""
MIGRATIONS = """
from importlib.resources import files
folder = files("receiver") / "alembic"
assert any(found.name.endswith(".py") for found in (folder / "versions").iterdir()), f"no migrations in {folder}"
"""


def step(*argv: str | Path, cwd: Path | None = None) -> None:
    """One command; its output is shown only when it fails, which ends everything."""
    shown = " ".join(str(part) for part in argv if "\n" not in str(part))
    print(f"image-check: {shown}", flush=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(done.stdout + done.stderr, file=sys.stderr)
        sys.exit(f"image-check: failed with status {done.returncode}: {shown}")


if __name__ == "__main__":
    sys.exit(main())
