"""The tutorial is true: its five pages are followed in one folder, from an empty one to the door of the cloud."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests import google_fake
from tests.acceptance.docs import test_deploy as cloud
from tests.stage.commands import clean_environ
from tests.stage.page_run import play
from tests.stage.pages import DOCS, missing, read

STEPS = ("1-run", "2-write", "3-transaction", "4-schedule", "5-deploy")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]


def test_five_steps_lead_from_an_empty_folder_to_a_doctor_who_finds_nothing(
    place: Path, database_url: str, empty_database_url: str, certs_url: str
) -> None:
    *local, last = [(DOCS / "start" / f"{step}.md").read_text() for step in STEPS]
    play(local, place, record=database_url, empty=empty_database_url, patience=400)
    shop = place / "reader" / "shop"
    programs, log = place / "cloud", place / "gcloud.log"
    programs.mkdir()
    with google_fake.running() as google:
        to_stand_ins = cloud.RECEIVER.format(
            host=google.host, url=google.url, certs=certs_url, database=empty_database_url, python=sys.executable
        )  # fmt: skip
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
        environ = clean_environ()
        environ["PYTHONPATH"] = f"{place / 'installed'}:{environ['PYTHONPATH']}"
        environ |= {"PATH": f"{programs}:{os.environ['PATH']}", "GCLOUD_LOG": str(log)}
        deployed_as_said(last, shop, environ)
        jobs = [each["name"] for each in google.scheduler.jobs.values()]
    assert any(name.endswith("shop-reports-report_sales") for name in jobs), jobs


def deployed_as_said(page: str, folder: Path, environ: Mapping[str, str]) -> None:
    """Runs the page's commands against the cloud, and compares what they show with what the page says."""
    found = read(page)
    for at, block in enumerate(found):
        if block.language != "bash":
            continue
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.code],
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        after = found[at + 1 : at + 2]
        lacking = [
            line for each in after if each.language == "text" for line in missing(each.code, done.stdout)
        ]
        assert not lacking, f"line {block.line}: not shown: {lacking}\nshown:\n{done.stdout}"
