"""Policies with their etags, and a project's number."""

from __future__ import annotations

import base64
import re
from typing import Any

from tests.google_fake.discovery import Call, Refused

MEMBER = re.compile(
    r"(user|group|serviceAccount|deleted:serviceAccount):[^@\s]+@[^@\s]+|allUsers|allAuthenticatedUsers"
)
ROLE = re.compile(r"(projects/[^/]+/|organizations/[^/]+/)?roles/[A-Za-z0-9_.]+")


class Policies:
    """The policy of every resource, by full name; one that nobody has set is empty."""

    def __init__(self) -> None:
        self._bindings: dict[str, list[dict[str, Any]]] = {}
        self._versions: dict[str, int] = {}

    def bindings(self, resource: str) -> list[dict[str, Any]]:
        """The bindings as they are now."""
        return self._bindings.get(resource, [])

    def write(self, resource: str, bindings: list[dict[str, Any]]) -> None:
        """Another writer's work: the etag changes."""
        self._bindings[resource] = bindings
        self._versions[resource] = self._versions.get(resource, 0) + 1

    def answer(self, call: Call) -> dict[str, Any]:
        resource = call.name
        conditional = any("condition" in binding for binding in self.bindings(resource))
        if call.method.endswith("getIamPolicy"):
            version = int(call.query.get("options.requestedPolicyVersion", "1"))
            shown = [one for one in self.bindings(resource) if version >= 3 or "condition" not in one]
            policy: dict[str, Any] = {"etag": self._etag(resource), "version": 3 if conditional else 1}
            return policy | ({"bindings": shown} if shown else {})
        policy = dict(call.body.get("policy", {}))
        if policy.get("etag", self._etag(resource)) != self._etag(resource):
            raise Refused(
                409,
                "ABORTED",
                "There were concurrent policy changes. Please retry the whole read-modify-write.",
            )
        if (conditional or any("condition" in one for one in policy.get("bindings", []))) and policy.get(
            "version"
        ) != 3:
            raise Refused(400, "INVALID_ARGUMENT", "A policy with conditions has version 3.")
        for binding in policy.get("bindings", []):
            if not ROLE.fullmatch(binding.get("role", "")):
                raise Refused(
                    400, "INVALID_ARGUMENT", f"Role {binding.get('role')} is not supported for this resource."
                )
            for member in binding.get("members", []):
                if not MEMBER.fullmatch(member):
                    raise Refused(400, "INVALID_ARGUMENT", f"The member {member} is of an unknown type.")
        self.write(resource, policy.get("bindings", []))
        return {**policy, "etag": self._etag(resource)}

    def _etag(self, resource: str) -> str:
        return base64.b64encode(f"v{self._versions.get(resource, 0)}".encode()).decode()
