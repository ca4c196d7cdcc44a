"""What the files around the sources promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.stage import emulator

LOCKS = ("bench.txt", "build.txt", "dev.txt", "publish.txt", "release.txt", "runtime.txt")


def pins(lock: Path) -> dict[str, str]:
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", lock.read_text(), re.MULTILINE))


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_index_and_no_place_on_a_machine(project_root: Path, lock: str) -> None:
    text = (project_root / "requirements" / lock).read_text()
    assert not re.search(r"://|--index|--find-links|--extra-index|--trusted-host|file:|\s@\s|(^|\s)/\w", text)


@pytest.mark.parametrize("lock", LOCKS)
def test_every_requirement_of_a_lock_is_pinned_and_hashed(project_root: Path, lock: str) -> None:
    text = (project_root / "requirements" / lock).read_text().replace("\\\n", " ")
    requirements = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert requirements
    for line in requirements:
        assert re.match(r"[a-z0-9._-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", line), line


def test_the_locks_agree_with_one_another(project_root: Path) -> None:
    everything = pins(project_root / "requirements" / "dev.txt").items()
    for lock in ("build.txt", "runtime.txt"):
        assert pins(project_root / "requirements" / lock).items() <= everything


def test_every_declared_dependency_is_locked(project_root: Path) -> None:
    declared = tomllib.loads((project_root / "pyproject.toml").read_text())
    names = {
        lock: {name.lower().replace("_", "-") for name in pins(project_root / "requirements" / lock)}
        for lock in LOCKS
    }

    def name(requirement: str) -> str:
        return re.split(r"[\[<>=;! ]", requirement, maxsplit=1)[0]

    runtime = {name(each) for each in declared["project"]["dependencies"]}
    assert runtime <= names["runtime.txt"]
    local = {name(each) for each in declared["project"]["optional-dependencies"]["local"]}
    assert runtime | local | {name(each) for each in declared["dependency-groups"]["dev"]} <= names["dev.txt"]
    assert not local & names["runtime.txt"], "the image carries no local PostgreSQL"


def test_the_makefile_has_the_targets_that_the_documents_name(project_root: Path) -> None:
    shown = subprocess.run(
        ["make", "--no-print-directory"], cwd=project_root, capture_output=True, text=True, check=True
    ).stdout
    documents = (project_root / "CONTRIBUTING.md").read_text() + (project_root / ".ci" / "run").read_text()
    named = set(re.findall(r"make ([a-z][a-z-]+)\b(?=[` \n])", documents)) & set(
        re.findall(r"make ([a-z-]+)", shown)
    )
    assert {"demo", "test", "test-all", "check", "lock", "clean", "image-check"} <= named


def test_make_without_a_recent_python_says_so_in_one_line(project_root: Path, tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml"):
        (tmp_path / name).write_text((project_root / name).read_text())
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "dev.txt").touch()
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "python3").write_text("#!/bin/sh\nexit 1\n")
    (programs / "python3").chmod(0o755)
    for name in ("rm", "sh", "echo", "make"):
        found = next(Path(place) / name for place in ("/bin", "/usr/bin") if (Path(place) / name).exists())
        (programs / name).symlink_to(found)
    asked = subprocess.run(
        [programs / "make", "--no-print-directory", "check"],
        cwd=tmp_path,
        env={"PATH": str(programs)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode != 0
    assert asked.stderr.splitlines()[0].startswith("error: no Python 3.11 or newer found")


@pytest.mark.parametrize("place", [*emulator.PLACES, "google-cloud-sdk", "CLOUDSDK_ROOT_DIR"], ids=str)
def test_ci_looks_for_the_emulator_wherever_its_tests_do(project_root: Path, place: Path | str) -> None:
    """An SDK that only the tests find could be without Java, and they would be skipped unnoticed."""
    script = (project_root / ".ci" / "run").read_text()
    looked = script[script.index("emulator() {") : script.index("\n}", script.index("emulator() {"))]
    assert str(place) in looked


@pytest.mark.slow
@pytest.mark.parametrize(
    ("forbidden", "status", "workers"), [("1", 1, ()), ("1", 1, ("--numprocesses", "1")), ("0", 0, ())]
)
def test_a_skipped_test_fails_the_session_where_nothing_may_be_skipped(
    project_root: Path, tmp_path: Path, forbidden: str, status: int, workers: tuple[str, ...]
) -> None:
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_configure\n")
    (tmp_path / "test_one.py").write_text(
        "import pytest\n\ndef test_skipped():\n    pytest.skip('no emulator')\n\n"
        "@pytest.mark.xfail\ndef test_known():\n    assert False\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-c",
            os.devnull,
            "--rootdir",
            tmp_path,
            "-p",
            "no:cacheprovider",
            *workers,
            tmp_path,
        ],
        cwd=tmp_path,
        env={**os.environ, "RECEIVER_NO_SKIPS": forbidden, "PYTHONPATH": str(project_root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert ("test_one.py::test_skipped: Skipped: no emulator" in done.stdout) == bool(status)
    assert "test_known:" not in done.stdout
