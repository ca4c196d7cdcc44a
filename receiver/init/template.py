"""The files of a new project, rendered from `templates/`: a project that runs, called `project_name`.

What stands there between the lines `# [feature]` and `# [/feature]` is only for projects with that feature.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from receiver.init.source import VENDOR, Source

_PART: Final = re.compile(r"^ *# \[(\w+)\]\n(.*?)^ *# \[/\1\]\n", re.MULTILINE | re.DOTALL)

_FILES: Final = {
    "project_name/tasks.py": "three tasks: a plain one, one with a transaction, one with a schedule",
    "project_name/__init__.py": "",
    "project_name/py.typed": "",
    "tests/test_project_name.py": "what Pub/Sub does to the tasks, on good and on bad days",
    "pyproject.toml": "what the project needs, and where its tasks are",
    "receiver.env": "the settings in the cloud",
    "Dockerfile": "the image, with your own dependencies",
    ".dockerignore": "",
    "deploy/setup.sh": "once: accounts, database, secret",
    "deploy/deploy.sh": "each time: image, migrate, provision, deploy, doctor",
    "README.md": "",
    ".gitignore": "",
}
"""Each file with what it is for; "" speaks for itself."""

_MORE: Final = {
    "fastapi": {
        "project_name/database.py": "",
        "project_name/web.py": "a FastAPI application that enqueues in its own transactions",
        "tests/test_web.py": "a request enqueues",
    },
    "github": {".github/workflows/deploy.yml": "tests, then deploy/deploy.sh, without a key"},
}


@dataclass(frozen=True, slots=True)
class ProjectFile:
    """One file: its path in the project, its content, and what it is for."""

    path: str
    content: bytes
    about: str


def rendered(name: str, features: frozenset[str], source: Source) -> list[ProjectFile]:
    """All files of the project whose package is `name`; `features` are `fastapi` and `github`."""
    words = {
        "RECEIVER[local]": source.requirement("[local]"),
        "RECEIVER": source.requirement(),
        "project_name": name,
        "project-name": name.replace("_", "-"),
    }
    parts = features | {"git"} if "git+" in source.suffix else features

    def written(text: str) -> str:
        text = _PART.sub(lambda part: part[2] if part[1] in parts else "", text)
        for word, replacement in words.items():
            text = text.replace(word, replacement)
        return text

    chosen = _FILES | {path: about for more in sorted(features) for path, about in _MORE[more].items()}
    folder = files("receiver.init") / "templates"
    made = [
        ProjectFile(written(path), written((folder / path).read_text("utf-8")).encode(), about)
        for path, about in chosen.items()
    ]
    if source.wheel is not None:
        made.append(ProjectFile(f"{VENDOR}/{source.wheel.name}", source.wheel.read_bytes(), "the receiver"))
    return made
