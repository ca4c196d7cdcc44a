"""Cloud Run's services, read only; what it answers is held against the discovery document as well."""

from __future__ import annotations

from typing import Any

from tests.google_fake.discovery import Call, Refused, check_answer
from tests.google_fake.paging import page


class CloudRun:
    """Services by full name."""

    def __init__(self) -> None:
        self.services: dict[str, dict[str, Any]] = {}

    def deploy(self, name: str, *urls: str, **fields: Any) -> dict[str, Any]:
        """A service of this full name: `env` and `resources` are its container's, `ingress` its own, the rest its template's."""
        container = {
            "image": "europe-docker.pkg.dev/shop-prod/receiver/receiver",
            "ports": [{"name": "http1", "containerPort": 8080}],
            "resources": {"limits": {"cpu": "1", "memory": "512Mi"}, "cpuIdle": True}
            | fields.pop("resources", {}),
            "env": [{"name": key, **value} for key, value in fields.pop("env", {}).items()],
        }
        service = {
            "name": name,
            "uri": urls[-1],
            "urls": list(urls),
            "ingress": fields.pop("ingress", "INGRESS_TRAFFIC_INTERNAL_ONLY"),
            "template": {"containers": [container], "timeout": "300s", "maxInstanceRequestConcurrency": 80}
            | fields,
        }
        check_answer("run.v2", "GoogleCloudRunV2Service", service)
        self.services[name] = service
        return service

    def answer(self, call: Call) -> dict[str, Any]:
        match call.method.rpartition(".")[2]:
            case "list":
                start = f"{call.name}/services/"
                found = [self.services[name] for name in sorted(self.services) if name.startswith(start)]
                return page("services", found, call.query, 100)
            case "get" if call.name in self.services:
                return self.services[call.name]
            case "get":
                raise Refused(404, "NOT_FOUND", f"Resource '{call.name.rpartition('/')[2]}' was not found")
            case verb:
                raise Refused(501, "UNIMPLEMENTED", f"nobody has taught this {verb}")
