"""The workflows of GitHub Actions, ours and the one of a new project, as far as they can be read without running there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from receiver.cli import COMMANDS

ROOT: Final = Path(__file__).resolve().parents[2]
OURS: Final = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
OF_A_PROJECT: Final = ROOT / "receiver" / "init" / "templates" / ".github" / "workflows" / "deploy.yml"
ALL: Final = [*OURS, OF_A_PROJECT]

TARGETS: Final = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
OTHER_COMMANDS: Final = ("docker login ", "printf ", "gh release create ")
"""How the few commands of ours begin that are no target."""

each_workflow = pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.load(path.read_text(), yaml.BaseLoader)  # noqa: S506 - only strings; `on` is no truth
    return found


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


def commands(path: Path) -> list[str]:
    return [line for step in steps(path) for line in step.get("run", "").splitlines()]


@each_workflow
def test_every_action_is_pinned_by_commit_and_says_its_version(path: Path) -> None:
    """A tag is whatever its owner says today."""
    used = [step["uses"] for step in steps(path) if "uses" in step]
    assert used
    written = re.findall(
        r"uses: ([\w-]+/[\w-]+@[0-9a-f]{40}) # v\d+\.\d+\.\d+$", path.read_text(), re.MULTILINE
    )
    assert written == used


def test_an_action_has_one_version_in_all_of_them() -> None:
    pins = {step["uses"] for path in ALL for step in steps(path) if "uses" in step}
    assert len({pin.partition("@")[0] for pin in pins}) == len(pins)


@each_workflow
def test_a_workflow_may_do_no_more_than_its_jobs_say(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] in ({}, {"contents": "read"})
    assert "pull_request_target" not in workflow["on"]
    assert "secrets." not in path.read_text()
    assert [line for line in commands(path) if "${{" in line] == [], "what others write must not become shell"


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_every_command_is_a_target_or_one_of_a_few(path: Path) -> None:
    lines = commands(path)
    made = {line: re.match(r"make (?:--silent )?([a-z-]+)", line) for line in lines}
    assert {found[1] for found in made.values() if found} <= TARGETS
    assert [line for line, found in made.items() if not found and not line.startswith(OTHER_COMMANDS)] == []


def test_the_workflow_of_a_project_runs_what_there_is() -> None:
    lines = commands(OF_A_PROJECT)
    assert {line.split()[1] for line in lines if line.startswith("receiver ")} <= set(COMMANDS)
    (script,) = [line for line in lines if "/" in line]
    assert (OF_A_PROJECT.parents[2] / script).exists()


def test_a_job_that_holds_a_token_runs_no_code_of_our_dependencies() -> None:
    """What it runs is in the Makefile without `$(BIN)`: the environment with all our tools."""
    makefile = (ROOT / "Makefile").read_text()
    holding = 0
    for job in read(ROOT / ".github" / "workflows" / "release.yml")["jobs"].values():
        if "write" in job["permissions"].values():
            holding += 1
            for step in job["steps"]:
                for target in re.findall(r"^make (?:--silent )?([a-z-]+)", step.get("run", "")):
                    (recipe,) = re.findall(rf"^{target}: ##.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
                    assert "$(BIN)" not in recipe
    assert holding == 4


def test_a_release_is_built_once_attested_and_published_in_this_order() -> None:
    jobs = read(ROOT / ".github" / "workflows" / "release.yml")["jobs"]
    assert {name: job.get("needs") for name, job in jobs.items()} == {
        "build": None,
        "attest": "build",
        "image": "build",
        "publish": ["attest", "image"],
        "announce": ["publish", "image"],
    }
    lines = [step.get("run", "") for step in jobs["build"]["steps"]]
    assert [line for line in lines if line] == [
        "make check",
        "make test-all",
        'make release TAG="$GITHUB_REF_NAME"',
    ]
    subjects = [step["with"] for step in steps(OURS[-1]) if "actions/attest@" in step.get("uses", "")]
    assert ["sbom-path" in each for each in subjects] == [False, True, False]
    assert subjects[-1]["subject-digest"] == "${{ steps.pushed.outputs.digest }}"


def test_the_image_is_known_by_the_digest_that_its_registry_gave(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    docker = tmp_path / "docker"
    digest = "sha256:" + "5c" * 32
    docker.write_text(
        f'#!/bin/sh\necho "$*" >> calls\n[ "$1" = inspect ] && echo registry/name@{digest} || true\n'
    )
    docker.chmod(0o755)
    argv = ["make", "--silent", "image", "IMAGE=registry/name:1", f"PATH={tmp_path}:/usr/bin:/bin"]
    subprocess.run(argv, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "build" / "image.digest").read_text() == f"{digest}\n"
    assert (tmp_path / "calls").read_text().splitlines() == [
        "build --tag registry/name:1 .",
        "push registry/name:1",
        "inspect --format {{index .RepoDigests 0}} registry/name:1",
    ]
