"""`receiver provision` as a process: against Google's stand-in, the official emulator and the local Pub/Sub."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from receiver.cli import receiver
from receiver.errors import ReceiverError
from tests import google_fake
from tests.google_fake import GoogleFake
from tests.stage import emulator
from tests.stage.commands import RECEIVER, clean_environ, run_command
from tests.stage.emulator import Emulator
from tests.stage.record import Record

Provision = Callable[..., "Ended"]

PLUGIN = """
from receiver import TaskRoute, task

@task
async def send_mail(to: str) -> None: ...

@task
def clean_up() -> None: ...

tasks = [
    TaskRoute(send_mail, ack_deadline=60),
    TaskRoute(clean_up, schedule="0 3 * * *", schedule_timezone="Europe/London"),
]
"""
ONLY_MAIL = "from shop_both import send_mail, TaskRoute\ntasks = [TaskRoute(send_mail, ack_deadline=60)]\n"

MAIL = "prod--shop.tasks--shop_both.send_mail"
CLEAN = "prod--shop.tasks--shop_both.clean_up"
CLEAN_JOB = "prod--shop-scheduler--shop_both-clean_up"


@pytest.fixture
def google() -> Iterator[GoogleFake]:
    """Google's stand-in, which fails the test when it is asked what Google does not describe."""
    with google_fake.running() as fake:
        yield fake


