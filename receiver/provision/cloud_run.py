"""Cloud Run's services, as far as the doctor has to know them; nothing here changes one.

Next: `receiver.doctor.service` judges a `Service`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import msgspec

from receiver.errors import GoogleUnavailable
from receiver.google.pages import every_page
from receiver.provision.admin import PATIENCE

if TYPE_CHECKING:
    from receiver.google.client import GoogleClient

PAGE: Final = 100
"""Services a page."""

TIMEOUT: Final = timedelta(seconds=300)
"""Cloud Run's request timeout where a service says nothing."""

CONCURRENCY: Final = 80
"""Its requests at once on one instance."""

INVOKER: Final = "roles/run.invoker"


@dataclass(frozen=True, slots=True)
class Service:
    """A service as it is deployed.

    Attributes:
        name: full, `projects/{project}/locations/{location}/services/{service}`.
        urls: every address that it answers at.
        timeout: of a request.
        concurrency: requests at once on one instance.
        max_instances: None where Cloud Run's default holds.
        cpu_always: whether it has CPU outside requests (instance-based billing).
        ingress: Cloud Run's word, such as `INGRESS_TRAFFIC_INTERNAL_ONLY`.
        invoker_checked: whether Cloud Run asks for a caller's role before a request arrives.
        environment: its variables; None for what comes from a secret.
    """

    name: str
    urls: tuple[str, ...]
    timeout: timedelta
    concurrency: int
    max_instances: int | None
    cpu_always: bool
    ingress: str
    invoker_checked: bool
    environment: Mapping[str, str | None] = field(default_factory=dict, repr=False)

    @property
    def id(self) -> str:
        """The last part of the name."""
        return self.name.rpartition("/")[2]

    @property
    def flags(self) -> str:
        """What names it to gcloud."""
        _, project, _, location, _, service = self.name.split("/")
        return f"{service} --region {location} --project {project}"


class CloudRun:
    """Services, read. `base` is the API's address with its version."""

    def __init__(self, client: GoogleClient, base: str) -> None:
        self._client = client
        self._base = base

    async def get(self, name: str) -> Service:
        """The service with this full name. Raises GoogleMissing."""
        return service_of(await self._client.request("GET", self._url(name), retries=PATIENCE))

    async def find(self, parent: str, url: str) -> Service | None:
        """The service of a region, `projects/{project}/locations/{location}`, that answers at this address."""
        listed = await every_page(self._client, f"{self._url(parent)}/services", "services", PAGE, PATIENCE)
        return next((one for body in listed if url in (one := service_of(body)).urls), None)

    async def invokers(self, name: str) -> frozenset[str]:
        """Who has the invoker's role on the service itself, without a condition."""
        policy = await self._client.request(
            "GET",
            f"{self._url(name)}:getIamPolicy",
            params={"options.requestedPolicyVersion": "3"},
            retries=PATIENCE,
        )
        bindings = [one for one in policy.get("bindings", []) if not one.get("condition")]
        return frozenset(
            member for one in bindings if one.get("role") == INVOKER for member in one.get("members", [])
        )

    def _url(self, name: str) -> str:
        return f"{self._base}/{quote(name, safe='/:')}"


class _Variable(msgspec.Struct, rename="camel"):
    name: str
    value: str = ""
    value_source: Any = None


class _Resources(msgspec.Struct, rename="camel"):
    cpu_idle: bool = False


class _Container(msgspec.Struct, rename="camel"):
    env: list[_Variable] = []
    ports: list[Any] = []
    resources: _Resources | None = None


class _Scaling(msgspec.Struct, rename="camel"):
    max_instance_count: int = 0


class _Template(msgspec.Struct, rename="camel"):
    containers: list[_Container] = []
    scaling: _Scaling = msgspec.field(default_factory=_Scaling)
    timeout: str = ""
    max_instance_request_concurrency: int = 0


class _Service(msgspec.Struct, rename="camel"):
    name: str
    uri: str = ""
    urls: list[str] = []
    ingress: str = ""
    invoker_iam_disabled: bool = False
    template: _Template = msgspec.field(default_factory=_Template)
    scaling: _Scaling = msgspec.field(default_factory=_Scaling)


def service_of(body: Any) -> Service:
    """A service as Cloud Run's REST API writes it.

    Raises:
        GoogleUnavailable: it is written in some other way.
    """
    try:
        found = msgspec.convert(body, _Service)
        timeout = timedelta(seconds=float(found.template.timeout.removesuffix("s") or 0)) or TIMEOUT
    except ValueError as error:
        raise GoogleUnavailable(
            f"Cloud Run describes a service in a way that is not known: {error}"
        ) from error
    # Of several containers the one with a port receives the requests.
    containers = found.template.containers
    container = next((one for one in containers if one.ports), containers[0] if containers else _Container())
    limits = [one.max_instance_count for one in (found.template.scaling, found.scaling)]
    return Service(
        name=found.name,
        urls=tuple(dict.fromkeys(url for url in (*found.urls, found.uri) if url)),
        timeout=timeout,
        concurrency=found.template.max_instance_request_concurrency or CONCURRENCY,
        max_instances=min((limit for limit in limits if limit), default=None),
        # Left out of a container that says nothing of its resources, it is on; else what is left out is off.
        cpu_always=container.resources is not None and not container.resources.cpu_idle,
        ingress=found.ingress,
        invoker_checked=not found.invoker_iam_disabled,
        environment={one.name: one.value if one.value_source is None else None for one in container.env},
    )
