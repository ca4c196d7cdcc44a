from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from receiver.doctor.cloud_run import service_of
from receiver.errors import GoogleUnavailable


class TestServicesAsGoogleWritesThem:
    NAME = "projects/p/locations/l/services/s"

    def test_what_is_left_out_is_cloud_runs_default(self) -> None:
        found = service_of({"name": self.NAME})
        assert (found.timeout, found.concurrency, found.max_instances, found.cpu_always) == (
            timedelta(seconds=300),
            80,
            None,
            False,
        )

    @pytest.mark.parametrize(
        ("resources", "always"), [(None, False), ({"cpuIdle": True}, False), ({"limits": {"cpu": "1"}}, True)]
    )
    def test_billing_is_read_from_the_container_that_serves(
        self,
        resources: dict[str, Any] | None,
        always: bool,  # noqa: FBT001 - a column of the table
    ) -> None:
        serving = {"ports": [{"containerPort": 8080}]} | (
            {} if resources is None else {"resources": resources}
        )
        found = service_of({"name": self.NAME, "template": {"containers": [{"name": "proxy"}, serving]}})
        assert found.cpu_always is always

    @pytest.mark.parametrize(("name", "http2"), [("h2c", True), ("http1", False), (None, False)])
    def test_end_to_end_http_2_is_read_from_the_port(self, name: str | None, http2: bool) -> None:  # noqa: FBT001
        port = {"containerPort": 8080} | ({} if name is None else {"name": name})
        found = service_of({"name": self.NAME, "template": {"containers": [{"ports": [port]}]}})
        assert found.http2 is http2

    def test_the_lower_of_two_limits_holds(self) -> None:
        body = {
            "name": self.NAME,
            "template": {"scaling": {"maxInstanceCount": 9}},
            "scaling": {"maxInstanceCount": 4},
        }
        assert service_of(body).max_instances == 4

    def test_what_is_written_in_another_way_is_one_error(self) -> None:
        with pytest.raises(GoogleUnavailable, match="in a way that is not known"):
            service_of({"name": self.NAME, "template": {"timeout": "soon"}})
