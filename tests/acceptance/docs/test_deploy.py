"""The pages on deploying, and what an operator types into gcloud at night, are true: their commands run in order, in one shell.

`gcloud` and `docker` are recorded, and the SDK knows every flag. `receiver` is the real one: in the shell, and in the jobs that the
pages deploy, with the environment that the pages give them.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from receiver import TaskRoute, task
from receiver.doctor.findings import Check
from receiver.doctor.record_rules import judge_record
from receiver.provision.resources import Kind
from tests import google_fake
from tests.google_fake import GoogleFake
from tests.stage.commands import clean_environ
from tests.stage.pages import CLOUD, blocks, written
from tests.unit.doctor import judging as rules
from tests.unit.provision import world

GCLOUD = '''#!{python}
"""Notes what it is asked, answers what the pages read, and runs what a job would run."""
import json, os, subprocess, sys

arguments = sys.argv[1:]
with open(os.environ["GCLOUD_LOG"], "a+") as log:
    log.seek(0)
    before = [json.loads(line) for line in log]
    log.write(json.dumps(arguments) + "\\n")

def made(kind, name):
    """Whether it was created."""
    found = [call for call in before if call[:len(kind)] == kind and call[len(kind)].startswith("create")]
    return any(call[len(kind) + 1].partition("@")[0] == name.partition("@")[0] for call in found)

for at, word in enumerate(arguments[:5]):
    if word == "describe" and arguments[0] not in ("projects", "scheduler") and not made(arguments[:at], arguments[at + 1]):
        sys.exit("NOT_FOUND")
    if word in ("create", "create-oidc") and made(arguments[:at], arguments[at + 1]):
        sys.exit("ALREADY_EXISTS")
if arguments[:3] == ["sql", "users", "list"] and made(["sql", "users"], arguments[-3].partition("=")[2]):
    print("there")
if arguments[:3] == ["services", "vpc-peerings", "list"] and any(call[2] == "connect" for call in before if len(call) > 2):
    print("default")
if "--data-file=-" in arguments:
    assert sys.stdin.read().strip(), "an empty secret"
if arguments[:2] == ["projects", "describe"]:
    print("415104041262")
if arguments[:2] == ["storage", "service-agent"]:
    print("service-415104041262@gs-project-accounts.iam.gserviceaccount.com")
if arguments[:3] == ["sql", "instances", "describe"]:
    print("10.9.8.7")
if arguments[:3] == ["secrets", "versions", "access"]:
    print("hunter2", end="")
job = arguments
if arguments[:3] == ["run", "jobs", "execute"]:
    job = [call for call in before if call[:4] == ["run", "jobs", "deploy", arguments[3]]][-1]
if job[:3] == ["run", "jobs", "deploy"]:
    options = dict(zip(job[4:], job[5:])) | dict(zip(arguments[4:], arguments[5:]))
    separator = "|" if options["--args"].startswith("^|^") else ","
    given = dict(pair.split("=", 1) for pair in options["--set-env-vars"].removeprefix("^|^").split("|"))
    kept = {{name: value for name, value in os.environ.items() if not name.startswith(("TASKS_", "DATABASE_", "GCP_", "CLOUD_RUN_"))}}
    sys.exit(subprocess.run([options["--command"], *options["--args"].removeprefix("^|^").split(separator)], env=kept | given, check=False).returncode)
'''
RECEIVER = """#!/bin/sh
# Where the page leads to Google or to Cloud SQL, this leads to their stand-ins.
export PUBSUB_EMULATOR_HOST={host} TASKS_SCHEDULER_ENDPOINT={url} TASKS_OIDC_CERTS_URL={certs} DATABASE_URL={database}
exec {python} -m receiver "$@"
"""
PARSE = """
import contextlib, io, json, sys
root = sys.argv[1]
sys.path[:0] = [root + "/lib", root + "/lib/third_party"]
from googlecloudsdk import gcloud_main
cli = gcloud_main.CreateCLI([])
wrong = []
for arguments in json.load(sys.stdin):
    try:
        cli._CLI__parser.parse_args(arguments)
    except SystemExit:
        wrong.append(arguments)
    except Exception as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\\n")
        wrong.append(arguments)
