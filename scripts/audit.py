"""Asks for known vulnerabilities of what the image installs (requirements/runtime.txt). Part of `make check`.

A finding fails the check. An advisory service that cannot be reached does not: a check must work without a network, and
says in one line that nothing was looked up. A release must not: with `--strict`, no answer fails. A service that knows none of the packages was not reached either: a mirror
answers in its place. Anything else that goes wrong is a mistake of ours, and fails.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

LOCK = Path(__file__).resolve().parent.parent / "requirements" / "runtime.txt"
PATIENCE = 90.0
"""Seconds for the whole audit; it takes about three."""

UNANSWERED = 3
"""The code of a verdict without an answer."""

UNREACHABLE = re.compile(
    r"could not connect|ConnectionError|ServiceError|ProxyError|SSLError|Timeout|HTTPError|JSONDecodeError",
    re.IGNORECASE,
)


def main() -> int:
    """Runs the audit, prints what came of it, and returns the exit code."""
    command = [
        sys.executable,
        "-m",
        "pip_audit",
        "--requirement",
        str(LOCK),
        "--require-hashes",
        "--disable-pip",
    ]
    try:
        done = subprocess.run(
            [*command, "--format", "json", "--progress-spinner", "off"],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        code, lines = UNANSWERED, [unreachable("it does not answer")]
    else:
        code, lines = verdict(done.stdout, done.stderr)
    print("\n".join(f"audit: {line}" for line in lines))
    return 0 if code == UNANSWERED and "--strict" not in sys.argv[1:] else code


def verdict(printed: str, complained: str) -> tuple[int, list[str]]:
    """The exit code and the lines for what pip-audit printed on its two streams; its own exit code says less."""
    try:
        dependencies: list[dict[str, Any]] = json.loads(printed)["dependencies"]
    except (ValueError, KeyError):
        why = ([line for line in complained.splitlines() if line.strip()] or ["no output"])[-1].strip()
        return (
            (UNANSWERED, [unreachable(why[:160])])
            if UNREACHABLE.search(complained)
            else (1, [f"failed: {why}"])
        )
    known = [each for each in dependencies if "skip_reason" not in each]
    if not known:
        return UNANSWERED, [unreachable("it knows none of the packages")]
    findings = [
        f"{each['name']} {each['version']} has {found['id']}; "
        + (
            f"fixed in {', '.join(found['fix_versions'])}"
            if found["fix_versions"]
            else "no release mends it yet"
        )
        for each in known
        for found in each["vulns"]
    ]
    unknown = [each["name"] for each in dependencies if each not in known]
    notes = [f"not known to the advisory service: {', '.join(unknown)}"] if unknown else []
    if findings:
        return 1, [*findings, *notes]
    return 0, [f"{len(known)} packages, no known vulnerabilities", *notes]


def unreachable(why: str) -> str:
    """The one line of an audit that could not be."""
    return f"nothing was checked, the advisory service cannot be reached from here ({why})"


if __name__ == "__main__":
    sys.exit(main())
