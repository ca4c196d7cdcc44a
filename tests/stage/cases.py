"""Tables whose cases are one test: of hundreds that cost a microsecond each, pytest would take milliseconds for each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def case(*named: object) -> Iterator[None]:
    """A failure inside says which case it was."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"in the case {', '.join(map(repr, named))}")
        raise