json.dump(wrong, sys.stdout)
"""


@dataclass(frozen=True)
class Told:
    """What came of the page: what was printed, and every call of gcloud."""

    output: str
    calls: list[list[str]]


pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


FIRST, LAST = ("deploy", "pipeline"), ("heavy", "web")
"""What a reader follows in this order. Between them, while all is well, come the pages for a service that runs."""


def page(project_root: Path, *names: str) -> str:
    folder = project_root / "docs" / "operate"
    return "\n".join((folder / f"{name}.md").read_text() for name in names or FIRST + LAST)


def at_night(project_root: Path) -> list[str]:
    """The pages with commands for the cloud, besides those on deploying."""
    found = sorted((project_root / "docs" / "operate").glob("*.md"))
    return [path.stem for path in found if blocks(path.read_text(), "bash") and path.stem not in FIRST + LAST]


@pytest.fixture(scope="module")
def google() -> Iterator[GoogleFake]:
    with google_fake.running() as fake:
        yield fake


@pytest.fixture(scope="module")
def told(
    pytestconfig: pytest.Config,
    tmp_path_factory: pytest.TempPathFactory,
    google: GoogleFake,
    empty_shop: str,
    certs_url: str,
) -> Told:
    """The page, run as it stands there."""
    folder = tmp_path_factory.mktemp("deploy")
    programs, log = folder / "bin", folder / "gcloud.log"
    programs.mkdir()
    root = pytestconfig.rootpath
    written(page(root), folder)
    text = page(root, *FIRST, *at_night(root), *LAST, *(f"../{name.removesuffix('.md')}" for name in CLOUD))
    of_receiver = RECEIVER.format(
        host=google.host,
        url=google.url,
        certs=certs_url,
        database=shlex.quote(empty_shop),
        python=sys.executable,
    )
    for name, code in (
        ("gcloud", GCLOUD.format(python=sys.executable)),
        ("docker", "#!/bin/sh\nexit 0\n"),
        ("receiver", of_receiver),
    ):
        (programs / name).write_text(code)
        (programs / name).chmod(0o755)
    google.before("GET /v2/", lambda: deploy(google, calls(log)), times=1000)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(code for _, code in blocks(text, "bash"))],
        cwd=folder,
        env=clean_environ()
        | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "GCLOUD_LOG": str(log),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return Told(done.stdout, calls(log))


@pytest.fixture(scope="module")
def empty_shop(postgres_server: Any) -> Iterator[str]:
    """The database before anything was migrated."""
    postgres_server.create_database("deploy_page")
    yield postgres_server.url("deploy_page")
    postgres_server.drop_database("deploy_page")


def calls(log: Path) -> list[list[str]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def options(arguments: list[str]) -> dict[str, str]:
    """Each flag with what follows it."""
    return {
        flag: value
        for flag, value in zip(arguments, [*arguments[1:], ""], strict=True)
        if flag.startswith("--")
    }


def deployments(told: Told) -> list[list[str]]:
    return [call for call in told.calls if call[0] == "run" and "deploy" in call[1:3]]


def deploy(google: GoogleFake, asked: list[list[str]]) -> None:
    """What `gcloud run deploy` would have made of the page's flags."""
    for found in asked:
        if found[:2] == ["run", "deploy"] and found[2].startswith("receiver"):
            deployed(google, found)


def deployed(google: GoogleFake, found: list[str]) -> None:
    given = options(found)
    variables = dict(pair.split("=", 1) for pair in given["--set-env-vars"].removeprefix("^|^").split("|"))
    project, region = variables["GCP_PROJECT_ID"], given["--region"]
    name = f"projects/{project}/locations/{region}/services/{found[2]}"
    google.run.deploy(
        name,
        f"https://{found[2]}-415104041262.{region}.run.app",
        timeout=f"{given['--timeout']}s",
        maxInstanceRequestConcurrency=int(given["--concurrency"]),
        scaling={"maxInstanceCount": int(given["--max-instances"])},
        ingress={"internal": "INGRESS_TRAFFIC_INTERNAL_ONLY"}[given["--ingress"]],
        resources={"cpuIdle": "--cpu-throttling" in given},
        env={key: {"value": value} for key, value in variables.items()},
    )
    open_to = ["allUsers"] if "--allow-unauthenticated" in given else []
    google.policies.write(name, [{"role": "roles/run.invoker", "members": open_to}])


