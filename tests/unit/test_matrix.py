"""What `make matrix` says of Pythons that are here, and of one that is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def matrix(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(root / "scripts" / "matrix.py"), *arguments]
    return subprocess.run(argv, cwd=root, capture_output=True, text=True, check=False)


def test_a_python_that_is_not_here_is_said_and_a_matrix_of_none_is_no_success(project_root: Path) -> None:
    done = matrix(project_root, "--python", "3.99", "3.98")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "Python  Ended                Newer than the lock",
        "3.99    not on this machine  -",
        "3.98    not on this machine  -",
    ]


def test_the_matrix_finds_the_interpreter_and_what_is_newer_than_the_lock(project_root: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, 'scripts'); import matrix;"
        "print(matrix.found('.'.join(map(str, sys.version_info[:2]))) is not None);"
        "pinned = matrix.locked()['click'];"
        "print(matrix.newer(f'click=={pinned}\\nrich==999.0\\nnot-locked==1.0\\n-e file:///somewhere\\n'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project_root, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["True", "rich 999.0"]
