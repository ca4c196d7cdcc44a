"""Where a new project gets the receiver from: an index, an address, or a wheel that is copied into the project."""

from __future__ import annotations

import importlib.metadata
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from receiver.errors import ConfigurationError

DISTRIBUTION: Final = "pubsub-task-receiver"
VENDOR: Final = "vendor"
"""The project's folder of wheels."""

_ADDRESS: Final = re.compile(r"(git\+https|git\+ssh|https)://[^\s\"'\\{}]+")


@dataclass(frozen=True, slots=True)
class Source:
    """The place.

    Attributes:
        suffix: what follows the distribution's name in a requirement: `>=0.1.0`, or `@` and an address.
        wheel: the file to copy into `VENDOR`.
        note: what the user should know.
    """

    suffix: str
    wheel: Path | None = None
    note: str | None = None

    def requirement(self, extras: str = "") -> str:
        """For pyproject.toml; `extras` is such as `[local]`."""
        return f"{DISTRIBUTION}{extras}{self.suffix}"


def given(text: str) -> Source:
    """What `--receiver-from` says: `index`, an address that pip understands, or the path of a wheel.

    Raises:
        ConfigurationError: it is none of these, or an address with a password, which would be committed.
    """
    if text == "index":
        return Source(f">={importlib.metadata.version(DISTRIBUTION)}")
    if _ADDRESS.fullmatch(text) and not re.search(r"://[^/@]*:[^/@]*@", text):
        return Source(f" @ {text}")
    wheel = Path(text)
    if re.fullmatch(r"pubsub_task_receiver-[\w.+-]+\.whl", wheel.name) and wheel.is_file():
        # {root:uri} is the project's folder to its build tool, Hatch.
        return Source(f" @ {{root:uri}}/{VENDOR}/{wheel.name}", wheel=wheel)
    raise ConfigurationError(
        "--receiver-from: use index, an address without a password such as git+https://host/repository@v0.1.0, or the path "
        "of a wheel, pubsub_task_receiver-....whl"
    )


def installed() -> Source:
    """The place from which this receiver was installed, as pip has noted it (PEP 610); an index when it has not."""
    noted = importlib.metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
    direct: dict[str, Any] = json.loads(noted) if noted else {"url": "index"}
    url: str = direct["url"]
    if version := direct.get("vcs_info"):
        url = f"{version['vcs']}+{url}@{version['commit_id']}"
    try:
        return given(unquote(url.removeprefix("file://")))
    except ConfigurationError:  # a folder, or a wheel that is gone
        note = f"this receiver came from {url}; the project asks your package index for {DISTRIBUTION}, or see --receiver-from"
        return Source(given("index").suffix, note=note)
