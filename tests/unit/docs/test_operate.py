"""The pages on operating name lines of the log and findings of the doctor as the reference has them, which its tests compare with the code."""

from __future__ import annotations

import re

from tests.unit.docs.site import ROOT

DOCS = ROOT / "docs"


def section(page: str, heading: str) -> str:
    """A page from this heading to the next."""
    (found,) = re.findall(
        rf"^## {heading}$(.*?)(?=^## |\Z)", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL
    )
    return str(found)


def test_the_lines_of_the_log_that_lead_to_a_page_are_written() -> None:
    said = re.findall(r"`([^`]+)`", section("operate/index.md", "The log"))
    reference = (DOCS / "reference" / "log.md").read_text()
    assert [line for line in said if f"| `{line}" not in reference] == []
    assert len(said) > 12


def test_the_engine_of_an_application_is_that_of_a_new_project() -> None:
    template = (ROOT / "receiver" / "init" / "templates" / "project_name" / "database.py").read_text()
    (shown,) = re.findall(
        r"^def engine.*?(?=^```)", (DOCS / "operate" / "web.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert template.endswith(shown)


def test_the_findings_that_a_page_names_are_found() -> None:
    """What looks like a code on a line about the doctor, or in the list of what to look for."""
    known = set(
        re.findall(r"^\| `([a-z-]+)` \|", (DOCS / "reference" / "findings.md").read_text(), re.MULTILINE)
    )
    pages = {path.name: path.read_text() for path in (DOCS / "operate").glob("*.md")}
    wrong = [
        (name, code)
        for name, text in pages.items()
        for line in re.findall(r"[^.]*\bdoctor\b[^.]*", text)
        for code in re.findall(r"`([a-z]+(?:-[a-z]+)+)`", line)
        if code not in known and not code.startswith(("receiver-", "shop-"))
    ]
    assert wrong == []
    assert {"push-auth-off", "public-topic"} <= known & set(re.findall(r"`([a-z-]+)`", pages["security.md"]))
