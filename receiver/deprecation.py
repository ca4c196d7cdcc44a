"""Names that are going: each works for two more minor versions, and says what to use instead (docs/operate/promises.md)."""

from __future__ import annotations

import warnings


def deprecated(former: str, instead: str, *, since: tuple[int, int]) -> None:
    """Warns of a public name that is going, in whoever called the function with this line, or imported its module.

    Args:
        former: the name, as `receiver.registry`.
        instead: what to do, as `import Registry from receiver.testing`.
        since: the first version that warns, as `(0, 1)`. The name goes with the second minor version after it.

    Example:
        >>> deprecated("receiver.registry", "import Registry from receiver.testing", since=(0, 1))
    """
    major, minor = since
    warnings.warn(
        f"{former} is deprecated since {major}.{minor} and goes with {major}.{minor + 2}: {instead}",
        DeprecationWarning,
        stacklevel=3,
    )
