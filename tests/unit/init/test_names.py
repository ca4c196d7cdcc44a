from __future__ import annotations

from pathlib import Path

import pytest

from receiver.errors import ConfigurationError
from receiver.init.names import LONGEST, package_name


@pytest.mark.parametrize(
    ("text", "name"),
    [("shop", "shop"), ("my-shop", "my_shop"), ("a2_b", "a2_b"), ("x" * LONGEST, "x" * LONGEST)],
)
def test_a_folder_names_its_package(text: str, name: str, tmp_path: Path) -> None:
    assert package_name(text, tmp_path) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "Shop",
        "a.b",
        "2go",
        "my shop",
        "shop-",
        "a--b",
        "_shop",
        "läden",
        "class",
        "../up",
        "x" * (LONGEST + 1),
    ],
)
def test_what_is_no_name_for_accounts_and_a_package_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is no name for a package; choose one with --name"):
        package_name(text, tmp_path)


@pytest.mark.parametrize("name", ["receiver", "test", "json", "sys", "click"])
def test_a_name_that_would_hide_an_installed_module_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=f"the package {name} would hide the installed module {name}"
    ):
        package_name(name, tmp_path)


@pytest.mark.parametrize("name", ["tests", "deploy", "vendor"])
def test_the_names_of_the_projects_other_folders_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is another folder of the project"):
        package_name(name, tmp_path)


def test_a_project_that_is_there_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run again, where the project is installed."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert package_name("shop", tmp_path) == "shop"
    with pytest.raises(ConfigurationError, match="would hide"):
        package_name("shop", tmp_path / "elsewhere")
