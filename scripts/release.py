"""Builds a release into `dist/`: sdist, wheel, and the SBOM of what the image installs. `make release` calls it.

What is built is the commit, not the folder: a file that git does not know is in neither. It refuses an image that only a tag
names, a tag that is not the version, and a version of which the changelog says nothing. It ends when nobody answered the question
for known vulnerabilities. Everything is asked before anything is built.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from changelog import section, version
from lock_image import DOCKERFILES, unpinned

ROOT: Final = Path(__file__).resolve().parent.parent
DIST: Final = ROOT / "dist"
SBOM: Final = "sbom.cdx.json"


class Refused(Exception):
    """The one line that says why there is no release."""


def main() -> int:
    """Asks everything, then builds. The argument is the tag that the release is for, as in `v1.2.3`."""
    try:
        ask(*sys.argv[1:])
        build()
    except Refused as why:
        print(f"release: refused: {why}", file=sys.stderr)
        return 1
    print("release: " + ", ".join(sorted(path.name for path in DIST.iterdir())))
    return 0


def ask(tag: str = "") -> None:
    """Raises Refused when something speaks against a release."""
    for path in DOCKERFILES:
        if tags := unpinned(path.read_text()):
            raise Refused(
                f"{path.relative_to(ROOT)} names {', '.join(tags)} by a tag only; run `make lock-image`"
            )
    number = version()
    if tag not in ("", f"v{number}"):
        raise Refused(f"the tag is {tag}, and the version in pyproject.toml is {number}")
    if not section(number):
        raise Refused(f"CHANGELOG.md has no section `## [{number}] - YYYY-MM-DD` that says anything")
    if changed := git("status", "--porcelain").splitlines():
        raise Refused(f"{len(changed)} files are not as committed, the first: {changed[0][3:]}")
    if DIST.exists() and any(DIST.iterdir()):
        raise Refused("dist/ has files already; move them away")
    run("the audit found something, or nobody answered", "scripts/audit.py", "--strict")


def build() -> None:
    """Writes `dist/`."""
    with tempfile.TemporaryDirectory(prefix="receiver-release-") as folder:
        exported(Path(folder))
        # Without isolation: the build tool is here, by its hash.
        run("it cannot be built", "-m", "build", "--no-isolation", "--outdir", str(DIST), folder)
    what = (
        "requirements",
        "requirements/runtime.txt",
        "--pyproject",
        "pyproject.toml",
        "--output-reproducible",
    )
    run("there is no SBOM", "-m", "cyclonedx_py", *what, "--output-file", str(DIST / SBOM))


def exported(folder: Path) -> None:
    """Writes the commit's files there."""
    with tempfile.TemporaryFile() as packed:
        subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, stdout=packed, check=True)  # noqa: S607 - found on PATH
        packed.seek(0)
        with tarfile.open(fileobj=packed) as archive:
            archive.extractall(folder, filter="data")


def git(*argv: str) -> str:
    """What git prints."""
    return subprocess.run(["git", *argv], cwd=ROOT, capture_output=True, text=True, check=True).stdout  # noqa: S607 - as above


def run(otherwise: str, *argv: str) -> None:
    """Runs Python with these arguments; Refused when that fails."""
    if subprocess.run([sys.executable, *argv], cwd=ROOT, check=False).returncode:
        raise Refused(otherwise)


if __name__ == "__main__":
    sys.exit(main())
