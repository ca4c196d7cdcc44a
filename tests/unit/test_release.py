"""What a release is made of, and what it refuses. The registry is a stand-in: none can be asked in a test."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from receiver.cli import receiver

DIGEST = "sha256:" + "0a" * 32


@pytest.fixture
def lock_image(project_root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("lock_image", project_root / "scripts" / "lock_image.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def registry() -> Iterator[str]:
    """A registry as Docker's: it asks for a token first, and says the digest of one tag in a header."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            ours = f"http://{self.headers['host']}"
            if self.headers["authorization"] != "Bearer t":
                self.send_response(401)
                scope = "repository:library/python:pull"
                self.send_header(
                    "www-authenticate", f'Bearer realm="{ours}/token",service="r",scope="{scope}"'
                )
            elif self.path != "/v2/library/python/manifests/3.13-slim-bookworm":
                self.send_response(404)
            else:
                assert "application/vnd.oci.image.index.v1+json" in self.headers["accept"]
                self.send_response(200)
                self.send_header("docker-content-digest", DIGEST)
            self.end_headers()

        def do_GET(self) -> None:
            assert self.path == "/token?service=r&scope=repository%3Alibrary%2Fpython%3Apull"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"token": "t"}')

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_every_image_is_pinned_and_a_former_digest_replaced(
    lock_image: ModuleType, registry: str, tmp_path: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = (tmp_path / "Dockerfile", tmp_path / "example")
    former = (project_root / "Dockerfile").read_text()
    bare = re.sub("@sha256:[0-9a-f]{64}", "", former)
    files[0].write_text(bare.replace("bookworm AS build", f"bookworm@sha256:{'0' * 64} AS build"))
    files[1].write_text((project_root / "examples" / "plugin" / "Dockerfile").read_text())
    monkeypatch.setattr(lock_image, "DOCKERFILES", files)
    assert lock_image.unpinned(files[0].read_text()) == ["python:3.13-slim-bookworm"]
    assert lock_image.main(registry) == 0
    pinned = files[0].read_text()
    assert lock_image.unpinned(pinned) == []
    assert pinned.count(f"FROM python:3.13-slim-bookworm@{DIGEST}") == 2
    assert pinned.replace(f"@{DIGEST}", "") == bare
    assert files[1].read_text() == (project_root / "examples" / "plugin" / "Dockerfile").read_text()


@pytest.mark.parametrize("tag", ["python:3.13-slim-bookworm", "python:never"])
def test_without_an_answer_nothing_is_written(
    lock_image: ModuleType,
    registry: str,
    tag: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text(f"FROM {tag}\n")
    monkeypatch.setattr(lock_image, "DOCKERFILES", (file,))
    assert lock_image.main(registry if "never" in tag else "http://127.0.0.1:1") == 1
    assert file.read_text() == f"FROM {tag}\n"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"lock-image: nothing is written: {tag}: http://127.0.0.1:")


def test_a_release_refuses_what_nobody_could_build_again(tmp_path: Path, project_root: Path) -> None:
    for name in ("scripts", "requirements", "examples/plugin"):
        shutil.copytree(project_root / name, tmp_path / name)
    docker = tmp_path / "Dockerfile"
    docker.write_text("FROM python:3.13-slim AS build\nFROM build\n")
    (tmp_path / ".gitignore").write_text("__pycache__\n")

    def git(*argv: str) -> None:
        identity = ("-c", "user.name=a test", "-c", "user.email=test@example.com")
        subprocess.run(["git", *identity, *argv], cwd=tmp_path, check=True, capture_output=True)

    def refused(*tag: str) -> str:
        argv = [sys.executable, str(tmp_path / "scripts" / "release.py"), *tag]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert not (tmp_path / "dist").exists()
        return done.stderr

    git("init", "--quiet")
    assert "Dockerfile names python:3.13-slim by a tag only; run `make lock-image`" in refused()
    docker.write_text(docker.read_text().replace("slim", f"slim@{DIGEST}"))
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    changes = tmp_path / "CHANGELOG.md"
    changes.write_text(
        "## [Unreleased]\n\n- a\n\n## [1.2.3] - 2026-11-28\n\n## [1.2.2] - 2026-11-01\n\n- b\n"
    )
    assert "the tag is v1.2.2, and the version in pyproject.toml is 1.2.3" in refused("v1.2.2")
    assert "CHANGELOG.md has no section `## [1.2.3] - YYYY-MM-DD` that says anything" in refused("v1.2.3")
    changes.write_text(changes.read_text().replace("11-28\n", "11-28\n\n- c\n"))
    git("add", "--all")
    git("commit", "--quiet", "--message", "all")
    (tmp_path / "notes.txt").write_text("my own")
    assert "1 files are not as committed, the first: notes.txt" in refused()


def test_the_notes_are_the_section_of_this_version_and_its_image(tmp_path: Path, project_root: Path) -> None:
    (tmp_path / "scripts").mkdir()
    shutil.copy(project_root / "scripts" / "changelog.py", tmp_path / "scripts")
    shutil.copy(project_root / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    changes = tmp_path / "CHANGELOG.md"
    changes.write_text("## [1.2.3] - 2026-11-28\n\n### Added\n\n- c\n\n## [1.2.2] - 2026-11-01\n\n- b\n")
    argv = ["make", "--silent", "notes", f"IMAGE=registry/name@{DIGEST}"]
    done = subprocess.run(argv, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout == f"### Added\n\n- c\n\n### Image\n\n`registry/name@{DIGEST}`\n"
    changes.write_text("## [Unreleased]\n")
    assert subprocess.run(argv, cwd=tmp_path, capture_output=True, check=False).returncode != 0


def test_the_version_stands_in_one_place(project_root: Path) -> None:
    """What the command says is what the distribution says; the pages name no other."""
    number = tomllib.loads((project_root / "pyproject.toml").read_text())["project"]["version"]
    done = CliRunner().invoke(receiver, ["--version"])
    assert done.output == f"receiver, version {number}\n"
    pages = [project_root / "README.md", *(project_root / "docs").rglob("*.md")]
    named = {
        version
        for page in pages
        for version in re.findall(r"(?:@v|pubsub_task_receiver-)(\d+\.\d+\.\d+)", page.read_text())
    }
    assert named == {number}
