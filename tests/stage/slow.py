"""Tables of which `make test` plays a part, and `make test-all` everything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest


def some_quick(
    names: str | tuple[str, ...],
    values: Iterable[Any],
    *,
    quick: int = 1,
    ids: Sequence[str] | None = None,
) -> pytest.MarkDecorator:
    """`parametrize` whose first `quick` values run in `make test`; the others show the same once more, and are slow."""
    several = not isinstance(names, str)
    return pytest.mark.parametrize(
        names,
        [
            value
            if number < quick
            else pytest.param(*(value if several else [value]), marks=pytest.mark.slow)
            for number, value in enumerate(values)
        ],
        ids=ids,
    )
