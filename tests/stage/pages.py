"""Pages of the documentation, read: their fenced blocks, what is wrong with them, and which test runs each page.

`tests/acceptance/docs/test_snippets.py` plays every page of docs/ (`tests.stage.page_run` says how). A block is one of these:

| Fence | What it is |
|---|---|
| ```python title="shop_tasks.py"``` | a file (also toml, yaml, dockerfile, ini, json, sql, html with a title) |
| ```sh``` | commands of the reader's one shell, in order |
| ```sh title="first terminal"``` | a command that goes on, such as `receiver dev`; it is awaited until it says "receiving pushes" |
| ```bash``` | commands against Google's cloud: the page stands in `CLOUD`, or has a test of its own |
| ```sql``` | a query of the record of the `receiver dev` that runs, or of an empty record |
| ```text title="first terminal"``` | what the first terminal shows next; it is awaited |
| ```text``` | below sh, sql or a first terminal: what is shown there. Elsewhere a form or a drawing |

Each line of a text block below a command must be the beginning of a line of its output, in order. `…` stands for anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
DOCS: Final = ROOT / "docs"
BLOCK: Final = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILES: Final = {"python", "toml", "yaml", "dockerfile", "ini", "json", "sql", "html"}
FIRST: Final = "first terminal"

OWN_TESTS: Final = {
    "reference/commands.md": "unit/docs/test_commands.py::test_a_command_has_an_example_that_it_accepts",
    **dict.fromkeys(
        [
            "start/1-run.md",
            "start/2-write.md",
            "start/3-transaction.md",
            "start/4-schedule.md",
            "start/5-deploy.md",
        ],
        "acceptance/docs/test_tutorial.py::test_five_steps_lead_from_an_empty_folder_to_a_doctor_who_finds_nothing",
    ),
    "operate/provisioning.md": "acceptance/docs/test_provisioning.py::test_the_page_on_provisioning_works",
} | {
    f"operate/{page}.md": f"acceptance/docs/{test}"
    for test, pages in {
        "test_deploy.py::test_the_page_leads_from_nothing_to_a_service_that_is_well": (
            "alerts commands database deploy health heavy logs password pipeline refused web"
        ),
        "test_operate.py::test_what_a_page_says_works_at_night": (
            "backlog copies crashes dead-letters failed full index outage rejected restore retention roles security silent "
            "start stop stuck sweeper undo"
        ),
    }.items()
    for page in pages.split()
}
"""Pages that a test of their own runs, because it does more than this one, or has other parts: page → test."""

CLOUD: Final[tuple[str, ...]] = ("howto/uploads.md", "howto/publish.md")
"""Pages whose `bash` blocks `acceptance/docs/test_deploy.py` runs, in this order, after those of operate/."""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page."""

    language: str
    extra: str
    code: str
    line: int

    @property
    def title(self) -> str | None:
        """What follows `title=`."""
        found = re.search(r'title="([^"]+)"', self.extra)
        return found[1] if found else None


def read(text: str) -> list[Block]:
    """The blocks of a page, in order."""
    return [
        Block(found[1], found[2].strip(), found[3], text[: found.start()].count("\n") + 1)
        for found in BLOCK.finditer(text)
    ]


def faults(text: str, page: str) -> list[str]:
    """What is wrong with the blocks of a page, a line each, before anything is run."""
    return [f"{page}:{block.line}: {why}" for block in read(text) if (why := fault(block, page))]


def fault(block: Block, page: str) -> str | None:
    """What is wrong with a block."""
    if block.language == "text":
        return None
    if block.language == "bash":
        return (
            None
            if page in CLOUD or page in OWN_TESTS
            else "bash, but the page is not in CLOUD (tests/stage/pages.py)"
        )
    if block.language == "sh":
        return (
            None if block.title in {None, FIRST} or page in OWN_TESTS else f"an unknown title: {block.title}"
        )
    if block.language not in FILES:
        return f"an unknown language: {block.language or 'none'}"
    if block.title is None and block.language != "sql":
        return f"{block.language} without a title"
    return None


def blocks(text: str, language: str) -> list[tuple[str, str]]:
    """The fenced blocks of one language: what stands behind its name, and the code."""
    return [(block.extra, block.code) for block in read(text) if block.language == language]


def commands(text: str, title: str) -> str:
    """The commands of all shell blocks with this title."""
    return "\n".join(
        block.code for block in read(text) if block.language in {"sh", "bash"} and block.title == title
    )


def written(text: str, folder: Path) -> list[str]:
    """Writes the page's Python modules into the folder; their names."""
    names = []
    for block in read(text):
        if block.language == "python":
            assert block.title is not None
            (folder / block.title).write_text(block.code)
            names.append(block.title)
    return names


def missing(expected: str, output: str) -> list[str]:
    """The lines of a text block that do not begin a line of the output, in order."""
    return remaining(expected, output.splitlines())[0]


def remaining(expected: str, lines: list[str]) -> tuple[list[str], int]:
    """The same, and how many lines were looked at until all was found."""
    numbered = enumerate(lines, 1)
    lacking, at = list[str](), 0
    for line in filter(str.strip, expected.splitlines()):
        at = next((number for number, found in numbered if re.match(pattern(line), found)), 0)
        if not at:
            lacking.append(line)
    return lacking, at


def pattern(line: str) -> str:
    """`…` stands for anything; spaces in a row are like one, because columns are as wide as what is in them."""
    parts = [
        r"\s+".join(re.escape(word) for word in re.split(r"\s+", part)) for part in line.rstrip().split("…")
    ]
    return ".*".join(parts)
