"""A deployed Cloud Run service, read from Google's REST resource.

Next: `receiver.doctor.service_rules` checks it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

import msgspec

from receiver.errors import GoogleUnavailable

DEFAULT_MAX_INSTANCES: Final = 100
"""Cloud Run's default."""

UNKNOWN_SERVICE: Final = "SERVICE --region REGION"
"""In commands, where it is not known which service it is."""


@dataclass(frozen=True, slots=True)
class CloudRunService:
    """A service.

    Attributes:
        name: full, `projects/{project}/locations/{location}/services/{service}`.
        urls: every address that it answers at.
        timeout: of a request.
        concurrency: requests at once on one instance.
        max_instances: None where Cloud Run's default holds.
        cpu_always: whether it has CPU outside requests (instance-based billing).
        ingress: Cloud Run's word, such as `INGRESS_TRAFFIC_INTERNAL_ONLY`.
        invoker_checked: whether Cloud Run asks for a caller's role before a request arrives.
        http2: whether it speaks HTTP/2 to the container (end-to-end HTTP/2), which the receiver does not understand.
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
    http2: bool = False
    environment: Mapping[str, str | None] = field(default_factory=dict, repr=False)

    @property
    def id(self) -> str:
        """The last part of the name."""
        return self.name.rpartition("/")[2]

    @property
    def flags(self) -> str:
        """The arguments that name it to gcloud."""
        _, project, _, location, _, service = self.name.split("/")
        return f"{service} --region {location} --project {project}"


class _Variable(msgspec.Struct, rename="camel"):
    name: str
    value: str = ""
    value_source: Any = None


class _Resources(msgspec.Struct, rename="camel"):
    cpu_idle: bool = False


class _Port(msgspec.Struct, rename="camel"):
    name: str = ""


class _Container(msgspec.Struct, rename="camel"):
    env: list[_Variable] = []
    ports: list[_Port] = []
    resources: _Resources | None = None


class _Scaling(msgspec.Struct, rename="camel"):
    max_instance_count: int = 0


class _Template(msgspec.Struct, rename="camel"):
    containers: list[_Container] = []
    scaling: _Scaling = msgspec.field(default_factory=_Scaling)
    # What is left out is Cloud Run's default.
    timeout: str = "300s"
    max_instance_request_concurrency: int = 80


class _Service(msgspec.Struct, rename="camel"):
    name: str
    uri: str = ""
    urls: list[str] = []
    ingress: str = ""
    invoker_iam_disabled: bool = False
    template: _Template = msgspec.field(default_factory=_Template)
    scaling: _Scaling = msgspec.field(default_factory=_Scaling)


def service_of(body: Any) -> CloudRunService:
    """The service in a REST resource.

    Raises:
        GoogleUnavailable: the resource is not written as Cloud Run writes it.
    """
    try:
        found = msgspec.convert(body, _Service)
        timeout = timedelta(seconds=float(found.template.timeout.removesuffix("s")))
    except ValueError as error:
        raise GoogleUnavailable(
            f"Cloud Run describes a service in a way that is not known: {error}"
        ) from error
    # Of several containers the one with a port receives the requests.
    containers = found.template.containers
    container = next((one for one in containers if one.ports), containers[0] if containers else _Container())
    limits = [one.max_instance_count for one in (found.template.scaling, found.scaling)]
    return CloudRunService(
        name=found.name,
        urls=tuple(dict.fromkeys(url for url in (*found.urls, found.uri) if url)),
        timeout=timeout,
        concurrency=found.template.max_instance_request_concurrency,
        max_instances=min((limit for limit in limits if limit), default=None),
        # Without `resources`, cpuIdle defaults to true. With `resources`, a missing cpuIdle is false.
        cpu_always=container.resources is not None and not container.resources.cpu_idle,
        ingress=found.ingress,
        invoker_checked=not found.invoker_iam_disabled,
        http2=any(port.name == "h2c" for port in container.ports),
        environment={one.name: one.value if one.value_source is None else None for one in container.env},
    )