@pytest.fixture
def place(tmp_path: Path) -> dict[str, str]:
    """The variables of a shop in production, in a folder with its plugins."""
    (tmp_path / "shop_both.py").write_text(PLUGIN)
    (tmp_path / "shop_mail.py").write_text(ONLY_MAIL)
    return clean_environ() | {
        "GCP_PROJECT_ID": "shop-prod",
        "CLOUD_RUN_SERVICE_URL": "https://shop-abc-ew.a.run.app",
        "TASKS_SERVICE_ACCOUNT": "push@shop-prod.iam.gserviceaccount.com",
        "TASKS_ENVIRONMENT": "prod",
        "TASKS_NAMESPACE": "shop",
        "TASKS_MODULES": "shop_both",
    }


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def provision(place: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provision]:
    """Runs `receiver provision` there, in this process: the command as it is, without a second of imports each time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    hidden: dict[str, str | None] = {name: None for name in os.environ if name not in place}

    def run(*arguments: str, env: Mapping[str, str]) -> Ended:
        ran = CliRunner().invoke(receiver, ["provision", *arguments], env=hidden | place | dict(env))
        if isinstance(ran.exception, ReceiverError):
            return Ended(2, ran.stdout, f"{ran.stderr}error: {ran.exception}\n")
        if ran.exception is not None and not isinstance(ran.exception, SystemExit):
            raise ran.exception
        return Ended(ran.exit_code, ran.stdout, ran.stderr)

    yield run
    for name in ("shop_both", "shop_mail", "shop_picky"):
        sys.modules.pop(name, None)


@pytest.fixture
def process(place: dict[str, str], tmp_path: Path) -> Provision:
    """Runs it as a process of its own."""

    def run(*arguments: str, env: Mapping[str, str]) -> Ended:
        done = run_command("provision", *arguments, cwd=tmp_path, env=place | dict(env), timeout=100)
        return Ended(done.returncode, done.stdout, done.stderr)

    return run


def of(google: GoogleFake, **more: str) -> dict[str, str]:
    """The variables that lead to the stand-in."""
    return {"PUBSUB_EMULATOR_HOST": google.host, "TASKS_SCHEDULER_ENDPOINT": google.url, **more}


def on_terminal(folder: Path, env: Mapping[str, str], typed: str, *arguments: str) -> tuple[int, str]:
    """Exit code and output of the command on a terminal, where somebody types when asked."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*RECEIVER, "provision", *arguments],
        cwd=folder,
        env={**env, "TERM": "xterm-256color", "COLUMNS": "200"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    shown, answered = b"", False
    with suppress(OSError):  # the terminal is gone when its last user ends
        while piece := os.read(master, 65536):
            shown += piece
            if not answered and re.search(rb"(\[y/N\]|\[\])?: $", shown):
                os.write(master, typed.encode() + b"\n")
                answered = True
    os.close(master)
    return process.wait(60), shown.decode()


def execute(record: Record, statement: str) -> None:
    asyncio.run(record.fetch(statement))


def one_line(done: Ended, code: int = 2) -> str:
    assert done.returncode == code, done
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: "), done.stderr
    return done.stderr


def test_a_plan_shows_everything_and_changes_nothing(process: Provision, google: GoogleFake) -> None:
    for arguments in ((), ("--plan",)):
        done = process(*arguments, env=of(google))
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        lines = done.stdout.splitlines()
        assert f"+ topic {MAIL}" in lines
        assert f"+ subscription {MAIL}-sub" in lines
        assert f"+ scheduler job {CLEAN_JOB}" in lines
        assert "+ subscription prod--shop.dead-letters-sub" in lines
        assert "\x1b" not in done.stdout, "colour is for terminals"
        assert re.fullmatch(r"\d+ to create, 0 to change, 0 to delete, 0 unchanged", lines[-1])
    assert google.writes() == []


def test_applied_once_there_is_nothing_left_to_do(process: Provision, google: GoogleFake) -> None:
    done = process("--apply", "--yes", env=of(google))
    assert done.returncode == 0, done.stdout + done.stderr
    total = len(google.everything())
    assert f"[{total}/{total}] + scheduler job" in done.stdout
    assert done.stdout.endswith("everything is as it should be\n")
    assert (
        google.scheduler.jobs[f"projects/shop-prod/locations/europe-west2/jobs/{CLEAN_JOB}"]["timeZone"]
        == "Europe/London"
    )

    google.calls.clear()
    again = process("--apply", "--yes", env=of(google))
    assert (again.returncode, google.writes()) == (0, [])
    assert again.stdout.splitlines()[0] == f"0 to create, 0 to change, 0 to delete, {total} unchanged"


def test_drift_is_found_shown_and_mended(provision: Provision, google: GoogleFake) -> None:
    assert provision("--apply", "--yes", env=of(google)).returncode == 0
    drifted = google.pubsub.subscriptions[f"projects/shop-prod/subscriptions/{MAIL}-sub"]
    drifted["ackDeadlineSeconds"] = 10
    drifted["pushConfig"]["pushEndpoint"] = "https://elsewhere\x1b[31m/"
    shown = provision(env=of(google)).stdout.splitlines()
    assert shown[0] == f"~ subscription {MAIL}-sub"
    assert "    ackDeadlineSeconds: 10 → 60" in shown
    assert (
        r"    pushConfig.pushEndpoint: https://elsewhere\x1b[31m/ → https://shop-abc-ew.a.run.app/tasks/pubsub/"
        in shown
    )
    assert provision("--apply", "--yes", env=of(google)).returncode == 0
    assert drifted["name"] in google.pubsub.subscriptions
    assert json.loads(provision("--json", env=of(google)).stdout)["settled"] is True


def test_programs_read_plan_and_results_as_json(provision: Provision, google: GoogleFake) -> None:
    plan = json.loads(provision("--json", env=of(google)).stdout)
    assert plan["settled"] is False
    assert {change["action"] for change in plan["changes"]} == {"create"}
    google.fail(f"PUT .*{MAIL}$", 400, "INVALID_ARGUMENT", "no luck")
    done = provision("--apply", "--yes", "--json", env=of(google))
    assert done.returncode == 1
    shown = json.loads(done.stdout)
    failed = [(result["name"], result["note"]) for result in shown["results"] if not result["done"]]
    assert failed == [
        (f"projects/shop-prod/topics/{MAIL}", "no luck"),
        (f"projects/shop-prod/subscriptions/{MAIL}-sub", f"not tried: it needs {MAIL}"),
    ]
    assert [change["name"] for change in shown["changes"]] == [name for name, _ in failed], "what is left"


def test_what_failed_and_is_there_all_the_same_is_no_failure(
    provision: Provision, google: GoogleFake
) -> None:
    """What counts is what is there at the end."""
    name = f"projects/shop-prod/topics/{MAIL}"
    assert provision("--apply", "--yes", env=of(google)).returncode == 0
    labels = google.pubsub.topics[name].pop("labels")
    google.before(f"PATCH .*{MAIL}$", lambda: google.pubsub.topics[name].update(labels=labels))
    google.fail(f"PATCH .*{MAIL}$", 400, "INVALID_ARGUMENT", "no luck")
    done = provision("--apply", "--yes", env=of(google))
    assert "failed: " in done.stdout
    assert done.stdout.endswith("1 of 1 failed\neverything is as it should be\n")
    assert done.returncode == 0


def test_plugins_are_loaded_outside_the_loop(
    provision: Provision, google: GoogleFake, tmp_path: Path
) -> None:
    """Django refuses queries where a loop runs, and a plugin may make some while it is imported."""
    (tmp_path / "shop_picky.py").write_text(
        "import asyncio\ntry:\n    asyncio.get_running_loop()\nexcept RuntimeError:\n    tasks = []\n"
    )
    done = provision(env=of(google, TASKS_MODULES="shop_picky"))
    assert done.returncode == 0, done.stderr


def test_a_half_applied_plan_says_what_is_left_and_is_finished_later(
    provision: Provision, google: GoogleFake
) -> None:
    google.fail("POST .*/jobs$", 403, "PERMISSION_DENIED", "no", times=99)
    done = provision("--apply", "--yes", "--no-wait", env=of(google))
    assert done.returncode == 1
    assert "failed: no; the account that provisions needs roles/cloudscheduler.admin" in done.stdout
    assert f"some resources still differ:\n+ scheduler job {CLEAN_JOB}\n" in done.stdout
    google.troubles.clear()
    assert provision("--apply", "--yes", env=of(google)).returncode == 0


def test_it_waits_for_a_new_account_and_says_so(provision: Provision, google: GoogleFake) -> None:
    account = "push@shop-prod.iam.gserviceaccount.com"
    google.fail("PUT .*-sub$", 400, "INVALID_ARGUMENT", f"Service account {account} does not exist.")
    done = provision("--apply", "--yes", env=of(google))
    assert done.returncode == 0, done.stdout
    assert done.stderr.startswith("waiting up to 5 min until the account is known, if it is new; ")


def test_todays_pull_subscription_of_the_dead_letters_is_turned_and_a_pause_is_left_unless_told(
    provision: Provision, google: GoogleFake
) -> None:
    assert provision("--apply", "--yes", env=of(google)).returncode == 0
    subscriptions = google.pubsub.subscriptions
    letters, mail = (
        f"projects/shop-prod/subscriptions/{name}-sub" for name in ("prod--shop.dead-letters", MAIL)
    )
    for name in (letters, mail):
        subscriptions[name]["pushConfig"] = {}
    shown = provision(env=of(google)).stdout
    assert "~ subscription prod--shop.dead-letters-sub\n    pushConfig.pushEndpoint: none → https://" in shown
    assert f"= subscription {MAIL}-sub: paused: " in shown
    assert shown.endswith("0 to create, 1 to change, 0 to delete, 8 unchanged, 1 paused\n")
    assert provision("--apply", "--yes", env=of(google)).returncode == 0
    assert subscriptions[letters]["pushConfig"]["pushEndpoint"].endswith("/tasks/pubsub/")
    assert not subscriptions[mail]["pushConfig"].get("pushEndpoint")
    assert provision("--apply", "--yes", "--resume", env=of(google)).returncode == 0
    assert subscriptions[mail]["pushConfig"]["oidcToken"] == subscriptions[letters]["pushConfig"]["oidcToken"]


def test_without_a_terminal_nothing_is_applied_unasked(provision: Provision, google: GoogleFake) -> None:
    done = provision("--apply", env=of(google))
    assert one_line(done, 1) == "error: no terminal to confirm on, so nothing was changed; add --yes\n"
    assert google.writes() == []


def test_on_a_terminal_it_asks_and_shows_colour(
    place: dict[str, str], google: GoogleFake, tmp_path: Path
) -> None:
    code, shown = on_terminal(tmp_path, place | of(google), "n", "--apply")
    assert code == 1
    assert "\x1b[32m+ topic" in shown
    assert re.search(r"Make \d+ changes in environment prod of shop in shop-prod\? \[y/N\]: ", shown)
    assert "nothing was changed" in shown
    assert google.writes() == []
    code, shown = on_terminal(tmp_path, place | of(google), "y", "--apply")
    assert code == 0, shown
    assert "everything is as it should be" in shown


def test_destroy_asks_for_the_environments_name_and_leaves_everything_else(
    provision: Provision, place: dict[str, str], google: GoogleFake, tmp_path: Path
) -> None:
    for environment in ("staging", "prod"):
        assert provision("--apply", "--yes", env=of(google, TASKS_ENVIRONMENT=environment)).returncode == 0
    before = google.everything()
    staging = {name: body for name, body in before.items() if "/staging--shop" in name}
    assert len(staging) * 2 == len(before)

    assert provision("--destroy", "--plan", env=of(google)).returncode == 0
    code, shown = on_terminal(tmp_path, place | of(google), "staging", "--destroy")
    assert (code, google.everything()) == (1, before), shown
    assert "that is not its name; nothing was changed" in shown
    code, shown = on_terminal(tmp_path, place | of(google), "prod", "--destroy")
    assert (code, google.everything()) == (0, staging), shown
    # Broken plugins do not keep anybody from removing their environment.
    again = provision("--destroy", "--yes", env=of(google, TASKS_ENVIRONMENT="staging", TASKS_MODULES="gone"))
    assert (again.returncode, google.everything()) == (0, {}), again.stderr


def test_only_some_tasks_or_only_one_api_when_asked(provision: Provision, google: GoogleFake) -> None:
    def made(*arguments: str) -> set[str]:
        shown = json.loads(provision("--json", *arguments, env=of(google)).stdout)
        return {change["name"].rpartition("/")[2] for change in shown["changes"]}

    letters = {"prod--shop.dead-letters", "prod--shop.dead-letters-sub"}
    assert made("--only", "send_mail") == {MAIL, f"{MAIL}-sub"} | letters
    assert made("--only", "clean_up", "--skip-pubsub") == {CLEAN_JOB}
    assert made("--only", "shop_both.clean_up", "--skip-scheduler") == {CLEAN, f"{CLEAN}-sub"} | letters
    assert provision("--apply", "--yes", env=of(google)).returncode == 0
    one = json.loads(provision("--json", "--only", "send_mail", env=of(google)).stdout)
    assert (one["settled"], one["kept"], one["unchanged"]) == (True, [], 4), "other tasks are no orphans"
    done = provision("--only", "nope", env=of(google))
    assert re.match(
        r"error: --only nope: there is no such task; there are: clean_up, receiver\.maintenance\.sweep, send_mail$",
        one_line(done),
    )


def test_orphans_are_pruned_when_the_record_needs_them_no_more(
    provision: Provision, google: GoogleFake, record: Record, database_url: str
) -> None:
    assert provision("--apply", "--yes", env=of(google)).returncode == 0
    fewer = of(google, TASKS_MODULES="shop_mail")
    done = provision("--apply", "--yes", env=fewer)
    assert done.returncode == 0
    assert f"- scheduler job {CLEAN_JOB} (no task has this schedule)" in done.stdout
    assert f"= topic {CLEAN}: no task uses it; --prune deletes it" in done.stdout

    assert "--prune asks the record first" in one_line(provision("--prune", env=fewer))
    fewer |= {"DATABASE_URL": database_url}
    execute(
        record,
        "INSERT INTO task_executions (task_id, task_name, task_path, namespace, environment, args, kwargs, status,"
        " enqueued_at) VALUES ('one', 'clean_up', 'shop_both.clean_up', 'shop', 'prod', '[]', '{}', 'READY', now()), "
        "('two', 'clean_up', 'shop_both.clean_up', 'elsewhere', 'prod', '[]', '{}', 'READY', now())",
    )
    refused = provision("--prune", "--apply", "--yes", env=fewer)
    assert refused.returncode == 1
    why = "1 execution is not final yet; see `receiver executions list --task shop_both.clean_up`"
    assert f"! topic {CLEAN}: {why}" in refused.stdout
    assert f"projects/shop-prod/topics/{CLEAN}" in google.pubsub.topics

    execute(record, "DELETE FROM task_executions WHERE namespace = 'shop'")
    done = provision("--prune", "--apply", "--yes", env=fewer)
    assert done.returncode == 0, done.stdout
    assert not [name for name in google.everything() if "clean_up" in name]
    unreachable = {**fewer, "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    assert provision("--prune", env=unreachable).returncode == 0, (
        "nothing is orphaned, so nobody needs to be asked"
    )


def test_grant_gives_pubsubs_account_what_it_needs(provision: Provision, google: GoogleFake) -> None:
    done = provision("--grant", "--apply", "--yes", env=of(google))
    assert done.returncode == 0, done.stdout + done.stderr
    agent = "serviceAccount:service-415104041262@gcp-sa-pubsub.iam.gserviceaccount.com"
    assert google.policies.bindings(f"projects/shop-prod/subscriptions/{MAIL}-sub") == [
        {"role": "roles/pubsub.subscriber", "members": [agent]}
    ]
    assert json.loads(provision("--grant", "--json", env=of(google)).stdout)["settled"] is True
    refused = provision("--grant", env=of(google, GCP_PROJECT_ID="elsewhere"))
    assert (
        "cannot read the number of project elsewhere: The caller does not have permission; the account that provisions needs roles/browser"
        in one_line(refused)
    )


def test_another_service_with_our_names_is_left_alone_until_it_is_taken_over(
    provision: Provision, google: GoogleFake
) -> None:
    assert provision("--apply", "--yes", env=of(google)).returncode == 0
    moved = of(google, CLOUD_RUN_SERVICE_URL="https://tasks.shop.example")
    before = google.everything()
    done = provision("--apply", "--yes", env=moved)
    assert (done.returncode, google.everything()) == (1, before)
    assert (
        "! topic prod--shop.dead-letters: it belongs to prod--shop of shop-abc-ew-a-run-app-" in done.stdout
    )
    assert "use --take-over" in done.stdout
    done = provision("--apply", "--yes", "--take-over", env=moved)
    assert done.returncode == 0, done.stdout
    pushes = {one["pushConfig"].get("pushEndpoint") for one in google.pubsub.subscriptions.values()}
    assert pushes == {"https://tasks.shop.example/tasks/pubsub/"}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--plan", "--apply"), "--plan and --apply exclude each other"),
        (("--destroy", "--only", "a"), "--destroy deletes a whole environment"),
        (("--skip-pubsub", "--skip-scheduler"), "--skip-pubsub leaves nothing to do"),
        (("--prune", "--only", "a"), "--prune looks at all tasks"),
        (("--apply", "--json"), "--json cannot ask; add --yes"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    provision: Provision, arguments: tuple[str, ...], line: str
) -> None:
    done = provision(*arguments, env={})
    assert done.returncode == 2
    assert line in done.stderr


@pytest.mark.parametrize(
    ("arguments", "env", "line"),
    [
        ((), {"GCP_PROJECT_ID": ""}, "GCP_PROJECT_ID is not set"),
        ((), {"TASKS_SCHEDULER_ENDPOINT": "http://127.0.0.1:1"}, "PUBSUB_EMULATOR_HOST is not set"),
        (("--grant",), {"PUBSUB_EMULATOR_HOST": "127.0.0.1:1"}, "--grant: Pub/Sub is an emulator"),
        (("--skip-pubsub",), {"PUBSUB_EMULATOR_HOST": "127.0.0.1:1"}, "--skip-pubsub leaves nothing to do"),
        ((), {"TASKS_MODULES": "gone"}, "TASKS_MODULES: there is no module gone"),
        ((), {"TASKS_SERVICE_ACCOUNT": ""}, "TASKS_SERVICE_ACCOUNT is not set"),
    ],
)
def test_a_configuration_that_cannot_work_is_one_line(
    provision: Provision, arguments: tuple[str, ...], env: dict[str, str], line: str
) -> None:
    assert line in one_line(provision(*arguments, env=env))


@pytest.fixture(params=emulator.BOTH)
def pubsub(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """The local Pub/Sub, and Google's own emulator."""
    with ExitStack() as stack:
        host = stack.enter_context(emulator.offered(request.param, tmp_path_factory.mktemp("emulator")))
        client = stack.enter_context(httpx.Client(trust_env=False))
        yield Emulator(client, host, f"p-{uuid.uuid4().hex[:12]}", signs=request.param == "ours")


def test_an_emulator_is_provisioned_drift_is_found_and_the_environment_removed(
    provision: Provision, pubsub: Emulator
) -> None:
    """Cloud Scheduler has no emulator, and is left alone."""
    env = {
        "PUBSUB_EMULATOR_HOST": pubsub.host,
        "GCP_PROJECT_ID": pubsub.project,
        "CLOUD_RUN_SERVICE_URL": "http://127.0.0.1:8080",
    }

    def planned(*arguments: str) -> dict[str, Any]:
        done = provision("--json", *arguments, env=env)
        assert done.stderr == "note: Pub/Sub is an emulator, so Cloud Scheduler is left alone\n"
        shown: dict[str, Any] = json.loads(done.stdout)
        return shown

    done = provision("--apply", "--yes", env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    made = pubsub.call("GET", f"subscriptions/{MAIL}-sub")
    assert made["pushConfig"]["oidcToken"]["audience"] == "http://127.0.0.1:8080"
    assert made["deadLetterPolicy"]["maxDeliveryAttempts"] == 100
    assert planned()["changes"] == []

    for field, value in (
        ("ackDeadlineSeconds", 10),
        ("retryPolicy", {"minimumBackoff": "1s", "maximumBackoff": "2s"}),
    ):
        drifted = {"name": made["name"], "topic": made["topic"], field: value}
        pubsub.call("PATCH", f"subscriptions/{MAIL}-sub", {"subscription": drifted, "updateMask": field})
    pubsub.call("DELETE", f"subscriptions/{CLEAN}-sub")
    (lost, drift) = sorted(planned()["changes"], key=lambda change: str(change["action"]))
    assert (lost["action"], lost["name"].rpartition("/")[2]) == ("create", f"{CLEAN}-sub")
    assert [field["field"] for field in drift["fields"]] == [
        "ackDeadlineSeconds",
        "retryPolicy.minimumBackoff",
        "retryPolicy.maximumBackoff",
    ]
    assert provision("--apply", "--yes", env=env).returncode == 0
    assert pubsub.call("GET", f"subscriptions/{MAIL}-sub")["ackDeadlineSeconds"] == 60
    assert planned()["settled"] is True

    pubsub.topic("orders")
    assert provision("--destroy", "--yes", env=env).returncode == 0
    assert [topic["name"] for topic in pubsub.call("GET", "topics")["topics"]] == [
        f"projects/{pubsub.project}/topics/orders"
    ]


def test_what_an_emulator_cannot_change_is_said_and_the_rest_is_changed(
    provision: Provision, pubsub: Emulator
) -> None:
    env = {"PUBSUB_EMULATOR_HOST": pubsub.host, "GCP_PROJECT_ID": pubsub.project}
    topic = pubsub.topic(MAIL)
    pubsub.call("PUT", f"subscriptions/{MAIL}-sub", {"topic": topic})
    done = provision("--apply", "--yes", env=env)
    found = pubsub.call("GET", f"subscriptions/{MAIL}-sub")
    assert (found["ackDeadlineSeconds"], found["pushConfig"]["oidcToken"]["audience"]) == (
        60,
        "https://shop-abc-ew.a.run.app",
    )
    if pubsub.signs:  # ours changes what the service changes
        assert (done.returncode, "labels" in found, found["expirationPolicy"]) == (0, True, {})
        return
    assert done.returncode == 1
    assert f"~ topic {MAIL}: failed: the emulator cannot change labels (" in done.stdout
    assert (
        f"~ subscription {MAIL}-sub: failed: the emulator cannot change expirationPolicy, labels ("
        in done.stdout
    )
    left = json.loads(provision("--json", env=env).stdout)["changes"]
    assert [sorted({field["field"].partition(".")[0] for field in change["fields"]}) for change in left] == [
        ["labels"],
        ["expirationPolicy", "labels"],
    ]
