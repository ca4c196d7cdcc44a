"""What users get: our wheel and a plugin's, installed side by side into a fresh environment, away from any checkout."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from receiver.dev.processes import EMAIL, PROJECT
from receiver.emulator import push_client as pusher
from receiver.emulator.push_client import Pusher
from receiver.emulator.signer import Signer
from receiver.local_postgres.server import free_port
from tests.stage.record import Record
from tests.stage.waiting import eventually

PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # an environment is made from scratch


@dataclass(frozen=True, slots=True)
class Installed:
    """The environment with both wheels in it, and the folder outside the checkout from which it is used."""

    bin: Path
    outside: Path
    wheels: Mapping[str, Path]

    def run(self, program: str, *arguments: str, env: Mapping[str, str] | None = None) -> str:
        """One of its programs, to its end; returns what it printed."""
        return run([str(self.bin / program), *arguments], cwd=self.outside, env=env)


def run(argv: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(argv, cwd=cwd, env=clean(env), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}\n{done.stdout}{done.stderr}"
    return done.stdout


def clean(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what leads back to the checkout, or is a setting of ours."""
    ours = (
        "PYTHON",
        "TASKS_",
        "DATABASE_",
        "GCP_",
        "CLOUD_RUN_",
        "K_",
        "PORT",
        "COVERAGE",
        "COV_",
        "VIRTUAL_ENV",
    )
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | dict(env or {})


@pytest.fixture(scope="module")
def installed(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Both wheels built and installed as the Dockerfiles do it: the locked dependencies first, checked by hash."""
    root, place = pytestconfig.rootpath, tmp_path_factory.mktemp("wheel")
    wheels, environment, outside = place / "wheels", place / "env", place / "outside"
    outside.mkdir()
    build = [sys.executable, *PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels)]
    run([*build, str(root)], cwd=outside)
    run([*build, str(root / "examples" / "plugin")], cwd=outside)
    ours, example = next(wheels.glob("pubsub_task_receiver-*")), next(wheels.glob("example_tasks-*"))
    run([sys.executable, "-m", "venv", str(environment)], cwd=outside)
    python = str(environment / "bin" / "python")
    lock = str(root / "requirements" / "runtime.txt")
    run([python, *PIP, "install", "--no-compile", "--require-hashes", "-r", lock], cwd=outside)
    run([python, *PIP, "install", "--no-deps", "--no-index", str(ours), str(example)], cwd=outside)
    return Installed(environment / "bin", outside, {"receiver": ours, "example": example})


CAGE = """
while read -r _ place _ options _; do
    case $options in rw*) mount -o remount,bind,ro "$place" 2>/dev/null || true ;; esac
done < /proc/self/mounts
exec setpriv --no-new-privs {identity} "$@"
"""
"""Everything becomes read-only, in a namespace of mounts of its own, and what follows has no privilege to change that."""

NOBODY = (
    # As in the image. It may read what is closed to others: the interpreter and this environment may be in such a folder.
    "--reuid=10001 --regid=10001 --clear-groups --inh-caps=-all,+dac_read_search --ambient-caps=-all,+dac_read_search"
)


@functools.cache
def cage() -> tuple[str, ...]:
    """What is put before a command, so that it runs on a read-only root: as the image's user for root, else as oneself.

    Empty where this kernel lets nobody make namespaces.
    """
    root = ("unshare", "--mount", "sh", "-ec", CAGE.format(identity=NOBODY), "sh")
    user = (
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-ec",
        CAGE.format(identity="--inh-caps=-all"),
        "sh",
    )
    for found in (root, user) if os.geteuid() == 0 else (user,):
        with suppress(FileNotFoundError):
            if subprocess.run([*found, "true"], capture_output=True, check=False).returncode == 0:
                return found
    return ()


def files(*folders: Path) -> dict[Path, int]:
    """Every file and folder with the time of its last change, in ns."""
    found = [place for folder in folders for place in (folder, *folder.rglob("*"))]
    return {place: place.lstat().st_mtime_ns for place in found}


@contextmanager
def serving(installed: Installed, env: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`receiver serve` of that environment, for the time of the block, with the variables of the image."""
    image = {"HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*cage(), str(installed.bin / "receiver"), "serve", "--host", "127.0.0.1"],
            cwd=installed.outside, env=clean(image | dict(env)), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)


def test_the_wheel_carries_what_it_needs(installed: Installed) -> None:
    """The migrations and the mark of a typed package, and nothing of the tests."""
    names = zipfile.ZipFile(installed.wheels["receiver"]).namelist()
    assert "receiver/py.typed" in names
    assert "receiver/alembic/env.py" in names
    assert any(name.startswith("receiver/alembic/versions/0001") for name in names)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {
        "receiver",
        "pubsub_task_receiver",
    }
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_alembic_is_the_library(installed: Installed) -> None:
    """The folder of the migrations never takes its place."""
    found = installed.run("python", "-c", "import alembic.command as found; print(found.__file__)")
    assert "site-packages/alembic/command.py" in found


def test_the_environment_is_whole(installed: Installed) -> None:
    assert "No broken requirements" in installed.run("python", "-m", "pip", "check")


