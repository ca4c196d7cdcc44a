"""Hides sensitive arguments (`TaskRoute(redact=...)`) from whoever looks: every face shows an execution or a message by this.

The declarations are the plugins'. Invariant: what cannot be judged is hidden. An execution of a task that no plugin here declares
has its arguments hidden, and so is a damaged message while any task here has sensitive ones. A rejected message of an unknown task
is shown, because that it is no task's is the finding.
"""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import msgspec

from receiver.tasks.shape import HIDDEN

if TYPE_CHECKING:
    from receiver.reading.queries import Execution
    from receiver.tasks.registry import Registry

UNKNOWN: Final = "[hidden: no plugin here declares this task]"


def execution(found: Execution, registry: Registry | None) -> Execution:
    """The execution as people may see it. None: the plugins are not known."""
    # By its path, which may be an alias: another module's task may have the same name.
    route = None if registry is None else registry.find(found.task_path)
    args, kwargs = (UNKNOWN, UNKNOWN) if route is None else route.shown(found.args, found.kwargs)
    return replace(found, args=args, kwargs=kwargs)


def message(body: bytes, task_name: str | None, registry: Registry | None) -> bytes:
    """A pushed body as people may see it. None: the plugins are not known.

    Args:
        task_name: what the record knows of it; a foreign message does not say.
    """
    try:
        envelope = msgspec.json.decode(body, type=dict[str, Any])
        data = base64.b64decode(envelope["message"]["data"], validate=True)
    except (ValueError, KeyError, TypeError, RecursionError):
        return body if _is_open(registry) else HIDDEN.encode()
    hidden = _data(data, task_name, registry)
    if hidden is data:
        return body
    envelope["message"]["data"] = base64.b64encode(hidden).decode()
    return msgspec.json.encode(envelope)


def _is_open(registry: Registry | None) -> bool:
    """Whether no task has sensitive arguments."""
    return registry is not None and not any(route.redact for route in registry.routes)


def _data(data: bytes, task_name: str | None, registry: Registry | None) -> bytes:
    try:
        payload = msgspec.json.decode(data, type=dict[str, Any])
    except (ValueError, RecursionError):
        payload = {}
    name = payload.get("task_name", task_name)
    if not isinstance(name, str):  # damaged, or no message of ours: nobody can say whose it is
        return data if _is_open(registry) else HIDDEN.encode()
    route = registry.find(name) if registry is not None else None
    if registry is not None and (route is None or not route.redact):
        return data
    if "task_name" not in payload:  # another topic's, or damaged: nobody can say what is what
        return HIDDEN.encode()
    args, kwargs = payload.get("args", []), payload.get("kwargs", {})
    shown = (UNKNOWN, UNKNOWN) if route is None else route.shown(args, kwargs)
    return msgspec.json.encode(payload | dict(zip(("args", "kwargs"), shown, strict=True)))
