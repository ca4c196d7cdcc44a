"""What the audit of dependencies says, and when it fails `make check`. The stand-in is for the advisory service only."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.version import Version

from tests.stage.slow import some_quick

Verdict = Callable[[str, str], tuple[int, list[str]]]


@pytest.fixture
def verdict(project_root: Path) -> Verdict:
    spec = importlib.util.spec_from_file_location("audit", project_root / "scripts" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Verdict = module.verdict
    return found


def printed(*fixes: list[str], known: bool = True) -> str:
    """What pip-audit prints for a package with a finding for each list of fixes, a sound one, and one that is not known."""
    # Only here: it imports a second long, and each worker imports this module.
    from pip_audit._format import JsonFormat  # noqa: PLC0415
    from pip_audit._service import ResolvedDependency, SkippedDependency, VulnerabilityResult  # noqa: PLC0415

    findings = [
        VulnerabilityResult("CVE-2026-1", "it leaks", [Version(fix) for fix in each], set()) for each in fixes
    ]
    sound = ResolvedDependency("sound", Version("1.0"))
    found = {ResolvedDependency("leaky", Version("2.1")): findings, sound: []} if known else {}
    text: str = JsonFormat(output_desc=True, output_aliases=True).format(
        {**found, SkippedDependency("hidden", "not found"): []}, []
    )
    return text


def test_a_known_vulnerability_fails_and_says_what_to_do(verdict: Verdict) -> None:
    code, lines = verdict(printed(["2.2", "3.0"]), "Found 1 known vulnerability in 1 package")
    assert code == 1
    assert lines[0] == "leaky 2.1 has CVE-2026-1; fixed in 2.2, 3.0"


def test_one_without_a_fix_fails_too(verdict: Verdict) -> None:
    code, lines = verdict(printed([]), "")
    assert code == 1
    assert lines[0] == "leaky 2.1 has CVE-2026-1; no release mends it yet"


def test_nothing_found_passes_and_names_what_was_not_looked_up(verdict: Verdict) -> None:
    code, lines = verdict(printed(), "")
    assert code == 0
    assert lines == [
        "2 packages, no known vulnerabilities",
        "not known to the advisory service: hidden",
    ]


def test_a_service_that_knows_nothing_has_not_been_reached(verdict: Verdict) -> None:
    """A mirror of packages that answers 404 for every advisory: pip-audit itself calls that a success."""
    code, [line] = verdict(printed(known=False), "No known vulnerabilities found")
    assert code == 3
    assert "nothing was checked" in line


@pytest.mark.parametrize(
    "complaint",
    [
        "ERROR:pip_audit._cli:Could not connect to the vulnerability feed",
        "Traceback (most recent call last):\nrequests.exceptions.ConnectionError: Max retries exceeded",
        "pip_audit._service.interface.ServiceError: 503",
        "requests.exceptions.JSONDecodeError: a login page",
    ],
)
def test_an_unreachable_service_is_one_line_and_no_failure(verdict: Verdict, complaint: str) -> None:
    code, [line] = verdict("", complaint)
    assert code == 3
    assert line.startswith("nothing was checked, the advisory service cannot be reached from here (")


@pytest.mark.parametrize("complaint", ["ERROR:pip_audit._cli:requirement x is not hashed", ""])
def test_a_mistake_of_ours_fails(verdict: Verdict, complaint: str) -> None:
    code, [line] = verdict("", complaint)
    assert code == 1
    assert line.startswith("failed: ")


@some_quick(("options", "code"), [((), 0), (("--strict",), 3)])
def test_without_a_network_a_check_passes_in_one_line_and_a_release_fails(
    project_root: Path, options: tuple[str, ...], code: int
) -> None:
    nowhere = "http://127.0.0.1:1"
    environ = os.environ | {"HTTPS_PROXY": nowhere, "https_proxy": nowhere, "NO_PROXY": "", "no_proxy": ""}
    done = subprocess.run(
        [sys.executable, str(project_root / "scripts" / "audit.py"), *options],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    [line] = (done.stdout + done.stderr).splitlines()
    assert line.startswith("audit: nothing was checked")
