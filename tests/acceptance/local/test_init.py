"""`receiver init` as people meet it: from an empty folder to a project that runs, up to the door of the cloud."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from receiver.local_postgres.server import free_port
from tests import google_fake
from tests.acceptance.docs import test_deploy as cloud
from tests.acceptance.docs.test_wheel import PIP, run
from tests.acceptance.local.test_testing import plugin_arguments
from tests.stage.commands import RECEIVER, ROOT, clean_environ, run_command
from tests.stage.pages import commands
from tests.stage.servers import LocalServer
from tests.stage.waiting import wait_until

EVERYTHING = ("--fastapi", "--workflow", "github")
SETTINGS = {
    "GCP_PROJECT_ID": "shop-prod",
    "CLOUD_RUN_SERVICE_URL": "https://shop-tasks-415104041262.europe-west2.run.app",
    "TASKS_SERVICE_ACCOUNT": "shop-push@shop-prod.iam.gserviceaccount.com",
}
OWN_POSTGRES = """
import os, pytest
from receiver.testing import *

@pytest.fixture(scope="session")
def receiver_database_url():
    return os.environ["OWN_POSTGRES"]
"""


@dataclass(frozen=True, slots=True)
class Project:
    """A folder that `receiver init` has filled, with an environment in which it is as if installed."""

    folder: Path
    environ: Mapping[str, str]
    said: str

    def run(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return run_command(*arguments, cwd=self.folder, env={**self.environ, **env})


def made(where: Path, *options: str) -> Project:
    """`receiver init shop` there, and what `pip install -e .` would leave: a place on the path, and an entry point."""
    done = run_command("init", "shop", *options, cwd=where, env=clean_environ())
    assert done.returncode == 0, done
    folder = where / "shop"
    noted = where / "installed" / "shop-0.1.0.dist-info"
    noted.mkdir(parents=True)
    (noted / "METADATA").write_text("Metadata-Version: 2.1\nName: shop\nVersion: 0.1.0\n")
    point = re.search(
        r'^\[project.entry-points."(receiver.tasks)"\]\n(shop) = "(.*)"$',
        (folder / "pyproject.toml").read_text(),
        re.MULTILINE,
    )
    assert point is not None
    (noted / "entry_points.txt").write_text("[{}]\n{} = {}\n".format(*point.groups()))
    environ = clean_environ()
    environ["PYTHONPATH"] += f":{folder}:{noted.parent}"
    return Project(folder, environ, done.stdout)


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def page() -> str:
    return (ROOT / "docs" / "start" / "5-deploy.md").read_text()


def page_says(title: str, folder: Path, environ: Mapping[str, str]) -> str:
    """Runs what the page on deploying the tutorial says under that title; what is printed."""
    script = commands(page(), title)
    done = subprocess.run(
        ["bash", "-ec", script],
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
def where() -> Iterator[Path]:
    """A folder that PostgreSQL's account can enter."""
    place = Path(tempfile.mkdtemp(prefix="receiver-init-", dir="/tmp"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place, ignore_errors=True)


def test_an_empty_folder_becomes_a_project_that_runs(where: Path, empty_database_url: str) -> None:
    project = made(where)
    assert project.said.splitlines()[0] == "12 files written into shop:"
    assert project.said.splitlines()[-2:] == ["  cd shop && pip install -e '.[dev]'", "  receiver dev"]

    # Its tests pass. They start a PostgreSQL of their own, but for this file.
    (project.folder / "conftest.py").write_text(OWN_POSTGRES)
    options = [
        option
        for name in ("cacheprovider", "asyncio", "randomly", "timeout")
        for option in ("-p", f"no:{name}")
    ]
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options, *plugin_arguments()],
        cwd=project.folder,
        env={**project.environ, "OWN_POSTGRES": empty_database_url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert tests.returncode == 0, tests.stdout + tests.stderr
    assert "5 passed" in tests.stdout

    # `receiver check` and `receiver provision` find its tasks.
    assert project.run("check").stdout.endswith("3 tasks, nothing to mend\n")
    with google_fake.running() as google:
        of_google = {"PUBSUB_EMULATOR_HOST": google.host, "TASKS_SCHEDULER_ENDPOINT": google.url}
        settings = dict(
            line.split("=") for line in (project.folder / "receiver.env").read_text().splitlines()[1:]
        )
        plan = project.run("provision", **SETTINGS, **settings, **of_google)
        assert plan.returncode == 0, plan
        assert "+ topic prod--shop.tasks--shop.tasks.send_welcome_email\n" in plan.stdout
        assert "+ scheduler job prod--shop-scheduler--shop-tasks-delete_old_orders\n" in plan.stdout
        assert google.writes() == []

    # `receiver dev` runs the first task.
    state = project.folder / ".receiver"
    state.mkdir()
    (state / "dev.json").write_text(
        json.dumps({name: free_port() for name in ("receiver", "pubsub", "postgres")})
    )
    log = where / "log"
    with log.open("wb") as output:
        dev = subprocess.Popen(
            [*RECEIVER, "dev"],
            cwd=project.folder,
            env=project.environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        wait_until(lambda: "receiving pushes" in log.read_text(), log.read_text)
        ran = project.run("enqueue", "send_welcome_email", "--args", '["ada"]', "--wait", "30")
        assert (ran.returncode, ran.stderr[:11]) == (0, "SUCCESSFUL "), ran
    finally:
        dev.send_signal(signal.SIGINT)
        code = dev.wait(60)
    assert code == 0, log.read_text()
    assert "tasks         send_welcome_email, place_order, delete_old_orders" in log.read_text()


@dataclass(frozen=True, slots=True)
class Deployed:
    """What came of the scripts."""

    project: Project
    setup: tuple[str, str]
    deploy: tuple[str, str]
    calls: list[list[str]]


@pytest.fixture(scope="module")
def deployed(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: LocalServer, certs_url: str
) -> Iterator[Deployed]:
    """A project whose scripts have run twice, with stand-ins for gcloud, docker and Google."""
    where = tmp_path_factory.mktemp("init")
    project = made(where, *EVERYTHING)
    programs, log = where / "bin", where / "gcloud.log"
    programs.mkdir()
    postgres_server.create_database("init_deployed")
    with google_fake.running() as google:
        to_stand_ins = cloud.RECEIVER.format(
            host=google.host,
            url=google.url,
            certs=certs_url,
            database=postgres_server.url("init_deployed"),
            python=sys.executable,
        )
        for name, code in (
            ("gcloud", cloud.GCLOUD.format(python=sys.executable)),
            ("docker", "#!/bin/sh\nexit 0\n"),
            ("receiver", to_stand_ins),
        ):
            (programs / name).write_text(code)
            (programs / name).chmod(0o755)

        def service() -> None:
            for call in cloud.calls(log):
                if call[:3] == ["run", "deploy", "shop-tasks"]:
                    cloud.deployed(google, call)

        google.before("GET /v2/", service, times=1000)
        environ = {**project.environ, "PATH": f"{programs}:{os.environ['PATH']}", "GCLOUD_LOG": str(log)}

        setup = [page_says(title, project.folder, environ) for title in ("github", "once")]
        deploy = [page_says("each time", project.folder, environ) for _ in range(2)]
    yield Deployed(project, (setup[0], setup[1]), (deploy[0], deploy[1]), cloud.calls(log))
    postgres_server.drop_database("init_deployed")


@pytest.mark.slow
class TestDeployment:
    def test_the_scripts_lead_to_a_doctor_who_finds_nothing(self, deployed: Deployed) -> None:
        first, second = deployed.deploy
        assert "migrated: nothing → " in first
        assert re.findall(r"^\d+ errors?, \d+ warnings?", first, re.MULTILINE) == ["0 errors, 0 warnings"] * 2
        assert "0 to create, 0 to change, 0 to delete" in second

    def test_the_steps_come_in_their_order(self, deployed: Deployed) -> None:
        steps = [call[2] if call[1] == "deploy" else call[3] for call in deployed.calls if call[0] == "run"]
        assert steps == ["shop-migrate", "shop-tasks", "shop-web", "shop-doctor"] * 2

    def test_a_second_setup_creates_nothing_and_changes_no_setting(self, deployed: Deployed) -> None:
        """The stand-in refuses to create what is there, as gcloud does."""
        created = [call for call in deployed.calls if any(word.startswith("create") for word in call[:4])]
        assert len(created) == 12, created
        assert (deployed.project.folder / "receiver.env").read_text().splitlines()[1:] == [
            "TASKS_ENVIRONMENT=prod",
            "TASKS_NAMESPACE=shop",
            "TASKS_SUBSCRIPTIONS=own",
            "GCP_PROJECT_ID=shop-prod",
            "SCHEDULER_LOCATION=europe-west2",
            "CLOUD_RUN_SERVICE_URL=https://shop-tasks-415104041262.europe-west2.run.app",
            "TASKS_SERVICE_ACCOUNT=shop-push@shop-prod.iam.gserviceaccount.com",
            "DATABASE_URL=postgresql://shop@10.9.8.7/shop?sslmode=require",
        ]

    def test_the_accounts_have_the_roles_of_the_page_on_deploying(
        self, deployed: Deployed, project_root: Path
    ) -> None:
        def given(calls: list[list[str]]) -> set[tuple[str, str]]:
            bound = [cloud.options(call) for call in calls if "add-iam-policy-binding" in call]
            return {(one["--member"].partition("@")[0].rpartition("-")[2], one["--role"]) for one in bound}

        rows = re.findall(r"^\| `\w+-(\w+)` \|[^|]*\| (.*) \|$", cloud.page(project_root), re.MULTILINE)
        table = {(name, role) for name, roles in rows for role in re.findall(r"roles/[\w.]+", roles)}
        github = {one for one in given(deployed.calls) if one[1] == "roles/iam.workloadIdentityUser"}
        assert given(deployed.calls) - github == table
        assert len(github) == 1

    def test_github_signs_in_without_a_key_and_from_one_branch(self, deployed: Deployed) -> None:
        assert not [call for call in deployed.calls if "keys" in call]
        (provider,) = [cloud.options(call) for call in deployed.calls if "create-oidc" in call]
        assert provider["--attribute-condition"] == (
            "assertion.repository == 'acme/shop' && assertion.ref == 'refs/heads/main'"
        )
        pool = "projects/415104041262/locations/global/workloadIdentityPools/github"
        assert (
            f"WORKLOAD_IDENTITY_PROVIDER --repo acme/shop --body {pool}/providers/shop-github\n"
            in deployed.setup[0]
        )

    def test_no_password_is_in_the_settings_or_in_a_flag_of_cloud_run(self, deployed: Deployed) -> None:
        run_calls = [call for call in deployed.calls if call[0] == "run"]
        assert "hunter2" not in f"{run_calls}{deployed.setup}{deployed.deploy}"
        assert all(
            cloud.options(call)["--set-secrets"].startswith("DATABASE_PASSWORD=") for call in run_calls
        )

    def test_the_sdk_knows_every_command_and_flag(self, deployed: Deployed, tmp_path: Path) -> None:
        refused, why = cloud.misunderstood(deployed.calls, tmp_path)
        assert refused == [], why

    def test_another_project_in_the_settings_is_one_line(self, deployed: Deployed) -> None:
        done = subprocess.run(
            ["deploy/setup.sh", "shop-staging", "europe-west2"],
            cwd=deployed.project.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "receiver.env is for another project" in done.stderr


READ_YAML = "import json, sys, yaml; json.dump(yaml.load(sys.stdin, yaml.BaseLoader), sys.stdout)"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_from_a_wheel_to_an_image_and_a_workflow(project_root: Path, where: Path) -> None:
    """A fresh environment, with what the image is built from and what the tests need: the receiver is a wheel in the project."""
    run(
        [
            sys.executable,
            *PIP,
            "wheel",
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            "wheels",
            str(project_root),
        ],
        cwd=where,
    )
    (wheel,) = where.glob("wheels/*.whl")
    made(where, "--receiver-from", str(wheel), *EVERYTHING)
    shop, context = where / "shop", where / "context"
    context.mkdir()
    for line in (shop / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            run(["cp", "-R", str(shop / line[1:]), str(context)], cwd=where)
    run([sys.executable, "-m", "venv", "environment"], cwd=where)
    run(
        [str(where / "environment/bin/python"), *PIP, "install", "--no-compile", ".[dev]", "pyyaml"],
        cwd=context,
    )
    python = str(where / "environment" / "bin" / "python")
    run([python, *PIP, "check"], cwd=where)
    assert run(["environment/bin/receiver", "check"], cwd=where).endswith("3 tasks, nothing to mend\n")
    assert "6 passed" in run([python, "-m", "pytest", "-p", "no:cacheprovider"], cwd=shop)

    # The wheel has the templates, and init says again where it came from.
    run(["environment/bin/receiver", "init", "again", *EVERYTHING], cwd=where)
    again = {name.replace("again", "shop") for name in files_of(where / "again")}
    assert again == {name for name in files_of(shop) if "__pycache__" not in name}
    run([sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "shop", "tests"], cwd=shop)

    text = (shop / ".github" / "workflows" / "deploy.yml").read_text()
    done = subprocess.run([python, "-c", READ_YAML], input=text, capture_output=True, text=True, check=True)
    workflow: dict[str, Any] = json.loads(done.stdout)
    jobs = workflow["jobs"]
    assert (list(jobs), jobs["deploy"]["needs"]) == (["test", "deploy"], "test")
    assert (workflow["permissions"], jobs["deploy"]["permissions"]["id-token"]) == (
        {"contents": "read"},
        "write",
    )
    steps = [step for job in jobs.values() for step in job["steps"]]
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"]) for step in steps if "uses" in step)
    assert [step["run"] for step in steps if "run" in step] == [
        "pip install '.[dev]'", "receiver check", "pytest", "pip install .", "deploy/deploy.sh"
    ]  # fmt: skip