def test_the_page_leads_from_nothing_to_a_service_that_is_well(told: Told, google: GoogleFake) -> None:
    assert "migrated: nothing → " in told.output
    assert "everything is as it should be" in told.output
    summaries = re.findall(r"^\d+ errors?, .*$", told.output, re.MULTILINE)
    assert summaries[:2] == ["0 errors, 0 warnings, 2 notes", "0 errors, 0 warnings, 3 notes"], told.output
    assert all(one.startswith("0 errors, 0 warnings, ") for one in summaries), told.output
    assert "prod--shop.tasks--shop_tasks.send_welcome_email-sub" in str(google.everything())


def test_the_steps_come_in_their_order(told: Told) -> None:
    steps = [call[call.index("deploy") + 1] for call in deployments(told)]
    assert steps == ["receiver-migrate", "receiver", "receiver-doctor", "receiver-heavy", "shop-web"]
    assert told.output.index("migrated: ") < told.output.index("everything is as it should be")


def test_the_accounts_are_given_the_roles_that_the_table_says(told: Told, project_root: Path) -> None:
    given: dict[str, set[str]] = {}
    for call in told.calls:
        if "add-iam-policy-binding" in call and "service-" not in options(call)["--member"]:
            member = options(call)["--member"].removeprefix("serviceAccount:").partition("@")[0]
            given.setdefault(member, set()).add(options(call)["--role"])
    rows = re.findall(r"^\| `(\w+-\w+)` \|[^|]*\| (.*) \|$", page(project_root), re.MULTILINE)
    table = {name: set(re.findall(r"roles/[\w.]+", roles)) for name, roles in rows}
    assert {name: roles for name, roles in table.items() if roles} == given


def test_heavy_tasks_are_pushed_to_their_service_and_the_others_are_not(
    told: Told, google: GoogleFake
) -> None:
    found = {
        name.rpartition(".")[2]: body["pushConfig"] for name, body in google.pubsub.subscriptions.items()
    }
    heavy = "https://receiver-heavy-415104041262.europe-west2.run.app"
    assert found["render-sub"]["pushEndpoint"] == f"{heavy}/tasks/pubsub/"
    assert found["render-sub"]["oidcToken"]["audience"] == heavy
    others = [config["oidcToken"]["audience"] for name, config in found.items() if name != "render-sub"]
    assert set(others) == {heavy.replace("-heavy", "")}
    (call,) = [call for call in told.calls if call[:3] == ["run", "deploy", "receiver-heavy"]]
    variables = options(call)["--set-env-vars"]
    assert f"|TASKS_SERVICE_URLS=heavy={heavy}" in variables
    assert "|TASKS_MODULES=shop_tasks,shop_heavy|" in variables


def test_the_web_application_has_its_account_its_role_and_four_variables(told: Told) -> None:
    (call,) = [call for call in told.calls if call[:3] == ["run", "deploy", "shop-web"]]
    given = options(call)
    variables = dict(pair.split("=", 1) for pair in given["--set-env-vars"].removeprefix("^|^").split("|"))
    assert variables == {
        "GCP_PROJECT_ID": "shop-prod",
        "TASKS_ENVIRONMENT": "prod",
        "TASKS_NAMESPACE": "shop",
        "DATABASE_URL": "postgresql://shop@10.9.8.7/receiver?sslmode=require",
    }
    assert given["--service-account"].startswith("shop-web@")


def test_a_command_against_production_is_run_by_the_job(told: Told) -> None:
    (call,) = [call for call in told.calls if call[:3] == ["run", "jobs", "execute"]]
    assert options(call)["--args"] == "^|^executions|list|--status|FAILED|--wide"
    assert "no executions" in told.output


def test_no_password_is_in_the_settings_or_in_a_flag_of_cloud_run(told: Told) -> None:
    deployed = deployments(told)
    assert "hunter2" not in str(deployed)
    assert all(options(call)["--set-secrets"].startswith("DATABASE_PASSWORD=") for call in deployed)
    assert all("@10.9.8.7/receiver?sslmode=require" in options(call)["--set-env-vars"] for call in deployed)


