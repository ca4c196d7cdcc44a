"""Names that are going: each works for two more minor versions, and says what to use instead (docs/operate/promises.md)."""

from __future__ import annotations

import warnings


def deprecated(former: str, instead: str, *, since: tuple[int, int], stacklevel: int = 2) -> None:
    """Warns the caller of a public name that is going.

    Args:
        former: the name, as `receiver.registry`.
        instead: what to do, as `import Registry from receiver.testing`.
        since: the first version that warns, as `(0, 1)`. The name goes with the second minor version after it.
        stacklevel: 2 names the code that called the function with this line, or imported its module.

    Example:
        >>> deprecated("receiver.registry", "import Registry from receiver.testing", since=(0, 1))
    """
    major, minor = since
    warnings.warn(
        f"{former} is deprecated since {major}.{minor} and goes with {major}.{minor + 2}: {instead}",
        DeprecationWarning,
        stacklevel=stacklevel + 1,
    )
