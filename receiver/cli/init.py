"""`receiver init`: an empty folder becomes a project that runs. Nothing that is there is overwritten."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from receiver.cli import terminal
from receiver.init import source
from receiver.init.names import package_name
from receiver.init.sketch import Sketch
from receiver.init.template import rendered


@click.command("init")
@click.argument("folder", default=".", type=click.Path(path_type=Path))
@click.option("--name", metavar="NAME", help="The package.  [default: the folder's name]")
@click.option(
    "--fastapi/--no-fastapi", default=None, help="A FastAPI application that enqueues.  [default: no]"
)
@click.option(
    "--workflow", type=click.Choice(["github", "none"]), help="What tests and deploys.  [default: none]"
)
@click.option(
    "--receiver-from",
    metavar="WHERE",
    help="index, an address such as git+https://..., or a wheel.  [default: as this one was installed]",
)
@click.option("--yes", is_flag=True, help="Ask nothing.")
def command(
    *,
    folder: Path,
    name: str | None,
    fastapi: bool | None,
    workflow: str | None,
    receiver_from: str | None,
    yes: bool,
) -> None:
    """Make FOLDER a project that runs: tasks, tests, image, deployment. Files that are there stay as they are.

    Exit code 0: all of it is there. 1: some files were there, and differ; they are named. 2: nothing was written.
    """
    asks = sys.stdin.isatty() and not yes
    where = source.installed() if receiver_from is None else source.given(receiver_from)
    name = name or folder.resolve().name
    name = package_name(click.prompt("Name of the package", name) if asks else name, folder)
    if fastapi is None:
        fastapi = asks and click.confirm("A FastAPI application that enqueues?")
    if workflow is None:
        workflow = "github" if asks and click.confirm("Deploy from GitHub Actions?") else "none"
    features = frozenset(["fastapi"] * fastapi + ["github"] * (workflow == "github"))
    sketch = Sketch.of(folder, rendered(name, features, where))
    sketch.write()
    _tell(sketch, where.note)
    sys.exit(1 if sketch.kept else 0)


def _tell(sketch: Sketch, note: str | None) -> None:
    place = shlex.quote(terminal.line(str(sketch.folder)))
    count = len(sketch.new)
    click.echo(f"{count} file{'' if count == 1 else 's'} written into {place}{':' if count else ''}")
    width = max((len(file.path) for file in sketch.new), default=0)
    for file in sketch.new:
        click.echo(f"  {file.path:{width}}  {file.about}".rstrip())
    if sketch.kept:
        click.echo(f"\nKept as you have them: {', '.join(sketch.kept)}")
        click.echo("To see what init would have written, run it on an empty folder with the same --name.")
    if note:
        click.echo(f"\nnote: {terminal.line(note)}", err=True)
    click.echo("\nNext, in this Python environment or a new one:")
    click.echo(f"  cd {place} && pip install -e '.[dev]'" if place != "." else "  pip install -e '.[dev]'")
    click.echo("  receiver dev")