async def test_an_installed_plugin_is_migrated_served_and_pushed_to(
    installed: Installed, empty_database_url: str, signer: Signer, certs_url: str, tmp_path: Path, label: str
) -> None:
    """TASKS_MODULES is not set: the plugin's entry point is enough."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    env = {
        "DATABASE_URL": empty_database_url,
        "GCP_PROJECT_ID": PROJECT,
        "CLOUD_RUN_SERVICE_URL": url,
        "TASKS_SERVICE_ACCOUNT": EMAIL,
        "TASKS_OIDC_CERTS_URL": certs_url,
        "PORT": str(port),
    }
    installed.run("receiver", "migrate", env=env)
    before = files(installed.bin.parent, installed.outside)
    log = tmp_path / "receiver.log"
    with serving(installed, env, log) as process, httpx.Client() as client:

        def healthy() -> bool:
            assert process.poll() is None, log.read_text()
            with suppress(httpx.TransportError):
                return client.get(f"{url}/health").is_success
            return False

        await eventually(healthy, patience=60)
        body = pusher.message("send_welcome_email", ["42"], task_id=label)
        answer = Pusher(client, url, url, EMAIL, signer).send(body)
        scheduled = pusher.scheduled_message("cleanup_old_data", message_id=label)
        assert Pusher(client, url, url, EMAIL, signer).send(scheduled).status_code == 200
    assert (answer.status_code, answer.text) == (200, "The task completed.")
    record = Record(empty_database_url)
    row = await record.row(label)
    assert row is not None
    assert (row["status"], row["return_value"]) == ("SUCCESSFUL", {"user_id": "42", "subject": "Welcome"})
    cleaned = await record.row(f"scheduled-cleanup_old_data-{label}")
    assert cleaned is not None
    assert cleaned["return_value"]["deleted"] == 0
    assert process.returncode == 0
    assert files(installed.bin.parent, installed.outside) == before, "the service writes nothing but its log"


def test_the_cage_of_the_service_lets_nothing_be_written(installed: Installed, tmp_path: Path) -> None:
    if not cage():
        return  # no namespaces here: the test above compares the files, and that is all that can be known
    for folder in (installed.bin, installed.outside, tmp_path, Path("/"), Path("/tmp"), Path("/var/tmp")):  # noqa: S108 - nothing is left there
        written = subprocess.run(
            [*cage(), "touch", str(folder / "written")], capture_output=True, text=True, check=False
        )
        assert written.returncode != 0
        assert "Read-only file system" in written.stderr


def test_the_example_passes_its_own_tests(project_root: Path, tmp_path: Path) -> None:
    """As a repository of its own: its own configuration, plain pytest."""
    plugins = ("cacheprovider", "asyncio", "randomly", "timeout", "hypothesispytest", "importlinter")
    options = [option for name in plugins for option in ("-p", f"no:{name}")]
    env = {"PYTHONPATH": ".", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    printed = run(
        [sys.executable, "-m", "pytest", "-q", *options], cwd=project_root / "examples" / "plugin", env=env
    )
    assert " passed" in printed


def somebody_elses(folder: Path) -> Path:
    """A wheel called `receiver`, as the one on PyPI is: its package has our name, and some files of the same names."""
    info = "receiver-1.0.0.dist-info"
    members = {
        "receiver/__init__.py": "",
        "receiver/models.py": "class Submission: ...\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: receiver\nVersion: 1.0.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    members[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*members, f"{info}/RECORD"])
    made = folder / "receiver-1.0.0-py3-none-any.whl"
    with zipfile.ZipFile(made, "w") as wheel:
        for name, text in members.items():
            wheel.writestr(name, text)
    return made


@pytest.mark.parametrize("last", ["ours", "theirs"])
def test_check_says_that_somebody_elses_receiver_is_installed_too(
    installed: Installed, tmp_path: Path, last: str
) -> None:
    """Pip does not: the later one overwrites files of the former one, and to uninstall one takes files of both."""
    environment = tmp_path / "env"
    run([sys.executable, "-m", "venv", "--without-pip", str(environment)], cwd=tmp_path)
    python = str(environment / "bin" / "python")
    (packages,) = environment.glob("lib/python*/site-packages")
    (dependencies,) = installed.bin.parent.glob("lib/python*/site-packages")
    ours, theirs = installed.wheels["receiver"], somebody_elses(tmp_path)

    def pip(command: str, *arguments: str) -> str:
        return run([sys.executable, *PIP, "--python", python, command, *arguments], cwd=tmp_path)

    def check() -> subprocess.CompletedProcess[str]:
        # The dependencies are those of the other environment.
        env = clean({"PYTHONPATH": f"{packages}:{dependencies}", "TASKS_MODULES": "example_tasks"})
        argv = [python, "-P", "-m", "receiver", "check"]
        return subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)

    install = ("--no-deps", "--no-index")
    for wheel in (theirs, ours) if last == "ours" else (ours, theirs):
        assert pip("install", *install, str(wheel)) == ""
    assert ("Submission" in (packages / "receiver" / "models.py").read_text()) is (last == "theirs")
    both = check()
    assert both.returncode == 1
    line, *more = both.stderr.splitlines()
    assert line == (
        "error: the distribution receiver is installed too, and has a package `receiver` as well: one has overwritten files "
        "of the other; run `pip uninstall receiver pubsub-task-receiver`, then install pubsub-task-receiver again"
    )
    # Where theirs is above ours, a plugin finds no `task` either.
    assert bool(more) is (last == "theirs")
    pip("uninstall", "--yes", "receiver")
    assert not (packages / "receiver" / "models.py").exists()
    pip("uninstall", "--yes", "pubsub-task-receiver")
    pip("install", *install, str(ours))
    alone = check()
    assert (alone.returncode, alone.stderr) == (0, "")
