"""A socket that cannot be had is one line, before anything is started."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from receiver.errors import ConfigurationError, SettingError
from receiver.serving.process import _bound


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on loopback that somebody listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def test_a_free_port_is_listened_on_at_once() -> None:
    with _bound("127.0.0.1", 0) as listener:
        address = listener.getsockname()
        assert not listener.getblocking()
        with socket.create_connection(address, timeout=10):
            pass


def test_a_host_with_colons_is_ipv6() -> None:
    if not socket.has_ipv6:  # pragma: no cover
        pytest.skip("no IPv6 here")
    try:
        listener = _bound("::1", 0)
    except SettingError as error:
        assert "::1" in str(error)  # noqa: PT017 - a machine may have IPv6 switched off; then this line says so
    else:
        with listener:
            assert listener.family is socket.AF_INET6


def test_a_taken_port_is_one_line_that_names_port_and_host(taken: int) -> None:
    with pytest.raises(SettingError) as refused:
        _bound("127.0.0.1", taken)
    line = str(refused.value)
    assert line.startswith(f"PORT is '{taken}'; it cannot be listened on at 127.0.0.1 (")
    assert "in use" in line
    assert "\n" not in line


def test_an_address_of_another_machine_is_one_line() -> None:
    with pytest.raises(SettingError, match=r"cannot be listened on at 192\.0\.2\.1"):
        _bound("192.0.2.1", 0)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "256.256.256.256", "a b"])
def test_a_host_that_is_none_is_one_line_that_names_it(host: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        _bound(host, 0)
    assert str(refused.value) == f"--host {host!r} is not an address of this machine"


def test_serve_on_a_taken_port_ends_with_one_line_and_status_2(
    taken: int, tmp_path: Path, project_root: Path
) -> None:
    (tmp_path / "plugin.py").write_text(
        "from receiver import TaskRoute\n\ndef ship(): ...\n\ntasks = [TaskRoute(ship)]\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "receiver", "serve", "--host", "127.0.0.1", "--port", str(taken)],
        env={
            "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
            "TASKS_PUSH_AUTH": "off",
            "TASKS_MODULES": "plugin",
            "PYTHONPATH": str(project_root),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: PORT is '{taken}'; ")
