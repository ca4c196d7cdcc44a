"""Hides sensitive arguments (`TaskRoute(redact=...)`) from whoever looks: every face shows an execution or a message by this.

The declarations are the plugins'. Invariant: what cannot be judged is hidden. An execution of a task that no plugin here declares
has its arguments hidden. A damaged message is hidden while any task here has sensitive ones, and so is one with too many values to
be decoded. A rejected message of an unknown task is shown, because that it is no task's is the finding.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import msgspec

from receiver.contract.counting import MAX_VALUES, measure
from receiver.contract.envelope import open_arguments
from receiver.errors import Rejected
from receiver.tasks.shape import HIDDEN

if TYPE_CHECKING:
    from receiver.reading.queries import Execution
    from receiver.tasks.registry import Registry
    from receiver.tasks.route import TaskRoute

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
    if measure(body)[0] > MAX_VALUES:
        return _unjudged(body, registry)
    try:
        envelope = _members(body)
        pushed = _members(envelope["message"])
        data = msgspec.json.decode(pushed["data"], type=bytes)  # from base64
    except (ValueError, KeyError, RecursionError):
        return _unjudged(body, registry)
    hidden = _data(data, task_name, registry)
    if hidden is data:
        return body
    return msgspec.json.encode(envelope | {"message": pushed | {"data": hidden}})


def _unjudged(text: bytes, registry: Registry | None) -> bytes:
    """Shown only when no task has sensitive arguments."""
    is_open = registry is not None and not any(route.redact for route in registry.routes)
    return text if is_open else HIDDEN.encode()


def _members(text: bytes | msgspec.Raw) -> dict[str, msgspec.Raw]:
    """The members of a JSON object, undecoded: as values they may take all memory."""
    return msgspec.json.decode(text, type=dict[str, msgspec.Raw])


def _data(data: bytes, task_name: str | None, registry: Registry | None) -> bytes:
    if measure(data)[0] > MAX_VALUES:
        return _unjudged(data, registry)
    try:
        payload = _members(data)
    except (ValueError, RecursionError):
        payload = {}
    try:
        name = msgspec.json.decode(payload["task_name"], type=str) if "task_name" in payload else task_name
    except (ValueError, RecursionError):
        name = None
    if name is None:  # damaged, or no message of ours: nobody can say whose it is
        return _unjudged(data, registry)
    route = registry.find(name) if registry is not None else None
    if registry is not None and (route is None or not route.redact):
        return data
    if "task_name" not in payload:  # another topic's, or damaged: nobody can say what is what
        return HIDDEN.encode()
    shown = (UNKNOWN, UNKNOWN) if route is None else _shown(payload, route)
    return msgspec.json.encode(payload | dict(zip(("args", "kwargs"), shown, strict=True)))


def _shown(payload: dict[str, msgspec.Raw], route: TaskRoute) -> tuple[Any, Any]:
    try:
        given = open_arguments(bytes(payload.get("args", b"[]")), bytes(payload.get("kwargs", b"{}")))
    except Rejected:
        return HIDDEN, HIDDEN
    return route.shown(*given)
