"""The image, by the steps of its Dockerfile. What these steps make is run by `acceptance/docs/test_wheel.py` and `make image-check`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

BUILD, FINAL = 0, 1
SECRET = re.compile(r"secret|token|password|credential|api_?key|private", re.IGNORECASE)
BUILDS = re.compile(r"\b(pip|apt|apt-get|apk|gcc|make|curl|wget|git|hatch\w*|uv|compileall)\b")


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction; continuation lines are joined."""

    name: str
    text: str


@pytest.fixture
def stages(project_root: Path) -> list[list[Step]]:
    """The stages of the image, each beginning with its FROM."""
    lines = (
        line for line in (project_root / "Dockerfile").read_text().splitlines() if not line.startswith("#")
    )
    text = "\n".join(lines).replace("\\\n", " ")
    steps = [Step(*line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]
    starts = [index for index, step in enumerate(steps) if step.name == "FROM"]
    return [steps[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]


def named(stage: list[Step], name: str) -> list[str]:
    return [step.text for step in stage if step.name == name]


def test_the_server_is_process_1_and_sigterm_reaches_it(stages: list[list[Step]]) -> None:
    """Exec form: in shell form a shell would be process 1, and keep the signal to itself."""
    [entry], [command] = named(stages[FINAL], "ENTRYPOINT"), named(stages[FINAL], "CMD")
    assert json.loads(entry) + json.loads(command) == ["receiver", "serve"]
    assert named(stages[FINAL], "STOPSIGNAL") == []


def test_it_runs_as_a_user_that_owns_nothing(stages: list[list[Step]]) -> None:
    [user] = named(stages[FINAL], "USER")
    uid, _, gid = user.partition(":")
    assert int(uid) > 0 and int(gid) > 0  # noqa: PT018 - numbers, so that the platform can see that it is not root
    [made] = [text for text in named(stages[FINAL], "RUN") if "useradd" in text]
    assert f"useradd --uid {uid} " in made
    assert "--no-create-home" in made
    assert "nologin" in made
    after = stages[FINAL][stages[FINAL].index(Step("USER", user)) :]
    assert {step.name for step in after} == {"USER", "EXPOSE", "ENTRYPOINT", "CMD"}, (
        "it writes no file of the image"
    )
    assert not any(
        "--chown" in text or "--chmod" in text for stage in stages for text in named(stage, "COPY")
    )
    assert not any(re.search(r"chown|chmod|umask", text) for stage in stages for text in named(stage, "RUN"))


def test_the_final_stage_takes_the_environment_and_nothing_that_built_it(stages: list[list[Step]]) -> None:
    assert len(stages) == 2
    assert named(stages[FINAL], "COPY") == ["--from=build /opt/receiver /opt/receiver"]
    removes, makes_user = named(stages[FINAL], "RUN")
    assert re.fullmatch(r"rm -r( /usr/local/\S*/pip\*)+", removes), "the base image's own pip"
    assert not BUILDS.search(makes_user)
    assert any("-m venv --without-pip /opt/receiver" in text for text in named(stages[BUILD], "RUN"))
    assert any("-m venv /opt/build" in text for text in named(stages[BUILD], "RUN"))
    assert all("-slim" in text for stage in stages for text in named(stage, "FROM"))


def test_no_step_could_hold_a_secret(stages: list[list[Step]]) -> None:
    names = {step.name for stage in stages for step in stage}
    assert names <= {
        "FROM",
        "ENV",
        "WORKDIR",
        "COPY",
        "RUN",
        "USER",
        "EXPOSE",
        "ENTRYPOINT",
        "CMD",
    }  # no ARG, no ADD
    assert [step for stage in stages for step in stage if SECRET.search(step.text)] == []
    (variables,) = named(stages[FINAL], "ENV")
    assert set(re.findall(r"(\w+)=", variables)) == {"PATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}


def test_what_enters_the_build_is_named_one_by_one(project_root: Path, stages: list[list[Step]]) -> None:
    """A stray `.env` or key beside the sources is not part of the context."""
    first, *rest = [
        line for line in (project_root / ".dockerignore").read_text().splitlines() if line[0] != "#"
    ]
    assert first == "*"
    let_in = {line[1:] for line in rest if line.startswith("!")}
    copied = {part for text in named(stages[BUILD], "COPY") for part in text.split()[:-1]}
    assert copied == let_in
    assert "**/__pycache__" in rest


def test_nothing_is_installed_without_its_hash(stages: list[list[Step]]) -> None:
    installs = re.findall(r"pip (?:--python \S+ )?install [^&]*", " ".join(named(stages[BUILD], "RUN")))
    assert len(installs) == 3
    for install in installs:
        assert "--require-hashes --only-binary :all:" in install or "--no-deps --no-index" in install
    wheels = re.findall(r"pip wheel [^&]*", " ".join(named(stages[BUILD], "RUN")))
    assert all("--no-deps --no-build-isolation" in wheel for wheel in wheels)


def test_it_works_on_a_read_only_root(stages: list[list[Step]]) -> None:
    """Byte code is compiled while the image is built, and nobody tries to write any later."""
    (variables,) = named(stages[FINAL], "ENV")
    assert "PYTHONDONTWRITEBYTECODE=1" in variables
    assert re.search(r"-m compileall [^&]*/opt/receiver/lib", " ".join(named(stages[BUILD], "RUN")))
    assert named(stages[FINAL], "VOLUME") == []


@pytest.mark.parametrize("stage", [BUILD, FINAL])
def test_a_plugins_image_keeps_these_promises(project_root: Path, stage: int) -> None:
    """The Dockerfile that people copy: root only while it is built, no index in the last stage, the same user."""
    text = (project_root / "examples" / "plugin" / "Dockerfile").read_text().replace("\\\n", " ")
    found = text.split("\nFROM ")[stage + 1]
    (install,) = re.findall(r"pip (?:--python \S+ )?install [^&\n]*", found)
    assert "/opt/receiver/bin/pip" not in found
    if stage == FINAL:
        assert "--no-deps --no-index" in install
        assert re.findall(r"^USER (.*)$", found, re.MULTILINE)[-1] == "10001:10001"
    else:
        assert "--require-hashes --only-binary :all: -r /src/requirements-build.txt" in install
        assert (project_root / "examples" / "plugin" / "requirements-build.txt").read_text() == (
            project_root / "requirements" / "build.txt"
        ).read_text()
    assert not SECRET.search(found)
