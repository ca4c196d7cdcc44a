from __future__ import annotations

from dataclasses import replace

import pytest

from receiver.doctor.cloud_run import CloudRunService
from receiver.doctor.findings import Severity
from tests.unit.doctor.judging import GOOD, SERVICE, codes, deployed


class TestService:
    @pytest.mark.parametrize(
        ("there", "invokers", "expected"),
        [
            (SERVICE, {"allUsers"}, {}),
            (SERVICE, None, {}),
            (replace(SERVICE, invoker_checked=False), set(), {}),
            (SERVICE, set(), {"invoker-checked": "ERROR"}),
            (SERVICE, {f"serviceAccount:{GOOD['TASKS_SERVICE_ACCOUNT']}"}, {"invoker-checked": "WARNING"}),
            (replace(SERVICE, ingress="INGRESS_TRAFFIC_ALL"), None, {"ingress-open": "NOTE"}),
            (replace(SERVICE, concurrency=81), None, {"concurrency": "WARNING"}),
            (replace(SERVICE, cpu_always=True), None, {"cpu-always": "NOTE"}),
            (replace(SERVICE, http2=True), None, {"container-protocol": "ERROR"}),
            (replace(SERVICE, urls=("https://other.run.app",)), None, {"domain-internal": "ERROR"}),
            (
                replace(
                    SERVICE,
                    urls=("https://other.run.app",),
                    ingress="INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER",
                ),
                None,
                {"service-url": "WARNING"},
            ),
        ],
    )
    def test_what_is_said(
        self, there: CloudRunService, invokers: set[str] | None, expected: dict[str, str]
    ) -> None:
        admitted = None if invokers is None else frozenset(invokers)
        assert codes(deployed(there, admitted, GOOD)) == expected

    @pytest.mark.parametrize(
        ("there", "here", "severity", "mend"),
        [
            ({"TASKS_NAMESPACE": "other"}, {}, Severity.ERROR, "--update-env-vars TASKS_NAMESPACE=shop"),
            (
                {"CLOUD_RUN_SERVICE_URL": "https://x"},
                {},
                Severity.ERROR,
                "--update-env-vars CLOUD_RUN_SERVICE_URL=https",
            ),
            ({}, {"TASKS_MODULES": "a,b"}, Severity.WARNING, "--update-env-vars '^|^TASKS_MODULES=a,b'"),
            ({"TASKS_THREADS": "9"}, {}, Severity.WARNING, "--update-env-vars TASKS_THREADS=32"),
        ],
    )
    def test_settings_that_differ(
        self, there: dict[str, str], here: dict[str, str], severity: Severity, mend: str
    ) -> None:
        (found,) = deployed(replace(SERVICE, environment=GOOD | there), None, GOOD | here)
        assert (found.code, found.severity) == ("setting-differs", severity)
        assert mend in found.mend

    @pytest.mark.parametrize(
        ("there", "here"),
        [
            (
                {"DATABASE_URL": "postgresql://a:hunter2@b/c"},
                {},
            ),  # nobody's to show, and often another way to the same
            ({"TASKS_STATUS": "off"}, {}),  # the default, said
            ({"TASKS_THREADS": None}, {"TASKS_THREADS": "9"}),  # from a secret
            ({"CLOUD_RUN_SERVICE_URL": GOOD["CLOUD_RUN_SERVICE_URL"] + "/"}, {}),
            ({"PORT": "9090", "OWN": "1"}, {"K_SERVICE": "x"}),
        ],
    )
    def test_settings_that_do_not(self, there: dict[str, str | None], here: dict[str, str]) -> None:
        assert deployed(replace(SERVICE, environment=GOOD | there), None, GOOD | here) == []
