"""Requests held against Google's own discovery documents: method, path, query, and every field of the body."""

from __future__ import annotations

import base64
import binascii
import functools
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class Refused(Exception):
    """An answer that is an error, in Google's words."""

    def __init__(self, code: int, status: str, message: str) -> None:
        self.code = code
        self.status = status
        self.message = message
        super().__init__(message)


class Undescribed(Refused):
    """What no document describes: a fault of the sender, whatever becomes of the answer."""

    def __init__(self, message: str) -> None:
        super().__init__(400, "INVALID_ARGUMENT", f"Invalid JSON payload received. {message}")


@dataclass(frozen=True)
class Call:
    """A request as a document describes it. `name` is the full name in its path: a resource, or the parent of a list."""

    method: str
    name: str
    query: Mapping[str, str]
    body: Mapping[str, Any]


@functools.cache
def document(api: str) -> Any:
    """A discovery document, such as `pubsub.v1`."""
    spec = importlib.util.find_spec("googleapiclient")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "discovery_cache" / "documents"
    return json.loads((folder / f"{api}.json").read_text())


def described(api: str, verb: str, path: str, query: Mapping[str, str], body: bytes) -> Call:
    """The request as the API's document describes it.

    Raises:
        Undescribed: no method has this path, or a parameter or field is unknown, read-only or of another type.
    """
    found = document(api)
    for method, pattern in _methods(api):
        match = pattern.fullmatch(path)
        if method["httpMethod"] != verb or match is None:
            continue
        _check_query(found, method, query)
        decoded = _decoded(body)
        if "request" in method:
            _check(found, method["request"], decoded, "body")
            _check_masks(found, method, query, decoded)
        elif decoded:
            raise Undescribed(f"{method['id']} takes no body")
        return Call(method["id"], match[1], query, decoded)
    raise Undescribed(f"{api} has no {verb} {path}")


def check_answer(api: str, schema: str, value: Any) -> None:
    """Holds a resource that a stand-in answers with against its schema.

    Raises:
        Undescribed: Google would not answer like that.
    """
    found = document(api)
    _check_message(found, found["schemas"][schema], value, schema, answered=True)


@functools.cache
def _methods(api: str) -> list[tuple[Any, re.Pattern[str]]]:
    """Every method with one path parameter, and its path; those that end in a verb first.

    `topics/{id}` takes `topics/x:publish` as well.
    """
    made = []
    for method in _walked(document(api)):
        parameters = [one for one in method["parameters"].values() if one["location"] == "path"]
        if len(parameters) == 1 and "pattern" in parameters[0]:
            head, _, tail = method["path"].partition("{")
            inner = parameters[0]["pattern"].removeprefix("^").removesuffix("[^/]+$") + "[^/:]+"
            suffix = tail.partition("}")[2]
            made.append((method, re.compile(f"/{re.escape(head)}({inner}){re.escape(suffix)}")))
    return sorted(made, key=lambda one: ":" not in one[0]["path"])


def _walked(found: Any) -> Iterator[Any]:
    for resource in found.get("resources", {}).values():
        yield from resource.get("methods", {}).values()
        yield from _walked(resource)


def _check_query(found: Any, method: Any, query: Mapping[str, str]) -> None:
    for name, value in query.items():
        parameter = method["parameters"].get(name) or found["parameters"].get(name)
        if parameter is None or parameter.get("location") != "query":
            raise Undescribed(f'Unknown name "{name}": Cannot bind query parameter.')
        if parameter["type"] == "integer" and not re.fullmatch(r"-?\d{1,9}", value):
            raise Undescribed(f"Invalid value at '{name}': {value!r}")


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        decoded = json.loads(body or b"{}")
    except ValueError as error:
        raise Undescribed(str(error)) from None
    if not isinstance(decoded, dict):
        raise Undescribed("Root element must be a message.")
    return decoded


def _check(found: Any, schema: Any, value: Any, where: str, *, answered: bool = False) -> None:
    """One value against its schema."""
    if "$ref" in schema:
        _check_message(found, found["schemas"][schema["$ref"]], value, where, answered=answered)
        return
    kind: type[Any] = {"string": str, "integer": int, "boolean": bool, "array": list, "object": dict}[
        schema["type"]
    ]
    if type(value) is not kind:  # a bool is no int
        raise Undescribed(f"Invalid value at '{where}' ({schema['type']}), {value!r}")
    if kind is str:
        _check_text(schema, value, where)
    elif kind is int and not -(2**31) <= value < 2**31:
        raise Undescribed(f"Invalid value at '{where}' ({schema.get('format')}), {value!r}")
    elif kind is list:
        for number, item in enumerate(value):
            _check(found, schema["items"], item, f"{where}[{number}]", answered=answered)
    elif kind is dict:
        for key, item in value.items():
            _check(found, schema["additionalProperties"], item, f"{where}.{key}", answered=answered)


def _check_message(found: Any, message: Any, value: Any, where: str, *, answered: bool = False) -> None:
    """A message that is sent, or one that is answered, which may have what is output only."""
    if not isinstance(value, dict):
        raise Undescribed(f"Invalid value at '{where}' ({message['id']}), {value!r}")
    for name, item in value.items():
        field = message.get("properties", {}).get(name)
        if field is None:
            raise Undescribed(f"Unknown name \"{name}\" at '{where}': Cannot find field.")
        if field.get("readOnly") and not answered:
            raise Undescribed(f"'{where}.{name}' is output only")
        _check(found, field, item, f"{where}.{name}", answered=answered)


def _check_text(schema: Any, value: Any, where: str) -> None:
    if "enum" in schema and value not in schema["enum"]:
        raise Undescribed(f"Invalid value at '{where}', {value!r}")
    form = schema.get("format")
    if form == "google-duration" and not re.fullmatch(r"-?\d{1,12}(\.\d{1,9})?s", value):
        raise Undescribed(f"Invalid value at '{where}' (google.protobuf.Duration), {value!r}")
    if form == "byte":
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise Undescribed(f"Invalid value at '{where}' (TYPE_BYTES), Base64 decoding failed") from None


def _check_masks(found: Any, method: Any, query: Mapping[str, str], body: Mapping[str, Any]) -> None:
    """Update masks, in the query or beside the resource in the body, name fields that the resource has."""
    request = found["schemas"][method["request"]["$ref"]]
    if "updateMask" in query:
        _check_mask(found, request, query["updateMask"])
    for name, field in request.get("properties", {}).items():
        if field.get("format") == "google-fieldmask" and name in body:
            (resource,) = (one["$ref"] for one in request["properties"].values() if "$ref" in one)
            _check_mask(found, found["schemas"][resource], body[name])


def _check_mask(found: Any, resource: Any, mask: str) -> None:
    for path in mask.split(","):
        message: Any = resource
        for name in path.split("."):
            field = message.get("properties", {}).get(name) if message else None
            if field is None:
                raise Undescribed(f"Invalid update_mask: {path!r} is no field of {resource['id']}")
            if field.get("readOnly"):
                raise Undescribed(f"Invalid update_mask: {path!r} is output only")
            message = found["schemas"][field["$ref"]] if "$ref" in field else None
