"""Plays pages as a reader follows them: an empty folder, one shell, everything in the order in which it stands there.

A file is written into the folder that the shell is in when the page comes to it; the same title again on
that page is appended. At the end
pytest runs there if the pages have a `test_*.py` and did not run it themselves. `receiver`, `python` and `pytest` are those of this
suite. Installing is left to `acceptance/docs/test_wheel.py`: `pip install` does nothing here, but that `pip install -e .` makes the
project's packages and entry points known; `python -m venv` makes an `activate` that changes nothing.

The default ports of `receiver dev`, and every port that a command names (`--port 8010`, `127.0.0.1:8010`), are free ones here.
`postgresql://localhost/anything` is an empty database. The tests of a page use a database that is there already, unless its own
conftest.py has another one. Where pytest is run for the pages, `TASKS_MODULES` names their modules with a list `tasks`; a page that
runs pytest itself says so itself, or has installed its project.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from receiver.local_postgres.server import free_port
from tests.stage.commands import ROOT, clean_environ
from tests.stage.pages import FIRST, Block, missing, read

NAMED: Final = re.compile(r"(--port[ =]|127\.0\.0\.1:|localhost:)(\d{4,5})\b")
"""A port that a page names."""

PATIENCE: Final = 170
"""Seconds for a page."""

PRELUDE: Final = r"""
set -m
stopped() {
    for job in $(jobs -p); do kill -INT -- "-$job" 2>/dev/null; done
    wait
}
trap stopped EXIT
shown() { printf '\n\036%s\n' "$1"; }
terminal() {
    mkdir -p .receiver
    [ -f .receiver/dev.json ] || printf '%s' "$DEV_PORTS" > .receiver/dev.json
    (set +m; trap - EXIT; exec sh -c "exec env $(cat "$1")") > "$1.log" 2>&1 &
    until grep -q 'receiving pushes' "$1.log"; do
        kill -0 $! 2>/dev/null && [ $SECONDS -lt 60 ] || { cat "$1.log"; echo 'the first terminal does not receive pushes'; exit 1; }
        sleep 0.05
    done
}
set -e
"""
PYTHON: Final = """#!/bin/sh
if [ "$1" = -m ] && [ "$2" = venv ]; then
    mkdir -p "$3/bin" && : > "$3/bin/activate"
elif [ "$1" = -m ] && [ "$2" = pip ]; then
    shift 2; exec pip "$@"
else
    exec {python} "$@"
fi
"""
PIP: Final = '''#!{python}
"""`pip install -e .` makes a project known, in the folder that PYTHONPATH begins with. Everything else is there already."""
import pathlib, sys, tomllib

arguments = sys.argv[1:]
assert arguments[:1] == ["install"], arguments
site = pathlib.Path({site!r})
if "-e" in arguments:
    where = pathlib.Path(arguments[arguments.index("-e") + 1].partition("[")[0]).resolve()
    project = tomllib.loads((where / "pyproject.toml").read_text())["project"]
    noted = site / f"{{project['name']}}-{{project['version']}}.dist-info"
    noted.mkdir(parents=True, exist_ok=True)
    (noted / "METADATA").write_text(f"Metadata-Version: 2.1\\nName: {{project['name']}}\\nVersion: {{project['version']}}\\n")
    groups = project.get("entry-points", {{}})
    lines = [f"[{{group}}]\\n" + "".join(f"{{name}} = {{value}}\\n" for name, value in points.items()) for group, points in groups.items()]
    (noted / "entry_points.txt").write_text("".join(lines))
    for package in where.glob("*/__init__.py"):
        link = site / package.parent.name
        link.exists() or link.symlink_to(package.parent)
'''
QUERY: Final = '''#!{python}
"""A query, its rows printed as psql prints them, on the record of the `receiver dev` of this folder, or on an empty one."""
import os, pathlib, re, shlex, sys, psycopg

url = os.environ["PAGE_DATABASE_URL"]
kept = pathlib.Path(".receiver/env")
if kept.exists():
    (url,) = re.findall(r"^(?:export )?DATABASE_URL=(.*)$", kept.read_text(), re.M)
with psycopg.connect(shlex.split(url)[0], autocommit=True) as connection:
    cursor = connection.execute(pathlib.Path(sys.argv[1]).read_text())
    if cursor.description is not None:
        rows = cursor.fetchall()
        print("", " | ".join(column.name for column in cursor.description))
        for row in rows:
            print("", " | ".join("" if value is None else {{True: "t", False: "f"}}.get(value, str(value)) if isinstance(value, bool) else str(value) for value in row))
        print(f"({{len(rows)}} row{{'' if len(rows) == 1 else 's'}})")
'''
AWAIT: Final = '''#!{python}
"""Waits until the first terminal has shown what a page says; what it has shown before that is looked at once only."""
import pathlib, sys, time
from tests.stage.pages import remaining

log, part, end = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).read_text(), time.monotonic() + 60
seen = log.with_suffix(".seen")
skip = int(seen.read_text()) if seen.exists() else 0
while (found := remaining(part, log.read_text().splitlines()[skip:]))[0]:
    if time.monotonic() > end:
        sys.exit(f"not shown in the first terminal: {{found[0]}}")
    time.sleep(0.05)
seen.write_text(str(skip + found[1]))
'''
CONFTEST: Final = """
import os
import pytest

