"""docs/reference/commands.md has every command, argument and option as click knows them, and examples that the commands accept."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import click
import pytest

from receiver.cli import receiver
from tests.stage.pages import DOCS, blocks

PAGE = (DOCS / "reference" / "commands.md").read_text()
SECTIONS = dict(re.findall(r"^## (receiver[^\n]*)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """Each command that does something, with what is typed for it."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, f"{path} {name}")
    else:
        yield path, command


COMMANDS = dict(commands(receiver, "receiver"))


def row(command: click.Command, parameter: click.Parameter) -> str:
    """The line of the table for an argument or an option."""
    if isinstance(parameter, click.Argument):
        return f"| `{parameter.make_metavar(click.Context(command))}` |"
    assert isinstance(parameter, click.Option)
    said, _, rest = (parameter.help or "").partition("  [default: ")
    default = rest.removesuffix("]") or (
        f"`{parameter.default}`" if isinstance(parameter.default, int | float | str) else ""
    )
    names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
    if not parameter.is_flag and not isinstance(parameter.type, click.Choice):
        names = names[:-1] + f" {parameter.metavar or parameter.type.name.partition(' ')[0].upper()}`"
    if isinstance(parameter.type, click.Choice):
        said += f" One of {', '.join(f'`{each}`' for each in parameter.type.choices)}."
    return f"| {names} | {said} | {default.replace('|', '')} |"


def test_every_command_is_on_the_page_and_no_other() -> None:
    assert list(SECTIONS) == list(COMMANDS)


@pytest.mark.parametrize("path", COMMANDS)
def test_a_command_is_described_as_it_describes_itself(path: str) -> None:
    command, section = COMMANDS[path], SECTIONS[path]
    plain = re.sub(r"\s+", " ", section)
    assert command.help is not None
    for paragraph in re.split(r"\n\s*\n", command.help.strip()):
        assert " ".join(paragraph.split()) in plain
    shown = re.findall(r"^\| (?!Argument|---).*\|$", section, re.MULTILINE)
    hidden = [each for each in command.params if getattr(each, "hidden", False)]
    wanted = [row(command, each) for each in command.params if each not in hidden]
    assert [line[: len(want)] for line, want in zip(shown, wanted, strict=True)] == wanted


@pytest.mark.parametrize("path", COMMANDS)
def test_a_command_has_an_example_that_it_accepts(path: str) -> None:
    """They are parsed, not run; other pages run commands like these."""
    examples = [line for _, code in blocks(SECTIONS[path], "sh") for line in code.splitlines()]
    assert examples
    for example in examples:
        assert example.startswith(f"{path}"), example
        arguments = shlex.split(example)[len(path.split()) :]
        with COMMANDS[path].make_context(path, arguments):
            pass
