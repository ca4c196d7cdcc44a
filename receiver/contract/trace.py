"""The trace context of a request. Next: the log lines of its delivery, and what its task enqueues, continue it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from receiver.text import TRACEPARENT

_CLOUD_TRACE: Final = re.compile(rb"([0-9a-fA-F]{32})/([0-9]{1,19})(?:;o=([01]))?")


def traceparent(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The W3C trace of the request, from `traceparent` or from Google's `X-Cloud-Trace-Context: TRACE/SPAN;o=1`."""
    for name, value in headers:
        if name == b"traceparent" and TRACEPARENT.fullmatch(given := value.decode("latin-1")):
            return given
        if name == b"x-cloud-trace-context" and (match := _CLOUD_TRACE.fullmatch(value)):
            trace, span, sampled = match.groups()
            return f"00-{trace.decode().lower()}-{int(span):016x}-0{(sampled or b'0').decode()}"
    return None