@pytest.fixture(scope="session")
def receiver_database_url():
    return os.environ["PAGE_DATABASE_URL"]
"""


def play(texts: Iterable[str], place: Path, *, record: str, empty: str, patience: float = PATIENCE) -> str:
    """Follows the pages, and compares what is shown with what they say; all that was shown.

    Args:
        texts: the pages' Markdown, in order.
        place: an empty folder that PostgreSQL's account may enter.
        record: the address of a migrated, empty database.
        empty: that of a database without tables.
        patience: seconds for all of it.
    """
    ports = Ports()
    parts, folder = place / "parts", place / "reader"
    parts.mkdir()
    folder.mkdir()
    pages = [read(ports.replaced(text, empty)) for text in texts]
    found = [block for page in pages for block in page]
    script = "\n".join(
        [PRELUDE, *(line for at, block in enumerate(found) for line in step(block, at, parts, pages))]
    )
    if any(is_test(block) for block in found) and not any(
        "pytest" in block.code for block in found if block.language == "sh"
    ):
        script += f"\nstopped\nshown {len(found)}\n{modules_of(found)}pytest -q\n"
    output = place / "shown"
    environ = programs(place) | {
        "PAGE_DATABASE_URL": record,
        "DEV_PORTS": json.dumps(ports.of_dev),
        "HOME": str(folder),
    }
    with output.open("wb") as log:
        shell = subprocess.Popen(
            ["bash", "-c", script],
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            code = shell.wait(patience)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if shell.poll() is None:
                end(shell)
    said = output.read_text(errors="replace")
    assert code == 0, f"exit code {code}:\n{said}{logs(parts)}"
    compare(found, said, parts)
    return said


def step(block: Block, at: int, parts: Path, pages: list[list[Block]]) -> Iterable[str]:
    """The lines of the script for a block; `shown N` marks where its output begins."""
    part = parts / str(at)
    part.write_text(block.code)
    if block.language == "sh" and block.title == FIRST:
        yield f"terminal {part}; log={part}.log"
    elif block.language == "text" and block.title == FIRST:
        yield f"page-await $log {part}"
    elif block.language == "sh":
        yield f"shown {at}\n{block.code}"
    elif block.language == "sql" and block.title is None:
        yield f"shown {at}\npage-query {part}"
    elif block.title is not None and block.language not in {"bash", "text"}:
        [page] = [page for page in pages if any(each is block for each in page)]
        again = next(each for each in page if each.title == block.title) is not block
        yield f"mkdir -p '{Path(block.title).parent}'"
        yield f"printf '\\n' >> '{block.title}'" if again else ":"
        yield f"cat {part} {'>>' if again else '>'} '{block.title}'"


def is_test(block: Block) -> bool:
    """Whether the block is a file that pytest collects."""
    return block.language == "python" and Path(block.title or "").name.startswith("test_")


def modules_of(found: list[Block]) -> str:
    """What a reader writes before `pytest`, who has not installed the pages' modules; nothing where no page has tasks."""
    names = [
        Path(block.title).stem
        for block in found
        if block.language == "python" and block.title and "/" not in block.title
        if re.search(r"^tasks\b", block.code, re.MULTILINE)
    ]
    return f"TASKS_MODULES=${{TASKS_MODULES-{','.join(dict.fromkeys(names))}}} " if names else ""