def test_a_setting_may_hold_commas(told: Told) -> None:
    """Where gcloud is told no other, it parts variables at commas, which lists of modules have."""
    given = [options(call)["--set-env-vars"] for call in deployments(told)]
    assert given
    assert all(value.startswith("^|^GCP_PROJECT_ID=shop-prod|") for value in given), given


def sdk() -> tuple[Path, str]:
    """The Cloud SDK of this machine, and the Python for it. Skips the test where there is none."""
    gcloud = shutil.which("gcloud")
    roots = [Path(os.environ["CLOUDSDK_ROOT_DIR"])] if os.environ.get("CLOUDSDK_ROOT_DIR") else []
    roots += [Path(gcloud).resolve().parent.parent] if gcloud else []
    roots += [
        Path(where) / "google-cloud-sdk" for where in ("/usr/lib", "/usr/share", "/opt", str(Path.home()))
    ]
    for root in roots:
        if (root / "lib" / "googlecloudsdk").is_dir():
            bundled = root / "platform" / "bundledpythonunix" / "bin" / "python3"
            return root, str(bundled) if bundled.is_file() else sys.executable
    pytest.skip("no Cloud SDK is installed, so that nobody knows gcloud's flags")


def misunderstood(lines: list[list[str]], folder: Path) -> tuple[list[list[str]], str]:
    """Those command lines that gcloud's own parser refuses, and what it says. Nothing is executed."""
    root, python = sdk()
    (folder / "parse.py").write_text(PARSE)
    done = subprocess.run(
        [python, "-S", "-B", folder / "parse.py", str(root)],
        input=json.dumps(lines),
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "CLOUDSDK_CONFIG": str(folder / "config"),
            "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "1",
            "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        },
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    refused: list[list[str]] = json.loads(done.stdout)
    return refused, done.stderr


def test_the_sdk_knows_every_command_and_flag_of_the_page(told: Told, tmp_path: Path) -> None:
    assert len(told.calls) >= 50
    refused, why = misunderstood(told.calls, tmp_path)
    assert refused == [], why


def test_the_sdk_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    wrong = [
        ["run", "deploy", "receiver", "--image", "x", "--no-such-flag"],
        ["run", "deploi", "receiver"],
        ["run", "deploy", "receiver", "--image", "x", "--ingress", "inside"],
        ["projects", "add-iam-policy-binding", "x"],
    ]
    assert misunderstood(wrong, tmp_path)[0] == wrong


@task
def slow() -> None: ...


def mends() -> Iterator[str]:
    """Everything that the doctor proposes to type for what may be wrong."""
    service = rules.SERVICE
    poor = replace(
        service,
        urls=(),
        timeout=timedelta(seconds=9),
        concurrency=999,
        cpu_always=True,
        ingress="INGRESS_TRAFFIC_ALL",
        environment={**rules.GOOD, "TASKS_NAMESPACE": "x", "ENABLE_SLOW": "off", "TASKS_SETUP": "a:b"},
    )
    route = TaskRoute(slow, ack_deadline=60, timeout=900, kill_switch="ENABLE_SLOW")
    found = rules.deployed(poor, frozenset(), rules.GOOD | {"TASKS_MODULES": "a,b"})
    found += rules.declared(route, service=poor) + rules.declared(route)
    found += rules.declared(route, service=replace(poor, cpu_always=False))
    found += judge_record(rules.WELL, replace(rules.FLEET, instances=100, flags=service.flags))
    found += rules.configured({})
    settled = world.settled()
    ailing = next(one for one in settled.resources if one.kind is Kind.JOB)
    state = world.changed(ailing, state="PAUSED", status={"code": 5})
    found += rules.provisioned(settled.with_(ailing.name, state), check=Check.SCHEDULER)
    for one in found:
        inside = re.search(r"\$\((gcloud .*)\)$", one.mend)
        if inside is not None or one.mend.startswith("gcloud "):
            yield one.mend if inside is None else inside[1]


def test_the_sdk_knows_every_command_that_the_doctor_proposes(tmp_path: Path) -> None:
    lines = [shlex.split(command)[1:] for command in mends()]
    said = {" ".join(line[:3]) for line in lines}
    assert {"run services update", "run services add-iam-policy-binding", "scheduler jobs resume"} <= set(
        said
    )
    refused, why = misunderstood(lines, tmp_path)
    assert refused == [], why
