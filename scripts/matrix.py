"""Runs a part of the suite on each Python from 3.11 to 3.14 that this machine has, with the newest of each dependency. `make matrix` calls it.

No lock: uv resolves what pyproject.toml allows, as an application's own resolution would. A table says at the end what ran, which
packages were newer than the lock, and what could not be tried. Exits 1 when something failed, or nothing ran.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
PLACE: Final = ROOT / ".venv" / ".cache" / "matrix"
PYTHONS: Final = ("3.11", "3.12", "3.13", "3.14")
PART: Final = ("tests/unit", "tests/postgres", "tests/acceptance/delivery")
UV: Final = (sys.executable, "-m", "uv", "--quiet")


@dataclass(frozen=True, slots=True)
class Ran:
    """A line of the table: the interpreter, what is newer than the lock, and how it ended."""

    python: str
    newer: str
    said: str
    failed: bool = False


def found(version: str) -> Path | None:
    """An interpreter of that version: on PATH, of pyenv or of uv. Shims that run nothing are passed over; nothing is downloaded."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    own = sorted(
        pyenv.glob(f"{version}.*/bin/python"),
        key=lambda path: [int(n) for n in re.findall(r"\d+", str(path))],
    )
    names = [f"python{version}", *reversed([str(path) for path in own])]
    uv = subprocess.run(
        [*UV, "python", "find", "--no-python-downloads", version], capture_output=True, text=True, check=False
    )
    ask = "import ssl, sys; print(sys.version_info[:2] == tuple(map(int, sys.argv[1].split('.'))) and sys.executable)"
    for name in [*names, *uv.stdout.split()]:
        try:
            done = subprocess.run([name, "-c", ask, version], capture_output=True, text=True, check=False)
        except OSError:
            continue
        if done.returncode == 0 and done.stdout.strip() != "False":
            return Path(done.stdout.strip())
    return None


def locked() -> dict[str, str]:
    """What requirements/dev.txt pins."""
    text = (ROOT / "requirements" / "dev.txt").read_text()
    return dict(re.findall(r"^([a-z0-9.-]+)==([^\s;]+)", text, re.MULTILINE))


def newer(installed: str) -> str:
    """The packages that are installed in another version than the lock's, from the output of `uv pip freeze`."""
    lock = locked()
    pairs = re.findall(r"^([a-z0-9._-]+)==(\S+)$", installed, re.MULTILINE)
    return ", ".join(f"{name} {version}" for name, version in pairs if lock.get(name, version) != version)


def ran(version: str, tests: list[str]) -> Ran:
    """Makes the environment and runs the tests there."""
    python = found(version)
    if python is None:
        return Ran(version, "", "not on this machine")
    place = PLACE / version
    own = place / "bin" / "python"
    print(f"matrix: {version}: {python}", flush=True)
    for step in (
        ("venv", "--clear", "--python", str(python), str(place)),
        ("pip", "install", "--upgrade", "--python", str(own), "--group", "dev", "--editable", ".[local]"),
    ):
        done = subprocess.run([*UV, *step], cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            print(done.stderr, file=sys.stderr)
            why = re.findall(r"\S.*", done.stderr) or ["uv failed"]
            return Ran(version, "", f"cannot be installed: {why[0][:100]}", failed=True)
    frozen = subprocess.run(
        [*UV, "pip", "freeze", "--python", str(own)], capture_output=True, text=True, check=True
    )
    log = PLACE / f"{version}.log"
    with log.open("w") as output:
        suite = [str(own), "-m", "pytest", "-q", "-m", "not slow", "--numprocesses", "2", *tests]
        code = subprocess.run(
            suite, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, check=False
        ).returncode
    return Ran(full(own), newer(frozen.stdout), closing(log), failed=bool(code))


def full(python: Path) -> str:
    """Such as 3.13.0."""
    ask = "import platform; print(platform.python_version())"
    return subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()


def closing(log: Path) -> str:
    """Pytest's last line, and where the rest is when that says that something failed."""
    lines = log.read_text().strip().splitlines() or ["pytest said nothing"]
    said = lines[-1].strip("= ")
    return said if re.match(r"\d+ passed", said) else f"{said}; see {log.relative_to(ROOT)}"


def table(lines: list[Ran]) -> str:
    """For people."""
    rows = [
        ("Python", "Ended", "Newer than the lock"),
        *((each.python, each.said, each.newer or "-") for each in lines),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]}" for row in rows)


def main() -> int:
    """Each version in its turn."""
    options = argparse.ArgumentParser(
        description="Runs a part of the suite on several Pythons, with the newest dependencies."
    )
    options.add_argument(
        "--python", nargs="+", default=PYTHONS, metavar="3.X", help="which  [default: 3.11 to 3.14]"
    )
    options.add_argument(
        "tests", nargs="*", default=PART, help=f"what of the suite  [default: {' '.join(PART)}]"
    )
    given = options.parse_args()
    PLACE.mkdir(parents=True, exist_ok=True)
    lines = [ran(version, list(given.tests)) for version in given.python]
    print(table(lines))
    return int(
        any(each.failed for each in lines) or all(each.said == "not on this machine" for each in lines)
    )


if __name__ == "__main__":
    sys.exit(main())
