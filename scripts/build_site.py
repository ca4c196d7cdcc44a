"""Builds the site into build/site, strictly, and puts beside each page its Markdown, for programs. `make docs` calls it.

`start/run.html` has `start/run.md` beside it, so that the links in it lead to other pages' Markdown. `llms.txt` lists the pages by
section, each with a line on what it says; `llms-full.txt` is all of them in one file. On API pages, what mkdocstrings would render
(`::: receiver.task`) is written out: signatures and docstrings.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
DOCS: Final = ROOT / "docs"
FENCED: Final = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def project() -> dict[str, Any]:
    """zensical.toml."""
    found: dict[str, Any] = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
    return found


def pages(nav: list[Any], sections: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Each page of the navigation, with the names of the sections that it is in, the outermost first."""
    for entry in nav:
        if isinstance(entry, str):
            yield sections, entry
            continue
        for title, below in entry.items():
            if isinstance(below, str):
                yield sections, below
            else:
                yield from pages(below, (*sections, title))


def astray(nav: list[Any], docs: Path = DOCS) -> list[str]:
    """What is wrong between the navigation and the folder, a line each. Zensical says nothing of it."""
    listed = [page for _, page in pages(nav)]
    there = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    return [
        *(f"docs/{page} is not in the nav of zensical.toml" for page in sorted(there - set(listed))),
        *(
            f"docs/{page} is in the nav of zensical.toml, and does not exist"
            for page in listed
            if page not in there
        ),
        *(
            f"docs/{page} is in the nav of zensical.toml twice"
            for page in sorted(there)
            if listed.count(page) > 1
        ),
    ]


def foreign(html: str) -> list[str]:
    """What a page would load from another host."""
    loads = re.findall(
        r"<(?:script|img|iframe|source)\b[^>]*>|<link\b[^>]*\brel=[\"']?(?:stylesheet|preconnect|icon)[^>]*>",
        html,
    )
    return [tag for tag in loads if re.search(r"(?:src|href|srcset)=[\"']?(?:https?:)?//", tag)]


def title(text: str) -> str:
    """What a page calls itself in its first line."""
    return text.partition("\n")[0].removeprefix("# ")


def summary(text: str) -> str:
    """The first sentence of a page, without Markdown's links."""
    for paragraph in re.split(r"\n{2,}", FENCED.sub("", text)):
        if re.match(r"[\w`*\[]", paragraph) and not paragraph.startswith("[!["):
            plain = re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", " ".join(paragraph.split()))
            return re.split(r"(?<=\.)\s", plain)[0]
    return ""


def named(path: str) -> Any:
    """The object with this dotted path.

    Raises:
        AttributeError: there is none.
    """
    module, names = path, list[str]()
    while True:
        try:
            found = importlib.import_module(module)
            break
        except ModuleNotFoundError:
            module, _, name = module.rpartition(".")
            if not module:
                raise AttributeError(f"nothing is called {path}") from None
            names.insert(0, name)
    for name in names:
        found = getattr(found, name)
    return found


def described(path: str, level: int) -> Iterator[str]:
    """An object's signature and docstring as Markdown, and below it those of its public members."""
    thing = named(path)
    try:
        signature = str(inspect.signature(thing))
    except (TypeError, ValueError):
        signature = ""
    yield f"{'#' * level} `{path}{signature}`"
    yield inspect.getdoc(thing) or ""
    if inspect.ismodule(thing):
        for name in getattr(thing, "__all__", ()):
            yield from described(f"{path}.{name}", level + 1)
    elif inspect.isclass(thing):
        for name, member in vars(thing).items():
            if (
                not name.startswith("_")
                and inspect.getdoc(member)
                and (callable(member) or isinstance(member, property))
            ):
                yield from described(f"{path}.{name}", level + 1)


def written_out(text: str) -> str:
    """A page's Markdown with the docstrings that it refers to."""

    def docstrings(found: re.Match[str]) -> str:
        return "\n\n".join(part for part in described(found[1], 2) if part) + "\n"

    return re.sub(r"^::: ([\w.]+)\n(?: .*\n|\n(?= ))*", docstrings, text, flags=re.MULTILINE)


def in_one_file(texts: dict[str, str]) -> str:
    """All pages, each after a line that says where it is."""
    return "\n".join(f"<!-- {name} -->\n\n{text}" for name, text in texts.items())


def listed(nav: list[Any], texts: dict[str, str]) -> str:
    """The pages as llms.txt shows them (llmstxt.org): by section, each with its first sentence."""
    lines = [f"# {project()['site_name']}", "", f"> {project()['site_description']}", ""]
    lines += ["All pages in one file: [llms-full.txt](llms-full.txt)", ""]
    before: tuple[str, ...] = ()
    for sections, page in pages(nav):
        if sections != before:
            lines += ["", f"## {': '.join(sections) or 'More'}", ""]
            before = sections
        lines.append(f"- [{title(texts[page])}]({page}): {summary(texts[page])}".removesuffix(": "))
    return "\n".join(lines) + "\n"


def write_for_programs(site: Path) -> None:
    """Writes the Markdown of each page, llms.txt and llms-full.txt."""
    nav = project()["nav"]
    texts = {page: written_out((DOCS / page).read_text()) for _, page in pages(nav)}
    for page, text in texts.items():
        (site / page).parent.mkdir(parents=True, exist_ok=True)
        (site / page).write_text(text)
    (site / "llms.txt").write_text(listed(nav, texts))
    (site / "llms-full.txt").write_text(in_one_file(texts))


def main() -> None:
    """Builds all of it, or ends with what is wrong."""
    if wrong := astray(project()["nav"]):
        sys.exit("\n".join([*wrong, "error: the site is not built; mend the above"]))
    done = subprocess.run(
        [Path(sys.executable).with_name("zensical"), "build", "--strict", "--clean"],
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        problems = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout).partition("Traceback (most recent")[0]
        sys.exit(f"{problems}error: the site is not built; mend the above")
    site = ROOT / project()["site_dir"]
    elsewhere = [
        f"{page}: {tag}" for page in sorted(site.rglob("*.html")) for tag in foreign(page.read_text())
    ]
    if elsewhere:
        sys.exit("\n".join([*elsewhere, "error: a page loads something from another host"]))
    write_for_programs(site)
    print(f"built: {site / 'index.html'}")


if __name__ == "__main__":
    main()