def compare(found: list[Block], said: str, parts: Path) -> None:
    """Every text block below a command is what the command shows."""
    pieces = {
        int(number): text for number, text in re.findall(r"\x1e(\d+)\n(.*?)(?=\n\x1e|\Z)", said, re.DOTALL)
    }
    for at, block in enumerate(found):
        above = at - 1
        if block.language != "text" or above < 0 or found[above].language not in {"sh", "sql"}:
            continue
        if block.title == FIRST:
            continue
        log = parts / f"{above}.log"
        shown = log.read_text() if log.exists() else pieces.get(above, "")
        lacking = missing(block.code, shown)
        assert not lacking, f"line {block.line}: not shown: {lacking}\nshown:\n{shown}"


def logs(parts: Path) -> str:
    """What the first terminals said."""
    return "".join(
        f"\n--- first terminal:\n{log.read_text(errors='replace')}" for log in sorted(parts.glob("*.log"))
    )


def end(shell: subprocess.Popen[bytes]) -> None:
    """Ctrl-C to what hangs, and at last the end of all of the shell's session."""
    shell.send_signal(signal.SIGTERM)
    try:
        shell.wait(15)
    except subprocess.TimeoutExpired:
        subprocess.run(["pkill", "-KILL", "-s", str(shell.pid)], check=False)
        shell.wait()


class Ports:
    """The ports of a page, each replaced by a free one."""

    def __init__(self) -> None:
        self.of_dev = {name: free_port() for name in ("receiver", "pubsub", "postgres")}
        self._free = dict(zip(("8080", "8085", "5433"), self.of_dev.values(), strict=True))

    def replaced(self, text: str, empty: str) -> str:
        """The page with free ports, and with an empty database on localhost."""
        for _, port in NAMED.findall(text):
            self._free.setdefault(port, free_port())
        text = NAMED.sub(lambda found: found[1] + str(self._free[found[2]]), text)
        return re.sub(r"postgresql://localhost/\w+", empty, text)


def programs(place: Path) -> dict[str, str]:
    """An environment in which `receiver`, `python`, `pytest` and `pip` are this suite's."""
    site = place / "installed"
    site.mkdir()
    (place / "conftest.py").write_text(CONFTEST)
    known = any(point.value == "receiver.testing" for point in entry_points(group="pytest11"))
    options = ["" if known else "-p receiver.testing", f"--confcutdir={place}", f"--rootdir={place}"]
    options += ["-o asyncio_default_fixture_loop_scope=function"]
    options += [f"-p no:{name}" for name in ("cacheprovider", "randomly", "timeout", "xdist")]
    made = place / "bin"
    made.mkdir()
    for name, code in {
        "receiver": f'#!/bin/sh\nexec {sys.executable} -P -m receiver "$@"\n',
        "python": PYTHON.format(python=sys.executable),
        "python3": PYTHON.format(python=sys.executable),
        "pytest": f'#!/bin/sh\nexec {sys.executable} -m pytest {" ".join(options)} "$@"\n',
        "uvicorn": f'#!/bin/sh\nexec {sys.executable} -m uvicorn "$@"\n',
        "pip": PIP.format(python=sys.executable, site=str(site)),
        "page-await": AWAIT.format(python=sys.executable),
        "page-query": QUERY.format(python=sys.executable),
    }.items():
        (made / name).write_text(code)
        (made / name).chmod(0o755)
    environ = clean_environ()
    return environ | {
        "PYTHONPATH": f"{site}:{ROOT}",
        "PATH": f"{made}:{os.environ['PATH']}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "COLUMNS": "200",
    }
